"""What is left at each time, as curves of all processes in one picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes

from .paper import COLOURS, EDGE, FAINT, INK, LEFT, WIDTH, Page, width_of
from .parts import Chapter

TITLES = {  # by the figure drawn as a line
    "noise": "noise ─  drawn •",
    "weight": "loss weight w = -α′ / (1 - α)",
    "information": "bits per token: I(x₀; xₜ) ─",
    "distance": "total variation from pure noise",
}
DOTTED = {"noise": ("alpha", "signal α ┈"), "information": ("entropy", "H(xₜ) ┈")}  # drawn beside it


@dataclass(frozen=True)
class Curves:
    """All processes, each in its colour."""

    chapters: Sequence[Chapter]

    row = 0.25  # of names

    @property
    def _names(self) -> list[tuple[float, int]]:
        """Where each name stands: its left edge, in inches, and its row."""
        places, x, row = [], LEFT, 0
        for chapter in self.chapters:
            width = width_of(f"■ {chapter.name}", 9)
            if x > LEFT and x + width > WIDTH - EDGE:
                x, row = LEFT, row + 1
            places.append((x, row))
            x += width + 0.3
        return places

    @property
    def height(self) -> float:
        return 3.0 + self.row * self._names[-1][1]

    def draw(self, page: Page, top: float) -> None:
        def known(line: str) -> bool:
            return any(getattr(m, line) is not None for chapter in self.chapters for m in chapter.curves)

        lines = list(filter(known, TITLES))
        dotted = {line: beside for line, beside in DOTTED.items() if known(beside[0])}
        gap, left = 0.7, LEFT
        width = (WIDTH - left - EDGE - (len(lines) - 1) * gap) / len(lines)
        panels = {
            line: page.axes(left + i * (width + gap), top + self.height - 2.4, width, 1.8)
            for i, line in enumerate(lines)
        }
        for line, axes in panels.items():
            title = "  ".join([TITLES[line], *(dotted[line][1:] if line in dotted else ())])
            axes.set_title(title, loc="left", size=8, weight="bold", color=INK)
            axes.set(xlim=(0, 1), xlabel="t")
            axes.grid(color=FAINT, alpha=0.2, linewidth=0.5)
        for i, (chapter, colour) in enumerate(zip(self.chapters, cycle(COLOURS), strict=False)):
            x, row = self._names[i]
            page.write(x, top + 0.15 + self.row * row, f"■ {chapter.name}", 9, colour, weight="bold")
            look: dict[str, Any] = {"color": colour, "linewidth": max(1.0, 3.2 / (i + 1))}  # all stay visible
            for line, axes in panels.items():
                _plot(axes, chapter, line, **look)
                if line in dotted:
                    _plot(axes, chapter, dotted[line][0], **look, linestyle=(0, (1, 1.5)))
            rows = chapter.tracks[0].rows
            drawn = [row.noise for row in rows]
            panels["noise"].plot(
                [row.t for row in rows], drawn, "o", color=colour, markersize=4, clip_on=False
            )
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
