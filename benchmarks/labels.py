"""How many samples of each label a classifier by character trigrams takes for texts of that label.

python benchmarks/labels.py runs/genres heldout.csv --label-column genre
"""

import argparse
import math
from collections import Counter

import ddcli
from ddcli.sources import read_corpus

Counts = dict[str, Counter[str]]


def trigrams(text: str) -> list[str]:
    padded = f"  {text}  "
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


def learnt(rows: list[tuple[str, str]]) -> Counts:
    """How often each label's texts have each trigram."""
    counts: Counts = {label: Counter() for _, label in rows}
    for text, label in rows:
        counts[label].update(trigrams(text))
    return counts


def label_of(text: str, counts: Counts) -> str:
    """The label under which a text is likeliest, all labels being as likely (naive Bayes)."""
    kinds = len(set().union(*counts.values()))

    def log_p(label: str) -> float:
        total = counts[label].total() + 0.5 * kinds
        return sum(math.log((counts[label][x] + 0.5) / total) for x in trigrams(text))

    return max(counts, key=log_p)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("heldout", help="rows that the model has not seen")
    parser.add_argument("--label-column", required=True)
    parser.add_argument("--guidance", type=float, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args()
    corpus = read_corpus(arguments.heldout, label_column=arguments.label_column)
    rows = [(str(text), label) for text, label in zip(corpus.documents, corpus.labels, strict=True)]
    counts = learnt(rows[::2])
    right = [label_of(text, counts) == label for text, label in rows[1::2]]
    print(f"the classifier knows {sum(right) / len(right):.3f} of {len(right):,} other held-out rows")
    model = ddcli.load(arguments.run)
    print(f"| guidance | {' | '.join(model.labels)} |\n|{'---|' * (1 + len(model.labels))}")
    for guidance in arguments.guidance:
        shares = []
        for label in model.labels:
            drawn = model.sample(
                arguments.samples, label=label, guidance=guidance, steps=arguments.steps, seed=1
            )
            shares.append(sum(label_of(one.text, counts) == label for one in drawn) / len(drawn))
        print(f"| {guidance:g} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
