"""Charts as SVG, of shapes and classes alone: the page they stand in gives them colours, light or dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .markup import Node, tag

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 34  # of the picture, outside of the axes
POINTS = 300  # of a line: more cannot be told apart; they are means of what lies between
DOTS = 40  # up to so many, each point of a line can be pointed at


At = Callable[[float], float]  # from a figure to a place in the picture


@dataclass(frozen=True)
class Line:
    """A figure over x, ascending."""

    name: str
    points: Sequence[tuple[float, float]]
    errors: Sequence[float | None] = ()  # standard errors, drawn as a band
    kind: str = "first"  # the class that gives it its look


def lines(title: str, drawn: Sequence[Line], *, unit: str, across: str = "step", log: bool = False) -> Node:
    """Lines over x. log: both axes as many times more, with a tick where something was measured."""
    drawn = [Line(line.name, *_thinned(line), line.kind) for line in drawn if line.points]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y + sign * (e or 0.0) for line in drawn for (_, y), e in _both(line) for sign in (-1, 1)]
    scale = (lambda x: math.log2(max(x, 1e-9))) if log else float
    low, high = min(map(scale, xs)), max(map(scale, xs))
    marks = ticks(min(ys), max(ys))
    bottom, top = min(marks[0], *ys), max(marks[-1], *ys)

    def across_at(x: float) -> float:
        share = (scale(x) - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def height_at(y: float) -> float:
        return TOP + (top - y) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    frame = [_level(height_at(mark), text) for mark, text in _labelled(marks)]
    places = sorted(set(xs) if log else {min(xs), max(xs)})
    frame += [_place(across_at(x), figure(x), places.index(x) / max(1, len(places) - 1)) for x in places]
    frame.append(tag("text", across, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle"))
    shapes = [
        shape for line in drawn for shape in _shapes(line, across_at, height_at, unit=unit, across=across)
    ]
    told = "; ".join(_told(line, unit, across) for line in drawn)
    return _figure(title, told, [*frame, *shapes], drawn)


def bars(
    title: str, values: Sequence[float | None], *, unit: str, before: Sequence[float | None] = ()
) -> Node:
    """Bars over equal ranges of time, from 0 to 1. before: an outline to compare them with."""
    known = [value for value in (*values, *before) if value is not None]
    marks = ticks(min(0.0, *known), max(0.0, *known))
    low, high = min(marks[0], *known), max(marks[-1], *known)
    room = (WIDTH - LEFT - RIGHT) / len(values)

    def height_at(y: float) -> float:
        return TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    shapes = [_level(height_at(mark), text) for mark, text in _labelled(marks)]
    shapes += [
        _place(LEFT + share * (WIDTH - LEFT - RIGHT), f"{share:g}", share) for share in (0.0, 0.5, 1.0)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    shapes.append(tag("text", "time t, from text to noise", x=middle, y=HEIGHT - 4, text_anchor="middle"))
    told = []
    for i, value in enumerate(values):
        if value is None:
            continue
        name = f"t {i / len(values):.1f} to {(i + 1) / len(values):.1f}: {figure(value)} {unit}"
        told.append(name)
        y, zero = height_at(value), height_at(0.0)
        size = {"y": min(y, zero), "height": max(0.5, abs(zero - y))}
        bar = tag(
            "rect", tag("title", name), x=LEFT + (i + 0.1) * room, width=0.8 * room, class_="bar", **size
        )
        shapes.append(bar)
    for i, value in enumerate(before):
        if value is not None:
            y, x = height_at(value), LEFT + i * room
            shapes.append(tag("line", x1=x, x2=x + room, y1=y, y2=y, class_="before"))
    return _figure(title, "; ".join(told), shapes, [])


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers, about `count`, that reach from `low` or below it to `high` or above it."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _labelled(marks: Sequence[float]) -> list[tuple[float, str]]:
    """Ticks, each with as many decimals as tell them apart."""
    decimals = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9))
    return [(mark, f"{mark:,.{decimals}f}") for mark in marks]


def figure(value: float) -> str:
    """A number in a few signs: `8,026`, `2.54`, `0.031`."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _thinned(line: Line) -> tuple[list[tuple[float, float]], list[float | None]]:
    """At most `POINTS` of them, means of neighbours, but for the last, which is as it was measured."""
    both = _both(line)
    each = -(-len(both) // POINTS)
    if each == 1:
        return [point for point, _ in both], [error for _, error in both]
    parts = [both[i : i + each] for i in range(0, len(both) - 1, each)]
    means = [tuple(sum(p[axis] for p, _ in part) / len(part) for axis in (0, 1)) for part in parts]
    return [*((x, y) for x, y in means), both[-1][0]], [None] * (len(parts) + 1)


def _both(line: Line) -> list[tuple[tuple[float, float], float | None]]:
    errors = line.errors or [None] * len(line.points)
    return list(zip(line.points, errors, strict=True))


def _shapes(line: Line, across_at: At, height_at: At, *, unit: str, across: str) -> list[Node]:
    places = [(across_at(x), height_at(y)) for x, y in line.points]
    made = [tag("path", d="M" + _joined(places), class_=f"line {line.kind}")] if len(places) > 1 else []
    known = [(x, y, error) for (x, y), error in _both(line) if error is not None]
    if len(known) > 1:
        upper = [(across_at(x), height_at(y + error)) for x, y, error in known]
        lower = [(across_at(x), height_at(y - error)) for x, y, error in reversed(known)]
        made.insert(0, tag("path", d="M" + _joined([*upper, *lower]) + "Z", class_=f"band {line.kind}"))
    if len(places) <= DOTS:
        for (x, y), ((at, value), error) in zip(places, _both(line), strict=True):
            spread = f" ± {error:.2g}" if error is not None else ""
            name = tag("title", f"{line.name}, {across} {figure(at)}: {value:.4g}{spread} {unit}")
            made.append(tag("circle", name, cx=x, cy=y, r=3, class_=f"dot {line.kind}"))
    return made


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _told(line: Line, unit: str, across: str) -> str:
    """The line for one who cannot see it."""
    (first, begins), (last, ends) = line.points[0], line.points[-1]
    if len(line.points) == 1:
        return f"{line.name} {ends:.4g} {unit} at {across} {figure(last)}"
    return f"{line.name} from {begins:.4g} {unit} at {across} {figure(first)} to {ends:.4g} at {figure(last)}"


def _level(y: float, text: str) -> Node:
    return tag(
        "g",
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="axis"),
        tag("text", text, x=LEFT - 6, y=y + 4, text_anchor="end"),
    )


def _place(x: float, text: str, share: float) -> Node:
    """A label below the axis; the first one begins where it stands, and the last one ends there."""
    anchor = "start" if share == 0 else "end" if share == 1 else "middle"
    return tag("text", text, x=x, y=HEIGHT - BOTTOM + 16, text_anchor=anchor)


def _figure(title: str, told: str, shapes: Sequence[Node], drawn: Sequence[Line]) -> Node:
    keys = [tag("span", tag("span", class_=f"sign {line.kind}"), line.name) for line in drawn if line.name]
    return tag(
        "figure",
        tag("figcaption", title),
        tag("p", *keys, class_="keys") if len(keys) > 1 else None,
        tag("svg", *shapes, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {told}"),
    )
