"""What people see of a training while it runs: curves and figures in place, or lines for a log."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.cells import cell_len, chop_cells
from rich.console import Console, Group
from rich.text import Text

from .errors import printable
from .plan import Silent
from .plots import bars, curve
from .runlog import is_number
from .steady import Steady

TALLEST = 10  # lines of a chart
NARROWEST, GAP = 18, 2  # columns of a chart, and between two
FEWEST = 3  # lines a chart needs; with less room there are figures alone
FRAMES = 4  # a second


def figures(line: Mapping[str, Any]) -> str:
    """A line of metrics for people."""
    shown = []
    if "loss" in line:
        shown.append(f"loss {line['loss']:.3f}")
    if "bound_bits_per_char" in line:
        shown.append(
            f"bound {line['bound_bits_per_char']:.3f} bits/char "
            f"({line['bound_nats_per_token']:.3f}{_error(line)} nats/token, "
            f"perplexity {line['bound_perplexity']:.1f})"
        )
    if "gradient_norm" in line:
        shown.append(f"gradient {line['gradient_norm']:.2f}")
    if "tokens_per_second" in line:
        shown.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(shown)


def _error(line: Mapping[str, Any]) -> str:
    stderr = line["bound_stderr"]
    return f" ± {stderr:.3f}" if math.isfinite(stderr) else ""  # one cluster tells nothing of the spread


def _one_line(text: str) -> str:
    return printable(text.replace("\n", "↵"))


class _Clock:
    """How long a training still takes, at the pace it had so far."""

    def __init__(self, step: int, steps: int) -> None:
        self.first, self.steps, self.began = step, steps, time.monotonic()

    def left(self, step: int) -> str:
        if step <= self.first:
            return "time left unknown"
        spent = time.monotonic() - self.began
        if step == self.steps:
            return f"in {_clock_face(spent)}"
        return f"{_clock_face(spent / (step - self.first) * (self.steps - step))} left"


def _clock_face(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Patient:
    """A stream that may go away while a training goes on: what is said then is lost, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._is_gone = stream, False

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, work: Callable[[], object]) -> None:
        if self._is_gone:
            return
        try:
            work()
        except OSError:  # a closed terminal, a pipe that nobody reads, a log on a full disk
            self._is_gone = True
        except RuntimeError:  # told by a signal amid another write, which Python will not have
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Lines(Silent):
    """A reporter with a console to say things on."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        self._console.print(printable(line, keep="\n"), markup=False, highlight=False, soft_wrap=True)

    def begin(self, step: int, steps: int) -> None:
        self._clock = _Clock(step, steps)

    def plan(self, steps: int) -> None:
        self._clock.steps = steps


class PlainLines(_Lines):
    """One line at a time, for logs: every bound with what it is made of over time, samples, and a loss when
    none was printed for a while."""

    def __init__(self, console: Console, seconds: float = 15.0) -> None:
        super().__init__(console)
        self._seconds, self._printed = seconds, 0.0

    def metrics(self, line: Mapping[str, Any]) -> None:
        now, step, steps = time.monotonic(), line["step"], self._clock.steps
        if "bound_bits_per_char" not in line and now - self._printed <= self._seconds:
            return
        self._printed = now
        self.say(f"step {step:,}/{steps:,}: {figures(line)}, {self._clock.left(step)}")
        if shares := line.get("bound_by_time"):
            self.say(f"  nats/token by time t, 0 to 1: {' '.join(f'{share:.2f}' for share in shares)}")

    def samples(self, step: int, texts: list[str]) -> None:
        self.say(f"  sample: {_one_line(texts[0])[:200]}")


class TrainingDisplay(_Lines):
    """Progress, curves of loss and bound, bars of the loss over time, and samples, in place at the bottom of
    a terminal, as much as it has room for. Bounds scroll by above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Steady | None = None  # before the first step there is nothing to show
        self._losses: list[float] = []
        self._bounds: list[float] = []
        self._shares: list[float] = []
        self._texts: list[str] = []
        self._bound = self._pace = ""

    def begin(self, step: int, steps: int) -> None:
        super().begin(step, steps)
        self._step = step
        self._live = Steady(console=self._console, get_renderable=self.render, refresh_per_second=FRAMES)
        self._live.start()

    def progress(self, step: int) -> None:
        self._step = step

    def past(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            self._draw(line)

    def metrics(self, line: Mapping[str, Any]) -> None:
        self._draw(line)
        if "bound_bits_per_char" in line:  # the rest is in place
            self._bound = f"bound {line['bound_bits_per_char']:.3f} bits/char"
            told = {key: value for key, value in line.items() if key.startswith("bound")}
            self.say(f"step {line['step']:,}: {figures(told)}")
        if "loss" in line:
            self._pace = f"gradient {line['gradient_norm']:.2f}  {line['tokens_per_second']:,.0f} tokens/s"

    def _draw(self, line: Mapping[str, Any]) -> None:
        """Of a line that may be of another process, and of an older version."""
        if is_number(line.get("bound_bits_per_char")):
            self._bounds.append(line["bound_bits_per_char"])
        if is_number(line.get("loss")):
            self._losses.append(line["loss"])
        shares = line.get("bound_by_time")
        if isinstance(shares, list):
            self._shares = [share if is_number(share) else 0.0 for share in shares]

    def samples(self, step: int, texts: list[str]) -> None:
        self._texts = [_one_line(text) for text in texts]

    def end(self) -> None:
        if self._live:
            self._live.stop()

    # -- the picture -----------------------------------------------------------------------------------

    def render(self) -> Group:
        """As many lines, and as wide, as the terminal shows at once: it moves when they do not fit."""
        width, height = self._console.width - 1, self._console.height - 2
        lines = [self._bar(width), Text(f"{self._bound}  {self._pace}".strip()[:width], style="bold")]
        charts = self._charts(width)
        rows = min(TALLEST, height - len(lines) - 1 - min(2, len(self._texts)))
        if charts and rows >= FEWEST:
            lines += _beside(charts, width, rows)
        room = min(height - len(lines), 2 * len(self._texts))
        if self._texts and room > 0:
            lines += _wrapped(self._texts, width, room)
        return Group(*lines)

    def _bar(self, width: int) -> Text:
        steps = self._clock.steps
        before, after = f"{self._step:,}/{steps:,} ", f" {self._clock.left(self._step)}"
        room = max(0, width - len(before) - len(after))
        done = room * self._step // steps
        bar = (("━" * done, "bar.complete"), ("━" * (room - done), "bar.back"))
        return Text.assemble(before, *bar, after)[:width]

    def _charts(self, width: int) -> "list[_Chart]":
        """Those that something is known of, as many as find room."""
        found = [
            _Chart("loss", self._losses, "cyan", curve, span=True),
            _Chart("bound", self._bounds, "green", curve, span=True),
            _Chart("loss by t, 0 to 1", self._shares, "yellow", bars, span=False),
        ]
        known = [chart for chart in found if len(chart.values) > 1]
        return known[: max(1, (width + GAP) // (NARROWEST + GAP))]


class _Chart:
    """A title above a curve or bars."""

    def __init__(self, name: str, values: Sequence[float], style: str, draw: Any, *, span: bool) -> None:
        self.values, self.style, self._draw = list(values), style, draw
        self.title = f"{name} {self.values[0]:.2f} → {self.values[-1]:.3f}" if span and values else name

    def lines(self, width: int, rows: int) -> list[Text]:
        title = Text(self.title[:width], style="dim")
        return [title, *(Text(line, style=self.style) for line in self._draw(self.values, width, rows))]


def _beside(charts: Sequence[_Chart], width: int, rows: int) -> list[Text]:
    """Charts beside each other, in `rows` lines and one for their titles."""
    each = (width + GAP) // len(charts) - GAP
    columns = [chart.lines(each, rows) for chart in charts]
    for column in columns[:-1]:
        for line in column:
            line.pad_right(each + GAP - cell_len(line.plain))
    return [Text.assemble(*parts) for parts in zip(*columns, strict=True)]


def _wrapped(texts: Sequence[str], width: int, room: int) -> list[Text]:
    """Texts in `room` lines: each in as many as all the others have, a dash before it."""
    shown = texts[:room]
    each = room // len(shown)
    lines = []
    for text in shown:
        parts = chop_cells(text, width - 2)[:each]
        lines += [Text(("- " if not i else "  ") + part, style="dim") for i, part in enumerate(parts)]
    return lines
