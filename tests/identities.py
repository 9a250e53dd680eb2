"""The identities the package claims, each a function that measures how far it is from holding.

The right-hand side is always written down a second time, here: plain formulas of papers, on probabilities
(not logarithms) and small matrices. `tests/test_identities.py` asserts every one of them;
`benchmarks/exactness.py` prints them as a table.

Legend: K symbols, S = K + 1 states (the mask last), n points, x clean and z noisy tokens (n,), p beliefs
(n, K), a = alpha_t, `slope` its derivative. Columns sum to 1. A check yields pairs (ours, plain).
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from chains import OneStream
from scipy.linalg import expm
from scipy.optimize import brentq
from torch import Tensor
from worlds import RING, STEPS, VOCABULARY, ExactBlocks, ExactDenoiser, gauss_legendre, world

from ddcli.denoiser import Denoiser, Posterior, Score
from ddcli.likelihood import in_continuous_time, nelbo
from ddcli.objective import (
    D3pmHybrid,
    cross_entropy,
    elbo,
    elbo_step,
    general_elbo,
    general_elbo_step,
    score_entropy,
)
from ddcli.process import (
    Absorbing,
    Autoregressive,
    Band,
    Gaussian,
    Generator,
    Hybrid,
    Interpolating,
    Matrices,
    Process,
    Stationary,
    Steps,
    Uniform,
    UserGenerator,
    Vocabulary,
    leave_one_out,
    one_hot,
    posterior,
    prior,
    prior_term,
)
from ddcli.process.matrix import normalised
from ddcli.randomness import LOG_ZERO
from ddcli.sampler.revising import (
    LoopedRemask,
    MaskCorrector,
    Remask,
    RescaledRemask,
    Revising,
    TokenCorrector,
)
from ddcli.schedule import (
    INFORMATION,
    Cosine,
    Geometric,
    Gidd,
    Knots,
    Linear,
    Polynomial,
    Schedule,
    make_schedule,
    with_slope,
)

F64 = torch.float64
ALPHABET = Vocabulary(size=9, mask_id=8, special_ids=(7, 8))  # seven symbols, a pad and a mask
NAMED = ("linear", "cosine", "polynomial:2", "geometric:20", "gidd:0.3")
SCHEDULES = (*NAMED, INFORMATION)  # the last one of noise by matrices alone
KINDS = ("absorbing", "uniform", "hybrid", "stationary", "generator", "band", "gaussian")  # that have rates
WITH_STEPS = (*KINDS, "steps")  # and a list of steps that do not commute, at their own times alone
BY_MATRICES = ("generator", "band", "gaussian")
COUNT = 20  # steps of such a list
P_UNIFORM = 0.2

# -- the register -----------------------------------------------------------------------------------------

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Identity:
    """What should be equal, where the package computes it, and how far apart the two sides may be."""

    statement: str
    where: tuple[Callable, ...]
    tolerance: float
    pairs: Callable[[], Iterator[Pair]]

    @property
    def name(self) -> str:
        return self.pairs.__name__


@dataclass(frozen=True)
class Measured:
    error: float  # the largest difference, relative where the plain side is above 1
    count: int  # numbers compared
    spread: float  # of the plain side: a comparison of constants says little


IDENTITIES: dict[str, Identity] = {}


def identity(statement: str, *where: Callable, within: float) -> Callable:
    def register(pairs: Callable[[], Iterator[Pair]]) -> Callable[[], Iterator[Pair]]:
        IDENTITIES[pairs.__name__] = Identity(statement, where, within, pairs)
        return pairs

    return register


@cache
def measure(name: str) -> Measured:
    error, sides = 0.0, []
    for ours, plain in IDENTITIES[name].pairs():
        assert ours.shape == plain.shape, (ours.shape, plain.shape)
        gap = ((ours - plain).abs() / plain.abs().clamp(min=1)).max().item()
        error = max(error, math.inf if math.isnan(gap) else gap)
        sides.append(plain.flatten())
    side = torch.cat(sides)
    return Measured(error, len(side), (side.max() - side.min()).item())


def address(function: Callable) -> tuple[str, str]:
    """The file of a function, from the root of the repository, and its name there."""
    return inspect.unwrap(function).__module__.replace(".", "/") + ".py", function.__qualname__


# -- schedules and chains, written down a second time -----------------------------------------------------


def alpha_and_slope(spec: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and d alpha / dt, for t > 0, of a schedule by its name."""
    name, _, number = spec.partition(":")
    if name == "linear":
        return 1 - t, -torch.ones_like(t)
    if name == "cosine":
        return 1 - torch.cos(math.pi / 2 * (1 - t)), -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))
    if name == "polynomial":
        k = float(number)
        return 1 - t**k, -k * t ** (k - 1)
    if name == "gidd":
        root, share = (t * (1 - t)).sqrt(), 2 * float(number) / (1 - float(number))
        grown = 1 + share * root
        return (1 - t) / grown, -1 / grown - (1 - t) * share * (1 - 2 * t) / (2 * root) / grown**2
    low, high = 1e-4, float(number)
    sigma = low * (high / low) ** t
    return torch.exp(-sigma), -torch.exp(-sigma) * sigma * math.log(high / low)


def through_knots(knots: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the schedule `information`: between its knots the odds of what is lost grow
    exponentially."""
    assert isinstance(knots, Knots)
    times, log_odds = knots.times.numpy(), knots.log_odds.numpy()
    left, pace = 1 / (1 + np.exp(log_odds)), np.diff(log_odds) / np.diff(times)
    at = t.numpy()
    i = np.clip(np.searchsorted(times, at) - 1, 0, len(pace) - 1)
    a = 1 / (1 + np.exp(log_odds[i]) * np.exp(pace[i] * (at - times[i])))
    early, late = (1 - left[0]) / times[0], left[-1] / (1 - times[-1])
    where = [at < times[0], at > times[-1]]
    alpha = np.select(where, [1 - early * at, late * (1 - at)], a)
    slope = np.select(where, [np.full_like(at, -early), np.full_like(at, -late)], -pace[i] * a * (1 - a))
    return torch.from_numpy(alpha), torch.from_numpy(slope)


@dataclass(frozen=True)
class Chain:
    """A process over K symbols and a mask, by its matrices; and the package's process of the same kind."""

    kind: str
    spec: str
    vocabulary: Vocabulary

    @property
    def k(self) -> int:
        return len(self.vocabulary.text_ids)

    @property
    def ids(self) -> Tensor:
        """The package's id of each state."""
        assert self.vocabulary.mask_id is not None
        return torch.tensor([*range(self.k), self.vocabulary.mask_id])

    def before(self, t: float, share: float) -> float:
        """A time of the chain that is about a share of t."""
        return self.time(torch.tensor(share * t, dtype=F64)).item()

    @property
    def states(self) -> list[int]:
        """Those that the chain can be in."""
        return list(range(self.k + (self.kind in ("absorbing", "hybrid"))))

    @cached_property
    def law(self) -> Tensor:
        """Of `stationary`, (K,): unequal, and one symbol has none."""
        weights = torch.arange(self.k, dtype=F64) ** 1.5
        return weights / weights.sum()

    @cached_property
    def rates(self) -> Tensor:
        """Of noise by matrices, (K, K), whose columns do not sum to anything yet: without symmetry, to the
        nearest two neighbours, or by a normal law of width 2."""
        away = (torch.arange(self.k)[:, None] - torch.arange(self.k)).abs().double()
        if self.kind == "band":
            return (away <= 2).double()
        if self.kind == "gaussian":
            return torch.exp(-(away**2) / 8)
        return torch.rand(self.k, self.k, generator=torch.Generator().manual_seed(3), dtype=F64) ** 2

    @cached_property
    def steps(self) -> Tensor:
        """Of a list of steps, (COUNT, K, K): each redraws a tenth or so, by laws of its own."""
        rng = torch.Generator().manual_seed(5)
        laws = (2 * torch.randn(COUNT, self.k, self.k, generator=rng, dtype=F64)).softmax(1)
        share = torch.linspace(0.05, 0.25, COUNT, dtype=F64)[:, None, None]
        return (1 - share) * torch.eye(self.k, dtype=F64) + share * laws

    def time(self, t: Tensor) -> Tensor:
        """The first time of the chain that is not before t; of a schedule by knots, between two of them."""
        if self.kind == "steps":
            return (t * COUNT - 1e-9).ceil() / COUNT
        if self.spec != INFORMATION:
            return t
        knots = self.ours.schedule.times
        middle = (knots[1:] + knots[:-1]) / 2
        return torch.where(t < knots[0], t, middle[torch.searchsorted(middle, t).clamp(max=len(middle) - 1)])

    def alpha_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and d alpha / dt, for t > 0."""
        if self.spec == INFORMATION:
            return through_knots(self.ours.schedule, t)
        return alpha_and_slope(self.spec, t)

    @cached_property
    def ours(self) -> Process:
        if self.spec == INFORMATION:
            return replace(self, spec="linear").ours.informed()
        schedule = make_schedule(self.spec)
        if self.kind == "steps":
            return Steps.over(self.vocabulary, schedule, tables={"matrix": self.steps})
        if self.kind == "generator":
            return UserGenerator.over(self.vocabulary, schedule, tables={"matrix": normalised(self.rates)})
        if self.kind in ("band", "gaussian"):
            return {"band": Band, "gaussian": Gaussian}[self.kind].over(self.vocabulary, schedule, "2")
        if self.kind == "stationary":
            law = torch.zeros(self.vocabulary.size, dtype=F64).index_copy(0, self.ids[:-1], self.law)
            return Stationary.over(self.vocabulary, schedule, tables={"weights": law})
        if self.kind == "hybrid":
            return Hybrid.over(self.vocabulary, schedule, str(P_UNIFORM))
        return {"absorbing": Absorbing, "uniform": Uniform}[self.kind].over(self.vocabulary, schedule)

    def alpha(self, t: float) -> float:
        """The share of x_0 that is kept."""
        return 1.0 if t == 0 else self.alpha_and_slope(torch.tensor(t, dtype=F64))[0].item()

    def mixed(self, a: float) -> Tensor:
        """m_t (S,), where a share a of x_0 is kept."""
        m = torch.zeros(self.k + 1, dtype=F64)
        if self.kind == "absorbing":
            m[-1] = 1 - a
        elif self.kind == "uniform":
            m[:-1] = (1 - a) / self.k
        elif self.kind == "stationary":
            m[:-1] = (1 - a) * self.law
        else:
            b = gidds_time(a)
            odds = gidds_odds(b)
            m[:-1], m[-1] = odds / self.k / (1 + odds), b / (1 + odds)
        return m

    @cached_property
    def between(self) -> Callable[[float, float], Tensor]:
        """Q_{s:t}, (S, S), of s and t: [i, j] = q(x_t = i | x_s = j). What was asked for once is kept."""
        return cache(self._between)

    def _between(self, s: float, t: float) -> Tensor:
        eye = torch.eye(self.k + 1, dtype=F64)
        if self.kind == "steps":
            for k in range(round(s * COUNT), round(t * COUNT)):
                eye[:-1, :-1] = self.steps[k] @ eye[:-1, :-1]
            return eye
        a_s, a_t = self.alpha(s), self.alpha(t)
        if self.kind in BY_MATRICES:
            eye[:-1, :-1] = self.run(math.log(a_s) - math.log(max(a_t, 1e-300)))
            return eye
        keep = a_t / a_s
        return keep * eye + (self.mixed(a_t) - keep * self.mixed(a_s))[:, None]

    @cached_property
    def generator(self) -> Tensor:
        """The rates as R, (K, K), whose slowest mode decays as exp(-depth)."""
        generator = self.rates - torch.diag(self.rates.diagonal())
        generator -= torch.diag(generator.sum(0))
        return -generator / torch.linalg.eigvals(generator).real.sort().values[-2]

    def run(self, depth: float) -> Tensor:
        """exp(depth R), (K, K)."""
        return torch.from_numpy(expm((depth * self.generator).numpy()))

    def bayes(self, p: Tensor, z: int, s: float, t: float) -> Tensor:
        """p(x_s | x_t = z), (S,), for a belief p (S,) about x_0."""
        joint = self.between(s, t)[z] * (self.between(0.0, s) @ p)
        return joint / joint.sum()


def gidds_odds(b: float) -> float:
    """Of random tokens at GIDD's own time b (arXiv:2503.04482, section 3.2, gamma = 1)."""
    return P_UNIFORM / (1 - P_UNIFORM) * 2 * math.sqrt(b * (1 - b))


def gidds_time(kept: float) -> float:
    """The time at which it keeps such a share of x_0."""
    return brentq(lambda b: (1 - b) / (1 + gidds_odds(b)) - kept, 0, 1, xtol=1e-16, rtol=1e-15)


chain_of = cache(Chain)  # whose schedule may have taken many exponentials


def chains(*kinds: str, specs: tuple[str, ...] = SCHEDULES, vocabulary: Vocabulary = ALPHABET) -> list[Chain]:
    """Of each kind and each schedule that it can have."""
    return [
        chain_of(kind, spec, vocabulary)
        for kind, spec in itertools.product(kinds, specs)
        if (kind != "steps" or spec == "linear") and (spec != INFORMATION or kind in BY_MATRICES)
    ]


def kl(q: Tensor, p: Tensor) -> Tensor:
    return sum((a * (a / b).log() for a, b in zip(q, p, strict=True) if a > 0), torch.zeros((), dtype=F64))


# -- random points ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """Clean and noisy tokens (as states), beliefs and times, with alpha as a paper would write it."""

    chain: Chain
    x: Tensor
    z: Tensor
    p: Tensor  # (n, S)
    t: Tensor

    @property
    def process(self) -> Process:
        return self.chain.ours

    @property
    def belief(self) -> Tensor:
        """log p over the package's ids, (n, V)."""
        return spread(self.chain, self.p)

    @property
    def ids(self) -> tuple[Tensor, Tensor]:
        return self.chain.ids[self.x], self.chain.ids[self.z]

    @property
    def alpha(self) -> tuple[Tensor, Tensor]:
        return self.chain.alpha_and_slope(self.t)

    def before(self, share: float) -> Tensor:
        """Times of the chain that are about a share of these."""
        return self.chain.time(share * self.t)

    def each(self, f: Callable[[Tensor, int, int, float], Tensor]) -> Tensor:
        """f(p, x, z, t) of every point."""
        rows = zip(self.p, self.x.tolist(), self.z.tolist(), self.t.tolist(), strict=True)
        return torch.stack([f(*row) for row in rows])


def spread(chain: Chain, p: Tensor) -> Tensor:
    """Probabilities of the states (..., S) as logarithms over the package's ids (..., V)."""
    log_p = p.log().clamp(min=LOG_ZERO)
    full = torch.full((*p.shape[:-1], chain.vocabulary.size), LOG_ZERO, dtype=F64)
    return full.index_copy(-1, chain.ids, log_p)


def points(chain: Chain, n: int = 32, *, masked: bool = False, on_mask: bool = False) -> Points:
    """masked: z is the mask everywhere; on_mask: beliefs put some weight on it."""
    rng = torch.Generator().manual_seed(len(chain.spec))
    p = torch.zeros(n, chain.k + 1, dtype=F64)
    width = chain.k + on_mask
    p[:, :width] = (1.5 * torch.randn(n, width, generator=rng, dtype=F64)).softmax(-1)
    x = torch.randint(chain.k, (n,), generator=rng)
    z = torch.tensor(chain.states)[torch.randint(len(chain.states), (n,), generator=rng)]
    z = torch.where(torch.arange(n) % 3 == 0, x, z)
    if chain.kind == "stationary":
        z = z.clamp(min=1)  # the first symbol is never drawn
    if masked:
        z = torch.full_like(z, chain.k)
    return Points(chain, x, z, p, chain.time(0.05 + 0.9 * torch.rand(n, generator=rng, dtype=F64)))


def limit(f: Callable[[float], Tensor], dt: float = 2e-4) -> Tensor:
    """lim f(dt) / dt, by Richardson's extrapolation."""
    a, b, c = (f(h) / h for h in (dt, dt / 2, dt / 4))
    return (a - 6 * b + 8 * c) / 3


# -- schedules, chains and posteriors ---------------------------------------------------------------------


@identity(
    "Schedules and their slopes are those of the papers",
    *(kind.alpha for kind in (Linear, Cosine, Polynomial, Geometric, Gidd)),
    with_slope,
    within=1e-12,
)
def schedules_are_those_of_the_papers() -> Iterator[Pair]:
    t = torch.linspace(0.01, 0.99, 99, dtype=F64)
    for spec in NAMED:
        yield from zip(with_slope(make_schedule(spec).alpha, t), alpha_and_slope(spec, t), strict=True)


@identity(
    "The schedule `information`: $I(x_0; x_t)$ of flat text is $(1 - t) \\ln K$ at every knot, and the odds "
    "of what is lost grow exponentially between two (arXiv:2107.03006)",
    Generator.even.func,
    Knots.alpha,
    with_slope,
    within=1e-9,
)
def information_falls_evenly_on_its_schedule() -> Iterator[Pair]:
    for chain in chains(*BY_MATRICES, specs=(INFORMATION,)):
        knots, k = chain.ours.schedule, chain.k
        told = []
        for t in knots.times.tolist():
            q = chain.run(-math.log(chain.alpha(t)))
            told.append(sum(kl(column, q.mean(1)) for column in q.T) / k / math.log(k))
        yield torch.stack(told), 1 - knots.times
        t = torch.linspace(0.001, 0.999, 99, dtype=F64)
        yield from zip(with_slope(knots.alpha, t), through_knots(knots, t), strict=True)


@identity("$Q_{1:t} = Q_t \\cdots Q_1$, for steps that do not commute", Steps.between, within=1e-14)
def the_marginal_of_steps_is_their_product_from_the_left() -> Iterator[Pair]:
    process = Steps.over(VOCABULARY, Linear(), tables={"matrix": STEPS})
    clean = one_hot(torch.arange(3), VOCABULARY.size)
    for count in (1, 2, 7, len(STEPS)):
        t = torch.full((3,), count / len(STEPS), dtype=F64)
        product = torch.eye(3, dtype=F64)
        for step in STEPS[:count]:
            product = step @ product
        yield process.marginal(clean, t)[:, :3].exp().T, product


@identity(
    "$q(x_t\\mid x_s)$ and $q(x_t\\mid x_0)$ are the matrices",
    Interpolating.likelihood,
    Matrices.likelihood,
    Interpolating.marginal,
    Matrices.marginal,
    within=1e-12,
)
def likelihood_and_marginal_are_rows_and_columns_of_one_matrix() -> Iterator[Pair]:
    for chain in chains(*WITH_STEPS):
        states = torch.tensor(chain.states)
        for s, t in ((0.0, 0.4), (0.3, 0.8)):
            clocks = [torch.full((len(states),), c, dtype=F64) for c in (s, t)]
            q = chain.between(s, t)[states][:, states]
            found = chain.ours.likelihood(chain.ids[states], *clocks).exp()[:, chain.ids[states]]
            yield found, q
        clean = one_hot(chain.ids[: chain.k], chain.vocabulary.size)
        found = chain.ours.marginal(clean, torch.full((chain.k,), 0.8, dtype=F64)).exp()[:, chain.ids[states]]
        yield found.T, chain.between(0.0, 0.8)[states][:, : chain.k]


@identity(
    "Sampling starts from the noise of flat text, and noise keeps its own law: $Q_{s:t} \\pi = \\pi$",
    prior,
    within=1e-12,
)
def noise_keeps_its_stationary_law() -> Iterator[Pair]:
    for chain in chains(*WITH_STEPS):
        start, flat = prior(chain.ours).exp()[chain.ids], torch.ones(chain.k + 1, dtype=F64) / chain.k
        flat[-1] = 0
        yield start, chain.between(0.0, 1.0) @ flat
        if chain.kind not in ("hybrid", "steps") and not chain.spec.startswith("geometric"):
            yield chain.between(0.2, 0.7) @ start, start  # the others do not end in a law that they keep


@identity(
    "The slowest mode of a generator decays as $\\alpha_t$", normalised, Generator.between, within=1e-12
)
def the_slowest_mode_of_a_generator_decays_as_alpha() -> Iterator[Pair]:
    t = torch.linspace(0.1, 0.9, 9, dtype=F64)
    ring = UserGenerator.over(VOCABULARY, Linear(), tables={"matrix": normalised(RING)})
    cells = [(chain.ours, chain.alpha_and_slope(t)[0]) for chain in chains(*BY_MATRICES)]
    for process, a in [*cells, (ring, 1 - t)]:
        modes = torch.linalg.eigvals(process.between(torch.zeros_like(t), t)).abs().sort(-1).values
        yield modes[:, -2], a


@identity(
    "The generators of uniform and absorbing noise give those processes",
    UserGenerator,
    normalised,
    within=1e-10,
)
def generators_of_uniform_and_absorbing_noise_give_those_processes() -> Iterator[Pair]:
    for chain in chains("uniform", "absorbing"):
        size = len(chain.states)
        rates = torch.full((size, size), 3.0, dtype=F64)
        if chain.kind == "absorbing":
            rates[:-1] = 0
        tables = {"matrix": normalised(rates)}
        found = UserGenerator.over(chain.vocabulary, make_schedule(chain.spec), tables=tables)
        at = points(chain, masked=chain.kind == "absorbing")
        (x, z), half = at.ids, at.t / 2
        states = chain.ids[chain.states]
        for process in (chain.ours, found):
            plain = at.each(lambda p, x, z, t, c=chain: c.between(t / 2, t)[z][c.states])
            yield process.likelihood(z, half, at.t).exp()[:, states], plain
        yield elbo(found, at.belief, x, z, at.t), elbo(chain.ours, at.belief, x, z, at.t)
        yield (
            elbo_step(found, at.belief, x, z, half, at.t),
            elbo_step(chain.ours, at.belief, x, z, half, at.t),
        )


@identity("The posterior is Bayes' rule on matrices", posterior, within=1e-11)
def the_posterior_is_bayes_rule_on_matrices() -> Iterator[Pair]:
    for chain in chains(*WITH_STEPS):
        at = points(chain)
        if chain.kind == "absorbing":
            at = replace(at, z=torch.where(at.z < chain.k, chain.k, at.z))
        found = posterior(chain.ours, at.belief, at.ids[1], at.before(0.6), at.t).exp()[:, chain.ids]
        yield found, at.each(lambda p, x, z, t, c=chain: c.bayes(p, z, c.before(t, 0.6), t))


@identity(
    "Absorbing posterior: a mask opens with $(\\alpha_s-\\alpha_t)/(1-\\alpha_t)$",
    Absorbing.opening,
    posterior,
    within=1e-12,
)
def an_absorbing_mask_opens_at_the_known_pace() -> Iterator[Pair]:
    for chain in chains("absorbing"):
        at = points(chain, masked=True)
        a_s, a_t = (chain.alpha_and_slope(c)[0] for c in (0.6 * at.t, at.t))
        opens = (a_s - a_t) / (1 - a_t)
        z = at.ids[1]
        yield at.process.opening(z, 0.6 * at.t, at.t), opens
        plain = opens[:, None] * at.p
        plain[:, -1] = 1 - opens
        yield posterior(at.process, at.belief, z, 0.6 * at.t, at.t).exp()[:, chain.ids], plain


@identity("Uniform posterior in UDLM's form (arXiv:2412.10193)", posterior, within=1e-11)
def the_uniform_posterior_has_udlms_form() -> Iterator[Pair]:
    for chain in chains("uniform"):
        at = points(chain)
        k, p = chain.k, at.p[:, : chain.k]
        z = torch.eye(k, dtype=F64)[at.z]
        a_s, a_t = (chain.alpha_and_slope(c)[0][:, None] for c in (0.6 * at.t, at.t))
        a_ts = a_t / a_s
        top = k * a_t * p * z + (a_ts - a_t) * z + (a_s - a_t) * p + (1 - a_ts) * (1 - a_s) / k
        found = posterior(at.process, at.belief, at.ids[1], 0.6 * at.t, at.t).exp()[:, chain.ids[:k]]
        yield found, top / (k * a_t * (p * z).sum(-1, keepdim=True) + 1 - a_t)


# -- what a head stands for -------------------------------------------------------------------------------


def own_say(at: Points) -> Tensor:
    """p(x_0 | x_t), (n, S): the belief of the others times what the own token says, q(z | x_0)."""

    def one(p: Tensor, x: int, z: int, t: float) -> Tensor:
        joint = p * at.chain.between(0.0, t)[z]
        return joint / joint.sum()

    return at.each(one)


@identity(
    "A head that predicts the posterior gives back the belief", Posterior.belief, leave_one_out, within=1e-9
)
def a_posterior_head_gives_back_the_belief_it_came_from() -> Iterator[Pair]:
    for chain in chains("uniform", "hybrid", "stationary"):
        at = points(chain)
        logits = spread(chain, own_say(at))
        yield Posterior().belief(at.process, logits, at.ids[1], at.t).exp()[:, chain.ids], at.p


@identity(
    "Uniform noise over $K$ symbols: the own token's logit gains $\\ln(1 + K\\alpha/(1-\\alpha))$",
    posterior,
    within=1e-11,
)
def the_own_token_gains_its_likelihood_ratio() -> Iterator[Pair]:
    for chain in chains("uniform"):
        at = points(chain)
        a = at.alpha[0]
        gain = (1 + chain.k * a / (1 - a)).log()
        logits = at.p[:, : chain.k].log()
        logits = logits + gain[:, None] * torch.eye(chain.k, dtype=F64)[at.z]
        found = posterior(at.process, at.belief, at.ids[1], torch.zeros_like(at.t), at.t)
        yield found.exp()[:, chain.ids[: chain.k]], logits.softmax(-1)


def seen_through(chain: Chain, t: Tensor) -> Tensor:
    """Times as late as may be in proportion to t (n,) while matrices have not wiped out their fast modes."""
    for share in (0.6, 0.2, 0.05, 0.01):
        last = chain.between(0.0, share * t.max().item())[: chain.k, : chain.k]
        if chain.kind not in BY_MATRICES or torch.linalg.svdvals(last).min() > 1e-2:
            return share * t
    raise AssertionError(f"{chain.kind}, {chain.spec}: nothing is seen at any time")


@identity(
    "A score head gives back the score, and the belief it came from",
    Score.score,
    Score.belief,
    Interpolating.unmix,
    Matrices.unmix,
    within=1e-8,
)
def a_score_head_gives_back_the_belief_it_came_from() -> Iterator[Pair]:
    for chain in chains(*KINDS):
        at = points(chain, masked=chain.kind == "absorbing")
        at = replace(at, t=seen_through(chain, at.t))
        flat = torch.ones(chain.k + 1, dtype=F64) / chain.k
        flat[-1] = 0

        def log_score(p: Tensor, x: int, z: int, t: float, c: Chain = chain) -> Tensor:
            noisy = c.between(0.0, t) @ p
            return (noisy / noisy[z]).log()[c.states]

        score = at.each(log_score)
        logits = torch.zeros(len(score), chain.vocabulary.size, dtype=F64)
        states = chain.ids[chain.states]
        logits[:, states] = score - at.each(lambda p, x, z, t: log_score(flat, x, z, t))  # noqa: B023
        z = at.ids[1]
        yield Score().score(at.process, logits, z, at.t)[:, states], score
        yield Score().belief(at.process, logits, z, at.t).exp()[:, chain.ids], at.p


# -- the bound in continuous time -------------------------------------------------------------------------


@identity(
    "The bound's density is the limit of $T$ times the KL of one step",
    elbo,
    general_elbo,
    within=1e-7,
)
def the_density_of_the_bound_is_the_limit_of_one_steps_kl() -> Iterator[Pair]:
    for chain in chains(*KINDS):
        at = points(chain, masked=chain.kind == "absorbing")
        clean = torch.eye(chain.k + 1, dtype=F64)

        def one(p: Tensor, x: int, z: int, t: float, c: Chain = chain, clean: Tensor = clean) -> Tensor:
            return limit(lambda h: kl(c.bayes(clean[x], z, t - h, t), c.bayes(p, z, t - h, t)))

        plain = at.each(one)
        yield elbo(at.process, at.belief, *at.ids, at.t), plain
        yield general_elbo(at.process, at.belief, *at.ids, at.t), plain


def udlm(at: Points) -> Tensor:
    """UDLM, arXiv:2412.10193, from one-hot vectors."""
    (a, slope), k = at.alpha, at.chain.k
    xb = k * a[:, None] * torch.eye(k, dtype=F64)[at.x] + 1 - a[:, None]
    xt = k * a[:, None] * at.p[:, :k] + 1 - a[:, None]
    xb_z, xt_z = (v.gather(-1, at.z[:, None]) for v in (xb, xt))
    bracket = (k / xb_z - k / xt_z)[:, 0] - (xb / xb_z * (xt_z * xb / (xt * xb_z)).log()).sum(-1)
    return slope / (k * a) * bracket


@identity("Uniform bound = UDLM's form (arXiv:2412.10193)", elbo, within=1e-10)
def the_uniform_bound_has_udlms_form() -> Iterator[Pair]:
    for chain in chains("uniform"):
        at = points(chain)
        yield elbo(at.process, at.belief, *at.ids, at.t), udlm(at)


@identity("Uniform bound = Duo's closed form without one-hots (arXiv:2506.10892)", elbo, within=1e-10)
def the_uniform_bound_has_duos_closed_form() -> Iterator[Pair]:
    for chain in chains("uniform"):
        at = points(chain)
        (a, slope), k = at.alpha, chain.k
        xt = k * a[:, None] * at.p[:, :k] + 1 - a[:, None]
        xt_x, xt_z = (xt.gather(-1, v[:, None])[:, 0] for v in (at.x, at.z))
        same = (at.x == at.z).double()
        kappa = (1 - a) / (k * a + 1 - a)
        xb_z = torch.where(same > 0, k * a + 1 - a, 1 - a)
        inner = (
            -(same * kappa + 1 - same) * (xt.log().sum(-1) - k * xt_z.log())
            - (1 - same) * (k * a / (1 - a)) * (xt_x.log() - xt_z.log())
            + ((k - 1) * kappa * same - (1 - same) / kappa) * kappa.log()
        )
        plain = slope / (k * a) * (k / xb_z - k / xt_z - inner)
        yield elbo(at.process, at.belief, *at.ids, at.t), plain


@identity(
    "Uniform bound = SEDD's score entropy of $\\ln s_y = \\ln(\\bar x_y/\\bar x_z)$ (arXiv:2310.16834)",
    elbo,
    score_entropy,
    within=1e-10,
)
def the_uniform_bound_is_sedds_score_entropy() -> Iterator[Pair]:
    for chain in chains("uniform"):
        at = points(chain)
        (a, slope), k = at.alpha, chain.k
        xt = k * a[:, None] * at.p[:, :k] + 1 - a[:, None]
        xb = k * a[:, None] * torch.eye(k, dtype=F64)[at.x] + 1 - a[:, None]
        log_s = (xt / xt.gather(-1, at.z[:, None])).log()
        ratio = xb / xb.gather(-1, at.z[:, None])
        constant = ratio * (ratio.log() - 1)
        others = 1 - torch.eye(k, dtype=F64)[at.z]
        plain = ((-slope / a / k)[:, None] * (log_s.exp() - ratio * log_s + constant) * others).sum(-1)
        yield elbo(at.process, at.belief, *at.ids, at.t), plain
        logits = torch.full((len(log_s), chain.vocabulary.size), LOG_ZERO, dtype=F64)
        logits[:, chain.ids[:k]] = log_s
        yield score_entropy(at.process, logits, *at.ids, at.t), plain


def absorbing_nelbo(at: Points) -> Tensor:
    (a, slope), rows = at.alpha, torch.arange(len(at.x))
    return torch.where(at.z == at.chain.k, slope / (1 - a) * at.p[rows, at.x].log(), 0.0)


@identity(
    "Absorbing bound: $-\\alpha'/(1-\\alpha)$ times the cross-entropy at masks (arXiv:2406.07524)",
    elbo,
    Interpolating.loss_weight,
    within=1e-11,
)
def the_absorbing_bound_is_a_weighted_cross_entropy() -> Iterator[Pair]:
    for chain in chains("absorbing"):
        for masked in (True, False):
            at = points(chain, masked=masked)
            yield elbo(at.process, at.belief, *at.ids, at.t), absorbing_nelbo(at)


@identity(
    "SEDD's score entropy with $s = x_\\theta/(e^\\sigma - 1)$ = absorbing bound",
    score_entropy,
    elbo,
    within=1e-10,
)
def sedds_absorbing_score_entropy_is_the_absorbing_bound() -> Iterator[Pair]:
    for chain in chains("absorbing"):
        at = points(chain, masked=True)
        (a, slope), k = at.alpha, chain.k
        sigma = -a.log()[:, None]
        s = at.p[:, :k] / (sigma.exp() - 1)
        ratio = torch.eye(k, dtype=F64)[at.x] / (sigma.exp() - 1)
        constant = torch.where(ratio > 0, ratio * (ratio.log() - 1), 0.0)
        terms = s - torch.where(ratio > 0, ratio * s.log(), 0.0) + constant
        plain = -slope / a * terms.sum(-1)
        yield plain, absorbing_nelbo(at)
        logits = torch.full((len(s), chain.vocabulary.size), LOG_ZERO, dtype=F64)
        logits[:, chain.ids[:k]] = s.log()
        yield score_entropy(at.process, logits, *at.ids, at.t), plain
        yield elbo(at.process, at.belief, *at.ids, at.t), plain


def gidd(at: Points, m: Tensor, m_slope: Tensor, kept: Tensor, kept_slope: Tensor) -> Tensor:
    """GIDD, arXiv:2503.04482: w [KL(q || q') + r - ln r - 1], with noise m (n, S) and its slope."""
    rows = torch.arange(len(at.x))
    q = kept[:, None] * torch.eye(at.chain.k + 1, dtype=F64)[at.x] + m
    q_belief = kept[:, None] * at.p + m
    weight = (m_slope - (kept_slope / kept)[:, None] * m)[rows, at.z] / q[rows, at.z]
    r = q[rows, at.z] / q_belief[rows, at.z]
    divergence = torch.where(q > 0, q * (q / q_belief).log(), 0.0).sum(-1)
    return weight * (divergence + r - r.log() - 1)


@identity("Hybrid bound = GIDD's form (arXiv:2503.04482)", elbo, Hybrid.shares, within=1e-9)
def the_hybrid_bound_has_gidds_form() -> Iterator[Pair]:
    """Written in GIDD's own time, of which so much passes in an instant."""
    for chain in chains("hybrid"):
        at = points(chain)
        kept, slope = at.alpha
        a = 1 - torch.tensor([gidds_time(k) for k in kept.tolist()], dtype=F64)[:, None]
        root = (a * (1 - a)).sqrt()
        odds = P_UNIFORM / (1 - P_UNIFORM) * 2 * root
        odds_slope = P_UNIFORM / (1 - P_UNIFORM) * (2 * a - 1) / root
        flat = torch.full((1, chain.k + 1), 1 / chain.k, dtype=F64)
        flat[:, -1] = 0
        mask = 1 - (flat > 0).double()
        top, top_slope = (1 - a) * mask + odds * flat, mask + odds_slope * flat
        m_slope = top_slope / (1 + odds) - top * odds_slope / (1 + odds) ** 2
        kept_slope = (-1 / (1 + odds) - a * odds_slope / (1 + odds) ** 2)[:, 0]
        plain = gidd(at, top / (1 + odds), m_slope, kept, kept_slope)
        yield elbo(at.process, at.belief, *at.ids, at.t), plain * slope / kept_slope


@identity("Bound of any fixed law $\\pi$ = GIDD's form", elbo, Stationary.laws.func, within=1e-10)
def the_bound_of_any_fixed_law_has_gidds_form() -> Iterator[Pair]:
    for chain in chains("stationary"):
        at = points(chain)
        a, slope = at.alpha
        law = torch.cat([chain.law, torch.zeros(1, dtype=F64)])
        plain = gidd(at, (1 - a)[:, None] * law, -slope[:, None] * law, a, slope)
        yield elbo(at.process, at.belief, *at.ids, at.t), plain


@identity("Noise of the uniform law given by hand = uniform noise", elbo, posterior, within=1e-10)
def the_uniform_law_given_by_hand_is_uniform_noise() -> Iterator[Pair]:
    for chain in chains("uniform"):
        at = points(chain)
        weights = chain.vocabulary.is_text.double() * 5
        found = Stationary.over(chain.vocabulary, make_schedule(chain.spec), tables={"weights": weights})
        yield elbo(found, at.belief, *at.ids, at.t), udlm(at)
        z = at.ids[1]
        yield tuple(posterior(each, at.belief, z, at.t / 2, at.t).exp() for each in (found, at.process))


@identity(
    "Hybrid noise becomes absorbing as $p \\to 0$ (the mean over $x_t$, $p = 10^{-10}$)",
    elbo,
    Hybrid.shares,
    within=1e-6,
)
def hybrid_noise_becomes_absorbing_as_its_share_vanishes() -> Iterator[Pair]:
    for chain in chains("absorbing"):
        at = points(chain, masked=True)
        (a, _), (x, z) = at.alpha, at.ids
        schedule = make_schedule(chain.spec)
        yield elbo(Hybrid(chain.vocabulary, schedule, 0.0), at.belief, x, z, at.t), absorbing_nelbo(at)
        nearly = Hybrid(chain.vocabulary, schedule, 1e-10)
        law = nearly.marginal(one_hot(x, chain.vocabulary.size), at.t).exp()
        mean = torch.zeros_like(at.t)
        for state in chain.ids:
            to = torch.full_like(x, int(state))
            mean += law[:, int(state)] * elbo(nearly, at.belief, x, to, at.t)
        yield mean, (1 - a) * absorbing_nelbo(at)


@identity(
    "Hybrid noise becomes uniform as $p \\to 1$ ($p = 1 - 10^{-10}$)",
    elbo,
    posterior,
    Hybrid.shares,
    within=1e-9,
)
def hybrid_noise_becomes_uniform_as_masks_vanish() -> Iterator[Pair]:
    for chain in chains("uniform"):
        at = points(chain)
        nearly = Hybrid(chain.vocabulary, make_schedule(chain.spec), 1 - 1e-10)
        x, z = at.ids
        yield elbo(nearly, at.belief, x, z, at.t), elbo(at.process, at.belief, x, z, at.t)
        start = torch.zeros_like(at.t)
        yield tuple(elbo_step(each, at.belief, x, z, start, at.t) for each in (nearly, at.process))
        yield tuple(each.marginal(at.belief, at.t).exp()[:, chain.ids] for each in (nearly, at.process))


def flow_matching(at: Points) -> Tensor:
    """The generalised KL of discrete flow matching (arXiv:2412.03487), on mixture paths, kappa = alpha."""
    (a, slope), rows = at.alpha, torch.arange(len(at.x))
    says = own_say(at)
    hit = (at.x == at.z).double()
    jump = torch.where(hit > 0, torch.zeros_like(hit), says[rows, at.x].log())
    return slope / (1 - a) * (says[rows, at.z] - hit + jump)


@identity(
    "Discrete flow matching's generalised KL = absorbing bound, at masks and elsewhere", elbo, within=1e-11
)
def flow_matchings_generalised_kl_is_the_absorbing_bound() -> Iterator[Pair]:
    for chain in chains("absorbing"):
        for masked in (True, False):
            at = points(chain, masked=masked)
            at = replace(at, z=torch.where(at.z < chain.k, at.x, at.z))  # what absorbing noise can show
            yield elbo(at.process, at.belief, *at.ids, at.t), flow_matching(at)


# -- T steps ----------------------------------------------------------------------------------------------


@identity("One step's cost is the KL of two posteriors", elbo_step, general_elbo_step, within=1e-10)
def one_steps_cost_is_the_kl_of_two_posteriors() -> Iterator[Pair]:
    for chain, share in itertools.product(chains(*WITH_STEPS), (0.0, 0.7)):
        at = points(chain, masked=chain.kind == "absorbing")
        clean = torch.eye(chain.k + 1, dtype=F64)

        def one(
            p: Tensor, x: int, z: int, t: float, c: Chain = chain, e: Tensor = clean, share: float = share
        ) -> Tensor:
            s = c.before(t, share)
            return kl(c.bayes(e[x], z, s, t), c.bayes(p, z, s, t))

        plain = at.each(one)
        for form in (elbo_step, general_elbo_step):
            yield form(at.process, at.belief, *at.ids, at.before(share), at.t), plain


@identity(
    "Absorbing step: $(\\alpha_s-\\alpha_t)/(1-\\alpha_t)$ times the cross-entropy", elbo_step, within=1e-12
)
def an_absorbing_step_is_a_weighted_cross_entropy() -> Iterator[Pair]:
    for chain in chains("absorbing"):
        at = points(chain, masked=True)
        a_s, a_t = (chain.alpha_and_slope(c)[0] for c in (0.7 * at.t, at.t))
        cost = -at.p[torch.arange(len(at.x)), at.x].log()
        yield elbo_step(at.process, at.belief, *at.ids, 0.7 * at.t, at.t), (a_s - a_t) / (1 - a_t) * cost


@identity("D3PM's absorbing KL of a belief that may put weight on the mask", general_elbo_step, within=1e-11)
def d3pms_kl_allows_for_weight_on_the_mask() -> Iterator[Pair]:
    for chain, share in itertools.product(chains("absorbing"), (0.0, 0.7)):
        at = points(chain, masked=True, on_mask=True)
        clean = torch.eye(chain.k + 1, dtype=F64)

        def brute(
            p: Tensor, x: int, z: int, t: float, c: Chain = chain, e: Tensor = clean, share: float = share
        ) -> Tensor:
            return kl(c.bayes(e[x], z, share * t, t), c.bayes(p, z, share * t, t))

        a_t = at.alpha[0]
        a_s = chain.alpha_and_slope(share * at.t)[0] if share else torch.ones_like(a_t)
        on_mask, on_x = at.p[:, -1], at.p[torch.arange(len(at.x)), at.x]
        more = (a_t * on_mask / (1 - a_t)).log1p()
        less = (a_s * on_mask / (1 - a_s)).log1p() if share else torch.zeros_like(more)
        closed = (a_s - a_t) / (1 - a_t) * (more - on_x.log()) + (1 - a_s) / (1 - a_t) * (more - less)
        yield closed, at.each(brute)
        yield general_elbo_step(at.process, at.belief, *at.ids, share * at.t, at.t), closed


@identity(
    "D3PM's hybrid loss: $T$ times the KL, and $\\lambda$ times the cross-entropy (arXiv:2107.03006)",
    D3pmHybrid,
    cross_entropy,
    within=1e-9,
)
def d3pms_hybrid_loss_adds_the_posteriors_cross_entropy() -> Iterator[Pair]:
    steps = COUNT
    for chain in chains(*WITH_STEPS):
        at = points(chain, masked=chain.kind == "absorbing")
        at = replace(at, t=(at.t * steps).ceil() / steps)
        clean = torch.eye(chain.k + 1, dtype=F64)

        def one(p: Tensor, x: int, z: int, t: float, c: Chain = chain, e: Tensor = clean) -> Tensor:
            s = max(0.0, t - 1 / steps) if t > 1.5 / steps else 0.0
            return (
                steps * kl(c.bayes(e[x], z, s, t), c.bayes(p, z, s, t)) - 0.3 * c.bayes(p, z, 0.0, t)[x].log()
            )

        objective = D3pmHybrid(steps, share=0.3)
        yield objective(at.process, at.belief, *at.ids, at.t), at.each(one)


# -- the prior term ---------------------------------------------------------------------------------------


@identity(
    "Uniform prior term: $\\mathrm{KL}(q_1 \\parallel U)$ of a schedule that ends above 0",
    prior_term,
    within=1e-14,
)
def the_uniform_prior_term_is_the_kl_to_the_flat_law() -> Iterator[Pair]:
    x = torch.arange(ALPHABET.size - 2)
    k = len(x)
    for largest in (0.5, 2.0, 5.0, 20.0):
        a = math.exp(-largest)
        plain = (a + (1 - a) / k) * math.log1p((k - 1) * a) + (1 - 1 / k) * (1 - a) * math.log1p(-a)
        found = prior_term(Uniform.over(ALPHABET, make_schedule(f"geometric:{largest}")), x)
        yield found, torch.full((k,), plain, dtype=F64)


@identity("Absorbing prior term: $\\alpha_1 \\ln K$", prior_term, within=1e-14)
def the_absorbing_prior_term_is_what_is_left_times_the_alphabet() -> Iterator[Pair]:
    x = torch.arange(ALPHABET.size - 2)
    for largest in (0.5, 2.0, 5.0, 20.0):
        found = prior_term(Absorbing.over(ALPHABET, make_schedule(f"geometric:{largest}")), x)
        yield found, torch.full((len(x),), math.exp(-largest) * math.log(len(x)), dtype=F64)


# -- whole strings: bound and likelihood ------------------------------------------------------------------


def small_chains(specs: tuple[str, ...], kinds: tuple[str, ...] = KINDS) -> list[Chain]:
    return chains(*kinds, specs=specs, vocabulary=VOCABULARY)


def noisy_strings(chain: Chain, length: int) -> Tensor:
    """Every string (Z, L) of states that the chain can be in."""
    return torch.tensor(list(itertools.product(chain.states, repeat=length)))


def pick(table: Tensor, strings: Tensor) -> Tensor:
    """table (Z, L, K) at each string (N, L): (N, Z, L)."""
    return torch.stack([table[:, i, strings[:, i]].T for i in range(strings.shape[1])], -1)


def string_costs(
    chain: Chain, belief: Tensor, strings: Tensor, noisy: Tensor, t: Tensor, s: Tensor | None = None
) -> Tensor:
    """The mean over x_t of the package's cost of each string, (T, N), by beliefs (T, Z, L, K) at times (T,):
    densities, or steps from t down to s."""
    shape = (len(t), chain.k, *noisy.shape)
    log_p0 = spread(chain, torch.nn.functional.pad(belief, (0, 1)))[:, None].expand(*shape, -1)
    x0 = chain.ids[: chain.k][:, None, None].expand(shape)
    xt = chain.ids[noisy].expand(shape)
    clock = t[:, None, None, None].expand(shape)
    if s is None:
        cost = elbo(chain.ours, log_p0, x0, xt, clock)
    else:
        cost = elbo_step(chain.ours, log_p0, x0, xt, s[:, None, None, None].expand(shape), clock)
    found = []
    for now, each in zip(t.tolist(), cost.movedim(1, -1), strict=True):
        chance = pick(chain.between(0.0, now)[noisy][:, :, : chain.k], strings)  # (N, Z, L), q(z_i | x_i)
        found.append((chance.prod(-1) * pick(each, strings).sum(-1)).sum(-1))
    return torch.stack(found)


def exact_belief(chain: Chain, strings: Tensor, p: Tensor, noisy: Tensor, t: float) -> Tensor:
    """p(x_0^i | the other positions of x_t), (Z, L, K), by enumeration."""
    each = pick(chain.between(0.0, t)[noisy][:, :, : chain.k], strings)  # (N, Z, L)
    belief = torch.zeros(*noisy.shape, chain.k, dtype=F64)
    for i, symbol in itertools.product(range(noisy.shape[1]), range(chain.k)):
        others = torch.cat([each[..., :i], each[..., i + 1 :]], -1).prod(-1)
        belief[:, i, symbol] = (p[:, None] * others)[strings[:, i] == symbol].sum(0)
    total = belief.sum(-1, keepdim=True)  # 0 for what cannot occur
    return torch.where(total > 0, belief / total, 1 / chain.k)


def random_belief(noisy: Tensor, seed: int, k: int = 3) -> Tensor:
    """A belief (Z, L, K) that is nobody's posterior."""
    rng = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(*noisy.shape, k, generator=rng, dtype=F64)).softmax(-1)


def crowded(count: int) -> tuple[Tensor, Tensor]:
    """Nodes of a quadrature over (0, 1), and their weights, (count,) each: crowded at both ends, where noise
    may have roots and logarithms of time."""
    u, weight = gauss_legendre(count)
    return u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3), weight * 140 * (u * (1 - u)) ** 3


def whole_bound(
    chain: Chain, belief_at: Callable[[float], Tensor], strings: Tensor, noisy: Tensor, count: int = 80
) -> Tensor:
    """The continuous bound of each string, (N,): the prior, the integral by quadrature over what is lost, and
    the reconstruction of what a jump at 0 has lost."""

    def costs(t: Tensor, s: Tensor | None = None) -> Tensor:
        beliefs = torch.stack([belief_at(now) for now in t.tolist()])
        return string_costs(chain, beliefs, strings, noisy, t, s)

    bound = prior_term(chain.ours, chain.ids[strings]).sum(-1)
    begun, end = 1 - chain.alpha(1e-15), 1 - chain.alpha(1.0)
    begun = begun if begun > 1e-9 else 0.0
    shares, weights = crowded(count)
    t = chain.ours.schedule.when(begun + (end - begun) * shares)
    weights = weights * (end - begun) / -chain.alpha_and_slope(t)[1]
    bound = bound + (weights[:, None] * costs(t)).sum(0)
    if begun:
        bound = bound + costs(torch.tensor([1e-15], dtype=F64), torch.zeros(1, dtype=F64))[0]
    return bound


@identity(
    "The bound of an exact belief is $-\\ln p(x)$, string by string ($3^4$ strings, by quadrature)",
    elbo,
    prior_term,
    within=1e-5,
)
def the_bound_of_an_exact_belief_is_the_likelihood_of_every_string() -> Iterator[Pair]:
    for length, specs, count in ((4, SCHEDULES[:1], 80), (2, SCHEDULES[1:], 40)):
        strings, log_p = world(length)
        for chain in small_chains(specs):
            noisy = noisy_strings(chain, length)

            def exact(t: float, c: Chain = chain, z: Tensor = noisy, x: Tensor = strings) -> Tensor:
                return exact_belief(c, x, log_p.exp(), z, t)  # noqa: B023

            yield whole_bound(chain, exact, strings, noisy, count), -log_p


@identity(
    "Continuous bound $\\ge -\\ln p_\\theta(x)$ for a wrong belief and every string ($3^2$)",
    elbo,
    prior_term,
    within=1e-6,
)
def the_continuous_bound_of_a_wrong_belief_is_at_least_its_own_likelihood() -> Iterator[Pair]:
    """The model's law by many steps, extrapolated to infinitely many."""
    strings, _ = world(2)
    for chain in small_chains(SCHEDULES, KINDS[1:]):
        noisy = noisy_strings(chain, 2)
        belief = random_belief(noisy, 5)
        where = torch.tensor([noisy.tolist().index(row) for row in strings.tolist()])
        laws = []
        for steps in (32, 64):
            times = [(k / steps) ** 2 * (3 - 2 * k / steps) for k in range(steps, -1, -1)]
            laws.append(model_of_steps(chain, [belief] * steps, noisy, times)[where])
        nll = -(2 * laws[1] - laws[0]).log()
        bound = whole_bound(chain, lambda t, b=belief: b, strings, noisy, 30)
        yield torch.minimum(bound, nll), nll


def model_of_steps(chain: Chain, beliefs: list[Tensor], noisy: Tensor, times: list[float]) -> Tensor:
    """The law of x_0 over `noisy` (Z,) of a reverse chain through `times`, from 1 down to 0."""
    flat = torch.ones(chain.k + 1, dtype=F64) / chain.k
    flat[-1] = 0
    law = (chain.between(0.0, times[0]) @ flat)[noisy].prod(-1)
    for belief, (t, s) in zip(beliefs, itertools.pairwise(times), strict=True):
        believed = torch.nn.functional.pad(belief, (0, 1)) @ chain.between(0.0, s).T  # (Z, L, S)
        after = chain.between(s, t)[noisy] * believed  # q(x_t = z | x_s = y) p(x_s = y)
        after = after / after.sum(-1, keepdim=True).clamp(min=1e-300)  # 0 from what cannot occur
        step = pick(after, noisy).prod(-1)  # (Z to, Z from)
        law = step @ law
    return law


@identity(
    "The bound of $T$ steps is at least $-\\ln p_\\theta(x)$, for any belief and every string ($3^4$)",
    elbo_step,
    prior_term,
    within=1e-10,
)
def the_bound_of_any_steps_is_at_least_the_models_own_likelihood() -> Iterator[Pair]:
    strings, log_p = world(4)
    ids = {tuple(row): i for i, row in enumerate(strings.tolist())}
    times = [1.0, 0.75, 0.5, 0.3, 0.1, 0.0]
    for chain in small_chains((*SCHEDULES, "geometric:2"), WITH_STEPS):
        noisy = noisy_strings(chain, 4)
        exact = [exact_belief(chain, strings, log_p.exp(), noisy, t) for t in times[:-1]]
        wrong = [random_belief(noisy, seed) for seed in range(len(times) - 1)]
        where = torch.tensor([noisy.tolist().index(list(row)) for row in ids])
        for beliefs in (exact, wrong):
            law = model_of_steps(chain, beliefs, noisy, times)
            t, s = torch.tensor([times[:-1], times[1:]], dtype=F64)
            bound = prior_term(chain.ours, chain.ids[strings]).sum(-1)
            bound = bound + string_costs(chain, torch.stack(beliefs), strings, noisy, t, s).sum(0)
            nll = -law[where].log()
            yield law.sum()[None], torch.ones(1, dtype=F64)
            yield torch.minimum(bound, nll), nll


def costs_of_steps(chain: Chain, count: int, strings: Tensor, log_p: Tensor, noisy: Tensor) -> Tensor:
    """What even steps cost an exact belief, of each string, (N,)."""
    t = torch.arange(1, count + 1, dtype=F64) / count
    beliefs = [exact_belief(chain, strings, log_p.exp(), noisy, now) for now in t.tolist()]
    return string_costs(chain, torch.stack(beliefs), strings, noisy, t, (t - 1 / count).clamp(min=0)).sum(0)


@identity(
    "One position: the bound of an exact belief is $-\\ln p(x)$ in any number of steps",
    elbo_step,
    prior_term,
    within=1e-10,
)
def one_position_costs_its_likelihood_in_any_number_of_steps() -> Iterator[Pair]:
    """Where a chain does not quite forget, q(x_1) is not the prior, which the bound pays for."""
    strings, log_p = world(1)
    for chain, count in itertools.product(small_chains(SCHEDULES, WITH_STEPS), (1, 5)):
        noisy, p = noisy_strings(chain, 1), log_p.exp()
        bound = prior_term(chain.ours, chain.ids[strings]).sum(-1)
        bound = bound + costs_of_steps(chain, count, strings, log_p, noisy)
        last = chain.between(0.0, 1.0)[:, : chain.k]
        start, flat = last @ p, last.mean(-1)
        paid = torch.where(start > 0, (start / flat).log(), 0.0)
        yield bound, paid @ last - log_p


def excess(chain: Chain, steps: int) -> Tensor:
    """What even steps cost an exact belief above the entropy, in the mean over a small world."""
    strings, log_p = world(2)
    costs = costs_of_steps(chain, steps, strings, log_p, noisy_strings(chain, 2))
    return (log_p.exp() * (log_p + costs)).sum()


@identity("The excess of $T$ steps falls as $1/T$: twice as many halve it", elbo_step, within=0.03)
def the_excess_of_steps_falls_as_one_over_their_number() -> Iterator[Pair]:
    """On every schedule but gidd's: noise that begins as a root of time is too fast for even steps."""
    for chain in small_chains(tuple(spec for spec in SCHEDULES if not spec.startswith("gidd"))):
        coarse, fine = excess(chain, 48), excess(chain, 96)
        yield (coarse / fine)[None], torch.tensor([2.0], dtype=F64)
        yield fine.clamp(max=0)[None], torch.zeros(1, dtype=F64)  # and stays above


# -- absorbing noise, orders and counts -------------------------------------------------------------------

LENGTH = 3


class Table:
    """A network by heart: a random belief for every string over symbols and mask, whatever the clock."""

    def __init__(self, length: int = LENGTH) -> None:
        self.chain = Chain("absorbing", "linear", VOCABULARY)
        self.noisy = noisy_strings(self.chain, length)
        self.belief = random_belief(self.noisy, 11)

    def row(self, states: Tensor) -> Tensor:
        """Which row of `noisy` each string of states (..., L) is."""
        return (states * 4 ** torch.arange(states.shape[-1]).flip(0)).sum(-1)

    def cost(self, x: Tensor, hidden: Tensor) -> Tensor:
        """-ln p(x_i | what is not hidden), (L,), of one string x (L,)."""
        row = int(self.row(torch.where(hidden, 3, x)))
        return -self.belief[row].gather(-1, x[:, None])[:, 0].log()

    def __call__(self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        states = torch.where(xt == VOCABULARY.mask_id, 3, xt)
        belief = torch.nn.functional.pad(self.belief[self.row(states)], (0, 1))
        return spread(self.chain, belief)[rows]


class Prepared:
    """Uniform numbers that were written down before."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def uniform(self, *shape: int) -> Tensor:
        assert self.numbers.shape[1:] == shape
        return self.numbers


def every_order() -> Tensor:
    return torch.tensor(list(itertools.permutations(range(LENGTH))))


def per_count(strings: Tensor, denoiser: Denoiser | None = None) -> tuple[Tensor, Tensor]:
    """The package's estimate, averaged over every count and every order: strict and as published, (N,)."""
    orders = every_order()
    draws = [(x, order, n) for x in strings for order in orders for n in range(1, LENGTH + 1)]
    x0 = torch.stack([x for x, _, _ in draws])
    ranks = torch.stack([order for _, order, _ in draws]).double() / LENGTH
    u = torch.tensor([(n - 0.5) / LENGTH for _, _, n in draws], dtype=F64)
    process = Chain("absorbing", "linear", VOCABULARY).ours
    nats = nelbo(process, denoiser or Table(), x0, torch.ones(x0.shape, dtype=torch.bool), u, Prepared(ranks))
    each = len(orders) * LENGTH
    return tuple(v.sum(-1).view(len(strings), each).mean(-1) for v in (nats.strict, nats.literature))


def over_subsets(x: Tensor, weight: Callable[[int], float]) -> Tensor:
    """sum over sets of hidden positions of weight(size) times the cost of the hidden, for one string."""
    table, total = Table(), torch.zeros((), dtype=F64)
    for bits in itertools.product((False, True), repeat=LENGTH):
        hidden = torch.tensor(bits)
        if hidden.any():
            total = total + weight(int(hidden.sum())) * (table.cost(x, hidden) * hidden).sum()
    return total


def mask_integral(n: int, start: float) -> float:
    """The integral from `start` to 1 of t^(n-1) (1-t)^(L-n) dt, which is how n hidden positions count."""
    rest = LENGTH - n
    terms = (math.comb(rest, j) * (-1) ** j * (1 - start ** (n + j)) / (n + j) for j in range(rest + 1))
    return sum(terms)


@identity(
    "Per-count form = the integral over time, strict and from $t = 0.001$",
    in_continuous_time,
    nelbo,
    within=1e-12,
)
def the_per_count_form_is_the_integral_over_time() -> Iterator[Pair]:
    strings = world(LENGTH)[0]
    for found, start in zip(per_count(strings), (0.0, 1e-3), strict=True):
        yield found, torch.stack([over_subsets(x, lambda n, s=start: mask_integral(n, s)) for x in strings])


def order_costs(x: Tensor) -> Tensor:
    """-ln of the product of beliefs along each order, (orders,)."""
    table, costs = Table(), []
    for order in every_order():
        hidden, cost = torch.ones(LENGTH, dtype=torch.bool), torch.zeros((), dtype=F64)
        for i in order:
            cost = cost + table.cost(x, hidden)[i]
            hidden = hidden.index_fill(0, i, False)
        costs.append(cost)
    return torch.stack(costs)


@identity(
    "Absorbing bound = the mean over all orders of an autoregressive cost (arXiv:2110.02037)",
    in_continuous_time,
    within=1e-12,
)
def the_absorbing_bound_is_any_order_autoregression() -> Iterator[Pair]:
    strings = world(LENGTH)[0]
    yield per_count(strings)[0], torch.stack([order_costs(x).mean() for x in strings])


@identity(
    "Absorbing bound $\\ge -\\ln p_\\theta(x)$, the mean over orders of the product, for any belief",
    in_continuous_time,
    within=1e-12,
)
def the_absorbing_bound_is_at_least_the_likelihood_over_orders() -> Iterator[Pair]:
    strings = world(LENGTH)[0]
    nll = torch.stack([-(-order_costs(x)).exp().mean().log() for x in strings])
    yield torch.minimum(per_count(strings)[0], nll), nll
    yield (-nll).exp().sum()[None], torch.ones(1, dtype=F64)


@identity(
    "In $\\alpha$ instead of $t$, the bound's density is the same for every schedule", elbo, within=1e-9
)
def a_bound_depends_on_its_schedule_through_alpha_alone() -> Iterator[Pair]:
    for chain in chains(*KINDS):
        at = points(chain, masked=chain.kind == "absorbing")
        a, slope = at.alpha
        linear = replace(chain, spec="linear").ours
        found = elbo(at.process, at.belief, *at.ids, at.t) / -slope
        yield found * (1 - a), elbo(linear, at.belief, *at.ids, 1 - a) * (1 - a)


@identity("The absorbing bound does not depend on the schedule", elbo, elbo_step, prior_term, within=1e-7)
def the_absorbing_bound_does_not_depend_on_the_schedule() -> Iterator[Pair]:
    strings, table = world(LENGTH)[0], Table()
    plain = torch.stack([over_subsets(x, lambda n: mask_integral(n, 0.0)) for x in strings])
    for chain in small_chains(SCHEDULES, ("absorbing",)):
        # the end of geometric, exp(-20) of the text, is paid by the prior term, to the order of itself
        yield whole_bound(chain, lambda t: table.belief, strings, table.noisy), plain


@identity(
    "Autoregressive baseline: the chain rule gives $-\\ln p(x)$, no bound",
    in_continuous_time,
    elbo,
    within=1e-12,
)
def the_autoregressive_cost_is_the_likelihood() -> Iterator[Pair]:
    strings, log_p = world(LENGTH)

    def conditional(xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
        belief = torch.zeros(*xt.shape, 4, dtype=F64)
        for b, i, symbol in itertools.product(range(len(xt)), range(LENGTH), range(3)):
            before = (strings[:, :i] == xt[b, :i]).all(-1)
            belief[b, i, symbol] = log_p.exp()[before & (strings[:, i] == symbol)].sum()
        return spread(Chain("absorbing", "linear", VOCABULARY), belief / belief.sum(-1, keepdim=True))[rows]

    process = Autoregressive.over(VOCABULARY, Linear())
    running = torch.ones(strings.shape, dtype=torch.bool)
    nats = nelbo(
        process, conditional, strings, running, torch.zeros(len(strings), dtype=F64), Prepared(running)
    )
    yield nats.strict.sum(-1), -log_p


@identity(
    "Blocks of one position: the bound is $-\\ln p(x)$ by the chain rule (arXiv:2503.09573)",
    nelbo,
    in_continuous_time,
    within=1e-12,
)
def blocks_of_one_position_cost_the_likelihood() -> Iterator[Pair]:
    strings, log_p = world(4)
    process = Absorbing.over(VOCABULARY, Linear())
    running = torch.ones(strings.shape, dtype=torch.bool)
    for seed in range(3):  # whatever is drawn
        rng = OneStream(len(strings), seed)
        nats = nelbo(process, ExactBlocks(process, strings, log_p, 1), strings, running, rng.uniform(4), rng)
        yield nats.strict.sum(-1), -log_p


@identity(
    "One block as long as the text: the bound is the plain one, over every count and order",
    nelbo,
    in_continuous_time,
    within=1e-12,
)
def one_block_as_long_as_the_text_has_the_plain_bound() -> Iterator[Pair]:
    strings, log_p = world(LENGTH)
    process = Absorbing.over(VOCABULARY, Linear())
    whole = per_count(strings, ExactBlocks(process, strings, log_p, LENGTH))
    yield whole[0], -log_p
    yield from zip(whole, per_count(strings, ExactDenoiser(process, strings, log_p)), strict=True)


# -- steps that keep the marginals ------------------------------------------------------------------------


CLOCKS = ((0.45, 0.7), (0.1, 0.95), (0.0, 0.3), (0.5, 0.5))  # the last stand still


def revised(chain: Chain, sampler: Revising, x: int, s: float, t: float) -> Tensor:
    """The law at s, (S,), that a sampler's chances make of that at t, where x_0 is known to be x."""
    opens, again = (float(v) for v in sampler.odds(chain.ours, *torch.tensor([s, t], dtype=F64)))
    law = chain.between(0.0, t)[:, x]
    after = torch.zeros_like(law)
    after[x] = law[x] * (1 - again) + law[-1] * opens
    after[-1] = law[x] * again + law[-1] * (1 - opens)
    return after


@identity(
    "ReMDM's chances keep $q(x_s\\mid x_0)$, capped, rescaled and in a loop (arXiv:2503.00307)",
    Remask.odds,
    RescaledRemask.sigma,
    LoopedRemask.odds,
    within=1e-13,
)
def remasking_keeps_the_marginals() -> Iterator[Pair]:
    samplers = [
        kind(strength)
        for kind, strength in itertools.product((Remask, RescaledRemask, LoopedRemask), (0.0, 0.04, 0.3, 1.0))
    ]
    for chain, sampler, (s, t) in itertools.product(chains("absorbing"), samplers, CLOCKS):
        for x in range(chain.k):
            yield revised(chain, sampler, x, s, t), chain.between(0.0, s)[:, x]


@identity(
    "Predictor-corrector steps keep the marginals, of masks and of any noise (arXiv:2602.21185)",
    MaskCorrector.odds,
    TokenCorrector.law,
    within=1e-12,
)
def predictor_corrector_mixtures_keep_the_marginals() -> Iterator[Pair]:
    for kappa, (s, t) in itertools.product((0.0, 0.4, 1.0), CLOCKS):
        for chain, x in itertools.product(chains("absorbing"), range(3)):
            yield revised(chain, MaskCorrector(kappa), x, s, t), chain.between(0.0, s)[:, x]
        for chain in chains(*WITH_STEPS[1:]) if s < t else ():
            # given x_0, a belief of one who knows it; else the exact one of a single position
            beliefs = torch.cat([torch.eye(chain.k + 1, dtype=F64)[:3], points(chain, 2).p])
            law, wanted = (beliefs @ chain.between(0.0, c).T for c in (t, s))
            states = torch.tensor([z for z in chain.states if law[-1, z] > 0])
            z, belief = chain.ids[states].expand(len(law), -1), spread(chain, beliefs)[:, None]
            clocks = (torch.full(z.shape, c, dtype=F64) for c in (s, t))
            mixed = TokenCorrector(kappa).law(chain.ours, belief.expand(*z.shape, -1), z, *clocks)
            yield torch.einsum("nz,nzs->ns", law[:, states], mixed.exp()[..., chain.ids]), wanted
