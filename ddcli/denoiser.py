"""Denoisers: what the network believes about x_0, asked for chosen positions only.

Legend: B batch, L length, N positions asked for, V states. Whatever a network predicts, a denoiser answers
with the *leave-one-out* belief, what the other positions say about x_0; processes and samplers build on that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .randomness import LOG_ZERO

ROW_COUNT = (
    128  # training pads rows to a multiple: a CPU keeps a kernel, and megabytes, for each size it meets
)


class Denoiser(Protocol):
    def __call__(self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        """log p0, (N, V) float32, at the N positions of `rows` (B, L) bool, in the order of nonzero().

        xt (B, L) tokens, t (B, L) clocks, valid (B, L) bool: False at padding, None where there is none.
        """


class Backbone(Protocol):
    """A network in two halves."""

    def trunk(self, input_ids: Tensor, clock: Tensor, valid: Tensor | None, /) -> Tensor:
        """Hidden states (B, L, D) of tokens (B, L) at clocks (B, L) float32."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) of hidden states (N, D)."""


class NetworkDenoiser:
    """A network with a trunk and a head. Its softmax is the leave-one-out belief.

    For absorbing noise that is also the posterior, since a mask says nothing of its own. For uniform noise
    the network learns it by training with the belief plugged into the bound.
    """

    def __init__(self, network: Backbone, impossible: Sequence[int], dtype: torch.dtype) -> None:
        """`impossible` ids are never x_0 (mask, padding, ...) and get no probability."""
        self.network = network
        self.impossible = list(impossible)
        self.dtype = dtype
        self.trunk: Callable[..., Tensor] = network.trunk

    def compile(self, log: Callable[[str], None]) -> None:
        """Compile the trunk at its first use; where that cannot be done, say so and stay eager.

        The head stays eager in any case: it sees another number of rows at every step.
        """
        compiled = torch.compile(self.network.trunk)

        def first_use(xt: Tensor, clock: Tensor, valid: Tensor | None) -> Tensor:
            self.trunk = compiled
            try:
                return compiled(xt, clock, valid)
            except Exception as error:  # whatever a missing or broken C++ compiler makes of itself
                reason = str(error).strip().partition("\n")[0][:100]
                log(f"not compiled, which is slower: {reason or type(error).__name__}")
                self.trunk = self.network.trunk
                return self.trunk(xt, clock, valid)

        self.trunk = first_use

    def __call__(self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        with torch.autocast(xt.device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden = self.trunk(xt, t.float(), valid).flatten(0, 1)
            chosen = rows.flatten().nonzero()[:, 0]
            spare = -len(chosen) % ROW_COUNT if torch.is_grad_enabled() else 0
            logits = self.network.head(hidden[F.pad(chosen, (0, spare))])[: len(chosen)]
        impossible = torch.tensor(self.impossible, dtype=torch.long, device=logits.device)
        return logits.float().index_fill(-1, impossible, LOG_ZERO).log_softmax(-1)


@dataclass(frozen=True)
class OneByOne:
    """Asks for one sequence at a time, without its padding, and not at all where no position is asked for.

    Matrix kernels round differently for another batch size; so a sequence's beliefs, to the last bit, do not
    depend on its neighbours.
    """

    denoiser: Denoiser

    def __call__(self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        beliefs = []
        for i in rows.any(-1).nonzero()[:, 0].tolist():
            n = xt.shape[1] if valid is None else int(valid[i].sum())
            beliefs.append(self.denoiser(xt[i : i + 1, :n], t[i : i + 1, :n], rows[i : i + 1, :n]))
        return torch.cat(beliefs)


@dataclass(frozen=True)
class Batched:
    """Asks for all sequences that need it in one call."""

    denoiser: Denoiser

    def __call__(self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        asked = rows.any(-1)
        return self.denoiser(xt[asked], t[asked], rows[asked], None if valid is None else valid[asked])


@dataclass(frozen=True)
class Temperature:
    """Beliefs sharpened (temperature < 1) or flattened (> 1); 0 leaves only the likeliest token."""

    denoiser: Denoiser
    temperature: float

    def __call__(self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        log_p = self.denoiser(xt, t, rows, valid)
        if self.temperature == 0:
            best = torch.full_like(log_p, LOG_ZERO)
            return best.scatter(-1, log_p.argmax(-1, keepdim=True), 0.0)
        return (log_p / self.temperature).log_softmax(-1)


@dataclass(frozen=True)
class TopP:
    """Nucleus: the likeliest tokens that together reach probability p, the crossing one kept."""

    denoiser: Denoiser
    p: float

    def __call__(self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        log_p = self.denoiser(xt, t, rows, valid)
        ranked, order = log_p.sort(-1, descending=True)
        before = ranked.exp().cumsum(-1) - ranked.exp()
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.p)
        return log_p.masked_fill(dropped, LOG_ZERO).log_softmax(-1)


@dataclass(frozen=True)
class Without:
    """Beliefs given that certain tokens do not occur, such as an end of text inside a gap."""

    denoiser: Denoiser
    ids: Sequence[int]

    def __call__(self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        log_p = self.denoiser(xt, t, rows, valid)
        return log_p.index_fill(-1, torch.tensor(self.ids, device=log_p.device), LOG_ZERO).log_softmax(-1)
