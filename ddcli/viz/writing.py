"""How a model wrote a text: when each token opened, how sure it was, what it took back, what it cost."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

from .paper import EDGE, FAINT, INK, LEFT, WIDTH, Page
from .parts import MEANINGS, Denoised, Event, State, Track

GAP = 0.75
INKS = {  # of events
    State.OPENED: "#2c8a4b",
    State.REPLACED: "#bd4a12",
    State.REMASKED: "#8a56a8",
}
SIGNS = {State.OPENED: "o", State.REPLACED: "^", State.REMASKED: "x"}


@dataclass(frozen=True)
class Writing:
    """The events of one track."""

    track: Track

    height = 3.25

    def draw(self, page: Page, top: float) -> None:
        width = WIDTH - LEFT - EDGE
        wide, narrow = 0.42 * width, (0.58 * width - 2 * GAP) / 2
        lefts = (LEFT, LEFT + wide + GAP, LEFT + wide + narrow + 2 * GAP)
        for left, size, draw in zip(
            lefts, (wide, narrow, narrow), (self._order, self._surprise, self._cost), strict=True
        ):
            axes = page.axes(left, top + 0.45, size, 1.85)
            axes.grid(color=FAINT, alpha=0.2, linewidth=0.5)
            axes.tick_params(labelsize=7)
            draw(axes)

    def _order(self, axes: Axes) -> None:
        axes.set_title("order: the step at which each position changed", **_TITLE)
        for state, events in self._kinds().items():
            places, steps = [event.at for event in events], [event.step for event in events]
            axes.scatter(
                places,
                steps,
                s=9,
                marker=SIGNS[state],
                color=INKS[state],
                linewidths=0.8,
                label=MEANINGS[state],
            )
        axes.set(xlim=(-1, len(self.track.clean)), xlabel="position", ylabel="step")
        first, last = self._steps
        edge = 0.2 + 0.03 * (last - first)
        axes.set_ylim(last + 0.6 + edge, first - edge)  # noise is above, text below, as in the panel
        _counted(axes.xaxis, axes.yaxis)
        _legend(axes, len(self._kinds()))

    def _surprise(self, axes: Axes) -> None:
        axes.set_title("bits per token, as believed", **_TITLE)
        entropy = {(belief.step, belief.at): belief.bits for belief in self.track.beliefs}
        surely = [
            (event.step, entropy[event.step, event.at])
            for event in self.track.events
            if (event.step, event.at) in entropy
        ]
        cost = [(event.step, -event.log_p * 1.4427) for event in self.track.events if event.log_p is not None]
        _dots(axes, cost, "#bd4a12", "-log₂ p(token)")
        _dots(axes, surely, "#2f6fb3", "entropy")
        most = max((bits for _, bits in (*cost, *surely)), default=1.0)
        first, last = self._steps
        axes.set(xlim=(first, last + 0.5), ylim=(0, 1.08 * most + 0.01), xlabel="step")
        _counted(axes.xaxis)
        _legend(axes, 2)

    def _cost(self, axes: Axes) -> None:
        axes.set_title("masks, evaluations, revisions", **_TITLE)
        rows = [row for row in self.track.rows if isinstance(row, Denoised)]
        first, last = self._steps
        steps = [max(first, row.step) for row in rows]
        axes.plot(steps, [row.masks for row in rows], color=INK, linewidth=1.6, label="masks")
        axes.plot(steps, [row.nfe for row in rows], color="#2f6fb3", linewidth=1.6, label="evaluations")
        axes.plot(steps, [row.revised for row in rows], color="#8a56a8", linewidth=1.2, label="revised")
        axes.set(xlim=(first, last), xlabel="step")
        axes.set_ylim(bottom=0)
        _counted(axes.xaxis, axes.yaxis)
        _legend(axes, 3)

    @property
    def _steps(self) -> tuple[int, int]:
        first, last = self.track.steps
        return first, max(first + 1, last)

    def _kinds(self) -> dict[State, list[Event]]:
        """The events of each kind that occurs."""
        found = {state: [e for e in self.track.events if e.state == state] for state in INKS}
        return {state: events for state, events in found.items() if events}


_TITLE: Any = {"loc": "left", "size": 8, "weight": "bold", "color": INK}


def _counted(*axes: Axis) -> None:
    """Ticks at whole numbers alone."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True))


def _dots(axes: Axes, places: list[tuple[int, float]], colour: str, label: str) -> None:
    if places:
        x, y = zip(*places, strict=True)
        axes.scatter(x, y, s=8, color=colour, alpha=0.55, label=label)


def _legend(axes: Axes, columns: int) -> None:
    """Below the axes, where no data are."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.2), ncols=columns, frameon=False, fontsize=7,
            handletextpad=0.4, columnspacing=1.2, markerscale=1.2,
        )  # fmt: skip
