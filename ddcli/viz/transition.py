"""What noise does between two times, as a picture needs it.

Legend: L tokens, V states of the chain, times t from 0 (clean) to 1 (noise).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..process import ByKind, Generator, Interpolating, Process
from ..randomness import inverse_cdf
from ..schedule import with_slope

F64 = torch.float64


class Transition(Protocol):
    """q(x_t | x_s = j) for every symbol j: a column of V probabilities for each."""

    @property
    def stays(self) -> Tensor:
        """q(x_t = j | x_s = j), (V,)."""

    def rows(self, to: Tensor) -> Tensor:
        """q(x_t = i | x_s = j) for the symbols i of `to` (n,) and every j, (n, V)."""

    def law(self, mass: Tensor) -> Tensor:
        """Where mass (V,) on the symbols at s lies at t, (V,)."""

    def entropies(self) -> Tensor:
        """Of each column, nats, (V,)."""

    def distances(self, p: Tensor) -> Tensor:
        """Total variation of each column from the distribution p (V,), (V,)."""

    def draw(self, x: Tensor, whether: Tensor, what: Tensor) -> Tensor:
        """x_t (L,) of x_s = x (L,), by two uniform numbers for each: whether it changes, and to what."""


@dataclass(frozen=True)
class Table:
    """Any noise, in V times V numbers."""

    q: Tensor  # (V, V) float64, columns sum to 1

    @property
    def stays(self) -> Tensor:
        return self.q.diagonal()

    def rows(self, to: Tensor) -> Tensor:
        return self.q[to]

    def law(self, mass: Tensor) -> Tensor:
        return self.q @ mass

    def entropies(self) -> Tensor:
        return torch.special.entr(self.q).sum(0)

    def distances(self, p: Tensor) -> Tensor:
        return (self.q - p[:, None]).abs().sum(0) / 2

    def draw(self, x: Tensor, whether: Tensor, what: Tensor) -> Tensor:
        stay = self.stays / self.q.sum(0)  # exactly 1 where there is nothing else to draw
        others = (self.q - self.stays.diag()).T.cumsum(-1)
        return torch.where(whether < stay[x], x, inverse_cdf(others[x], what[:, None])[:, 0])


@dataclass(frozen=True)
class Redraw:
    """Noise that keeps a symbol, or draws one from a law that is the same for all, in V numbers."""

    keep: Tensor  # () float64
    into: Tensor  # (V,) float64, the law times 1 - keep

    @property
    def stays(self) -> Tensor:
        return self.keep + self.into

    def rows(self, to: Tensor) -> Tensor:
        into = self.into[to, None].expand(-1, len(self.into))
        return into.scatter(1, to[:, None], self.stays[to, None])

    def law(self, mass: Tensor) -> Tensor:
        return self.keep * mass + self.into * mass.sum()

    def entropies(self) -> Tensor:
        each = torch.special.entr(self.into)
        return each.sum() - each + torch.special.entr(self.stays)

    def distances(self, p: Tensor) -> Tensor:
        gaps = (self.into - p).abs()
        return (gaps.sum() - gaps + (self.stays - p).abs()) / 2

    def draw(self, x: Tensor, whether: Tensor, what: Tensor) -> Tensor:
        return torch.where(whether < self.keep, x, inverse_cdf(self.into.cumsum(-1), what))


@ByKind
def transition(process: Process, s: float, t: float) -> Transition:
    """From time s to a time t >= s."""
    every = torch.arange(process.vocabulary.size)
    return Table(process.likelihood(every, *torch.tensor([s, t], dtype=F64)).exp())


@transition.register(Interpolating)
def _(process: Interpolating, s: float, t: float) -> Transition:
    (alpha_s, m_s), (alpha_t, m_t) = map(process.mix, torch.tensor([s, t], dtype=F64))
    keep = alpha_t / alpha_s if s < t else torch.ones((), dtype=F64)
    return Redraw(keep, (m_t - keep * m_s).clamp(min=0))


Signal = tuple[float | None, float | None]


@ByKind
def signal(process: Process, t: Tensor) -> Signal:
    """alpha_t and the loss weight at the time t (), as `Measures` has them."""
    return None, None


@signal.register(Interpolating)
def _(process: Interpolating, t: Tensor) -> Signal:
    return _signal(process.mix(t)[0], process.loss_weight(t))


@signal.register(Generator)
def _(process: Generator, t: Tensor) -> Signal:
    alpha, slope = with_slope(process.schedule.alpha, t)
    return _signal(alpha, -slope / (1 - alpha))


def _signal(alpha: Tensor, weight: Tensor) -> Signal:
    started = alpha < 1 - 1e-12  # before, the weight is the quotient of two rounding errors
    return alpha.item(), weight.item() if started else None
