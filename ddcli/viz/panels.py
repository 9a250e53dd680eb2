"""A track as a picture: its text at each time, with its figures beside it."""

import re
from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from rich.cells import cell_len

from .layout import Part, broken, cell, cell_widths, left_out, whole
from .paper import ASPECT, EDGE, FACES, FAINT, WIDTH, Page, drawable, width_of
from .parts import MEANINGS, Figured, State, Story, Track

ROWS, LINES = 12, 2  # times of a track, and lines of text at each
COLUMNS = (48, 96)  # characters of a line: fewest (a short text is drawn large) and most
WORD = re.compile(r"[^ ]+")


@dataclass(frozen=True)
class Panel:
    """A track laid out on the page: its heading, then at each time its figures and its text."""

    story: Story
    track: Track
    columns: int
    lines: list[list[Part]]
    rows: list[Figured]
    states: frozenset[str]  # that occur
    note: str  # what of the track is not drawn

    margin = 3.7  # where the text starts, right of the figures
    head = 0.85

    @classmethod
    def of(cls, story: Story, track: Track) -> "Panel":
        """For a still picture: a few times, each in a few lines."""
        columns = _columns(sum(cell_widths(story, track, COLUMNS[1], 1)))
        widths = cell_widths(story, track, columns, LINES)
        return cls._made(story, track, columns, whole(widths, columns), ROWS)

    @classmethod
    def moving(cls, story: Story, track: Track, rows: int, lines: int) -> "Panel":
        """For a picture that shows one time after the other, in lines as the text has them."""
        parts = broken(story, track, COLUMNS[1], lines)
        columns = _columns(max(sum(part.end - part.start for part in line) for line in parts))
        return cls._made(story, track, columns, parts, rows)

    @classmethod
    def _made(cls, story: Story, track: Track, columns: int, lines: list[list[Part]], rows: int) -> "Panel":
        tokens = lines[-1][-1].at + 1
        shown = track.told(tokens, rows)
        states = frozenset(state for row in shown for state in row.states[:tokens])
        note = left_out(story, track, tokens, len(shown))
        return cls(story, track, columns, lines, shown, states, note)

    @property
    def cell(self) -> float:
        """Width of a character."""
        return (WIDTH - EDGE - self.margin) / self.columns

    @property
    def pitch(self) -> float:
        """From one time to the next."""
        return self.cell * (2.0 * len(self.lines) + 0.45)

    @property
    def height(self) -> float:
        return self.head + self.pitch * len(self.rows) + 0.2

    def draw(self, page: Page, top: float) -> None:
        self._draw_head(page, top)
        axes = page.axes(self.margin, top + self.head, self.columns * self.cell, self.pitch * len(self.rows))
        axes.set(xlim=(0, self.columns), ylim=(self.pitch / self.cell * len(self.rows), 0))
        axes.axis("off")
        for k, row in enumerate(self.rows):
            self._draw_row(axes, row, k * self.pitch / self.cell)
            middle = top + self.head + k * self.pitch + self.cell
            for x, figure in zip(self._stops(row), row.figures().values(), strict=True):
                page.write(x, middle, figure, 8, FAINT, ha="right")

    def _draw_head(self, page: Page, top: float) -> None:
        page.write(EDGE, top + 0.15, self.track.title, 13, weight="bold")
        for x, name in zip(self._stops(self.rows[0]), self.rows[0].figures(), strict=True):
            page.write(x, top + 0.6, name, 7, FAINT, ha="right")
        x = self.margin
        for state, (face, ink) in FACES.items():
            if state in self.states:
                label = f" {MEANINGS[State(state)]} "
                box = {"facecolor": face, "edgecolor": FAINT, "linewidth": 0.4, "pad": 2.5}
                page.write(x, top + 0.5, label, 8, ink, bbox=box)
                x += width_of(label, 8) + 0.16
        page.write(x, top + 0.5, f"↵ line break   {self.note}", 8, FAINT)

    def _stops(self, row: Figured) -> list[float]:
        """Right ends of the figures' columns."""
        names = list(row.figures())
        step = (self.margin - EDGE - 0.2) / len(names)
        return [EDGE + step * (i + 1) - 0.08 for i in range(len(names))]

    def _draw_row(self, axes: Axes, row: Figured, top: float) -> None:
        size = self.cell / ASPECT * 72
        for line, parts in enumerate(self.lines):
            x, y = 0, top + 2.0 * line
            for state, run in groupby(parts, key=lambda part: row.states[part.at]):
                face, ink = FACES[state]
                text = "".join(self._cell(row, part) for part in run)
                axes.add_patch(Rectangle((x, y + 0.06), len(text), 1.88, facecolor=face, linewidth=0))
                for word in WORD.finditer(text):  # SVG folds blanks, so no text holds one
                    axes.text(x + word.start(), y + 1.0, word[0], size=size, color=ink, va="center_baseline")
                x += len(text)

    def _cell(self, row: Figured, part: Part) -> str:
        size = part.end - part.start
        if State(row.states[part.at]).hidden:
            return " " * size
        width = cell_len(self.story.pieces[self.track.clean[part.at]])
        text = cell(self.story.pieces[row.tokens[part.at]], row.states[part.at], max(width, part.end))
        return drawable(text)[part.start : part.end].ljust(size)  # a wide character has become a single one


def _columns(needed: int) -> int:
    """Characters of a line, for a text that needs so many."""
    fewest, most = COLUMNS
    return max(fewest, min(most, needed))
