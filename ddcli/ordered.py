"""The exact likelihood of a text under samplers that fill positions in an order of their own.

Which positions such a sampler fills next depends on what is revealed alone, never on the token drawn. So
the probability with which it writes a given text is a product of what its network believes on the way: its
choices are replayed, each chosen position costs -ln p(its token), and is then revealed (DUEL,
arXiv:2603.01367).

Legend: N blocks, L positions each; B sequences of a batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .data import Blocks
from .errors import DdcliError, unknown
from .evaluation import Bound, measure, ratio, spread_evenly, summarised
from .model import Canvas, Model, SamplerSettings, last_of
from .process import Absorbing, Autoregressive, Process, at
from .randomness import derive_seed
from .sampler import SAMPLERS, Ordered, Random
from .schedule import Linear, Schedule

SELF_TEST_DRAWS = 16  # noisings of each block, for the bound that random order has to meet


@dataclass(frozen=True)
class Replay:
    """A sampler that writes a text it is given, and keeps account of what that costs."""

    sampler: Ordered
    text: Tensor  # (B, L)
    nats: Tensor  # (B, L) float64, filled in on the way
    even: bool  # as many positions at each call, whatever the schedule

    def check(self, process: Process) -> None:
        self.sampler.check(process)

    def times(self, process: Process, steps: int, longest: int) -> Tensor:
        times = self.sampler.times(process, steps, longest)
        return even_shares(process.schedule, len(times) - 1) if self.even else times

    def rows(self, process: Process, xt: Tensor, s: Tensor, t: Tensor, u: Tensor) -> Tensor:
        return self.sampler.rows(process, xt, s, t, u)

    def step(
        self, process: Process, log_p0: Tensor, rows: Tensor, xt: Tensor, s: Tensor, t: Tensor, u: Tensor
    ) -> Tensor:
        chosen = self.sampler.choose(process, log_p0, rows, xt, s, t, u)
        law = log_p0[chosen[rows]].double().log_softmax(-1)
        self.nats[chosen] = -at(law, self.text[chosen])
        return torch.where(chosen, self.text, xt)


@dataclass(frozen=True)
class OrderedLikelihood:
    """What some blocks cost a sampler that fills them in order."""

    settings: SamplerSettings
    exact: bool  # -ln p(text) itself; of random order its mean over orders, an upper bound
    blocks: Blocks
    chosen: np.ndarray  # (N,) which of the blocks
    nats: np.ndarray  # (N, L), 0 where nothing is predicted
    nfe: np.ndarray  # (N,) network evaluations

    def bound(self) -> Bound:
        return summarised(self.nats, self.nats, self.blocks, self.chosen)

    @property
    def tokens_per_call(self) -> float:
        return self.bound().tokens / max(1, int(self.nfe.sum()))


def ordered_likelihood(
    model: Model,
    blocks: Blocks,
    settings: SamplerSettings,
    *,
    tokens_per_call: int | None = None,
    sequences: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> OrderedLikelihood:
    """Minus ln of the probability with which a sampler writes at most `sequences` blocks (None: all of them).

    settings: of the sampler; with `tokens_per_call` its steps are as many as fill so many tokens at most at
    each call. Raises DdcliError for a sampler without an order, and noise that leaves tokens to change.
    """
    sampler = find_order(model.process, settings.sampler)
    if settings.top_p < 1:
        raise DdcliError("with --top-p below 1 some texts are never written, and have no likelihood")
    chosen = spread_evenly(len(blocks), sequences)
    whole = blocks.take(chosen)
    running = whole.valid & ~whole.given
    if tokens_per_call is not None:
        if tokens_per_call > 1 and isinstance(model.process, Autoregressive):
            raise DdcliError("an autoregressive model writes one token a call; leave --tokens-per-call out")
        span = model.block or int(running.sum(-1).max())
        settings = settings.but(steps=model.parts * math.ceil(span / tokens_per_call))
    nats, nfe = np.zeros(running.shape), np.zeros(len(chosen), dtype=np.int64)
    for start in range(0, len(chosen), batch_size):
        here = slice(start, start + batch_size)
        tokens, sizes = whole.tokens[here], whole.valid[here].sum(-1).tolist()
        text = torch.tensor(tokens, device=model.device)
        cost = torch.zeros(text.shape, dtype=torch.float64, device=model.device)
        seeds = [derive_seed(seed, "order", int(block)) for block in chosen[here]]
        canvas = Canvas(tokens, ~running[here], sizes, seeds)
        replay = Replay(sampler, text, cost, even=tokens_per_call is not None)
        frame = last_of(model.denoise(canvas, settings, sampler=replay), None)
        nats[here], nfe[here] = cost.cpu().numpy(), frame.nfe.numpy()
    exact = not isinstance(sampler, Random)
    return OrderedLikelihood(settings, exact, blocks, chosen, nats, nfe)


def find_order(process: Process, name: str) -> Ordered:
    """A sampler that fills positions in order, by its name.

    Raises DdcliError for any other, and for noise that leaves tokens to change.
    """
    orders = {name: kind for name, kind in SAMPLERS.items() if has_order(name)}
    if name not in SAMPLERS:
        raise unknown("order", name, orders)
    if name not in orders:
        raise DdcliError(
            f"{name!r} fills positions in no order of its own, so its likelihood is not known; "
            f"--order is one of: {', '.join(orders)}"
        )
    if not isinstance(process, Absorbing | Autoregressive):
        kind = type(process).__name__.lower()
        raise DdcliError(
            f"order {name!r} needs absorbing noise, where a token stays once it is written; "
            f"this model's is {kind}"
        )
    sampler = SAMPLERS[name]()
    sampler.check(process)
    assert isinstance(sampler, Ordered)
    return sampler


def has_order(name: str) -> bool:
    """Whether a sampler of this name fills positions in an order that depends on what is revealed alone."""
    return issubclass(SAMPLERS[name], Ordered)


@dataclass(frozen=True)
class SelfTest:
    """Random order, one token a call, against the bound on the same blocks: in the mean they are the same."""

    blocks: int
    difference: float  # nats per token, random order less the bound
    stderr: float  # of the difference, paired by block

    @property
    def passed(self) -> bool:
        """Within two standard errors; chance alone exceeds them one time in twenty."""
        return abs(self.difference) <= 2 * self.stderr


def self_test(
    model: Model, blocks: Blocks, *, sequences: int, seed: int = 0, batch_size: int = 16
) -> SelfTest:
    """Whether replaying and the bound agree (ARDM, arXiv:2110.02037, eq. 2, estimated in two ways)."""
    options = {"sequences": sequences, "seed": seed, "batch_size": batch_size}
    settings = SamplerSettings(sampler="random")
    replayed = ordered_likelihood(model, blocks, settings, tokens_per_call=1, **options)
    bound = measure(model, blocks, draws=SELF_TEST_DRAWS, **options)
    counts = (replayed.nats != 0).sum(-1)
    difference, stderr = ratio((replayed.nats - bound.strict).sum(-1), counts)
    return SelfTest(len(replayed.chosen), difference, stderr)


def even_shares(schedule: Schedule, steps: int) -> Tensor:
    """Times at which 1, (n-1)/n, ..., 0 of all positions are masked, (steps + 1,), by bisection."""
    share = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    if schedule == Linear():
        return share
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(60):
        middle = (low + high) / 2
        below = schedule.lost(middle) < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(share == 0, 0.0, torch.where(share == 1, 1.0, high))
