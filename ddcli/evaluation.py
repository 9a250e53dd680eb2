"""How good is a model: the bound on -ln p(text), with its standard error.

Legend: N blocks are asked about, L positions each. Predicted positions are those neither given nor padding.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .data import Blocks
from .denoiser import Denoiser
from .device import memory_kept
from .likelihood import BINS, nelbo
from .model import Model
from .process import Absorbing, Autoregressive, Process
from .randomness import Streams, derive_seed
from .schedule import stratified
from .world import ALONE, World

TOKENS = 2**12  # of a batch of short blocks, which is read faster than 16 of them
TWO_ERRORS_OF_FEW = (13.97, 4.53, 3.31, 2.87)  # of one to four degrees of freedom
AT_ONCE = 2**25  # log-probabilities of a batch, in float64, if more than one block


@dataclass(frozen=True)
class Bound:
    """Minus the strict ELBO of a text: an upper bound on its negative log-likelihood.

    Strict: prior and reconstruction are in it. `literature_nats_per_token` is what papers on continuous time
    report in its place, the integral over [0.001, 1] alone. Bits are of the whole text's characters and bytes
    a token, even where a part of its blocks was measured.
    """

    nats_per_token: float
    bits_per_char: float
    literature_nats_per_token: float
    stderr: float  # of nats_per_token, clustered
    clusters: int  # documents, or blocks where there is a single document
    tokens: int  # predicted ones
    bits_per_byte: float = math.nan  # of the text as UTF-8

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(min(self.nats_per_token, 700.0))


@dataclass(frozen=True)
class Share:
    """The part of a bound that belongs to a range of time, or of the share of masked tokens."""

    low: float
    high: float
    nats: float  # by time: per token and unit of time; by masks: per masked token; NaN where no draw fell
    share: float  # of the bound; 0 where no draw fell


@dataclass(frozen=True)
class Estimates:
    """What each position of some blocks costs, the mean over draws, and what the cost is made of."""

    blocks: Blocks
    chosen: np.ndarray  # (N,) which of the blocks
    strict: np.ndarray  # (N, L) nats, 0 where nothing is predicted
    literature: np.ndarray  # (N, L) likewise
    draws: int  # noisings of each block
    exact: bool  # the likelihood itself, in which chance has no part
    prior: float  # nats of all positions: what is paid at t = 1
    time: np.ndarray | None  # (BINS,) nats of all positions by time, NaN where no draw fell; None: no times
    masks: np.ndarray | None  # (BINS, 3) by share masked: nats, nats of masked tokens, masked tokens

    def bound(self) -> Bound:
        """The figures, with their error."""
        return summarised(self.strict, self.literature, self.blocks, self.chosen)

    def clusters(self) -> "Clusters":
        """What its clusters cost."""
        return clustered(self.strict, self.blocks, self.chosen)

    def by_time(self) -> list[Share]:
        """The bound in equal ranges of time; with `prior` they make up all of it."""
        total = self.strict.sum()
        nats = np.array([]) if self.time is None else self.time
        tokens = int(predicted_in(self.blocks, self.chosen).sum())
        return [
            Share(*_range(i), float(n * BINS / tokens), float(np.nan_to_num(n) / total))
            for i, n in enumerate(nats)
        ]

    def by_masks(self) -> list[Share]:
        """What a masked token costs, in equal ranges of the share of masked tokens; [] if not counted."""
        total = self.strict.sum()
        rows = np.array([]) if self.masks is None else self.masks
        return [
            Share(*_range(i), float(plain / count) if count else math.nan, float(nats / total))
            for i, (nats, plain, count) in enumerate(rows)
        ]


def bound(denoiser: Denoiser, process: Process, blocks: Blocks, **options: Any) -> Bound:
    """The bound with its error. Options: those of `estimates`."""
    return estimates(denoiser, process, blocks, **options).bound()


@memory_kept(torch.device("cpu"))
def estimates(
    denoiser: Denoiser,
    process: Process,
    blocks: Blocks,
    *,
    sequences: int | None = None,
    draws: int,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | None = None,
    timesteps: int | None = None,
    parts: int = 1,
    world: World = ALONE,
) -> Estimates:
    """What at most `sequences` blocks cost, evenly spread (None: all), each noised `draws` times.

    Blocks and noise depend on (seed, block, draw) alone: every call asks the same questions, so that two
    models, or one model at two steps, are compared on equal terms. Times are stratified over all draws.
    timesteps: T of the chain whose bound is asked for; None in continuous time. parts: into how many a block
    is divided by a network of blocks, each of which is asked about given the clean ones before it. world:
    processes that are called alike, and each ask a share.
    """
    length = blocks.tokens.shape[1]
    batch_size = batch_size or max(16, TOKENS // length)
    batch_size = min(batch_size, max(1, AT_ONCE // (length * process.vocabulary.size)))
    exact = isinstance(process, Autoregressive) or (
        isinstance(process, Absorbing) and process.forgets and parts == length
    )
    exact = exact and not timesteps
    draws = 1 if exact else draws
    chosen = spread_evenly(len(blocks), sequences)
    asked = [(block, draw) for draw in range(draws) for block in chosen]
    # the strata are dealt out by a fixed shuffle, lest the first blocks always get the small times
    spread = np.random.default_rng(derive_seed(seed, "strata")).permutation(len(asked) * parts)
    u = Streams([derive_seed(seed, "times", i) for i in range(len(asked))]).uniform(parts)
    u = stratified(u.flatten())[spread].view(u.shape)
    strict, literature = np.zeros((2, len(chosen), length))
    time, masks = np.zeros((len(asked), BINS)), np.zeros((len(asked), BINS, 3))
    prior, drawn = np.zeros(len(asked)), np.zeros(BINS)
    place = {block: i for i, block in enumerate(chosen)}
    for start in range(0, len(asked), batch_size)[world.rank :: world.size]:
        part = asked[start : start + batch_size]
        batch = blocks.take(np.array([block for block, _ in part]))
        rng = Streams([derive_seed(seed, "validation", block, draw) for block, draw in part])
        valid = torch.tensor(batch.valid, device=device)
        running = valid & ~torch.tensor(batch.given, device=device)
        with torch.no_grad():
            cost = nelbo(
                process,
                denoiser,
                torch.tensor(batch.tokens, device=device),
                running,
                u[start : start + batch_size],
                rng,
                None if valid.all() else valid,
                timesteps=timesteps,
            )
        rows = [place[block] for block, _ in part]
        np.add.at(strict, rows, cost.strict.cpu().numpy() / draws)
        np.add.at(literature, rows, cost.literature.cpu().numpy() / draws)
        here = slice(start, start + len(part))
        prior[here] = cost.prior.sum(-1).cpu().numpy()
        nats = (cost.strict - cost.prior).view(len(part), parts, -1).sum(-1).cpu().numpy()  # (B, G)
        if cost.when is not None:
            when = cost.when.cpu().numpy()
            time[here] = (nats[..., None] * when).sum(1)
            drawn += when.sum((0, 1))
        if cost.masked is not None:
            share = cost.masked.cpu().numpy()
            count = share * running.view(len(part), parts, -1).sum(-1).cpu().numpy()
            which = np.clip(np.ceil(share * BINS - 1e-9).astype(int) - 1, 0, None)
            each = np.stack([nats, nats * share, count], -1)  # (B, G, 3)
            masks[here] = (np.eye(BINS)[which][..., None] * each[..., None, :]).sum(1)
    strict, literature, prior, drawn, time, masks = (
        world.total(found) for found in (strict, literature, prior, drawn, time.sum(0), masks.sum(0))
    )
    return Estimates(
        blocks,
        chosen,
        strict,
        literature,
        draws,
        exact,
        float(prior.sum() / draws),
        np.where(drawn > 0, time / draws, np.nan) if drawn.any() else None,
        masks / draws if masks.any() else None,
    )


def measure(model: Model, blocks: Blocks, **options: Any) -> Estimates:
    """What blocks cost a model, as it was trained: in continuous time, or in its T steps. Options: those of
    `estimates`."""
    return estimates(
        model.denoiser,
        model.process,
        blocks,
        device=model.device,
        timesteps=model.timesteps,
        parts=model.parts,
        **options,
    )


def spread_evenly(count: int, most: int | None) -> np.ndarray:
    """At most `most` of `count` things, evenly spread, (n,) ascending; None: all of them."""
    return np.unique(np.linspace(0, count - 1, min(most or count, count)).astype(int))


@dataclass(frozen=True)
class Clusters:
    """What independent parts of some blocks cost: documents, or blocks where there is a single document."""

    nats: np.ndarray  # (C,)
    tokens: np.ndarray  # (C,) predicted ones

    def mean(self) -> tuple[float, float]:
        """Nats per predicted token, and the standard error of that."""
        return ratio(self.nats, self.tokens)

    def less(self, other: "Clusters") -> tuple[float, float]:
        """What they cost more than by another measure of the same text, nats per token; the error of the
        difference, paired."""
        return ratio(self.nats - other.nats, self.tokens)


def clustered(nats: np.ndarray, blocks: Blocks, chosen: np.ndarray) -> Clusters:
    """Costs (N, L) of blocks numbered `chosen` (N,), summed over their clusters."""
    predicted = predicted_in(blocks, chosen)
    owner = blocks.document(chosen)
    if len(np.unique(owner[predicted])) == 1:
        owner = np.broadcast_to(np.arange(len(chosen))[:, None], predicted.shape)
    _, cluster = np.unique(owner[predicted], return_inverse=True)
    return Clusters(np.bincount(cluster, nats[predicted]), np.bincount(cluster))


def summarised(strict: np.ndarray, literature: np.ndarray, blocks: Blocks, chosen: np.ndarray) -> Bound:
    """Mean cost per predicted token of costs (N, L), nats, and its error as a ratio of sums over clusters."""
    clusters = clustered(strict, blocks, chosen)
    mean, stderr = clusters.mean()
    bits = mean / math.log(2) * blocks.predicted
    tokens = int(clusters.tokens.sum())
    return Bound(
        nats_per_token=mean,
        bits_per_char=bits / blocks.characters,
        literature_nats_per_token=float(literature[predicted_in(blocks, chosen)].sum() / tokens),
        stderr=stderr,
        clusters=len(clusters.tokens),
        tokens=tokens,
        bits_per_byte=bits / blocks.utf8_bytes,
    )


def ratio(costs: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Sum of costs (C,) over that of counts (C,), independent clusters; its standard error, NaN of one."""
    n, total = len(counts), counts.sum()
    mean = costs.sum() / total
    spread = ((costs - mean * counts) ** 2).sum() * n / max(n - 1, 1)
    return float(mean), float(math.sqrt(spread) / total) if n > 1 else math.nan


def two_errors(clusters: int) -> float:
    """As many standard errors of few clusters as are as sure as two of many: Student's t of n - 1 degrees.

    For five and more by Fisher's expansion (Abramowitz and Stegun, 26.7.5).
    """
    n = max(1, clusters - 1)
    return (
        TWO_ERRORS_OF_FEW[n - 1] if n <= len(TWO_ERRORS_OF_FEW) else 2 * (1 + 5 / (4 * n) + 147 / (96 * n**2))
    )


def predicted_in(blocks: Blocks, chosen: np.ndarray) -> np.ndarray:
    """Which positions of the blocks numbered `chosen` (N,) are predicted, (N, L) bool."""
    batch = blocks.take(chosen)
    return batch.valid & ~batch.given


def _range(place: int) -> tuple[float, float]:
    return place / BINS, (place + 1) / BINS
