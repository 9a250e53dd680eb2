"""Noise that forgets: with probability 1 - alpha_t a token is replaced by a draw from a fixed law, or by one
of a few in shares that change with time. q(x_t | x_0) = alpha_t x_0 + m_t.

Legend as in `base`, and k laws. A subclass says what its laws are and how they share 1 - alpha_t; everything
else follows.
"""

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import DdcliError, no_parameter
from ..randomness import LOG_ZERO, Streams, inverse_cdf
from ..schedule import TINY, Gidd, Schedule, with_slope
from .base import (
    SentOnce,
    Tables,
    Vocabulary,
    clean_belief,
    clean_posterior,
    leave_one_out,
    log,
    one_hot,
    posterior,
    prior,
    prior_term,
)


@dataclass(frozen=True)
class Interpolating(SentOnce, ABC):
    """q(x_t | x_0) = alpha_t x_0 + m_t, m_t a mixture of fixed laws (GIDD, arXiv:2503.04482)."""

    vocabulary: Vocabulary
    schedule: Schedule
    timesteps: int | None = field(default=None, kw_only=True)

    def in_steps(self, timesteps: int | None) -> Self:
        return replace(self, timesteps=timesteps)

    @classmethod
    def over(
        cls, vocabulary: Vocabulary, schedule: Schedule, parameter: str = "", tables: Tables | None = None
    ) -> Self:
        no_parameter(f"{cls.__name__.lower()} noise", parameter)
        return cls(vocabulary, schedule)

    def tables(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    @abstractmethod
    def laws(self) -> Tensor:
        """What tokens are replaced by, (k, V) float64, each row a distribution. No two share a token."""

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t (...) and the share of each law (..., k), float64, which sum to 1 - alpha_t."""
        return self.schedule.alpha(t), self.schedule.lost(t)[..., None]

    # -- what follows ----------------------------------------------------------------------------------

    @cached_property
    def _log_laws(self) -> Tensor:
        return log(self.laws)

    @cached_property
    def _cumulative(self) -> Tensor:
        return self.laws.cumsum(-1)

    @cached_property
    def _drawn(self) -> Tensor:
        """Ids that noise can turn a token into, (V,) bool."""
        return self.laws.sum(0) > 0

    @cached_property
    def needs_clock(self) -> bool:
        return bool((self._drawn & self.vocabulary.is_text).any())

    @cached_property
    def forgets(self) -> bool:
        return self.shares(torch.ones((), dtype=torch.float64))[0].item() == 0

    def mix(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, m_t), (...) and (..., V) float64."""
        alpha, shares = self.shares(t)
        return alpha, shares @ self.on(t.device, "laws")

    def mix_at(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, m_t at the tokens x), (...) each."""
        alpha, shares = self.shares(t)
        return alpha, (shares * self._laws_at(x)).sum(-1)

    def _laws_at(self, x: Tensor) -> Tensor:
        """What each law has at the tokens x, (..., k)."""
        return self.on(x.device, "laws")[:, x].movedim(0, -1)

    def log_mix(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """ln m_t, (..., V). Scalars are float64 up to their logarithm: 1 - alpha loses digits in float32."""
        log_shares = log(self.shares(t)[1]).to(dtype)
        log_laws = self.on(t.device, "_log_laws", dtype)
        parts = (log_shares[..., i, None] + law for i, law in enumerate(log_laws))
        return reduce(torch.logaddexp, parts)

    def mean_of_noise(self, values: Tensor, t: Tensor) -> Tensor:
        """sum_j m_j values_j, (...), for values (..., V) that are finite."""
        shares = self.shares(t)[1].to(values)
        laws = self.on(values.device, "laws", values.dtype)
        return (shares * (values @ laws.T)).sum(-1)

    @cached_property
    def _orders(self) -> Tensor:
        return torch.xlogy(self.laws, self.laws).sum(-1)

    def order(self, t: Tensor) -> Tensor:
        """sum_j m_j ln m_j, (...) float64: no token has two laws, so it is that of the shares and of each."""
        shares = self.shares(t)[1]
        return (torch.xlogy(shares, shares) + shares * self.on(t.device, "_orders")).sum(-1)

    def loss_weight(self, t: Tensor) -> Tensor:
        """-alpha' / (1 - alpha), (...): how fast noise grows over the noise there is, per unit time."""
        (_, shares), (slope, _) = with_slope(self.shares, t)
        return -slope / shares.sum(-1)

    def marginal(self, log_p0: Tensor, t: Tensor) -> Tensor:
        log_alpha = log(self.shares(t)[0]).to(log_p0)
        return torch.logaddexp(log_alpha[..., None] + log_p0, self.log_mix(t, log_p0.dtype))

    def unmix(self, log_pt: Tensor, t: Tensor) -> Tensor:
        alpha, m = self.mix(t)
        p0 = (log_pt.exp() - m.to(log_pt)) / alpha[..., None].to(log_pt)
        return clean_belief(self, p0)

    def _between(self, xt: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """With which probability a token is kept from s to t, and turns into xt otherwise: (...) each."""
        (alpha_s, m_s), (alpha_t, m_t) = self.mix_at(xt, s), self.mix_at(xt, t)
        keep = torch.where(s < t, alpha_t / alpha_s, 1.0)
        return keep, (m_t - keep * m_s).clamp(min=0)

    def likelihood(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        keep, into = (x[..., None] for x in self._between(xt, s, t))
        return log(into).expand(*xt.shape, self.vocabulary.size).scatter(-1, xt[..., None], log(keep + into))

    def into(self, xt: Tensor, t: Tensor) -> Tensor:
        """R_t(y -> xt), (...): the same from every other y, per unit time."""
        (alpha, shares), (alpha_slope, slopes) = with_slope(self.shares, t)
        return ((slopes - (alpha_slope / alpha)[..., None] * shares) * self._laws_at(xt)).sum(-1)

    def rate(self, xt: Tensor, t: Tensor) -> Tensor:
        into = self.into(xt, t)[..., None]
        return into.expand(*xt.shape, self.vocabulary.size).scatter(-1, xt[..., None], 0.0)

    def noise(self, x0: Tensor, t: Tensor, rng: Streams) -> Tensor:
        which, drawn = rng.uniform(2, x0.shape[1]).to(x0.device).unbind(1)
        alpha, shares = self.shares(t)
        xt = x0
        reached = alpha
        for cumulative, share in zip(self.on(x0.device, "_cumulative"), shares.unbind(-1), strict=True):
            xt = torch.where((which >= reached) & (share > 0), inverse_cdf(cumulative, drawn), xt)
            reached = reached + share
        return xt

    def unknown(self, xt: Tensor, t: Tensor) -> Tensor:
        return self.on(xt.device, "_drawn")[xt] & (t > 0)

    def opening(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """A state that no text holds, such as a mask, is left at a pace that no belief about x_0 changes."""
        keep, into = self._between(xt, s, t)
        stay = (keep + into) * self.mix_at(xt, s)[1] / self.mix_at(xt, t)[1]
        share = torch.where(self.vocabulary.text_on(xt.device)[xt], 1.0, 1 - stay)
        return torch.where(self.unknown(xt, t) & (s < t), share, 0.0)

    def opened(self, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        law = posterior(self, log_p0, xt, s, t)
        left = ~self.vocabulary.text_on(xt.device)[xt]
        own = one_hot(xt, self.vocabulary.size, law.dtype)
        return torch.where(left[..., None] & (own == 0), LOG_ZERO, law).log_softmax(-1)


def _own_say(process: Interpolating, xt: Tensor, t: Tensor) -> Tensor:
    """ln q(x_t | x_0 = x_t) - ln q(x_t | x_0), (...), which is the same for every other x_0.

    For uniform noise over K symbols, ln(1 + K alpha / (1 - alpha)).
    """
    alpha, m = process.mix_at(xt, t)
    return log(alpha + m) - log(m)


@clean_posterior.register(Interpolating)
def _(process: Interpolating, log_p0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    own = _own_say(process, xt, t).to(log_p0)[..., None]
    return log_p0.scatter_add(-1, xt[..., None], own).log_softmax(-1)


@leave_one_out.register(Interpolating)
def _(process: Interpolating, log_posterior: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    own = _own_say(process, xt, t).to(log_posterior)[..., None]
    return log_posterior.scatter_add(-1, xt[..., None], -own).log_softmax(-1)


@prior_term.register(Interpolating)
def _(process: Interpolating, x0: Tensor) -> Tensor:
    """Of each symbol it needs its own place in the prior, and one sum that all share."""
    one = torch.ones((), dtype=torch.float64, device=x0.device)
    alpha, m = process.mix(one)
    log_p = prior(process, x0.device)
    shared = (torch.xlogy(m, m) - m * log_p).sum()
    own = torch.xlogy(alpha + m, alpha + m) - torch.xlogy(m, m) - alpha * log_p
    return (shared + own)[x0] if alpha > 0 else torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)


@dataclass(frozen=True)
class Masking(Interpolating):
    """Noise that can only hide: all that is lost turns into [MASK]."""

    def __post_init__(self) -> None:
        _need_mask(type(self).__name__.lower(), self.vocabulary)

    @property
    def mask_id(self) -> int:
        assert self.vocabulary.mask_id is not None
        return self.vocabulary.mask_id

    @cached_property
    def laws(self) -> Tensor:
        return _mask_law(self.vocabulary)[None]

    def unknown(self, xt: Tensor, t: Tensor) -> Tensor:
        return (xt == self.mask_id) & (t > 0)

    def unmix(self, log_pt: Tensor, t: Tensor) -> Tensor:
        """What is not hidden is as it was, so nothing is taken off, and no digits are lost."""
        text = self.vocabulary.text_on(log_pt.device)
        return log_pt.masked_fill(~text, LOG_ZERO).log_softmax(-1)


@dataclass(frozen=True)
class Absorbing(Masking):
    """Tokens turn into [MASK] and stay there (D3PM absorbing, arXiv:2107.03006; MDLM, arXiv:2406.07524).

    A visible token is x_0 itself, so only masks are unknown, and x_t tells all the clock would.
    """

    def opening(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        share = torch.where(s < t, 1 - self.schedule.lost(s) / self.schedule.lost(t), 0.0)
        return torch.where(xt == self.mask_id, share, 0.0)

    def opened(self, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return log_p0


@dataclass(frozen=True)
class Uniform(Interpolating):
    """Tokens turn into any token of the text's alphabet (D3PM uniform; UDLM, arXiv:2412.10193).

    Special tokens are states of the network, not of the chain.
    """

    @cached_property
    def laws(self) -> Tensor:
        return _flat_law(self.vocabulary)[None]


@dataclass(frozen=True)
class Hybrid(Interpolating):
    """Masks and random tokens, in the proportions of GIDD's mixing schedule (arXiv:2503.04482).

    There, at a time b, a share (1 - b)/(1 + c) of the signal is kept, b/(1 + c) is masked and c/(1 + c) is
    random, c = p/(1 - p) 2 sqrt(b (1 - b)). So the random share is p halfway, and 0 at both ends; at p = 0
    this is absorbing noise. Here b is the time at which alpha_t is kept, whatever the schedule: at GIDD's own
    pace (the schedule `gidd:p`) noise begins as the root of time, too fast for even steps.
    """

    p_uniform: float = 0.1

    def __post_init__(self) -> None:
        _need_mask("hybrid", self.vocabulary)

    @classmethod
    def over(
        cls, vocabulary: Vocabulary, schedule: Schedule, parameter: str = "", tables: Tables | None = None
    ) -> Self:
        try:
            p_uniform = float(parameter or cls.p_uniform)
        except ValueError:
            p_uniform = math.nan
        if not 0 < p_uniform < 1:
            raise DdcliError(
                "hybrid noise takes its largest share of random tokens, such as hybrid:0.1, above 0 (that is "
                f"--process absorbing) and below 1 (--process uniform); not {parameter!r}"
            )
        return cls(vocabulary, schedule, p_uniform)

    @cached_property
    def laws(self) -> Tensor:
        return torch.stack([_mask_law(self.vocabulary), _flat_law(self.vocabulary)])

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, lost = self.schedule.alpha(t), self.schedule.lost(t)
        parts = torch.stack([2 * lost, Gidd(self.p_uniform).random(alpha, lost)], -1)
        return alpha, lost[..., None] * parts / parts.sum(-1, keepdim=True).clamp(min=TINY)


@dataclass(frozen=True)
class Stationary(Interpolating):
    """Tokens are redrawn from a law of your own, such as the frequency of each in the text."""

    weights: tuple[float, ...] = ()  # (V,), of each id

    @classmethod
    def over(
        cls, vocabulary: Vocabulary, schedule: Schedule, parameter: str = "", tables: Tables | None = None
    ) -> Self:
        if tables is not None:
            weights = tables["weights"].double()
            if weights.shape != (vocabulary.size,):
                raise DdcliError(
                    f"the law was made for {weights.numel():,} tokens, not for the vocabulary's "
                    f"{vocabulary.size:,}"
                )
        elif parameter in ("", "unigram"):
            weights = cls._unigram(vocabulary)
        else:
            weights = cls._read(Path(parameter), vocabulary)
        return cls(vocabulary, schedule, tuple((weights / weights.sum()).tolist()))

    @staticmethod
    def _unigram(vocabulary: Vocabulary) -> Tensor:
        if vocabulary.counts is None:
            raise DdcliError(
                "stationary:unigram noise needs a training text to count; give stationary:FILE.json"
            )
        weights = torch.from_numpy(vocabulary.counts).double() * vocabulary.is_text
        if not (weights > 0).any():
            raise DdcliError("stationary:unigram noise finds no symbol of the vocabulary in the text")
        return weights

    @staticmethod
    def _read(path: Path, vocabulary: Vocabulary) -> Tensor:
        """Weights from a JSON object, such as {"a": 3, "b": 1}; symbols it leaves out have none."""
        given = read_json(path)
        known = {piece: id for id, piece in enumerate(vocabulary.pieces)}
        weights = torch.zeros(vocabulary.size, dtype=torch.float64)
        if not isinstance(given, dict) or not given:
            raise DdcliError(f"{path} is no table of weights: a JSON object was expected, {{symbol: weight}}")
        for symbol, weight in given.items():
            if known.get(symbol) is None or known[symbol] in vocabulary.special_ids:
                raise DdcliError(f"{path}: {symbol!r} is no symbol of this vocabulary")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise DdcliError(f"{path}: the weight of {symbol!r} must be a number from 0, not {weight!r}")
            weights[known[symbol]] = float(weight)
        if not (weights > 0).any():
            raise DdcliError(f"{path}: all weights are 0")
        return weights

    def tables(self) -> dict[str, Tensor]:
        return {"weights": torch.tensor(self.weights, dtype=torch.float64)}

    @cached_property
    def laws(self) -> Tensor:
        return self.tables()["weights"][None]


def _need_mask(name: str, vocabulary: Vocabulary) -> None:
    if vocabulary.mask_id is None:
        raise DdcliError(f"{name} noise needs a mask token, but the vocabulary has none")


def _mask_law(vocabulary: Vocabulary) -> Tensor:
    assert vocabulary.mask_id is not None
    return one_hot(torch.tensor(vocabulary.mask_id), vocabulary.size).exp()


def _flat_law(vocabulary: Vocabulary) -> Tensor:
    return vocabulary.is_text.double() / len(vocabulary.text_ids)


def read_json(path: Path) -> Any:
    """Raises DdcliError for a file that is not there, cannot be read, or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DdcliError(f"{path} is not there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DdcliError(f"{path} cannot be read: {error}") from None
