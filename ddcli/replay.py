"""The likelihood of a text under a sampler of masks: its choices replayed.

Where the positions that open depend on what is revealed alone, never on the tokens about to be drawn, the
probability with which a sampler writes a given text is a product of what its network believes on the way:
each position that opens costs -ln p(its token), and is then revealed (DUEL, arXiv:2603.01367). Where they are
drawn, whatever is believed, the same sum is an upper bound in the mean.

Legend: N blocks, L positions each; B sequences of a batch.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import Blocks
from .errors import DdcliError
from .evaluation import (
    Bound,
    Clusters,
    clustered,
    measure,
    predicted_in,
    ratio,
    spread_evenly,
    summarised,
    two_errors,
)
from .model import Canvas, Model, SamplerSettings, last_of
from .process import Absorbing, Autoregressive, Process, at
from .randomness import derive_seed
from .sampler import (
    SAMPLERS,
    Ancestral,
    Edit,
    Euler,
    FirstHitting,
    Greedy,
    Ordered,
    RandomOrder,
    Sampler,
    make_sampler,
)

BY_CHANCE = (Ancestral, FirstHitting, Euler, RandomOrder)  # what opens is drawn, whatever is believed
SELF_TEST_DRAWS = 16  # noisings of each block, for the bound that random order has to meet


@dataclass(frozen=True)
class Copyist:
    """Writes a text that is given, whatever the laws it is drawn from, and keeps account of the cost."""

    text: Tensor  # (B, L)
    nats: Tensor  # (B, L) float64, filled in on the way

    def __call__(self, law: Tensor, rows: Tensor, u: Tensor) -> Tensor:
        self.nats[rows] = -at(law.double().log_softmax(-1), self.text[rows])
        return self.text[rows]


@dataclass(frozen=True)
class Replayed:
    """What some blocks cost a sampler."""

    settings: SamplerSettings
    exact: bool  # -ln p(text) itself; else an upper bound on it, in the mean
    blocks: Blocks
    chosen: np.ndarray  # (N,) which of the blocks
    nats: np.ndarray  # (N, L), 0 where nothing is predicted
    nfe: np.ndarray  # (N,) network evaluations

    def bound(self) -> Bound:
        """The figures, with their error."""
        return summarised(self.nats, self.nats, self.blocks, self.chosen)

    def clusters(self) -> Clusters:
        """What its clusters cost."""
        return clustered(self.nats, self.blocks, self.chosen)

    @property
    def tokens_per_call(self) -> float:
        return self.bound().tokens / max(1, int(self.nfe.sum()))


def replayed(
    model: Model,
    blocks: Blocks,
    settings: SamplerSettings,
    *,
    tokens_per_call: int | None = None,
    sequences: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> Replayed:
    """What at most `sequences` blocks cost a sampler (None: all of them), evenly spread.

    tokens_per_call: so many positions at most are opened at each call, whatever the schedule, in as few calls
    as each block takes; None is the settings' own number of steps. Raises DdcliError where a sampler has no
    likelihood, or goes at a pace of its own.
    """
    sampler = model.sampler(settings)
    if reason := no_likelihood(model.process, settings, sampler):
        raise DdcliError(reason)
    chosen = spread_evenly(len(blocks), sequences)
    whole = blocks.take(chosen)
    running = whole.valid & ~whole.given
    if tokens_per_call is not None:
        if not isinstance(sampler, Ordered) or not has_pace(model.process, sampler):
            raise DdcliError(f"{settings.sampler} goes at a pace of its own; leave --tokens-per-call out")
        block = model.block or settings.block or int(running.sum(-1).max())
        parts = math.ceil(model.length / block) if model.block or settings.block else 1
        settings = settings.but(steps=parts * math.ceil(block / tokens_per_call))
        sampler = replace(sampler, at_once=tokens_per_call)
    nats, nfe = np.zeros(running.shape), np.zeros(len(chosen), dtype=np.int64)
    for start in range(0, len(chosen), batch_size):
        here = slice(start, start + batch_size)
        text = torch.tensor(whole.tokens[here], device=model.device)
        cost = torch.zeros(text.shape, dtype=torch.float64, device=model.device)
        seeds = [derive_seed(seed, "replay", int(block)) for block in chosen[here]]
        canvas = Canvas(whole.tokens[here], ~running[here], whole.valid[here].sum(-1).tolist(), seeds)
        frame = last_of(model.denoise(canvas, settings, sampler=sampler, pen=Copyist(text, cost)), None)
        nats[here], nfe[here] = cost.cpu().numpy(), frame.nfe.numpy()
    return Replayed(settings, not isinstance(sampler, BY_CHANCE), blocks, chosen, nats, nfe)


def no_likelihood(process: Process, settings: SamplerSettings, sampler: Sampler) -> str | None:
    """Why a text has no likelihood that could be replayed, for people; None where it has one."""
    if not isinstance(process, Absorbing | Autoregressive):
        kind = type(process).__name__.lower()
        return (
            f"{settings.sampler} can be replayed under absorbing noise alone, where a token stays once it is "
            f"written; this model's is {kind}"
        )
    if not process.forgets:
        return (
            "on this model's schedule some positions are visible from the start, and nobody knows which of a "
            "text's; it has no likelihood in order, but a bound"
        )
    if not _opens_blindly(sampler):
        able = ", ".join(name for name in SAMPLERS if _opens_blindly(make_sampler(name)))
        return f"what {settings.sampler} opens depends on the tokens it draws; replay one of: {able}"
    if not keeps_belief(settings):
        return "some texts are never written with top-k, top-p, a greedy tail, guidance or temperature 0"
    return None


def _opens_blindly(sampler: Sampler) -> bool:
    """Whether the positions that open do not depend on the tokens they are about to hold."""
    return isinstance(sampler, (Ordered, *BY_CHANCE)) and not isinstance(sampler, Greedy | Edit)


def keeps_belief(settings: SamplerSettings) -> bool:
    """Whether every token that the network believes possible may be drawn, and by that belief."""
    plain = settings.top_k is None and settings.top_p == 1 and not settings.greedy_tail
    return plain and settings.guidance == 1 and settings.temperature > 0


def has_pace(process: Process, sampler: Sampler) -> bool:
    """Whether it can be told how many positions to open at each call."""
    return isinstance(sampler, Ordered) and sampler.paced(process)


@dataclass(frozen=True)
class SelfTest:
    """Random order, one token a call, against the bound on the same blocks: in the mean they are the same."""

    blocks: int
    difference: float  # nats per token, random order less the bound
    stderr: float  # of the difference, paired by block; NaN of a single one

    @property
    def passed(self) -> bool | None:
        """Within what chance exceeds one time in twenty, of many blocks two standard errors; None where there
        is a single one."""
        if not math.isfinite(self.stderr):
            return None
        return abs(self.difference) <= two_errors(self.blocks) * self.stderr


def self_test(model: Model, blocks: Blocks, *, sequences: int, **options: Any) -> SelfTest:
    """Whether replaying and the bound agree (ARDM, arXiv:2110.02037, eq. 2, estimated in two ways).

    Options: seed and batch_size, as in `replayed`.
    """
    settings = SamplerSettings(sampler="random")
    found = replayed(model, blocks, settings, tokens_per_call=1, sequences=sequences, **options)
    bound = measure(model, blocks, draws=SELF_TEST_DRAWS, sequences=sequences, **options)
    counts = predicted_in(blocks, found.chosen).sum(-1)
    difference, stderr = ratio((found.nats - bound.strict).sum(-1), counts)
    return SelfTest(len(found.chosen), difference, stderr)
