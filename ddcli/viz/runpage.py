"""A training as one page: what was asked for, how it went, how to go on. It has no script."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..config import Config, flatten
from ..files import write_text
from ..frontier import named
from ..model import SamplerSettings
from ..modelcard import fills, writes_in_order
from ..runlog import RunLog, is_number, read_run
from .charts import Line, bars, figure, lines
from .markup import Node, markup, tag
from .parts import spread
from .sheet import part, policy

REPORT = "report.html"
SAMPLES = 12  # moments of a training whose samples are shown
LONGEST = 4000  # characters of them
NATS = "nats/token"
SWEEP = '--sweep "steps=8,16,32,64" --save'


def write_report(run: str | Path, path: str | Path | None = None) -> Path:
    """Write the page of a run folder, whole or not at all, and return its path.

    path: None is report.html in the run folder. Raises DdcliError where it is no run folder or a file of it
    is damaged, OSError where the page cannot be written.

    >>> ddcli.write_report("runs/x")
    """
    path = Path(run) / REPORT if path is None else Path(path)
    write_text(path, report(read_run(run)))
    return path


def try_report(run: Path, say: Callable[[str], None]) -> None:
    """Write the page where that is not all that was asked for: whatever hinders it is said, and no more."""
    try:
        write_report(run)
    except Exception as error:
        say(f"no report is written: {error}; try later: ddcli report {shlex.quote(str(run))}")


def report(log: RunLog) -> str:
    """The page, as HTML."""
    name, style = log.folder.resolve().name, part("base.css") + part("report.css")
    sections = [_curves, _over_time, _bound, _samples, _frontier, _recipe, _machine, _commands]
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy(style)),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{name}: a training"),
            tag("style", style),
        ),
        tag(
            "body",
            tag("header", tag("h1", name), tag("p", _sentence(log), class_="faint"), _figures(log)),
            tag("main", *(tag("section", *found) for section in sections if (found := list(section(log))))),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{markup(page)}\n"


def _sentence(log: RunLog) -> str:
    """What it is."""
    config, about = log.config, log.about
    parts = [f"{config.process.name} noise on the {config.process.schedule} schedule"]
    if is_number(about.get("parameters")):
        parts.append(f"{about['parameters']:,} parameters")
    parts.append(str(about.get("data", config.data.source)))
    return " · ".join(parts)


def _figures(log: RunLog) -> Node:
    """The few figures that one looks for first."""
    done, asked = log.step, log.config.train.steps
    tokens = log.config.train.batch_size * (log.config.data.length or 0)
    found: list[tuple[str, str, str]] = []
    bits, nats, stderr = (log.last(f"bound_{key}") for key in ("bits_per_char", "nats_per_token", "stderr"))
    if bits is not None and nats is not None:
        error = f" ± {bits / nats * stderr:.3f}" if stderr is not None and nats else ""
        known = log.about.get("by_frequency_bits_per_char")
        beside = f"; {known:.2f} by how frequent tokens are alone" if is_number(known) else ""
        found.append(("bound on held-out text", f"{bits:.3f}{error}", f"bits per character{beside}"))
    if (perplexity := log.last("bound_perplexity")) is not None:
        found.append(("perplexity", figure(perplexity), "per token, at most"))
    state = "steps, finished" if done >= asked else f"of {asked:,} steps"
    found.append(("trained for", f"{done:,}", f"{state}, of {tokens:,} tokens each"))
    if log.seconds is not None:
        found.append(("time", _duration(log.seconds), "validation and samples included"))
    if rates := [rate for _, rate in log.over_steps("tokens_per_second")]:
        found.append(("throughput", figure(median(rates)), "tokens a second, median"))
    return tag(
        "dl", *(tag("div", tag("dt", n), tag("dd", v, " ", tag("small", u))) for n, v, u in found),
        class_="figures",
    )  # fmt: skip


def _curves(log: RunLog) -> Iterator[Node]:
    bound = log.over_steps("bound_nats_per_token")
    charts = []
    if bound:
        errors = dict(log.over_steps("bound_stderr"))
        drawn = [Line("strict bound", bound, [errors.get(step) for step, _ in bound])]
        drawn.append(Line("literature", log.over_steps("literature_nats_per_token"), kind="second"))
        charts.append(lines("Bound on held-out text, nats per token", drawn, unit=NATS))
    plain = {
        "loss": ("Training loss, nats per token", NATS, "third"),
        "gradient_norm": ("Norm of the gradient", "", "fourth"),
        "tokens_per_second": ("Throughput, tokens a second", "tokens/s", "first"),
    }
    for key, (title, unit, kind) in plain.items():
        if points := log.over_steps(key):
            charts.append(lines(title, [Line("", points, kind=kind)], unit=unit))
    if not charts:
        return
    yield tag("h2", "How it went")
    yield tag(
        "p",
        "The band is one standard error. The loss need not be the bound: where times are not even, it is "
        "reweighted.",
        class_="faint",
    )
    yield tag("div", *charts, class_="charts")


def _over_time(log: RunLog) -> Iterator[Node]:
    found = log.by_time()
    if not found:
        return
    (first, before), (last, shares) = found[0], found[-1]
    compared = before if first < last and len(before) == len(shares) else []
    yield tag("h2", "Where the bound comes from")
    dashed = f"; dashed: at step {first:,}" if compared else ""
    told = (
        f"Nats per token and unit of time at step {last:,}{dashed}. The mean of the bars, and what is paid "
    )
    yield tag("p", told + "at pure noise, are the bound.", class_="faint")
    chart = bars("Loss by time", shares, unit="nats per token and unit of time", before=compared)
    yield tag("div", chart, class_="charts one")


def _bound(log: RunLog) -> Iterator[Node]:
    nats, stderr = log.last("bound_nats_per_token"), log.last("bound_stderr")
    if nats is None:
        return
    error = f"{nats:.4f} ± {stderr:.4f}" if stderr is not None else f"{nats:.4f}"
    rows = [("strict: prior and reconstruction included", error, NATS)]
    more = {
        "literature_nats_per_token": ("as papers on continuous time report it, t from 0.001", NATS),
        "bound_bits_per_char": ("strict", "bits/character"),
        "bound_perplexity": ("strict, per token", "perplexity"),
    }
    rows += [(name, f"{log.last(key):.4f}", unit) for key, (name, unit) in more.items() if log.last(key)]
    yield tag("h2", "The bound")
    yield _table(("which", "figure", "unit"), rows, numbers=(1,))


def _samples(log: RunLog) -> Iterator[Node]:
    if not log.samples:
        return
    shown = spread(list(log.samples), SAMPLES)
    yield tag("h2", "What it wrote")
    for step in shown:
        text = log.samples[step].removesuffix("\n")
        text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
        opened = "open" if step in (shown[0], shown[len(shown) // 2], shown[-1]) else None
        yield tag("details", tag("summary", f"step {step:,}"), tag("pre", text), open=opened)


def _frontier(log: RunLog) -> Iterator[Node]:
    run = shlex.quote(str(log.folder))
    yield tag("h2", "What more evaluations buy")
    if not log.frontier and not log.budgets:
        yield tag("p", "No sweep is saved yet. This measures one, and draws it here:", class_="faint")
        yield tag("pre", f"ddcli eval {run} {SWEEP}")
        return
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for point in log.frontier:
        if is_number(point.get("nfe")) and is_number(point.get("nats_per_token")):
            curves.setdefault(_named(point, paced=False), []).append(point)
    kinds = ("first", "second", "third", "fourth")
    drawn = []
    for number, (name, points) in enumerate(curves.items()):
        points = sorted(points, key=lambda point: point["nfe"])
        errors = [point["stderr"] if is_number(point.get("stderr")) else None for point in points]
        places = [(point["nfe"], point["nats_per_token"]) for point in points]
        drawn.append(Line(name, places, errors, kinds[number % len(kinds)]))
    if drawn:
        across = "network evaluations of a sample"
        title = "Held-out text under the sampler, nats per token"
        yield tag("div", lines(title, drawn, unit=NATS, across=across, log=True), class_="charts one")
    if log.budgets:
        rows = [
            (
                name,
                _named(point, paced=point.get("steps_matter") is not False),
                *(f"{point[key]:.4g}" if is_number(point.get(key)) else "–" for key in _COSTS),
            )
            for name, point in log.budgets.items()
        ]
        yield tag("h3", "Budgets")
        heads = ("--budget", "settings", *_COSTS.values())
        yield _table(heads, rows, numbers=range(2, len(heads)))


_COSTS = {"nfe": "evaluations", "seconds": "seconds a sample", "nats_per_token": NATS}


def _named(point: Mapping[str, Any], *, paced: bool) -> str:
    known = {key: value for key, value in point.items() if key in SamplerSettings.model_fields}
    return named(SamplerSettings().but(**known), paced=paced)


def _recipe(log: RunLog) -> Iterator[Node]:
    plain, own = flatten(Config().model_dump()), flatten(log.config.model_dump())
    changed = [(key, _toml(value)) for key, value in own.items() if value != plain[key]]
    yield tag("h2", "The recipe")
    yield tag(
        "p", "Settings that are not the defaults, or that the data and the noise decided.", class_="faint"
    )
    yield _table(("setting", "value"), changed)
    yield tag("details", tag("summary", "All settings, as TOML"), tag("pre", log.config.to_toml().strip()))


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _machine(log: RunLog) -> Iterator[Node]:
    names = ("machine", "processes", "precision", "versions")
    rows = [(name, str(log.about[name])) for name in names if name in log.about]
    if rows:
        yield tag("h2", "Where it ran")
        yield _table(("", ""), rows)


def _commands(log: RunLog) -> Iterator[Node]:
    run, more = shlex.quote(str(log.folder)), 2 * log.config.train.steps
    finished = log.step >= log.config.train.steps
    infill = {f"ddcli infill {run} FILE": "fill the [MASK:12] gaps of a file"}
    noise = {f"ddcli noise-viz FILE -m {run} -o noise.html": "see the noise, and the way back"}
    found = {
        f"ddcli sample {run} --live": "write text, and watch it appear",
        **(infill if fills(log.config) else {}),
        f"ddcli eval {run}": "the bound on all held-out text, and what it is made of",
        f"ddcli eval {run} {SWEEP}": "how few steps are enough",
        **({} if writes_in_order(log.config) else noise),
        f"ddcli train --resume -o {run}" + (f" --steps {more}" if finished else ""): "train on",
        f"ddcli report {run}": "make this page anew",
    }
    yield tag("h2", "Going on")
    yield tag("pre", "\n\n".join(f"# {what}\n{command}" for command, what in found.items()))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> Node:
    def row(cell: str, texts: Sequence[str]) -> Node:
        kinds = ["number" if place in numbers else None for place in range(len(texts))]
        return tag("tr", *(tag(cell, text, class_=kind) for text, kind in zip(texts, kinds, strict=True)))

    head = tag("thead", row("th", heads)) if any(heads) else None
    body = tag("tbody", *(row("td", texts) for texts in rows))
    return tag("div", tag("table", head, body), class_="scrolls")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
