"""Schedules: the share alpha_t of the signal that is left at time t.

Times run from 0 (clean text) to 1 (pure noise) and are float64: 1 - alpha loses half its digits near
t = 0 in float32, and times are never more than one number per position.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from .errors import YOUR_OWN, DdcliError, unknown

TINY = torch.finfo(torch.float64).tiny


class Schedule(Protocol):
    def alpha(self, t: Tensor) -> Tensor:
        """Signal kept at time t, the same shape as t; falls from alpha(0) = 1 to alpha(1) = 0.

        A schedule may fall in a jump after 0, and end a little above 0: bounds then carry the
        reconstruction of what the jump hides, and a prior term for what the end leaves.
        """

    def lost(self, t: Tensor) -> Tensor:
        """1 - alpha(t), with all its digits where t is small."""

    def when(self, lost: Tensor) -> Tensor:
        """The time at which 1 - alpha is `lost`, the same shape; 0 or 1 where it never is."""


@dataclass(frozen=True)
class Linear:
    """alpha = 1 - t, the log-linear sigma of the literature (MDLM, arXiv:2406.07524)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def lost(self, t: Tensor) -> Tensor:
        return t

    def when(self, lost: Tensor) -> Tensor:
        return lost


@dataclass(frozen=True)
class Cosine:
    """alpha = 1 - cos(pi/2 (1 - t)) (MD4, arXiv:2406.04329), in a form with all its digits at either end."""

    def alpha(self, t: Tensor) -> Tensor:
        late = 2 * torch.sin(math.pi / 4 * (1 - t)) ** 2
        return torch.where(t < 0.5, 1 - self.lost(t), late)

    def lost(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def when(self, lost: Tensor) -> Tensor:
        return torch.asin(lost) * (2 / math.pi)


@dataclass(frozen=True)
class Polynomial:
    """alpha = 1 - t^power (MD4, arXiv:2406.04329)."""

    power: float = 2.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.power <= 20:  # beyond, all noise falls into an instant at one end
            raise DdcliError(f"a polynomial schedule needs a power from 0.1 to 20, not {self.power:g}")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - self.lost(t)

    def lost(self, t: Tensor) -> Tensor:
        return t**self.power

    def when(self, lost: Tensor) -> Tensor:
        return lost ** (1 / self.power)


@dataclass(frozen=True)
class Geometric:
    """alpha = exp(-sigma), sigma = 1e-4^(1 - t) sigma_max^t (SEDD, arXiv:2310.16834, appendix C.1).

    Ends a little above 0, at exp(-sigma_max), and starts with a jump: no time but 0 is quite clean.
    """

    sigma_max: float = 20.0
    sigma_min: ClassVar[float] = 1e-4

    def __post_init__(self) -> None:
        if not self.sigma_min < self.sigma_max <= 100:
            raise DdcliError(
                f"a geometric schedule needs a largest sigma above {self.sigma_min:g} and at most 100, "
                f"not {self.sigma_max:g}"
            )

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, self.sigma_min ** (1 - t) * self.sigma_max**t, 0.0)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._sigma(t))

    def lost(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._sigma(t))

    def when(self, lost: Tensor) -> Tensor:
        growth = math.log(self.sigma_max / self.sigma_min)
        return ((-torch.log1p(-lost)).log() / growth - math.log(self.sigma_min) / growth).clamp(0, 1)


@dataclass(frozen=True)
class Gidd:
    """alpha = (1 - b) / (1 + c), c = p / (1 - p) 2 sqrt(b (1 - b)): the pace of GIDD's mixing schedule
    (arXiv:2503.04482, section 3.2) for noise of masks and, halfway, a share p of random tokens.

    There b is the time; here it may run by another schedule, as what that has lost.
    """

    p: float = 0.1
    clock: Schedule = field(default_factory=Linear)

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise DdcliError(
                f"a gidd schedule needs a share of random tokens from 0 to below 1, not {self.p:g}"
            )

    @property
    def _k(self) -> float:
        return 2 * self.p / (1 - self.p)

    def _odds(self, t: Tensor) -> Tensor:
        left = self.clock.alpha(t).clamp(min=TINY)  # whose root has a slope at t = 1
        return self._k * self.clock.lost(t).sqrt() * left.sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        return self.clock.alpha(t) / (1 + self._odds(t))

    def lost(self, t: Tensor) -> Tensor:
        odds = self._odds(t)
        return (self.clock.lost(t) + odds) / (1 + odds)

    def when(self, lost: Tensor) -> Tensor:
        alpha = 1 - lost
        b = 2 * lost**2 / (2 * lost + alpha * self.random(alpha, lost)).clamp(min=TINY)
        return self.clock.when(b)

    def random(self, alpha: Tensor, lost: Tensor) -> Tensor:
        """How many random tokens there are to 2 lost masks, (...), where alpha is kept: 2 lost c / t, for the
        t that solves (lost - t)^2 = (alpha c)^2. Sums of positive terms alone, so no digits are lost."""
        return self._k * (alpha * self._k + (alpha * (4 * lost + alpha * self._k**2)).sqrt())


@dataclass(frozen=True)
class Knots:
    """A schedule through given points: ln(lost / alpha) is linear in t from one to the next, and alpha is
    before the first and after the last, down to 0 at t = 1."""

    times: Tensor = field(compare=False)  # (n,) float64, rising within (0, 1)
    log_odds: Tensor = field(compare=False)  # (n,) float64, ln(lost / alpha), rising

    def _ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first time and what is lost then, the last and what is left then."""
        return (
            self.times[0],
            self.log_odds[0].sigmoid(),
            self.times[-1],
            (-self.log_odds[-1]).sigmoid(),
        )

    def alpha(self, t: Tensor) -> Tensor:
        first, lost, last, left = self._ends()
        between = (-_through(self.times, self.log_odds, t)).sigmoid()
        late = left * (1 - t) / (1 - last)
        return torch.where(t < first, 1 - lost * t / first, torch.where(t > last, late, between))

    def lost(self, t: Tensor) -> Tensor:
        first, lost, last, left = self._ends()
        between = _through(self.times, self.log_odds, t).sigmoid()
        late = 1 - left * (1 - t) / (1 - last)
        return torch.where(t < first, lost * t / first, torch.where(t > last, late, between))

    def when(self, lost: Tensor) -> Tensor:
        first, early, last, left = self._ends()
        between = _through(self.log_odds, self.times, lost.logit())
        late = 1 - (1 - lost) * (1 - last) / left
        return torch.where(lost < early, lost * first / early, torch.where(1 - lost < left, late, between))


def _through(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """y (n,) over x (n,), rising, at any points (...) between the first and the last; beyond them, held."""
    x, y, at = x.to(at.device), y.to(at.device), at.clamp(x[0].item(), x[-1].item())
    right = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    return y[right - 1] + share * (y[right] - y[right - 1])


SCHEDULES: dict[str, type[Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "polynomial": Polynomial,
    "geometric": Geometric,
    "gidd": Gidd,
}
OWN = "auto"  # whichever suits the noise
INFORMATION = "information"  # made of the noise itself: what x_t tells of x_0 falls evenly


def make_schedule(spec: str) -> Schedule:
    """`name` or `name:number`, such as polynomial:3; and what it runs by, of one that runs by another, as in
    gidd:0.1:cosine. Raises DdcliError for what is none."""
    name, *parts = spec.split(":", 2)
    if name not in SCHEDULES:
        raise unknown("schedule", name, [OWN, *SCHEDULES, INFORMATION], YOUR_OWN)
    try:
        return SCHEDULES[name](*map(float, parts[:1]), *map(make_schedule, parts[1:]))
    except (TypeError, ValueError):
        raise DdcliError(f"schedule {spec!r}: {name} does not take {':'.join(parts)!r}") from None


def with_slope(f: Callable[[Tensor], Any], t: Tensor) -> tuple[Any, Any]:
    """f(t) and df/dt, for an f that acts on each time alone and returns a tensor or several."""
    t = t.clone(memory_format=torch.contiguous_format)  # of a part of another one torch takes no slope
    found = torch.func.jvp(f, (t,), (torch.ones_like(t),))
    return found[0], found[1]


def time_grid(steps: int) -> Tensor:
    """The times of a sampler that takes `steps` steps: (steps + 1,), float64, from 1 down to 0."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


# -- how training spreads its times over (0, 1) -----------------------------------------------------------


class Times(Protocol):
    def __call__(self, u: Tensor) -> Tensor:
        """Quantiles: uniform numbers u in [0, 1) to times in (0, 1], the same shape."""


@dataclass(frozen=True)
class EvenTimes:
    """Every time equally often: the mean loss is the bound itself."""

    def __call__(self, u: Tensor) -> Tensor:
        return u.clamp(min=1e-5, max=1 - 1e-6)  # weights are 1/t, and 1/(1 - t)


@dataclass(frozen=True)
class BellTimes:
    """A normal bell, cut to (0, 1), and a share of even times so that both ends stay trained.

    The loss at each time keeps its weight, so the mean is a reweighted bound: small batches learn faster,
    since neither the rare, heavy steps near t = 0 nor the hopeless ones near t = 1 dominate.
    """

    centre: float = 0.5  # a time
    width: float = 0.2  # the standard deviation of the bell before it is cut, in time
    even_share: float = 0.15  # of all times

    def __post_init__(self) -> None:
        if not 0 <= self.centre <= 1 or not self.width > 0 or not 0 <= self.even_share <= 1:
            raise DdcliError(
                "bell times need a centre in [0, 1], a width above 0 and a share of even ones, such as "
                f"bell:0.5:0.2:0.15, not {self.centre:g}, {self.width:g} and {self.even_share:g}"
            )

    def __call__(self, u: Tensor) -> Tensor:
        even = EvenTimes()
        normal = torch.distributions.Normal(self.centre, self.width)
        low, high = normal.cdf(torch.tensor([0.0, 1.0], dtype=u.dtype))
        bell = normal.icdf(low + (u - self.even_share) / (1 - self.even_share) * (high - low))
        return torch.where(u < self.even_share, even(u / self.even_share), bell)


_TWO_ENDS = "clipped times need two ends that rise within [0, 1], such as clipped:0.3:0.8"


@dataclass(frozen=True)
class ClippedTimes:
    """Even over [low, high] alone, where gradients vary least (BD3-LM, arXiv:2503.09573, section 5.3).

    There shares of masks are clipped, which on the linear schedule are the times. Training that is told no
    ends chooses among `CLIPS` by the gradients themselves.
    """

    low: float = 0.3
    high: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise DdcliError(f"{_TWO_ENDS}, not {self.low:g} and {self.high:g}")

    def __call__(self, u: Tensor) -> Tensor:
        return EvenTimes()(self.low + (self.high - self.low) * u)


def _clipped(*ends: float) -> ClippedTimes:
    if len(ends) == 1:
        raise DdcliError(f"{_TWO_ENDS}, not {ends[0]:g} alone")
    return ClippedTimes(*ends)


TIMES: dict[str, Callable[..., Times]] = {"even": EvenTimes, "bell": BellTimes, "clipped": _clipped}


# ranges to choose from by what they do to a network's gradients; the papers' own are among them
CLIPS = tuple(
    ClippedTimes(*ends) for ends in ((0, 1), (0.3, 0.8), (0.45, 0.95), (0.5, 1), (0.1, 0.6), (0, 0.5))
)


def make_times(spec: str) -> Times:
    """`name` or `name:number:number`, such as bell:0.3 (its centre). Raises DdcliError for what is none."""
    name, *numbers = spec.split(":")
    if name not in TIMES:
        raise unknown("spread of times", name, TIMES)
    try:
        return TIMES[name](*map(float, numbers))
    except (TypeError, ValueError):
        raise DdcliError(f"times {spec!r}: {name} does not take {':'.join(numbers)!r}") from None


def stratified(u: Tensor) -> Tensor:
    """Spread independent uniform numbers u (B,) evenly over [0, 1): one in each of B equal strata.

    The strata belong to the *global* batch, so the times of a step do not depend on how it is split.
    """
    return (torch.arange(len(u), dtype=u.dtype, device=u.device) + u) / len(u)
