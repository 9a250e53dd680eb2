"""Worlds small enough to enumerate: every string, its probability, and what an exact belief would say."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ddcli.process import PROCESSES, Generator, Vocabulary, one_hot, prior
from ddcli.process.matrix import normalised
from ddcli.randomness import LOG_ZERO
from ddcli.schedule import INFORMATION, SCHEDULES, Linear

SYMBOLS = 3  # ids 0, 1, 2 are text; then a pad and a mask, which are not
VOCABULARY = Vocabulary(size=SYMBOLS + 2, mask_id=SYMBOLS + 1, special_ids=(SYMBOLS, SYMBOLS + 1))
F64 = torch.float64

# three symbols that drift in a ring, one way faster than the other: no symmetry to hide behind
RING = torch.tensor([[-1.3, 0.2, 0.9], [1.0, -0.7, 0.3], [0.3, 0.5, -1.2]], dtype=F64)
# twenty steps that do not commute, and leave a little of the text at the end
STEPS = torch.stack(
    [torch.linalg.matrix_exp(0.04 * k * RING.roll((k % 3, k % 3), (0, 1))) for k in range(1, 21)]
)
COUNTS = np.array([5, 3, 1, 0, 0])
# noise that leaves some tokens what they were: masks at a rate of each symbol's own, and a law without one
HIDING = torch.zeros(SYMBOLS + 1, SYMBOLS + 1, dtype=F64).index_fill(0, torch.tensor([SYMBOLS]), 1.0)
HIDING[-1] *= torch.tensor([1.0, 2.0, 4.0, 0.0])
TABLES = {
    "generator": {"matrix": normalised(RING)},
    "generator:hiding": {"matrix": normalised(HIDING)},
    "stationary:sparing": {"weights": torch.tensor([0.6, 0.4, 0.0, 0.0, 0.0], dtype=F64)},
    "steps": {"matrix": STEPS},
}
SPARING = ["generator:hiding", "stationary:sparing"]


def make(name, schedule="linear"):
    """A process of every kind, over the world's vocabulary."""
    kind, counted, tables = (
        PROCESSES[name.partition(":")[0]],
        replace(VOCABULARY, counts=COUNTS),
        TABLES.get(name),
    )
    if schedule == INFORMATION:
        return kind.over(counted, Linear(), tables=tables).informed()
    return kind.over(counted, SCHEDULES[schedule](), tables=tables)


# an autoregressive order is no noise of single positions, and steps have no time between them
PER_POSITION = [name for name in PROCESSES if name != "autoregressive"]
GENERATORS = [name for name in PER_POSITION if issubclass(PROCESSES[name], Generator)]
CONTINUOUS = [name for name in PER_POSITION if name != "steps"]
# every process and every schedule that it can have
CELLS = [
    *itertools.product(CONTINUOUS, SCHEDULES),
    *itertools.product(GENERATORS, [INFORMATION]),
    ("steps", "linear"),
    *itertools.product(SPARING, ["linear"]),
]
# of those the fast suite takes every process, and every schedule once
FAST = [(name, "linear") for name in PER_POSITION]
FAST += [("absorbing", "cosine"), ("uniform", "polynomial"), ("hybrid", "geometric"), ("band", INFORMATION)]


def over(cells):
    """A mark: once for the process of each cell, as `process`."""
    params = [
        pytest.param(make(*cell), id="-".join(cell), marks=() if cell in FAST else pytest.mark.slow)
        for cell in cells
    ]
    return pytest.mark.parametrize("process", params)


processes = over(CELLS)
continuous = over([cell for cell in CELLS if cell[0] != "steps"])


def times_of(process, t):
    """Times t (...) in (0, 1), or those of the chain's own that come next."""
    return t if process.timesteps is None else (t * process.timesteps).ceil() / process.timesteps


def world(positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every string (S, positions) over the symbols, and the log of a joint (S,) that does not factorise."""
    strings = torch.tensor(list(itertools.product(range(SYMBOLS), repeat=positions)))
    rng = torch.Generator().manual_seed(7)
    return strings, (2 * torch.randn(len(strings), generator=rng, dtype=F64)).log_softmax(0)


def chain_states(process):
    """The ids a chain can be in, ascending."""
    late = process.marginal(
        one_hot(torch.arange(SYMBOLS), process.vocabulary.size), torch.tensor(0.5, dtype=F64)
    )
    return sorted({*(late > LOG_ZERO / 2).any(0).nonzero()[:, 0].tolist(), *range(SYMBOLS)})


def reachable(process, positions: int) -> torch.Tensor:
    """Every noisy string (Z, positions) the chain can be in."""
    return torch.tensor(list(itertools.product(chain_states(process), repeat=positions)))


def log_noising(process, strings, states, t):
    """log q(x_t = z | x_0 = x) at each position, (S, Z, positions)."""
    log_q = process.marginal(
        one_hot(strings, process.vocabulary.size), torch.full(strings.shape, float(t), dtype=F64)
    )
    s, z = len(strings), len(states)
    return (
        log_q[:, None]
        .expand(s, z, *log_q.shape[1:])
        .gather(-1, states[None, :, :, None].expand(s, z, -1, 1))[..., 0]
    )


def forward_states(process, strings, log_p, t):
    """Every noisy string (Z, positions) and the joint probability of (x_0, x_t), (S, Z)."""
    states = reachable(process, strings.shape[1])
    return states, (log_p[:, None] + log_noising(process, strings, states, t).sum(-1)).exp()


def missed(process, strings, log_p):
    """KL(q(x_1) || p(x_1)), nats: what an exact belief pays where a chain does not quite forget."""
    states, joint = forward_states(process, strings, log_p, 1)
    seen = joint.sum(0)
    return (torch.xlogy(seen, seen) - seen * prior(process)[states].sum(-1)).sum()


def exact_belief(process, strings, log_p, states, t):
    """log p(x_0^i | the *other* positions of x_t), (Z, positions, V): leave-one-out, by enumeration."""
    per_position = log_noising(process, strings, states, t)
    _, z, n = per_position.shape
    belief = torch.full((z, n, process.vocabulary.size), LOG_ZERO, dtype=F64)
    for i in range(n):
        others = torch.cat([per_position[..., :i], per_position[..., i + 1 :]], -1).sum(-1)
        weight = log_p[:, None] + others  # (S, Z)
        for symbol in range(SYMBOLS):
            belief[:, i, symbol] = weight[strings[:, i] == symbol].logsumexp(0)
    return belief.log_softmax(-1)


def random_belief(process, n, rng):
    """Beliefs (n, V) spread over the text's symbols only."""
    logits = torch.full((n, process.vocabulary.size), LOG_ZERO, dtype=F64)
    logits[:, :SYMBOLS] = torch.randn(n, SYMBOLS, generator=rng, dtype=F64)
    return logits.log_softmax(-1)


class ExactDenoiser:
    """The belief of one who knows the joint of a world, whatever the clocks: leave-one-out."""

    def __init__(self, process, strings, log_p):
        self.process, self.strings, self.log_p = process, strings, log_p
        self.calls = 0

    def __call__(self, xt, t, rows, valid=None):
        self.calls += 1
        clean = one_hot(torch.arange(SYMBOLS), self.process.vocabulary.size)  # (symbols, V)
        log_q = self.process.marginal(clean[:, None, None], t[None])  # (symbols, B, L, V)
        index = xt[None, :, :, None].expand(SYMBOLS, -1, -1, 1)
        likely = log_q.expand(-1, *xt.shape, -1).gather(-1, index)[..., 0]  # (symbols, B, L)
        positions = torch.arange(xt.shape[1])
        each = likely.permute(1, 2, 0)[:, positions, self.strings]  # (B, strings, L)
        others = self.log_p[None, :, None] + each.sum(-1, keepdim=True) - each
        belief = torch.full((*xt.shape, self.process.vocabulary.size), LOG_ZERO, dtype=F64)
        for symbol in range(SYMBOLS):
            chosen = (self.strings == symbol)[None]
            belief[..., symbol] = others.masked_fill(~chosen, 10 * LOG_ZERO).logsumexp(1)
        return belief.log_softmax(-1)[rows]


class ExactBlocks:
    """The belief of one who knows the joint of a world, about each block given the clean ones before it."""

    def __init__(self, process, strings, log_p, block):
        self.exact, self.block = ExactDenoiser(process, strings, log_p), block
        hides = prior(process)[process.vocabulary.mask_id] == 0
        self.nothing = process.vocabulary.mask_id if hides else 0  # says nothing of x_0 at clock 1

    def __call__(self, xt, t, rows, valid=None, clean=None):
        noisy, length = xt, xt.shape[1]
        clean = xt if clean is None else clean  # a single block needs none
        found = torch.zeros((*xt.shape, self.exact.process.vocabulary.size), dtype=F64)
        place = torch.arange(length) // self.block
        for number in range(length // self.block):
            x = torch.where(place < number, clean, torch.where(place == number, noisy, self.nothing))
            clock = torch.where(place < number, 0.0, torch.where(place == number, t, 1.0))
            everywhere = torch.ones_like(rows)
            found[:, place == number] = self.exact(x, clock, everywhere).view(found.shape)[:, place == number]
        return found[rows]


def gauss_legendre(count):
    """Nodes in (0, 1) and their weights, (count,) each."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)


def law_of(samples, positions):
    """How often each string of the world occurs, (S,), in the order of `world`."""
    weights = SYMBOLS ** torch.arange(positions - 1, -1, -1)
    return torch.bincount((samples * weights).sum(-1), minlength=SYMBOLS**positions)


def pooled(seen, expected):
    """P of counts (S,) where `expected` ones (S,) were due, the rarest taken together so that 5 are due."""
    order = expected.argsort(descending=True)
    seen, expected = seen[order].double(), expected[order]
    kept = int((expected.flip(0).cumsum(0).flip(0) >= 5).sum())
    kept = min(kept, int((expected >= 5).sum()) + 1)
    group = torch.arange(len(seen)).clamp(max=kept - 1)
    seen, expected = (torch.zeros(kept, dtype=F64).index_add(0, group, x) for x in (seen, expected))
    return chisquare(seen, expected * seen.sum() / expected.sum()).pvalue
