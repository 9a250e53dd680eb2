r"""The ways to say where the gaps of a document are, each a function from bytes to a Document.

`parse`: markers in the text. `[MASK]` is a gap of one token, `[MASK:12]` of twelve, `[MASK:3-20]` of 3 to 20,
`[MASK:*]` of as many as fit, `\[MASK]` the text `[MASK]`. `cut_spans`, `cut_matches`: places in a text that
has none. `between`: a text before the gap and one after it.

`lengths`: of gaps that do not say their own. None: as long as what they replace.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ..errors import DdcliError, shorten
from ..files import wide_encoding
from .document import (
    LONGEST,
    MAX_GAP,
    Document,
    Gap,
    GapError,
    Lengths,
    UpTo,
    exactly,
    line_and_column,
    line_starts,
    read_lengths,
    text_start,
)

BRACKETS = ("]", ")", ">", "}")  # a marker that ends with one has room for a count before it
SPAN = re.compile(r"(\d+):(\d+)-(\d+):(\d+)(?:=(.*))?", re.ASCII)


def parse(
    source: bytes, marker: str = "[MASK]", lengths: Lengths | None = None, max_gap: int = MAX_GAP
) -> Document:
    r"""Find the markers in a document of any bytes.

    A marker that ends with a bracket also takes a length before it: `<gap>`, `<gap:12>`. One of one repeated
    character, such as `____`, takes the whole run of it, be that longer. After an odd number
    of backslashes it is text and one backslash goes; an even number stays and the marker is a gap.
    lengths: of a marker that says none; by default one token. max_gap: what `*` allows at most.
    Raises `GapError` for a bad length, `DdcliError` for an empty marker or a document without gaps.
    """
    if not marker:
        raise DdcliError("the mask token is empty; give the text that stands for a gap, such as [MASK]")
    plain = marker.encode(errors="surrogateescape")
    pattern, example = re.escape(plain), None
    counted = len(plain) > 1 and marker.endswith(BRACKETS)
    if len(marker) > 1 and len(set(marker)) == 1:
        pattern = rb"(?:%b){%d,}" % (re.escape(marker[0].encode(errors="surrogateescape")), len(marker))
    elif counted:
        stem, close = re.escape(plain[:-1]), re.escape(plain[-1:])
        # A length that nothing closes matches too: a slip of the pen is an error, not text.
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
        found: Lengths | None = lengths or exactly(1)
        if counted and written.startswith(plain[:-1] + b":"):
            closed = written.endswith(plain[-1:])
            said = written[len(plain) : -1].decode(errors="surrogateescape")
            found = read_lengths(said, max_gap) if closed else None
        if found is None:
            shown = shorten(written.decode(errors="surrogateescape"), 36)
            wrong = "needs" if closed else "is not closed; it takes"
            raise GapError(
                f"{shown} {wrong} a whole number of tokens, 1 to {LONGEST}, as in {example}, a range that "
                "rises, as 3-20, or *; a backslash before it keeps it as text",
                source,
                match.start(),
            )
        pieces.append(bytes(piece))
        gaps.append(Gap(found, match.start()))
        piece.clear()
    if not gaps:
        if wide := wide_encoding(source):
            raise DdcliError(f"the document is {wide} text; make UTF-8 of it: `iconv -f {wide} -t utf-8`")
        many = f", {example} for twelve" if example else ""
        raise DdcliError(f"the document has no gap to fill; write {marker} for one token{many}")
    return Document(source, (*pieces, bytes(piece + source[end:])), tuple(gaps))


def cut_spans(
    source: bytes, spans: Sequence[str], lengths: Lengths | None = None, max_gap: int = MAX_GAP
) -> Document:
    """Replace spans by gaps: `LINE:COLUMN-LINE:COLUMN`, from 1, in characters, the end not included.

    `10:4-12:9=3-20` says a length as well. The column after a line's last character is its end; an empty
    span inserts. Raises `DdcliError` for one that is no span, lies outside of the text or meets another.
    """
    lines = line_starts(source)
    places = []
    for span in spans:
        match = SPAN.fullmatch(span)
        own = read_lengths(match[5], max_gap) if match and match[5] is not None else lengths
        if not match or (match[5] is not None and own is None):
            raise DdcliError(
                f"--span {span}: not a span; write LINE:COLUMN-LINE:COLUMN, as in 10:4-12:9, or with a "
                "length, as in 10:4-12:9=3-20"
            )
        start, end = (
            _offset(source, lines, span, int(line), int(column))
            for line, column in (match.group(1, 2), match.group(3, 4))
        )
        if end < start:
            raise DdcliError(f"--span {span}: ends before it starts")
        places.append((start, end, own))
    places.sort(key=lambda place: place[:2])
    for (_, end, _), (start, _, _) in pairwise(places):
        if start < end:
            line, column = line_and_column(source, start)
            raise DdcliError(f"two spans meet at {line}:{column}; give spans that do not overlap")
    return _cut(source, places)


def cut_matches(source: bytes, pattern: str, lengths: Lengths | None = None) -> Document:
    r"""Replace what a regular expression matches by gaps; of one with groups, what the first that took part
    matches, as in `(cat)|a (dog)`, or all where none did.

    `^` and `$` are the ends of lines, also of CR LF. A match of no text inserts where `lengths` are given,
    but not right behind another gap. Raises `DdcliError` for what is no pattern, or makes no gap.
    """
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise DdcliError(f"--regex {pattern}: {error}") from None
    offset = text_start(source)
    text = source[offset:].decode(errors="surrogateescape")
    places: list[tuple[int, int, Lengths | None]] = []
    at, empty = 0, False
    for match in compiled.finditer(text):
        took_part = (i for i in range(1, compiled.groups + 1) if match[i] is not None)
        start, end = (_beside_line_end(text, place) for place in match.span(next(took_part, 0)))
        empty |= start == end >= 0
        if start < at or (start == end and (lengths is None or (places and start == at))):
            continue  # there is nothing to replace
        begins = offset + len(text[at:start].encode(errors="surrogateescape"))
        offset = begins + len(text[start:end].encode(errors="surrogateescape"))
        places.append((begins, offset, lengths))
        at = end
    if not places:
        if empty:
            raise DdcliError(f"--regex {pattern}: matches only places where nothing stands; give --gap")
        raise DdcliError(f"--regex {pattern}: matches nothing in the document, so there is no gap to fill")
    return _cut(source, places)


def between(before: bytes, after: bytes, lengths: Lengths | None = None) -> Document:
    """One gap between two texts, either of which may be empty; by default of 1 to MAX_GAP tokens."""
    return Document(before + after, (before, after), (Gap(lengths or UpTo(MAX_GAP), len(before)),))


def _beside_line_end(text: str, place: int) -> int:
    """The place, or the one before a CR LF that it would part: `.*$` takes what a line shows, and no more."""
    return place - (text[max(0, place - 1) : place + 1] == "\r\n")


def _cut(source: bytes, places: Iterable[tuple[int, int, Lengths | None]]) -> Document:
    pieces, gaps, at = [], [], 0
    for start, end, lengths in places:
        pieces.append(source[at:start])
        gaps.append(Gap(lengths, start, source[start:end]))
        at = end
    return Document(source, (*pieces, source[at:]), tuple(gaps))


def _offset(source: bytes, starts: Sequence[int], span: str, line: int, column: int) -> int:
    """In bytes. Raises DdcliError where there is no such place."""
    if not 1 <= line <= len(starts):
        last = len(starts) - (len(starts) > 1 and starts[-1] == len(source))  # nobody calls its end a line
        raise DdcliError(f"--span {span}: there is no line {line}; the text has lines 1 to {last}")
    start = starts[line - 1] or text_start(source)
    shown = source[start : starts[line] if line < len(starts) else None]
    shown = re.sub(rb"\r?\n\Z", b"", shown)
    text = shown.decode(errors="surrogateescape")
    if not 1 <= column <= len(text) + 1:
        raise DdcliError(f"--span {span}: line {line} has columns 1 to {len(text) + 1}, not {column}")
    return start + len(text[: column - 1].encode(errors="surrogateescape"))
