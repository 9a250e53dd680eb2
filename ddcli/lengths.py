"""How long a gap is, by what the model makes of the text behind it. Bayes' rule, no training.

p(n | before, after) is in proportion to p(n) p(after | before, n tokens unseen). The likelihood is the chain
rule over the text behind the gap, the gap never opened: exact where beliefs are. (CAL, arXiv:2602.00476,
ranks lengths by how sure the network is of the gap itself instead, and has to take a bias out of that.)

Legend: B candidate lengths, L positions of a canvas, K tokens of evidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .denoiser import Denoiser
from .infilling import Encoded
from .model import Model
from .process import Process, at, pure_noise
from .randomness import LOG_ZERO, Streams, categorical

REACH = 16  # tokens of evidence on one side of a gap: with those known, text further on says next to nothing


@dataclass(frozen=True)
class Posterior:
    """Of the length of a gap, given the text around it."""

    lengths: Sequence[int]
    log_p: Tensor  # (B,) float64, nats
    nfe: int  # network evaluations it took

    def draw(self, temperature: float, u: Tensor) -> tuple[int, float]:
        """A length and its log p, for u in [0, 1). Temperature as for tokens: 0 is the likeliest length."""
        if temperature == 0:
            chosen = int(self.log_p.argmax())
        else:
            chosen = int(categorical(self.log_p / temperature, u))
        return self.lengths[chosen], float(self.log_p[chosen])


def posterior(
    model: Model,
    denoiser: Denoiser,
    encoded: Encoded,
    gap: int,
    chosen: Sequence[int],
    seed: int,
    counts: Mapping[int, int] | None = None,
) -> Posterior:
    """Of a gap of an encoded document, those before it having the lengths `chosen`.

    Every length is as likely beforehand; in a model of records, as likely as a record of the length it
    makes. Evidence is the text behind the gap, of a record before it too. Text further than REACH from
    it is left out, of a record unseen; so is what follows the next gap of unknown length.
    counts: how many records, of the label that is told, had each length; of a model of records.
    """
    candidates = encoded.candidates(gap)
    found = _record(model, encoded, gap, chosen, candidates, counts) or _text(
        model, encoded, gap, chosen, candidates
    )
    lengths, log_prior, ids, order, valid = found
    x0, where = torch.tensor(ids, device=model.device), torch.tensor(order, device=model.device)
    shown = None if valid is None else torch.tensor(valid, device=model.device)
    unseen = x0 == model.tokenizer.mask_id
    rng = Streams([seed] * len(lengths))  # the same noise for every length
    log_p = log_likelihood(model.process, denoiser, x0, where, unseen, rng, shown)
    return Posterior(lengths, (torch.tensor(log_prior) + log_p.cpu()).log_softmax(-1), order.size)


@torch.no_grad()
def log_likelihood(
    process: Process,
    denoiser: Denoiser,
    x0: Tensor,
    order: Tensor,
    unseen: Tensor,
    rng: Streams,
    valid: Tensor | None = None,
) -> Tensor:
    """ln p of the tokens of x0 (B, L) at the positions `order` (B, K), in this order, nats, (B,) float64.

    Given all others but the `unseen` (B, L) bool, which stay at clock 1. By the chain rule, K evaluations:
    the value itself for an exact belief, of any process, and no bound.
    """
    unknown = unseen.scatter(1, order, True)
    noise = pure_noise(process, x0, unknown.double(), rng)
    total = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for now in order.T:
        rows = torch.zeros_like(unknown).scatter(1, now[:, None], True)
        log_p0 = denoiser(torch.where(unknown, noise, x0), unknown.double(), rows, valid)
        total += at(log_p0.double(), x0[rows])
        unknown = unknown & ~rows
    return total


Question = tuple[Sequence[int], np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def _text(model: Model, encoded: Encoded, gap: int, chosen: Sequence[int], candidates: range) -> Question:
    """Lengths, log prior (B,), canvases (B, L), evidence (B, K), valid: of running text.

    Canvases are of one size: behind the evidence stands as much unseen text as the gap is shorter.
    """
    most, behind = candidates[-1], encoded.after(gap)
    count = min(len(behind), REACH, max(1, (model.length - most) // 2))
    room = max(0, model.length - most - count)
    before, behind = encoded.before(gap, chosen), behind[:count]
    before = before[max(0, len(before) - room) :]
    masks = np.full(most, encoded.mask_id)
    ids = np.stack([np.concatenate([before, masks[:n], behind, masks[n:]]) for n in candidates])
    evidence = len(before) + np.flatnonzero(_is_text(model, behind))
    return candidates, np.zeros(len(candidates)), ids, np.array(candidates)[:, None] + evidence, None


def _record(
    model: Model,
    encoded: Encoded,
    gap: int,
    chosen: Sequence[int],
    candidates: range,
    counts: Mapping[int, int] | None,
) -> Question | None:
    """The same of a whole record, whose length the network sees; None where there is none, or no room."""
    before, behind = encoded.before(gap, chosen).copy(), encoded.after(gap, to_the_end=True).copy()
    around = len(before) + len(behind)
    lengths = [n for n in candidates if around + n <= model.length]
    if not counts or not lengths:
        return None
    text_before, text_behind = (np.flatnonzero(_is_text(model, ids)) for ids in (before, behind))
    before[text_before[:-REACH]] = behind[text_behind[REACH:]] = encoded.mask_id
    ids = np.full((len(lengths), around + lengths[-1]), model.tokenizer.pad_id)
    masks = np.full(lengths[-1], encoded.mask_id)
    for row, n in zip(ids, lengths, strict=True):
        row[: around + n] = np.concatenate([before, masks[:n], behind])
    near, far = text_before[-REACH:], len(before) + text_behind[:REACH]
    order = [np.concatenate([near, far + n]) for n in lengths]
    valid = np.arange(ids.shape[1]) < around + np.array(lengths)[:, None]
    records = np.array([counts.get(around - 2 + n, 0) for n in lengths], float)
    with np.errstate(divide="ignore"):
        log_prior = np.log(records).clip(min=LOG_ZERO) if records.any() else np.zeros(len(lengths))
    return lengths, log_prior, ids, np.stack(order), valid


def _is_text(model: Model, ids: np.ndarray) -> np.ndarray:
    return model.process.vocabulary.is_text.numpy()[ids] & (ids != model.tokenizer.eos_id)
