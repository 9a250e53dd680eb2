"""Samplers that follow the reverse chain: each position moves by itself, by the law of its own step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import DdcliError
from ..process import (
    Absorbing,
    Autoregressive,
    Interpolating,
    Masking,
    Process,
    Steps,
    at,
    log,
    log_ratios,
    posterior,
    refuse_order,
)
from ..randomness import Streams
from .base import ByNoise, EvenSteps, Sampler, Step, default_sampler, even_times, expected_calls

LATEST = 1 - 1e-6  # where alpha_t is 0 the rates of the reverse chain are infinite


@dataclass(frozen=True)
class Ancestral(EvenSteps):
    """x_s ~ p(x_s | x_t), exact for the given belief.

    Which positions open is drawn before, and independently of, what they become: exact, and it keeps float
    error of the vocabulary's tail away from the pace of opening.
    """

    def check(self, process: Process) -> None:
        refuse_order(process, "use --sampler left-to-right")

    def rows(self, step: Step) -> Tensor:
        return step.whether < step.process.opening(step.xt, step.s, step.t)

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        return step.put(rows, step.draw(step.law(_opened, step.shaped(log_p0, rows), rows), rows))

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        if not isinstance(process, Interpolating):
            return super().calls(process, steps, unknown)
        times, vocabulary = even_times(process, steps), process.vocabulary
        s, t = times[1:], times[:-1]
        asked = process.opening(vocabulary.text_ids[:1].expand(len(s)), s, t)  # of a position that shows text
        if vocabulary.mask_id is not None:
            mask = torch.full(s.shape, vocabulary.mask_id)
            masked = process.mix_at(mask, t)[1]
            asked = masked * process.opening(mask, s, t) + (1 - masked) * asked
        return expected_calls(asked, unknown)


def _opened(process: Process, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return process.opened(log_p0, xt, s, t)


@dataclass(frozen=True)
class FirstHitting(EvenSteps):
    """Step from opening to opening: their times are drawn first, and one mask opens at each.

    The law of ancestral sampling in infinitely many steps, with one evaluation a mask (FHS,
    arXiv:2409.02908). The time to the first of n openings has 1 - alpha_s = (1 - alpha_t) u^(1/n); all of
    them together are the order statistics of one uniform number a position.
    """

    even: ClassVar[bool] = False

    def paced(self, process: Process) -> bool:
        return False

    def check(self, process: Process) -> None:
        if not isinstance(process, Absorbing):
            raise DdcliError(
                "it waits for masks to open, each once, and this model's noise does not only mask; use "
                f"--sampler {default_sampler(process)}"
            )

    def times(self, process: Process, steps: int, unknown: Tensor, rng: Streams) -> Tensor:
        u = rng.uniform(unknown.shape[1]).masked_fill(~unknown.cpu(), 0.0)
        most = int(unknown.sum(-1).max())
        lost = u.sort(-1, descending=True).values[:, :most].T
        one = torch.ones(1, len(u), dtype=torch.float64)
        hits = process.schedule.when(lost * process.schedule.lost(one))
        rank = torch.arange(most, 0, -1, dtype=torch.float64)[:, None]
        hits = torch.where(lost > 0, hits.maximum(1e-12 * rank), 0.0)  # a schedule may jump after 0
        return torch.cat([one, hits, torch.zeros_like(one)])

    def clock(self, step: Step) -> Tensor:
        """The time at which the mask opens: until then nothing happened but that time passed."""
        return step.s

    def rows(self, step: Step) -> Tensor:
        chance = step.whether.masked_fill(~step.masks, -1.0)
        first = torch.zeros_like(step.masks).scatter(-1, chance.argmax(-1, keepdim=True), True)
        return first & step.masks

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        return step.open(rows, log_p0)

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        return unknown, unknown


# -- approximate: the rates stand still over a step -------------------------------------------------------


Leaving = Callable[[Tensor], Tensor]  # of expected jumps (...) in a step: the chance to leave a state, (...)


@dataclass(frozen=True)
class Euler(ByNoise):
    """Jump with the rates of the reverse chain as they are at t, times the length of the step.

    Error of the order of the step; the last one is the exact reconstruction, so that no noise is left.
    The reverse rate is R_t(y -> x_t) p_t(y) / p_t(x_t) (SEDD, arXiv:2310.16834, eq. 3 and 19).
    """

    def check(self, process: Process) -> None:
        if isinstance(process, Autoregressive | Steps):
            raise DdcliError(
                "it follows the rates of noise in continuous time, which this model's has not; use "
                f"--sampler {default_sampler(process)}"
            )

    def leaving(self, expected: Tensor) -> Tensor:
        """See `Leaving`."""
        return expected.clamp(max=1)

    def form(self, process: Process) -> Sampler:
        return MaskJumps(self.leaving) if isinstance(process, Masking) else TokenJumps(self.leaving)


@dataclass(frozen=True)
class TauLeaping(Euler):
    """As Euler's, but with the exact waiting time at a rate that stands still: leave with 1 - exp(-jumps).

    Of several jumps in a step the first counts: tokens have no order in which jumps could add up
    (arXiv:2205.14987, section 4.1).
    """

    def leaving(self, expected: Tensor) -> Tensor:
        return -torch.expm1(-expected)


@dataclass(frozen=True)
class MaskJumps(EvenSteps):
    """Masks open at a rate that no belief changes, so only those that do are asked about."""

    leaving: Leaving

    def _opening(self, process: Masking, s: Tensor, t: Tensor) -> Tensor:
        """The chance of a mask to open on the way from t to s, (...)."""
        jumps = (t - s) * process.loss_weight(t.clamp(min=1e-12))
        return torch.where(s == 0, 1.0, self.leaving(jumps))

    def rows(self, step: Step) -> Tensor:
        assert isinstance(step.process, Masking)
        return step.masks & (step.whether < self._opening(step.process, step.s, step.t))

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        return step.open(rows, log_p0)

    def calls(self, process: Process, steps: int, unknown: int) -> tuple[float, float]:
        assert isinstance(process, Masking)
        times = even_times(process, steps)
        opening = self._opening(process, times[1:], times[:-1])
        masked = torch.cat([torch.ones(1, dtype=torch.float64), (1 - opening).cumprod(0)[:-1]])
        return expected_calls(masked * opening, unknown)


@dataclass(frozen=True)
class TokenJumps(EvenSteps):
    """Any token may jump to any other, as fast as what is believed says."""

    leaving: Leaving

    def rows(self, step: Step) -> Tensor:
        return step.process.unknown(step.xt, step.t) & (step.s < step.t)

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        return step.put(rows, step.draw(step.law(self._jump, step.shaped(log_p0, rows), rows), rows))

    def _jump(self, process: Process, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        now = t.clamp(max=LATEST)
        log_p0 = log_p0.double()
        jumps = (
            (t - s)[..., None] * process.rate(xt, now).double() * log_ratios(process, log_p0, xt, now).exp()
        )
        jumps = jumps.scatter(-1, xt[..., None], 0.0)
        total = jumps.sum(-1)
        leave = self.leaving(total)
        moved = jumps * (leave / total.clamp(min=1e-300))[..., None]
        frozen_rates = log(moved.scatter(-1, xt[..., None], (1 - leave)[..., None]))
        return torch.where((s == 0)[..., None], posterior(process, log_p0, xt, s, t), frozen_rates)


@dataclass(frozen=True)
class Edit(Ancestral):
    """Ancestral steps, after each of which a token that became unlikely is replaced by the likeliest one.

    Unlikely: the other positions believe it less than `share` times as much as their favourite. Sharpens the
    law: it never draws what it would have to replace.
    """

    share: float = 0.01

    def check(self, process: Process) -> None:
        super().check(process)
        if isinstance(process, Masking):
            raise DdcliError(
                "token edit asks about tokens that are visible, of which a model of masks knows nothing; "
                "use --sampler remask"
            )

    def move(self, step: Step, log_p0: Tensor, rows: Tensor) -> Tensor:
        x = super().move(step, log_p0, rows)
        belief = step.law(lambda process, log_p0, *clocks: log_p0, log_p0, rows)
        best = belief.max(-1)
        likely = torch.tensor(self.share, dtype=belief.dtype).log() + best.values
        unlikely = (at(belief, x[rows]) < likely) & step.process.vocabulary.text_on(x.device)[x[rows]]
        return x.masked_scatter(rows, torch.where(unlikely, best.indices, x[rows]))
