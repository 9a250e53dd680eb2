"""What a still picture is drawn on: a page in inches from its top left corner, its colours and its font."""

import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from .parts import State

WIDTH, EDGE = 13.0, 0.45
LEFT = EDGE + 0.35  # of axes, whose labels stand left of them
FONT = "DejaVu Sans Mono"
ASPECT = 0.602  # width of a character of this font over its size
INK, FAINT, PAPER = "#1f2430", "#7a8194", "#ffffff"
COLOURS = (  # one for each process
    *("#2f6fb3", "#bd4a12", "#2f7a4d", "#8a56a8"),
    *("#86670a", "#1d7480", "#b0407a", "#666e80"),
)
FACES: dict[str, tuple[str, str]] = {  # state: cell, ink
    State.KEPT: (PAPER, INK),
    State.MASKED: ("#d3d8e2", INK),
    State.REPLACED: ("#fbdcc9", "#a63c06"),
    State.OPENED: ("#cbe9d3", "#14602f"),
    State.REMASKED: ("#d9c3ea", "#5b2a86"),
    State.TENTATIVE: ("#fdf3cf", "#7d5f0c"),
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


class Section(Protocol):
    """A part of the picture, as wide as the page."""

    @property
    def height(self) -> float: ...

    def draw(self, page: Page, top: float) -> None: ...


def width_of(text: str, size: float) -> float:
    """Of a line in points of `size`, in inches."""
    return len(text) * size * ASPECT / 72


def wrapped(text: str, size: float, width: float = WIDTH - 2 * EDGE) -> list[str]:
    """The lines of a text in points of `size` that are so many inches wide."""
    return textwrap.wrap(text, int(width / width_of("x", size)))


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(font_manager.findfont(FONT)).get_charmap())


def drawable(text: str) -> str:
    """The text with □ for what the font lacks."""
    return "".join(c if ord(c) in _glyphs() else "□" for c in text)
