"""How long a gap is, by what the model makes of the text behind it. Bayes' rule, no training.

p(n | before, after) is in proportion to p(n) p(after | before, n tokens unseen). The likelihood is the chain
rule over the text behind the gap, the gap never opened: exact where beliefs are. (CAL, arXiv:2602.00476,
ranks lengths by how sure the network is of the gap itself instead, and has to take a bias out of that.)

Legend: B candidate lengths, L positions of a canvas, K tokens of evidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .denoiser import Denoiser
from .device import memory_kept
from .infilling import FEW, Encoded
from .model import Model
from .process import Process, at, pure_noise
from .randomness import LOG_ZERO, Streams, categorical
from .shaping import Among, Shaped

GIVEN_UP = 0.02  # of the probability: what may be lost by giving up lengths before all evidence is in
REACH = 16  # tokens of evidence on one side of a gap: with those known, text further on says next to nothing


@dataclass(frozen=True)
class Posterior:
    """Of the length of a gap, given the text around it."""

    lengths: Sequence[int]
    log_p: Tensor  # (B,) float64, nats
    nfe: int  # network evaluations it took

    def draw(self, temperature: float, u: Tensor) -> tuple[int, float]:
        """A length and its log p, for u in [0, 1). Temperature as for tokens, but not 0."""
        chosen = int(categorical(self.log_p / temperature, u))
        return self.lengths[chosen], float(self.log_p[chosen])


@dataclass(frozen=True)
class Question:
    """What is to be weighed: the same text around a gap, with one canvas for each of its lengths."""

    lengths: Sequence[int]
    log_prior: np.ndarray  # (B,) nats
    ids: np.ndarray  # (B, L)
    start: int  # where the gap begins
    order: np.ndarray  # (B, K) positions of the evidence, as it is asked about
    valid: np.ndarray | None = None  # (B, L) bool: False at padding
    fits: Sequence[Mapping[int, Tensor]] = ()  # (B,) by position, which ids alone it may hold, (V,) bool

    @property
    def calls(self) -> tuple[int, int]:
        """Network evaluations, at least and at most."""
        lengths, evidence = int((self.log_prior > LOG_ZERO).sum()), self.order.shape[1]
        most = evidence + any(self.fits)
        return (lengths * min(most, 1), lengths * most) if lengths > 1 else (0, 0)


def ask(
    model: Model,
    encoded: Encoded,
    gap: int,
    chosen: Sequence[int],
    counts: Mapping[int, int] | None = None,
) -> Question:
    """About a gap of an encoded document, those before it having the lengths `chosen`.

    Every length is as likely beforehand; in a model of records, as likely as a record of the length it
    makes. Evidence is the text behind the gap, of a record before it too. Text further than REACH from
    it is left out, of a record unseen; so is what follows the next gap of unknown length.
    counts: how many records, of the label that is told, had each length; of a model of records.
    """
    candidates = encoded.candidates(gap)
    question = _record(model, encoded, gap, chosen, candidates, counts) or _text(
        model, encoded, gap, chosen, candidates
    )
    fits = [
        {question.start + place: torch.from_numpy(ids) for place, ids in encoded.fitting(gap, n).items()}
        for n in question.lengths
    ]
    return replace(question, fits=fits)


@memory_kept(torch.device("cpu"))
def posterior(model: Model, denoiser: Denoiser, asked: Question, seed: int) -> Posterior:
    """The answer. Lengths that were GIVEN_UP on the way have no share in it.

    The last of the evidence is that the ends of the gap hold what fits there.
    """
    x0, where = torch.tensor(asked.ids, device=model.device), torch.tensor(asked.order, device=model.device)
    shown = None if asked.valid is None else torch.tensor(asked.valid, device=model.device)
    unseen = x0 == model.tokenizer.mask_id
    rng = Streams([seed] * len(asked.lengths))  # the same noise for every length
    prior = torch.tensor(asked.log_prior, device=model.device)
    log_p, calls = log_likelihood(model.process, denoiser, x0, where, unseen, rng, shown, prior)
    left = (log_p > LOG_ZERO).nonzero()[:, 0].tolist()
    if any(asked.fits) and len(left) > 1:
        seen = pure_noise(model.process, x0, unseen.double(), Streams([seed] * len(x0)))
        for row in left:
            now = slice(row, row + 1)
            log_p[row] += _log_fits(
                denoiser, seen[now], unseen[now], asked.fits[row], None if shown is None else shown[now]
            )
        calls += len(left)
    return Posterior(asked.lengths, log_p.cpu().log_softmax(-1), calls)


@torch.no_grad()
def _log_fits(
    denoiser: Denoiser, seen: Tensor, unseen: Tensor, fits: Mapping[int, Tensor], valid: Tensor | None
) -> Tensor:
    """ln p that positions of a canvas (1, L) hold what `fits`, as if they knew nothing of each other."""
    places = sorted(fits)
    rows = torch.zeros_like(unseen)
    rows[0, places] = True
    log_p0 = denoiser(seen, unseen.double(), rows, valid).double()
    each = [log_p0[i, fits[place].to(log_p0.device)].logsumexp(0) for i, place in enumerate(places)]
    return torch.stack(each).sum()


@memory_kept(torch.device("cpu"))
def likeliest(model: Model, denoiser: Denoiser, asked: Question, answer: Posterior, seed: int) -> Posterior:
    """The answer cut to the length of the likeliest filling, with the evaluations it took to find that.

    Which need not be the likeliest length, if of that there are many fillings, each of little probability.
    Fillings are written greedily, and ln p(n) + ln p(filling | n) decides.
    """
    x0 = torch.tensor(asked.ids, device=model.device)
    valid = None if asked.valid is None else torch.tensor(asked.valid, device=model.device)
    place = torch.arange(x0.shape[1], device=model.device) - asked.start
    gap = (place >= 0) & (place < torch.tensor(asked.lengths, device=model.device)[:, None])
    unseen = (x0 == model.tokenizer.mask_id) & ~gap
    rng = Streams([seed] * len(x0))
    found, _, calls = best_filling(
        model.process, denoiser, x0, gap, unseen, rng, answer.log_p, valid, asked.fits
    )
    return Posterior([answer.lengths[found]], answer.log_p[found][None], answer.nfe + calls)


@torch.no_grad()
def best_filling(
    process: Process,
    denoiser: Denoiser,
    x0: Tensor,
    gap: Tensor,
    unseen: Tensor,
    rng: Streams,
    log_p: Tensor,
    valid: Tensor | None = None,
    fits: Sequence[Mapping[int, Tensor]] = (),
) -> tuple[int, float, int]:
    """The row whose `gap` (B, L) bool has the likeliest filling, log_p (B,) of the row added; that sum, nats;
    and the evaluations it took. fits: see `Question`; a filling is one of those that do.

    A filling is written token by token, the surest position first, by its likeliest token, given all others
    but the `unseen`: its ln p is the `log_likelihood` of what comes out. Each token lowers the sum, so it is
    always the row of the highest one that goes on, and the first to come to its end is the best.
    """
    x0, closed, total, calls = x0.clone(), gap.clone(), log_p.clone(), 0
    noise = pure_noise(process, x0, (gap | unseen).double(), rng)
    while bool(closed[row := int(total.argmax())].any()):
        now = slice(row, row + 1)
        unknown, shown = closed[now] | unseen[now], None if valid is None else valid[now]
        seen = torch.where(unknown, noise[now], x0[now])
        believed = Shaped(denoiser, Among([fits[row]])) if fits else denoiser
        sure, token = believed(seen, unknown.double(), closed[now], shown).double().max(-1)
        first = int(sure.argmax())
        place = closed[row].nonzero()[first]
        x0[row, place], closed[row, place] = token[first], False
        total[row] += sure[first].cpu()
        calls += 1
    return row, total[row].item(), calls


@torch.no_grad()
def log_likelihood(
    process: Process,
    denoiser: Denoiser,
    x0: Tensor,
    order: Tensor,
    unseen: Tensor,
    rng: Streams,
    valid: Tensor | None = None,
    prior: Tensor | None = None,
) -> tuple[Tensor, int]:
    """ln p of the tokens of x0 (B, L) at the positions `order` (B, K), in this order, nats, (B,) float64.

    Given all others but the `unseen` (B, L) bool, which stay at clock 1. By the chain rule, one evaluation a
    token, and how many those were in all: the value itself for an exact belief, of any process, and no bound.
    With a `prior` (B,), which is added, rows that are unlikely are given up on the way, at LOG_ZERO.
    """
    unknown = unseen.scatter(1, order, True)
    noise = pure_noise(process, x0, unknown.double(), rng)
    total = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    total = total if prior is None else total + prior
    running, calls = total > LOG_ZERO, 0
    for number, now in enumerate(order.T):
        if prior is not None and number:
            total = total.masked_fill(_unlikely(total, GIVEN_UP / order.shape[1]), LOG_ZERO)
            running = total > LOG_ZERO
        if prior is not None and int(running.sum()) == 1:
            break
        rows = torch.zeros_like(unknown).scatter(1, now[:, None], True)
        seen = torch.where(unknown, noise, x0)[running]
        shown = None if valid is None else valid[running]
        log_p0 = denoiser(seen, unknown[running].double(), rows[running], shown)
        total[running] += at(log_p0.double(), x0[rows][running])
        calls += int(running.sum())
        unknown = unknown & ~rows
    return total, calls


def _unlikely(log_p: Tensor, share: float) -> Tensor:
    """The least likely of some rows, log_p (B,) up to a constant: as many as have at most a `share` together.

    The probability of a length is a martingale: more evidence changes it, but not in the mean. So what giving
    up a length costs in the end is, in the mean, its probability now.
    """
    law, order = log_p.softmax(-1).sort()
    return torch.zeros_like(law, dtype=torch.bool).scatter(-1, order, law.cumsum(-1) <= share)


def _text(model: Model, encoded: Encoded, gap: int, chosen: Sequence[int], candidates: range) -> Question:
    """About a gap in running text.

    Canvases are of one size: behind the evidence stands as much unseen text as the gap is shorter.
    """
    most, behind = candidates[-1], encoded.after(gap)
    count = min(len(behind), REACH, max(FEW, (model.length - most) // 2), model.length - most)
    room = max(0, model.length - most - count)
    before, behind = encoded.before(gap, chosen), behind[:count]
    before = before[max(0, len(before) - room) :]
    masks = np.full(most, encoded.mask_id)
    ids = np.stack([np.concatenate([before, masks[:n], behind, masks[n:]]) for n in candidates])
    evidence = len(before) + np.flatnonzero(_is_text(model, behind))
    order = np.array(candidates)[:, None] + evidence
    return Question(candidates, np.zeros(len(candidates)), ids, len(before), order)


def _record(
    model: Model,
    encoded: Encoded,
    gap: int,
    chosen: Sequence[int],
    candidates: range,
    counts: Mapping[int, int] | None,
) -> Question | None:
    """About a gap in a whole record, whose length the network sees; None where there is none, or no room."""
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
    return Question(lengths, log_prior, ids, len(before), np.stack(order), valid)


def _is_text(model: Model, ids: np.ndarray) -> np.ndarray:
    return model.process.vocabulary.is_text.numpy()[ids] & (ids != model.tokenizer.eos_id)
