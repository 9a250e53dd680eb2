"""Forward noise processes on single tokens: given x_0, positions are independent.

Legend: `...` any leading shape (B, L or a list of rows), V states of the chain (the mask included where
there is one), times 0 <= s <= t <= 1 of shape (...), one clock per position, float64. Convention: columns
sum to 1, [Q_t]_ij = q(x_t = i | x_{t-1} = j), Q_{1:t} = Q_t ... Q_1. Probabilities over states are natural
logarithms, LOG_ZERO (finite) standing for impossible.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import DdcliError, unknown
from .randomness import LOG_ZERO, Streams
from .schedule import Schedule, make_schedule, with_slope


@dataclass(frozen=True)
class Vocabulary:
    """The ids a chain runs over: `size` of them, of which `special_ids` (mask included) are never text."""

    size: int
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()


class Process(Protocol):
    """Three questions (and one hint) from which corruption, posterior, bounds and samplers follow."""

    @property
    def vocab_size(self) -> int:
        """V."""

    @property
    def needs_clock(self) -> bool:
        """Whether x_t alone leaves open how far a position has run."""

    @classmethod
    def over(cls, vocabulary: Vocabulary, schedule: Schedule) -> Self:
        """The process on a vocabulary. Raises DdcliError where the vocabulary lacks what it needs."""

    def marginal(self, log_p0: Tensor, t: Tensor) -> Tensor:
        """log q(x_t | x_0 ~ p0), (..., V), for log p0 (..., V)."""

    def likelihood(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """log q(x_t = xt | x_s = y) for every y, (..., V), for xt (...)."""

    def rate(self, xt: Tensor, t: Tensor) -> Tensor:
        """R_t(y -> xt) for every y != xt, per unit time, (..., V); 0 at y = xt."""

    def noise(self, x0: Tensor, t: Tensor, rng: Streams) -> Tensor:
        """Draw x_t ~ q(x_t | x_0), (B, L), for x0 (B, L)."""

    def unknown(self, xt: Tensor, t: Tensor) -> Tensor:
        """Where x_t leaves x_0 open, (...) bool: the only positions whose belief matters."""

    def opening(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """A probability, (...), with which a position opens on the way from t to s, *whatever* is believed.

        One that does not open keeps its token, and needs no belief.
        """

    def opened(self, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """log p(x_s | x_t) of a position that opens, (..., V)."""


# -- what follows from the three questions ----------------------------------------------------------------


def one_hot(x: Tensor, vocab_size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """log of the one-hot distribution at x: (...) -> (..., V), 0 at x and LOG_ZERO elsewhere."""
    return torch.full((*x.shape, vocab_size), LOG_ZERO, dtype=dtype, device=x.device).scatter(
        -1, x[..., None], 0.0
    )


def at(log_p: Tensor, x: Tensor) -> Tensor:
    """log_p (..., V) at token x (...): (...)."""
    return log_p.gather(-1, x[..., None])[..., 0]


def posterior(process: Process, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """log p(x_s | x_t), (..., V), where the other positions believe x_0 ~ p0 (leave-one-out). Bayes' rule."""
    joint = process.likelihood(xt, s, t).to(log_p0) + process.marginal(log_p0, s)
    return torch.where((s < t)[..., None], joint, one_hot(xt, process.vocab_size, joint.dtype)).log_softmax(
        -1
    )


def leave_one_out(process: Process, log_posterior: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Turn log p(x_0 | x_t) (..., V) into the belief of the other positions alone: divide by q(x_t | x_0)."""
    return (log_posterior - process.likelihood(xt, torch.zeros_like(t), t).to(log_posterior)).log_softmax(-1)


def _log(p: Tensor) -> Tensor:
    return p.log().clamp(min=LOG_ZERO)  # log 0 = -inf becomes LOG_ZERO; a NaN stays one


# -- the interpolating family: q(x_t | x_0) = alpha_t x_0 + m_t -------------------------------------------


@dataclass(frozen=True)
class Interpolating(ABC):
    """Noise that forgets: with probability 1 - alpha_t a token is replaced by a draw from `stationary()`.

    A subclass says what it is replaced by, and everything else follows from `mix`.
    """

    vocab_size: int
    schedule: Schedule
    needs_clock: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def over(cls, vocabulary: Vocabulary, schedule: Schedule) -> Self: ...

    @abstractmethod
    def stationary(self) -> Tensor:
        """pi, (V,) float64: what is left when all signal is gone."""

    @cached_property
    def _pi(self) -> Tensor:
        return self.stationary()

    def mix(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, m_t), (...) and (..., V) float64, with q(x_t | x_0) = alpha_t x_0 + m_t."""
        alpha = self.schedule.alpha(t)
        return alpha, (1 - alpha)[..., None] * self._pi.to(t.device)

    def loss_weight(self, t: Tensor) -> Tensor:
        """-alpha' / (1 - alpha), (...): how fast noise grows over the noise there is, per unit time."""
        alpha, slope = with_slope(self.schedule.alpha, t)
        return -slope / (1 - alpha)

    def marginal(self, log_p0: Tensor, t: Tensor) -> Tensor:
        alpha, m = self.mix(t)
        return torch.logaddexp(_log(alpha)[..., None].to(log_p0) + log_p0, _log(m).to(log_p0))

    def likelihood(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        (alpha_s, m_s), (alpha_t, m_t) = self.mix(s), self.mix(t)
        keep = torch.where(s < t, alpha_t / alpha_s, 1.0)
        index = xt[..., None]
        into = (m_t.gather(-1, index) - keep[..., None] * m_s.gather(-1, index)).clamp(min=0)
        return _log(into).expand(*xt.shape, self.vocab_size).scatter(-1, index, _log(keep[..., None] + into))

    def rate(self, xt: Tensor, t: Tensor) -> Tensor:
        (alpha, m), (alpha_slope, m_slope) = with_slope(self.mix, t)
        into = m_slope - (alpha_slope / alpha)[..., None] * m
        index = xt[..., None]
        return into.gather(-1, index).expand(*xt.shape, self.vocab_size).scatter(-1, index, 0.0)

    def noise(self, x0: Tensor, t: Tensor, rng: Streams) -> Tensor:
        kept, drawn = rng.uniform(2, x0.shape[1]).to(x0.device).unbind(1)
        return torch.where(kept < self.schedule.alpha(t), x0, self.replace(drawn))

    def replace(self, u: Tensor) -> Tensor:
        """A draw from the stationary distribution for each uniform number u (...): (...)."""
        return torch.searchsorted(self._pi.to(u.device).cumsum(0), u, right=True).clamp(
            max=self.vocab_size - 1
        )

    def unknown(self, xt: Tensor, t: Tensor) -> Tensor:
        return (t > 0).expand(xt.shape)

    def opening(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return (s < t).double().expand(xt.shape)

    def opened(self, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return posterior(self, log_p0, xt, s, t)


@dataclass(frozen=True)
class Absorbing(Interpolating):
    """Tokens turn into [MASK] and stay there (D3PM absorbing, arXiv:2107.03006; MDLM, arXiv:2406.07524).

    A visible token is x_0 itself, so only masks are unknown, and x_t tells all the clock would.
    """

    mask_id: int
    needs_clock: ClassVar[bool] = False

    @classmethod
    def over(cls, vocabulary: Vocabulary, schedule: Schedule) -> Self:
        if vocabulary.mask_id is None:
            raise DdcliError("absorbing noise needs a mask token, but the vocabulary has none")
        return cls(vocabulary.size, schedule, vocabulary.mask_id)

    def stationary(self) -> Tensor:
        return F.one_hot(torch.tensor(self.mask_id), self.vocab_size).double()

    def replace(self, u: Tensor) -> Tensor:
        return torch.full(u.shape, self.mask_id, device=u.device)

    def unknown(self, xt: Tensor, t: Tensor) -> Tensor:
        return (xt == self.mask_id) & (t > 0)

    def opening(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        alpha_s, alpha_t = self.schedule.alpha(s), self.schedule.alpha(t)
        share = torch.where(s < t, (alpha_s - alpha_t) / (1 - alpha_t), 0.0)
        return torch.where(xt == self.mask_id, share, 0.0)

    def opened(self, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return log_p0


@dataclass(frozen=True)
class Uniform(Interpolating):
    """Tokens turn into any other token of the text's alphabet (D3PM uniform; UDLM, arXiv:2412.10193).

    `states` are the ids noise draws from: special tokens are states of the network, not of the chain.
    """

    states: tuple[int, ...]

    @classmethod
    def over(cls, vocabulary: Vocabulary, schedule: Schedule) -> Self:
        special = set(vocabulary.special_ids)
        return cls(vocabulary.size, schedule, tuple(i for i in range(vocabulary.size) if i not in special))

    def stationary(self) -> Tensor:
        pi = torch.zeros(self.vocab_size, dtype=torch.float64)
        pi[list(self.states)] = 1 / len(self.states)
        return pi

    def replace(self, u: Tensor) -> Tensor:
        return self._states.to(u.device)[(u * len(self.states)).long()]

    @cached_property
    def _states(self) -> Tensor:
        return torch.tensor(self.states)


PROCESSES: dict[str, type[Process]] = {"absorbing": Absorbing, "uniform": Uniform}


def make_process(name: str, schedule: str, vocabulary: Vocabulary) -> Process:
    """A process by its name and its schedule's. Raises DdcliError for unknown ones."""
    if name not in PROCESSES:
        raise unknown("process", name, PROCESSES)
    return PROCESSES[name].over(vocabulary, make_schedule(schedule))
