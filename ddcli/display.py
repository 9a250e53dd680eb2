"""What people see on stderr while a command works: progress of a training, a canvas as it denoises."""

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .errors import printable
from .generate import Frame
from .plan import Silent
from .textmodel import TextModel

MASK = "░"


# -- training ---------------------------------------------------------------------------------------------


def figures(line: Mapping[str, Any]) -> str:
    """A line of metrics for people."""
    shown = []
    if "loss" in line:
        shown.append(f"loss {line['loss']:.3f}")
    if "bound_bits_per_char" in line:
        stderr = line["bound_stderr"]
        error = f" ± {stderr:.3f}" if math.isfinite(stderr) else ""  # one cluster tells nothing of the spread
        shown.append(
            f"bound {line['bound_bits_per_char']:.3f} bits/char "
            f"({line['bound_nats_per_token']:.3f}{error} nats/token, "
            f"perplexity {line['bound_perplexity']:.1f})"
        )
    if "tokens_per_second" in line:
        shown.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(shown)


class PlainLines(Silent):
    """One line at a time, for logs: every bound, and a loss when none was printed for a while."""

    def __init__(self, console: Console, seconds: float = 15.0) -> None:
        self._console, self._seconds, self._printed = console, seconds, 0.0

    def say(self, line: str) -> None:
        self._console.print(printable(line, keep="\n"), markup=False, highlight=False, soft_wrap=True)

    def begin(self, step: int, steps: int) -> None:
        self._steps = steps

    def metrics(self, line: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if "bound_bits_per_char" in line or now - self._printed > self._seconds:
            self._printed = now
            self.say(f"step {line['step']:,}/{self._steps:,}: {figures(line)}")


class TrainingDisplay(Silent):
    """A bar with loss, bound, speed and time left; bounds and samples scroll by above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )

    def say(self, line: str) -> None:
        self._console.print(printable(line, keep="\n"), markup=False, highlight=False, soft_wrap=True)

    def begin(self, step: int, steps: int) -> None:
        self._task = self._progress.add_task("", total=steps, completed=step, figures="")
        self._bound = ""
        self._progress.start()

    def progress(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def metrics(self, line: Mapping[str, Any]) -> None:
        if "bound_bits_per_char" in line:
            self._bound = f"bound {line['bound_bits_per_char']:.3f} bits/char"
            self.say(f"step {line['step']:,}: {figures(line)}")
        if "loss" in line:
            parts = [f"loss {line['loss']:.3f}", self._bound, f"{line['tokens_per_second']:,.0f} tok/s"]
            self._progress.update(self._task, figures="  ".join(part for part in parts if part))

    def samples(self, step: int, texts: list[str]) -> None:
        width = max(20, self._console.width - 2)
        first = printable(texts[0].replace("\n", "↵"))
        self._console.print(Text(f"  {first[: 2 * width]}", style="dim", overflow="fold"))

    def end(self) -> None:
        self._progress.stop()


# -- sampling ---------------------------------------------------------------------------------------------


class LiveCanvas:
    """The canvas in place on a terminal: settled text plain, what may still change dim, masks light.

    Where stderr is no terminal, a line now and then says how far it is.
    """

    def __init__(self, console: Console, model: TextModel, frames_per_second: float = 12.0) -> None:
        self._console, self._model = console, model
        self._pause = 1 / frames_per_second
        self._shown = self._began = time.monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveCanvas":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, frame: Frame) -> None:
        now = time.monotonic()
        if frame.step < frame.steps and now - self._shown < self._pause:
            return
        if self._console.is_terminal:
            self._shown = now
            self._live.update(self.render(frame), refresh=True)
        elif frame.step == frame.steps or now - self._shown > 5:
            self._shown = now
            self._console.print(self._status(frame), highlight=False)

    def _status(self, frame: Frame) -> Text:
        masks = int((frame.x == self._model.tokenizer.mask_id).sum())
        rate = frame.x.numel() * frame.step / frame.steps / max(1e-9, time.monotonic() - self._began)
        calls = f"NFE {frame.nfe.float().mean():.0f}"
        parts = (f"step {frame.step}/{frame.steps}", calls, f"{masks} masks left", f"{rate:,.0f} tokens/s")
        return Text(", ".join(parts), style="bold")

    def render(self, frame: Frame) -> Text:
        """As many sequences as the terminal has room for, each in as many lines."""
        room = max(3, self._console.height - 2)
        shown = min(len(frame.x), max(1, room // 6))
        lines = room // shown - (shown > 1)
        text = Text(overflow="fold")
        for row, clock, changed in zip(frame.x[:shown], frame.clock, frame.opened, strict=False):
            text.append_text(self._canvas(row.tolist(), clock.tolist(), changed.tolist(), lines))
            text.append("\n")
        return text.append_text(self._status(frame))

    def _canvas(self, ids: list[int], clocks: list[float], changed: list[bool], lines: int) -> Text:
        tokenizer = self._model.tokenizer
        text = Text(overflow="fold")
        pieces = tokenizer.pieces(ids)
        settles = not self._model.process.needs_clock  # what is visible stays
        for token, piece, clock, new in zip(ids, pieces, clocks, changed, strict=True):
            if token == tokenizer.mask_id:
                text.append(MASK, style="bright_black")
            elif token not in tokenizer.special_ids:
                tentative = clock > 0 and not settles
                text.append(printable(piece, keep="\n"), style="bold" if new else "dim" if tentative else "")
        wrapped = text.wrap(self._console, max(10, self._console.width))
        return Text("\n").join(wrapped[:lines])
