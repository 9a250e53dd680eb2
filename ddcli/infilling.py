r"""Gaps in a document: parsing, windows, byte-exact assembly.

    document = parse(b"The [MASK:3] sat.\n")
    layout = document.layout(tokenizer, length)
    ids = np.tile(layout.ids, (copies, 1))                            # (B, N)
    for window in layout.windows:
        x0 = network(ids[:, window.span], frozen=window.frozen)       # (B, n)
        window.write(ids, x0)
    for row in ids:
        document.assemble([tokenizer.continuation(row[: gap.start], row[gap]) for gap in layout.gaps])

`[MASK]` is a gap of one token, `[MASK:12]` of twelve, `\[MASK]` the text `[MASK]`. What stands between the
gaps reaches the output as the bytes it was; only the network's copy is decoded.

B copies filled at once, N tokens of a layout, n tokens of a window, at most the `length` the network reads.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from rich.cells import cell_len

from .errors import DdcliError, printable

EXCERPT = 72  # characters of the source line shown in an error
SEAM = 16  # tokens distrusted where a text was cut: half a word, or a character in 9 byte tokens
BRACKETS = ("]", ")", ">", "}")  # a marker that ends with one has room for a count before it
COUNT = re.compile(rb"[1-9][0-9]{0,5}")


class Tokenizer(Protocol):
    """The part of a tokenizer that a layout needs."""

    @property
    def mask_id(self) -> int: ...

    def encode(self, text: str) -> np.ndarray: ...  # (n,), no special tokens


class GapError(DdcliError):
    """A gap that cannot be filled as written: the message, the source line, a caret under the gap."""

    def __init__(self, problem: str, source: bytes, offset: int) -> None:
        """`offset`: of the gap in the source, bytes."""
        line = source.count(b"\n", 0, offset) + 1
        start = source.rfind(b"\n", 0, offset) + 1
        before = source[start:offset].decode(errors="surrogateescape")
        after = source[offset:].partition(b"\n")[0].removesuffix(b"\r").decode(errors="surrogateescape")
        # Reversed, so that the far end is the one to go.
        shown = _shorten(before[::-1], EXCERPT // 2)[::-1]
        rest = _shorten(after, EXCERPT - len(shown))
        caret = " " * cell_len(shown) + "^"
        super().__init__(f"line {line}, column {len(before) + 1}: {problem}\n{shown}{rest}\n{caret}")


@dataclass(frozen=True)
class Gap:
    """A place to write to."""

    tokens: int
    offset: int  # of its marker in the source, bytes


@dataclass(frozen=True)
class Document:
    """Literal pieces and the gaps between them: `pieces[0] gaps[0] pieces[1] ... pieces[-1]`."""

    source: bytes  # as written, for error messages
    pieces: tuple[bytes, ...]  # one more than gaps; escapes resolved
    gaps: tuple[Gap, ...]

    def describe(self, unit: str) -> str:
        """What there is to fill, for people: `3 gaps, 17 characters`. `unit`: what one token is."""
        counts = ((len(self.gaps), "gap"), (sum(gap.tokens for gap in self.gaps), unit))
        return ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts)

    def assemble(self, fills: Sequence[bytes]) -> bytes:
        """The document with one fill per gap, byte for byte as it was outside them."""
        filled = zip(fills, self.pieces[1:], strict=True)
        return self.pieces[0] + b"".join(fill + piece for fill, piece in filled)

    def lines(self) -> Iterator["Document"]:
        """Each line, its end included, as a document of its own; put together they are this one."""
        pieces, gaps = [b""], list[Gap]()
        for number, piece in enumerate(self.pieces):
            if number:
                gaps.append(self.gaps[number - 1])
                pieces.append(b"")
            first, *others = re.split(rb"(?<=\n)", piece)
            pieces[-1] += first
            for line in others:
                yield Document(self.source, tuple(pieces), tuple(gaps))
                pieces, gaps = [line], []
        yield Document(self.source, tuple(pieces), tuple(gaps))

    def layout(self, tokenizer: Tokenizer, length: int, edges: tuple[int, int] | None = None) -> "Layout":
        """The gaps and the text around them, as a network that reads `length` tokens takes them.

        Each piece is encoded on its own, since a gap is a token boundary. `edges`: for a network trained on
        records, the ids that open and close one; the document without its last line end is the record.
        A gap with no room for a token of context on each side that has any is a `GapError`.
        """
        pieces = list(self.pieces)
        if edges:
            pieces[-1] = re.sub(rb"\r?\n\Z", b"", pieces[-1])
        runs = [_encode_ends(tokenizer, piece, length) for piece in pieces]
        if edges:
            runs[0] = np.append(edges[0], runs[0])
            runs[-1] = np.append(runs[-1], edges[1])

        places, total = [], len(runs[0])
        for gap, run in zip(self.gaps, runs[1:], strict=True):
            places.append(slice(total, total + gap.tokens))
            total += gap.tokens + len(run)
        for gap, place in zip(self.gaps, places, strict=True):
            room = length - (place.start > 0) - (place.stop < total)
            if gap.tokens > room:
                raise GapError(
                    f"the model reads {length} tokens at once, so a gap here has at most {room}, not "
                    f"{gap.tokens}; write it as shorter gaps side by side, or use a model that reads more",
                    self.source,
                    gap.offset,
                )

        known = np.ones(total, bool)
        for place in places:
            known[place] = False
        ids = np.full(total, tokenizer.mask_id, np.int64)
        ids[known] = np.concatenate(runs)
        return Layout(ids, tuple(places), tuple(_windows(places, known, length)))


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


@dataclass(frozen=True, eq=False)
class Layout:
    """The encoded neighbourhoods of the gaps, side by side, and the windows over them.

    Text further than `length` tokens from every gap is left out. No window reaches that far, so none spans
    a place where text is missing.
    """

    ids: np.ndarray  # (N,) int64, mask_id in the gaps
    gaps: tuple[slice, ...]  # the place of each gap
    windows: tuple[Window, ...]  # in the order to fill them; each gap belongs to one


def parse(source: bytes, marker: str = "[MASK]") -> Document:
    r"""Find the gaps in a document of any bytes.

    A marker that ends with a bracket also takes a count before it: `<gap>`, `<gap:12>`. After an odd number
    of backslashes it is text and one backslash goes; an even number stays and the marker is a gap.
    Raises `GapError` for a bad count, `DdcliError` for an empty marker or a document without gaps.
    """
    if not marker:
        raise DdcliError("the mask token is empty; give the text that stands for a gap, such as [MASK]")
    plain = marker.encode(errors="surrogateescape")
    pattern, example = re.escape(plain), None
    if len(plain) > 1 and marker.endswith(BRACKETS):
        stem, close = re.escape(plain[:-1]), re.escape(plain[-1:])
        # A count that nothing closes matches too: a slip of the pen is an error, not text.
        pattern = rb"%b(?:%b|:(?:(?!%b)[^\\\r\n%b])*+%b?)" % (stem, close, stem, close, close)
        example = f"{marker[:-1]}:12{marker[-1]}"

    pieces, gaps, piece, end = [], [], bytearray(), 0
    for match in re.finditer(pattern, source):
        before, written = source[end : match.start()], match[0]
        end = match.end()
        piece += before
        if (len(before) - len(before.rstrip(b"\\"))) % 2:
            piece[-1:] = written
            continue
        count = b"1" if written == plain else written[len(plain) : -1]
        if written[-1:] != plain[-1:] or not COUNT.fullmatch(count):
            shown = _shorten(written.decode(errors="surrogateescape"), EXCERPT // 2)
            raise GapError(
                f"{shown} needs a whole number of tokens, 1 to 999999, as in {example}; "
                "a backslash before it keeps it as text",
                source,
                match.start(),
            )
        pieces.append(bytes(piece))
        gaps.append(Gap(int(count), match.start()))
        piece.clear()
    if not gaps:
        many = f", {example} for twelve" if example else ""
        raise DdcliError(f"the document has no gap to fill; write {marker} for one token{many}")
    return Document(source, (*pieces, bytes(piece + source[end:])), tuple(gaps))


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


def _shorten(text: str, limit: int) -> str:
    """At most `limit` characters, fit for a terminal: control characters as pictures, no escape sequences."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return printable(text)
