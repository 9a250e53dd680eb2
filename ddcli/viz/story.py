"""What a picture of noise shows, computed once: plain numbers and strings, which the renderers only lay out.

Legend: L tokens, V states of the chain, K states of a small alphabet, times t from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import singledispatch
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DdcliError
from ..process import Autoregressive, Generator, Interpolating, Process, prior
from ..randomness import Streams, inverse_cdf
from ..schedule import with_slope

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
LATE = 1 - 1e-9  # as late as slopes are taken: that of hybrid noise at 1 is 0 times infinity
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
    alpha: float | None  # signal kept: of a generator, by its slowest mode; None for noise given as steps
    noise: float  # expected share of tokens that differ from the clean ones
    weight: float | None  # -alpha'/(1 - alpha), per unit time; None too where nothing is noise yet
    information: float  # I(x_0; x_t), bits
    entropy: float  # H(x_t), bits
    distance: float  # total variation of q(x_t | x_0) from p(x_1), the text's farthest symbol


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
        found = self.measures
        return {
            "t": f"{self.t:.2f}",
            "α": _figure(found.alpha, "–"),
            "noise": f"{self.noise:.0%}",
            "exp.": f"{found.noise:.0%}",
            "w": _figure(found.weight, "–" if found.alpha is None else "∞"),
            "bits": f"{found.information:.2f}",
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
    """The noise as matrices (K, K) over a small alphabet. Columns sum to 1: [Q]_ij = q(x_t = i | x_s = j).

    The column of lumped ids is the mean of theirs. Where noise treats them all alike, that is a chain too:
    steps multiply to the products.
    """

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
    One that exists at some times only is drawn at the nearest of them. `frames` are those of a model's run,
    under the name of the process it was trained with; the first sequence of their batch is drawn.
    """
    frames = frames or {}
    check_drawable(processes)
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
        drawn, curve = existing(process, times), existing(process, CURVE)
        measured = measure(process, p0, ids[:SHOWN], {*drawn, *curve})
        tracks = [_forward(name, process, ids, [measured[t] for t in drawn], seed, tokenizer.mask_id)]
        if frames.get(name):
            tracks.append(_reverse(name, process, frames[name], tokenizer.mask_id))
        curves = [measured[t] for t in curve]
        chapters.append(Chapter(name, tracks, curves, _chain(process, p0, drawn)))

    rows = [row.tokens for chapter in chapters for track in chapter.tracks for row in track.rows]
    cleans = [track.clean for chapter in chapters for track in chapter.tracks]
    used = sorted(set().union(*cleans, *rows, *(chapter.chain.states for chapter in chapters)))
    pieces = dict(zip(used, map(visible, tokenizer.pieces(used)), strict=True))
    return Story(tokenizer.unit, pieces, chapters)


def check_drawable(processes: Mapping[str, Process]) -> None:
    """Raises DdcliError where one of the named processes is no noise of single tokens."""
    for name, process in processes.items():
        if isinstance(process, Autoregressive):
            raise DdcliError(f"{name} is an order of writing, not noise of single tokens; it has no picture")


def existing(process: Process, times: Iterable[float]) -> list[float]:
    """The times of the process nearest to these, ascending, each once."""
    steps = process.timesteps
    return sorted({float(t) if steps is None else round(t * steps) / steps for t in times})


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


def _figure(number: float | None, missing: str) -> str:
    return missing if number is None else f"{number:.2f}"


# -- what noise does between two times --------------------------------------------------------------------


class Transition(Protocol):
    """q(x_t | x_s = j) for every symbol j: a column of V probabilities for each."""

    @property
    def stays(self) -> Tensor:
        """q(x_t = j | x_s = j), (V,)."""

    def rows(self, to: Tensor) -> Tensor:
        """q(x_t = i | x_s = j) for the symbols i of `to` (n,) and every j, (n, V)."""

    def law(self, mass: Tensor) -> Tensor:
        """Where mass (V,) on the symbols at s lies at t, (V,)."""

    def entropies(self) -> Tensor:
        """Of each column, nats, (V,)."""

    def distances(self, p: Tensor) -> Tensor:
        """Total variation of each column from the distribution p (V,), (V,)."""

    def draw(self, x: Tensor, whether: Tensor, what: Tensor) -> Tensor:
        """x_t (L,) of x_s = x (L,), by two uniform numbers for each: whether it changes, and to what."""


@dataclass(frozen=True)
class Table:
    """Any noise, in V times V numbers."""

    q: Tensor  # (V, V) float64, columns sum to 1

    @property
    def stays(self) -> Tensor:
        return self.q.diagonal()

    def rows(self, to: Tensor) -> Tensor:
        return self.q[to]

    def law(self, mass: Tensor) -> Tensor:
        return self.q @ mass

    def entropies(self) -> Tensor:
        return torch.special.entr(self.q).sum(0)

    def distances(self, p: Tensor) -> Tensor:
        return (self.q - p[:, None]).abs().sum(0) / 2

    def draw(self, x: Tensor, whether: Tensor, what: Tensor) -> Tensor:
        stay = self.stays / self.q.sum(0)  # exactly 1 where there is nothing else to draw
        others = (self.q - self.stays.diag()).T.cumsum(-1)
        return torch.where(whether < stay[x], x, inverse_cdf(others[x], what[:, None])[:, 0])


@dataclass(frozen=True)
class Redraw:
    """Noise that keeps a symbol, or draws one from a law that is the same for all, in V numbers."""

    keep: Tensor  # () float64
    into: Tensor  # (V,) float64, the law times 1 - keep

    @property
    def stays(self) -> Tensor:
        return self.keep + self.into

    def rows(self, to: Tensor) -> Tensor:
        into = self.into[to, None].expand(-1, len(self.into))
        return into.scatter(1, to[:, None], self.stays[to, None])

    def law(self, mass: Tensor) -> Tensor:
        return self.keep * mass + self.into * mass.sum()

    def entropies(self) -> Tensor:
        each = torch.special.entr(self.into)
        return each.sum() - each + torch.special.entr(self.stays)

    def distances(self, p: Tensor) -> Tensor:
        gaps = (self.into - p).abs()
        return (gaps.sum() - gaps + (self.stays - p).abs()) / 2

    def draw(self, x: Tensor, whether: Tensor, what: Tensor) -> Tensor:
        return torch.where(whether < self.keep, x, inverse_cdf(self.into.cumsum(-1), what))


@singledispatch
def transition(process: Process, s: float, t: float) -> Transition:
    """From time s to a time t >= s."""
    every = torch.arange(process.vocabulary.size)
    return Table(process.likelihood(every, *torch.tensor([s, t], dtype=F64)).exp())


@transition.register
def _(process: Interpolating, s: float, t: float) -> Transition:
    (alpha_s, m_s), (alpha_t, m_t) = map(process.mix, torch.tensor([s, t], dtype=F64))
    keep = alpha_t / alpha_s if s < t else torch.ones((), dtype=F64)
    return Redraw(keep, (m_t - keep * m_s).clamp(min=0))


Signal = tuple[float | None, float | None]


@singledispatch
def signal(process: Process, t: Tensor) -> Signal:
    """alpha_t and the loss weight at the time t (), as `Measures` has them."""
    return None, None


@signal.register
def _(process: Interpolating, t: Tensor) -> Signal:
    return _signal(process.mix(t)[0], process.loss_weight(t.clamp(max=LATE)))


@signal.register
def _(process: Generator, t: Tensor) -> Signal:
    alpha, slope = with_slope(process.schedule.alpha, t)
    return _signal(alpha, -slope / (1 - alpha))


def _signal(alpha: Tensor, weight: Tensor) -> Signal:
    started = alpha < 1 - 1e-12  # before, the weight is the quotient of two rounding errors
    return alpha.item(), weight.item() if started else None


def measure(process: Process, p0: Tensor, clean: Tensor, times: Iterable[float]) -> dict[float, Measures]:
    """The figures of each time, for a text with unigram law p0 (V,) that starts with the ids clean (L,)."""
    pi = prior(process).exp()
    return {t: _measure(process, p0, clean, pi, t) for t in times}


def _measure(process: Process, p0: Tensor, clean: Tensor, pi: Tensor, t: float) -> Measures:
    q = transition(process, 0.0, t)
    entropy = torch.special.entr(q.law(p0)).sum()
    alpha, weight = signal(process, torch.tensor(t, dtype=F64))
    return Measures(
        t=t,
        alpha=alpha,
        noise=(1 - q.stays[clean].mean()).clamp(min=0).item(),
        weight=weight,
        information=(entropy - p0 @ q.entropies()).clamp(min=0).item() * BITS,
        entropy=entropy.item() * BITS,
        distance=q.distances(pi)[p0 > 0].max().item(),
    )


# -- paths ------------------------------------------------------------------------------------------------


def walk(process: Process, x0: Tensor, times: Sequence[float], rng: Streams) -> Iterator[Tensor]:
    """One path of the chain from x0 (L,) through increasing times: at each, x_t (L,) ~ q(x_t | x_s)."""
    x = x0
    for s, t in pairwise([0.0, *times]):
        x = transition(process, s, t).draw(x, *rng.uniform(2, len(x0))[0])
        yield x


def _forward(
    name: str, process: Process, ids: Tensor, measured: Sequence[Measures], seed: int, mask_id: int
) -> Track:
    clean, rows = ids[:SHOWN], []
    path = walk(process, clean, [found.t for found in measured], Streams([seed]))
    for found, x in zip(measured, path, strict=True):
        states = np.select([x == clean, x == mask_id], [State.KEPT, State.MASKED], State.REPLACED)
        noise = (x != clean).double().mean().item()
        rows.append(Noised(found.t, noise, x.tolist(), "".join(states), found))
    return Track(f"{name} noise", len(ids), clean.tolist(), rows)


def _reverse(name: str, process: Process, frames: Sequence[Frame], mask_id: int) -> Track:
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


def _chain(process: Process, p0: Tensor, times: Sequence[float]) -> Chain:
    """Over every state the chain reaches or, where these are too many, over the text's own and the mask.

    The rest is then lumped into one state.
    """
    shown = spread([t for t in times if t > 0], STEPS)
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
    )


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
