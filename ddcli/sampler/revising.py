"""Samplers that take back what they wrote: a visible token may be noised again on the way down.

With an exact belief each position keeps the marginals of the process, save by `ConfidentRemask`, and errors
of early steps can be mended later. Positions that are noised and drawn again in one step are drawn apart, so
the strength should fall as steps grow in number, or the error of doing so stays.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import DdcliError
from ..process import Absorbing, Masking, Process, at, clean_posterior, one_hot, posterior, refuse_order
from ..randomness import Streams, categorical
from .base import ByNoise, EvenSteps, Sampler, Step, default_sampler, expected_calls

Odds = tuple[Tensor, Tensor]  # the chance of a mask to open, and of a visible token to be masked again


class Revising(EvenSteps, ABC):
    """Under absorbing noise: masks open, and visible tokens that are not given are masked again."""

    def check(self, process: Process) -> None:
        if not isinstance(process, Absorbing):
            raise DdcliError(
                "it masks tokens again, but this model's noise does not only mask; use --sampler "
                f"{default_sampler(process)}, or corrector to revise more"
            )

    def _running(self, step: Step) -> Tensor:
        """Positions that are neither given nor of a later block; clocks may stand still meanwhile."""
        return (step.t > 0) & (step.s < 1)

    @abstractmethod
    def odds(self, process: Masking, s: Tensor, t: Tensor) -> Odds:
        """For clocks s and t (...): (...) each."""

    def rows(self, step: Step) -> Tensor:
        assert isinstance(step.process, Masking)
        masked = self._running(step) & (step.xt == step.process.mask_id)
        return masked & (step.whether < self.odds(step.process, step.s, step.t)[0])

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        assert isinstance(step.process, Masking)
        x = step.open(rows, log_p0)
        visible = self._running(step) & (step.xt != step.process.mask_id)
        again = visible & (step.whether < self.odds(step.process, step.s, step.t)[1])
        return x.masked_fill(again, step.process.mask_id)

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        assert isinstance(process, Masking)
        blank = torch.ones(1, 1, dtype=torch.bool)
        times = self.times(process, steps, blank, Streams([0]))[:, 0]
        opening = process.schedule.lost(times[:-1]) * self.odds(process, times[1:], times[:-1])[0]
        return expected_calls(opening, unknown)


@dataclass(frozen=True)
class Remask(Revising):
    """A visible token is masked again with the chance sigma, and masks open the faster for it.

    ReMDM (arXiv:2503.00307): sigma at most min(1, (1 - alpha_s) / alpha_t), and a mask opens with the chance
    [alpha_s - (1 - sigma) alpha_t] / (1 - alpha_t). Here sigma is capped by `strength` (ReMDM-cap).
    """

    strength: float = 0.04

    def sigma(self, most: Tensor) -> Tensor:
        return most.clamp(max=self.strength)

    def odds(self, process: Masking, s: Tensor, t: Tensor) -> Odds:
        alpha_s, alpha_t = process.schedule.alpha(s), process.schedule.alpha(t)
        sigma = self.sigma((process.schedule.lost(s) / alpha_t).clamp(max=1))
        lost = process.schedule.lost(t)
        opened = (alpha_s - (1 - sigma) * alpha_t) / torch.where(lost > 0, lost, 1.0)
        return torch.where(s == 0, 1.0, opened), sigma


@dataclass(frozen=True)
class RescaledRemask(Remask):
    """Sigma is a share of the largest one (ReMDM-rescale)."""

    def sigma(self, most: Tensor) -> Tensor:
        return most * self.strength


@dataclass(frozen=True)
class LoopedRemask(Remask):
    """A quarter of the steps to where a tenth is masked, half of them there, a quarter down to the end.

    While the clocks stand still tokens are masked and drawn again; elsewhere this is ancestral sampling
    (ReMDM-loop).
    """

    fewest: ClassVar[int] = 4
    even: ClassVar[bool] = False

    masked: float = 0.1

    def times(self, process: Process, steps: int, unknown: Tensor, rng: Streams) -> Tensor:
        if steps < self.fewest:
            raise DdcliError(
                f"remask:loop needs at least {self.fewest} steps (of each block), not {steps}; raise --steps"
            )
        halt = process.schedule.when(torch.tensor(self.masked, dtype=torch.float64)).item()
        down, still = steps // 4, steps // 2
        fall = 1 - torch.linspace(0, 1 - halt, down + 1, dtype=torch.float64)
        rest = torch.linspace(halt, 0, steps - down - still + 1, dtype=torch.float64)[1:]
        times = torch.cat([fall, fall[-1:].expand(still), rest])
        return times[:, None].expand(-1, len(unknown))

    def odds(self, process: Masking, s: Tensor, t: Tensor) -> Odds:
        opening, again = super().odds(process, s, t)
        plain = process.opening(torch.full_like(s, process.mask_id, dtype=torch.long), s, t)
        still = s == t
        return torch.where(still, opening, plain), torch.where(still, again, 0.0)


@dataclass
class ConfidentRemask(Revising):
    """Masks again by preference what was unsure when it was drawn (ReMDM-conf).

    The chances of `Remask` at full strength, shared out over a sequence's tokens by the softmax of minus the
    probability each was believed with when it was drawn. Remembers these over one run, so each run needs a
    sampler of its own.
    """

    strength: float = 1.0
    sure: Tensor | None = field(default=None, repr=False)  # (B, L), of each visible token

    def odds(self, process: Masking, s: Tensor, t: Tensor) -> Odds:
        opening, _ = Remask(0.0).odds(process, s, t)
        return opening, RescaledRemask(self.strength).odds(process, s, t)[1]

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        assert isinstance(step.process, Masking)
        before = torch.zeros_like(step.what) if self.sure is None else self.sure
        drawn = step.draw(step.shaped(log_p0, rows), rows)
        self.sure = before.masked_scatter(rows, at(log_p0, drawn).exp().to(before))
        visible = self._running(step) & (step.xt != step.process.mask_id)
        share = (-before).masked_fill(~visible, -torch.inf).softmax(-1)
        sigma = self.odds(step.process, step.s, step.t)[1]
        again = visible & (step.whether < (sigma * share).nan_to_num(0.0))
        return step.put(rows, drawn).masked_fill(again, step.process.mask_id)

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        return min(1, unknown), steps


@dataclass(frozen=True)
class Corrector(ByNoise):
    """Predictor and corrector in one: the ancestral step with the chance kappa, else new noise on the belief.

    kappa q(x_s | x_t, x_0) + (1 - kappa) q(x_s | x_0), averaged over p(x_0 | x_t): for any process, since
    both have the marginal at s (arXiv:2602.21185). At 1 this is ancestral sampling.
    """

    kappa: float = 0.95

    def check(self, process: Process) -> None:
        refuse_order(process, "use --sampler left-to-right")

    def form(self, process: Process) -> Sampler:
        return MaskCorrector(self.kappa) if isinstance(process, Masking) else TokenCorrector(self.kappa)


@dataclass(frozen=True)
class MaskCorrector(Revising):
    """New noise is a mask, or the token believed in: a mask opens, or a token is masked, the more often."""

    kappa: float

    def odds(self, process: Masking, s: Tensor, t: Tensor) -> Odds:
        alpha_s, lost = process.schedule.alpha(s), process.schedule.lost(t)
        opened = (alpha_s - process.schedule.alpha(t)) / torch.where(lost > 0, lost, 1.0)
        fresh = 1 - self.kappa
        return self.kappa * opened + fresh * alpha_s, fresh * process.schedule.lost(s)


@dataclass(frozen=True)
class TokenCorrector(EvenSteps):
    """What is known, too, is noised anew, and needs no belief for it."""

    kappa: float

    def rows(self, step: Step) -> Tensor:
        return step.process.unknown(step.xt, step.t) & (step.s < step.t)

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        process, xt = step.process, step.xt
        x = step.put(rows, step.draw(step.law(self.law, step.shaped(log_p0, rows), rows), rows))
        known = (step.s < step.t) & ~process.unknown(xt, step.t)
        again = known & (step.whether < 1 - self.kappa)
        clean = one_hot(xt[again], process.vocabulary.size)
        return x.masked_scatter(again, categorical(process.marginal(clean, step.s[again]), step.what[again]))

    def law(self, process: Process, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """log p(x_s | x_t), (..., V), of tokens that are not known."""
        onward = posterior(process, log_p0, xt, s, t).double()
        anew = process.marginal(clean_posterior(process, log_p0, xt, t), s).log_softmax(-1).double()
        weights = torch.tensor([self.kappa, 1 - self.kappa], dtype=torch.float64, device=xt.device).log()
        return torch.logaddexp(weights[0] + onward, weights[1] + anew)


REMASKS: dict[str, type[Revising]] = {
    "cap": Remask,
    "rescale": RescaledRemask,
    "confidence": ConfidentRemask,
    "loop": LoopedRemask,
}
