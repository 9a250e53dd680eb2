"""Guidance without a classifier: what a prompt makes likelier is made likelier still.

Legend: B batch, L length, N positions asked for, V states. Of each sequence the network is asked twice, with
the prompt and with the prompt hidden (at clock 1), and the two are mixed as p^strength q^(1 - strength): 1 is
the plain model, 0 one that was not told the prompt (arXiv:2207.12598; for text arXiv:2412.10193, eq. 7).
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

LEAST = -50.0  # nats: what the unprompted network takes for less likely is not held against it any more


@dataclass(frozen=True)
class TwoMinds:
    """Beliefs with and without the prompt, (N, 2, V)."""

    told: Denoiser
    blind: Denoiser  # the same one, but with a memory of its own where it has any
    prompt: Tensor  # (B, L) bool
    hidden: Tensor  # (B, L), what stands in its place

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        hidden = torch.where(self.prompt, self.hidden, xt), torch.where(self.prompt, 1.0, t)
        return torch.stack(
            [self.told(xt, t, rows, valid, **told), self.blind(*hidden, rows, valid, **told)], 1
        )


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
    prompted, blind = log_p.unbind(-2)
    return (strength * prompted + (1 - strength) * blind.clamp(min=LEAST)).log_softmax(-1)


def guided(
    told: Denoiser,
    blind: Denoiser,
    process: Process,
    strength: float,
    canvas: Tensor,
    prompt: Tensor,
    rng: Streams,
) -> tuple[Denoiser, Mix | None]:
    """What to sample with: canvas (B, L) tokens, of which `prompt` (B, L) bool are given.

    At masks the belief is the law of what is drawn, and beliefs are mixed; elsewhere the laws p(x_s | x_t).
    """
    hidden = pure_noise(process, canvas, prompt.double(), rng)
    both = TwoMinds(told, blind, prompt, hidden)
    if isinstance(process, Masking):
        return OfOneMind(both, strength), None
    return both, partial(mixed, strength=strength)
