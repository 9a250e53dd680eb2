"""A denoiser with all it needs to read and write text, and how it is asked to fill a canvas.

Legend: B sequences, L positions; frozen positions are given.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from .backbones.transformer import DiffusionTransformer
from .denoiser import (
    Denoiser,
    GreedyTail,
    NetworkDenoiser,
    PrefixCached,
    SelfConditioned,
    Temperature,
    TopK,
    TopP,
)
from .errors import DdcliError, printable, unknown
from .generate import Frame, generate
from .guidance import Blindfold, guided, without_label, without_prompt
from .process import Autoregressive, Process
from .randomness import Streams, derive_seed
from .sampler import Sampler, make_sampler
from .tokenizer import Tokenizer


class SamplerSettings(BaseModel):
    """How to sample; a model's own are saved in its generation_config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: str = "ancestral"
    steps: int = Field(128, ge=1, le=1_000_000)
    temperature: float = Field(1.0, ge=0, le=100)
    top_k: int | None = Field(None, ge=1)  # only so many of the likeliest tokens
    top_p: float = Field(1.0, gt=0, le=1)  # only the likeliest ones that together reach this
    guidance: float = Field(1.0, ge=0, le=100)  # strength of the label or prompt; 1 is the plain model
    greedy_tail: int = Field(0, ge=0)  # in so many steps at the end (of each block), only the likeliest token
    block: int | None = Field(None, ge=1)  # block after block of so many tokens, left to right
    cache: Literal["none", "prefix"] = "none"  # approximate: what is before a block is not computed again

    @property
    def cuts(self) -> bool:
        """Whether some tokens that are believed possible are never drawn."""
        return self.top_k is not None or self.top_p < 1 or self.greedy_tail > 0 or self.temperature == 0

    def but(self, **changes: Any) -> "SamplerSettings":
        """These settings with those of `changes` that are not None. Raises DdcliError for a bad value."""
        chosen = {**self.model_dump(), **{k: v for k, v in changes.items() if v is not None}}
        try:
            settings = SamplerSettings(**chosen)
        except ValidationError as error:
            first = error.errors()[0]
            raise DdcliError(f"{first['loc'][0]} {first['input']!r}: {first['msg'].lower()}") from None
        make_sampler(settings.sampler)
        return settings


class Asked(TypedDict, total=False):
    """Settings that somebody asks for: None and what is missing are the model's own, or those of `budget`."""

    budget: str | None
    sampler: str | None
    steps: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    guidance: float | None
    greedy_tail: int | None
    block: int | None
    cache: str | None


@dataclass(frozen=True)
class Canvas:
    """B sequences to denoise: what is given, what is not, and each one's random stream."""

    tokens: np.ndarray  # (B, L); what stands at positions that are not frozen does not matter
    frozen: np.ndarray  # (B, L) bool
    sizes: Sequence[int]  # (B,) tokens of each; what follows is padding, and frozen
    seeds: Sequence[int]  # (B,)


OnFrame = Callable[[Frame], None]
SAID = ("sampler", "steps", "temperature")  # of the settings, whatever they are
BUDGETS = ("quality", "balanced", "fast")  # settings that were measured to be worth their evaluations


@dataclass(frozen=True)
class Model:
    """A denoiser with all it needs to read and write text."""

    denoiser: Denoiser
    process: Process
    tokenizer: Tokenizer
    length: int  # tokens in a training block: the longest canvas
    device: torch.device
    record_lengths: Mapping[int, int] | None = None  # trained on records: how many had each length, in tokens
    labels: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # the same of each label's records
    network: DiffusionTransformer | None = None  # behind the denoiser, which may hide how it is asked
    plain: NetworkDenoiser | None = None  # the network asked about all sequences at once
    settings: SamplerSettings = field(default_factory=SamplerSettings)
    budgets: Mapping[str, SamplerSettings] = field(default_factory=dict)  # by a name of `BUDGETS`
    folder: Path | None = None  # of the run it was read from
    weights: Path | None = None  # the file they were read from

    @property
    def block(self) -> int:
        """Tokens that a network of blocks denoises at once; 0: all."""
        return self.network.config.block if self.network is not None else 0

    @property
    def parts(self) -> int:
        """Into how many blocks a network of them divides a sequence; 1 for any other."""
        return self.length // (self.block or self.length)

    def opening(self, label: str | None) -> int:
        """The id that opens a record, of a label or of none. Raises DdcliError for a label unknown to it."""
        if label is None:
            return self.tokenizer.bos_id
        if not self.labels:
            raise DdcliError("this model was trained without labels, and knows none; leave --label out")
        if label not in self.labels:
            raise unknown("label", label, map(printable, self.labels))
        return self.tokenizer.label_ids[label]

    @property
    def timesteps(self) -> int | None:
        """T of the chain whose bound it was trained on; None in continuous time."""
        return None if self.network is None else self.network.config.diffusion.get("timesteps")

    def choose(self, **asked: Unpack[Asked]) -> SamplerSettings:
        """Its own settings, or those of a budget, with those of `asked` that are not None.

        Raises DdcliError for a bad value, and a budget that was never measured.
        """
        budget, changes = asked.get("budget"), {k: v for k, v in asked.items() if k != "budget"}
        if budget is None:
            return self.settings.but(**changes)
        if budget not in BUDGETS:
            raise unknown("budget", budget, BUDGETS)
        if budget not in self.budgets:
            raise DdcliError(
                f"{self.folder or 'this model'} holds no budgets; measure them with "
                f'`ddcli eval {self.folder or "MODEL"} --sweep "steps=8,16,32,64" --save`'
            )
        return self.budgets[budget].but(**changes)

    def sampler(self, settings: SamplerSettings) -> Sampler:
        """The sampler of some settings. Raises DdcliError where it does not go with the model."""
        sampler = make_sampler(settings.sampler)
        if self.block and settings.block:
            raise DdcliError(f"this network writes blocks of {self.block}; leave --block out")
        if settings.greedy_tail and not sampler.even:
            raise DdcliError(
                f"a greedy tail is so many even steps, which sampler {settings.sampler} has not; leave it out"
            )
        try:
            sampler.check(self.process)
        except DdcliError as error:
            raise DdcliError(f"sampler {settings.sampler}: {error}") from None
        return sampler

    def calls(self, settings: SamplerSettings, unknown: Sequence[bool] | np.ndarray) -> tuple[float, float]:
        """Network evaluations for a sequence whose positions are to be filled where `unknown` (L,) bool: at
        least and at most, or twice the expected number where theory has one."""
        sampler = self.sampler(settings)
        block = self.block or settings.block or len(unknown)
        open_ones = [int(np.sum(unknown[start : start + block])) for start in range(0, len(unknown), block)]
        each = {n: sampler.calls(self.process, self._steps(settings), n) for n in set(open_ones) if n}
        asked = 1 if settings.guidance == 1 else 2
        least, most = (asked * sum(each[n][which] for n in open_ones if n) for which in (0, 1))
        return least, most

    def explain(self, settings: SamplerSettings, unknown: Sequence[bool] | np.ndarray) -> str:
        """How a text is sampled where it is `unknown` (L,) bool, and what it costs: a line for people."""
        least, most = self.calls(settings, unknown)
        told = settings.model_dump(include=set(SAID)) | settings.model_dump(exclude_defaults=True)
        names = [name for name in SamplerSettings.model_fields if name in told]
        shown = [f"{name.replace('_', ' ')} {told[name]}" for name in names]
        shown += ["approximate"] if settings.cache != "none" else []
        cost = f"NFE {least:.1f} expected" if least == most else f"NFE {least:.0f} to {most:.0f}, by the text"
        count = int(np.sum(unknown))
        return f"{', '.join(shown)}; {cost} for {count:,} {self.tokenizer.unit}{'s' * (count != 1)}"

    def _steps(self, settings: SamplerSettings) -> int:
        """Steps, or those of each block: its share of those of a training sequence."""
        block = self.block or settings.block
        return math.ceil(settings.steps * min(1, block / self.length)) if block else settings.steps

    def denoise(
        self,
        canvas: Canvas,
        settings: SamplerSettings,
        denoiser: Denoiser | None = None,
        sampler: Sampler | None = None,
    ) -> Iterator[Frame]:
        """Fill a canvas; every state on the way. `denoiser`, `sampler`: in place of the model's own, and of
        the settings'.

        Raises DdcliError where the settings do not go with the model.
        """
        sampler = sampler or self.sampler(settings)
        believed = self._asked(settings, denoiser)
        tokens = torch.tensor(canvas.tokens, device=self.device, dtype=torch.long)
        frozen = torch.tensor(canvas.frozen, device=self.device)
        mix = None
        if settings.guidance != 1:
            blind = self._asked(settings, denoiser)
            strength, blindfold = settings.guidance, self._blindfold(canvas)
            believed, mix = guided(believed, blind, self.process, strength, blindfold)
            if mix is not None and settings.cuts:
                raise DdcliError(
                    "with guidance, steps of this model's noise are mixed, not beliefs, and cannot be cut to "
                    "likely tokens; leave --top-k, --top-p, --greedy-tail and --temperature 0 out"
                )
        believed = self._shaped(believed, settings)
        longest = canvas.tokens.shape[1]
        valid = None
        if min(canvas.sizes) < longest:
            valid = (torch.arange(longest) < torch.tensor(canvas.sizes)[:, None]).to(self.device)
        return generate(
            believed,
            self.process,
            sampler,
            tokens,
            frozen,
            self._times(sampler, settings, canvas),
            Streams(canvas.seeds, canvas.sizes),
            valid,
            evaluations=1 if settings.guidance == 1 else 2,
            mix=mix,
        )

    def believed(self, settings: SamplerSettings, denoiser: Denoiser | None = None) -> Denoiser:
        """The denoiser as it is asked in one run of the loop, without guidance."""
        return self._shaped(self._asked(settings, denoiser), settings)

    def _asked(self, settings: SamplerSettings, denoiser: Denoiser | None) -> Denoiser:
        """Who believes, with a memory of one run where there is any."""
        asked = denoiser or self.denoiser
        if settings.cache == "prefix":
            asked = self._prefix_cached(settings, denoiser)
        if self.network is not None and self.network.config.self_conditioned:
            asked = SelfConditioned(asked, self.network, self.process)
        return asked

    def _shaped(self, believed: Denoiser, settings: SamplerSettings) -> Denoiser:
        """Sharper or flatter than believed, then cut to what is likely."""
        if settings.temperature != 1:
            believed = Temperature(believed, settings.temperature)
        if settings.top_k is not None:
            believed = TopK(believed, settings.top_k)
        if settings.top_p < 1:
            believed = TopP(believed, settings.top_p)
        if settings.greedy_tail:
            believed = GreedyTail(believed, self.process, settings.greedy_tail / self._steps(settings))
        return believed

    def _prefix_cached(self, settings: SamplerSettings, denoiser: Denoiser | None) -> Denoiser:
        """Raises DdcliError where there is nothing to keep, or it is kept exactly."""
        if self.block or isinstance(self.process, Autoregressive) or not settings.block:
            raise DdcliError(
                "the prefix cache keeps what stands before a block, for models that see both sides; give "
                "--block to such a model, or leave --cache out"
            )
        if denoiser or self.plain is None or self.network is None or self.network.config.self_conditioned:
            raise DdcliError(
                "the prefix cache serves sampling with a network that is told nothing else; leave --cache out"
            )
        return PrefixCached(self.plain, self.network, settings.block)

    def _blindfold(self, canvas: Canvas) -> Blindfold:
        """Hides the label or, where there is none, the prompt. Raises DdcliError where there is neither."""
        tokens = torch.tensor(canvas.tokens, device=self.device, dtype=torch.long)
        labels = list(self.tokenizer.label_ids.values())
        label = torch.isin(tokens, torch.tensor(labels, device=self.device, dtype=torch.long))
        if label.any():
            return without_label(label, self.tokenizer.bos_id)
        rng = Streams([derive_seed(seed, "guidance") for seed in canvas.seeds], canvas.sizes)
        return without_prompt(self.process, tokens, self._prompt(canvas), rng)

    def _prompt(self, canvas: Canvas) -> Tensor:
        """Where text is given, (B, L) bool. Raises DdcliError where guidance has nothing to go by."""
        if self.block or isinstance(self.process, Autoregressive):
            raise DdcliError("guidance hides a prompt, which a model that writes in order cannot do without")
        special = np.isin(canvas.tokens, self.tokenizer.special_ids)
        prompt = canvas.frozen & ~special & (canvas.tokens != self.tokenizer.eos_id)
        if not prompt.any():
            more = " or --label" if self.labels else ""
            raise DdcliError(f"guidance makes more of what is given, but nothing is; give --prompt{more}")
        return torch.tensor(prompt, device=self.device)

    def _times(self, sampler: Sampler, settings: SamplerSettings, canvas: Canvas) -> Tensor:
        """The clocks of the loop, (n + 1, B, 1); block after block, (n + 1, B, L), where that is asked for.

        Then each block takes its share of the steps.
        """
        longest = canvas.tokens.shape[1]
        unknown = torch.tensor(~canvas.frozen)
        rng = Streams([derive_seed(seed, "times") for seed in canvas.seeds], canvas.sizes)
        block = self.block or settings.block
        if not block:
            return sampler.times(self.process, settings.steps, unknown, rng)[..., None]
        steps = self._steps(settings)
        position = torch.arange(longest)
        rows: list[Tensor] = []
        for start in range(0, longest, block):
            own = (position >= start) & (position < start + block)
            if not (unknown & own).any():
                continue
            later = (position >= start + block).double()
            each = sampler.times(self.process, steps, unknown & own, rng)[..., None]
            rows += [torch.where(own, t, later) for t in (each[1:] if rows else each)]
        return torch.stack(rows) if rows else torch.zeros(1, *unknown.shape, dtype=torch.float64)


def last_of(frames: Iterator[Frame], on_frame: OnFrame | None) -> Frame:
    """The last of some frames, all of which are shown to `on_frame`."""
    last = None
    for last in frames:
        if on_frame:
            on_frame(last)
    assert last is not None, "generate yields at least the pure noise"
    return last


def fresh_seed() -> int:
    """A seed nobody asked for, short enough to type again."""
    return int.from_bytes(np.random.default_rng().bytes(4)) >> 1
