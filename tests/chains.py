"""Sources whose law is known at any length, hidden Markov models, and the belief of one who knows it.

Legend: B sequences, L positions, S hidden states, K symbols (the ids 0 to K - 1), V ids. Rows of a chain's
matrix sum to 1: move[i, j] is the chance of j after i. Nats, float64.
"""

from dataclasses import dataclass

import torch

from ddcli.generate import generate
from ddcli.process import Vocabulary, one_hot
from ddcli.randomness import LOG_ZERO, categorical, inverse_cdf

F64 = torch.float64


@dataclass(frozen=True)
class Source:
    """A hidden Markov model. A Markov chain is one whose states show."""

    start: torch.Tensor  # (S,)
    move: torch.Tensor  # (S, S)
    emit: torch.Tensor  # (S, K)

    @property
    def symbols(self) -> int:
        return self.emit.shape[1]

    @property
    def vocabulary(self) -> Vocabulary:
        """Its symbols, then a pad and a mask."""
        k = self.symbols
        return Vocabulary(size=k + 2, mask_id=k + 1, special_ids=(k, k + 1))

    def draw(self, n: int, length: int, seed: int) -> torch.Tensor:
        """n strings, (n, L)."""
        u = torch.rand(2, length, n, generator=torch.Generator().manual_seed(seed), dtype=F64)
        state = inverse_cdf(self.start.cumsum(-1), u[0, 0])
        found = []
        for i in range(length):
            if i:
                state = categorical(self.move.log()[state], u[0, i])
            found.append(categorical(self.emit.log()[state], u[1, i]))
        return torch.stack(found, -1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """ln p of strings (B, L), (B,)."""
        ahead, total = self.start.expand(len(x), -1), torch.zeros(len(x), dtype=F64)
        for i in range(x.shape[1]):
            here = ahead * self.emit.T[x[:, i]]
            total = total + here.sum(-1).log()
            ahead = here / here.sum(-1, keepdim=True) @ self.move
        return total

    def around(self, likely: torch.Tensor) -> torch.Tensor:
        """p(state at i | what is seen at the *other* positions) up to a factor, (L, B, S).

        likely (L, B, S): the chance, in each hidden state, of what is seen at each position. A forward and a
        backward pass at once, scaled at every step.
        """
        seen = torch.stack([likely, likely.flip(0)], 1)
        pace = torch.stack([self.move, self.move.T])
        message = torch.stack([self.start.expand_as(likely[0]), torch.ones_like(likely[0])])
        passed = torch.empty_like(seen)
        for i, now in enumerate(seen):
            passed[i] = message
            message = (message * now) @ pace
            message = message / message.sum(-1, keepdim=True).clamp(min=1e-300)
        return passed[:, 0] * passed[:, 1].flip(0)


def chain(move: torch.Tensor) -> Source:
    """A Markov chain that starts from its stationary law."""
    return Source(stationary(move), move, torch.eye(len(move), dtype=F64))


def random_rows(rows: int, columns: int, seed: int, sharpness: float = 1.5) -> torch.Tensor:
    """Laws that differ from row to row, none of them with a zero."""
    rng = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(rows, columns, generator=rng, dtype=F64)).softmax(-1)


def random_chain(symbols: int, seed: int, sharpness: float = 1.5) -> Source:
    return chain(random_rows(symbols, symbols, seed, sharpness))


def random_hmm(states: int, symbols: int, seed: int, sharpness: float = 2.5) -> Source:
    """A hidden Markov model that does not start from its stationary law."""
    move, emit = (
        random_rows(states, states, seed, sharpness),
        random_rows(states, symbols, seed + 1, sharpness),
    )
    return Source(random_rows(1, states, seed + 2)[0], move, emit)


def stationary(move: torch.Tensor) -> torch.Tensor:
    """pi with pi = pi move, (S,)."""
    return torch.linalg.matrix_power(move, 1 << 20)[0]


def entropy(p: torch.Tensor) -> torch.Tensor:
    """Of laws (..., K), nats."""
    return -torch.xlogy(p, p).sum(-1)


def block_entropy(source: Source, length: int) -> float:
    """H(X_1 ... X_L) of a Markov chain, nats: the first symbol's entropy, then the rate of L - 1 moves.

    So a symbol costs more than the rate h, by (H(pi) - h) / L.
    """
    rate = (stationary(source.move) * entropy(source.move)).sum()
    return (entropy(source.start) + (length - 1) * rate).item()


class Oracle:
    """The exact leave-one-out belief about a source, under any noise of single positions and any clocks."""

    def __init__(self, process, source):
        self.process, self.source = process, source

    def __call__(self, xt, t, rows, valid=None):
        asked = rows.any(-1)
        xt, t, rows = xt[asked], t[asked], rows[asked]
        likely = noising(self.process, self.source.symbols, xt, t) @ self.source.emit.T  # (L, B, S)
        believed = self.source.around(likely)[rows.T.nonzero(as_tuple=True)] @ self.source.emit
        found = torch.full((len(believed), self.process.vocabulary.size), LOG_ZERO, dtype=F64)
        found[:, : self.source.symbols] = believed.log().clamp(min=LOG_ZERO)
        order = torch.empty(rows.shape, dtype=torch.long)
        order.T[rows.T] = torch.arange(len(believed))  # from position-major to sequence-major
        return found[order[rows]].log_softmax(-1)


class Listed:
    """The exact leave-one-out belief of one who knows every text there is, ids (N, L), and its chance (N,).

    Special tokens are given, so they tell nothing that the clean ones of a text do not.
    """

    def __init__(self, process, texts, law):
        self.process, self.symbols = process, len(process.vocabulary.text_ids)
        self.law, self.texts = law.log(), one_hot(texts, process.vocabulary.size)[..., : self.symbols].exp()

    def __call__(self, xt, t, rows, valid=None):
        likely = noising(self.process, self.symbols, xt, t).clamp(min=1e-300).log()  # (L, B, K)
        each = torch.einsum("lbk,nlk->lbn", likely, self.texts)
        others = (self.law + each.sum(0) - each).softmax(-1)
        believed = torch.einsum("lbn,nlk->blk", others, self.texts)[rows]
        found = torch.full((len(believed), self.process.vocabulary.size), LOG_ZERO, dtype=F64)
        found[:, : self.symbols] = believed.log().clamp(min=LOG_ZERO)
        return found


def noising(process, symbols, xt, t):
    """q(x_t = xt | x_0 = k) for every symbol k, (L, B, K)."""
    times, which = t.unique(return_inverse=True)
    clean = one_hot(torch.arange(symbols), process.vocabulary.size)
    table = process.marginal(clean[:, None], times).exp()  # (K, times, V)
    return table[:, which.T, xt.T].movedim(0, -1).contiguous()


class OneStream:
    """Stands in for Streams where a law is tested on many sequences: all of them draw from one generator."""

    def __init__(self, size, seed=0):
        self.size, self.rng = size, torch.Generator().manual_seed(seed)

    def uniform(self, *shape):
        return torch.rand(self.size, *shape, generator=self.rng, dtype=F64)


def sample(process, sampler, denoiser, shape, steps, seed=0):
    """Draws (B, L) of a shape, and how often the denoiser was asked for each, (B,)."""
    canvas = torch.zeros(shape, dtype=torch.long)
    frozen = torch.zeros(shape, dtype=torch.bool)
    times = sampler.times(process, steps, ~frozen, OneStream(shape[0], seed + 1))[..., None]
    for frame in generate(denoiser, process, sampler, canvas, frozen, times, OneStream(shape[0], seed)):
        last = frame
    return last.x, last.nfe


def surplus(source: Source, x: torch.Tensor) -> tuple[float, float]:
    """Mean of -ln p(x) / L under a Markov chain less its block entropy by symbol, and its standard error.

    0 in the mean for draws (B, L) from the chain; linear in the law of neighbours, so it falls as the
    sampler's error itself. Sequences are independent, so the error is sound.
    """
    each = -source.log_prob(x) / x.shape[1]
    excess = each.mean().item() - block_entropy(source, x.shape[1]) / x.shape[1]
    return excess, each.std().item() / len(x) ** 0.5


def pair_law(x: torch.Tensor, symbols: int) -> torch.Tensor:
    """How often b follows a in strings (B, L), counts (K, K)."""
    pairs = x[:, :-1] * symbols + x[:, 1:]
    return torch.bincount(pairs.flatten(), minlength=symbols**2).view(symbols, symbols).double()
