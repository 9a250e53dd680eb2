"""Print the bounds of several runs on one held-out text, and how far each is from the first, as Markdown.

All are asked about the same blocks, so a passage that is hard for all of them is in no difference's error.
Runs need one tokenizer.

python benchmarks/compare.py runs/absorbing runs/uniform --data held-out.txt
"""

import argparse
from pathlib import Path

import ddcli
from ddcli.evaluation import Estimates, measure
from ddcli.heldout import text_from


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", required=True, help="held-out text")
    parser.add_argument("--limit", type=int, default=512, help="of its blocks, evenly spread")
    parser.add_argument("--draws", type=int, default=16, help="noisings of each block")
    arguments = parser.parse_args()
    print("| run | bound, bits/char | nats/token | as papers report it, bits/char | above the first |")
    print("|---|---|---|---|---|")
    first: Estimates | None = None
    for run in arguments.runs:
        model = ddcli.load(run)
        blocks = text_from(model, arguments.data).blocks
        found = measure(model, blocks, sequences=arguments.limit, draws=arguments.draws)
        bound = found.bound()
        bits = bound.bits_per_char / bound.nats_per_token  # a nat per token, in these
        literature = bound.literature_nats_per_token * bits
        above = ""
        if first is None:
            first = found
        elif blocks.tokens.shape != first.blocks.tokens.shape or (blocks.tokens != first.blocks.tokens).any():
            raise SystemExit(f"{run} reads the text in other tokens than {arguments.runs[0]}")
        else:
            more, error = found.clusters().less(first.clusters())
            above = f"{more * bits:.3f} ± {error * bits:.3f}"
        print(
            f"| {run.name} | {bound.bits_per_char:.3f} ± {bound.stderr * bits:.3f} "
            f"| {bound.nats_per_token:.3f} | {literature:.3f} | {above} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
