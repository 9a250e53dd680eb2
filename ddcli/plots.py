"""Curves and bars as lines of text, for terminals: braille dots, and blocks of eighths."""

from collections.abc import Sequence
from itertools import pairwise

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille cell, 4 rows of 2
EIGHTHS = " ▁▂▃▄▅▆▇█"
BLANK = 0x2800


def curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """`height` lines of `width` cells: values over the order they came in, the lowest at the bottom."""
    across, up = 2 * width, 4 * height
    columns = resampled(values, across)
    low, high = min(columns, default=0.0), max(columns, default=0.0)
    cells = [[BLANK] * width for _ in range(height)]
    before: int | None = None
    for x, value in enumerate(columns):
        share = (value - low) / (high - low) if high > low else 0.5
        y = round((1 - share) * (up - 1))
        first, last = sorted((y, y if before is None or y == before else before + (1 if y > before else -1)))
        for dot in range(first, last + 1):  # without gaps where it is steep
            cells[dot // 4][x // 2] |= DOTS[dot % 4][x % 2]
        before = y
    return ["".join(map(chr, row)) for row in cells]


def bars(values: Sequence[float], width: int, height: int) -> list[str]:
    """`height` lines of bars from 0 up, each as wide as fits into `width` cells."""
    if not values:
        return [""] * height
    top = max(*values, 0.0) or 1.0
    wide = max(1, width // len(values))
    drawn = wide - (wide > 2)  # a gap between them, where there is room
    eighths = [round(max(0.0, value) / top * 8 * height) for value in values]
    lines = []
    for row in range(height):
        below = 8 * (height - 1 - row)
        signs = (EIGHTHS[min(8, max(0, eighth - below))] for eighth in eighths)
        lines.append("".join((sign * drawn).ljust(wide) for sign in signs).rstrip())
    return lines


def resampled(values: Sequence[float], count: int) -> list[float]:
    """`count` values that follow the curve: means where there are more, between neighbours where fewer."""
    n = len(values)
    if n > count:
        edges = [i * n // count for i in range(count + 1)]
        return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    if n < 2:
        return list(values) * count
    found = []
    for i in range(count):
        at = i * (n - 1) / (count - 1)
        k = min(int(at), n - 2)
        found.append(values[k] + (at - k) * (values[k + 1] - values[k]))
    return found
