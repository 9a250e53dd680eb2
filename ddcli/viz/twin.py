"""Tokens and their Gaussian twins, one above the other at the same times."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from .layout import cell
from .paper import ASPECT, EDGE, FACES, FAINT, INK, LEFT, WIDTH, Page, drawable
from .parts import Chapter, Noised, State, Story, Track, Values, spread

ROWS = 5  # times
TOKENS = 48
REACH = 3.2  # standard deviations from the middle of a strip to its edge
UP, DOWN = "#b8472f", "#2f6fb3"  # values above and below zero
TITLE = "The same noise of numbers: zₜ = √αₜ x + √(1-αₜ) ε, beside the tokens at the same αₜ"


@dataclass(frozen=True)
class Twin:
    """One process and its twin. The tokens are as wide as each other here, so that bars stand under them."""

    story: Story
    name: str
    track: Track
    values: Values

    pitch = 1.06  # from one time to the next
    head = 0.75

    @classmethod
    def of(cls, story: Story) -> Iterator["Twin"]:
        """One at most: that of the first signal alpha_t there is, which most processes share."""
        tracks = (chapter.tracks[0] for chapter in story.chapters)
        for track in islice((track for track in tracks if track.values), 1):
            assert track.values is not None
            yield cls(story, _sharing(story, track.values), track, track.values)

    @property
    def height(self) -> float:
        return self.head + self.pitch * len(self._picked) + 0.35

    @property
    def _picked(self) -> list[int]:
        return spread(range(len(self.track.rows)), ROWS)

    def draw(self, page: Page, top: float) -> None:
        page.write(EDGE, top + 0.15, TITLE, 11, weight="bold")
        note = (
            f"{self.name}.  x: each symbol a level of its own, mean 0 and variance 1 over the text, ┈ where "
            "it differs from zₜ; ε standard normal; one path for all times."
        )
        page.write(EDGE, top + 0.45, note, 8, FAINT)
        shown = self.values.clean[:TOKENS]
        width = WIDTH - EDGE - LEFT - 0.75
        for k, index in enumerate(self._picked):
            row, z = self.track.rows[index], self.values.rows[index]
            assert isinstance(row, Noised)
            axes = page.axes(LEFT + 0.75, top + self.head + k * self.pitch, width, self.pitch - 0.14)
            axes.set(xlim=(0, max(24, len(shown))), ylim=(-REACH, REACH + 2.6))
            axes.axis("off")
            middle = top + self.head + k * self.pitch
            page.write(EDGE, middle + 0.14, f"t = {row.t:.2f}", 8, FAINT)
            page.write(EDGE, middle + 0.56, f"α = {row.measures.alpha:.2f}", 8, FAINT)
            self._tokens(axes, row, len(shown), width / max(24, len(shown)))
            self._bars(axes, shown, z)

    def _tokens(self, axes: Axes, row: Noised, count: int, width: float) -> None:
        for i in range(count):
            face, ink = FACES[State(row.states[i])]
            axes.add_patch(Rectangle((i + 0.03, REACH + 0.5), 0.94, 2.0, facecolor=face, linewidth=0))
            if State(row.states[i]).hidden:
                continue
            piece = drawable(
                cell(self.story.pieces[row.tokens[i]].replace(" ", "␣"), row.states[i], 4)
            ).strip()
            size = min(11.0, 0.9 * width * 72 / ASPECT / max(1, len(piece)))
            axes.text(i + 0.5, REACH + 1.5, piece, size=size, color=ink, ha="center", va="center")

    def _bars(self, axes: Axes, clean: list[float], z: list[float]) -> None:
        axes.plot([0, len(clean)], [0, 0], color=FAINT, linewidth=0.5)
        for i, (x, value) in enumerate(zip(clean, z, strict=False)):
            height = max(-REACH, min(REACH, value))
            axes.add_patch(
                Rectangle((i + 0.2, 0), 0.6, height, facecolor=UP if height > 0 else DOWN, linewidth=0)
            )
            axes.plot([i + 0.08, i + 0.92], [x, x], color=INK, linewidth=0.9, linestyle=(0, (2, 1)))


def _sharing(story: Story, values: Values) -> str:
    """The names of the processes with these values."""

    def its(chapter: Chapter) -> bool:
        return chapter.tracks[0].values == values

    return ", ".join(chapter.name for chapter in story.chapters if its(chapter))
