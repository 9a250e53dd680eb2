"""Which module may know which: each imports only from lower floors."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ddcli

PACKAGE = Path(ddcli.__file__).parent

FLOORS = {
    "errors": 0,
    "ahead": 0,
    "machine": 0.1,
    "annealing": 1,
    "lora": 0.5,
    "files": 0.1,
    "cache": 0.2,
    "randomness": 0,
    "world": 1,
    "hub": 1,
    "device": 1,
    "compiled": 1.1,
    "stopping": 1,
    "watch": 1,
    "tensors": 1,
    "schedule": 1,
    "process.base": 2,
    "process.interpolating": 2.1,
    "process.matrix": 2.2,
    "process.autoregressive": 2.2,
    "process": 2.3,
    "objective": 3,
    "sampler.base": 3,
    "sampler.ancestral": 3.1,
    "sampler.ordered": 3.1,
    "sampler.revising": 3.1,
    "sampler": 3.2,
    "weights": 0,
    "backbones.network": 2.9,
    "backbones": 3,
    "backbones.tiles": 2.9,
    "backbones.transformer": 3,
    "backbones.automodel": 3.1,
    "backbones.ends": 3,
    "backbones.adapters": 3.05,
    "backbones.pretrained": 3.1,
    "backbones.decoder": 3.2,
    "backbones.ddit": 3.1,
    "denoiser": 4,
    "shaping": 4.1,
    "config": 4,
    "runlog": 4.1,
    "tokenizer": 4,
    "spelling": 4.1,
    "sources": 4,
    "infilling.document": 4,
    "infilling.parsing": 4.1,
    "infilling.layout": 4.1,
    "infilling": 4.2,
    "about": 5,
    "guidance": 5,
    "optimizer": 5,
    "likelihood": 5,
    "data": 6,
    "dataset": 7,
    "generate": 6,
    "model": 7,
    "evaluation": 7.1,
    "heldout": 7.1,
    "replay": 7.2,
    "lengths": 7.5,
    "sampling": 8,
    "filling": 8,
    "textmodel": 8.5,
    "modelcard": 8,
    "generative": 8.1,
    "frontier": 8.2,
    "foreign.source": 8.6,
    "foreign.reading": 8.6,
    "foreign.pretrained": 8.7,
    "foreign.masked": 8.75,
    "foreign.decoders": 8.75,
    "foreign.researched": 8.7,
    "foreign.families": 8.75,
    "foreign.ddit": 8.8,
    "foreign.diffusion_gemma": 8.8,
    "foreign": 8.6,
    "foreign.openers": 8.9,
    "adapted": 8.95,
    "checkpoint": 9,
    "saved": 9.05,
    "start": 9.1,
    "trace.lines": 8,
    "trace.recording": 8.1,
    "trace.reading": 8.2,
    "trace.writing": 8.2,
    "trace": 8.3,
    "viz.parts": 9,
    "viz.transition": 9,
    "viz.matrices": 9.1,
    "viz.measures": 9.1,
    "viz.paths": 9.2,
    "viz.story": 9.3,
    "viz.layout": 9.1,
    "viz.packing": 9.1,
    "viz.sheet": 9,
    "viz.page": 9.2,
    "viz.markup": 9,
    "viz.charts": 9.1,
    "viz.runpage": 9.2,
    "viz.terminal": 9.2,
    "viz.paper": 9.1,
    "viz.curves": 9.2,
    "viz.heat": 9.2,
    "viz.panels": 9.2,
    "viz.twin": 9.2,
    "viz.writing": 9.2,
    "viz.figure": 9.3,
    "viz.film": 9.3,
    "viz": 9.4,
    "viz.tradeoff": 9.4,
    "step": 9,
    "pace": 9,
    "plan": 9.5,
    "tracking": 9.6,
    "training": 10,
    "report": 10,
    "display": 11,
    "live": 11,
    "plots": 0,
    "steady": 0,
    "doctor": 11,
    "api": 11,
    "": 12,  # the package itself
    "cli.completion": 12.9,
    "cli.options": 13,
    "cli.answers": 13,
    "cli.difference": 13,
    "cli.gaps": 13.05,
    "cli.batch": 13.07,
    "cli.train": 13.1,
    "cli.evaluate": 13.1,
    "cli.sample": 13.1,
    "cli.infill": 13.1,
    "cli.noise_viz": 13.1,
    "cli.recipes": 13.1,
    "cli.report": 13.1,
    "cli.doctor": 13.1,
    "cli": 13.2,
    "__main__": 14,
}


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str, source: str, is_package: bool) -> Iterator[str]:
    """The modules of this package that a module imports, wherever in its text: '' is the package itself."""
    home = name.split(".") if name else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            whole = [alias.name.split(".") for alias in node.names]
            yield from (".".join(parts[1:]) for parts in whole if parts[0] == "ddcli")
        if isinstance(node, ast.ImportFrom):
            written = node.module.split(".") if node.module else []
            if node.level:
                depth = len(home) + is_package - node.level
                start = [*home[:depth], *written]
            elif written[0] == "ddcli":
                start = written[1:]
            else:
                continue
            for alias in node.names:  # `from . import api` means the module, `from . import __version__` not
                inner = ".".join([*start, alias.name])
                yield inner if inner in MODULES else ".".join(start)


def test_every_module_has_a_floor_and_every_floor_a_module():
    assert MODULES.keys() == FLOORS.keys()


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "ddcli")
def test_a_module_imports_only_from_lower_floors(name):
    file = MODULES[name]
    known = set(imported(name, file.read_text(), file.name == "__init__.py"))
    too_high = {other: FLOORS[other] for other in known if FLOORS[other] >= FLOORS[name]}
    assert not too_high, f"{name or 'ddcli'} stands on floor {FLOORS[name]}"


@pytest.mark.parametrize(
    ("name", "is_package", "source", "found"),
    [
        ("cli", False, "from . import api, __version__", ["api", ""]),
        ("cli", False, "def f():\n    from .viz import show", ["viz"]),
        ("viz.story", False, "from ..errors import DdcliError", ["errors"]),
        ("viz", True, "from .story import Story\nfrom ..files import whole_file", ["viz.story", "files"]),
        ("infilling", False, "from ddcli.errors import DdcliError\nimport ddcli.data", ["errors", "data"]),
        ("data", False, "import numpy as np\nfrom torch import Tensor", []),
    ],
)
def test_the_walk_finds_imports_however_they_are_written(name, is_package, source, found):
    assert sorted(imported(name, source, is_package)) == sorted(found)


def test_no_module_bears_the_name_of_a_function_of_the_package():
    """Importing the submodule would hide the function."""
    assert not set(ddcli.__all__) & {name.split(".")[0] for name in MODULES}


@pytest.mark.parametrize("name", ddcli.__all__)
def test_everything_the_package_promises_is_there(name):
    assert getattr(ddcli, name).__doc__
    assert name in dir(ddcli)


def test_pictures_are_drawn_with_no_further_import(monkeypatch):
    monkeypatch.delattr(ddcli, "viz", raising=False)
    assert ddcli.viz.write.__doc__


def test_a_name_the_package_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ddcli.nonsense  # noqa: B018
