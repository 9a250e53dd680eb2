"""Beliefs reshaped: sharpened, cut to likely tokens, or conditioned on which tokens may stand at a place.

Legend: B sequences, L positions, N positions asked for, V states. Each is a `Shape`: a function of beliefs
(N, V) and of where they stand, the tokens xt and clocks t and the positions asked for, `rows`, (B, L) each.
Conditions belong to the belief (`Shaped` makes a denoiser of them); temperature and cuts
only to the draw: samplers choose positions by what is believed, and draw tokens by what is made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .process import Process, clean_posterior, one_hot
from .randomness import LOG_ZERO
from .sampler import Shape


@dataclass(frozen=True)
class Shaped:
    """A denoiser whose beliefs are reshaped."""

    denoiser: Denoiser
    shape: Shape

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        return self.shape(self.denoiser(xt, t, rows, valid, **told), xt, t, rows)


@dataclass(frozen=True)
class InTurn:
    """One shape after the other; none leaves beliefs as they are."""

    shapes: Sequence[Shape]

    def __call__(self, log_p0: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        for shape in self.shapes:
            log_p0 = shape(log_p0, xt, t, rows)
        return log_p0


# -- how tokens are drawn ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Temperature:
    """Sharpened (temperature < 1) or flattened (> 1); 0 leaves only the likeliest token."""

    temperature: float

    def __call__(self, log_p0: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        if self.temperature == 0:
            best = torch.full_like(log_p0, LOG_ZERO)
            return best.scatter(-1, log_p0.argmax(-1, keepdim=True), 0.0)
        return (log_p0 / self.temperature).log_softmax(-1)


@dataclass(frozen=True)
class TopK:
    """The k likeliest tokens alone."""

    k: int

    def __call__(self, log_p0: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        likeliest = log_p0.topk(min(self.k, log_p0.shape[-1]), -1)
        kept = torch.full_like(log_p0, LOG_ZERO).scatter(-1, likeliest.indices, likeliest.values)
        return kept.log_softmax(-1)


@dataclass(frozen=True)
class TopP:
    """Nucleus: the likeliest tokens that together reach probability p, the crossing one kept."""

    p: float

    def __call__(self, log_p0: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        ranked, order = log_p0.sort(-1, descending=True)
        before = ranked.exp().cumsum(-1) - ranked.exp()
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.p)
        return log_p0.masked_fill(dropped, LOG_ZERO).log_softmax(-1)


@dataclass(frozen=True)
class GreedyTail:
    """From the time `last` on only the likeliest token by p(x_0 | x_t), the own token's say included.

    Takes the noise of the last draws away, and with it some of the variety (arXiv:2506.10892, section 4.3).
    """

    process: Process
    last: Tensor  # (B, L) float64, times from 0 to 1

    def __call__(self, log_p0: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        best = clean_posterior(self.process, log_p0, xt[rows], t[rows]).argmax(-1)
        sure = one_hot(best, log_p0.shape[-1], log_p0.dtype)
        return torch.where((t <= self.last.to(t) * (1 + 1e-9))[rows][:, None], sure, log_p0)


# -- what may stand at a place ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Without:
    """Given that certain tokens do not occur, such as an end of text inside a gap."""

    ids: Sequence[int]

    def __call__(self, log_p0: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        ids = torch.tensor(self.ids, device=log_p0.device)
        return log_p0.index_fill(-1, ids, LOG_ZERO).log_softmax(-1)


@dataclass(frozen=True)
class Among:
    """Given that some positions hold one of certain tokens, as those that begin with some bytes."""

    allowed: Sequence[Mapping[int, Tensor]]  # (B,) by position, (V,) bool: the ids that may stand there

    def __call__(self, log_p0: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        fitting = [self.allowed[sequence].get(place) for sequence, place in rows.nonzero().tolist()]
        bound = [number for number, fits in enumerate(fitting) if fits is not None]
        if not bound:
            return log_p0
        fits = torch.stack([fits for fits in fitting if fits is not None]).to(log_p0.device)
        log_p0 = log_p0.clone()
        log_p0[bound] = log_p0[bound].masked_fill(~fits, LOG_ZERO).log_softmax(-1)
        return log_p0
