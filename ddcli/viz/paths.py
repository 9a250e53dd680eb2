"""Tokens over time: a path of noise, its Gaussian twin, and the way back that a model took.

Legend: L tokens, times t from 0 (clean) to 1 (noise).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..process import Process
from ..randomness import Streams, derive_seed
from ..trace import Begin, Moment, Recording
from .measures import BITS
from .parts import Believed, Denoised, Event, Measures, Noised, State, Track, Values, spread
from .transition import F64, transition

SHOWN = 2000  # tokens of a text that are drawn; a browser still moves them fluidly
TWINS = 64  # tokens that have a Gaussian twin: more are no row one can read
FRAMES = 512  # steps of a way back that are drawn
BEFORE = 24  # tokens that are shown before the first one which a model wrote


def walk(process: Process, x0: Tensor, times: Sequence[float], rng: Streams) -> Iterator[Tensor]:
    """One path of the chain from x0 (L,) through increasing times: at each, x_t (L,) ~ q(x_t | x_s)."""
    x = x0
    for s, t in pairwise([0.0, *times]):
        x = transition(process, s, t).draw(x, *rng.uniform(2, len(x0))[0])
        yield x


def gaussian_walk(x: Tensor, alphas: Sequence[float], rng: Streams) -> Iterator[Tensor]:
    """One path of Gaussian noise from the values x (L,) through falling alphas: see `Values`."""
    z, before = x, 1.0
    for alpha in alphas:
        ratio = min(1.0, alpha / before) if before > 0 else 1.0
        eps = math.sqrt(2) * torch.erfinv(2 * rng.uniform(len(x))[0].clamp(min=1e-15) - 1)
        z, before = math.sqrt(ratio) * z + math.sqrt(1 - ratio) * eps, alpha
        yield z


def levels(ids: Tensor) -> Tensor:
    """Tokens (L,) as numbers (L,): each symbol a level, in the order of ids, of mean 0 and variance 1."""
    rank = ids.unique(return_inverse=True)[1].to(F64)
    spread_of = rank.std(correction=0)
    return (rank - rank.mean()) / spread_of if spread_of > 0 else rank - rank.mean()


def forward(
    name: str, process: Process, ids: Tensor, measured: Sequence[Measures], seed: int, mask_id: int
) -> Track:
    """The text, ids (L,), under noise at the times that were measured."""
    clean, rows = ids[:SHOWN], []
    path = walk(process, clean, [found.t for found in measured], Streams([seed]))
    for found, x in zip(measured, path, strict=True):
        states = np.select([x == clean, x == mask_id], [State.KEPT, State.MASKED], State.REPLACED)
        noise = (x != clean).double().mean().item()
        rows.append(Noised(found.t, noise, x.tolist(), "".join(states), found))
    return Track(f"{name} noise", len(ids), clean.tolist(), rows, values=_twin(ids, measured, seed))


def _twin(ids: Tensor, measured: Sequence[Measures], seed: int) -> Values | None:
    alphas = [found.alpha for found in measured if found.alpha is not None]
    if len(alphas) < len(measured):
        return None
    x = levels(ids)[:TWINS]
    path = gaussian_walk(x, alphas, Streams([derive_seed(seed, "gaussian")]))
    return Values(x.tolist(), [z.tolist() for z in path])


def backward(title: str, recording: Recording) -> Track:
    """The way back from noise that was recorded, from a little before the first token it changed.

    Steps in which nothing happened are left out.
    """
    length = len(recording.begin.tokens)
    changed = [i for moment in recording.moments for i in _changed(moment)]
    start = max(0, min(changed, default=0) - BEFORE) if length > 2 * BEFORE else 0
    shown = slice(start, start + SHOWN)
    rows, revised = list[Denoised](), 0
    *_, last = moments = (None, *recording.moments)
    for moment, x in zip(moments, recording.canvases(), strict=True):
        revised += len(moment.replaced) + len(moment.remasked) if moment else 0
        # in many steps with few masks most open none and ask nothing: there is nothing to see
        if moment is None or moment is last or _changed(moment) or moment.nfe > rows[-1].nfe:
            rows.append(_denoised(recording, moment, x, shown, revised))
    rows = spread(rows, FRAMES)
    events = [
        Event(moment.step, i - start, state, id, log_p)
        for moment in recording.moments
        for i, state, id, log_p in _events(moment, recording.mask)
        if start <= i < start + SHOWN
    ]
    beliefs = [
        Believed(
            moment.step,
            belief.at - start,
            max(0.0, belief.entropy * BITS),
            [(id, min(1.0, math.exp(log_p))) for id, log_p in belief.top],
        )
        for moment in recording.moments
        for belief in moment.beliefs
        if start <= belief.at < start + SHOWN
    ]
    return Track(title, length, rows[-1].tokens, rows, start, events=events, beliefs=beliefs)


def _changed(moment: Moment) -> list[int]:
    return [*(i for i, _, _ in (*moment.opened, *moment.replaced)), *moment.remasked]


def _events(moment: Moment, mask: int) -> Iterator[tuple[int, str, int, float | None]]:
    yield from ((i, State.OPENED, id, log_p) for i, id, log_p in moment.opened)
    yield from ((i, State.REPLACED, id, log_p) for i, id, log_p in moment.replaced)
    yield from ((i, State.REMASKED, mask, None) for i in moment.remasked)


def _denoised(
    recording: Recording, moment: Moment | None, x: np.ndarray, shown: slice, revised: int
) -> Denoised:
    line: Begin | Moment = moment or recording.begin
    clock = np.repeat([t for _, t in line.clock], [count for count, _ in line.clock])
    masked = x == recording.mask
    tentative = np.zeros(len(x), dtype=bool)
    for first, past in line.tentative:
        tentative[first:past] = True
    if recording.remasks:  # then what is visible may still be masked again
        tentative |= ~masked & (clock > 0) & (clock < 1)
    states = np.where(masked, State.MASKED, np.where(tentative, State.TENTATIVE, State.KEPT))
    for i, state, _, _ in _events(moment, recording.mask) if moment else ():
        states[i] = state
    return Denoised(
        t=float(clock.max()),
        noise=float((masked | tentative).mean()),
        tokens=x[shown].tolist(),
        states="".join(states[shown]),
        step=moment.step if moment else 0,
        nfe=line.nfe,
        masks=int(masked.sum()),
        revised=revised,
    )
