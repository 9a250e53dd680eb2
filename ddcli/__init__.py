"""ddcli: train, sample, infill and look at text diffusion models.

Every command has its twin here, loaded when it is first used, so that `import ddcli` costs nothing:

    import ddcli

    run = ddcli.train(ddcli.load_config("names", ["train.minutes=2"]), "runs/names")
    model = ddcli.load(run)
    print(model.sample(n=4)[0].text)
    print(model.infill("To be [MASK:5] the question")[0].text)
    print(ddcli.evaluate(run).bound.bits_per_char)
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import infill, load, noise_viz, sample
    from .backbones.automodel import DiffusionTransformer
    from .config import Config, load_config
    from .doctor import examine
    from .errors import DdcliError
    from .filling import Infilling
    from .generate import Frame
    from .plan import dry_run
    from .report import Evaluation, evaluate
    from .sampling import Sample, Writer
    from .saved import load_writer
    from .textmodel import TextModel
    from .training import train
    from .viz.runpage import write_report

if "transformers" in sys.modules:  # then its Auto classes are to know our network
    importlib.import_module(".backbones.automodel", __name__)

_HOMES = {
    "Config": "config",
    "DdcliError": "errors",
    "DiffusionTransformer": "backbones.automodel",
    "Evaluation": "report",
    "Frame": "generate",
    "Infilling": "filling",
    "Sample": "sampling",
    "TextModel": "textmodel",
    "Writer": "sampling",
    "dry_run": "plan",
    "examine": "doctor",
    "evaluate": "report",
    "infill": "api",
    "load": "api",
    "load_config": "config",
    "load_writer": "saved",
    "noise_viz": "api",
    "sample": "api",
    "train": "training",
    "write_report": "viz.runpage",
}

__all__ = [
    "Config",
    "DdcliError",
    "DiffusionTransformer",
    "Evaluation",
    "Frame",
    "Infilling",
    "Sample",
    "TextModel",
    "Writer",
    "dry_run",
    "evaluate",
    "examine",
    "infill",
    "load",
    "load_config",
    "load_writer",
    "noise_viz",
    "sample",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "viz":
        return importlib.import_module(".viz", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'ddcli' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
