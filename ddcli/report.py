"""All that is measured of a model, with what it takes to measure it again."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

from .errors import DdcliError, counted
from .evaluation import Bound, Estimates, measure
from .files import check_place, finite, sha256
from .frontier import (
    Point,
    as_defaults,
    budgets,
    check_drawing,
    check_within,
    has_quality,
    named,
    point_at,
    read_sweep,
)
from .generative import (
    Generation,
    Matched,
    TextFigures,
    cost_of,
    figures,
    figures_of_samples,
    load_scorer,
    matched,
    real_texts,
)
from .heldout import HeldOut, text_from, validation_text
from .model import Asked, Model, SamplerSettings
from .plan import Silent
from .process import Absorbing
from .replay import Replayed, SelfTest, has_pace, no_likelihood, replayed, self_test
from .sampler import make_sampler
from .saved import load_model, save_defaults
from .textmodel import TextModel
from .viz.runpage import REPORT, try_report
from .world import ALONE, World

REPLAYED = 16  # blocks, if nobody says: replaying costs as many evaluations of each as sampling it
SAMPLES = 64  # for a scorer, likewise
TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1)  # at which it judges them: real text mostly has an entropy between
TESTED = 16  # blocks at most on which random order has to meet the bound; of fewer, the error is hardly known
BEST = "quality"  # the budget whose settings become those of the run
STRICT = "strict: an upper bound on -ln p(text), prior and reconstruction included"
LIKELIHOOD = "the likelihood itself: -ln p(text), no bound"
LITERATURE = "as papers on continuous time report it: the integral over t in [0.001, 1] alone"


@dataclass(frozen=True)
class Generative:
    """Samples and real text before a scorer."""

    protocol: str
    samples: list[Generation]  # by temperature
    real: TextFigures
    matched: Matched | None  # where samples have the entropy of real text


@dataclass(frozen=True)
class Evaluation:
    """The figures of a model on a text. `record` is all of it, for JSON."""

    model: Model
    text: HeldOut
    estimates: Estimates
    seed: int
    settings: dict[str, Any]  # what was asked for
    ordered: Replayed | None = None  # the likelihood under a sampler that fills in order
    test: SelfTest | None = None  # what shows that such can be trusted; None where none is known, or needed
    generative: Generative | None = None
    frontier: list[Point] = field(default_factory=list)
    budgets: dict[str, Point] = field(default_factory=dict)

    @property
    def bound(self) -> Bound:
        return self.estimates.bound()

    @property
    def unit(self) -> str:
        """What the text is cut into."""
        return _unit(self.model)

    def record(self) -> dict[str, Any]:
        """Everything, as JSON takes it: None for what is no number."""
        return finite(
            {
                "model": _identity(self.model),
                "versions": {
                    name: importlib.import_module(name).__version__
                    for name in (__package__, "torch", "transformers")
                },
                "seed": self.seed,
                "settings": self.settings,
                "data": self._data(),
                "bound": self._bound(),
                "ordered": self.ordered and _ordered(self.ordered),
                "self_test": self.test and {**asdict(self.test), "passed": self.test.passed},
                "generative": self.generative and _generative(self.generative),
                "frontier": [_point(point) for point in self.frontier],
                "budgets": as_defaults(self.budgets),
            }
        )

    def _data(self) -> dict[str, Any]:
        blocks = self.text.blocks
        return {
            "name": self.text.name,
            "sha256": self.text.sha256,
            "blocks": len(blocks),
            "blocks_measured": len(self.estimates.chosen),
            "block_tokens": self.model.length,
            "context_carried_over": 0,
            "tokens": blocks.predicted,
            "characters": blocks.characters,
            "utf8_bytes": blocks.utf8_bytes,
            "unknown_symbols": self.text.unknown,
            "records_left_out": blocks.left_out,
            "tokens_tell_all_of_the_text": self.model.tokenizer.is_exact,
        }

    def _bound(self) -> dict[str, Any]:
        found, estimates = self.bound, self.estimates
        return {
            "convention": LIKELIHOOD if estimates.exact else STRICT,
            **asdict(found),
            "perplexity": found.perplexity,
            "literature": None if estimates.exact else LITERATURE,
            "draws": estimates.draws,
            "timesteps": self.model.timesteps,
            "prior_nats_per_token": estimates.prior / found.tokens,
            "by_time": [asdict(share) for share in estimates.by_time()],
            "by_masked_share": [asdict(share) for share in estimates.by_masks()],
        }


def evaluate(
    model: str | Path | TextModel,
    data: str | None = None,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    draws: int = 4,
    seed: int = 0,
    batch_size: int = 16,
    order: str | None = None,
    tokens_per_call: int | None = None,
    generative: str | None = None,
    gguf: str | None = None,
    samples: int | None = None,
    length: int | None = None,
    temperatures: Sequence[float] | None = None,
    sweep: str | None = None,
    save: bool = False,
    within: float | None = None,
    reporter: Silent | None = None,
    world: World = ALONE,
    **settings: Unpack[Asked],
) -> Evaluation:
    """How good a model is: the bound on -ln p of a text, and what else is asked for.

    model: a run folder, or a loaded one. data: any source that training takes; None is what the run
    validated on. text_column, label_column, split: where `data` has such. limit: blocks, evenly spread; None
    is all. draws: noisings of each block. seed: of noise, orders and samples. batch_size: changes the speed
    alone. order: a sampler that fills positions in order, `tokens_per_call` at most at each call, whose
    likelihood is wanted. generative: a causal model of transformers, a folder or a name, to judge `samples`
    samples of `length` tokens at each of the `temperatures` (None: 0.7 to 1.1); gguf: a GGUF file in its
    folder. sweep: settings such as "steps=8,16 sampler=ancestral,confidence", each of them measured; save:
    make the best of them the run folder's own, and keep the budgets quality, balanced and fast there; within:
    of those that take so many seconds a sample on this machine, drawn alone. reporter: who is told how it
    goes. world: processes that are called alike, and share the bound. settings: in place of the model's own,
    for what is sampled or replayed.

    Raises DdcliError for what cannot be read, or cannot be known of such a model.

    >>> ddcli.evaluate("runs/x").bound.bits_per_char
    """
    say = (reporter or Silent()).say
    with world.together():
        judge, source, drawn = (
            {"--generative": generative},
            {"--data": data},
            {"--order": order, "--sweep": sweep},
        )
        _check_said(
            (f"--{name.replace('_', '-')}", value, drawn if name == "temperature" else drawn | judge)
            for name, value in settings.items()
        )
        _check_said(
            [
                ("--tokens-per-call", tokens_per_call, {"--order": order}),
                ("--generative-gguf", gguf, judge),
                ("--samples", samples, judge),
                ("--temperatures", temperatures, judge),
                ("--length", length, judge | {"--sweep": sweep}),
                ("--within", within, {"--save": save or None}),
                ("--text-column", text_column, source),
                ("--label-column", label_column, source),
                ("--split", split, source),
            ]
        )
        if world.size > 1 and any(what is not None for what in (order, generative, sweep)):
            raise DdcliError(
                "several processes share the bound alone; ask for --order, --generative and --sweep "
                "without torchrun"
            )
        model = model if isinstance(model, TextModel) else load_model(model)
        chosen = model.choose(**settings)
        count = SAMPLES if samples is None else samples
        points = read_sweep(sweep, model, chosen, length=length) if sweep is not None else []
        if save and model.origin:
            raise DdcliError(
                f"--save keeps budgets in a run folder, and {model.origin.name} is none; leave it out"
            )
        if save and (not points or model.folder is None):
            raise DdcliError("--save keeps the best of a sweep in a run folder; give --sweep")
        if save and model.folder is not None:
            check_place(model.folder / "generation_config.json")
        if save and not any(has_quality(model, point) for point in points):
            raise DdcliError(
                "no sampler of this sweep has a likelihood of its own, so there is nothing to choose budgets "
                "by; sweep sampler=ancestral, without top-k, top-p or guidance"
            )
        if order is not None:
            in_order = chosen.but(sampler=order)
            tokens_per_call = _pace(
                model, in_order, tokens_per_call, steps_given=settings.get("steps") is not None
            )
        usual = TEMPERATURES if sweep is None else [chosen.temperature]  # a sweep is a frontier already
        at = [chosen.but(temperature=t) for t in sorted(set(temperatures or usual))]
        for each in at if generative is not None else []:
            check_drawing(model, each, length)
        scorer = None if generative is None else load_scorer(generative, gguf=gguf, device=model.device)
        columns = {"text_column": text_column, "label_column": label_column, "split": split}
        text = (
            validation_text(model, say)
            if data is None
            else text_from(
                model, data, **{name: value for name, value in columns.items() if value is not None}
            )
        )
    if data is not None and text.sha256 == model.about.get("data", {}).get("sha256", "").partition("+")[0]:
        say(f"{text.name} is what the model was trained on; without --data it is judged by what was held out")
    blocks = text.blocks
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    drawing: dict[str, Any] = {"length": length, "seed": seed}
    if points:
        say(f"timing samples at {counted(len(points), 'point')}")
    costs = [cost_of(model, point, **drawing) for point in points]
    if save:
        check_within(model, points, costs, within)
    estimates = measure(model, blocks, draws=draws, sequences=limit, world=world, **options)
    few = min(limit or REPLAYED, len(blocks))
    ordered = test = judged = None
    if order is not None:
        say(f"replaying {counted(few, _unit(model))}")
        ordered = replayed(model, blocks, in_order, tokens_per_call=tokens_per_call, sequences=few, **options)
    if (order is not None or points) and _testable(model):
        tested = min(few, TESTED)
        say(f"self-test: replaying {counted(tested, _unit(model))} in random order, one token a call")
        test = self_test(model, blocks, sequences=tested, **options)
    if scorer is not None:
        say(f"drawing {counted(count, 'sample')} at {counted(len(at), 'temperature')}")
        yardstick = real_texts(model, blocks, count=count, length=length)
        made = [
            Generation(
                each,
                figures_of_samples(model, scorer, each, yardstick, count=count, **drawing),
                cost_of(model, each, **drawing),
            )
            for each in at
        ]
        real = figures(scorer, yardstick)
        judged = Generative(scorer.protocol, made, real, matched(made, real.entropy))
    frontier = []
    for number, (point, cost) in enumerate(zip(points, costs, strict=True), 1):
        say(f"point {number} of {len(points)}: {named(point, paced=model.paced(point))}")
        more: dict[str, Any] = {"scorer": scorer, "count": count, "length": length, **options}
        frontier.append(point_at(model, blocks, point, cost, sequences=few, draws=draws, **more))
    kept = budgets(frontier, within) if save else {}
    if save and model.folder is not None:
        swept = [finite(point.record()) for point in frontier]
        save_defaults(model.folder, kept[BEST].settings, as_defaults(kept), swept)
        if (model.folder / REPORT).is_file():  # of a training, which draws what was swept last
            try_report(model.folder, say)
    asked = {
        "limit": limit,
        "replayed_blocks": few,
        "draws": draws,
        "sampling": chosen.model_dump(),
        "order": order,
        "tokens_per_call": tokens_per_call,
        "generative": generative,
        "samples": count,
        "length": length,
        "temperatures": [each.temperature for each in at] if generative is not None else None,
        "sweep": sweep,
        "within": within,
    }
    return Evaluation(model, text, estimates, seed, asked, ordered, test, judged, frontier, kept)


def _check_said(options: Iterable[tuple[str, Any, Mapping[str, Any]]]) -> None:
    """Raise DdcliError for an option that was given without any of those that it belongs to."""
    for option, value, needed in options:
        if value is not None and all(other is None for other in needed.values()):
            *others, last = needed
            either = f"{', '.join(others)} or {last}" if others else last
            raise DdcliError(f"{option} says nothing alone; give {either}, or leave it out")


def _unit(model: Model) -> str:
    return "record" if model.record_lengths else "block"


def _pace(
    model: Model, settings: SamplerSettings, tokens_per_call: int | None, *, steps_given: bool
) -> int | None:
    """Tokens a call: one, where neither a pace nor a number of steps was asked for.

    Raises DdcliError for a sampler that has no likelihood, or one that takes no pace.
    """
    # before the model refuses the sampler and names another, which may have no likelihood either
    if reason := no_likelihood(model.process, settings, make_sampler(settings.sampler)):
        raise DdcliError(f"--order: {reason}")
    sampler = model.sampler(settings)
    paced = has_pace(model.process, sampler)
    if tokens_per_call is not None and not paced:
        raise DdcliError(
            f"--order: {settings.sampler} goes at a pace of its own; leave --tokens-per-call out"
        )
    return tokens_per_call or (1 if paced and not steps_given else None)


def _testable(model: Model) -> bool:
    """Whether random order and the bound ask the network the same: not where it recalls what it believed,
    nor where there is but one order."""
    recalls = model.network is not None and model.network.config.self_conditioned
    return isinstance(model.process, Absorbing) and not recalls and model.parts < model.length


def _identity(model: Model) -> dict[str, Any]:
    """Which model this is, to the last bit."""
    device = model.plain.device if model.plain else model.device
    found: dict[str, Any] = {"device": str(device), "block": model.block}
    if model.about:
        found |= {"process": model.about["process"], "schedule": model.about["schedule"]}
        found["parameters"] = model.parameters
    if model.origin:
        about = asdict(model.origin)
        about["files"] = {file.name: sha256(file) for file in model.origin.files}
        return found | about
    if model.folder is None or model.weights is None:
        return found
    sums = {"config_sha256": model.folder / "config.json", "weights_sha256": model.weights}
    files = {"folder": str(model.folder), "weights": str(model.weights)}
    return found | files | {name: sha256(file) for name, file in sums.items()}


def _ordered(likelihood: Replayed) -> dict[str, Any]:
    bound = likelihood.bound()
    return {
        **likelihood.settings.model_dump(),
        "figure": "exact" if likelihood.exact else "bound",
        **{k: v for k, v in asdict(bound).items() if not k.startswith("literature")},
        "perplexity": bound.perplexity,
        "blocks": len(likelihood.chosen),
        "nfe": float(likelihood.nfe.mean()),
        "tokens_per_call": likelihood.tokens_per_call,
    }


def _text_figures(found: TextFigures) -> dict[str, Any]:
    return {**asdict(found), "perplexity": found.perplexity}


def _generative(found: Generative) -> dict[str, Any]:
    return {
        "protocol": found.protocol,
        "samples": [
            {
                **each.settings.model_dump(),
                **asdict(each.cost),
                **_text_figures(each.figures),
            }
            for each in found.samples
        ],
        "real": _text_figures(found.real),
        "matched_entropy": found.matched and asdict(found.matched),
    }


def _point(point: Point) -> dict[str, Any]:
    return {**point.record(), "generative": point.generative and _text_figures(point.generative)}
