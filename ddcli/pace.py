"""What a run needs, as measured on a few of its steps: time, and memory."""

import sys
from dataclasses import dataclass, field, replace

import torch

from .config import Config

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

LOOK = 10  # steps before a deadline within which a plan stays as it is


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

    def before(self, config: Config) -> float:
        """What happens before the first step."""
        return self.draw * config.validation.draws

    def after(self, config: Config) -> float:
        """What happens after the last."""
        return self.draw * config.validation.final_draws + self.sampling


@dataclass
class Deadline:
    """When the last step of a run of minutes is to be done, and how many steps fit in until then.

    That is asked again whenever half of the steps, or of the time, that were left are gone; so the answer
    comes before the learning rate falls, and what it is wrong by halves each time.
    """

    pace: Pace
    at: float  # by the monotonic clock, as all times here
    timed: int = 0  # steps since the last answer, and the seconds that they took
    seconds: float = 0.0
    half: tuple[int, float] = field(init=False)  # a step, and a time, when to ask again

    def fitting(self, step: int, now: float, config: Config) -> int:
        """How many more steps fit in, at the pace of those since this was last asked; 1 at least."""
        if self.timed:
            self.pace = replace(self.pace, step=self.seconds / self.timed)
        self.timed, self.seconds = 0, 0.0
        each = self.pace.each(config)
        fitting = max(1, int((self.at - now) / each))
        ahead = max(LOOK, fitting // 2)
        self.half = step + ahead, now + ahead * each
        return fitting

    def add(self, seconds: float) -> None:
        """A step more, and what it took."""
        self.timed, self.seconds = self.timed + 1, self.seconds + seconds

    def asks(self, step: int, now: float) -> bool:
        return step >= self.half[0] or now >= self.half[1]


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
