"""A canvas as it denoises, on stderr: in place on a terminal, as a line now and then in a log.

Legend: B sequences, L positions.
"""

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from .errors import counted, printable
from .steady import Steady

if TYPE_CHECKING:
    from torch import Tensor

    from .generate import Frame
    from .sampling import Writer

MASK, END = "░", "¶"
NARROWEST, GAP = 24, 2  # cells of a column, and between two
SHORTEST = 2  # lines of a text, if it needs as many: with fewer, not all texts are shown
USUAL = 48  # cells of a line that the text itself ends
SPARE = 1.3  # times the cells of its tokens that a text may take
ASKED = 256  # tokens by which the width of one is known
BYTES = 4  # of a symbol, at most: so many tokens may be one
QUIET = 5.0  # seconds between lines of a log


@dataclass(frozen=True)
class Grid:
    """Where texts stand: as many as there is room for, in columns, each in as many lines."""

    columns: int
    rows: int
    width: int  # of a column
    lines: int  # of a text; an empty one follows, where there are more than one

    @classmethod
    def fit(cls, count: int, cells: float, width: int, height: int) -> "Grid":
        """For `count` texts of about so many cells: the fewest columns in which most of them are shown."""

        def made(columns: int) -> Grid:
            each = (width + GAP) // columns - GAP
            needs = -(-int(SPARE * cells) // min(each, USUAL))
            below = -(-count // columns)
            if needs <= 1:
                return Grid(columns, min(below, height), each, 1)
            lines = max(1, min(needs + 1, max(SHORTEST, (height + 1) // below - 1), height))
            return Grid(columns, min(below, max(1, (height + 1) // (lines + 1))), each, lines)

        narrowest = min(NARROWEST, max(NARROWEST // 2, int(SPARE * cells)))
        most = max(1, min(count, (width + GAP) // (narrowest + GAP)))
        fewest = min(most, 1 + width // (4 * USUAL))  # longer lines are hard to read
        grids = [made(columns) for columns in range(fewest, most + 1)]
        return max(grids, key=lambda grid: (min(count, grid.shown), min(SPARE * cells, grid.room)))

    @property
    def room(self) -> int:
        """Cells that a text fills, of lines that may end early."""
        return min(self.width, USUAL) * self.lines

    @property
    def shown(self) -> int:
        return self.columns * self.rows


class LiveCanvas:
    """Settled text plain, what may still change dim, masks light, and what has just changed bold.

    A watcher of frames. Where stderr is no terminal, a line now and then says how far it is.
    """

    def __init__(self, console: Console, model: "Writer", frames_per_second: float = 12.0) -> None:
        self._console, self._model = console, model
        self._pause = 1 / frames_per_second
        self._shown = self._began = time.monotonic()
        self._open = 0  # positions to fill, of the canvases at hand
        self._starts: list[int | None] = []  # the first token of each that is shown; None before any is
        self._before: Tensor | None = None  # tokens (B, L) of the frame before
        self._settles = True  # what is visible stays, as far as was seen
        self._live = Steady(console=console, auto_refresh=False, transient=True)
        tokenizer = model.tokenizer
        some = range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // ASKED))
        pieces = tokenizer.pieces([id for id in some if id not in tokenizer.special_ids])
        self._cells = sum(cell_len(printable(piece)) for piece in pieces) / max(1, len(pieces))  # of a token

    def __enter__(self) -> "LiveCanvas":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, frame: "Frame") -> None:
        now = time.monotonic()
        if frame.step == 0:
            self._begin(frame, now)
        elif self._settles and self._before is not None:
            self._settles = not (frame.opened & (self._before != self._model.tokenizer.mask_id)).any()
        self._before = frame.x
        if 0 < frame.step < frame.steps and now - self._shown < self._pause:
            return
        if self._console.is_terminal:
            self._shown = now
            self._live.update(self.render(frame), refresh=True)
        elif frame.step == frame.steps or now - self._shown > QUIET:
            self._shown = now
            self._console.print(self._status(frame).plain, highlight=False, soft_wrap=True)

    def _begin(self, frame: "Frame", now: float) -> None:
        self._began, self._open = now, int(frame.opened.sum())
        self._settles = not self._model.process.needs_clock
        self._starts = [None] * len(frame.x)

    def _follow(self, frame: "Frame") -> None:
        """Of canvases that hold more than is shown, a part where something is open comes into view, once
        nothing in view is."""
        masks = frame.x == self._model.tokenizer.mask_id
        unsettled = masks if self._settles and masks.any() else frame.opened | masks | (frame.clock > 0)
        length, room = frame.x.shape[1], int(self._grid(frame).room / self._cells)
        for row, places in enumerate(unsettled):
            start, at = self._starts[row], places.nonzero()[:, 0]
            if len(at) and (start is None or not ((at >= start) & (at < start + room)).any()):
                self._starts[row] = max(0, min(int(at[0]) - room // 3, length - room))

    def _grid(self, frame: "Frame") -> Grid:
        width, height = self._console.width, max(2, self._console.height - 3)
        return Grid.fit(len(frame.x), self._cells * frame.x.shape[1], width, height)

    def _status(self, frame: "Frame") -> Text:
        masks = int((frame.x == self._model.tokenizer.mask_id).sum())
        sure = max(0, self._open - masks) if self._settles else self._open * frame.step / frame.steps
        rate = sure / max(1e-9, time.monotonic() - self._began)
        calls = f"NFE {frame.nfe.float().mean():.0f}"
        parts = (f"step {frame.step}/{frame.steps}", calls, f"{masks} masks left", f"{rate:,.0f} tokens/s")
        return Text(", ".join(parts), style="bold")

    def render(self, frame: "Frame") -> Text:
        """Texts in columns, always in as many lines, and the status below them."""
        self._follow(frame)
        grid = self._grid(frame)
        starts = [start or 0 for start in self._starts]
        rows = zip(frame.x.tolist(), frame.clock.tolist(), frame.opened.tolist(), starts, strict=True)
        cells = [self._cell(grid, *row) for row, _ in zip(rows, range(grid.shown), strict=False)]
        below = -(-len(cells) // grid.columns)
        text = Text()
        for row in range(below):
            beside = cells[row * grid.columns : (row + 1) * grid.columns]
            for parts in zip(*beside, strict=True):
                text.append_text(Text(" " * GAP).join(parts)).append("\n")
            text.append("\n" * (row < below - 1 and grid.lines > 1))
        hidden = len(frame.x) - len(cells)
        status = self._status(frame)[: self._console.width]
        told = f"not shown: {counted(hidden, 'text')} more"[: self._console.width]
        return text.append_text(status).append(f"\n{told}" if hidden else "")

    def _cell(
        self, grid: Grid, ids: list[int], clocks: list[float], changed: list[bool], start: int
    ) -> list[Text]:
        """Part of a text in exactly as many lines as the grid has, each as wide as its column."""
        tokenizer = self._model.tokenizer
        text = Text("…" if start else "", style="", overflow="fold")
        shown, room = slice(start, start + BYTES * grid.width * grid.lines), grid.width * grid.lines
        pieces = tokenizer.pieces_in_a_row(ids[shown])
        for token, piece, clock, new in zip(ids[shown], pieces, clocks[shown], changed[shown], strict=True):
            if room < 0:
                break
            room -= cell_len(piece) if token not in tokenizer.special_ids else 1
            if token == tokenizer.mask_id:
                text.append(MASK, style="bright_black")
            elif token == tokenizer.eos_id:
                text.append(END, style="bright_black")
            elif token not in tokenizer.special_ids:
                tentative = clock > 0 and not self._settles
                text.append(printable(piece, keep="\n"), style="bold" if new else "dim" if tentative else "")
        lines = [part for line in text.split("\n", allow_blank=True) for part in _folded(line, grid.width)]
        cut = [*lines, *[Text()] * grid.lines][: grid.lines]
        if len(lines) > grid.lines:
            cut[-1].truncate(grid.width - 1)
            cut[-1].append("…")
        return [line + Text(" " * (grid.width - line.cell_len)) for line in cut]


def _folded(line: Text, width: int) -> list[Text]:
    """A line in parts of at most `width` cells. Words are broken, so that what is written stays in place."""
    ends = list(itertools.accumulate(len(part) for part in chop_cells(line.plain, width)))
    return list(line.divide(ends[:-1])) if ends else [line]
