"""Try what each family of models can do, on a tiny one with random weights, and print a markdown table.

python benchmarks/families.py                        # to the terminal
python benchmarks/families.py --write docs/models.md # also between the markers of that file
python benchmarks/families.py --only llama,own       # families whose names have one of these in them
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import borrowed  # noqa: E402
import ddit_reference  # noqa: E402
from exactness import written  # noqa: E402
from test_ddit import TOKENIZERS, gpt2_like  # noqa: E402
from tiny import start_config, tiny_config, words  # noqa: E402

import ddcli  # noqa: E402
from ddcli.errors import DdcliError  # noqa: E402
from ddcli.training import train  # noqa: E402

BEGIN, END = "<!-- families: written by benchmarks/families.py -->\n", "<!-- /families -->"
BRIEF = {"train__steps": 1, "validation__every": 0, "checkpoint__every": 1}
OWN: dict[str, dict[str, Any]] = {
    "absorbing": {},
    "uniform": {"process__name": "uniform"},
    "hybrid": {"process__name": "hybrid:0.1"},
    "band": {"process__name": "band:1"},
    "blocks": {"model__block": 8},
    "autoregressive": {"process__name": "autoregressive"},
}
USES: dict[str, Callable[[Path], object]] = {
    "infill": lambda model: ddcli.infill(model, "the [MASK:2] sat", seed=1, steps=2),
    "sample": lambda model: ddcli.sample(model, seed=1, steps=2),
    "eval": lambda model: ddcli.load(model).score("the cat sat on a mat"),
    "`--guidance`": lambda model: ddcli.sample(model, seed=1, steps=2, prompt="the", guidance=2.0),
    "`--cache prefix`": lambda model: ddcli.sample(model, seed=1, steps=2, block=4, cache="prefix"),
}
STARTS: dict[str, dict[str, Any]] = {
    "`train --from`": {},
    "`--lora`": {"model__lora": "r=2"},
    "`train.anneal`": {"train__anneal": 1},
}


def works(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except DdcliError as error:
        print(f"  no: {error}", file=sys.stderr)
        return "no"
    return "yes"


def row(name: str, folder: Path, data: Path, *, starts_first: bool, told: str = "") -> str:
    """What a model in a folder can do; of decoders, once they are trained to."""
    print(name, file=sys.stderr)
    runs = folder.parent / f"{folder.name}-runs"

    def start(key: str) -> object:
        return train(start_config(folder, data, **BRIEF, **STARTS[key]), runs / key)

    begun = [works(partial(start, key)) for key in STARTS]
    model = runs / "`train --from`" if starts_first else folder
    used = [works(partial(use, model)) for use in USES.values()]
    return f"| {name}{told} | {' | '.join(used + begun)} |\n"


def rows(wanted: Callable[[str], bool], place: Path) -> list[str]:
    data, found = place / "words.txt", []
    data.write_text(words(100))
    for name, settings in OWN.items():
        if wanted(title := f"ddcli's own: {name}"):
            run = train(tiny_config(data, **BRIEF, **settings), place / f"own-{name}")
            found.append(row(title, run, data, starts_first=False))
    for kind in borrowed.FAMILIES | borrowed.DECODERS:
        if wanted(kind) and kind not in borrowed.CAUSAL:
            folder, is_decoder = borrowed.save(kind, place / kind), kind in borrowed.DECODERS
            note = " (trained `--from`)" if is_decoder else ""
            found.append(row(kind, folder, data, starts_first=is_decoder, told=note))
    for kind in ddit_reference.ORIGINALS:
        if wanted(kind):
            ddit_reference.save(kind, place / kind, TOKENIZERS.get(kind, gpt2_like)())
            found.append(row(kind, place / kind, data, starts_first=False))
    for kind, save in borrowed.WRITERS.items():
        if wanted(kind):
            found.append(row(kind, save(place / kind), data, starts_first=False))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its markers there")
    parser.add_argument("--only", default="", metavar="NAMES", help="families, by parts of their names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = arguments.only.split(",")
    with TemporaryDirectory() as place:
        found = rows(lambda name: any(part in name for part in parts), Path(place))
    columns = ["model", *USES, *STARTS]
    table = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n{''.join(found)}"
    print(table, end="")
    if arguments.write:
        arguments.write.write_text(written(arguments.write.read_text(), table, BEGIN, END))


if __name__ == "__main__":
    main()
