"""What a picture of noise shows: plain numbers and strings, which the renderers only lay out.

Legend: L tokens, K states of a small alphabet, times t from 0 (clean) to 1 (noise).
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise, starmap
from typing import NamedTuple, Self, TypeVar

PICTURES = {chr(c): chr(0x2400 + c) for c in range(32)}  # Unicode draws each control character
SIGNS = PICTURES | {"\x7f": "␡", "\n": "↵", "\t": "⇥"}
T = TypeVar("T")


class State(StrEnum):
    """What became of a token; one letter, so that a row of them is a short string."""

    KEPT = "k"  # the clean token; in denoising, one that will not change any more
    MASKED = "m"
    # of denoising, what became of it in this very step, or in a still picture since the row above:
    REPLACED = "r"  # another token stands in its place
    OPENED = "o"  # it was a mask
    REMASKED = "x"  # it was visible, and is a mask again
    TENTATIVE = "t"  # denoising: visible, and may still change

    @property
    def hidden(self) -> bool:
        """Whether a mask stands there."""
        return self in (State.MASKED, State.REMASKED)


MEANINGS = {
    State.KEPT: "kept",
    State.MASKED: "masked",
    State.REPLACED: "replaced",
    State.OPENED: "opened",
    State.REMASKED: "masked again",
    State.TENTATIVE: "may still change",
}


@dataclass(frozen=True)
class Measures:
    """What a process leaves of the text at time t. Bits are per token, under the text's own unigram law."""

    t: float
    alpha: float | None  # signal kept: of a generator, by its slowest mode; None for noise given as steps
    noise: float  # expected share of tokens that differ from the clean ones
    masks: float | None  # expected share of masks; None of noise that is all masks, or has none
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

    def differs(self, above: Row, tokens: int) -> bool:
        """Whether there is something new to be seen: its time was asked for, so there is."""
        return True

    def since(self, above: Row) -> Self:
        """The row with what became of its tokens since an earlier one: all of it, as noise only adds up."""
        return self

    def figures(self) -> dict[str, str]:
        """What is printed beside the row, by its heading."""
        found = self.measures
        return {
            "t": f"{self.t:.2f}",
            "α": _figure(found.alpha, "–"),
            "noise": f"{self.noise:.0%}",
            "exp.": f"{found.noise:.0%}",
            **({} if found.masks is None else {"masks": f"{found.masks:.0%}"}),
            "w": _figure(found.weight, "–" if found.alpha is None else "∞"),
            "I": f"{found.information:.2f}",
            "H": f"{found.entropy:.2f}",
        }


@dataclass(frozen=True)
class Denoised(Row):
    """A row of a model's reverse path."""

    step: int
    nfe: int  # network evaluations so far
    masks: int  # of all L positions, and more that are not shown
    revised: int  # replaced or masked again so far

    def differs(self, above: Row, tokens: int) -> bool:
        """Whether one of the first tokens is another."""
        return self.tokens[:tokens] != above.tokens[:tokens]

    def since(self, above: Row) -> Self:
        """The row with what became of its tokens since an earlier one, not in its own step alone."""
        before = zip(above.tokens, map(State, above.states), strict=True)
        now = zip(self.tokens, map(State, self.states), strict=True)
        return replace(self, states="".join(starmap(_became, zip(before, now, strict=True))))

    def figures(self) -> dict[str, str]:
        """What is printed beside the row, by its heading."""
        counts = {"step": self.step, "calls": self.nfe, "masks": self.masks, "revised": self.revised}
        return {"t": f"{self.t:.2f}"} | {name: str(count) for name, count in counts.items()}


Figured = Noised | Denoised


class Event(NamedTuple):
    """A change of a token in a step of denoising: OPENED, REPLACED or REMASKED."""

    step: int
    at: int  # among the tokens that are shown
    state: str
    token: int
    log_p: float | None  # of the token, as it was believed, nats; None where that is not known


class Believed(NamedTuple):
    """What a model believed of a token before a step."""

    step: int
    at: int  # among the tokens that are shown
    bits: float  # entropy
    top: list[tuple[int, float]]  # the likeliest ids, and their probabilities


@dataclass(frozen=True)
class Values:
    """The Gaussian twin of the first tokens: each is a number, under noise of the same alpha_t.

    z_t = sqrt(alpha_t) x + sqrt(1 - alpha_t) eps, one path: z_t = sqrt(r) z_s + sqrt(1 - r) eps' with
    r = alpha_t / alpha_s (variance preserving; arXiv:2006.11239, eq. 4, whose product of alphas this is).
    """

    clean: list[float]  # x
    rows: list[list[float]]  # z_t, at the time of each row of the track


@dataclass(frozen=True)
class Track:
    """The same L tokens over time, and the ids to compare them with: the clean text's, or a model's last."""

    title: str
    length: int  # tokens in all, of which L are shown
    clean: list[int]
    rows: Sequence[Figured]
    start: int = 0  # place of the first that is shown
    values: Values | None = None  # forward, where there is an alpha_t
    events: Sequence[Event] = ()  # denoising, in the order of steps
    beliefs: Sequence[Believed] = ()

    @property
    def steps(self) -> tuple[int, int]:
        """Of denoising: the step before the first in which something happened, and the last."""
        _, *steps = [row.step for row in self.rows if isinstance(row, Denoised)] or [0]
        return (steps[0] - 1, steps[-1]) if steps else (0, 0)

    def told(self, tokens: int, count: int) -> list[Figured]:
        """At most `count` rows for a still picture of the first `tokens`, the first and the last among them.

        Of denoising only those in which one of these changed, with what became of each since the row above.
        """
        changing = [row for above, row in pairwise(self.rows) if row.differs(above, tokens)]
        rows = [self.rows[0], *changing]
        if rows[-1] is not self.rows[-1]:
            rows.append(self.rows[-1])
        shown = spread(rows, count)
        return [shown[0], *(row.since(above) for above, row in pairwise(shown))]


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
    limit: list[float]  # p(x_1), (K,): what every column of the products goes to


@dataclass(frozen=True)
class Chapter:
    """What one process does to the text, or a model that undoes it."""

    name: str
    tracks: list[Track]  # the forward path and, where a model was run, its reverse path
    curves: list[Measures]  # none where only a trace is known
    chain: Chain | None


@dataclass(frozen=True)
class Story:
    """A text under one or several processes, or several texts that a model wrote."""

    title: str
    note: str  # how it was written; '' of noise
    unit: str  # what one token is
    pieces: dict[int, str]  # how to print each id that appears, control characters made visible
    chapters: list[Chapter]


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _became(before: tuple[int, State], now: tuple[int, State]) -> State:
    """What became of a token between two rows of denoising: its id and state in each."""
    (old, was), (new, state) = before, now
    if state.hidden:
        return State.MASKED if was.hidden else State.REMASKED
    if was.hidden:
        return State.OPENED
    return state if old == new else State.REPLACED


def visible(piece: str) -> str:
    """The piece as it is printed: nothing in it moves a cursor, hides, or turns the direction of writing."""
    printed = "".join(SIGNS.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in piece)
    if printed and unicodedata.category(printed[0]).startswith("M"):
        return "◌" + printed  # a mark alone would climb onto its neighbour
    return printed or "∅"


def _figure(number: float | None, missing: str) -> str:
    return missing if number is None else f"{number:.2f}"
