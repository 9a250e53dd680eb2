"""`ddcli eval`."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DdcliError, counted
from .answers import answer, tell
from .completion import one_of
from .options import (
    AllowPickle,
    Block,
    Budget,
    Cache,
    Compile,
    Device,
    GreedyTail,
    Model,
    Precision,
    Quiet,
    Sampler,
    Steps,
    Temperature,
    TopK,
    TopP,
    compile_first,
    settings_of,
)

if TYPE_CHECKING:
    from ..evaluation import Share
    from ..generative import TextFigures
    from ..replay import Replayed, SelfTest
    from ..report import Evaluation, Generative


FEW = 8  # clusters: the error of so many is known to a quarter of it


def evaluate(
    context: typer.Context,
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(help="Text to judge by: whatever training takes. By default what the run validated on."),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of .jsonl, .csv, .parquet; text by default.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of labels, for a model that was trained with them.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a dataset; train by default.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Blocks of the text at most; else all, but 16 for --order and --sweep."),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Noisings of each block.")] = 4,
    order: Annotated[
        str | None,
        typer.Option(
            help="The likelihood of a sampler that fills in order: confidence, entropy, threshold:0.9.",
            autocompletion=one_of(
                "confidence", "entropy", "entropy-bounded", "left-to-right", "margin", "random", "threshold"
            ),
        ),
    ] = None,
    tokens_per_call: Annotated[
        int | None, typer.Option(min=1, help="Tokens filled at each call, with --order; 1, or by --steps.")
    ] = None,
    generative: Annotated[
        str | None,
        typer.Option(
            metavar="SCORER", help="Judge samples by a causal model: a folder, or a Hugging Face name."
        ),
    ] = None,
    generative_gguf: Annotated[
        str | None,
        typer.Option(help="A GGUF file in the folder of the scorer; needs the packages gguf and accelerate."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples for the scorer; 64 by default.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens of a sample.")] = None,
    temperatures: Annotated[
        str | None, typer.Option(help="Temperatures for the scorer; 0.7,0.8,0.9,1.0,1.1 by default.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help='Settings to compare, such as "steps=8,16,32 sampler=ancestral,confidence".'),
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Make the best of a sweep what the run samples by, and keep the budgets of `ddcli sample "
            "--budget`.",
        ),
    ] = False,
    within: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="With --save: the best that takes so long a sample on this machine.",
        ),
    ] = None,
    sampler: Sampler = None,
    steps: Steps = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    greedy_tail: GreedyTail = None,
    block: Block = None,
    cache: Cache = None,
    budget: Budget = None,
    seed: Annotated[int, typer.Option(min=0, help="Of noise, orders and samples.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Sequences at a time; in float32 it changes nothing.")
    ] = 16,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .png or .svg picture of the sweep.")
    ] = None,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="The bound by time and by share masked, beside what else is asked for."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with everything.")] = False,
    allow_pickle: AllowPickle = False,
    device: Device = "auto",
    precision: Precision = "auto",
    compiled: Compile = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model: bounds, exact likelihoods, samples before a scorer, quality against speed.

    ddcli eval runs/novel --data another.txt --limit 64
    """
    from .. import report
    from ..api import load
    from ..plan import Silent
    from ..viz.tradeoff import check_picture, draw_frontier
    from ..world import World

    world = context.with_resource(World.here().joined())
    with world.together():
        if output is not None:
            if sweep is None:
                raise DdcliError("-o draws a sweep; give --sweep")
            check_picture(output)
        loaded = load(model, device=device, precision=precision, allow_pickle=allow_pickle)
        if compiled:
            compile_first(context, loaded, tell)
    reporter = Silent()
    if world.leads and not quiet:
        reporter.say = tell  # type: ignore[method-assign]
    found = report.evaluate(
        loaded,
        data,
        text_column=text_column,
        label_column=label_column,
        split=split,
        limit=limit,
        draws=draws,
        seed=seed,
        batch_size=batch_size,
        order=order,
        tokens_per_call=tokens_per_call,
        generative=generative,
        gguf=generative_gguf,
        samples=samples,
        length=length,
        temperatures=None if temperatures is None else _numbers(temperatures),
        sweep=sweep,
        save=save,
        within=within,
        reporter=reporter,
        world=world,
        **settings_of(context),
    )
    if not world.leads:
        return
    if output is not None:
        draw_frontier(found.frontier, output)
    told = found.record() if as_json else None
    lines = "\n".join(_lines(found, curve))
    answer(lines if told is None else json.dumps(told, ensure_ascii=False, indent=2))
    if save and not quiet:
        best = found.budgets[report.BEST]
        swept = {point.settings.steps for point in found.frontier if point.paced}
        most = max(swept, default=0)
        if len(swept) > 1 and best.paced and best.settings.steps == most:
            tell(f"{counted(most, 'step')} are the most that were swept; more may be better still")
        tell(f"{Path(model) / 'generation_config.json'} now says {best.name}, and holds the budgets;")
        tell(f"try: ddcli sample {quote(model)}, or ddcli sample {quote(model)} --budget fast; infill too")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DdcliError(f"--temperatures takes numbers with commas between, not {text!r}") from None


# -- tables -----------------------------------------------------------------------------------------------


def _lines(found: "Evaluation", curve: bool) -> Iterator[str]:
    yield from _text(found)
    yield ""
    yield from _bound(found)
    if found.ordered:
        yield ""
        yield from _ordered(found, found.ordered)
    if found.generative:
        yield ""
        yield from _generative(found.generative)
    if found.frontier:
        yield ""
        yield from _frontier(found)
    if found.test:
        yield ""
        yield from _self_test(found.test, found.unit)
    if found.budgets:
        yield ""
        yield from _budgets(found)
    if curve or not (found.ordered or found.generative or found.frontier):
        yield from _curves(found)


def _text(found: "Evaluation") -> Iterator[str]:
    text, blocks, unit = found.text, found.text.blocks, found.model.tokenizer.unit
    measured = len(found.estimates.chosen)
    yield f"text: {text.name}"
    yield f"  sha256 of the source {text.sha256}"
    yield (
        f"  {counted(blocks.characters, 'character')}, {counted(blocks.predicted, unit)} to predict; "
        f"{measured:,} of {counted(len(blocks), found.unit)} of up to {found.model.length} {unit}s measured"
    )
    most = " but one token" if found.model.opened else ""
    yield f"  each on its own: no context{most} is carried over from one to the next"
    if text.unknown:
        yield f"  {counted(text.unknown, 'symbol')} that the vocabulary lacks: context, never predicted"
    if not found.model.tokenizer.is_exact:
        yield "  the tokenizer forgets some of the text (case, accents, blanks); figures are of what it keeps"
    if blocks.left_out:
        yield f"  {counted(blocks.left_out, 'record')} too long for the model left out"


def _bound(found: "Evaluation") -> Iterator[str]:
    from ..report import LIKELIHOOD, LITERATURE, STRICT

    estimates, bound = found.estimates, found.bound
    scale = bound.bits_per_char / bound.nats_per_token
    yield f"likelihood: {LIKELIHOOD}" if estimates.exact else f"bound: {STRICT}"
    yield f"  {_with_error(bound.nats_per_token, bound.stderr)} nats/token, perplexity {bound.perplexity:.3f}"
    yield (
        f"  {_with_error(bound.bits_per_char, bound.stderr * scale)} bits/character, "
        f"{bound.bits_per_byte:.4f} bits/byte"
    )
    if not estimates.exact:
        yield f"  {bound.literature_nats_per_token:.4f} nats/token {LITERATURE}"
    noise = "" if estimates.exact else f"{counted(estimates.draws, 'noising')} of each; "
    clusters = counted(bound.clusters, "cluster")
    error = f"standard error over {clusters}" if bound.clusters > 1 else "no standard error of 1 cluster"
    if 1 < bound.clusters < FEW:
        error += ", so few that it says little itself"
    yield f"  {noise}{error} (documents, or blocks of a single one)"


def _curves(found: "Evaluation") -> Iterator[str]:
    estimates = found.estimates
    if shares := estimates.by_time():
        yield ""
        yield "the bound by time"
        yield from _shares("time", "nats/token per unit of time", shares)
        yield f"  at t = 1 (prior): {estimates.prior / found.bound.tokens:.4f} nats/token"
    if shares := estimates.by_masks():
        yield ""
        yield "the bound by share masked"
        yield from _shares("share masked", "nats/masked token", shares)


def _shares(of: str, unit: str, shares: "list[Share]") -> Iterator[str]:
    yield from _table(
        [of, unit, "share of the bound"],
        [
            [f"{s.low:.1f} to {s.high:.1f}", _number(s.nats), "-" if math.isnan(s.nats) else f"{s.share:.1%}"]
            for s in shares
        ],
    )


def _ordered(whole: "Evaluation", likelihood: "Replayed") -> Iterator[str]:
    from ..frontier import named

    bound, settings = likelihood.bound(), likelihood.settings
    kind = "exact: -ln p(text) itself" if likelihood.exact else "the mean over drawn orders: an upper bound"
    yield f"order {named(settings, paced=whole.model.paced(settings))}; {kind}"
    yield (
        f"  {_with_error(bound.nats_per_token, bound.stderr)} nats/token, {bound.bits_per_char:.4f} "
        f"bits/character, perplexity {bound.perplexity:.3f}"
    )
    yield (
        f"  {counted(len(likelihood.chosen), whole.unit)}, {likelihood.nfe.mean():.1f} evaluations of each, "
        f"{likelihood.tokens_per_call:.2f} tokens a call"
    )


def _self_test(test: "SelfTest", unit: str) -> Iterator[str]:
    from ..replay import SELF_TEST_DRAWS

    verdict = {
        True: "they agree",
        False: "they do NOT agree (by chance they seem not to one time in 20)",
        None: "too few to tell",
    }
    difference = _with_error(test.difference, test.stderr, "+.4f")
    yield (
        f"self-test: random order one token a call less a bound of {SELF_TEST_DRAWS} noisings is "
        f"{difference} nats/token, paired on {counted(test.blocks, unit)}: {verdict[test.passed]}"
    )


def _generative(found: "Generative") -> Iterator[str]:
    from ..frontier import named

    first, *more = found.protocol.split("; ")
    yield f"generative: {first}"
    yield f"  {'; '.join(more)}"
    rows = [
        [f"temperature {each.settings.temperature:g}", *_figures(each.figures), f"{each.cost.nfe:.0f}"]
        for each in found.samples
    ]
    rows.append(["real text", *_figures(found.real), ""])
    plain = found.samples[0].settings.but(temperature=1)
    names = [
        "perplexity",
        "nats/scorer token",
        "bits/char",
        "entropy",
        "distinct-1/2/3",
        "repeated 4-grams",
        "NFE",
    ]
    yield from _table([named(plain), *names], rows)
    samples = counted(found.samples[0].figures.texts, "sample")
    yield f"  {counted(found.real.texts, 'real text')}, {samples} at each temperature"
    if found.matched:
        match = found.matched
        yield (
            f"  at the entropy of real text: perplexity {match.perplexity:.2f} (temperature "
            f"{match.temperature:.3f}, interpolated); real text has {found.real.perplexity:.2f}"
        )
    else:
        lowest, highest = (pick(each.figures.entropy for each in found.samples) for pick in (min, max))
        where = (
            "above" if found.real.entropy > highest else "below" if found.real.entropy < lowest else "among"
        )
        yield (
            f"  the entropy of real text is {where} those of the samples, and no two have it between them; "
            "give other --temperatures"
        )


def _figures(found: "TextFigures") -> list[str]:
    return [
        f"{found.perplexity:.2f}",
        f"{found.nats_per_token:.3f} ± {found.stderr:.3f}",
        f"{found.bits_per_char:.3f}",
        f"{found.entropy:.3f}",
        " ".join(f"{share:.3f}" for share in found.distinct),
        f"{found.repetition:.1%}",
    ]


def _frontier(whole: "Evaluation") -> Iterator[str]:
    from ..frontier import above_the_best, shown, told
    from ..generative import TIMED

    points, few = whole.frontier, counted(whole.settings["replayed_blocks"], whole.unit)
    yield f"sweep: {few} of the text under each sampler's own law, at its own number of steps"
    judged = any(point.generative for point in points)
    names = told(point.settings for point in points)
    rows = []
    for point, more in zip(points, above_the_best(points), strict=True):
        row = [shown(point.settings, name) for name in names]
        row[names.index("steps")] = str(point.settings.steps) if point.paced else "-"
        row += [f"{point.cost.nfe:.1f}", f"{point.cost.seconds:.3f}"]
        found = point.quality
        row.append("-" if found is None else _with_error(found.bound.nats_per_token, found.bound.stderr))
        row.append("-" if more is None else _with_error(*more) if more[0] > 0 else "best")
        row.append("not known" if found is None else found.kind)
        if point.generative:
            row += [f"{point.generative.perplexity:.2f}", f"{point.generative.entropy:.3f}"]
        rows.append(row)
    head = [name.replace("_", " ") for name in names]
    head += ["NFE", "s a sample", "nats/token", "above the best", "figure"]
    yield from _table([*head, *(["perplexity of samples", "their entropy"] if judged else [])], rows)
    if any(point.quality for point in points):
        yield "  exact: -ln p(text) itself; bound: an upper bound, by how much is not known"
        yield f"  above the best: paired, on the same {whole.unit}s and noise"
    if any(point.quality is None for point in points):
        hint = "" if judged else "; samples before a scorer tell (--generative)"
        yield f"  not known: no likelihood of its own{hint}"
    own = "" if all(point.paced for point in points) else "; steps -: at a pace of its own"
    yield f"  NFE and seconds: the mean of {TIMED} samples, each drawn alone{own}"


def _budgets(whole: "Evaluation") -> Iterator[str]:
    from ..frontier import TOLERANCE

    rows = [
        [name, point.name, f"{point.cost.nfe:.1f}", f"{point.cost.seconds:.3f}"]
        for name, point in whole.budgets.items()
    ]
    yield from _table(["budget", "settings", "NFE", "s a sample"], rows)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in TOLERANCE.items())
    few = counted(whole.settings["replayed_blocks"], whole.unit)
    yield f"  no worse than the best figure by more than {shares}, two standard errors counted in,"
    yield f"  on {few}; more (--limit) may save more evaluations"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _with_error(value: float, stderr: float, style: str = ".4f") -> str:
    return f"{value:{style}}" + (f" ± {stderr:.4f}" if math.isfinite(stderr) else "")


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        yield "  " + "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
