"""What a sampler is: one step from the clocks t down to s.

Legend as in `process`; canvases are (B, L), beliefs (N, V) for the N positions a sampler asked for, in the
order of `rows.nonzero()`. A sampler first says which positions need a belief; where none does, the network
is not called. It chooses by what is believed, and draws by what a step makes of that (temperature, cuts).
Two uniform numbers a position and step are all a sequence's chance: so it draws as many whatever its
neighbours do.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..process import Autoregressive, Masking, Process
from ..randomness import Streams, categorical
from ..schedule import time_grid

Law = Callable[[Process, Tensor, Tensor, Tensor, Tensor], Tensor]
Shape = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of beliefs (N, V), xt, t and rows (B, L): (N, V)
Draw = Callable[[Tensor, Tensor, Tensor], Tensor]  # of laws (N, V), rows (B, L) and numbers (N,): tokens (N,)


def as_believed(log_p0: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    """The shape of beliefs that are left as they are."""
    return log_p0


def by_chance(law: Tensor, rows: Tensor, u: Tensor) -> Tensor:
    """Tokens (N,) of laws (N, V), nats, by numbers in [0, 1)."""
    return categorical(law, u)


@dataclass(frozen=True)
class Step:
    """From x_t, (B, L) tokens at clocks t, down to the clocks s; where s = t nothing moves."""

    process: Process
    xt: Tensor  # (B, L)
    s: Tensor  # (B, L) float64
    t: Tensor  # (B, L) float64
    whether: Tensor  # (B, L) float64 in [0, 1): whether a position opens, or which
    what: Tensor  # (B, L) float64 in [0, 1): what it becomes
    mix: Callable[[Tensor], Tensor] | None = (
        None  # several laws (..., n, V) of one position into one (..., V)
    )
    shape: Shape = as_believed  # of beliefs, into what tokens are drawn from
    pen: Draw = by_chance  # who writes the tokens down

    @property
    def masks(self) -> Tensor:
        """Masks that are to open before the clocks stand at 0, and may do so now, (B, L) bool."""
        assert isinstance(self.process, Masking)
        return (self.xt == self.process.mask_id) & (self.s < self.t)

    def law(self, of: Law, log_p0: Tensor, rows: Tensor) -> Tensor:
        """log p(x_s | x_t) at `rows`, (N, V), by a function of beliefs (N, V), xt, s and t (N,)."""
        if not len(log_p0):
            return log_p0
        clocks = (x[rows] for x in (self.xt, self.s, self.t))
        if self.mix is None or log_p0.ndim == 2:
            return of(self.process, log_p0, *clocks)
        several = (x[:, None].expand(log_p0.shape[:2]) for x in clocks)
        return self.mix(of(self.process, log_p0, *several))

    def shaped(self, log_p0: Tensor, rows: Tensor) -> Tensor:
        """What tokens are drawn from, (N, V), where log p0 (N, V) is believed."""
        return self.shape(log_p0, self.xt, self.t, rows) if len(log_p0) else log_p0

    def draw(self, law: Tensor, rows: Tensor) -> Tensor:
        """Tokens (N,) for `rows`, of their laws (N, V)."""
        return self.pen(law, rows, self.what[rows])

    def put(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """x_t with tokens (N,) at `rows`."""
        return self.xt.masked_scatter(rows, tokens)

    def open(self, rows: Tensor, log_p0: Tensor) -> Tensor:
        """x_t with tokens drawn at `rows`, masks, where log p0 (N, V) is believed."""
        return self.put(rows, self.draw(self.shaped(log_p0, rows), rows))


class Sampler(Protocol):
    @property
    def fewest(self) -> int:
        """Steps that it cannot do without."""

    def paced(self, process: Process) -> bool:
        """Whether the number of steps that is asked for is how many it takes."""

    @property
    def even(self) -> bool:
        """Whether its clocks fall by equal steps."""

    def check(self, process: Process) -> None:
        """Raise DdcliError where the sampler cannot work with the process."""

    def times(self, process: Process, steps: int, unknown: Tensor, rng: Streams) -> Tensor:
        """The clocks each sequence passes, (n + 1, B) float64 from 1 down to 0, if `steps` are asked for.

        unknown (B, L) bool: the positions that are open at t = 1. rng: one stream for each sequence.
        """

    def clock(self, step: Step) -> Tensor:
        """What the network is told of time, (B, L)."""

    def rows(self, step: Step) -> Tensor:
        """Positions, (B, L) bool, whose belief this step needs."""

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        """Draw x_s, (B, L), given the beliefs (N, V) at `rows`."""

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        """How often the network is called for a sequence of so many unknown positions.

        At least, and at most; where theory has an expected number, that, for both.
        """


class EvenSteps:
    """A sampler whose clocks fall by equal steps, and which tells the network the time it is."""

    fewest: ClassVar[int] = 1
    even: ClassVar[bool] = True

    def paced(self, process: Process) -> bool:
        return True

    def check(self, process: Process) -> None:
        pass

    def times(self, process: Process, steps: int, unknown: Tensor, rng: Streams) -> Tensor:
        return even_times(process, steps)[:, None].expand(-1, len(unknown))

    def clock(self, step: Step) -> Tensor:
        return step.t

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        count = min(steps, process.timesteps or steps)  # in others clocks stand still
        return count, count


class ByNoise(EvenSteps, ABC):
    """A sampler in two forms: one for any noise, and a cheaper one for noise that only masks."""

    @abstractmethod
    def form(self, process: Process) -> "Sampler":
        """The one for a process."""

    def rows(self, step: Step) -> Tensor:
        return self.form(step.process).rows(step)

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        return self.form(step.process).move(step, log_p0, rows)

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        return self.form(process).calls(process, steps, unknown)


def even_times(process: Process, steps: int) -> Tensor:
    """`steps` equal steps from 1 to 0, at times that the process has, (steps + 1,)."""
    times = time_grid(steps)
    return times if process.timesteps is None else (times * process.timesteps).round() / process.timesteps


def expected_calls(each: Tensor, unknown: int) -> tuple[float, float]:
    """How many steps are to be expected, for both bounds of `Sampler.calls`, in which one or more of so many
    independent positions need a belief; each does with the chance (steps,)."""
    expected = -torch.expm1(unknown * torch.log1p(-each.clamp(max=1 - 1e-15))).sum().item()
    return expected, expected


def default_sampler(process: Process) -> str:
    """The sampler of a model whose user names none."""
    return "left-to-right" if isinstance(process, Autoregressive) else "ancestral"
