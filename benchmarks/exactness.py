"""Measure every identity the package claims, and print how far each is from holding, as a markdown table.

python benchmarks/exactness.py                        # to the terminal; fails where one is out of tolerance
python benchmarks/exactness.py --write docs/theory.md # also between the markers of that file
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from identities import IDENTITIES, Identity, address, measure  # noqa: E402

BEGIN, END = "<!-- exactness: written by benchmarks/exactness.py -->\n", "<!-- /exactness -->"
HEAD = """\
| identity | where | held by | largest error | tolerance |
|---|---|---|---|---|
"""


def table() -> str:
    """Links lead from docs/."""
    return HEAD + "".join(map(row, IDENTITIES.values()))


def row(identity: Identity) -> str:
    where = ", ".join(f"[`{name}`](../{path})" for path, name in map(address, identity.where))
    test = f"[`{identity.name}`](../tests/identities.py)"
    error = measure(identity.name).error
    return f"| {identity.statement} | {where} | {test} | {error:.0e} | {identity.tolerance:.0e} |\n"


def between_markers(text: str) -> str:
    return text.partition(BEGIN)[2].partition(END)[0]


def written(text: str, found: str, first: str = BEGIN, last: str = END) -> str:
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"there is no place for the table: {first.strip()} ... {last}")
    return before + begin + found + end + after


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its markers there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = table()
    print(found, end="")
    if arguments.write:
        arguments.write.write_text(written(arguments.write.read_text(), found))
    wrong = [name for name, identity in IDENTITIES.items() if not measure(name).error <= identity.tolerance]
    if wrong:
        raise SystemExit("out of tolerance: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
