"""The neighbourhoods of a document's gaps as a network reads them: ids, windows, and what an edge must spell.

B copies filled at once, N tokens of a layout, n tokens of a window, at most the `length` the network reads,
V ids. Where a vocabulary's tokens are runs of bytes, a gap need not begin or end between two of them: the
token beside an edge may be the beginning (behind a gap the end) of one that reaches into it. Such a token is
given up to the gap, whose first (last) position may then only hold longer tokens that begin (end) with its
bytes. What a network sees is then cut where text is cut, a gap of n tokens is n positions, and the bytes
given come back in any case. Which tokens are given up the text does not say: `Encoded.giving_up` is told.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..tokenizer import Seams
from .document import Document, GapError, Lengths, Tokenizer, UpTo

FEW = 4  # tokens behind a gap that any length to choose from leaves in view, to judge it by
SEAM = 16  # tokens distrusted where a text was cut: half a word, or a character in 9 byte tokens


@dataclass(frozen=True, eq=False)
class Window:
    """What the network reads at once. The same for every copy: it does not depend on what is filled in."""

    gaps: range  # the gaps it decides, as indices
    span: slice  # its place in the layout
    frozen: np.ndarray  # (n,) bool: text, and what earlier windows decided
    own: np.ndarray  # (n,) bool: in the gaps it decides

    def write(self, ids: np.ndarray, x0: np.ndarray) -> None:
        """Put the network's tokens x0 (..., n) into ids (..., N), in place, where they are this window's own.

        Gaps of later windows in view are neither frozen nor own: unknown here, drawn along, decided there.
        """
        ids[..., self.span][..., self.own] = x0[..., self.own]


Side = tuple[int, bool]  # of a gap by its number: False before it, True behind it


@dataclass(frozen=True)
class Edges:
    """Bytes of the given text that the first and the last token of a gap have to spell as well."""

    before: bytes = b""
    after: bytes = b""

    def inner(self, spelt: bytes) -> bytes:
        """What a gap holds itself, of what its tokens spell."""
        return spelt[len(self.before) : len(spelt) - len(self.after)]


@dataclass(frozen=True, eq=False)
class Layout:
    """The encoded neighbourhoods of the gaps, side by side, and the windows over them.

    Text further than `length` tokens from every gap is left out. No window reaches that far, so none spans
    a place where text is missing.
    """

    ids: np.ndarray  # (N,) int64, mask_id in the gaps
    gaps: tuple[slice, ...]  # the place of each gap
    edges: tuple[Edges, ...]  # of each gap
    windows: tuple[Window, ...]  # in the order to fill them; each gap belongs to one
    allowed: Mapping[int, np.ndarray]  # (V,) bool: which ids a position may hold; others hold any
    before: tuple[bytes, ...]  # the text before each gap, from the gap before it on


@dataclass(frozen=True)
class Hidden:
    """A token beside a gap that is not shown, to ask whether it is what stands there."""

    side: Side
    place: int  # in a layout
    id: int


@dataclass(frozen=True, eq=False)
class Encoded:
    """A measured document as ids, `runs[0] gap runs[1] ...`; of long pieces only the ends."""

    document: Document
    runs: tuple[np.ndarray, ...]  # without the tokens that are given up to the gaps
    mask_id: int
    length: int  # tokens the network reads at once
    spelling: Sequence[bytes] | None = None  # of each id, (V,), where tokens are runs of bytes
    record: bool = False  # whole, for a network trained on records
    first: Mapping[int, np.ndarray] = field(default_factory=dict)  # (V,) bool: what some gaps can begin with
    edges: Mapping[int, Edges] = field(default_factory=dict)  # of the gaps that tokens are given up to
    _found: dict[Edges, np.ndarray] = field(default_factory=dict)

    def candidates(self, gap: int) -> range:
        """The lengths to choose from: those a window has room for, or else the least that was asked for.

        In running text beside FEW tokens to judge them by; of `*` at most half of a window. Two tokens where
        there is none that reaches from what stands before a gap to what stands behind it.
        """
        lengths, room = self._lengths(gap), self._room(gap)
        if not self.record:
            room -= max(0, min(FEW, len(self.after(gap))) - 1)
            room = min(room, self.length // 2) if isinstance(lengths, UpTo) else room
        alone = all(fits.any() for fits in self.fitting(gap, 1).values())
        least = max(lengths[0], 1 if alone else 2)
        return range(least, max(least, min(lengths[-1], room)) + 1)

    def before(self, gap: int, lengths: Sequence[int]) -> np.ndarray:
        """The ids before a gap, the last `length` of them; of gaps before it, by their lengths, masks."""
        found = self.runs[gap]
        for earlier in reversed(range(gap)):
            if len(found) >= self.length:
                break
            found = np.concatenate([self.runs[earlier], self._masks(lengths[earlier]), found])
        return found[-self.length :]

    def after(self, gap: int, *, to_the_end: bool = False) -> np.ndarray:
        """The ids behind a gap, the first `length` of them, up to the next gap of unknown length.

        to_the_end: beyond those too, each as long as the middle of what it may be.
        """
        found = self.runs[gap + 1]
        for later in range(gap + 1, len(self.document.gaps)):
            lengths = self._lengths(later)
            if len(found) >= self.length or (len(lengths) > 1 and not to_the_end):
                break
            found = np.concatenate([found, self._masks(lengths[len(lengths) // 2]), self.runs[later + 1]])
        return found[: self.length]

    def layout(self, lengths: Sequence[int] | None = None) -> Layout:
        """The gaps with so many tokens each; None: as many as the document says.

        A gap with no room for a token of context on each side that has any is a `GapError`.
        """
        gaps = self.document.gaps
        sizes = [self.candidates(i)[0] for i in range(len(gaps))] if lengths is None else list(lengths)
        places, total, allowed = list[slice](), len(self.runs[0]), dict[int, np.ndarray]()
        for i, (size, run) in enumerate(zip(sizes, self.runs[1:], strict=True)):
            allowed |= {total + place: fits for place, fits in self.fitting(i, size).items()}
            places.append(slice(total, total + size))
            total += size + len(run)
        for i, (gap, size) in enumerate(zip(gaps, sizes, strict=True)):
            if size > (room := self._room(i)):
                raise GapError(
                    f"the model reads {self.length} tokens at once, so a gap here has at most {room}, not "
                    f"{size}; write it as shorter gaps side by side, or use a model that reads more",
                    self.document.source,
                    gap.offset,
                )

        known = np.ones(total, bool)
        for place in places:
            known[place] = False
        ids = np.full(total, self.mask_id, np.int64)
        ids[known] = np.concatenate(self.runs)
        windows = tuple(_windows(places, known, self.length))
        edges = tuple(self.edges.get(i, Edges()) for i in range(len(gaps)))
        return Layout(ids, tuple(places), edges, windows, allowed, self.document.pieces[:-1])

    def beside(self, gap: int) -> Edges:
        """What the tokens beside a gap spell that could be parts of longer ones which reach into it."""
        # The one token between two gaps could be a part of the later's alone.
        lone = gap + 1 < len(self.document.gaps) and len(self.runs[gap + 1]) == 1
        before, after = self._spelt(self.runs[gap][-1:]), self._spelt(self.runs[gap + 1][: 1 - lone])
        return Edges(
            before if self._reaching(Edges(before=before)).any() else b"",
            after if self._reaching(Edges(after=after)).any() else b"",
        )

    def giving_up(self, sides: Collection[Side]) -> "Encoded":
        """The text without the tokens on some sides of gaps, which are given up to these; of any side where
        `beside` has none, as it is."""
        runs, edges = list(self.runs), dict[int, Edges]()
        for gap in range(len(self.document.gaps)):
            beside = self.beside(gap)
            edges[gap] = Edges(
                beside.before if (gap, False) in sides else b"", beside.after if (gap, True) in sides else b""
            )
            if edges[gap].before:
                runs[gap] = runs[gap][:-1]
            if edges[gap].after:
                runs[gap + 1] = runs[gap + 1][1:]
        return replace(self, runs=tuple(runs), edges=edges)

    def hiding(self) -> tuple[Layout, list[Hidden]]:
        """A layout in which all tokens `beside` gaps are hidden, and which these are.

        Each gap has the least of its lengths, and one more for each of them, as far as there is room.
        """
        wide, sizes = self.giving_up(self.sides), list[int]()
        for gap, edges in wide.edges.items():
            more = bool(edges.before) + bool(edges.after)
            sizes.append(min(self.candidates(gap)[0] + more, wide._room(gap)))
        layout, hidden = wide.layout(sizes), list[Hidden]()
        for gap, (edges, place) in enumerate(zip(layout.edges, layout.gaps, strict=True)):
            if edges.before:
                hidden.append(Hidden((gap, False), place.start, int(self.runs[gap][-1])))
            if edges.after and place.stop - place.start > bool(edges.before):
                hidden.append(Hidden((gap, True), place.stop - 1, int(self.runs[gap + 1][0])))
        return layout, hidden

    @property
    def sides(self) -> set[Side]:
        """All sides of all gaps."""
        return {(gap, behind) for gap in range(len(self.document.gaps)) for behind in (False, True)}

    def fitting(self, gap: int, tokens: int) -> dict[int, np.ndarray]:
        """By its place in a gap of so many tokens, which ids a position may hold, (V,) bool; others any."""
        edges = self.edges.get(gap, Edges())
        if edges.before and edges.after and tokens == 1:
            return {0: self._reaching(edges)}
        fits = {0: self.first[gap]} if gap in self.first else {}
        if edges.before:
            fits[0] = self._reaching(Edges(before=edges.before))
        if edges.after:
            fits[tokens - 1] = self._reaching(Edges(after=edges.after))
        return fits

    def _reaching(self, edges: Edges) -> np.ndarray:
        """Which ids spell the bytes given at their start and at their end, and more: (V,) bool."""
        if edges not in self._found:
            before, after = edges.before, edges.after
            least = len(before) + len(after) + 1
            self._found[edges] = np.array(
                [
                    len(spelt) >= least and spelt.startswith(before) and spelt.endswith(after)
                    for spelt in self.spelling or ()
                ],
                bool,
            )
        return self._found[edges]

    def _room(self, gap: int) -> int:
        """The most tokens a gap may have: a window then shows one of context on each side that has any."""
        before = gap > 0 or len(self.runs[0]) > 0
        after = gap + 1 < len(self.document.gaps) or len(self.runs[-1]) > 0
        return self.length - before - after

    def _spelt(self, ids: np.ndarray) -> bytes:
        return b"".join(self.spelling[i] for i in ids) if self.spelling else b""

    def _lengths(self, gap: int) -> Lengths:
        lengths = self.document.gaps[gap].lengths
        assert lengths is not None, "the document is measured"
        return lengths

    def _masks(self, tokens: int) -> np.ndarray:
        return np.full(tokens, self.mask_id)


def encode(
    document: Document,
    tokenizer: Tokenizer,
    length: int,
    edges: tuple[int, int] | None = None,
    spelling: Sequence[bytes] | None = None,
    seams: Seams | None = None,
) -> Encoded:
    """The document's gaps and the text around them, for a network that reads `length` tokens.

    Each piece is encoded on its own. edges: for a network trained on records, the ids that open and close
    one; the document without its last line end is the record. spelling: of each id, where tokens are runs
    of bytes that may reach over the edge of a gap. seams: how text meets gaps, where it is not just cut.
    """
    pieces, first = list(document.pieces), dict[int, np.ndarray]()
    if edges:
        pieces[-1] = re.sub(rb"\r?\n\Z", b"", pieces[-1])
    for i, piece in enumerate(pieces[:-1] if seams else ()):
        assert seams is not None
        # undecodable bytes are context; as text they are the same for the tokenizer
        read, fits = seams.before_gap(piece.decode(errors="replace"), at_start=i == 0)
        pieces[i] = read.encode()
        if fits is not None:
            first[i] = fits
    runs = [_encode_ends(tokenizer, piece, length) for piece in pieces]
    if seams:
        behind = zip(pieces[1:], runs[1:], strict=True)
        runs[1:] = [seams.behind_gap(piece.decode(errors="replace"), ids) for piece, ids in behind]
    if edges:
        runs[0] = np.append(edges[0], runs[0])
        runs[-1] = np.append(runs[-1], edges[1])
    return Encoded(
        document.measured(tokenizer),
        tuple(runs),
        tokenizer.mask_id,
        length,
        spelling,
        edges is not None,
        first,
    )


def _encode_ends(tokenizer: Tokenizer, piece: bytes, length: int) -> np.ndarray:
    """The ids of a piece (m,); of a long one only the `length` tokens at each of its two ends."""
    reach = 8 * length  # bytes; more than enough for most text and tokenizers
    while 2 * reach < len(piece):
        head = tokenizer.encode(piece[:reach].decode(errors="replace"))
        tail = tokenizer.encode(piece[-reach:].decode(errors="replace"))
        if min(len(head), len(tail)) >= length + SEAM:
            return np.concatenate([head[:length], tail[-length:]])
        reach *= 2
    return tokenizer.encode(piece.decode(errors="replace"))


def _windows(gaps: Sequence[slice], known: np.ndarray, length: int) -> Iterator[Window]:
    """Group gaps that are near each other, and centre a window on each group.

    Half of a window is for gaps and half for context, unless one gap takes more or all fits in one window.
    """
    known, total = known.copy(), len(known)
    n = min(length, total)
    together = length if total <= length else length // 2
    stops = [gap.stop for gap in gaps]
    first = 0
    while first < len(gaps):
        start = gaps[first].start
        end = max(first + 1, bisect_right(stops, start + together))
        stop = stops[end - 1]
        left = min(max(0, start - (n - (stop - start)) // 2), total - n)
        span = slice(left, left + n)
        own = np.zeros(n, bool)
        own[start - left : stop - left] = ~known[start:stop]
        yield Window(range(first, end), span, known[span].copy(), own)
        known[start:stop] = True
        first = end
