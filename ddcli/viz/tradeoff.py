"""Quality against evaluations and seconds as a still picture (PNG, SVG)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import DdcliError, unknown
from ..files import whole_file
from ..frontier import Point
from .figure import COLOURS, STYLE

FORMATS = (".png", ".svg")
COSTS = {"nfe": "network evaluations of a sample", "seconds": "seconds of a sample"}


@dataclass(frozen=True)
class Row:
    """A figure of points, with its error, as a row of the picture."""

    meaning: str
    figure: Callable[[Point], tuple[float, float] | None]


def _own(point: Point) -> tuple[float, float] | None:
    found = point.quality and point.quality.bound
    return (found.nats_per_token, found.stderr) if found else None


def _judged(point: Point) -> tuple[float, float] | None:
    found = point.generative
    return (found.nats_per_token, found.stderr) if found else None


ROWS = (
    Row("held-out text under the sampler, nats/token\n(dashed: an upper bound)", _own),
    Row("samples by the scorer, nats/token\n(mind their entropy)", _judged),
)


def check_picture(path: Path) -> None:
    """Raises DdcliError for a picture that could not be written."""
    if path.suffix.lower() not in FORMATS:
        raise unknown("picture format", path.suffix or path.name, FORMATS)
    if not path.parent.is_dir():
        raise DdcliError(f"cannot write {path}: there is no folder {path.parent}; make it first")


def draw_frontier(points: Sequence[Point], path: Path) -> None:
    """Draw a sweep to a file, whole or not at all, in the format of its suffix. Raises DdcliError."""
    check_picture(path)
    curves: dict[str, list[Point]] = {}
    for point in points:
        settings = point.settings
        name = settings.sampler
        name += "" if settings.temperature == 1 else f", temperature {settings.temperature:g}"
        curves.setdefault(name, []).append(point)
    rows = [row for row in ROWS if any(row.figure(point) for point in points)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6 * max(1, len(rows))), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(max(1, len(rows)), 2, sharey="row", squeeze=False)
        for line, row in zip(axes, rows, strict=False):
            for axis, (cost, meaning) in zip(line, COSTS.items(), strict=True):
                for colour, (name, mine) in zip(cycle(COLOURS), curves.items(), strict=False):
                    shown = [(getattr(point, cost), *found) for point in mine if (found := row.figure(point))]
                    if shown:
                        x, y, error = zip(*sorted(shown), strict=True)
                        style = "--" if any(p.quality and p.quality.kind == "bound" for p in mine) else "-"
                        look = {"color": colour, "marker": "o", "linestyle": style, "capsize": 2}
                        axis.errorbar(x, y, error, label=name, **look)
                axis.set_xscale("log", base=2)
                axis.xaxis.set_major_formatter("{x:g}")
                axis.set_xlabel(meaning)
                axis.grid(alpha=0.3)
            line[0].set_ylabel(row.meaning)
            line[0].legend()
        content = BytesIO()
        figure.savefig(content, format=path.suffix[1:].lower(), dpi=120)
    try:
        with whole_file(path) as beside:
            beside.write_bytes(content.getvalue())
    except OSError as error:
        raise DdcliError(f"cannot write {path}: {error.strerror}") from None
