"""Objectives: what a denoiser's belief about x_0 costs, in nats per position.

Legend as in `process`: `...` any leading shape, V states. `log_p0` (..., V) is the leave-one-out belief, x0
and xt (...) tokens, t (...) clocks. Only unknown positions cost anything; elsewhere an objective is 0. The
caller sums, and divides by the number of valid (not of noisy) tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Protocol

import torch
from torch import Tensor

from .process import Absorbing, Process, Uniform, at, one_hot, posterior
from .schedule import with_slope


class Objective(Protocol):
    def times(self, t: Tensor) -> Tensor:
        """The clocks, near t in (0, 1], at which this objective can be evaluated."""

    def __call__(self, process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Loss in nats, (...); its mean over even times is the bound (or what stands for it)."""


# -- continuous time --------------------------------------------------------------------------------------


def score_entropy(process: Process, log_score: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Minus the ELBO density at t, for any process and any score s_y ~ p_t(y) / p_t(xt), log (..., V).

    sum over y != xt of R_t(y -> xt) [s_y - r_y + r_y (ln r_y - ln s_y)], r the score given x_0
    (SEDD, arXiv:2310.16834, eq. 9).
    """
    log_true = log_ratios(process, one_hot(x0, process.vocab_size, log_score.dtype), xt, t)
    true = log_true.exp()
    gap = log_score.exp() - true + true * (log_true - log_score)
    return (process.rate(xt, t).to(gap) * gap).sum(-1)


def log_ratios(process: Process, log_p0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """ln p_t(y) - ln p_t(xt) for every y, (..., V): the concrete score of a belief."""
    log_p = process.marginal(log_p0, t)
    return log_p - at(log_p, xt)[..., None]


def general_elbo(process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Minus the ELBO density at t, (...): the rate form, which holds for every process."""
    return score_entropy(process, log_ratios(process, log_p0, xt, t), x0, xt, t)


@singledispatch
def elbo(process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Minus the ELBO density at t, (...), by the cheapest form there is for the process."""
    return general_elbo(process, log_p0, x0, xt, t)


@elbo.register
def _(process: Absorbing, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """-alpha'/(1 - alpha) times the cross-entropy at masks (MDLM, arXiv:2406.07524, eq. 10)."""
    return torch.where(process.unknown(xt, t), -process.loss_weight(t).to(log_p0) * at(log_p0, x0), 0.0)


@elbo.register
def _(process: Uniform, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """The closed form without one-hots (Duo, arXiv:2506.10892), which needs three numbers of a row.

    With xt_j = K alpha p0_j + 1 - alpha over the K states: sum_j ln xt_j, ln xt_x and ln xt_z, where x is
    the clean token and z the noisy one. kappa = (1 - alpha) / (K alpha + 1 - alpha).
    """
    k = len(process.states)
    alpha, slope = with_slope(process.schedule.alpha, t)
    weight = (slope / (k * alpha)).to(log_p0)
    signal = (k * alpha / (1 - alpha)).to(log_p0)
    # in float64 up to here: 1 - alpha has no digits left in float32 where t is small
    log_noise, log_signal, log_clean = (
        x.log().to(log_p0) for x in (1 - alpha, k * alpha, k * alpha + 1 - alpha)
    )
    mixed = torch.logaddexp(log_p0 + log_signal[..., None], log_noise[..., None])
    mixed_x, mixed_z = at(mixed, x0), at(mixed, xt)
    # ids outside the chain have no noise term; a belief puts nothing on them, so each counts ln(1 - alpha)
    total = mixed.sum(-1) - (process.vocab_size - k) * log_noise
    log_kappa = log_noise - log_clean
    kappa, same = log_kappa.exp(), (x0 == xt).to(log_p0)
    spread = -(same * kappa + 1 - same) * (total - k * mixed_z)
    pull = -(1 - same) * signal * (mixed_x - mixed_z)
    constant = ((k - 1) * kappa * same - (1 - same) / kappa) * log_kappa
    noisy_clean = torch.where(same.bool(), log_clean, log_noise)
    bracket = k * (-noisy_clean).exp() - k * (-mixed_z).exp() - (spread + pull + constant)
    return torch.where(process.unknown(xt, t), weight * bracket, 0.0)


@dataclass(frozen=True)
class ContinuousElbo:
    """Minus the ELBO in continuous time: the tightest bound of a process, free of any number of steps."""

    def times(self, t: Tensor) -> Tensor:
        return t

    def __call__(self, process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        return elbo(process, log_p0, x0, xt, t)


# -- T steps ----------------------------------------------------------------------------------------------


def general_elbo_step(
    process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, s: Tensor, t: Tensor
) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), (...): one term of the T-step bound (D3PM, arXiv:2107.03006).

    At s = 0 it is the reconstruction term, -ln p(x_0 | x_t).
    """
    log_q = posterior(process, one_hot(x0, process.vocab_size, log_p0.dtype), xt, s, t)
    log_p = posterior(process, log_p0, xt, s, t)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


@singledispatch
def elbo_step(process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """One term of the T-step bound, (...), by the cheapest form there is for the process."""
    return general_elbo_step(process, log_p0, x0, xt, s, t)


@elbo_step.register
def _(process: Absorbing, log_p0: Tensor, x0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """(alpha_s - alpha_t)/(1 - alpha_t) times the cross-entropy at masks (MDLM, arXiv:2406.07524, eq. 8)."""
    return -process.opening(xt, s, t).to(log_p0) * at(log_p0, x0)


@dataclass(frozen=True)
class DiscreteElbo:
    """Minus the ELBO of a chain of T steps, reconstruction included; a random step stands for all of them.

    No prior term: every schedule here reaches alpha(1) = 0, where q(x_1 | x_0) is the prior itself.
    """

    timesteps: int = 256

    def times(self, t: Tensor) -> Tensor:
        return (t * self.timesteps).ceil().clamp(min=1) / self.timesteps

    def __call__(self, process: Process, log_p0: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        s = (t - 1 / self.timesteps).clamp(min=0)
        s = torch.where(s < 0.5 / self.timesteps, 0.0, s)  # rounding must not make a step before the first
        step = elbo_step(process, log_p0, x0, xt, s, t)
        return torch.where(process.unknown(xt, t), self.timesteps * step, 0.0)


# from the number of steps T, which continuous time has no use for
OBJECTIVES: dict[str, Callable[[int], Objective]] = {
    "elbo": lambda timesteps: ContinuousElbo(),
    "discrete-elbo": DiscreteElbo,
}
