"""The noise as matrices over an alphabet that is small enough to be read.

Legend: V states of the chain, K states of the small alphabet.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..process import Process, prior
from .parts import Chain
from .transition import F64, Transition, transition

ALPHABET = 32  # states of the largest matrix one can read
STEPS = 10  # matrices of a chain: with more, each single step looks like the identity


def chain_of(process: Process, p0: Tensor, times: Sequence[float]) -> Chain:
    """Over every state the chain reaches or, where these are too many, over the text's own and the mask.

    The rest is then lumped into one state.
    """
    shown = even([t for t in times if t > 0], STEPS)
    steps = [transition(process, s, t) for s, t in pairwise([0.0, *shown])]
    products = [transition(process, 0.0, t) for t in shown]
    reached = _reached(p0, [*steps, *products])
    chosen = reached
    if reached.sum() > ALPHABET:
        own = (p0 > 0) | (reached & ~process.vocabulary.is_text)
        weight = p0 + prior(process).exp()  # of symbols that noise likes alike, the frequent come first
        best = torch.where(own, weight, 0.0).argsort(descending=True, stable=True)[: ALPHABET - 1]
        chosen = torch.zeros_like(own).index_fill(0, best, True) & own
    states, others = chosen.nonzero()[:, 0], (reached & ~chosen).nonzero()[:, 0]
    return Chain(
        states=states.tolist(),
        lumped=len(others),
        times=shown,
        steps=[_matrix(q, states, others) for q in steps],
        products=[_matrix(q, states, others) for q in products],
        limit=_lumped(prior(process).exp(), states, others),
    )


def even(times: Sequence[float], count: int) -> list[float]:
    """At most `count` of rising times, those nearest to equal steps from 0 to the last."""
    if len(times) <= count:
        return list(times)
    wanted = (times[-1] * k / count for k in range(1, count + 1))
    return list(dict.fromkeys(min(times, key=lambda t: abs(t - at)) for at in wanted))


def _lumped(p: Tensor, states: Tensor, others: Tensor) -> list[float]:
    return [*p[states].tolist(), *([p[others].sum().item()] if len(others) else [])]


def _reached(p0: Tensor, transitions: Sequence[Transition]) -> Tensor:
    """Symbols, (V,) bool, that the transitions lead to from those of the text, in whatever order."""
    reached = p0 > 0
    while True:
        mass = reached.to(F64)
        grown = sum((q.law(mass) for q in transitions), start=mass) > 0
        if grown.equal(reached):
            return reached
        reached = grown


def _matrix(q: Transition, states: Tensor, others: Tensor) -> list[list[float]]:
    """q(x_t = i | x_s = j) over the states, and all the others as one more."""
    into = q.rows(states)  # (K, V): to a state, from any id
    if not len(others):
        return into[:, states].tolist()
    rows = torch.cat([into[:, states], into[:, others].mean(1, keepdim=True)], 1)
    return torch.cat([rows, (1 - rows.sum(0, keepdim=True)).clamp(min=0)]).tolist()
