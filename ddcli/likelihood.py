"""Unbiased estimates of the bound on -ln p(x_0): what validation, evaluation and scores are made of.

Legend: B batch, L length. `running` (B, L) bool marks the positions whose likelihood is asked for; all others
are given, clean, and told to the network as such, so a bound may be that of a gap in its context.
"""

from functools import singledispatch

import torch
from torch import Tensor

from .denoiser import Denoiser
from .objective import elbo, elbo_step
from .process import Absorbing, Process, at
from .randomness import Streams

EARLIEST = 1e-4  # the continuous integral stops here; a reconstruction term covers the rest
RECONSTRUCTION_SHARE = 0.05  # of the draws


@singledispatch
def nelbo(
    process: Process,
    denoiser: Denoiser,
    x0: Tensor,
    running: Tensor,
    u: Tensor,
    rng: Streams,
    valid: Tensor | None = None,
    unseen: Tensor | None = None,
) -> Tensor:
    """One unbiased draw of minus the ELBO, over its positions: nats, (B, L) float64, 0 where given.

    `unseen` (B, L) positions are neither given nor asked for: pure noise. u (B,) in [0, 1) chooses the time
    of each sequence; stratified numbers lower the variance. Times are drawn with density 1/(2 sqrt t): a
    corrupted token near t = 0 is rare but costs 1/t, so even times would have no finite variance. The strict
    bound: it ends with the reconstruction -ln p(x_0 | x_t) at t = 1e-4; the prior term is 0, since
    alpha(1) = 0.
    """
    first = u < RECONSTRUCTION_SHARE
    low = EARLIEST**0.5
    root = low + (1 - low) * ((u - RECONSTRUCTION_SHARE) / (1 - RECONSTRUCTION_SHARE)).clamp(min=0)
    t = torch.where(first, EARLIEST, root**2)[:, None].to(x0.device)
    weight = torch.where(first, 1 / RECONSTRUCTION_SHARE, 2 * root * (1 - low) / (1 - RECONSTRUCTION_SHARE))
    clock = torch.where(running, t, 0.0 if unseen is None else unseen.double())
    xt = process.noise(x0, clock, rng)
    log_p0 = denoiser(xt, clock, running, valid).double()
    clean, noisy, now = x0[running], xt[running], clock[running]
    early = first.to(x0.device)[:, None].expand(running.shape)[running]
    late = ~early
    found = torch.zeros(len(clean), dtype=torch.float64, device=x0.device)
    found[late] = elbo(process, log_p0[late], clean[late], noisy[late], now[late])
    start = torch.zeros_like(now[early])
    found[early] = elbo_step(process, log_p0[early], clean[early], noisy[early], start, now[early])
    cost = torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
    cost[running] = found
    return cost * weight.to(x0.device)[:, None]


@nelbo.register
def _(
    process: Absorbing,
    denoiser: Denoiser,
    x0: Tensor,
    running: Tensor,
    u: Tensor,
    rng: Streams,
    valid: Tensor | None = None,
    unseen: Tensor | None = None,
) -> Tensor:
    """The per-count form: n of the N running positions masked, n even on 1..N, cross-entropy times N / n.

    Equal to the continuous bound in the mean whatever the schedule, with less variance, and nothing left out
    at t -> 0 (the bound of any-order autoregression, ARDM, arXiv:2110.02037).
    """
    total = running.sum(-1)
    count = (1 + (u.to(x0.device) * total).long()).clamp(max=total.clamp(min=1))
    order = rng.uniform(x0.shape[1]).to(x0.device).masked_fill(~running, 2.0).argsort(-1).argsort(-1)
    hidden = running & (order < count[:, None])
    clock = torch.where(running, (count / total.clamp(min=1))[:, None].double(), 0.0)
    masked = hidden if unseen is None else hidden | unseen
    log_p0 = denoiser(x0.masked_fill(masked, process.mask_id), clock, hidden, valid).double()
    cost = torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
    cost[hidden] = -at(log_p0, x0[hidden])
    return cost * (total / count)[:, None]
