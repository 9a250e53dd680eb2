"""What more evaluations buy: quality against network evaluations and seconds, over settings of the sampler.

Quality without a judge is the likelihood of held-out text under the sampler's own law, at its own number of
steps: exact where the order of positions follows from what is revealed, an upper bound where it is drawn, and
for ancestral steps under any noise, which are the reverse of a chain of as many. Of any other sampler nothing
of the kind is known, and only a generative scorer can tell.
"""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .data import Blocks
from .errors import DdcliError, unknown
from .evaluation import Bound, estimates
from .generative import Scorer, TextFigures, generation, real_texts
from .model import Model, SamplerSettings
from .replay import keeps_belief, no_likelihood, replayed
from .sampler import Ancestral
from .sampling import frames, samples

TIMED = 4  # samples that are drawn to measure evaluations and seconds, where no scorer asks for more
# by how much of the best figure a budget may miss it, for fewer evaluations
TOLERANCE = {"quality": 0.0, "balanced": 0.02, "fast": 0.1}


@dataclass(frozen=True)
class Quality:
    """Minus ln p(held-out text) under the law of a sampler."""

    bound: Bound
    kind: str  # "exact", or "bound": an upper bound, which need not be near


@dataclass(frozen=True)
class Point:
    """Settings of a sampler, what they cost, and how good they are."""

    settings: SamplerSettings
    nfe: float  # network evaluations of a sample
    seconds: float  # of a sample
    quality: Quality | None
    generative: TextFigures | None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        found = None if self.quality is None else self.quality.bound
        return {
            **self.settings.model_dump(),
            "nfe": self.nfe,
            "seconds": self.seconds,
            "figure": None if self.quality is None else self.quality.kind,
            "nats_per_token": None if found is None else found.nats_per_token,
            "stderr": None if found is None else found.stderr,
            "bits_per_char": None if found is None else found.bits_per_char,
        }


def read_sweep(
    sweep: str, model: Model, settings: SamplerSettings, *, length: int | None = None
) -> list[SamplerSettings]:
    """`steps=8,16 sampler=ancestral,confidence`: settings with every combination of the values named.

    Raises DdcliError for what is no setting of a sampler, no value of it, or cannot draw samples of a length.
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
    combinations = itertools.product(*axes.values())
    points = [settings.but(**dict(zip(axes, values, strict=True))) for values in combinations]
    for point in points:
        check_drawing(model, point, length)
    return points


def check_drawing(model: Model, settings: SamplerSettings, length: int | None) -> None:
    """Raise DdcliError, by the name of the sampler, where no sample of a length can be drawn by settings.

    The loop is made ready and not begun, so the network is not asked.
    """
    try:
        frames(model, length=length, **settings.model_dump())
    except DdcliError as error:
        raise DdcliError(f"samples by {settings.sampler}, {settings.steps} steps: {error}") from None


def point_at(
    model: Model,
    blocks: Blocks,
    settings: SamplerSettings,
    *,
    sequences: int,
    draws: int,
    seed: int = 0,
    batch_size: int = 16,
    length: int | None = None,
    scorer: Scorer | None = None,
    count: int = TIMED,
) -> Point:
    """Some settings, measured on `sequences` blocks, and on samples of a seed: always the same ones.

    draws: noisings of each block, for bounds. With a scorer, `count` samples of `length` are judged by it.
    """
    quality = quality_of(
        model, blocks, settings, sequences=sequences, draws=draws, seed=seed, batch_size=batch_size
    )
    if scorer is None:
        return Point(settings, *_cost(model, settings, length, seed), quality, None)
    like = real_texts(model, blocks, count=count, length=length)
    made = generation(model, scorer, settings, like, count=count, length=length, seed=seed)
    return Point(settings, made.nfe, made.seconds, quality, made.figures)


def quality_of(
    model: Model, blocks: Blocks, settings: SamplerSettings, *, draws: int, **options: Any
) -> Quality | None:
    """The likelihood of blocks under the law of a sampler, or its bound; None where neither is known."""
    if _is_replayable(model, settings):
        found = replayed(model, blocks, settings, **options)
        return Quality(found.bound(), "exact" if found.exact else "bound")
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
    return Quality(chain.bound(), "bound")


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
    return plain and not shared and not recalls and model.process.timesteps in (None, _steps(model, settings))


def _steps(model: Model, settings: SamplerSettings) -> int:
    """Of each block, in a network of blocks."""
    return math.ceil(settings.steps / model.parts)


def budgets(points: Sequence[Point]) -> dict[str, Point]:
    """By the name of a budget, the fewest evaluations whose figure is near enough to the best one.

    Points without a figure of their own are passed over (one has to have one): a scorer's perplexity can be
    had by repetition.
    """
    known = {point: point.quality.bound.nats_per_token for point in points if point.quality is not None}
    best = min(known.values())
    return {
        name: min(
            (point for point, nats in known.items() if nats <= best * (1 + tolerance)),
            key=lambda point: (point.nfe, known[point]),
        )
        for name, tolerance in TOLERANCE.items()
    }


def as_defaults(chosen: Mapping[str, Point]) -> dict[str, dict[str, Any]]:
    """Budgets as generation_config.json holds them."""
    return {name: point.record() for name, point in chosen.items()}


def _cost(model: Model, settings: SamplerSettings, length: int | None, seed: int) -> tuple[float, float]:
    """Evaluations and seconds of a sample; what a first call prepares is not counted."""
    chosen = settings.model_dump()
    list(samples(model, 1, length=length, seed=seed, **chosen))
    began = time.perf_counter()
    drawn = list(samples(model, TIMED, length=length, seed=seed, **chosen))
    seconds = (time.perf_counter() - began) / TIMED
    return sum(sample.nfe for sample in drawn) / TIMED, seconds
