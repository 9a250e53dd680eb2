"""Print how often a gap of unknown length is filled with what stood there, beside the best that can be.

No network in between: the belief is that of one who knows the source, a ring of letters (a to b to c ...) in
which, with some chance, any letter follows. Texts are drawn from it, each with a gap of 1 to `--longest`
letters, all as likely, and filled at temperature 0 with the length given and with the length chosen, as
`ddcli infill` does. The best is the likeliest of all fillings, of the length given or of all lengths, by
enumeration: no rule is right more often, in the mean. Shares with the standard error of Agresti and Coull.

python benchmarks/lengths.py
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # sources and oracle live there

import numpy as np
import torch
from chains import Oracle, Source, chain
from infilling import row, share

from ddcli.filling import infill
from ddcli.infilling import between
from ddcli.model import Model
from ddcli.process import make_process

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BEFORE, BEHIND = 4, 8  # letters that are shown on each side


def ring(letters: int, slips: float) -> Source:
    """Each letter is followed by the next one, or with the chance `slips` by any, itself included."""
    move = torch.eye(letters, dtype=torch.float64).roll(1, 1) * (1 - slips) + slips / letters
    return chain(move)


def knowing(source: Source) -> Model:
    """A model whose belief is exact."""
    vocabulary = source.vocabulary
    assert vocabulary.mask_id is not None
    pad = source.symbols
    tokenizer: Any = SimpleNamespace(
        mask_id=vocabulary.mask_id,
        pad_id=pad,
        bos_id=pad,
        eos_id=pad,
        special_ids=vocabulary.special_ids,
        spelling=None,
        seams=None,
        encode=lambda text: np.array([LETTERS.index(letter) for letter in text], np.int32),
        continuation=lambda before, ids, text=b"": written(ids),
    )
    process = make_process("absorbing", "linear", vocabulary)
    oracle: Any = Oracle(process, source)  # which knows no more than what a denoiser is asked here
    return Model(oracle, process, tokenizer, 32, torch.device("cpu"))


def written(ids: Sequence[int] | np.ndarray) -> bytes:
    return "".join(LETTERS[i] for i in ids).encode()


def best(source: Source, before: bytes, behind: bytes, longest: int) -> tuple[list[bytes], bytes]:
    """The likeliest filling of each length, and of them all."""
    ends = [LETTERS.index(chr(x)) for x in (before[-1], behind[0])]
    found = []
    for n in range(1, longest + 1):
        strings = torch.tensor(list(itertools.product(range(source.symbols), repeat=n)))
        first, last = (torch.full((len(strings), 1), end) for end in ends)
        log_p = source.log_prob(torch.cat([first, strings, last], 1))
        found.append((log_p.max().item(), written(strings[log_p.argmax()].tolist())))
    return [text for _, text in found], max(found)[1]


def measured(letters: int, slips: float, longest: int, count: int, seed: int) -> str:
    """A row of the table."""
    source = ring(letters, slips)
    model, texts = knowing(source), source.draw(count, BEFORE + longest + BEHIND, seed).tolist()
    hits = np.zeros(4, int)
    for number, ids in enumerate(texts):
        n = 1 + number % longest
        before, truth, behind = (
            written(part) for part in (ids[:BEFORE], ids[BEFORE : BEFORE + n], ids[BEFORE + n :][:BEHIND])
        )
        of_length, of_all = best(source, before, behind, longest)
        given, chosen = (
            infill(model, between(before, behind, lengths), temperature=0.0, sampler="confidence", seed=seed)[
                0
            ]
            .gaps[0]
            .content
            for lengths in (range(n, n + 1), range(1, longest + 1))
        )
        hits += [text == truth for text in (given, of_length[n - 1], chosen, of_all)]
    return row(f"{slips:g}", *(share(int(hit), count) for hit in hits))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--letters", type=int, default=6, help="on the ring (default: 6)")
    parser.add_argument("--longest", type=int, default=4, help="gap, letters (default: 4)")
    parser.add_argument("--slips", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.2])
    parser.add_argument("--count", type=int, default=80, help="gaps of each source (default: 80)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    head = ("slips", "exact, length given", "best possible", "exact, length chosen", "best possible")
    print(row(*head), row(*("---" for _ in head)), sep="\n")
    for slips in asked.slips:
        print(measured(asked.letters, slips, asked.longest, asked.count, asked.seed), flush=True)


if __name__ == "__main__":
    main()
