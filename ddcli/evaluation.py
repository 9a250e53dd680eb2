"""How good is a model: the bound on -ln p(text), with its standard error."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .data import Blocks
from .denoiser import Denoiser
from .likelihood import nelbo
from .process import Autoregressive, Process
from .randomness import Streams, derive_seed
from .schedule import stratified


@dataclass(frozen=True)
class Bound:
    """Minus the strict ELBO of a text: an upper bound on its negative log-likelihood.

    Strict: prior and reconstruction are in it. `literature_nats_per_token` is what papers on continuous time
    report in its place, the integral over [0.001, 1] alone.
    """

    nats_per_token: float
    bits_per_char: float
    literature_nats_per_token: float
    stderr: float  # of nats_per_token, clustered
    clusters: int  # documents, or blocks where there is a single document
    tokens: int  # predicted ones

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(min(self.nats_per_token, 700.0))


def bound(
    denoiser: Denoiser,
    process: Process,
    blocks: Blocks,
    *,
    sequences: int,
    draws: int,
    seed: int = 0,
    batch_size: int = 16,
    device: torch.device | None = None,
    timesteps: int | None = None,
    parts: int = 1,
) -> Bound:
    """The bound on at most `sequences` blocks, evenly spread, each noised `draws` times.

    Blocks and noise depend on (seed, block, draw) alone: every call asks the same questions, so that two
    models, or one model at two steps, are compared on equal terms. Times are stratified over all draws.
    timesteps: T of the chain whose bound is asked for; None in continuous time. parts: into how many a block
    is divided by a network of blocks, each of which is asked about given the clean ones before it.
    """
    draws = 1 if isinstance(process, Autoregressive) else draws  # whose cost holds no chance
    chosen = np.unique(np.linspace(0, len(blocks.tokens) - 1, min(sequences, len(blocks.tokens))).astype(int))
    asked = [(block, draw) for draw in range(draws) for block in chosen]
    # the strata are dealt out by a fixed shuffle, lest the first blocks always get the small times
    spread = np.random.default_rng(derive_seed(seed, "strata")).permutation(len(asked) * parts)
    u = Streams([derive_seed(seed, "times", i) for i in range(len(asked))]).uniform(parts)
    u = stratified(u.flatten())[spread].view(u.shape)
    strict, literature = np.zeros((2, len(chosen), blocks.tokens.shape[1]))
    place = {block: i for i, block in enumerate(chosen)}
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        batch = blocks.take(np.array([block for block, _ in part]))
        rng = Streams([derive_seed(seed, "validation", block, draw) for block, draw in part])
        valid = torch.tensor(batch.valid, device=device)
        with torch.no_grad():
            cost = nelbo(
                process,
                denoiser,
                torch.tensor(batch.tokens, device=device),
                valid & ~torch.tensor(batch.given, device=device),
                u[start : start + batch_size],
                rng,
                None if valid.all() else valid,
                timesteps=timesteps,
            )
        rows = [place[block] for block, _ in part]
        np.add.at(strict, rows, cost.strict.cpu().numpy() / draws)
        np.add.at(literature, rows, cost.literature.cpu().numpy() / draws)
    return _summarise(strict, literature, blocks, chosen)


def _summarise(nats: np.ndarray, literature: np.ndarray, blocks: Blocks, chosen: np.ndarray) -> Bound:
    """Mean cost per predicted token, and its error as a ratio of sums over independent clusters."""
    batch = blocks.take(chosen)
    predicted = batch.valid & ~batch.given
    owner = blocks.document[chosen]
    if len(np.unique(owner[predicted])) == 1:
        owner = np.broadcast_to(np.arange(len(chosen))[:, None], predicted.shape)
    _, cluster = np.unique(owner[predicted], return_inverse=True)
    cost, tokens = np.bincount(cluster, nats[predicted]), np.bincount(cluster)
    mean = cost.sum() / tokens.sum()
    n = len(tokens)
    spread = ((cost - mean * tokens) ** 2).sum() * n / max(n - 1, 1)
    return Bound(
        nats_per_token=float(mean),
        bits_per_char=float(mean / math.log(2) * blocks.predicted / blocks.characters),
        literature_nats_per_token=float(literature[predicted].sum() / tokens.sum()),
        stderr=float(math.sqrt(spread) / tokens.sum()) if n > 1 else math.nan,
        clusters=n,
        tokens=int(tokens.sum()),
    )
