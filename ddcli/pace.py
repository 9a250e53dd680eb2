"""What a run needs, as measured on a few of its steps: time, and memory."""

import sys
from dataclasses import dataclass, field, replace

import torch

from .config import Config

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

AGAIN = 0.4  # share of what a plan has left, after which it is made again
FEW = 10  # steps, over fewer of which no pace is measured


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

    def times(self, by: float) -> "Pace":
        """That of a machine which takes so many times as long."""
        return replace(self, step=by * self.step, draw=by * self.draw, sampling=by * self.sampling)

    def before(self, config: Config) -> float:
        """What happens before the first step."""
        return self.draw * config.validation.draws

    def after(self, config: Config) -> float:
        """What happens after the last."""
        return self.draw * config.validation.final_draws + self.sampling


@dataclass
class Deadline:
    """When a run of minutes is to be over, and how many steps fit in until then.

    A plan is made again whenever AGAIN of the steps, or of the time, that it had left are gone, at the pace
    of the steps since. So an error of pace is one of ever fewer steps. The learning rate follows the plan at
    hand: with another, it moves at once to where that has it, as far as the pace was misjudged.
    """

    pace: Pace
    at: float  # by the monotonic clock, as all times here
    timed: int = 0  # steps since the last plan, and the seconds that they took
    seconds: float = 0.0
    due: tuple[int, float] = field(init=False)  # a step, and a time, at which to plan again

    def plan(self, step: int, now: float, config: Config) -> int:
        """How many more steps fit in behind one; 1 at least."""
        if self.timed:
            self.pace = self.pace.times(self.seconds / self.timed / self.pace.step)
        self.timed, self.seconds = 0, 0.0
        each = self.pace.each(config)
        fitting = max(1, int((self.at - now - self.pace.after(config)) / each))
        ahead = max(FEW, int(AGAIN * fitting))
        self.due = step + ahead, now + ahead * each
        return fitting

    def add(self, seconds: float) -> None:
        """A step more, and what it took."""
        self.timed, self.seconds = self.timed + 1, self.seconds + seconds

    def asks(self, step: int, now: float) -> bool:
        """Whether it is time to plan again."""
        return step >= self.due[0] or now >= self.due[1]


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
