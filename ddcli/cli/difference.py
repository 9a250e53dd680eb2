"""What filling the gaps of a text changes in it, as a unified diff."""

import os
import re
from collections.abc import Iterator, Sequence
from difflib import Match, SequenceMatcher
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..filling import Infilling
    from ..infilling import Document

LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class _Matched(SequenceMatcher[bytes]):
    """Of texts of which it is known where they are the same."""

    def __init__(self, same: list[Match]) -> None:
        super().__init__(a=[], b=[])
        self.same = same

    def get_matching_blocks(self) -> list[Match]:
        return self.same


def difference(document: "Document", way: "Infilling", name: str) -> bytes:
    """A unified diff, as `patch` takes it; of texts that are the same, nothing.

    Looked for from gap to gap: what stands between two is the same, and difflib would take minutes to find
    that in a big text.
    """
    old, new, same = list[bytes](), list[bytes](), [Match(0, 0, 0)]
    for (start, start_new), (end, end_new) in pairwise(_cuts(document, way)):
        before, after = LINE.findall(document.source[start:end]), LINE.findall(way.content[start_new:end_new])
        for a, b, size in _same(before, after):
            a, b = a + len(old), b + len(new)
            if (a, b) == (same[-1].a + same[-1].size, same[-1].b + same[-1].size):
                a, b, size = same[-1].a, same[-1].b, same.pop().size + size
            same.append(Match(a, b, size))
        old += before
        new += after
    lines = list(_hunks(old, new, [*same, Match(len(old), len(new), 0)]))
    shown = _quoted(os.fsencode(name))
    head = [b"--- %b\n" % shown, b"+++ %b\n" % shown] if lines else []
    ended = (x if x.endswith(b"\n") else x + b"\n\\ No newline at end of file\n" for x in lines)
    return b"".join([*head, *ended])


def _cuts(document: "Document", way: "Infilling") -> Iterator[tuple[int, int]]:
    """Where lines with gaps begin in the text as it is written, and in the filled one; and both ends."""
    yield 0, 0
    for piece, gap, fill in zip(document.pieces, document.gaps, way.gaps, strict=False):
        if b"\n" in piece:
            yield (
                document.source.rfind(b"\n", 0, gap.offset) + 1,
                way.content.rfind(b"\n", 0, fill.start) + 1,
            )
    yield len(document.source), len(way.content)


def _same(before: Sequence[bytes], after: Sequence[bytes]) -> Iterator[Match]:
    """The runs of lines that two parts of a text have in common, most of which is at their end."""
    tail = 0
    while tail < min(len(before), len(after)) and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    n, m = len(before) - tail, len(after) - tail
    yield from SequenceMatcher(None, before[:n], after[:m]).get_matching_blocks()[:-1]
    if tail:
        yield Match(n, m, tail)


def _hunks(old: Sequence[bytes], new: Sequence[bytes], same: list[Match]) -> Iterator[bytes]:
    for group in _Matched(same).get_grouped_opcodes():
        first, last = group[0], group[-1]
        yield b"@@ -%b +%b @@\n" % (_range(first[1], last[2]), _range(first[3], last[4]))
        for tag, i, j, k, m in group:
            if tag == "equal":
                yield from (b" " + line for line in old[i:j])
            else:
                yield from (b"-" + line for line in old[i:j])
                yield from (b"+" + line for line in new[k:m])


def _range(start: int, end: int) -> bytes:
    """Lines from 1, as a hunk says them; of none, the one before."""
    size = end - start
    return b"%d" % (start + 1) if size == 1 else b"%d,%d" % (start + (size > 0), size)


def _quoted(name: bytes) -> bytes:
    """As `patch` reads a name in which there are line ends or quotes."""
    if not re.search(rb'[\0-\x1f\x7f"\\]', name):
        return name
    return b'"%b"' % re.sub(rb'[\0-\x1f\x7f"\\]', lambda found: b"\\%03o" % found[0][0], name)
