"""Quality against evaluations and seconds as a still picture (PNG, SVG)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import DdcliError, unknown
from ..files import check_place, whole_file
from ..frontier import Point, above_the_best
from .paper import COLOURS, STYLE

FORMATS = (".png", ".svg")
MARKERS = "osD^vP*X"
COSTS = {"nfe": "network evaluations of a sample", "seconds": "seconds of a sample"}
APART = 0.09  # of the axis, between two labels of it, at least
BESIDE = (
    0.012  # of the axis, from a curve to the next one at the same place, so that errors can be told apart
)


Figures = list[tuple[float, float] | None]  # of each point a figure and its error, where it has one


@dataclass(frozen=True)
class Row:
    """A row of the picture."""

    meaning: str
    figures: Callable[[Sequence[Point]], Figures]


def _own(points: Sequence[Point]) -> Figures:
    """The errors are of differences: what all figures of a sweep have in common does not tell them apart."""
    return [
        None if point.quality is None or more is None else (point.quality.bound.nats_per_token, more[1])
        for point, more in zip(points, above_the_best(points), strict=True)
    ]


def _judged(points: Sequence[Point]) -> Figures:
    found = [point.generative for point in points]
    return [None if texts is None else (texts.nats_per_token, texts.stderr) for texts in found]


ROWS = (
    Row("held-out text under the sampler, nats/token\n(bars: error of the difference from the lowest)", _own),
    Row("samples by the scorer, nats/token\n(mind their entropy)", _judged),
)


@dataclass(frozen=True)
class Curve:
    """Points that differ by their steps alone, and how they look."""

    name: str
    points: list[Point]
    colour: str
    marker: str

    @property
    def style(self) -> dict[str, Any]:
        bounds = any(point.quality and point.quality.kind == "bound" for point in self.points)
        return {"color": self.colour, "marker": self.marker, "linestyle": "--" if bounds else "-"}

    @property
    def key(self) -> Line2D:
        """Its line of the legend."""
        if any(point.quality for point in self.points):
            bound = " (an upper bound)" if self.style["linestyle"] == "--" else ""
            return Line2D([], [], label=self.name + bound, **self.style)
        return Line2D([], [], label=f"{self.name} (no likelihood)", **self.style | {"linestyle": "none"})


def check_picture(path: Path) -> None:
    """Raises DdcliError for a picture that could not be written."""
    if path.suffix.lower() not in FORMATS:
        raise unknown("picture format", path.suffix or path.name, FORMATS)
    check_place(path)


def draw_frontier(points: Sequence[Point], path: Path) -> None:
    """Draw a sweep to a file, whole or not at all, in the format of its suffix. Raises DdcliError."""
    check_picture(path)
    curves = _curves(points)
    rows = [(row, found) for row in ROWS if any(found := row.figures(points))]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 0.8 + 3.6 * max(1, len(rows))), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(max(1, len(rows)), 2, sharey="row", sharex="col", squeeze=False)
        for line, (row, found) in zip(axes, rows, strict=False):
            figures = dict(zip(map(id, points), found, strict=True))
            for axis, cost in zip(line, COSTS, strict=True):
                _draw(axis, figures, cost, curves)
            line[0].set_ylabel(row.meaning)
        for axis, (cost, meaning) in zip(axes[-1], COSTS.items(), strict=True):
            _scale(axis, [getattr(point.cost, cost) for point in points])
            axis.set_xlabel(meaning)
        if not rows:
            for axis in axes[0]:
                axis.axis("off")
            note = (
                "no sampler of this sweep has a likelihood of its own: only a scorer can tell (--generative)"
            )
            figure.text(0.5, 0.4, note, ha="center")
        keys = [curve.key for curve in curves]
        figure.legend(handles=keys, loc="outside upper left", ncols=min(3, len(keys)), frameon=False)
        content = BytesIO()
        figure.savefig(content, format=path.suffix[1:].lower(), dpi=120)
    try:
        with whole_file(path) as beside:
            beside.write_bytes(content.getvalue())
    except OSError as error:
        raise DdcliError(f"cannot write {path}: {error.strerror}") from None


def _curves(points: Sequence[Point]) -> list[Curve]:
    named: dict[str, list[Point]] = {}
    for point in points:
        named.setdefault(point.curve, []).append(point)
    looks = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    return [Curve(name, mine, *look) for (name, mine), look in zip(named.items(), looks, strict=False)]


def _draw(
    axis: Axes, figures: Mapping[int, tuple[float, float] | None], cost: str, curves: Sequence[Curve]
) -> None:
    """Curves by the figures of their points (by id), each a little beside the last one."""
    every = [getattr(point.cost, cost) for curve in curves for point in curve.points]
    reach = max(math.log2(max(every) / min(every)), 1.0)
    for number, curve in enumerate(curves):
        shift = 2 ** ((number - (len(curves) - 1) / 2) * BESIDE * reach)
        found = [(getattr(p.cost, cost), *figure) for p in curve.points if (figure := figures[id(p)])]
        if found:
            x, y, error = zip(*sorted(found), strict=True)
            look = curve.style | {"markersize": 4.5, "linewidth": 1.3, "elinewidth": 0.8, "capsize": 2}
            axis.errorbar([at * shift for at in x], y, error, **look)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _scale(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis that is labelled where something was measured, as far as labels have room."""
    low, high = math.log2(min(values)), math.log2(max(values))
    room = max(high - low, 1.0)
    ticks: list[float] = []
    for value in sorted(values):
        if not ticks or math.log2(value / ticks[-1]) >= APART * room:
            ticks.append(value)
    axis.set_xscale("log", base=2)
    axis.set_xlim(2 ** (low - 0.06 * room), 2 ** (high + 0.06 * room))
    axis.set_xticks(ticks, [f"{tick:.2g}" if tick < 10 else f"{tick:.0f}" for tick in ticks])
    axis.minorticks_off()
