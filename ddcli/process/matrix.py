"""Noise given by matrices, for small alphabets: a generator in continuous time, or a list of steps Q_t.

Legend as in `base`, and K states of the chain: the text's symbols, and the mask where the matrices hold one
more row. Columns sum to 1 (steps) or to 0 (generators).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DdcliError
from ..randomness import LOG_ZERO, Streams, categorical
from ..schedule import Knots, Linear, Schedule, with_slope
from .base import Tables, Vocabulary, clean_belief, log, one_hot, posterior
from .interpolating import read_json

LARGEST = 512  # states; a batch of matrices larger than that is no way to train
HELD = 3  # answers: transitions from 0 to s, from s to t and from 0 to t
MOST_STEPS = 10_000
MOST_BYTES = 2 * 2**30  # of a list of steps; their products take as much again
MOST_LEFT = 0.5  # of the text at the end of a chain of steps, which a prior cannot know
FARTHEST = 700.0  # of -ln alpha; exp(-700) is the smallest float64 there is, near enough
ROUNDS = 30  # of three, to the likeliest text behind a noisy law
TOLERANCE = 1e-6  # of sums over columns, which files give in decimals


@dataclass(frozen=True)
class Matrices(ABC):
    """A Markov chain over K states, known by the transitions between two times."""

    vocabulary: Vocabulary
    schedule: Schedule
    matrix: Tensor = field(compare=False)  # the generator (K, K), or the steps (T, K, K), float64

    @property
    @abstractmethod
    def timesteps(self) -> int | None: ...

    @abstractmethod
    def in_steps(self, timesteps: int | None) -> Self: ...

    @classmethod
    @abstractmethod
    def over(
        cls, vocabulary: Vocabulary, schedule: Schedule, parameter: str = "", tables: Tables | None = None
    ) -> Self: ...

    @abstractmethod
    def rate(self, xt: Tensor, t: Tensor) -> Tensor: ...

    @abstractmethod
    def between(self, s: Tensor, t: Tensor) -> Tensor:
        """Q_{s:t}, (n, K, K), for n pairs of times."""

    def tables(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    @cached_property
    def states(self) -> Tensor:
        """The ids of the K states, in the order of rows and columns."""
        return _states(self.vocabulary, self.matrix.shape[-1])

    @cached_property
    def _row(self) -> Tensor:
        """Of each id, its row among the states; -1 for what is no state."""
        return torch.full((self.vocabulary.size,), -1).index_copy(
            0, self.states, torch.arange(len(self.states))
        )

    @cached_property
    def _late(self) -> Tensor:
        """Q_{0:t} at a time, or at all times there are, (n, K, K)."""
        t = torch.tensor([0.5], dtype=torch.float64)
        return self.between(torch.zeros_like(t), t)

    @cached_property
    def _ambiguous(self) -> Tensor:
        """Ids, (V,) bool, that another symbol can have turned into."""
        text = self.vocabulary.is_text[self.states]
        late = self._late.sum(0)
        others = late * text * (1 - torch.eye(len(late), dtype=torch.float64))
        return torch.zeros(self.vocabulary.size, dtype=torch.bool).index_copy(
            0, self.states, others.sum(-1) > 1e-12
        )

    @cached_property
    def needs_clock(self) -> bool:
        """Not where all there is are masks, to which every symbol turns alike: else even a mask tells of x_0,
        and how much depends on the time."""
        text = self.vocabulary.is_text[self.states]
        hidden = self._late[:, ~text][..., text]  # q(mask | x_0)
        alike = bool((hidden - hidden[..., :1]).abs().max() < 1e-12) if hidden.numel() else True
        return not alike or bool((self._ambiguous & self.vocabulary.is_text).any())

    @cached_property
    def forgets(self) -> bool:
        last = self.between(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))[0]
        text = last[:, self.vocabulary.is_text[self.states]]
        return bool((text - text[:, :1]).abs().max() < 1e-12)

    def _distinct(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Q_{s:t} of each distinct pair of times, (n, K, K), and which one each of s, t (...) has."""
        (starts, start), (ends, end) = (time.unique(return_inverse=True) for time in (s, t))
        pairs, which = (start * len(ends) + end).unique(return_inverse=True)  # of pairs themselves it is slow
        return self._held(starts[pairs // len(ends)], ends[pairs % len(ends)]), which

    @cached_property
    def _last(self) -> dict[tuple[object, ...], Tensor]:
        return {}

    def _held(self, s: Tensor, t: Tensor) -> Tensor:
        """`between`, of which a few last answers are kept: a step asks several times about the same times."""
        asked = (s.device, *s.tolist(), *t.tolist())
        if asked not in self._last:
            while len(self._last) >= HELD:
                del self._last[next(iter(self._last))]
            self._last[asked] = self.between(s, t)
        return self._last[asked]

    def marginal(self, log_p0: Tensor, t: Tensor) -> Tensor:
        q, which = self._distinct(torch.zeros_like(t), t)
        p0 = log_p0[..., self.states.to(log_p0.device)].double().exp()  # float32 has no tails to speak of
        shape = torch.broadcast_shapes(p0.shape[:-1], which.shape)
        pt = _each(q, which.expand(shape), p0.expand(*shape, -1))
        rest = log_p0.expand(*shape, -1)  # ids that are no states stay what they are
        return rest.index_copy(-1, self.states.to(pt.device), log(pt).to(rest))

    def unmix(self, log_pt: Tensor, t: Tensor) -> Tensor:
        """The p0 that makes p_t likeliest: the solution of Q p0 = p_t, where that is a distribution; else by
        expectation-maximisation from flat text, where a solution would blow up what noise has wiped out."""
        q, which = self._distinct(torch.zeros_like(t), t)
        states = self.states.to(log_pt.device)
        text = self.vocabulary.is_text.to(log_pt.device)[states].double()
        pt = log_pt[..., states].double().softmax(-1)
        found = _by_matrix(q, which, pt, lambda part, matrix: _likeliest(matrix, part, text / text.sum()))
        return clean_belief(self, torch.zeros_like(log_pt).index_copy(-1, states, found.to(log_pt)))

    def likelihood(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        q, which = self._distinct(s.expand(xt.shape), t.expand(xt.shape))
        row = self._row.to(xt.device)[xt]
        found = one_hot(xt, self.vocabulary.size)
        inside = torch.full_like(found, LOG_ZERO).index_copy(
            -1, self.states.to(xt.device), log(q[which, row.clamp(min=0)])
        )
        return torch.where((row < 0)[..., None], found, inside)

    def noise(self, x0: Tensor, t: Tensor, rng: Streams) -> Tensor:
        _, drawn = rng.uniform(2, x0.shape[1]).to(x0.device).unbind(1)
        moving = (t > 0).expand(x0.shape) & self.vocabulary.is_text.to(x0.device)[x0]
        q, which = self._distinct(torch.zeros_like(t), t)
        column = q[which.expand(x0.shape)[moving], :, self._row.to(x0.device)[x0[moving]]]
        chosen = self.states.to(x0.device)[categorical(log(column), drawn[moving])]
        return x0.masked_scatter(moving, chosen)

    def unknown(self, xt: Tensor, t: Tensor) -> Tensor:
        return self._ambiguous.to(xt.device)[xt] & (t > 0)

    def opening(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return (self.unknown(xt, t) & (s < t)).double()

    def opened(self, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return posterior(self, log_p0, xt, s, t)


@dataclass(frozen=True)
class Generator(Matrices):
    """Q_{s:t} = exp((ln alpha_s - ln alpha_t) R), for a generator R whose columns sum to 0.

    R is scaled so that its slowest mode decays as alpha_t, all others faster: at alpha = 0 nothing is left of
    the text, and the generator of uniform or absorbing noise gives that very process.
    """

    timesteps: int | None = field(default=None, kw_only=True)

    def in_steps(self, timesteps: int | None) -> Self:
        return replace(self, timesteps=timesteps)

    @classmethod
    def over(
        cls, vocabulary: Vocabulary, schedule: Schedule, parameter: str = "", tables: Tables | None = None
    ) -> Self:
        if tables is not None:
            return cls(vocabulary, schedule, tables["matrix"].double())
        return cls(vocabulary, schedule, normalised(cls.rates(vocabulary, parameter)))

    @classmethod
    @abstractmethod
    def rates(cls, vocabulary: Vocabulary, parameter: str) -> Tensor:
        """R, (K, K) float64, up to its scale."""

    def _depth(self, t: Tensor) -> Tensor:
        """-ln alpha, by which R is multiplied: the sigma of the literature. With all digits at both ends."""
        lost, late = self.schedule.lost(t), self.schedule.alpha(t).clamp(min=np.exp(-FARTHEST)).log()
        return -torch.where(lost < 0.5, torch.log1p(-lost.clamp(max=0.5)), late)

    def informed(self) -> Self:
        """The same chain at such a pace that what x_t tells of x_0 falls evenly from t = 0 to 1."""
        return replace(self, schedule=self.even)

    @cached_property
    def even(self) -> Schedule:
        """The schedule by which I(x_0; x_t) of a flat law of text falls evenly, but for the last thousandth.

        D3PM's mutual information schedule (arXiv:2107.03006, section 3.2); of absorbing noise, linear.
        """
        text = self.vocabulary.is_text[self.states]
        if text.sum() < 2:
            return Linear()  # nothing is told of a single symbol
        depth = -1e-3 / self.matrix.diagonal().min()  # a token in a thousand is another
        depths, told = [], []
        for start in (1.0, 2**0.25, 2**0.5, 2**0.75):
            sigma = start * depth
            q, left = torch.linalg.matrix_exp(sigma * self.matrix), 1.0
            while left > 1e-3:
                q = q.clamp(min=0)
                q = q / q.sum(0)
                left = _information(q[:, text])
                depths.append(sigma)
                told.append(left)
                q, sigma = q @ q, 2 * sigma
        order = sorted(range(len(depths)), key=lambda i: float(depths[i]))
        sigmas = torch.stack([depths[i] for i in order])
        times = 1 - torch.tensor([told[i] for i in order], dtype=torch.float64)
        risen = times > torch.cat([torch.zeros(1, dtype=torch.float64), times.cummax(0).values[:-1]])
        kept = risen & (times < 1 - 1e-3)
        return Knots(times[kept], torch.expm1(sigmas[kept]).log())

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        depth = (self._depth(t) - self._depth(s)).clamp(min=0)
        # one more than asked for: torch takes a less exact way where there is a single matrix
        exponents = F.pad(depth, (0, 1))[:, None, None] * self.matrix.to(t.device)
        q = torch.linalg.matrix_exp(exponents)[:-1].clamp(min=0)
        return q / q.sum(-2, keepdim=True)

    def rate(self, xt: Tensor, t: Tensor) -> Tensor:
        alpha, slope = with_slope(self.schedule.alpha, t)
        row = self._row.to(xt.device)[xt]
        into = self.matrix.to(t.device)[row.clamp(min=0)] * (-slope / alpha * (row >= 0))[..., None]
        full = torch.zeros((*xt.shape, self.vocabulary.size), dtype=into.dtype, device=xt.device)
        return full.index_copy(-1, self.states.to(xt.device), into).scatter(-1, xt[..., None], 0.0)


@dataclass(frozen=True)
class Band(Generator):
    """Tokens turn into their neighbours in the order of the alphabet, at most so many places away.

    A relative of D3PM's nearest neighbours (arXiv:2107.03006, appendix A.2), which are near by embedding.
    """

    @classmethod
    def rates(cls, vocabulary: Vocabulary, parameter: str) -> Tensor:
        places = _number("band", parameter or "1", "how many places away, such as band:1")
        return (_distance(vocabulary) <= places).double()


@dataclass(frozen=True)
class Gaussian(Generator):
    """Tokens jump along the alphabet by a discretised normal law, of so many places standard deviation.

    A relative of D3PM's discretised Gaussian (arXiv:2107.03006, appendix A.2), whose width grows with beta_t:
    here the jumps keep theirs, and there are more of them.
    """

    @classmethod
    def rates(cls, vocabulary: Vocabulary, parameter: str) -> Tensor:
        width = _number("gaussian", parameter or "2", "a width in places, such as gaussian:2")
        return torch.exp(-0.5 * (_distance(vocabulary) / width) ** 2)


@dataclass(frozen=True)
class UserGenerator(Generator):
    """A generator of your own, from a file."""

    @classmethod
    def rates(cls, vocabulary: Vocabulary, parameter: str) -> Tensor:
        path, found = _read(parameter, "generator", vocabulary)
        if found.ndim != 2:
            raise DdcliError(f"{path}: a generator is one matrix, not {found.ndim} dimensions of numbers")
        off = found - torch.diag(found.diagonal())
        if (off < 0).any():
            raise DdcliError(f"{path}: rates are negative off the diagonal, {_where(off < 0)}")
        _check_columns(path, found, 0.0)
        return off


@dataclass(frozen=True)
class Steps(Matrices):
    """A chain of T steps, each with a matrix of its own, which need not commute (D3PM, arXiv:2107.03006).

    It exists at the times k/T alone, and has no rate: train it with discrete-elbo.
    """

    @classmethod
    def over(
        cls, vocabulary: Vocabulary, schedule: Schedule, parameter: str = "", tables: Tables | None = None
    ) -> Self:
        if tables is not None:
            return cls(vocabulary, schedule, tables["matrix"].double())
        if schedule != Linear():
            raise DdcliError("noise given as steps has its own schedule; leave --schedule out")
        path, found = _read(parameter, "steps", vocabulary)
        if found.ndim != 3:
            raise DdcliError(f"{path}: steps are a list of matrices, not {found.ndim} dimensions of numbers")
        if (found < 0).any():
            raise DdcliError(f"{path}: probabilities are negative, {_where(found < 0)}")
        _check_columns(path, found, 1.0)
        chain = cls(vocabulary, schedule, found / found.sum(-2, keepdim=True))
        if (left := chain.left) > MOST_LEFT:
            raise DdcliError(
                f"{path}: after all {chain.timesteps} steps {left:.0%} of the text is left, and sampling "
                f"begins there without any; at most {MOST_LEFT:.0%} may be: take more steps, or stronger ones"
            )
        return chain

    @property
    def timesteps(self) -> int:
        return len(self.matrix)

    def in_steps(self, timesteps: int | None) -> Self:
        if timesteps not in (None, self.timesteps):
            raise DdcliError(f"the noise has {self.timesteps} steps, not {timesteps}")
        return self

    @cached_property
    def _products(self) -> Tensor:
        """Q_{1:k} for k = 0 to T, (T + 1, K, K)."""
        products = [torch.eye(self.matrix.shape[-1], dtype=torch.float64)]
        for step in self.matrix:
            products.append(step @ products[-1])
        return torch.stack(products)

    @cached_property
    def _late(self) -> Tensor:
        return self._products

    @property
    def left(self) -> float:
        """What is left of the text at T: how far two columns of Q_{1:T} lie apart, in total variation."""
        ends = self._products[-1][:, self.vocabulary.is_text[self.states]].T
        return torch.cdist(ends, ends, p=1).max().item() / 2

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        q = self._products[:1].repeat(len(t), 1, 1)
        for n, (i, j) in enumerate(zip(self._place(s), self._place(t), strict=True)):
            if i == 0:
                q[n] = self._products[j]
            for step in self.matrix[i:j] if i else ():
                q[n] = step @ q[n]
        return q.to(t.device)

    def _place(self, t: Tensor) -> list[int]:
        place = (t * self.timesteps).round()
        if ((t * self.timesteps - place).abs() > 1e-6).any():
            raise DdcliError(f"a chain of {self.timesteps} steps has no time between them")
        return place.long().tolist()

    def rate(self, xt: Tensor, t: Tensor) -> Tensor:
        raise DdcliError(
            "noise given as steps has no rate, so no bound in continuous time; use --objective discrete-elbo"
        )


def _each(q: Tensor, which: Tensor, p: Tensor) -> Tensor:
    """Of n matrices (n, K, K), the one that each p (..., K) has, times p. None is copied for it."""
    return _by_matrix(q, which, p, lambda part, matrix: part @ matrix.T)


def _by_matrix(q: Tensor, which: Tensor, p: Tensor, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """of(part (m, K), matrix (K, K)) -> (m, K), for all p (..., K) that have a matrix in common."""
    flat, order = p.reshape(-1, p.shape[-1]), which.flatten().argsort(stable=True)
    counts = torch.bincount(which.flatten(), minlength=len(q)).tolist()
    parts = [of(part, matrix) for part, matrix in zip(flat[order].split(counts), q, strict=True)]
    return torch.cat([flat[:0], *parts])[order.argsort()].view(p.shape)


def _likeliest(q: Tensor, pt: Tensor, start: Tensor) -> Tensor:
    """p0 (m, K) that makes pt (m, K) likeliest, sum pt ln (q p0), for the matrix q (K, K).

    Each round makes it likelier. Three rounds are put together to one that goes farther (SQUAREM, Varadhan
    and Roland, Scand. J. Stat. 35, 2008), unless that leaves the distributions.
    """
    solved = pt @ torch.linalg.pinv(q, rtol=1e-3).T
    exact = (solved >= 0).all(-1, keepdim=True) & ((solved @ q.T - pt).abs().sum(-1, keepdim=True) < 1e-9)
    p = torch.where(exact, solved, start)
    if exact.all():
        return p

    def again(p: Tensor) -> Tensor:
        return p * ((pt / (p @ q.T).clamp(min=1e-300)) @ q)

    for _ in range(ROUNDS):
        once = again(p)
        twice = again(once)
        first = once - p
        bend = twice - once - first
        reach = (first.norm(dim=-1) / bend.norm(dim=-1).clamp(min=1e-300)).clamp(1, 1e3)[:, None]
        far = p + 2 * reach * first + reach**2 * bend
        p = again(torch.where((far >= 0).all(-1, keepdim=True), far, twice))
    return p


def _information(q: Tensor) -> float:
    """I(x_0; x_t) of flat x_0, as a share of all there is, for the columns q (K, n) of each x_0."""
    mixed = q.mean(-1, keepdim=True)
    told = (torch.xlogy(q, q) - torch.xlogy(q, mixed)).sum(0).mean().item()
    return told / math.log(q.shape[1]) if q.shape[1] > 1 else 0.0


# -- matrices of people -----------------------------------------------------------------------------------


def normalised(rates: Tensor) -> Tensor:
    """Rates (K, K) >= 0, whatever their diagonal, as a generator whose slowest mode decays as exp(-1).

    Raises DdcliError where the chain never forgets where it began.
    """
    off = rates - torch.diag(rates.diagonal())
    off = off / off.max().clamp(min=1e-300)  # whose sums are then finite
    generator = off - torch.diag(off.sum(0))
    modes = -torch.linalg.eigvals(generator).real.sort(descending=True).values
    scale = modes[-1].clamp(min=1e-300)
    if len(modes) > 1 and modes[1] < 1e-9 * scale:
        raise DdcliError(
            "this noise never forgets the text: its states fall into parts that do not mix; "
            "connect them, or let them all lead to one state"
        )
    return generator / (modes[1] if len(modes) > 1 else 1.0)


def _states(vocabulary: Vocabulary, count: int) -> Tensor:
    """The ids of a matrix's rows: the text's or, if it has one row more, the text's and the mask."""
    text = vocabulary.text_ids
    if count == len(text):
        return text
    if count == len(text) + 1 and vocabulary.mask_id is not None:
        return torch.cat([text, torch.tensor([vocabulary.mask_id])])
    raise DdcliError(
        f"the matrices have {count} states, but the vocabulary has {len(text)} symbols "
        f"({len(text) + 1} with a mask)"
    )


def _distance(vocabulary: Vocabulary) -> Tensor:
    """How many places lie between two symbols of the alphabet, (K, K) float64."""
    _check_size(len(vocabulary.text_ids))
    place = torch.arange(len(vocabulary.text_ids), dtype=torch.float64)
    return (place[:, None] - place).abs()


def _check_size(count: int) -> None:
    if count > LARGEST:
        raise DdcliError(
            f"noise by matrices is for small alphabets, of at most {LARGEST} symbols, not {count:,}; "
            "use --tokenizer char, or another --process"
        )


def _number(name: str, text: str, meaning: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise DdcliError(f"{name} noise takes {meaning}; not {text!r}")
    return number


def _read(parameter: str, key: str, vocabulary: Vocabulary) -> tuple[Path, Tensor]:
    """Matrices from a .npy or .json file, in the order of the states.

    JSON holds `generator` (K, K), or `steps` (T, K, K), or one step and how often to `repeat` it; and, where
    the order is not that of the vocabulary, `symbols`. Raises DdcliError.
    """
    if not parameter:
        raise DdcliError(f"which file? give it after the name, such as {key}:noise.json")
    path = Path(parameter)
    symbols = None
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        else:
            content = read_json(path)
            if not isinstance(content, dict) or key not in content:
                raise DdcliError(f"{path} holds no {key!r}: a JSON object was expected, {{{key!r}: [...]}}")
            found = np.array(content[key], dtype=np.float64)
            symbols = content.get("symbols")
            times = content.get("repeat", 1)
            if not isinstance(times, int) or not 1 <= times <= MOST_STEPS:
                raise DdcliError(f"{path}: `repeat` is a number of steps up to {MOST_STEPS:,}, not {times!r}")
            if (size := times * found.nbytes) > MOST_BYTES:
                raise DdcliError(
                    f"{path}: repeated {times:,} times these matrices take {size / 2**30:.1f} GB, and "
                    f"{MOST_BYTES / 2**30:g} at most may be; take fewer and stronger steps"
                )
            if "repeat" in content:
                found = np.repeat(found.reshape(-1, *found.shape[-2:]), times, 0)
    except OSError as error:
        raise DdcliError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, EOFError) as error:
        raise DdcliError(f"{path} holds no matrices of numbers: {error}") from None
    if found.dtype.kind not in "biuf":
        raise DdcliError(f"{path} holds no real numbers, but {found.dtype}")
    matrix = torch.from_numpy(found.astype(np.float64))
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.numel():
        raise DdcliError(f"{path}: matrices are square, but these have the shape {tuple(matrix.shape)}")
    if not torch.isfinite(matrix).all():
        raise DdcliError(f"{path}: not every entry is a number, {_where(~torch.isfinite(matrix))}")
    _check_size(matrix.shape[-1])
    return path, _ordered(path, matrix, symbols, vocabulary)


def _ordered(path: Path, matrix: Tensor, symbols: object, vocabulary: Vocabulary) -> Tensor:
    """Rows and columns brought from the order of `symbols` into that of the states."""
    states = _states(vocabulary, matrix.shape[-1])
    if symbols is None:
        return matrix
    own = [vocabulary.pieces[id] for id in states.tolist()]
    symbols = [str(symbol) for symbol in symbols] if isinstance(symbols, list) else []
    if sorted(symbols) != sorted(own):
        raise DdcliError(f"{path}: `symbols` must be the vocabulary's, each once: {' '.join(own)}")
    order = torch.tensor([symbols.index(piece) for piece in own])
    return matrix[..., order, :][..., order]


def _check_columns(path: Path, matrix: Tensor, wanted: float) -> None:
    def off(axis: int) -> Tensor:
        return (matrix.sum(axis) - wanted).abs() > TOLERANCE * max(1.0, matrix.abs().max().item())

    if (wrong := off(-2)).any():
        hint = "; its rows do: transpose it" if not off(-1).any() else ""
        total = matrix.sum(-2)[wrong][0].item()
        raise DdcliError(
            f"{path}: columns must sum to {wanted:g}, but {_where(wrong, 'matrix', 'column')} sums to "
            f"{total:.6g}{hint}"
        )


def _where(wrong: Tensor, *axes: str) -> str:
    """The first place where something is wrong, counted from 0, by the names of the last axes."""
    place = wrong.nonzero()[0].tolist()
    named = zip((axes or ("matrix", "row", "column"))[-len(place) :], place, strict=True)
    return "first at " + ", ".join(f"{axis} {index}" for axis, index in named)
