"""What people see of a run: its report as a page, its training and its canvases in a terminal."""

import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from tiny import Stream, command, copy_of, metrics, train_tiny

from ddcli.cli.answers import console
from ddcli.config import flatten, load_config
from ddcli.display import PlainLines, TrainingDisplay
from ddcli.live import LiveCanvas
from ddcli.plots import bars, curve
from ddcli.viz.charts import ticks

HOSTILE = "</pre><script>document.title='owned'</script><img src=//x.y onerror=owned()> \x1b[31m \u202e &amp;"
POINTS = [
    {"sampler": sampler, "steps": n, "steps_matter": True, "nfe": n, "nats_per_token": 2 + 1 / n}
    for sampler in ("ancestral", "confidence")
    for n in (8, 16)
]


# -- the report -------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text below each kind."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self._open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        for tag in self._open:
            self.text[tag] = self.text.get(tag, "") + data


@pytest.fixture
def told_run(absorbing_run, tmp_path):
    """A run whose samples are hostile, and of which a sweep is saved."""
    run = copy_of(absorbing_run, tmp_path)
    (run / "samples/step-00000050.txt").write_text(HOSTILE)
    (run / "frontier.json").write_text(json.dumps(POINTS))
    return run


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({}, set()),
        ({"model__block": 8}, {"infill"}),
        ({"process__name": "autoregressive"}, {"infill", "noise-viz"}),
    ],
)
def test_page_and_card_offer_what_such_a_model_can_do(text_file, tmp_path, changes, left_out):
    run = tmp_path / "run"
    train_tiny(run, text_file, train__steps=2, data__length=32, **changes)
    page, card = (run / "report.html").read_text(), (run / "README.md").read_text()
    offered = {name for name in ("sample", "infill", "noise-viz") if f"ddcli {name}" in page}
    assert offered == {"sample", "infill", "noise-viz"} - left_out
    assert ("ddcli infill" in card) == ("pipeline_tag: fill-mask" in card) == ("infill" not in left_out)


def test_a_report_tells_how_a_training_went_and_lets_nothing_out(told_run, tmp_path):
    found = command("report", told_run, "-o", tmp_path / "page.html")
    assert (found.code, found.out.decode(), found.err) == (0, f"{tmp_path}/page.html\n", "")
    told = json.loads(command("report", told_run, "--json").out)
    assert (told["report"], told["step"], told["steps"]) == (f"{told_run}/report.html", 100, 100)
    assert told["bound_nats_per_token"] == metrics(told_run)[-1]["bound_nats_per_token"]
    content = (tmp_path / "page.html").read_text()
    page, last = Page(content), metrics(told_run)[-1]
    assert f"{last['bound_bits_per_char']:.3f}" in page.text["dl"]
    assert f"{last['bound_nats_per_token']:.4f} ± {last['bound_stderr']:.4f}" in page.text["table"]
    assert f"{last['literature_nats_per_token']:.4f}" in page.text["table"]
    # the sample is text: no element, no attribute and no character of it does anything
    assert "</pre><script>document.title='owned'</script><img src=//x.y" in page.text["pre"]
    assert "&amp;" in page.text["pre"]
    assert not set("\x1b\u202e") & set(content)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "a", "form"}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "href", "style"}
    assert re.search(r"default-src 'none'; style-src 'sha256-[\w+/=]+'", content)
    assert not re.search(r"url\(|@import", content)
    charts = {attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"}
    assert len(charts) == 6  # bound, loss, gradient, throughput, time, frontier
    assert any("confidence from 2.125 nats/token" in chart for chart in charts)
    assert sum(tag == "rect" for tag, _ in page.elements) == len(last["bound_by_time"])
    settings = flatten(load_config(told_run / "config.toml").model_dump())
    assert f"train.steps{settings['train.steps']}" in page.text["table"]
    assert f"ddcli sample {told_run}" in page.text["pre"]


def test_a_report_is_made_of_what_there_is(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "samples")
    for name in ("run.json", "generation_config.json"):
        (run / name).unlink()
    assert command("report", run).code == 0
    (run / "metrics.jsonl").write_text(
        '{"step": 5, "loss": null, "lr": true, "bound_nats_per_token": "x"}\n{"st'
    )
    assert command("report", run).code == 0
    assert "of 100 steps" in Page((run / "report.html").read_text()).text["dl"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", "[]\n"),
        ("run.json", "[]"),
        ("frontier.json", '[{"nfe": 1, "nats_per_token": 1, "top_p": 2}]'),
    ],
)
def test_a_damaged_run_is_refused_and_its_old_report_stays(told_run, name, content):
    before = (told_run / "report.html").read_bytes()
    (told_run / name).write_text(content)
    found = command("report", told_run)
    assert (found.code, found.out, found.err.count("\n")) == (2, b"", 1)
    assert (told_run / "report.html").read_bytes() == before
    assert not list(told_run.glob(".*.partial"))


def test_a_training_is_finished_whatever_hinders_its_report(text_file, tmp_path, monkeypatch):
    def broken(run):
        raise ZeroDivisionError("of no use")

    monkeypatch.setattr("ddcli.viz.runpage.write_report", broken)
    heard = train_tiny(tmp_path / "run", text_file, train__steps=2)
    assert f"no report is written: of no use; try later: ddcli report {tmp_path / 'run'}" in heard.lines
    assert command("sample", tmp_path / "run", "--steps", 1, "-q").code == 0


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (1.7, 4.3), (-2, 3), (5, 5), (0, 0), (1e-7, 2e-7), (3, 123456)]
)
def test_ticks_are_round_and_reach_around(low, high):
    marks = ticks(low, high)
    assert marks[0] <= low + 1e-9 * abs(low)
    assert marks[-1] >= high - 1e-9 * abs(high)
    assert 2 <= len(marks) <= 7
    step = marks[1] - marks[0]
    assert step / 10 ** math.floor(math.log10(step) + 1e-9) == pytest.approx(
        min((1, 2, 5, 10), key=lambda n: abs(n - step / 10 ** math.floor(math.log10(step) + 1e-9)))
    )


# -- a training in a terminal -----------------------------------------------------------------------------


def tell(display, steps=40):
    """A training as its reporter hears of it."""
    display.begin(0, steps)
    for step in range(0, steps + 1, 10):
        display.progress(step)
        line = {"step": step, "loss": 5 - step / 10, "gradient_norm": 0.5, "tokens_per_second": 12345.6}
        bounds = {
            "bound_bits_per_char": 4 - step / 20,
            "bound_nats_per_token": 3 - step / 20,
            "bound_stderr": 0.04,
            "bound_perplexity": 9.5,
            "bound_by_time": [math.nan, *range(1, 10)],
        }
        display.metrics(line | (bounds if step % 20 == 0 else {}))
    display.samples(steps, ["東京 to be\nor \x1b[2J not " * 30, "short"])


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 15), (30, 8), (200, 50), (10, 4)])
def test_a_training_fits_its_terminal(width, height):
    screen = io.StringIO()
    display = TrainingDisplay(Console(file=screen, force_terminal=True, width=width, height=height))
    tell(display)
    display.end()
    lines = display.render().renderables
    assert len(lines) < height
    assert all(cell_len(line.plain) < width for line in lines)
    text = "\n".join(line.plain for line in lines)
    assert "\x1b" not in text
    if width > 50:
        for part in ("40/40", "bound 2.000 bits/char", "gradient 0.50  12,346 tokens/s", "loss 5.00 → 1.000"):
            assert part in text
        assert "↵or ␛[2J" in text
    assert "\x1b[2J" not in screen.getvalue()


def test_a_log_has_the_same_figures_as_lines():
    log = io.StringIO()
    tell(PlainLines(Console(file=log, width=40), seconds=0))
    lines = log.getvalue().splitlines()
    assert lines[-3].startswith(
        "step 40/40: loss 1.000, bound 2.000 bits/char (1.000 ± 0.040 nats/token, perplexity 9.5), "
        "gradient 0.50, 12,346 tokens/s, in 0:0"
    )
    assert lines[-2] == "  nats/token by time t, 0 to 1: nan 1.00 2.00 3.00 4.00 5.00 6.00 7.00 8.00 9.00"
    assert lines[-1].startswith("  sample: 東京 to be↵or ␛[2J not")
    assert re.fullmatch(r"step 30/40: loss 2\.000, gradient 0\.50, 12,346 tokens/s, 0:0\d left", lines[-4])


@pytest.mark.parametrize("bound", [math.nan, math.inf])
def test_a_bound_that_is_no_number_is_told_and_not_drawn(bound):
    screen = io.StringIO()
    display = TrainingDisplay(Console(file=screen, width=60, height=20, force_terminal=True))
    display.begin(0, 40)
    for step, bits in enumerate([3.0, bound, 2.0]):
        told = {"bound_bits_per_char": bits, "bound_nats_per_token": bits, "bound_stderr": 0.1}
        display.metrics({"step": step, "bound_perplexity": 9.0, **told})
        display.render()
    display.end()
    assert f"bound {bound:.3f} bits/char" in screen.getvalue()


def test_curves_of_a_run_that_goes_on_begin_where_it_did():
    screen = io.StringIO()
    display = TrainingDisplay(Console(file=screen, width=80, height=24, force_terminal=True))
    display.begin(200, 400)
    display.past([{"step": step, "loss": 500 - step} for step in range(0, 200, 20)] + [{"step": 200}])
    display.metrics({"step": 220, "loss": 1.0, "gradient_norm": 0.5, "tokens_per_second": 9.0})
    display.end()
    text = "\n".join(line.plain for line in display.render().renderables)
    assert "loss 500.00 → 1.000" in text
    assert "step 1" not in screen.getvalue()


def test_a_plan_that_is_made_again_is_what_the_steps_are_out_of():
    log = io.StringIO()
    lines = PlainLines(Console(file=log, width=40), seconds=0)
    lines.begin(0, 40)
    lines.plan(20)
    lines.metrics({"step": 20, "loss": 1.0, "gradient_norm": 0.5, "tokens_per_second": 9.0})
    assert re.match(r"step 20/20: .* in 0:00$", log.getvalue())
    display = TrainingDisplay(Console(file=io.StringIO(), width=40, height=9, force_terminal=True))
    display.begin(0, 40)
    display.plan(20)
    display.progress(10)
    display.end()
    assert str(display.render().renderables[0]).startswith("10/20 ")


def test_curves_and_bars_are_as_large_as_they_are_asked_to_be():
    for values in ([1.0], [1.0, 2.0], list(range(1000)), [2.0] * 30):
        assert [len(line) for line in curve(values, 7, 3)] == [7] * 3
    falling = curve([3.0, 2.0, 1.0, 0.0], 2, 1)
    assert falling == ["⠑⢄"]
    assert bars([0.0, 0.5, 1.0], 3, 2) == ["  █", " ██"]
    assert bars([1.0, 2.0], 10, 1) == ["▄▄▄▄ ████"]


# -- canvases in a terminal -------------------------------------------------------------------------------


def canvases(count, length, given=0):
    """A model of 26 letters, and what it makes of `count` texts on the way from masks to letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = lambda ids: ["<mask>" if id == 0 else letters[id - 1] for id in ids]  # noqa: E731
    tokenizer = SimpleNamespace(mask_id=0, eos_id=-1, special_ids={0}, vocab_size=27, pieces=pieces)
    tokenizer.pieces_in_a_row = pieces
    model = SimpleNamespace(tokenizer=tokenizer, process=SimpleNamespace(needs_clock=False))
    order = torch.rand(count, length, generator=torch.Generator().manual_seed(1))
    text = (torch.arange(length) % 26 + 1).expand(count, -1)
    frozen = (torch.arange(length) < given).expand(count, -1)
    frames, before = [], None
    for step in range(5):
        x = torch.where((order < step / 4) | frozen, text, 0)
        clock = torch.where(frozen, 0.0, 1 - step / 4)
        opened = ~frozen if before is None else x != before
        frames.append(
            SimpleNamespace(
                x=x, clock=clock, opened=opened, nfe=torch.full((count,), step), step=step, steps=4
            )
        )
        before = x
    return model, frames


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (20, 6)])
@pytest.mark.parametrize(
    ("count", "length", "given"), [(1, 50, 0), (4, 256, 0), (90, 12, 0), (16, 300, 0), (1, 5000, 4500)]
)
def test_canvases_stand_in_columns_that_fit(count, length, given, width, height):
    model, frames = canvases(count, length, given)
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    sizes = set()
    with LiveCanvas(screen, model, frames_per_second=1e9) as canvas:
        for frame in frames[::2]:
            canvas(frame)
            lines = canvas.render(frame).plain.split("\n")
            assert len(lines) < height
            assert all(cell_len(line) <= width for line in lines)
            sizes.add(len(lines))
            told = next(line for line in lines if line.startswith("step "))
            assert f"step {frame.step}/4, NFE {frame.step}"[:width] in told
            if frame.step == 0:
                assert any("░" in line for line in lines)  # where something opens is in sight
    assert len(sizes) == 1  # nothing moves
    shown = re.search(r"not shown: (\d+)", "\n".join(lines))
    starts = sum(line.count("abcdefgh") for line in lines) if not given and length < 26 else None
    if starts is not None:
        assert starts == count - (int(shown[1]) if shown else 0)
    if count > 1 and width >= 60:
        assert any(re.search(r"\w  +\w", line) for line in lines)  # beside each other


def test_gaps_that_are_far_apart_come_into_view_one_after_the_other():
    model, frames = canvases(1, 2000)
    first, last = (frames[4].x.clone() for _ in range(2))
    first[0, [10, 11, 1990]] = 0
    last[0, 1990] = 0
    begun, later = (
        SimpleNamespace(**{**vars(frames[step]), "x": x, "opened": x == 0, "clock": (x == 0).double()})
        for step, x in ((0, first), (1, last))
    )
    screen = Console(file=io.StringIO(), force_terminal=True, width=40, height=8)
    with LiveCanvas(screen, model, frames_per_second=1e9) as canvas:
        canvas(begun)
        shown = canvas.render(begun).plain
        assert "abcdefghij░░m" in shown
        assert shown.split("\n")[-2].endswith("…")  # it goes on
        canvas(later)
        assert re.search("^…(.|\n)*░", canvas.render(later).plain)


def test_wide_symbols_stay_in_their_columns():
    model, frames = canvases(1, 200)
    wide = lambda ids: ["<mask>" if id == 0 else "漢" for id in ids]  # noqa: E731
    model.tokenizer.pieces = model.tokenizer.pieces_in_a_row = wide
    screen = Console(file=io.StringIO(), force_terminal=True, width=40, height=7)
    with LiveCanvas(screen, model, frames_per_second=1e9) as canvas:
        canvas(frames[0])
        canvas(frames[4])
        *lines, _ = canvas.render(frames[4]).plain.split("\n")
    assert all(cell_len(line) <= 40 for line in lines)
    assert lines[-1].rstrip().endswith("…")


def test_what_was_written_is_tentative_once_something_of_it_was_revised():
    model, frames = canvases(1, 12)
    with LiveCanvas(Console(file=io.StringIO(), width=60), model) as canvas:
        for frame in frames[:3]:
            canvas(frame)
        looks = lambda: {str(span.style) for span in canvas.render(frames[2]).spans}  # noqa: E731
        assert "dim" not in looks()
        assert "7 masks left" in canvas.render(frames[2]).plain
        back = frames[3]
        back.x = torch.where(frames[2].x == frames[2].x.max(), 0, frames[2].x)  # a letter is a mask again
        back.opened = back.x != frames[2].x
        canvas(back)
        assert "dim" in looks()


@pytest.mark.parametrize(
    ("terminal", "environment", "moves"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, False),  # a log that takes colours
        (False, {}, False),
    ],
)
def test_only_a_screen_is_drawn_upon(monkeypatch, terminal, environment, moves):
    for name in ("TERM", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert console(Stream(terminal=terminal)).is_terminal == moves


def test_a_window_that_changes_its_size_is_cleared_once():
    model, frames = canvases(2, 8)
    screen = Console(file=io.StringIO(), force_terminal=True, width=60, height=20)
    with LiveCanvas(screen, model, frames_per_second=1e9) as canvas:
        for frame, width in zip(frames, (60, 60, 30, 30, 30), strict=True):
            screen.width = width
            canvas(frame)
    before, after = screen.file.getvalue().split("\x1b[2J")
    assert "step 1/4" in before
    assert "step 2/4" in after


def test_a_log_of_canvases_has_a_line_for_each_that_is_done():
    model, frames = canvases(2, 8)
    log = io.StringIO()
    with LiveCanvas(Console(file=log, width=10), model) as canvas:
        for frame in [*frames, *frames]:
            canvas(frame)
    lines = log.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("step 4/4, NFE 4, 0 masks left, ") for line in lines)
