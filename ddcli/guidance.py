"""Guidance without a classifier: what a label or a prompt makes likelier is made likelier still.

Legend: B batch, L length, N positions asked for, V states. Of each sequence the network is asked twice, once
told and once blind to what it was told, and the two are mixed as p^strength q^(1 - strength): 1 is the plain
model, 0 one that was not told (arXiv:2207.12598; for text arXiv:2412.10193, eq. 7).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .denoiser import Denoiser
from .process import Masking, Process, pure_noise
from .randomness import Streams

Mix = Callable[[Tensor], Tensor]

LEAST = -50.0  # nats: what the blind network takes for less likely is not held against it any more


@dataclass(frozen=True)
class Blindfold:
    """What stands in place of what is not told."""

    hidden: Tensor  # (B, L) bool
    tokens: Tensor  # (B, L)
    clock: Tensor  # (B, 1) float64, 1: noise; 0: given like what it replaces

    def for_some(self, which: Tensor, others: "Blindfold") -> "Blindfold":
        """This one for the sequences `which` (B, 1) bool, and that of `others` for the rest."""
        pairs = (self.hidden, others.hidden), (self.tokens, others.tokens), (self.clock, others.clock)
        return Blindfold(*(torch.where(which, one, other) for one, other in pairs))


def without_prompt(process: Process, canvas: Tensor, prompt: Tensor, rng: Streams) -> Blindfold:
    """Noise in place of the prompt: canvas (B, L) tokens, of which `prompt` (B, L) bool are it."""
    noise = pure_noise(process, canvas, prompt.double(), rng)
    return Blindfold(prompt, noise, torch.ones(len(canvas), 1, dtype=torch.float64, device=canvas.device))


def without_label(label: Tensor, bos_id: int) -> Blindfold:
    """`<bos>` in place of the label, which stands where `label` (B, L) is True."""
    given = torch.zeros(len(label), 1, dtype=torch.float64, device=label.device)
    return Blindfold(label, torch.full_like(label, bos_id, dtype=torch.long), given)


@dataclass(frozen=True)
class TwoMinds:
    """Beliefs of one who is told and of one who is not, (N, 2, V)."""

    told: Denoiser
    blind: Denoiser  # the same one, but with a memory of its own where it has any
    blindfold: Blindfold

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        hidden = self.blindfold.hidden
        clock = self.blindfold.clock.to(t)
        seen = torch.where(hidden, self.blindfold.tokens, xt), torch.where(hidden, clock, t)
        return torch.stack([self.told(xt, t, rows, valid, **told), self.blind(*seen, rows, valid, **told)], 1)


@dataclass(frozen=True)
class OfOneMind:
    """Two beliefs mixed into one. At masks, where the belief is the law of what is drawn."""

    both: TwoMinds
    strength: float

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        return mixed(self.both(xt, t, rows, valid, **told), self.strength)


def mixed(log_p: Tensor, strength: float) -> Tensor:
    """p^strength q^(1 - strength), normalised: log p and log q (..., 2, V) -> (..., V)."""
    told, blind = log_p.unbind(-2)
    return (strength * told + (1 - strength) * blind.clamp(min=LEAST)).log_softmax(-1)


def guided(
    told: Denoiser, blind: Denoiser, process: Process, strength: float, blindfold: Blindfold
) -> tuple[Denoiser, Mix | None]:
    """Whom to ask, and how laws are mixed where the beliefs are not.

    At masks the belief is the law of what is drawn, and beliefs are mixed; elsewhere the laws p(x_s | x_t).
    """
    both = TwoMinds(told, blind, blindfold)
    if isinstance(process, Masking):
        return OfOneMind(both, strength), None
    return both, partial(mixed, strength=strength)
