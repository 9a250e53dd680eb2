"""Samplers: one step from the clocks t down to s.

Legend as in `process`; canvases are (B, L), beliefs (N, V) for the N positions a sampler asked for, in the
order of `rows.nonzero()`. A sampler first says which positions need a belief; where none does, the network
is not called. Two uniform numbers a position and step, u (B, L) float64 in [0, 1), are all their chance: so
a sequence draws as many whatever its neighbours do.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .errors import DdcliError
from .process import Absorbing, Autoregressive, Masking, Process
from .randomness import categorical
from .schedule import time_grid


class Sampler(Protocol):
    def check(self, process: Process) -> None:
        """Raise DdcliError where the sampler cannot work with the process."""

    def times(self, process: Process, steps: int, longest: int) -> Tensor:
        """The clocks it passes, (n + 1,) float64 from 1 to 0, if `steps` are asked for and at most `longest`
        positions of a sequence are to be filled."""

    def rows(self, process: Process, xt: Tensor, s: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """Positions, (B, L) bool, whose belief this step needs."""

    def step(
        self, process: Process, log_p0: Tensor, rows: Tensor, xt: Tensor, s: Tensor, t: Tensor, u: Tensor
    ) -> Tensor:
        """Draw x_s, (B, L), given the beliefs (N, V) at `rows`; where s = t nothing moves."""


@dataclass(frozen=True)
class Ancestral:
    """x_s ~ p(x_s | x_t), exact for the given belief.

    Which positions open is drawn before, and independently of, what they become: exact, and it keeps float
    error of the vocabulary's tail away from the pace of opening.
    """

    def check(self, process: Process) -> None:
        if isinstance(process, Autoregressive):
            raise DdcliError("an autoregressive model writes from left to right; use --sampler left-to-right")

    def times(self, process: Process, steps: int, longest: int) -> Tensor:
        return even_times(process, steps)

    def rows(self, process: Process, xt: Tensor, s: Tensor, t: Tensor, u: Tensor) -> Tensor:
        return u < process.opening(xt, s, t)

    def step(
        self, process: Process, log_p0: Tensor, rows: Tensor, xt: Tensor, s: Tensor, t: Tensor, u: Tensor
    ) -> Tensor:
        law = process.opened(log_p0, xt[rows], s[rows], t[rows])
        return xt.masked_scatter(rows, categorical(law, u[rows]))


@dataclass(frozen=True)
class Confidence:
    """Open the positions whose belief is surest first, as many as the schedule asks of each sequence.

    Sure means the largest probability of the *row*, not that of the token drawn, which would prefer likely
    tokens even at one position a step (MaskGIT, arXiv:2202.04200, ranks so). Order then depends on what is
    revealed alone (DUEL, arXiv:2603.01367); opening several positions at once stays an approximation.
    """

    def check(self, process: Process) -> None:
        if not isinstance(process, Absorbing):
            raise DdcliError(
                "confidence sampling opens masks in order, but this model's noise has none to choose from; "
                f"use --sampler {default_sampler(process)}"
            )

    def times(self, process: Process, steps: int, longest: int) -> Tensor:
        return even_times(process, steps)

    def rows(self, process: Process, xt: Tensor, s: Tensor, t: Tensor, u: Tensor) -> Tensor:
        moving = process.unknown(xt, t) & (s < t)
        return moving & (opening_count(process, moving, s, t) > 0)[:, None]

    def step(
        self, process: Process, log_p0: Tensor, rows: Tensor, xt: Tensor, s: Tensor, t: Tensor, u: Tensor
    ) -> Tensor:
        sure = torch.full(xt.shape, -torch.inf, dtype=log_p0.dtype, device=xt.device)
        sure = sure.masked_scatter(rows, log_p0.max(-1).values)
        rank = sure.argsort(stable=True, dim=-1, descending=True).argsort(-1)
        chosen = rows & (rank < opening_count(process, rows, s, t)[:, None])
        return xt.masked_scatter(chosen, categorical(log_p0[chosen[rows]], u[chosen]))


@dataclass(frozen=True)
class LeftToRight:
    """Open the first masks of each sequence, as many as the schedule asks of it.

    The order of an autoregressive model, which takes one position a step whatever the number of steps.
    """

    def check(self, process: Process) -> None:
        if not isinstance(process, Masking):
            raise DdcliError(
                "left-to-right sampling opens masks, but this model's noise has none; "
                f"use --sampler {default_sampler(process)}"
            )

    def times(self, process: Process, steps: int, longest: int) -> Tensor:
        return even_times(process, longest if isinstance(process, Autoregressive) else steps)

    def rows(self, process: Process, xt: Tensor, s: Tensor, t: Tensor, u: Tensor) -> Tensor:
        assert isinstance(process, Masking)
        moving = (xt == process.mask_id) & (s < t)
        return moving & (moving.cumsum(-1) <= opening_count(process, moving, s, t)[:, None])

    def step(
        self, process: Process, log_p0: Tensor, rows: Tensor, xt: Tensor, s: Tensor, t: Tensor, u: Tensor
    ) -> Tensor:
        return xt.masked_scatter(rows, categorical(log_p0, u[rows]))


def even_times(process: Process, steps: int) -> Tensor:
    """`steps` equal steps from 1 to 0, at times that the process has, (steps + 1,)."""
    times = time_grid(steps)
    return times if process.timesteps is None else (times * process.timesteps).round() / process.timesteps


def opening_count(process: Process, moving: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """How many of its masks each sequence opens, (B,): so many that the expected share stays masked."""
    stay = torch.where(moving, process.schedule.lost(s) / process.schedule.lost(t), 0.0).sum(-1)
    # 1e-6: an integer is not rounded up by float error
    return moving.sum(-1) - (stay - 1e-6).ceil().long()


def default_sampler(process: Process) -> str:
    """The sampler of a model whose user names none."""
    return "left-to-right" if isinstance(process, Autoregressive) else "ancestral"


SAMPLERS: dict[str, type[Sampler]] = {
    "ancestral": Ancestral,
    "confidence": Confidence,
    "left-to-right": LeftToRight,
}
