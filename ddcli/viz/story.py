"""What a picture of noise shows, computed once: plain numbers and strings, which the renderers only lay out.

Legend: L tokens, V states of the chain, K states of a small alphabet, times t from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DdcliError
from ..process import Interpolating, Process
from ..randomness import LOG_ZERO, Streams, categorical

if TYPE_CHECKING:
    from ..generate import Frame
    from ..tokenizer import Tokenizer

SHOWN = 2000  # tokens of a text that are drawn; a browser still moves them fluidly
ALPHABET = 32  # states of the largest matrix one can read
STEPS = 10  # matrices of a chain: with more, each single step looks like the identity
CURVE = [i / 100 for i in range(101)]
PICTURES = {chr(c): chr(0x2400 + c) for c in range(32)}  # Unicode draws each control character
SIGNS = PICTURES | {"\x7f": "␡", "\n": "↵", "\t": "⇥"}

F64 = torch.float64
BITS = 1 / math.log(2)  # bits in a nat
T = TypeVar("T")


class State(StrEnum):
    """What became of a token; one letter, so that a row of them is a short string."""

    KEPT = "k"  # the clean token; in denoising, one that will not change any more
    MASKED = "m"
    REPLACED = "r"  # another token stands in its place
    OPENED = "o"  # denoising: it changed in this very step
    TENTATIVE = "t"  # denoising: visible, and may still change


@dataclass(frozen=True)
class Measures:
    """What a process leaves of the text at time t. Bits are per token, under the text's own unigram law."""

    t: float
    alpha: float  # signal kept
    noise: float  # expected share of tokens that differ from the clean ones
    weight: float | None  # -alpha'/(1 - alpha), per unit time; None where nothing is noise yet
    information: float  # I(x_0; x_t), bits
    entropy: float  # H(x_t), bits
    distance: float  # total variation of q(x_t | x_0) from the stationary law, the text's farthest symbol


@dataclass(frozen=True)
class Row:
    """The tokens at one time: L ids, and one `State` letter for each."""

    t: float
    noise: float  # share of the tokens that differ from the clean ones; denoising: that are still unknown
    tokens: list[int]
    states: str


@dataclass(frozen=True)
class Noised(Row):
    """A row of the forward path."""

    measures: Measures

    def figures(self) -> dict[str, str]:
        """What is printed beside the row, by its heading."""
        weight = self.measures.weight
        return {
            "t": f"{self.t:.2f}",
            "α": f"{self.measures.alpha:.2f}",
            "noise": f"{self.noise:.0%}",
            "exp.": f"{self.measures.noise:.0%}",
            "w": "∞" if weight is None else f"{weight:.2f}",
            "bits": f"{self.measures.information:.2f}",
        }


@dataclass(frozen=True)
class Denoised(Row):
    """A row of a model's reverse path."""

    step: int
    nfe: int  # network evaluations so far

    def figures(self) -> dict[str, str]:
        """What is printed beside the row, by its heading."""
        return {"t": f"{self.t:.2f}", "step": str(self.step), "calls": str(self.nfe)}


Figured = Noised | Denoised


@dataclass(frozen=True)
class Track:
    """The same L tokens over time, and the ids to compare them with: the clean text's, or a model's last."""

    title: str
    length: int  # tokens in all, of which the first L are shown
    clean: list[int]
    rows: Sequence[Figured]


@dataclass(frozen=True)
class Chain:
    """The noise as matrices (K, K) over a small alphabet. Columns sum to 1: [Q]_ij = q(x_t = i | x_s = j)."""

    states: list[int]  # ids of the rows and columns
    lumped: int  # how many further ids share one more, last row and column; there is none where it is 0
    times: list[float]
    steps: list[list[list[float]]]  # Q_t, from the time before (or 0) to each of the times
    products: list[list[list[float]]]  # Q_{1:t}, from 0 to each of the times


@dataclass(frozen=True)
class Chapter:
    """What one process does to the text."""

    name: str
    tracks: list[Track]  # the forward path and, where a model was run, its reverse path
    curves: list[Measures]
    chain: Chain


@dataclass(frozen=True)
class Story:
    """A text under one or several processes."""

    unit: str  # what one token is
    pieces: dict[int, str]  # how to print each id that appears, control characters made visible
    chapters: list[Chapter]

    def to_json(self) -> str:
        return json.dumps(self, default=vars, allow_nan=False)


def tell(
    text: str,
    tokenizer: Tokenizer,
    *,
    processes: Mapping[str, Process],
    times: Sequence[float],
    seed: int,
    frames: Mapping[str, Sequence[Frame]] | None = None,
) -> Story:
    """Noise `text` with each of the named processes, at each of the times, and measure what is left of it.

    The processes share their random numbers, so that with the same schedule they hit the same positions.
    `frames` are those of a model's run, under the name of the process it was trained with; the first
    sequence of their batch is drawn.
    """
    frames = frames or {}
    times = sorted({float(t) for t in times})
    if not times or not all(0 <= t <= 1 for t in times):
        raise DdcliError("times run from 0 (clean text) to 1 (pure noise); give at least one, none outside")
    if strangers := frames.keys() - processes.keys():
        raise DdcliError(f"the model was trained with {', '.join(strangers)} noise; draw that process too")
    ids = torch.from_numpy(tokenizer.encode(text)).long()
    if not len(ids):
        raise DdcliError("the text is empty, so there is nothing to draw")
    p0 = torch.bincount(ids, minlength=tokenizer.vocab_size).to(F64) / len(ids)

    chapters = []
    for name, process in processes.items():
        if not isinstance(process, Interpolating):
            raise DdcliError(f"{name} noise has no signal share alpha_t, and cannot be drawn yet")
        tracks = [_forward(name, process, p0, ids, times, seed, tokenizer.mask_id)]
        if frames.get(name):
            tracks.append(_reverse(name, process, frames[name], tokenizer.mask_id))
        curves = [measure(process, p0, ids[:SHOWN], t) for t in CURVE]
        chapters.append(Chapter(name, tracks, curves, _chain(process, p0, tokenizer.special_ids, times)))

    rows = [row.tokens for chapter in chapters for track in chapter.tracks for row in track.rows]
    cleans = [track.clean for chapter in chapters for track in chapter.tracks]
    used = sorted(set().union(*cleans, *rows, *(chapter.chain.states for chapter in chapters)))
    pieces = dict(zip(used, map(visible, tokenizer.pieces(used)), strict=True))
    return Story(tokenizer.unit, pieces, chapters)


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def visible(piece: str) -> str:
    """The piece as it is printed: nothing in it moves a cursor, hides, or turns the direction of writing."""
    printed = "".join(SIGNS.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in piece)
    if printed and unicodedata.category(printed[0]).startswith("M"):
        return "◌" + printed  # a mark alone would climb onto its neighbour
    return printed or "∅"


def measure(process: Interpolating, p0: Tensor, clean: Tensor, t: float) -> Measures:
    """The figures of one time, for a text with unigram law p0 (V,) that starts with the tokens clean (L,)."""
    time = torch.tensor(t, dtype=F64)
    alpha, m = process.mix(time)
    started = alpha < 1 - 1e-12  # before, the weight is the quotient of two rounding errors
    entropies = torch.special.entr(m)
    entropy = torch.special.entr(alpha * p0 + m).sum()
    entropy_given_x0 = entropies.sum() - entropies + torch.special.entr(alpha + m)  # (V,)
    pi = process.stationary()
    gaps = (m - pi).abs()
    distances = (gaps.sum() - gaps + (alpha + m - pi).abs()) / 2  # (V,)
    return Measures(
        t=t,
        alpha=alpha.item(),
        noise=(1 - alpha - m[clean].mean()).clamp(min=0).item(),
        weight=process.loss_weight(time).item() if started else None,
        information=(entropy - p0 @ entropy_given_x0).clamp(min=0).item() * BITS,
        entropy=entropy.item() * BITS,
        distance=distances[p0 > 0].max().item(),
    )


# -- paths ------------------------------------------------------------------------------------------------


def walk(process: Interpolating, x0: Tensor, times: Sequence[float], rng: Streams) -> Iterator[Tensor]:
    """One path of the chain from x0 (L,) through increasing times: at each, x_t (L,) ~ q(x_t | x_s)."""
    x = x0
    for s, t in pairwise(torch.tensor([0.0, *times], dtype=F64)):
        (alpha_s, m_s), (alpha_t, m_t) = process.mix(s), process.mix(t)
        keep = torch.where(s < t, alpha_t / alpha_s, 1.0)
        into = (m_t - keep * m_s).clamp(min=0)
        stay, drawn = rng.uniform(2, len(x0))[0]
        x = torch.where(stay < keep, x, categorical(into.log().clamp(min=LOG_ZERO), drawn))
        yield x


def _forward(
    name: str,
    process: Interpolating,
    p0: Tensor,
    ids: Tensor,
    times: Sequence[float],
    seed: int,
    mask_id: int,
) -> Track:
    clean, rows = ids[:SHOWN], []
    for t, x in zip(times, walk(process, clean, times, Streams([seed])), strict=True):
        states = np.select([x == clean, x == mask_id], [State.KEPT, State.MASKED], State.REPLACED)
        noise = (x != clean).double().mean().item()
        rows.append(Noised(t, noise, x.tolist(), "".join(states), measure(process, p0, clean, t)))
    return Track(f"{name} noise", len(ids), clean.tolist(), rows)


def _reverse(name: str, process: Interpolating, frames: Sequence[Frame], mask_id: int) -> Track:
    rows = []
    for frame in frames:
        x, clock, changed = (part[0, :SHOWN].cpu() for part in (frame.x, frame.clock, frame.opened))
        opened = changed & (frame.step > 0)  # the first frame is noise, of which nothing was opened
        states = np.select(
            [x == mask_id, opened, process.unknown(x, clock)],
            [State.MASKED, State.OPENED, State.TENTATIVE],
            State.KEPT,
        )
        unknown = process.unknown(x, clock).double().mean().item()
        t, nfe = clock.max().item(), int(frame.nfe[0])
        rows.append(Denoised(t, unknown, x.tolist(), "".join(states), frame.step, nfe))
    return Track(f"a model undoes {name} noise", frames[-1].x.shape[1], rows[-1].tokens, rows)


# -- matrices ---------------------------------------------------------------------------------------------


def _chain(process: Interpolating, p0: Tensor, special_ids: Sequence[int], times: Sequence[float]) -> Chain:
    """Over every state the chain can reach or, where these are too many, over the text's own and the mask.

    The rest is then lumped into one state. That is exact: noise of this family treats them all alike.
    """
    weight = p0 + process.stationary()  # of symbols with equal stationary mass, the frequent come first
    reached = weight > 0
    chosen = reached
    if reached.sum() > ALPHABET:
        own = p0 > 0
        own[list(special_ids)] |= reached[list(special_ids)]
        best = torch.where(own, weight, 0.0).argsort(descending=True, stable=True)[: ALPHABET - 1]
        chosen = torch.zeros_like(own).index_fill(0, best, True) & own
    states, others = chosen.nonzero()[:, 0], (reached & ~chosen).nonzero()[:, 0]
    shown = spread([t for t in times if t > 0], STEPS)
    return Chain(
        states=states.tolist(),
        lumped=len(others),
        times=shown,
        steps=[_matrix(process, states, others, s, t) for s, t in pairwise([0.0, *shown])],
        products=[_matrix(process, states, others, 0.0, t) for t in shown],
    )


def _matrix(process: Interpolating, states: Tensor, others: Tensor, s: float, t: float) -> list[list[float]]:
    """q(x_t = i | x_s = j) over the states, and all the others as one more."""
    from_, to = torch.full(states.shape, s, dtype=F64), torch.full(states.shape, t, dtype=F64)
    into = process.likelihood(states, from_, to).exp()  # (K, V): to a state, from any id
    if not len(others):
        return into[:, states].tolist()
    rows = torch.cat([into[:, states], into[:, others].mean(1, keepdim=True)], 1)
    return torch.cat([rows, 1 - rows.sum(0, keepdim=True)]).tolist()
