"""Objectives: what a denoiser's belief about x_0 costs, in nats per position.

Legend as in `process`: `...` any leading shape, V states. `log_p0` (..., V) is the leave-one-out belief, x0
and xt (...) tokens, t (...) clocks. Only unknown positions cost anything; elsewhere an objective is 0. The
caller sums, and divides by the number of valid (not of noisy) tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import YOUR_OWN, DdcliError, alone, unknown
from .process import (
    Absorbing,
    Autoregressive,
    ByKind,
    Interpolating,
    Process,
    at,
    clean_posterior,
    log,
    log_ratios,
    one_hot,
    posterior,
    refuse_order,
)

STEPS = 256  # T, if nobody says


# of logits (N, V), x_t and t (N,): (N, V)
Reading = Callable[[Process, Tensor, Tensor, Tensor], Tensor]


class Reader(Protocol):
    """The ways to read a head's logits, of which an objective chooses one."""

    @property
    def belief(self) -> Reading: ...
    @property
    def posterior(self) -> Reading: ...
    @property
    def score(self) -> Reading: ...


class Objective(Protocol):
    @property
    def timesteps(self) -> int | None:
        """T, where the objective knows the times 1/T, ..., 1 alone; None in continuous time."""

    @property
    def teaches(self) -> str:
        """What the head of a network comes to mean, if the user does not say: a name of `HEADS`."""

    def reads(self, head: Reader) -> Reading:
        """What of a head it is given, as `log_p`: its belief, its posterior or its score."""

    def check(self, process: Process) -> None:
        """Raise DdcliError where the objective cannot train with the process."""

    def times(self, t: Tensor) -> Tensor:
        """The clocks, near t in (0, 1], at which this objective can be evaluated."""

    def __call__(self, process: Process, log_p: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Loss in nats, (...); its mean over even times is the bound (or what stands for it)."""


# -- continuous time --------------------------------------------------------------------------------------


def general_score_entropy(process: Process, log_score: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Minus the ELBO density at t, for any process and any score s_y ~ p_t(y) / p_t(xt), log (..., V).

    sum over y != xt of R_t(y -> xt) [s_y - r_y + r_y (ln r_y - ln s_y)], r the score given x_0
    (SEDD, arXiv:2310.16834, eq. 9).
    """
    rate = process.rate(xt, t).to(log_score)
    log_true = log_ratios(process, one_hot(x0, log_score.shape[-1], log_score.dtype), xt, t)
    # a state that nothing comes from may have a score beyond any number, and 0 times that is none
    log_true, log_score = (torch.where(rate > 0, x, 0.0) for x in (log_true, log_score))
    true = log_true.exp()
    gap = log_score.exp() - true + true * (log_true - log_score)
    return (rate * gap).sum(-1)


@ByKind
def score_entropy(process: Process, log_score: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Minus the ELBO density at t, (...), of a score (..., V), by the cheapest form there is."""
    return general_score_entropy(process, log_score, x0, xt, t)


@score_entropy.register(Interpolating)
def _(process: Interpolating, log_score: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """R_t(-> z) [sum s_y - (1 - q_z)/q_z + sum q_y (ln q_y - ln q_z - ln s_y)/q_z], over all y but z = x_t.
    Here q = alpha x_0 + m.

    Tokens turn into z from everywhere alike, and m is a mixture of a few laws; so of a row it needs the sum
    of s, the mean of ln s under each law, and ln s at x_0 and z.
    """
    z = xt[..., None]
    log_s = log_score.double().scatter(-1, z, 0.0)
    into, (alpha, m_x), m_z = process.into(xt, t), process.mix_at(x0, t), process.mix_at(xt, t)[1]
    moving = into > 0
    kept, lost = torch.where(x0 == xt, alpha, 0.0), process.shares(t)[1].sum(-1)
    q_x, q_z = alpha + m_x, torch.where(moving, kept + m_z, 1.0)
    others = (alpha - kept) + (lost - m_z)  # 1 - q_z, with its digits
    said = alpha * at(log_s, x0) + process.mean_of_noise(log_s, t)
    own = torch.xlogy(q_x, q_x) - torch.xlogy(m_x, m_x) + process.order(t) - torch.xlogy(q_z, q_z)
    s = log_s.exp().scatter(-1, z, 0.0).sum(-1)
    gap = s + (own - said - others * (1 + q_z.log())) / q_z
    return torch.where(moving, into * gap, 0.0).to(log_score)


def general_elbo(process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Minus the ELBO density at t, (...): the rate form, which holds for every process."""
    log_score = log_ratios(process, log_p0.double(), xt, t)  # float32 ends at e^88
    return general_score_entropy(process, log_score, x0, xt, t).to(log_p0)


@ByKind
def elbo(process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Minus the ELBO density at t, (...), by the cheapest form there is for the process."""
    return torch.where(process.unknown(xt, t), general_elbo(process, log_p0, x0, xt, t), 0.0)


@elbo.register(Absorbing)
def _(process: Absorbing, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """-alpha'/(1 - alpha) times the cross-entropy at masks (MDLM, arXiv:2406.07524, eq. 10)."""
    return torch.where(process.unknown(xt, t), -process.loss_weight(t).to(log_p0) * at(log_p0, x0), 0.0)


@elbo.register(Autoregressive)
def _(process: Autoregressive, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """-ln p(x_i | x_1 ... x_{i-1})."""
    return -at(log_p0, x0)


@elbo.register(Interpolating)
def _(process: Interpolating, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """w [KL(q || q') + r - ln r - 1], with q = alpha x_0 + m, q' = alpha p_0 + m, z = x_t and r = q_z / q'_z.

    w = R_t(-> z) / q_z (GIDD, arXiv:2503.04482, theorem 3.1). Of a row it needs sum_j m_j ln(q'_j / m_j), and
    ln q' at x_0 and z: no one-hots. For uniform noise this is the closed form of UDLM (arXiv:2412.10193) and
    Duo (arXiv:2506.10892), at every point.
    """
    moving = process.unknown(xt, t)
    # scalars stay float64: 1 - alpha has no digits left in float32 where t is small
    (alpha, m_x), m_z = process.mix_at(x0, t), process.mix_at(xt, t)[1]
    q_z = torch.where(x0 == xt, alpha, 0.0) + m_z
    mixed_x, mixed_z = (
        torch.logaddexp(log(alpha) + at(log_p0, y).double(), log(m)) for y, m in ((x0, m_x), (xt, m_z))
    )
    # in proportion to m: where alpha is small, float32 cannot tell ln q'_j from ln m_j
    over_m = F.softplus(log_p0 + log(alpha).to(log_p0)[..., None] - process.log_mix(t, log_p0.dtype))
    base = torch.where(m_x > 0, log(m_x), 0.0)
    own = (alpha + m_x) * (log(alpha + m_x) - base) - alpha * (mixed_x - base)
    kl = own - process.mean_of_noise(over_m, t).double()
    log_r = torch.where(moving, q_z.log() - mixed_z, 0.0)
    weight = torch.where(moving, process.into(xt, t) / q_z, 0.0)
    return (weight * torch.where(moving, kl + torch.expm1(log_r) - log_r, 0.0)).to(log_p0)


@dataclass(frozen=True)
class ContinuousElbo:
    """Minus the ELBO in continuous time: the tightest bound of a process, free of any number of steps."""

    timesteps: None = None
    teaches: str = "leave-one-out"

    def reads(self, head: Reader) -> Reading:
        return head.belief

    def check(self, process: Process) -> None:
        if process.timesteps is not None:
            raise DdcliError(
                "noise given as steps has no rate, so no bound in continuous time; "
                "use --objective discrete-elbo"
            )

    def times(self, t: Tensor) -> Tensor:
        return t

    def __call__(self, process: Process, log_p: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        return elbo(process, log_p, x0, xt, t)


HIGHEST_SCORE = 60.0  # nats


@dataclass(frozen=True)
class ScoreEntropy(ContinuousElbo):
    """Minus the ELBO of a score that need not be any belief's: a head that puts out ln p_t(y) / p_t(x_t).

    SEDD, arXiv:2310.16834. With a head of another meaning it is the continuous ELBO itself.
    """

    teaches: str = "score"

    def reads(self, head: Reader) -> Reading:
        return head.score

    def check(self, process: Process) -> None:
        super().check(process)
        refuse_order(process, "use --objective elbo")

    def __call__(self, process: Process, log_p: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        # no softmax bounds a score, and training must survive a wild one
        nats = score_entropy(process, log_p.double().clamp(max=HIGHEST_SCORE), x0, xt, t)
        return torch.where(process.unknown(xt, t), nats, 0.0).to(log_p)


# -- T steps ----------------------------------------------------------------------------------------------


def general_elbo_step(
    process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, s: Tensor, t: Tensor
) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), (...): one term of the T-step bound (D3PM, arXiv:2107.03006).

    At s = 0 it is the reconstruction term, -ln p(x_0 | x_t).
    """
    log_q = posterior(process, one_hot(x0, log_p0.shape[-1], log_p0.dtype), xt, s, t)
    log_p = posterior(process, log_p0, xt, s, t)
    # sum q (r - 1 - ln r), r = p / q: in a short step r is next to 1, and its error in float32 is squared so
    q, gap = log_q.exp(), log_p - log_q
    more = torch.where(gap < 1, q * torch.expm1(gap.clamp(max=1)), log_p.exp() - q)
    return (more - q * gap).sum(-1)


@ByKind
def elbo_step(process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """One term of the T-step bound, (...), by the cheapest form there is for the process."""
    return general_elbo_step(process, log_p0, x0, xt, s, t)


@elbo_step.register(Absorbing)
def _(process: Absorbing, log_p0: Tensor, x0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """(alpha_s - alpha_t)/(1 - alpha_t) times the cross-entropy at masks (MDLM, arXiv:2406.07524, eq. 8)."""
    return -process.opening(xt, s, t).to(log_p0) * at(log_p0, x0)


def _refuse_other_steps(process: Process, timesteps: int | None) -> None:
    if process.timesteps not in (None, timesteps):
        raise DdcliError(
            f"the noise has {process.timesteps} steps, but the objective {timesteps}; "
            f"use --timesteps {process.timesteps}"
        )


def _next_step(t: Tensor, timesteps: int) -> Tensor:
    """The first of the times 1/T, ..., 1 that is not before t."""
    return (t * timesteps).ceil().clamp(min=1) / timesteps


@dataclass(frozen=True)
class DiscreteElbo:
    """Minus the ELBO of a chain of T steps, reconstruction included; a random step stands for all of them.

    The prior term, which no network changes, is left to `likelihood`.
    """

    timesteps: int = STEPS
    teaches: str = "leave-one-out"

    def reads(self, head: Reader) -> Reading:
        return head.belief

    def check(self, process: Process) -> None:
        refuse_order(process, "use --objective elbo")
        _refuse_other_steps(process, self.timesteps)

    def times(self, t: Tensor) -> Tensor:
        return _next_step(t, self.timesteps)

    def before(self, t: Tensor) -> Tensor:
        """The clock one step before each clock t > 0 of the chain."""
        return ((t * self.timesteps).round() - 1).clamp(min=0) / self.timesteps

    def __call__(self, process: Process, log_p: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        step = elbo_step(process, log_p, x0, xt, self.before(t), t)
        return torch.where(process.unknown(xt, t), self.timesteps * step, 0.0)


# -- cross-entropies --------------------------------------------------------------------------------------


def cross_entropy(process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """-ln p(x_0 | x_t), (...), by the *posterior*: the belief of the others times q(x_t | x_0).

    For uniform noise over K symbols the own token's logit gains ln(1 + K alpha / (1 - alpha)).
    """
    return -at(clean_posterior(process, log_p0, xt, t), x0)


@dataclass(frozen=True)
class CrossEntropy:
    """Every unknown position counts alike: the masked ones, or all of them where noise leaves tokens visible.

    No bound: the weights over time are flat. (MaskGIT, arXiv:2202.04200, for masks; for uniform noise at all
    positions it trains the posterior.) At all times, or at those of a chain of steps.
    """

    timesteps: int | None = None
    teaches: str = "posterior"

    def reads(self, head: Reader) -> Reading:
        return head.posterior

    def check(self, process: Process) -> None:
        refuse_order(process, "use --objective elbo")
        _refuse_other_steps(process, self.timesteps)

    def times(self, t: Tensor) -> Tensor:
        return t if self.timesteps is None else _next_step(t, self.timesteps)

    def __call__(self, process: Process, log_p: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        return torch.where(process.unknown(xt, t), -at(log_p, x0), 0.0)


@dataclass(frozen=True)
class D3pmHybrid(DiscreteElbo):
    """The T-step bound plus `share` times the cross-entropy of the posterior (D3PM, arXiv:2107.03006, eq. 5).

    D3PM's is that of the prediction it also puts into the posterior, as a leave-one-out belief. For masks the
    two are one; where tokens stay visible they are not, and short of certainty nothing minimises both terms.
    """

    share: float = field(default=0.01, kw_only=True)

    def __call__(self, process: Process, log_p: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        auxiliary = torch.where(process.unknown(xt, t), cross_entropy(process, log_p, x0, xt, t), 0.0)
        return super().__call__(process, log_p, x0, xt, t) + self.share * auxiliary


def _d3pm_hybrid(timesteps: int | None, parameter: str) -> D3pmHybrid:
    try:
        share = float(parameter or "0.01")
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise DdcliError(f"d3pm-hybrid takes the weight of its cross-entropy, not {parameter!r}")
    return D3pmHybrid(timesteps or STEPS, share=share)


# from the number of steps T, if it is told, which continuous time has no use for; and what follows the name
# after a colon
OBJECTIVES: dict[str, Callable[[int | None, str], Objective]] = {
    "elbo": alone("the objective elbo", lambda timesteps: ContinuousElbo()),
    "discrete-elbo": alone("the objective discrete-elbo", lambda timesteps: DiscreteElbo(timesteps or STEPS)),
    "d3pm-hybrid": _d3pm_hybrid,
    "score-entropy": alone("the objective score-entropy", lambda timesteps: ScoreEntropy()),
    "cross-entropy": alone("the objective cross-entropy", CrossEntropy),
}


def default_objective(process: Process) -> str:
    """What a network learns fastest with: the bound where noise only hides.

    Where it leaves tokens visible, a network has to find out which to trust. Told to ignore its own token, as
    the bound's belief asks, it is slow to; the posterior, trained by cross-entropy, is not (docs/log.md).
    """
    if process.timesteps is not None:
        return "discrete-elbo"
    return "cross-entropy" if isinstance(process, Interpolating) and process.needs_clock else "elbo"


def make_objective(spec: str, timesteps: int | None, process: Process) -> Objective:
    """An objective by its name, for a process: `elbo`, `d3pm-hybrid:0.01`; `auto` is `default_objective`.

    timesteps: T where the objective has one; None is the process's own, or else 256 for a bound of steps, and
    all times for cross-entropy. Raises DdcliError for what is none, or cannot train with the process.
    """
    check_objective(spec)
    name, _, parameter = (default_objective(process) if spec == "auto" else spec).partition(":")
    objective = OBJECTIVES[name](timesteps or process.timesteps, parameter)
    objective.check(process)
    return objective


def check_objective(spec: str) -> None:
    """Raises DdcliError for an objective there is none of."""
    name = spec.partition(":")[0]
    if spec != "auto" and name not in OBJECTIVES:
        raise unknown("objective", spec if name == "auto" else name, ["auto", *OBJECTIVES], YOUR_OWN)
