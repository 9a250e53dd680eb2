"""What research codebases trained one network, `backbones.ddit`, for, and how they say so.

A codebase is an entry of `FAMILIES`: how its config.json names the sizes, what noise its models undo, what
their logits mean, what they are told of time, and how their texts begin and end.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError
from torch import Tensor

from ..backbones.ddit import DDiTShape, Told, untold
from ..config import MOST_LAYERS, MOST_TOKENS, MOST_WIDTH, Section
from ..schedule import Geometric, Linear, Schedule, make_schedule
from ..spelling import WriterTokenizer

LEAST_SIGNAL = 1e-3  # alpha at the last time of the log-linear schedule that these networks were trained on


@dataclass(frozen=True)
class Sigma:
    """What most are told: all noise so far, sigma = -ln alpha, up to where their training went."""

    schedule: Schedule
    least: float = 0.0  # signal

    def __call__(self, clock: Tensor) -> Tensor:
        return -self.schedule.alpha(clock).clamp(min=self.least).log()


def both_ends(tokenizer: WriterTokenizer) -> tuple[list[int], list[int]]:
    """What these codebases put around each block of text that they cut."""
    return [tokenizer.bos_id], [tokenizer.eos_id]


def opening(tokenizer: WriterTokenizer) -> tuple[list[int], list[int]]:
    """What stands before a text alone."""
    return [tokenizer.bos_id], []


def no_ends(tokenizer: WriterTokenizer) -> tuple[list[int], list[int]]:
    return [], []


def own_ends(tokenizer: WriterTokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer itself puts there."""
    return tokenizer.ends


def _told(time_conditioning: bool) -> Told:
    return Sigma(Linear(), LEAST_SIGNAL) if time_conditioning else untold


@dataclass(frozen=True)
class Meaning:
    """What a network was trained for, in our words."""

    process: str
    schedule: str
    predicts: str
    told: Told
    masks: bool  # whether noise hides: the mask is no text. Else noise is any id that there is
    ends: Callable[[WriterTokenizer], tuple[list[int], list[int]]]  # that every text it saw stood between


class _Section(Section):
    """A part of a config.json that holds more, under the names it has there."""

    model_config = ConfigDict(extra="ignore")


class Described(_Section, ABC):
    """What a config.json says, as far as a model is made from it."""

    @property
    @abstractmethod
    def shape(self) -> DDiTShape: ...

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens that it reads at once, ends included."""

    @property
    def block(self) -> int:
        """Tokens that it denoises at once, given all before them; 0: all that it reads."""
        return 0

    @property
    @abstractmethod
    def meaning(self) -> Meaning: ...


def _only(wanted: Any, why: str) -> AfterValidator:
    """The one value of a setting that is read, and what another one would mean."""

    def check(value: Any) -> Any:
        if value != wanted:
            raise PydanticCustomError("only", "{why}, which ddcli does not read", {"why": why})
        return value

    return AfterValidator(check)


class _Hub(Described):
    """Of MDLM, UDLM and Duo, as they are on the hub."""

    vocab_size: int = Field(ge=2, le=MOST_TOKENS)
    model_length: int = Field(ge=4, le=MOST_TOKENS)
    hidden_dim: int = Field(ge=2, le=MOST_WIDTH)
    cond_dim: int = Field(ge=1, le=MOST_WIDTH)
    n_blocks: int = Field(ge=1, le=MOST_LAYERS)
    n_heads: int = Field(ge=1, le=MOST_WIDTH)

    @property
    def length(self) -> int:
        return self.model_length

    @property
    def shape(self) -> DDiTShape:
        return DDiTShape(self.vocab_size, self.hidden_dim, self.n_blocks, self.n_heads, self.cond_dim)


class _Mdlm(_Hub):
    """arXiv:2406.07524. The mask's logit is left out, and text is kept (SUBS): the softmax is the belief."""

    time_conditioning: bool

    @property
    def meaning(self) -> Meaning:
        return Meaning("absorbing", "linear", "leave-one-out", _told(self.time_conditioning), True, both_ends)


class _Udlm(_Hub):
    """arXiv:2412.10193. Their softmax takes the place of x_0 in the posterior, where the bound trains it: so
    it is what the other positions say. Noise is uniform over all ids, special ones too."""

    time_conditioning: bool
    cfg: Annotated[bool, _only(False, "it was trained for classes")] = False

    @property
    def meaning(self) -> Meaning:
        return Meaning("uniform", "linear", "leave-one-out", _told(self.time_conditioning), False, both_ends)


class _Duo(_Hub):
    """arXiv:2506.10892. As UDLM, and always told of time; distilled ones too."""

    causal: Annotated[bool, _only(False, "it sees what stands before a token alone")] = False

    @property
    def meaning(self) -> Meaning:
        return Meaning("uniform", "linear", "leave-one-out", _told(True), False, both_ends)


class _Bd3lm(_Hub):
    """arXiv:2503.09573. As MDLM, but block after block, and behind a first token that is given: in training
    any that stands before a text, in sampling the one that parts texts.

    Of one block it is an MDLM. The shares of masks that its blocks were trained on (`sampling_eps`) say
    nothing of how they are to be written.
    """

    block_size: int = Field(ge=1, le=MOST_TOKENS)
    cross_attn: bool = True  # blocks see those before them
    time_conditioning: Annotated[bool, _only(False, "its blocks are told the time")] = False
    adaln: Annotated[bool, _only(True, "its layers are not steered")] = True
    causal: Annotated[bool, _only(False, "it sees what stands before a token alone")] = False

    @property
    def block(self) -> int:
        return self.block_size if self.cross_attn and self.block_size < self.model_length else 0

    @property
    def meaning(self) -> Meaning:
        return Meaning("absorbing", "linear", "leave-one-out", untold, True, opening)


class _Gidd(Described):
    """arXiv:2503.04482. As UDLM, but with masks and random tokens, and told the time itself."""

    vocab_size: int = Field(ge=2, le=MOST_TOKENS)
    max_seq_len: int = Field(ge=2, le=MOST_TOKENS)
    hidden_size: int = Field(ge=2, le=MOST_WIDTH)
    timestep_cond_dim: int = Field(ge=1, le=MOST_WIDTH)
    num_hidden_layers: int = Field(ge=1, le=MOST_LAYERS)
    num_attention_heads: int = Field(ge=1, le=MOST_WIDTH)
    p_uniform: float = Field(ge=0, lt=1)
    t_eps: float = Field(1e-4, gt=0, lt=0.5)

    @property
    def length(self) -> int:
        return self.max_seq_len

    @property
    def shape(self) -> DDiTShape:
        return DDiTShape(
            self.vocab_size,
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.timestep_cond_dim,
        )

    @property
    def meaning(self) -> Meaning:
        share = f":{self.p_uniform!r}"
        process, pace = (f"hybrid{share}", f"gidd{share}") if self.p_uniform else ("absorbing", "linear")
        time = partial(torch.clamp, min=self.t_eps, max=1 - self.t_eps)
        return Meaning(process, pace, "leave-one-out", time, True, own_ends)


class _Graph(_Section):
    type: Literal["absorb"]


class _LogLinear(_Section):
    @property
    def schedule(self) -> str:
        return "linear"

    @property
    def told(self) -> Told:
        return _told(True)


class _Geometric(_Section):
    sigma_min: Annotated[float, _only(Geometric.sigma_min, "its least sigma is another")]
    sigma_max: float = Field(gt=Geometric.sigma_min, le=100)

    @property
    def schedule(self) -> str:
        return f"geometric:{self.sigma_max!r}"

    @property
    def told(self) -> Told:
        return Sigma(make_schedule(self.schedule))


def _type_of(noise: Any) -> str:
    return str(noise.get("type")) if isinstance(noise, dict) else ""


class _Model(_Section):
    hidden_size: int = Field(ge=2, le=MOST_WIDTH)
    cond_dim: int = Field(ge=1, le=MOST_WIDTH)
    length: int = Field(ge=2, le=MOST_TOKENS)
    n_blocks: int = Field(ge=1, le=MOST_LAYERS)
    n_heads: int = Field(ge=1, le=MOST_WIDTH)
    scale_by_sigma: Annotated[bool, _only(True, "its scores are not scaled by sigma")]


class _Sedd(Described):
    """arXiv:2310.16834. The logits are the log score, scaled by sigma. The mask comes behind all tokens."""

    tokens: int = Field(ge=2, lt=MOST_TOKENS)
    graph: _Graph
    noise: Annotated[
        Annotated[_LogLinear, Tag("loglinear")] | Annotated[_Geometric, Tag("geometric")],
        Discriminator(
            _type_of,
            custom_error_type="noise",
            custom_error_message="Noise is read that is loglinear or geometric",
        ),
    ]
    model: _Model

    @property
    def length(self) -> int:
        return self.model.length

    @property
    def shape(self) -> DDiTShape:
        own = self.model
        return DDiTShape(self.tokens + 1, own.hidden_size, own.n_blocks, own.n_heads, own.cond_dim)

    @property
    def meaning(self) -> Meaning:
        return Meaning("absorbing", self.noise.schedule, "score", self.noise.told, True, no_ends)


# -- the registry -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A codebase, and the layout of its checkpoints."""

    name: str
    config: type[Described]
    prefix: str = ""  # of the names of all weights
    beside: frozenset[str] = frozenset()  # numbers that its files hold too, and only training asks for


FAMILIES: dict[str, Family] = {
    "mdlm": Family("MDLM", _Mdlm, "backbone."),
    "udlm": Family("UDLM", _Udlm, "backbone."),
    "duo": Family("Duo", _Duo, "backbone."),
    "bd3lm": Family("BD3-LM", _Bd3lm, "backbone.", frozenset({"sampling_eps_min", "sampling_eps_max"})),
    "sedd": Family("SEDD", _Sedd),
    "dit": Family("GIDD", _Gidd),
}
