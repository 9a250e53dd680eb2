"""What a noise process is, and what follows from it: given x_0, positions are independent.

Legend: `...` any leading shape (B, L or a list of rows), V states of the chain (the mask included where
there is one), times 0 <= s <= t <= 1 of shape (...), one clock per position, float64. Convention: columns
sum to 1, [Q_t]_ij = q(x_t = i | x_{t-1} = j), Q_{1:t} = Q_t ... Q_1. Probabilities over states are natural
logarithms, LOG_ZERO (finite) standing for impossible.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..randomness import LOG_ZERO, Streams
from ..schedule import Schedule


@dataclass(frozen=True)
class SentOnce:
    """Whose tensors are sent to a device only once: no step has to wait for them."""

    _sent: dict[tuple[str, torch.device, torch.dtype | None], Tensor] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def on(self, device: torch.device, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of it, by name, on a device; in a dtype of its own, or another."""
        key = name, device, dtype
        found = self._sent.get(key)
        if found is None:
            found = getattr(self, name).to(device, dtype)
            if not torch.compiler.is_compiling():  # to which it is no tensor yet
                self._sent[key] = found
        return found


@dataclass(frozen=True)
class Vocabulary(SentOnce):
    """The ids a chain runs over: `size` of them, of which `special_ids` (mask included) are never text."""

    size: int
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()
    pieces: Sequence[str] = field(default=(), compare=False)  # how each id is written; () where not known
    counts: np.ndarray | None = field(default=None, compare=False)  # (V,), of each id in the training text

    @cached_property
    def text_ids(self) -> Tensor:
        """The ids x_0 can be, ascending, (K,) int64."""
        text = torch.ones(self.size, dtype=torch.bool)
        text[list(self.special_ids)] = False
        return text.nonzero()[:, 0]

    @cached_property
    def is_text(self) -> Tensor:
        """(V,) bool."""
        return torch.zeros(self.size, dtype=torch.bool).index_fill(0, self.text_ids, True)

    @cached_property
    def barred(self) -> Tensor:
        """What is added to logits, (V,) float32: 0 at text, LOG_ZERO at what is none."""
        return torch.zeros(self.size).masked_fill(~self.is_text, LOG_ZERO)

    def text_on(self, device: torch.device) -> Tensor:
        """`is_text` on a device."""
        return self.on(device, "is_text")

    def barred_on(self, device: torch.device) -> Tensor:
        """`barred` on a device."""
        return self.on(device, "barred")


Tables = Mapping[str, Tensor]


class Process(Protocol):
    """Three questions (and some hints) from which corruption, posterior, bounds and samplers follow."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def schedule(self) -> Schedule: ...

    @property
    def needs_clock(self) -> bool:
        """Whether x_t alone leaves open how far a position has run."""

    @property
    def forgets(self) -> bool:
        """Whether nothing of x_0 is left at t = 1: then the prior term of a bound is 0."""

    @property
    def timesteps(self) -> int | None:
        """T of a chain that is only known at the times 0, 1/T, ..., 1; None in continuous time."""

    def in_steps(self, timesteps: int | None) -> Self:
        """The same noise as a chain of T steps, as a network that was trained in them knows it; None: as it
        is."""

    @classmethod
    def over(
        cls, vocabulary: Vocabulary, schedule: Schedule, parameter: str = "", tables: Tables | None = None
    ) -> Self:
        """The process on a vocabulary.

        parameter: what a user wrote after the name, `0.1` of `hybrid:0.1`. tables: what `tables()` of the
        same process once gave; it wins over the parameter, whose file may be gone.
        Raises DdcliError where the vocabulary lacks what it needs, or the parameter makes no process.
        """

    def tables(self) -> dict[str, Tensor]:
        """Numbers that name, schedule and parameter do not tell, to be kept with a model; mostly none."""

    def marginal(self, log_p0: Tensor, t: Tensor) -> Tensor:
        """log q(x_t | x_0 ~ p0), (..., V), for log p0 (..., V)."""

    def unmix(self, log_pt: Tensor, t: Tensor) -> Tensor:
        """The log p0 (..., V) whose `marginal` is nearest to log p_t (..., V): what a score says of x_0."""

    def likelihood(self, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """log q(x_t = xt | x_s = y) for every y, (..., V), for xt (...)."""

    def rate(self, xt: Tensor, t: Tensor) -> Tensor:
        """R_t(y -> xt) for every y != xt, per unit time, (..., V); 0 at y = xt.

        Raises DdcliError for a chain of steps, which has none.
        """

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
    """log_p (..., V) at token x (...): (...).

    By `nll_loss`, whose gradient a compiler writes right into that of a softmax.
    """
    return -F.nll_loss(log_p.flatten(0, -2), x.flatten(), reduction="none").view(x.shape)


def log(p: Tensor) -> Tensor:
    """ln p, LOG_ZERO where p is 0, with a gradient of 0 there; a NaN stays one."""
    return torch.where(p == 0, LOG_ZERO, torch.where(p == 0, 1.0, p).log())


P = ParamSpec("P")
T = TypeVar("T")


class ByKind(Generic[P, T]):
    """A function of a process that has cheaper forms for some kinds: the one of the nearest class is used.

    What functools.singledispatch is, but so plain that torch.compile sees through it.
    """

    def __init__(self, general: Callable[Concatenate[Process, P], T]) -> None:
        self.general = general
        self._forms: dict[type, Callable[Concatenate[Any, P], T]] = {}
        update_wrapper(self, general)

    def register(self, kind: type) -> Callable[[Callable[Concatenate[Any, P], T]], None]:
        """The decorated function is the form for processes of this kind."""

        def add(form: Callable[Concatenate[Any, P], T]) -> None:
            self._forms[kind] = form

        return add

    def __call__(self, process: Process, *arguments: P.args, **named: P.kwargs) -> T:
        for kind in type(process).__mro__:
            if kind in self._forms:
                return self._forms[kind](process, *arguments, **named)
        return self.general(process, *arguments, **named)


def posterior(process: Process, log_p0: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """log p(x_s | x_t), (..., V), where the other positions believe x_0 ~ p0 (leave-one-out). Bayes' rule."""
    joint = process.likelihood(xt, s, t).to(log_p0) + process.marginal(log_p0, s)
    return torch.where((s < t)[..., None], joint, one_hot(xt, log_p0.shape[-1], joint.dtype)).log_softmax(-1)


@ByKind
def clean_posterior(process: Process, log_p0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """log p(x_0 | x_t), (..., V): the belief of the others (..., V) times the own token's say, t > 0."""
    return posterior(process, log_p0, xt, torch.zeros_like(t), t)


@ByKind
def leave_one_out(process: Process, log_posterior: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """The belief of the other positions alone, (..., V), from log p(x_0 | x_t): divided by q(x_t | x_0)."""
    return (log_posterior - process.likelihood(xt, torch.zeros_like(t), t).to(log_posterior)).log_softmax(-1)


def log_ratios(process: Process, log_p0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """ln p_t(y) - ln p_t(xt) for every y, (..., V): the concrete score of a belief (..., V)."""
    log_p = process.marginal(log_p0, t)
    return log_p - at(log_p, xt)[..., None]


def clean_belief(process: Process, p0: Tensor) -> Tensor:
    """Numbers meant as p(x_0), (..., V), made a distribution over text, as logarithms: none is quite 0."""
    text = process.vocabulary.text_on(p0.device)
    return torch.where(text, p0.clamp(min=1e-9).log(), LOG_ZERO).log_softmax(-1)


def flat_text(process: Process, device: torch.device | None = None) -> Tensor:
    """log of the uniform distribution over the ids x_0 can be, (V,) float64."""
    return log(process.vocabulary.is_text.double() / len(process.vocabulary.text_ids)).to(device)


def prior(process: Process, device: torch.device | None = None) -> Tensor:
    """log p(x_1), (V,) float64, what sampling starts from: the noise of a text of which nothing is known.

    Where the process `forgets`, this is q(x_1 | x_0) itself. Else the bound pays the difference.
    """
    return process.marginal(flat_text(process, device), torch.ones((), dtype=torch.float64, device=device))


@ByKind
def prior_term(process: Process, x0: Tensor) -> Tensor:
    """KL(q(x_1 | x_0) || p(x_1)), nats, (...) float64, for x0 (...): what a strict bound begins with."""
    if process.forgets:
        return torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
    symbols, place = x0.unique(return_inverse=True)
    one = torch.ones((), dtype=torch.float64, device=x0.device)
    log_p = prior(process, x0.device)
    log_q = (process.marginal(one_hot(x, len(log_p)), one) for x in symbols)  # one by one: V may be large
    nats = [(q.exp() * (q - log_p)).sum().item() for q in log_q]
    return torch.tensor(nats, dtype=torch.float64, device=x0.device)[place]


def pure_noise(process: Process, x0: Tensor, t: Tensor, rng: Streams) -> Tensor:
    """x_t, (B, L), of a canvas: `x0` where its clock t is 0, and a draw from the prior where it is 1."""
    text = process.vocabulary.text_ids.to(x0.device)
    if process.forgets:
        guess = text[0]  # any will do
    else:
        guess = text[(rng.uniform(x0.shape[1]).to(x0.device) * len(text)).long()]
    return process.noise(torch.where(t > 0, guess, x0), t, rng)
