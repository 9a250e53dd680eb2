"""Tokens and their Gaussian twins, one above the other at the same times."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from matplotlib.axes import Axes

from .layout import cell
from .paper import ASPECT, EDGE, FACES, FAINT, INK, LEFT, WIDTH, Page, drawable, wrapped
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
    line = 0.2  # of the note

    @classmethod
    def of(cls, story: Story) -> Iterator["Twin"]:
        """One at most: that of the first signal alpha_t there is, which most processes share."""
        tracks = (chapter.tracks[0] for chapter in story.chapters)
        for track in islice((track for track in tracks if track.values), 1):
            assert track.values is not None
            yield cls(story, _sharing(story, track.values), track, track.values)

    @property
    def _note(self) -> list[str]:
        note = (
            f"{self.name}.  x: each symbol a level of its own, mean 0 and variance 1 over the text; ε is "
            "standard normal; one path for all times. Bars are zₜ, ┈ is x."
        )
        return wrapped(note, 8)

    @property
    def head(self) -> float:
        return 0.55 + self.line * len(self._note)

    @property
    def height(self) -> float:
        return self.head + self.pitch * len(self._picked) + 0.35

    @property
    def _picked(self) -> list[int]:
        return spread(range(len(self.track.rows)), ROWS)

    def draw(self, page: Page, top: float) -> None:
        page.write(EDGE, top + 0.15, TITLE, 11, weight="bold")
        for i, line in enumerate(self._note):
            page.write(EDGE, top + 0.45 + i * self.line, line, 8, FAINT)
        shown = self.values.clean[:TOKENS]
        width = WIDTH - EDGE - LEFT - 0.75
        for k, index in enumerate(self._picked):
            row, z = self.track.rows[index], self.values.rows[index]
            assert isinstance(row, Noised)
            axes = page.axes(LEFT + 0.75, top + self.head + k * self.pitch, width, self.pitch - 0.14)
            middle = top + self.head + k * self.pitch
            page.write(EDGE, middle + 0.14, f"t = {row.t:.2f}", 8, FAINT)
            page.write(EDGE, middle + 0.56, f"α = {row.measures.alpha:.2f}", 8, FAINT)
            self._tokens(axes, row, len(shown), width / max(24, len(shown)))
            self._bars(axes, shown, z)
            axes.set(xlim=(0, max(24, len(shown))), ylim=(-REACH, REACH + 2.6))
            axes.axis("off")

    def _tokens(self, axes: Axes, row: Noised, count: int, width: float) -> None:
        faces = [FACES[State(state)][0] for state in row.states[:count]]
        cells = [(i + 0.03, 0.94) for i in range(count)]
        axes.broken_barh(cells, (REACH + 0.5, 2.0), facecolors=faces, linewidth=0)
        for i, (token, state) in enumerate(zip(row.tokens[:count], row.states, strict=False)):
            if State(state).hidden:
                continue
            piece = drawable(cell(self.story.pieces[token].replace(" ", "␣"), state, 4)).strip()
            size = min(11.0, 0.9 * width * 72 / ASPECT / max(1, len(piece)))
            ink = FACES[State(state)][1]
            axes.text(i + 0.5, REACH + 1.5, piece, size=size, color=ink, ha="center", va="center")

    def _bars(self, axes: Axes, clean: list[float], z: list[float]) -> None:
        places = [i + 0.5 for i in range(len(clean))]
        heights = [max(-REACH, min(REACH, value)) for value in z[: len(clean)]]
        axes.bar(places, heights, 0.6, color=[UP if height > 0 else DOWN for height in heights], linewidth=0)
        starts, ends = [x - 0.42 for x in places], [x + 0.42 for x in places]
        axes.hlines(clean, starts, ends, color=INK, linewidth=0.9, linestyle=(0, (2, 1)))
        axes.plot([0, len(clean)], [0, 0], color=FAINT, linewidth=0.5)


def _sharing(story: Story, values: Values) -> str:
    """The names of the processes with these values."""

    def its(chapter: Chapter) -> bool:
        return chapter.tracks[0].values == values

    return " · ".join(chapter.name for chapter in story.chapters if its(chapter))
