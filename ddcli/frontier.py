"""What more evaluations buy: quality against network evaluations and seconds, over settings of the sampler.

Quality without a judge is the likelihood of held-out text under the sampler's own law, at its own number of
steps: exact where the order of positions follows from what is revealed, an upper bound where it is drawn, and
for ancestral steps under any noise, which are the reverse of a chain of as many. Of any other sampler nothing
of the kind is known, and only a generative scorer can tell.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .data import Blocks
from .errors import DdcliError, counted, unknown
from .evaluation import Bound, Clusters, estimates, two_errors
from .generative import Cost, Scorer, TextFigures, figures_of_samples, real_texts
from .model import Model, SamplerSettings
from .replay import keeps_belief, no_likelihood, replayed
from .sampler import Ancestral
from .sampling import frames

# by how much of the best figure a budget may miss it, for fewer evaluations
TOLERANCE = {"quality": 0.01, "balanced": 0.03, "fast": 0.1}
PLAIN = SamplerSettings()
SAID = ("sampler", "steps")  # of the settings, whatever they are


@dataclass(frozen=True)
class Quality:
    """Minus ln p(held-out text) under the law of a sampler."""

    bound: Bound
    kind: str  # "exact", or "bound": an upper bound, which need not be near
    clusters: Clusters  # what it is the mean of: the same text and noise at every point of a sweep


@dataclass(frozen=True)
class Point:
    """Settings of a sampler, what they cost, and how good they are."""

    settings: SamplerSettings
    paced: bool  # whether the number of steps has a say in it
    cost: Cost
    quality: Quality | None
    generative: TextFigures | None

    @property
    def name(self) -> str:
        return named(self.settings, paced=self.paced)

    @property
    def curve(self) -> str:
        """Of points that are told apart by their steps alone."""
        return named(self.settings, paced=False)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        found = None if self.quality is None else self.quality.bound
        return {
            **self.settings.model_dump(),
            "steps_matter": self.paced,
            "nfe": self.cost.nfe,
            "seconds": self.cost.seconds,
            "figure": None if self.quality is None else self.quality.kind,
            "nats_per_token": None if found is None else found.nats_per_token,
            "stderr": None if found is None else found.stderr,
            "bits_per_char": None if found is None else found.bits_per_char,
        }


def told(several: Iterable[SamplerSettings]) -> list[str]:
    """The settings by which some are told apart from each other and from the plain ones, SAID the first."""
    others = [name for name in SamplerSettings.model_fields if name not in SAID]
    all_of_them = list(several)
    return [*SAID, *(n for n in others if any(getattr(s, n) != getattr(PLAIN, n) for s in all_of_them))]


def named(settings: SamplerSettings, *, paced: bool = True) -> str:
    """`confidence, 8 steps, top k 5`: the sampler, steps where they pace it, and what is not plain."""
    others = [name for name in told([settings]) if name not in SAID]
    words = [settings.sampler, *([counted(settings.steps, "step")] if paced else [])]
    return ", ".join([*words, *(f"{n.replace('_', ' ')} {shown(settings, n)}" for n in others)])


def shown(settings: SamplerSettings, name: str) -> str:
    """The value of a setting, for people."""
    value = getattr(settings, name)
    if name == "cache" and value != PLAIN.cache:
        return f"{value} (approximate)"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def read_sweep(
    sweep: str, model: Model, settings: SamplerSettings, *, length: int | None = None
) -> list[SamplerSettings]:
    """`steps=8,16 sampler=ancestral,confidence`: settings with every combination of the values named.

    Combinations that come to the same are one: a value that is named twice, and steps of a sampler that goes
    at a pace of its own. Raises DdcliError for what is no setting of a sampler, no value of it, or cannot
    draw samples of a length.
    """
    axes: dict[str, list[str]] = {}
    for part in sweep.split():
        key, equals, values = part.partition("=")
        if not equals or not all(values.split(",")):
            raise DdcliError(f'--sweep takes settings such as "steps=8,16 sampler=ancestral", not {part!r}')
        if key not in SamplerSettings.model_fields:
            raise unknown("sampler setting", key, SamplerSettings.model_fields)
        if key in axes:
            raise DdcliError(f"{key} is swept twice; name all of its values once")
        axes[key] = values.split(",")
    if not axes:
        raise DdcliError('--sweep is empty; name settings such as "steps=8,16,32,64"')
    axes = dict(sorted(axes.items(), key=lambda axis: axis[0] == "steps"))  # those of a curve stand together
    combinations = itertools.product(*axes.values())
    points: dict[SamplerSettings, SamplerSettings] = {}
    for combination in combinations:
        point = settings.but(**dict(zip(axes, combination, strict=True)))
        check_drawing(model, point, length)
        points.setdefault(point if model.paced(point) else point.but(steps=PLAIN.steps), point)
    return list(points.values())


def check_drawing(model: Model, settings: SamplerSettings, length: int | None) -> None:
    """Raise DdcliError, by the name of the sampler, where no sample of a length can be drawn by settings.

    The loop is made ready and not begun, so the network is not asked.
    """
    try:
        frames(model, length=length, **settings.model_dump())
    except DdcliError as error:
        raise DdcliError(f"samples by {named(settings)}: {error}") from None


def point_at(
    model: Model,
    blocks: Blocks,
    settings: SamplerSettings,
    cost: Cost,
    *,
    sequences: int,
    draws: int,
    seed: int = 0,
    batch_size: int = 16,
    length: int | None = None,
    scorer: Scorer | None = None,
    count: int,
) -> Point:
    """Some settings of a known cost, measured on `sequences` blocks, always the same ones.

    draws: noisings of each block, for bounds. With a scorer, `count` samples of `length` are judged by it.
    """
    quality = quality_of(
        model, blocks, settings, sequences=sequences, draws=draws, seed=seed, batch_size=batch_size
    )
    figures = None
    if scorer is not None:
        like = real_texts(model, blocks, count=count, length=length)
        figures = figures_of_samples(model, scorer, settings, like, count=count, length=length, seed=seed)
    return Point(settings, model.paced(settings), cost, quality, figures)


def quality_of(
    model: Model, blocks: Blocks, settings: SamplerSettings, *, draws: int, **options: Any
) -> Quality | None:
    """The likelihood of blocks under the law of a sampler, or its bound; None where neither is known."""
    if _is_replayable(model, settings):
        found = replayed(model, blocks, settings, **options)
        return Quality(found.bound(), "exact" if found.exact else "bound", found.clusters())
    if not _is_chain(model, settings):
        return None
    chain = estimates(
        model.believed(settings),
        model.process,
        blocks,
        draws=draws,
        device=model.device,
        timesteps=_steps(model, settings),
        parts=model.parts,
        **options,
    )
    return Quality(chain.bound(), "bound", chain.clusters())


def has_quality(model: Model, settings: SamplerSettings) -> bool:
    """Whether `quality_of` knows anything of a sampler."""
    return _is_replayable(model, settings) or _is_chain(model, settings)


def _is_replayable(model: Model, settings: SamplerSettings) -> bool:
    return no_likelihood(model.process, settings, model.sampler(settings)) is None


def _is_chain(model: Model, settings: SamplerSettings) -> bool:
    """Whether the steps are the reverse of a chain of as many, whose bound is known."""
    plain = type(model.sampler(settings)) is Ancestral and settings.block is None and keeps_belief(settings)
    shared = bool(model.block and model.record_lengths)  # steps, out over each record's own length
    recalls = model.network is not None and model.network.config.self_conditioned  # what the path made of it
    return (
        plain and not shared and not recalls and (model.process.timesteps or 0) % _steps(model, settings) == 0
    )


def _steps(model: Model, settings: SamplerSettings) -> int:
    """Of each block, in a network of blocks."""
    return math.ceil(settings.steps / model.parts)


def check_within(
    model: Model, points: Sequence[SamplerSettings], costs: Sequence[Cost], within: float | None
) -> None:
    """Raise DdcliError where no budget could be chosen, by a figure and `within` so many seconds a sample."""
    able = [(cost.seconds, at) for at, cost in zip(points, costs, strict=True) if has_quality(model, at)]
    seconds, fastest = min(able, key=lambda each: each[0])
    if within is not None and seconds > within:
        raise DdcliError(
            f"no sampler of this sweep writes a sample within {within:g} s on this machine: the fastest, "
            f"{named(fastest)}, takes {seconds:.3g} s; allow more, or sweep fewer steps"
        )


def budgets(points: Sequence[Point], within: float | None = None) -> dict[str, Point]:
    """By the name of a budget, the fewest evaluations whose figure is near enough to the best one, of the
    points that take `within` so many seconds a sample (None: of all).

    Near enough is what is not worse by more than a share, with two standard errors of the difference counted
    in. So of few blocks, which tell little apart, the best itself is chosen. Points without a figure of their
    own are passed over (one has to have one): a scorer's perplexity can be had by repetition.
    """
    able = [
        point
        for point in points
        if point.quality is not None and (within is None or point.cost.seconds <= within)
    ]
    lowest, known = min(map(_nats, able)), list(zip(able, above_the_best(able), strict=True))
    return {
        name: min(
            (at for at, more in known if more is not None and _at_most(more, at) <= share * lowest),
            key=lambda at: (at.cost.nfe, _nats(at)),
        )
        for name, share in TOLERANCE.items()
    }


def _at_most(more: tuple[float, float], point: Point) -> float:
    """By how much a point is worse than the best, with two standard errors of that, if it is worse at all."""
    worse, stderr = more
    assert point.quality is not None
    return worse + two_errors(len(point.quality.clusters.tokens)) * stderr if worse > 0 else 0.0


def above_the_best(points: Sequence[Point]) -> list[tuple[float, float] | None]:
    """How much worse each point is than the best, nats per token, and the standard error of that; None
    where no figure is known.

    Figures of a sweep are of the same text under the same noise: the errors are those of paired differences.
    """
    best = min(points, key=_nats, default=None)
    return [
        point.quality.clusters.less(best.quality.clusters)
        if point.quality and best and best.quality
        else None
        for point in points
    ]


def _nats(point: Point) -> float:
    return math.inf if point.quality is None else point.quality.bound.nats_per_token


def as_defaults(chosen: Mapping[str, Point]) -> dict[str, dict[str, Any]]:
    """Budgets as generation_config.json holds them."""
    return {name: point.record() for name, point in chosen.items()}
