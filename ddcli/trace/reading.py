"""A trace from a file, which may be damaged, or anybody's."""

from functools import singledispatchmethod
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ..errors import DdcliError, shorten
from ..files import read_small
from .lines import LARGEST, LINES, Begin, End, Header, Line, Moment, Pieces, ids_of
from .recording import Recording, apply

FIRST = b'{"kind":"trace"'


def is_trace(content: bytes) -> bool:
    """Whether a file of this content, or of this start, is one."""
    return content.startswith(FIRST)


class Traced:
    """A trace that was read: its header, how ids are spelled, and what happened to each sequence."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.pieces = {header.mask: "<mask>"}  # until it is spelled; it may first come as a change
        self.canvases: list[Recording] = []
        self._now: list[np.ndarray] = []  # tokens of each canvas
        self._ended: int | None = None

    def take(self, line: Line) -> None:
        """ValueError where it does not follow from the lines before."""
        if self._ended is not None:
            raise ValueError("there is more behind the end")
        self._take(line)

    def check_end(self, lines: int) -> None:
        """ValueError where these are not all the lines there were."""
        if self._ended != lines:
            raise ValueError("the trace breaks off here, without its end")
        if not self.canvases:
            raise ValueError("the trace ends without a canvas")

    @singledispatchmethod
    def _take(self, line: Line) -> None:
        raise ValueError("a header stands in the first line alone")

    @_take.register
    def _(self, line: Pieces) -> None:
        self.pieces |= line.pieces

    @_take.register
    def _(self, line: Begin) -> None:
        if line.canvas != len(self.canvases):
            raise ValueError(f"canvas {len(self.canvases)} was to begin, not {line.canvas}")
        self._check(line, len(line.tokens))
        self.canvases.append(Recording(self.header.mask, line, []))
        self._now.append(np.array(line.tokens))

    @_take.register
    def _(self, line: Moment) -> None:
        if line.canvas >= len(self.canvases):
            raise ValueError(f"canvas {line.canvas} has not begun")
        canvas, tokens = self.canvases[line.canvas], self._now[line.canvas]
        last = canvas.moments[-1] if canvas.moments else None
        if line.step != len(canvas.moments) + 1 or line.step > canvas.begin.steps:
            raise ValueError(f"step {line.step} of {canvas.begin.steps} follows step {len(canvas.moments)}")
        if last and line.nfe < last.nfe:
            raise ValueError("network evaluations are fewer than before")
        self._check(line, len(tokens))
        self._check_changes(line, tokens)
        apply(line, tokens, self.header.mask)
        canvas.moments.append(line)

    @_take.register
    def _(self, line: End) -> None:
        self._ended = line.lines

    def _check(self, line: Begin | Moment, length: int) -> None:
        if strange := ids_of(line) - self.pieces.keys():
            raise ValueError(f"nothing has told how token {min(strange)} is spelled")
        if sum(count for count, _ in line.clock) != length:
            raise ValueError(f"the clocks are not those of {length} positions")
        edges = [edge for span in line.tentative for edge in span]
        if any(a >= b for a, b in pairwise(edges)) or (edges and edges[-1] > length):
            raise ValueError("the spans of what may change are no spans of the canvas")

    def _check_changes(self, line: Moment, tokens: np.ndarray) -> None:
        opened, replaced = ([i for i, _, _ in changes] for changes in (line.opened, line.replaced))
        places = [*opened, *replaced, *line.remasked]
        if max([*places, *(belief.at for belief in line.beliefs)], default=0) >= len(tokens):
            raise ValueError(f"a position lies past the {len(tokens)} there are")
        if len(set(places)) < len(places):
            raise ValueError("a position changes twice")
        masked = tokens == self.header.mask
        if not masked[opened].all() or masked[[*replaced, *line.remasked]].any():
            raise ValueError("what opens was no mask, or what is replaced or masked was one")


def read_trace(path: str | Path) -> Traced:
    """The trace in a file. Raises DdcliError, with the number of the line, where it is damaged or none."""
    try:
        content = read_small(Path(path), LARGEST)
    except OSError as error:
        raise DdcliError(f"{path} cannot be read: {error.strerror}") from None
    if not is_trace(content):
        raise DdcliError(
            f"{path}, line 1: this is no trace; write one with `ddcli sample MODEL --trace FILE`"
        )
    lines = content.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            parsed = LINES.validate_json(line)
            if number == 1:
                assert isinstance(parsed, Header)  # by FIRST
                traced = Traced(parsed)
            else:
                traced.take(parsed)
            if number == len(lines):
                traced.check_end(number)
        except ValueError as error:
            raise DdcliError(f"{path}, line {number}: {_reason(error)}") from None
    return traced


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"][1:]))
    return shorten(f"{place}: {first['msg']}" if place else first["msg"], 200)
