"""Frames of the loop, told as what happened to each sequence.

Legend: B sequences, L positions, N positions asked about, V states.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from ..generate import Frame
from ..process import Process
from ..tokenizer import Tokenizer
from .lines import TOP, Begin, Belief, Change, Moment, Run

BELIEFS = 40_000  # of a trace that are kept, some 6 MB; of what changes there is always its own probability


class Recorder:
    """Tells frames, as they come, as what happened to each sequence; of several runs one after the other."""

    def __init__(self, process: Process, tokenizer: Tokenizer, beliefs: int = BELIEFS) -> None:
        self._process, self._mask, self._pad = process, tokenizer.mask_id, tokenizer.pad_id
        self._left = beliefs
        self._next = 0

    def __call__(self, frame: Frame) -> Iterator[Begin | Moment]:
        x, clock = frame.x.cpu().numpy(), frame.clock.cpu().numpy()
        visible = frame.x.cpu() != self._mask
        tentative = (self._process.unknown(frame.x, frame.clock).cpu() & visible).numpy()
        if frame.step == 0:
            self._first, self._next = self._next, self._next + len(x)
            self._sizes = [_size(row, times, self._pad) for row, times in zip(x, clock, strict=True)]
            asked = sum(int((times > 0).sum()) for times in clock) * frame.steps
            self._all = asked <= self._left  # else of what changes alone
            self._x = x
            for b, size in enumerate(self._sizes):
                yield Begin(
                    canvas=self._first + b,
                    name=frame.names[b] if frame.names else "",
                    steps=frame.steps,
                    nfe=int(frame.nfe[b]),
                    tokens=x[b, :size].tolist(),
                    clock=_runs(clock[b, :size]),
                    tentative=_spans(tentative[b, :size]),
                )
            return
        before, self._x = self._x, x
        known = _Known.of(frame)
        for b, size in enumerate(self._sizes):
            now, old = x[b, :size], before[b, :size]
            changed = now != old
            yield Moment(
                canvas=self._first + b,
                step=frame.step,
                t=clock[b].max(),
                nfe=int(frame.nfe[b]),
                clock=_runs(clock[b, :size]),
                tentative=_spans(tentative[b, :size]),
                opened=known.changes(b, changed & (old == self._mask), now),
                replaced=known.changes(b, changed & (old != self._mask) & (now != self._mask), now),
                remasked=np.flatnonzero(changed & (now == self._mask)).tolist(),
                beliefs=self._beliefs(known, b, changed),
            )

    def _beliefs(self, known: "_Known", b: int, changed: np.ndarray) -> list[Belief]:
        asked = [i for i in known.row[b] if i < len(changed) and (self._all or changed[i])][: self._left]
        self._left -= len(asked)
        return known.beliefs(b, asked)


@dataclass(frozen=True)
class _Known:
    """What was believed before a step."""

    row: list[dict[int, int]]  # of each sequence, (B,): the row of each position that was asked about
    log_p0: torch.Tensor  # (N, V)

    @classmethod
    def of(cls, frame: Frame) -> "_Known":
        log_p0 = frame.log_p0 if frame.log_p0.ndim == 2 else frame.log_p0[:, 0]
        row: list[dict[int, int]] = [{} for _ in frame.x]
        for number, (b, i) in enumerate(frame.rows.nonzero().tolist()):
            row[b][i] = number
        return cls(row, log_p0.float().log_softmax(-1).cpu())  # the temperature of a head may leave a rest

    def changes(self, b: int, where: np.ndarray, tokens: np.ndarray) -> list[Change]:
        return [
            (int(i), int(tokens[i]), self._log_p(b, int(i), int(tokens[i]))) for i in np.flatnonzero(where)
        ]

    def _log_p(self, b: int, i: int, token: int) -> float | None:
        if i not in self.row[b]:
            return None
        return _short(self.log_p0[self.row[b][i], token].item())

    def beliefs(self, b: int, asked: list[int]) -> list[Belief]:
        if not asked:
            return []
        log_p = self.log_p0[[self.row[b][i] for i in asked]]
        entropies = -(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1)
        best = log_p.topk(min(TOP, log_p.shape[-1]), -1)
        rows = zip(asked, entropies.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            Belief(
                at=i, entropy=_short(entropy), top=[(k, _short(v)) for k, v in zip(ids, values, strict=True)]
            )
            for i, entropy, ids, values in rows
        ]


def _short(nats: float) -> float:
    return round(min(1e4, max(-1e4, nats)), 4)


def _size(tokens: np.ndarray, clock: np.ndarray, pad_id: int) -> int:
    """Of a sequence without the padding behind it."""
    inside = np.flatnonzero((tokens != pad_id) | (clock > 0))
    return int(inside[-1]) + 1 if len(inside) else len(tokens)


def _runs(clock: np.ndarray) -> list[Run]:
    return [(len(list(same)), round(t, 6)) for t, same in groupby(clock.tolist())]


def _spans(where: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(np.int8), [0]]))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


@dataclass
class Recording:
    """What happened to one sequence, from noise on."""

    mask: int
    begin: Begin
    moments: list[Moment]

    def canvases(self) -> Iterator[np.ndarray]:
        """Its tokens (L,) at the beginning and after each step."""
        tokens = np.array(self.begin.tokens)
        yield tokens
        for moment in self.moments:
            tokens = tokens.copy()
            apply(moment, tokens, self.mask)
            yield tokens

    @property
    def remasks(self) -> bool:
        """Whether something that was visible became a mask again."""
        return any(moment.remasked for moment in self.moments)


def recorded(process: Process, tokenizer: Tokenizer, frames: Iterable[Frame]) -> list[Recording]:
    """Each sequence (B,) of some frames, which are asked for one after the other and not kept."""
    recorder, found = Recorder(process, tokenizer), list[Recording]()
    for frame in frames:
        for line in recorder(frame):
            if isinstance(line, Begin):
                found.append(Recording(tokenizer.mask_id, line, []))
            else:
                found[line.canvas].moments.append(line)
    return found


def apply(moment: Moment, tokens: np.ndarray, mask: int) -> None:
    for i, id, _ in (*moment.opened, *moment.replaced):
        tokens[i] = id
    tokens[moment.remasked] = mask
