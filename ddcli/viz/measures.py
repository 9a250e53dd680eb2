"""What noise leaves of a text, in figures."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..process import Masking, Process, prior
from .parts import Measures
from .transition import F64, signal, transition

BITS = 1 / math.log(2)  # bits in a nat


def measure(process: Process, p0: Tensor, clean: Tensor, times: Iterable[float]) -> dict[float, Measures]:
    """The figures of each time, for a text with unigram law p0 (V,) that starts with the ids clean (L,)."""
    pi = prior(process).exp()
    return {t: _measure(process, p0, clean, pi, t) for t in times}


def _measure(process: Process, p0: Tensor, clean: Tensor, pi: Tensor, t: float) -> Measures:
    q = transition(process, 0.0, t)
    entropy = torch.special.entr(q.law(p0)).sum()
    alpha, weight = signal(process, torch.tensor(t, dtype=F64))
    mask = process.vocabulary.mask_id
    mixed = mask is not None and pi[mask] > 0 and not isinstance(process, Masking)
    return Measures(
        t=t,
        alpha=alpha,
        noise=(1 - q.stays[clean].mean()).clamp(min=0).item(),
        masks=q.law(p0)[mask].item() if mixed else None,
        weight=weight,
        information=(entropy - p0 @ q.entropies()).clamp(min=0).item() * BITS,
        entropy=entropy.item() * BITS,
        distance=q.distances(pi)[p0 > 0].max().item(),
    )
