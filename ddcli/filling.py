"""Gaps filled with what stands on both sides of them; everything else stays byte for byte as it is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .denoiser import Denoiser, Without
from .errors import DdcliError
from .infilling import Window, parse
from .likelihood import nelbo
from .model import Canvas, Model, OnFrame, fresh_seed, last_of
from .process import Autoregressive
from .randomness import Streams, derive_seed
from .schedule import stratified


@dataclass(frozen=True)
class Infilling:
    """A document with its gaps filled."""

    content: bytes
    fills: list[str]
    nfe: int
    seed: int
    index: int
    score: float | None = None  # ln p(gaps | context), nats: an unbiased estimate of a lower bound

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


def infill(
    model: Model,
    document: str | bytes,
    n: int = 1,
    *,
    mask_token: str = "[MASK]",
    score: bool = False,
    label: str | None = None,
    seed: int | None = None,
    on_frame: OnFrame | None = None,
    **settings: Any,
) -> list[Infilling]:
    """Fill the gaps of a document in n ways; everything else stays byte for byte as it is.

    `[MASK]` is a gap of one token, `[MASK:12]` of twelve, `\\[MASK]` the text itmodel. A gap never holds
    an end of text. With `score`, the ways are ranked by their estimated ln p(gaps | context). `label` is that
    of each line, told wherever the model reads the line's beginning.

    Raises DdcliError (GapError, with a caret) for a document without gaps, a gap that cannot be, a
    label the model does not know, or an autoregressive model.

    >>> model.infill("To be [MASK:5] the question", seed=1)[0].text
    """
    if model.block or isinstance(model.process, Autoregressive):
        kind = "a block" if model.block else "an autoregressive"
        raise DdcliError(
            f"{kind} model sees only what stands before a gap, and cannot infill; "
            "use a model of absorbing, uniform or hybrid noise without blocks"
        )
    chosen = model.choose(**settings)
    seed = fresh_seed() if seed is None else seed
    if n < 1:
        raise DdcliError(f"at least one way to fill the gaps, not {n}")
    source = document.encode(errors="surrogateescape") if isinstance(document, str) else document
    whole = parse(source, mask_token)
    # a model of records reads one line at a time
    parts = [line for line in whole.lines() if line.gaps] if model.record_lengths else [whole]
    opening = model.opening(label)
    edges = (opening, model.tokenizer.eos_id) if model.record_lengths else None
    layouts = [part.layout(model.tokenizer, model.length, edges) for part in parts]
    fills: list[list[bytes]] = [[] for _ in range(n)]
    nfe, scores = np.zeros(n, dtype=np.int64), np.zeros(n)
    for number, layout in enumerate(layouts):
        ids = np.tile(layout.ids, (n, 1))
        for window in layout.windows:
            seeds = [derive_seed(seed, "infill", i, number, window.gaps.start) for i in range(n)]
            canvas = Canvas(
                ids[:, window.span],
                np.tile(window.frozen, (n, 1)),
                [len(window.frozen)] * n,
                seeds,
            )
            frame = last_of(model.denoise(canvas, chosen, _within_text(model)), on_frame)
            window.write(ids, frame.x.cpu().numpy())
            nfe += frame.nfe.numpy()
            if score:
                scores += [_score(model, row[window.span], window, seed) for row in ids]
        for row, filled in zip(ids, fills, strict=True):
            filled += [model.tokenizer.continuation(row[: gap.start], row[gap]) for gap in layout.gaps]
    ways = [
        Infilling(
            content=whole.assemble(filled),
            fills=[fill.decode(errors="replace") for fill in filled],
            nfe=int(nfe[i]),
            seed=seed,
            index=i,
            score=float(scores[i]) if score else None,
        )
        for i, filled in enumerate(fills)
    ]
    return sorted(ways, key=lambda way: -(way.score or 0.0))


def _within_text(model: Model) -> Denoiser:
    """What is believed of positions where no text ends."""
    return Without(model.denoiser, (model.tokenizer.eos_id,))


def _score(model: Model, ids: np.ndarray, window: Window, seed: int) -> float:
    """A lower bound on ln p(its gaps | what a window was given), nats; every way meets the same noise."""
    draws = 16

    def repeated(row: np.ndarray) -> Tensor:
        return torch.tensor(row, device=model.device).expand(draws, -1)

    rng = Streams([derive_seed(seed, "score", i) for i in range(draws)])
    with torch.no_grad():
        nats = nelbo(
            model.process,
            _within_text(model),
            repeated(ids),
            repeated(window.own),
            stratified(rng.uniform()),
            rng,
            unseen=repeated(~window.frozen & ~window.own),
        )
    return -nats.strict.sum().item() / draws
