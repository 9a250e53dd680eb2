r"""A document with gaps: what stands outside them reaches the output as the bytes it was."""

import re
from bisect import bisect_right
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, overload

import numpy as np
from rich.cells import cell_len

from ..errors import DdcliError, shorten

EXCERPT = 72  # characters of the source line shown in an error
LONGEST = 999_999  # tokens of a gap
MAX_GAP = 32  # tokens of a gap whose length is anybody's guess
NEAR = 64  # bytes of text on each side of what is replaced, by which it is cut into tokens
COUNT = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)


@dataclass(frozen=True)
class UpTo(Sequence[int]):
    """1 to `most` tokens, as `*` asks for: of running text no more of them than half of a window."""

    most: int

    def __len__(self) -> int:
        return self.most

    @overload
    def __getitem__(self, i: int) -> int: ...
    @overload
    def __getitem__(self, i: slice) -> range: ...
    def __getitem__(self, i: int | slice) -> int | range:
        return range(1, self.most + 1)[i]


Lengths = range | UpTo  # of a gap, tokens


class Tokenizer(Protocol):
    """The part of a tokenizer that gaps need."""

    @property
    def mask_id(self) -> int: ...

    @property
    def spelling(self) -> Sequence[bytes] | None: ...  # of each id, where tokens are runs of bytes

    def encode(self, text: str) -> np.ndarray: ...  # (n,), no special tokens


class GapError(DdcliError):
    """A gap that cannot be filled as written: the message, the source line, a caret under the gap."""

    drawn = True

    def __init__(self, problem: str, source: bytes, offset: int) -> None:
        """`offset`: of the gap in the source, bytes."""
        line, column = line_and_column(source, offset)
        before = _line_before(source, offset)
        after = source[offset:].partition(b"\n")[0].removesuffix(b"\r").decode(errors="surrogateescape")
        # Reversed, so that the far end is the one to go.
        shown = shorten(before[::-1], EXCERPT // 2)[::-1]
        rest = shorten(after, EXCERPT - len(shown))
        caret = " " * cell_len(shown) + "^"
        super().__init__(f"line {line}, column {column}: {problem}\n{shown}{rest}\n{caret}")


@dataclass(frozen=True)
class Gap:
    """A place to write to."""

    lengths: Lengths | None  # tokens it may have; None: as many as what it replaces
    offset: int  # of its marker, or of what it replaces, in the source, bytes
    replaces: bytes = b""  # text that is to go; a marker is none


@dataclass(frozen=True)
class Document:
    """Literal pieces and the gaps between them: `pieces[0] gaps[0] pieces[1] ... pieces[-1]`."""

    source: bytes  # as written, for error messages
    pieces: tuple[bytes, ...]  # one more than gaps; escapes resolved
    gaps: tuple[Gap, ...]

    def measured(self, tokenizer: Tokenizer) -> "Document":
        """The document with every gap's lengths known. Raises GapError for one that replaces nothing."""
        gaps = []
        for gap, before, behind in zip(self.gaps, self.pieces, self.pieces[1:], strict=False):
            if gap.lengths is None:
                tokens = _tokens(tokenizer, before[-NEAR:], gap.replaces, behind[:NEAR])
                if not tokens:
                    raise GapError(
                        "nothing is replaced here, so the length of the gap must be said, as in --gap 12, "
                        "--gap 3-20 or --gap '*'",
                        self.source,
                        gap.offset,
                    )
                gap = replace(gap, lengths=exactly(tokens))
            gaps.append(gap)
        return replace(self, gaps=tuple(gaps))

    def describe(self, unit: str) -> str:
        """What there is to fill, for people: `3 gaps, 17 characters`. `unit`: what one token is.

        Of a `measured` document.
        """
        ranges = [gap.lengths for gap in self.gaps if gap.lengths is not None]
        least, most = sum(r[0] for r in ranges), sum(r[-1] for r in ranges)
        tokens = str(least) if least == most else f"{least} to {most}"
        parts = ((str(len(self.gaps)), "gap"), (tokens, unit))
        return ", ".join(f"{count} {noun}{'s' * (count != '1')}" for count, noun in parts)

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


def _tokens(tokenizer: Tokenizer, before: bytes, text: bytes, behind: bytes) -> int:
    """How many tokens a text reaches into where it stands; or has on its own, where tokens are no bytes."""
    spelling = tokenizer.spelling
    if not spelling or not text:
        return len(tokenizer.encode(text.decode(errors="replace")))
    parts = [part.decode(errors="replace") for part in (before, text, behind)]
    start, size = (len(part.encode()) for part in parts[:2])
    sizes = np.array([len(spelling[id]) for id in tokenizer.encode("".join(parts))])
    ends = sizes.cumsum()
    return int(((ends > start) & (ends - sizes < start + size)).sum())


def exactly(tokens: int) -> range:
    """The lengths of a gap whose length is known."""
    return range(tokens, tokens + 1)


def read_lengths(text: str, max_gap: int = MAX_GAP) -> Lengths | None:
    """The lengths that `12`, `3-20` or `*` (1 to max_gap) allow; None where the text says none."""
    if text == "*":
        return UpTo(max_gap)
    least, dash, most = text.partition("-")
    if not COUNT.fullmatch(least) or (dash and not COUNT.fullmatch(most)):
        return None
    return range(int(least), int(most or least) + 1) or None


def line_starts(text: bytes) -> list[int]:
    """Where each line starts, bytes."""
    return [0, *(match.end() for match in re.finditer(rb"\n", text))]


def text_start(text: bytes) -> int:
    """Where a text begins, bytes: behind a byte order mark, which editors count as no column."""
    return len(BOM_UTF8) if text.startswith(BOM_UTF8) else 0


def line_and_column(text: bytes, offset: int, starts: Sequence[int] | None = None) -> tuple[int, int]:
    """Where an offset in bytes lies: both from 1, the column in characters, a byte that is none for one.

    starts: the `line_starts` of the text, where many offsets are asked about.
    """
    line = bisect_right(starts, offset) if starts else text.count(b"\n", 0, offset) + 1
    return line, len(_line_before(text, offset)) + 1


def _line_before(text: bytes, offset: int) -> str:
    start = text.rfind(b"\n", 0, offset) + 1 or text_start(text)
    return text[start:offset].decode(errors="surrogateescape")
