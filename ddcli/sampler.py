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
from .process import Absorbing, Process
from .randomness import categorical


class Sampler(Protocol):
    def check(self, process: Process) -> None:
        """Raise DdcliError where the sampler cannot work with the process."""

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
        pass

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
                "confidence sampling opens masks in order, but this model's noise has none; "
                "use --sampler ancestral"
            )

    def rows(self, process: Process, xt: Tensor, s: Tensor, t: Tensor, u: Tensor) -> Tensor:
        moving = process.unknown(xt, t) & (s < t)
        return moving & (self._count(process, moving, s, t) > 0)[:, None]

    def _count(self, process: Process, moving: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """How many positions each sequence opens, (B,): so many that the expected share stays masked."""
        assert isinstance(process, Absorbing)
        alpha_s, alpha_t = process.schedule.alpha(s), process.schedule.alpha(t)
        stay = torch.where(moving, (1 - alpha_s) / (1 - alpha_t), 0.0).sum(-1)
        return (
            moving.sum(-1) - (stay - 1e-6).ceil().long()
        )  # 1e-6: an integer is not rounded up by float error

    def step(
        self, process: Process, log_p0: Tensor, rows: Tensor, xt: Tensor, s: Tensor, t: Tensor, u: Tensor
    ) -> Tensor:
        sure = torch.full(xt.shape, -torch.inf, dtype=log_p0.dtype, device=xt.device)
        sure = sure.masked_scatter(rows, log_p0.max(-1).values)
        rank = sure.argsort(stable=True, dim=-1, descending=True).argsort(-1)
        chosen = rows & (rank < self._count(process, rows, s, t)[:, None])
        return xt.masked_scatter(chosen, categorical(log_p0[chosen[rows]], u[chosen]))


SAMPLERS: dict[str, type[Sampler]] = {"ancestral": Ancestral, "confidence": Confidence}
