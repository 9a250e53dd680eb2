"""Noise as a still picture (PNG, SVG): the text over t, its curves, and the matrices of the chain.

All lengths are inches from the top left corner of the page.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import cycle, groupby
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from rich.cells import set_cell_size

from .layout import cell, cell_widths, left_out, wrap
from .story import Chapter, Figured, State, Story, Track, spread

WIDTH, EDGE = 13.0, 0.45
ROWS, LINES = 12, 2  # times of a track, and lines of text at each
COLUMNS = (48, 96)  # characters of a line: fewest (a short text is drawn large) and most
CURVES = 3.0  # height of the curves
MATRICES = 3  # times at which matrices are drawn
FONT = "DejaVu Sans Mono"
WORD = re.compile(r"[^ ]+")
ASPECT = 0.602  # width of a character of this font over its size
INK, FAINT, PAPER = "#1f2430", "#7a8194", "#ffffff"
COLOURS = (  # one for each process
    *("#2f6fb3", "#d9632b", "#3d8f5f", "#8a56a8"),
    *("#b8952b", "#2f9aa8", "#b8477f", "#7a8194"),
)
FACES: dict[str, tuple[str, str, str]] = {  # state: cell, ink, meaning
    State.KEPT: (PAPER, INK, "kept"),
    State.MASKED: ("#d3d8e2", INK, "masked"),
    State.REPLACED: ("#fbdcc9", "#a63c06", "replaced"),
    State.OPENED: ("#cbe9d3", "#14602f", "opened in this step"),
    State.TENTATIVE: ("#fdf3cf", "#7d5f0c", "may still change"),
}
STYLE: Any = {
    "font.family": FONT,
    "font.size": 8,
    "svg.fonttype": "none",  # text stays text: it can be selected and searched
    "svg.hashsalt": "ddcli",  # the same story gives the same file
    "text.hinting": "none",  # hinted characters are whole pixels wide, and leave the grid
    "text.parse_math": False,  # a dollar sign of the text is a dollar sign
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def png(story: Story) -> bytes:
    return _save(story, "png", {"Software": None})


def svg(story: Story) -> bytes:
    return _save(story, "svg", {"Date": None})


def _save(story: Story, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = BytesIO()
    with matplotlib.rc_context(STYLE):
        _draw(story).savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


# -- the page ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """Where things are drawn."""

    figure: Figure
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        box = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(box)
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def write(self, left: float, top: float, text: str, size: float, colour: str = INK, **style: Any) -> None:
        """A line of text whose middle is at `top`."""
        self.figure.text(
            left / WIDTH, 1 - top / self.height, text, size=size, color=colour, va="center", **style
        )


@dataclass(frozen=True)
class Panel:
    """A track laid out on the page: its heading, then at each time its figures and its text."""

    story: Story
    track: Track
    columns: int
    widths: list[int]
    rows: list[Figured]

    margin = 3.1  # where the text starts, right of the figures
    head = 0.85

    @classmethod
    def of(cls, story: Story, track: Track) -> "Panel":
        fewest, most = COLUMNS
        columns = max(fewest, min(most, sum(cell_widths(story, track, most, 1))))
        widths = cell_widths(story, track, columns, LINES)
        return cls(story, track, columns, widths, spread(track.rows, ROWS))

    @property
    def cell(self) -> float:
        """Width of a character."""
        return (WIDTH - EDGE - self.margin) / self.columns

    @property
    def pitch(self) -> float:
        """From one time to the next."""
        return self.cell * (2.0 * len(list(wrap(self.widths, self.columns))) + 0.45)

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
            page.write(x, top + 0.6, name, 8, FAINT, ha="right")
        occurring, x = set().union(*(row.states for row in self.rows)), self.margin
        for state, (face, ink, meaning) in FACES.items():
            if state in occurring:
                label = f" {meaning} "
                box = {"facecolor": face, "edgecolor": FAINT, "linewidth": 0.4, "pad": 2.5}
                page.write(x, top + 0.5, label, 8, ink, bbox=box)
                x += len(label) * 8 * ASPECT / 72 + 0.16
        note = left_out(self.story, self.track, len(self.widths), len(self.rows))
        page.write(x, top + 0.5, f"↵ line break   {note}", 8, FAINT)

    def _stops(self, row: Figured) -> list[float]:
        """Right ends of the figures' columns."""
        names = list(row.figures())
        step = (self.margin - EDGE - 0.2) / len(names)
        return [EDGE + step * (i + 1) - 0.08 for i in range(len(names))]

    def _draw_row(self, axes: Axes, row: Figured, top: float) -> None:
        size = self.cell / ASPECT * 72
        for line, positions in enumerate(wrap(self.widths, self.columns)):
            x, y = 0, top + 2.0 * line
            for state, run in groupby(positions, key=lambda i: row.states[i]):
                face, ink, _ = FACES[state]
                text = "".join(self._cell(row, i) for i in run)
                axes.add_patch(Rectangle((x, y + 0.06), len(text), 1.88, facecolor=face, linewidth=0))
                for word in WORD.finditer(text):  # SVG folds blanks, so no text holds one
                    axes.text(x + word.start(), y + 1.0, word[0], size=size, color=ink, va="center_baseline")
                x += len(text)

    def _cell(self, row: Figured, i: int) -> str:
        if row.states[i] == State.MASKED:
            return " " * self.widths[i]
        text = cell(self.story.pieces[row.tokens[i]], row.states[i], self.widths[i])
        return drawable(text).ljust(self.widths[i])  # a wide character has become a single one


def _draw(story: Story) -> Figure:
    panels = [Panel.of(story, track) for chapter in story.chapters for track in chapter.tracks]
    strips = [Strip(story, chapter) for chapter in story.chapters if chapter.chain.times]
    height = 2 * EDGE + sum(p.height for p in panels) + CURVES + sum(s.height for s in strips)
    figure = Figure(figsize=(WIDTH, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    page, top = Page(figure, height), EDGE
    for panel in panels:
        panel.draw(page, top)
        top += panel.height
    _draw_curves(page, top, story.chapters)
    top += CURVES
    for strip in strips:
        strip.draw(page, top)
        top += strip.height
    return figure


# -- curves -----------------------------------------------------------------------------------------------


TITLES = {  # by the figure drawn as a line
    "noise": "noise ─  drawn •",
    "weight": "loss weight w = -α′ / (1 - α)",
    "information": "bits per token: I(x₀; xₜ) ─",
    "distance": "total variation from pure noise",
}
DOTTED = {"noise": ("alpha", "signal α ┈"), "information": ("entropy", "H(xₜ) ┈")}  # drawn beside it


def _draw_curves(page: Page, top: float, chapters: Sequence[Chapter]) -> None:
    def known(line: str) -> bool:
        return any(getattr(m, line) is not None for chapter in chapters for m in chapter.curves)

    lines = list(filter(known, TITLES))
    dotted = {line: beside for line, beside in DOTTED.items() if known(beside[0])}
    gap, left = 0.7, EDGE + 0.35
    width = (WIDTH - left - EDGE - (len(lines) - 1) * gap) / len(lines)
    panels = {
        line: page.axes(left + i * (width + gap), top + 0.6, width, 1.8) for i, line in enumerate(lines)
    }
    for line, axes in panels.items():
        title = "  ".join([TITLES[line], *(dotted[line][1:] if line in dotted else ())])
        axes.set_title(title, loc="left", size=8, weight="bold", color=INK)
        axes.set(xlim=(0, 1), xlabel="t")
        axes.grid(color=FAINT, alpha=0.2, linewidth=0.5)
    x = left
    for i, (chapter, colour) in enumerate(zip(chapters, cycle(COLOURS), strict=False)):
        page.write(x, top + 0.15, f"■ {chapter.name}", 9, colour, weight="bold")
        x += (len(chapter.name) + 5) * 9 * ASPECT / 72
        look: dict[str, Any] = {"color": colour, "linewidth": max(1.0, 3.2 / (i + 1))}  # all stay visible
        for line, axes in panels.items():
            _plot(axes, chapter, line, **look)
            if line in dotted:
                _plot(axes, chapter, dotted[line][0], **look, linestyle=(0, (1, 1.5)))
        rows = chapter.tracks[0].rows
        drawn = [row.noise for row in rows]
        panels["noise"].plot([row.t for row in rows], drawn, "o", color=colour, markersize=4, clip_on=False)
    if weight := panels.get("weight"):
        weight.set_yscale("log")
        weight.yaxis.set_major_formatter("{x:g}")
        weight.yaxis.set_minor_formatter("")
    for line in ("noise", "distance"):
        panels[line].set_ylim(-0.02, 1.02)
    panels["information"].set_ylim(bottom=0)


def _plot(axes: Axes, chapter: Chapter, line: str, **look: Any) -> None:
    heights = [getattr(m, line) for m in chapter.curves]
    axes.plot([m.t for m in chapter.curves], [math.nan if y is None else y for y in heights], **look)


# -- matrices ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strip:
    """The matrices of one process: single steps on the left, products on the right."""

    story: Story
    chapter: Chapter

    height = 2.95
    side = 1.62
    gap = 0.2

    def draw(self, page: Page, top: float) -> None:
        chain = self.chapter.chain
        picked = spread(range(len(chain.times)), MATRICES)
        starts = [0.0, *chain.times]
        name, symbols = self.chapter.name, self._symbols()
        left = EDGE + 0.35
        for heading, matrices, begins in (
            (f"{name}: one step, Qₜ", chain.steps, starts),
            (f"{name}: all steps so far, Q₁:ₜ", chain.products, [0.0] * len(starts)),
        ):
            page.write(left, top + 0.15, heading, 9, weight="bold")
            if chain.lumped:
                note = f"others: {chain.lumped:,} symbols together"
                page.write(left + (len(heading) + 2) * 9 * ASPECT / 72, top + 0.15, note, 7, FAINT)
            for k in picked:
                axes = page.axes(left, top + 0.6, self.side, self.side)
                image = axes.imshow(
                    matrices[k], norm=PowerNorm(0.5, 0, 1), cmap="Blues", interpolation="none"
                )
                axes.set_title(f"{begins[k]:.2f} → {chain.times[k]:.2f}", size=7, color=FAINT)
                self._label(axes, symbols, first=k == picked[0])
                left += self.side + self.gap
            left += 0.45
        bar = page.axes(left - 0.3, top + 0.6, 0.1, self.side)
        page.figure.colorbar(image, cax=bar, ticks=[0, 0.05, 0.2, 0.5, 1], format="{x:g}")
        bar.tick_params(labelsize=6, length=2)
        bar.set_title("probability", size=6, color=FAINT, loc="left")

    def _symbols(self) -> list[str]:
        chain = self.chapter.chain
        names = [drawable(self.story.pieces[id]).replace(" ", "␣") for id in chain.states]
        return [set_cell_size(n, 6).rstrip() for n in names] + ["others"] * (chain.lumped > 0)

    def _label(self, axes: Axes, symbols: list[str], first: bool) -> None:
        size = min(7.0, self.side * 72 / len(symbols))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=1.5, labelsize=size)
        axes.set_xticks(range(len(symbols)), symbols, rotation=90)
        axes.set_yticks(range(len(symbols)), symbols if first else [])
        axes.set_xlabel("from", size=7, labelpad=1)
        if first:
            axes.set_ylabel("to", size=7, labelpad=1)


# -- characters the font lacks ----------------------------------------------------------------------------


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(font_manager.findfont(FONT)).get_charmap())


def drawable(text: str) -> str:
    """The text with □ for what the font lacks."""
    return "".join(c if ord(c) in _glyphs() else "□" for c in text)
