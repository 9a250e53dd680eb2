"""What a run needs, as measured on a few of its steps: time, and memory."""

import sys
from dataclasses import dataclass

import torch

from .config import Config

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a run take, measured."""

    warming: float  # what the first steps took longer than others: compiling
    step: float
    draw: float  # one noising of the validation blocks
    sampling: float

    def each(self, config: Config) -> float:
        """A step, with its share of what happens between steps."""
        validation, samples = config.validation, config.samples
        between = self.draw * validation.draws / validation.every if validation.every else 0.0
        return self.step + between + (self.sampling / samples.every if samples.every else 0.0)

    def around(self, config: Config) -> float:
        """What happens before the first step and after the last."""
        validation = config.validation
        return self.draw * (validation.draws + validation.final_draws) + self.sampling


def peak_memory(device: torch.device) -> float | None:
    """Bytes: the most that this process has held so far, of the device's memory, or of the machine's own.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
