"""A grid of character cells, for the terminal and the figure: where each token stands, what is written there.

A token has the same cells at every time, as wide as its clean piece, so that one sees it change in place.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from .parts import State, Story, Track

MASK = "░"


def cell_widths(story: Story, track: Track, columns: int, lines: int) -> list[int]:
    """Cells of each of the tokens, from the first, that can be seen in so many lines of so many columns."""
    widths = [min(columns, cell_len(story.pieces[id])) for id in track.clean[: columns * lines]]
    last = list(wrap(widths, columns))[:lines][-1]
    return widths[: last.stop]


def wrap(widths: Sequence[int], columns: int) -> Iterator[range]:
    """Positions of each line."""
    start, used = 0, 0
    for i, width in enumerate(widths):
        if used + width > columns:
            yield range(start, i)
            start, used = i, 0
        used += width
    yield range(start, len(widths))


class Part(NamedTuple):
    """Cells of a token that stand in one line: from `start` up to `end` of its own."""

    at: int
    start: int
    end: int


def whole(widths: Sequence[int], columns: int) -> list[list[Part]]:
    """Lines that are as full as can be, for a picture of many times."""
    return [[Part(i, 0, widths[i]) for i in positions] for positions in wrap(widths, columns)]


def broken(story: Story, track: Track, columns: int, lines: int) -> list[list[Part]]:
    """The first lines, as the text has them, for a picture of one time."""
    found, used = [list[Part]()], 0
    for i, id in enumerate(track.clean):
        start = 0
        for stretch in re.findall("[^↵]*↵|[^↵]+", story.pieces[id]):
            size = min(columns, cell_len(stretch))
            if used + size > columns:
                found.append([])
                used = 0
            if len(found) > lines:
                return found[:lines]
            found[-1].append(Part(i, start, start + size))
            start, used = start + size, columns if stretch.endswith("↵") else used + size
    return found


def cell(piece: str, state: str, width: int) -> str:
    """What is written in a token's cells: exactly `width` of them."""
    if State(state).hidden:
        return MASK * width
    if cell_len(piece) > width:
        return set_cell_size(piece, width - 1) + "…"
    return set_cell_size(piece, width)


def left_out(story: Story, track: Track, tokens: int, rows: int) -> str:
    """A note on what of the track is not drawn, or ''."""
    unit = f"{story.unit}s"
    notes = []
    if tokens < track.length:
        whence = (
            f"from {story.unit} {track.start + 1:,} on, {tokens:,}"
            if track.start
            else f"the first {tokens:,}"
        )
        notes.append(f"{whence} of {track.length:,} {unit}")
    if rows < len(track.rows):
        notes.append(f"{rows} of {len(track.rows)} times")
    return " and ".join(notes) and f"shown: {' and '.join(notes)}"
