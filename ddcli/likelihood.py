"""Unbiased estimates of the bound on -ln p(x_0): what validation, evaluation and scores are made of.

Legend: B batch, L length. `running` (B, L) bool marks the positions whose likelihood is asked for; all others
are given, clean, and told to the network as such, so a bound may be that of a gap in its context.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .denoiser import Denoiser
from .objective import DiscreteElbo, elbo, elbo_step
from .process import Absorbing, Autoregressive, ByKind, Generator, Process, at, prior_term
from .randomness import Streams
from .schedule import with_slope

EARLIEST = 1e-4  # lost of the text, where the integral over time stops; a reconstruction covers the rest
RECONSTRUCTION_SHARE = 0.05  # of the draws
FIRST = 1e-300  # the time right after 0
PUBLISHED_FROM = 1e-3  # the least time in the bounds that papers report
BINS = 10  # equal ones, of time and of the share of masked tokens, over which a bound is spread


@dataclass(frozen=True)
class Nats:
    """Minus an ELBO by position, (B, L) float64, 0 where given: two ways of counting the same draw.

    And where in time a draw was made, for each of G blocks.
    """

    strict: Tensor  # an upper bound on -ln p(x_0): prior and reconstruction included
    literature: Tensor  # the integral over [0.001, 1] alone, as papers on continuous time report it
    prior: Tensor  # the part of `strict` that is paid at t = 1
    when: Tensor | None = None  # (B, G, BINS): how the rest is spread over time; None: there is none
    masked: Tensor | None = None  # (B, G): the share of the running positions that was masked, if counted


@dataclass(frozen=True)
class Question:
    """What is asked of a denoiser, and by which draw. The L positions are G blocks of equal length, 1 as a
    rule; of several, each is asked about given the clean ones before it (BD3-LM, arXiv:2503.09573)."""

    denoiser: Denoiser
    x0: Tensor  # (B, L) tokens
    running: Tensor  # (B, L) bool
    u: Tensor  # (B, G) in [0, 1): chooses the time of each block; stratified numbers lower the variance
    rng: Streams
    valid: Tensor | None = None  # (B, L) bool, False at padding
    unseen: Tensor | None = None  # (B, L) bool: neither given nor asked for, pure noise

    def everywhere(self, of_block: Tensor) -> Tensor:
        """What is known of each block, (B, G), at each of its positions, (B, L)."""
        return of_block.to(self.x0.device).repeat_interleave(self.x0.shape[1] // self.u.shape[1], 1)

    def clock(self, t: Tensor) -> Tensor:
        """(B, L), for the time of each block, (B, G)."""
        return torch.where(
            self.running, self.everywhere(t), 0.0 if self.unseen is None else self.unseen.double()
        )

    def unknown(self, process: Process, xt: Tensor, clock: Tensor) -> Tensor:
        """The positions whose likelihood is asked for and open, (B, L) bool. What is known costs nothing, and
        a network that has learnt nothing about it is not asked."""
        return self.running & process.unknown(xt, clock)

    def ask(self, process: Process, xt: Tensor, clock: Tensor, rows: Tensor) -> Tensor:
        """log p0 (N, V) float64."""
        if not rows.any():
            return torch.empty(0, process.vocabulary.size, dtype=torch.float64, device=xt.device)
        told = {"clean": self.x0} if self.u.shape[1] > 1 else {}
        return self.denoiser(xt, clock, rows, self.valid, **told).double()

    def spread(self, found: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """Nats (N,) of the positions `rows`, times the weight (B, G) of the draw; 0 elsewhere: (B, L)."""
        cost = torch.zeros(self.x0.shape, dtype=torch.float64, device=self.x0.device)
        cost[rows] = found.double()
        return cost * self.everywhere(weight)


def nelbo(
    process: Process,
    denoiser: Denoiser,
    x0: Tensor,
    running: Tensor,
    u: Tensor,
    rng: Streams,
    valid: Tensor | None = None,
    unseen: Tensor | None = None,
    timesteps: int | None = None,
) -> Nats:
    """One unbiased draw of minus the ELBO over the running positions (B, L) of x0 (B, L).

    In continuous time, or of a chain of `timesteps` steps. u (B,), or (B, G) for G blocks; the other
    arguments are those of `Question`.
    """
    asked = Question(denoiser, x0, running, u.view(len(x0), -1), rng, valid, unseen)
    steps = timesteps or process.timesteps
    return in_steps(process, asked, steps) if steps else in_continuous_time(process, asked)


@ByKind
def lost(process: Process, t: Tensor) -> Tensor:
    """The share of the text that is lost at t, (...): 1 - alpha, or of what its modes tell together."""
    return process.schedule.lost(t)


@lost.register(Generator)
def _(process: Generator, t: Tensor) -> Tensor:
    return process.even.when(process.schedule.lost(t))


@ByKind
def when(process: Process, share: Tensor) -> Tensor:
    """The time, (...), at which as large a share is lost."""
    return process.schedule.when(share)


@when.register(Generator)
def _(process: Generator, share: Tensor) -> Tensor:
    return process.schedule.when(process.even.lost(share))


@ByKind
def in_continuous_time(process: Process, asked: Question) -> Nats:
    """The integral over time by importance: what is lost of the text (of most noise 1 - alpha) has the
    density 1/(2 sqrt lost), and the time is the one that has lost as much, whatever the schedule.

    A corrupted token near the clean end is rare but costs 1/lost, so even draws would have no finite
    variance. The strict bound ends with the reconstruction -ln p(x_0 | x_t) where 1e-4 is lost (or where the
    published integral begins, if that is earlier), and begins with the prior term.
    """
    ends = torch.tensor([FIRST, PUBLISHED_FROM, 1.0], dtype=torch.float64)
    jump, begun, end = lost(process, ends)  # some schedules begin with a jump, and no time has lost less
    low = begun.clamp(max=EARLIEST).clamp(min=(1 + 1e-6) * jump).sqrt()
    width = (end.sqrt() - low).clamp(min=0)
    first = asked.u < RECONSTRUCTION_SHARE
    root = low + width * ((asked.u - RECONSTRUCTION_SHARE) / (1 - RECONSTRUCTION_SHARE)).clamp(min=0)
    t = when(process, root**2)
    slope = with_slope(lambda t: lost(process, t), t)[1]
    weight = torch.where(
        first, 1 / RECONSTRUCTION_SHARE, 2 * root * width / (1 - RECONSTRUCTION_SHARE) / slope
    )
    clock = asked.clock(t)
    xt = process.noise(asked.x0, clock, asked.rng)
    rows = asked.unknown(process, xt, clock)
    log_p0 = asked.ask(process, xt, clock, rows)
    clean, noisy, now = asked.x0[rows], xt[rows], clock[rows]
    early = asked.everywhere(first)[rows]
    late = ~early
    found = torch.zeros(len(clean), dtype=torch.float64, device=clean.device)
    found[late] = elbo(process, log_p0[late], clean[late], noisy[late], now[late])
    start = torch.zeros_like(now[early])
    found[early] = elbo_step(process, log_p0[early], clean[early], noisy[early], start, now[early])
    cost = asked.spread(found, rows, weight)
    published = asked.everywhere(~first & (t >= PUBLISHED_FROM))
    prior = _prior(process, asked)
    return Nats(cost + prior, torch.where(published, cost, 0.0), prior, _bin(t))


@in_continuous_time.register(Absorbing)
def _(process: Absorbing, asked: Question) -> Nats:
    """The per-count form: n of a block's N running positions masked, n even on 1..N, cost times N / n.

    Equal to the continuous bound in the mean, with less variance, and nothing left out at t = 0 (the bound of
    any-order autoregression, ARDM, arXiv:2110.02037). P(Binomial(N, 1 - alpha_t) >= n) of a draw with n masks
    belongs to times before t: all of it before t = 1, unless the schedule ends above 0.

    A network that reads time is told the one at which as large a share is masked in the mean, as adaptive
    samplers tell it: for such a network this is the bound of a model clocked by its count.
    """
    x0, blocks = asked.x0, (*asked.u.shape, -1)
    running = asked.running.view(blocks)
    total = running.sum(-1)
    count = (1 + (asked.u.to(x0.device) * total).long()).clamp(max=total.clamp(min=1))
    chance = asked.rng.uniform(x0.shape[1]).to(x0.device).view(blocks)
    order = chance.masked_fill(~running, 2.0).argsort(-1).argsort(-1)
    hidden = (running & (order < count[..., None])).view(x0.shape)
    masked = hidden if asked.unseen is None else hidden | asked.unseen
    share = count.double() / total.clamp(min=1)
    clock = asked.clock(process.schedule.when(share))
    log_p0 = asked.ask(process, x0.masked_fill(masked, process.mask_id), clock, hidden)
    cost = asked.spread(-at(log_p0, x0[hidden]), hidden, 1 / share)
    edges = torch.tensor([*(i / BINS for i in range(BINS + 1)), PUBLISHED_FROM], dtype=torch.float64)
    *before, early = (_at_least(count, total, p) for p in process.schedule.lost(edges).tolist())
    every = before[-1]
    when = torch.stack(before, -1).diff() / every[..., None].clamp(min=torch.finfo(every.dtype).tiny)
    strict, published = (cost * asked.everywhere(part) for part in (every, every - early))
    prior = _prior(process, asked)
    return Nats(strict + prior, published, prior, when, share)


@in_continuous_time.register(Autoregressive)
def _(process: Autoregressive, asked: Question) -> Nats:
    """-ln p(x_i | x_1 ... x_{i-1}) itself: no bound, no chance."""
    log_p0 = asked.ask(process, asked.x0, asked.running.double(), asked.running)
    cost = asked.spread(-at(log_p0, asked.x0[asked.running]), asked.running, torch.ones_like(asked.u))
    return Nats(cost, cost, torch.zeros_like(cost))


def in_steps(process: Process, asked: Question, timesteps: int) -> Nats:
    """A random one of T steps, the first (reconstruction) included, and the prior term.

    Step k is chosen with a chance proportional to the rise of sqrt(lost) over it, for the reason above.
    D3PM (arXiv:2107.03006) reports all of the terms, so both ways of counting agree.
    """
    objective = DiscreteElbo(timesteps)
    end = lost(process, torch.ones((), dtype=torch.float64))
    t = objective.times(when(process, end * asked.u**2))
    chance = (lost(process, t).sqrt() - lost(process, objective.before(t)).sqrt()) / end.sqrt()
    clock = asked.clock(t)
    xt = process.noise(asked.x0, clock, asked.rng)
    rows = asked.unknown(process, xt, clock)
    found = objective(process, asked.ask(process, xt, clock, rows), asked.x0[rows], xt[rows], clock[rows])
    prior = _prior(process, asked)
    cost = asked.spread(found, rows, 1 / (timesteps * chance)) + prior
    return Nats(cost, cost, prior, _bin(t - 0.5 / timesteps))


def _prior(process: Process, asked: Question) -> Tensor:
    return torch.where(asked.running, prior_term(process, asked.x0), 0.0)


def _bin(t: Tensor) -> Tensor:
    """Which of the BINS a time in (0, 1] is in: (...) -> (..., BINS) float64."""
    return F.one_hot((t * BINS).long().clamp(max=BINS - 1), BINS).double()


def _at_least(count: Tensor, total: Tensor, p: float) -> Tensor:
    """P(Binomial(total, p) >= count), float64, of the same shape as count and total."""
    fewer = torch.arange(int(count.max()), device=count.device).double().view(-1, *(1,) * count.ndim)
    share = torch.tensor(p, dtype=torch.float64, device=count.device)
    law = torch.distributions.Binomial(total.double(), share, validate_args=False)
    chance = torch.where(fewer < count, law.log_prob(fewer).exp(), 0.0)
    return (1 - chance.sum(0)).clamp(min=0)
