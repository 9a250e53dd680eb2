"""Samplers that choose which masks to open: by place, at random, or by how sure the network is.

Where the choice depends on what is revealed alone, not on the tokens about to be drawn, opening one position
a step keeps the law, and the sampler has a likelihood (DUEL, arXiv:2603.01367). Opening several at once takes
them for independent.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import DdcliError
from ..process import Absorbing, Autoregressive, Masking, Process, at
from ..randomness import Streams
from .base import EvenSteps, Step, default_sampler, even_times


@dataclass(frozen=True)
class Ordered(EvenSteps, ABC):
    """Opens masks in an order, as many as the schedule asks of each sequence."""

    at_once: int | None = field(default=None, kw_only=True)  # so many a call, whatever schedule and steps

    def check(self, process: Process) -> None:
        if not isinstance(process, Absorbing):
            raise DdcliError(
                "it chooses which masks to open, and needs noise that only masks, as this model's does not; "
                f"use --sampler {default_sampler(process)}"
            )

    @abstractmethod
    def choose(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        """The positions to open now, (B, L) bool, given the beliefs (N, V) at `rows`. No chance but that of
        `step.whether` is in it."""

    def rows(self, step: Step) -> Tensor:
        return step.masks & (self.quota(step) > 0)[:, None]

    def times(self, process: Process, steps: int, unknown: Tensor, rng: Streams) -> Tensor:
        if self.at_once is None:
            return super().times(process, steps, unknown, rng)
        calls = (unknown.sum(-1) / self.at_once).ceil().clamp(min=1)
        passed = torch.arange(int(calls.max()) + 1, dtype=torch.float64)[:, None] / calls
        return process.schedule.when((1 - passed).clamp(min=0))

    def quota(self, step: Step) -> Tensor:
        """How many of its masks each sequence opens, (B,)."""
        return opening_count(step.process, step.masks, step.s, step.t)

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        chosen = self.choose(step, log_p0, rows)
        return step.open(chosen, log_p0[chosen[rows]])

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        if self.at_once is not None:
            count = -(-unknown // self.at_once)
            return count, count
        times, masked, calls = even_times(process, steps), unknown, 0
        for t, s in pairwise(times):
            moving = torch.arange(unknown)[None] < masked
            opened = int(opening_count(process, moving, s.expand(1, unknown), t.expand(1, unknown)))
            masked -= opened
            calls += opened > 0
        return calls, calls


@dataclass(frozen=True)
class LeftToRight(Ordered):
    """The first masks of each sequence.

    The order of an autoregressive model, which takes one position a step whatever the number of steps.
    """

    def check(self, process: Process) -> None:
        if not isinstance(process, Masking):
            super().check(process)

    def paced(self, process: Process) -> bool:
        return not isinstance(process, Autoregressive)

    def times(self, process: Process, steps: int, unknown: Tensor, rng: Streams) -> Tensor:
        one_by_one = steps if self.paced(process) else int(unknown.sum(-1).max())
        return super().times(process, max(1, one_by_one), unknown, rng)

    def rows(self, step: Step) -> Tensor:
        return _top(-torch.arange(step.xt.shape[1], device=step.xt.device).expand_as(step.xt), step, self)

    def choose(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        return rows

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        return super().calls(process, steps if self.paced(process) else unknown, unknown)


@dataclass(frozen=True)
class RandomOrder(Ordered):
    """Masks at random: as in ancestral sampling, but always as many as are due."""

    def rows(self, step: Step) -> Tensor:
        return _top(step.whether, step, self)

    def choose(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        return rows


def _top(score: Tensor, step: Step, sampler: Ordered) -> Tensor:
    """The masks of highest score (B, L), as many as each quota, (B, L) bool. Of ties, the left one."""
    score = score.double().masked_fill(~step.masks, -torch.inf)
    rank = score.argsort(stable=True, dim=-1, descending=True).argsort(-1)
    return step.masks & (rank < sampler.quota(step)[:, None])


# -- by how sure the network is ---------------------------------------------------------------------------

Statistic = Callable[[Tensor], Tensor]  # of beliefs (N, V): (N,), higher where surer


def largest_probability(log_p0: Tensor) -> Tensor:
    return log_p0.max(-1).values


def margin(log_p0: Tensor) -> Tensor:
    """Between the likeliest token and the next (arXiv:2502.06768, section 4.1)."""
    first, second = log_p0.topk(2, -1).values.exp().unbind(-1)
    return first - second


def negentropy(log_p0: Tensor) -> Tensor:
    """Minus the entropy, nats."""
    return (log_p0.exp() * log_p0).sum(-1)


@dataclass(frozen=True)
class Surest(Ordered):
    """Masks whose belief is surest by a statistic of the *row*.

    Not of the token drawn, which would prefer likely tokens even at one position a step (see `Greedy`).
    """

    statistic: Statistic = largest_probability

    def choose(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        return _top(spread(self.statistic(log_p0), rows), step, self)


@dataclass(frozen=True)
class Adaptive(Surest, ABC):
    """Opens as many masks as are sure enough, at least one, whatever the number of steps asked for."""

    even: ClassVar[bool] = False

    def paced(self, process: Process) -> bool:
        return False

    def times(self, process: Process, steps: int, unknown: Tensor, rng: Streams) -> Tensor:
        return super().times(process, max(1, int(unknown.sum(-1).max())), unknown, rng)

    def clock(self, step: Step) -> Tensor:
        """The time at which as large a share is masked as there is."""
        running = step.s < step.t
        masked = step.masks.sum(-1, keepdim=True) / running.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(running, step.process.schedule.when(masked.double()), step.t)

    def quota(self, step: Step) -> Tensor:
        return step.masks.any(-1).long()

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        return min(1, unknown), unknown


@dataclass(frozen=True)
class Threshold(Adaptive):
    """All masks with a token more probable than `least`, and the surest one (Fast-dLLM, arXiv:2505.22618)."""

    least: float = 0.9

    def choose(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        sure = spread(largest_probability(log_p0).exp(), rows) > self.least
        return super().choose(step, log_p0, rows) | (sure & rows)


@dataclass(frozen=True)
class EntropyBounded(Adaptive):
    """The masks of least entropy, as long as the sum of all but the last stays within `bound` nats.

    That sum bounds what is lost by drawing them apart (EB sampler, arXiv:2505.24857).
    """

    statistic: Statistic = negentropy
    bound: float = 0.1

    def choose(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        entropy = -spread(self.statistic(log_p0).double(), rows)
        ranked, order = entropy.sort(dim=-1, stable=True)
        ranked = ranked.masked_fill(ranked == torch.inf, 0.0)
        within = ranked.cumsum(-1) - ranked <= self.bound
        return torch.zeros_like(rows).scatter(-1, order, within) & rows


@dataclass(frozen=True)
class Greedy(Ordered):
    """Masks whose *drawn* token is likeliest, as MaskGIT does (arXiv:2202.04200, at temperature 0).

    Changes the law even at one position a step: of independent tokens with P = 0.1 for the rarer, it comes
    out at 0.028 among four. For those who want that.
    """

    def choose(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        drawn = step.draw(step.shaped(log_p0, rows), rows)
        return _top(spread(at(log_p0, drawn), rows), step, self)


def spread(score: Tensor, rows: Tensor) -> Tensor:
    """What is known of N rows at their positions, -inf elsewhere, (B, L)."""
    empty = torch.full(rows.shape, -torch.inf, dtype=score.dtype, device=rows.device)
    return empty.masked_scatter(rows, score)


def opening_count(process: Process, moving: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """How many of its masks each sequence opens, (B,): so many that the expected share stays masked."""
    stay = torch.where(moving, process.schedule.lost(s) / process.schedule.lost(t), 0.0).sum(-1)
    # 1e-6: an integer is not rounded up by float error
    return moving.sum(-1) - (stay - 1e-6).ceil().long()
