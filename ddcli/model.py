"""A denoiser with all it needs to read and write text, and how it is asked to fill a canvas.

Legend: B sequences, L positions; frozen positions are given.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from .backbones.transformer import DiffusionTransformer
from .denoiser import Denoiser, SelfConditioned, Temperature, TopP
from .errors import DdcliError, printable, unknown
from .generate import Frame, generate
from .guidance import Blindfold, guided, without_label, without_prompt
from .process import Autoregressive, Process
from .randomness import Streams, derive_seed
from .sampler import SAMPLERS, Sampler
from .tokenizer import Tokenizer


class SamplerSettings(BaseModel):
    """How to sample; a model's own are saved in its generation_config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: str = "ancestral"
    steps: int = Field(128, ge=1, le=1_000_000)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    guidance: float = Field(1.0, ge=0, le=100)  # strength of the label or prompt; 1 is the plain model

    def but(self, **changes: Any) -> "SamplerSettings":
        """These settings with those of `changes` that are not None. Raises DdcliError for a bad value."""
        chosen = {**self.model_dump(), **{k: v for k, v in changes.items() if v is not None}}
        try:
            settings = SamplerSettings(**chosen)
        except ValidationError as error:
            first = error.errors()[0]
            raise DdcliError(f"{first['loc'][0]} {first['input']!r}: {first['msg'].lower()}") from None
        if settings.sampler not in SAMPLERS:
            raise unknown("sampler", settings.sampler, SAMPLERS)
        return settings


@dataclass(frozen=True)
class Canvas:
    """B sequences to denoise: what is given, what is not, and each one's random stream."""

    tokens: np.ndarray  # (B, L); what stands at positions that are not frozen does not matter
    frozen: np.ndarray  # (B, L) bool
    sizes: Sequence[int]  # (B,) tokens of each; what follows is padding, and frozen
    seeds: Sequence[int]  # (B,)


OnFrame = Callable[[Frame], None]


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
    settings: SamplerSettings = field(default_factory=SamplerSettings)

    @property
    def block(self) -> int:
        """Tokens that a network of blocks denoises at once; 0: all."""
        return self.network.config.block if self.network is not None else 0

    def opening(self, label: str | None) -> int:
        """The id that opens a record, of a label or of none. Raises DdcliError for a label unknown to it."""
        if label is None:
            return self.tokenizer.bos_id
        if not self.labels:
            raise DdcliError("this model was trained without labels, and knows none; leave --label out")
        if label not in self.labels:
            raise unknown("label", label, map(printable, self.labels))
        return self.tokenizer.label_ids[label]

    def denoise(
        self, canvas: Canvas, settings: SamplerSettings, denoiser: Denoiser | None = None
    ) -> Iterator[Frame]:
        sampler = SAMPLERS[settings.sampler]()
        sampler.check(self.process)
        believed = self._believed(settings, denoiser)
        process = self.process
        tokens = torch.tensor(canvas.tokens, device=self.device, dtype=torch.long)
        frozen = torch.tensor(canvas.frozen, device=self.device)
        if settings.guidance != 1:
            blind = self._believed(settings, denoiser)
            believed, process = guided(believed, blind, process, settings.guidance, self._blindfold(canvas))
        count, longest = canvas.tokens.shape
        times = self._times(sampler, settings.steps, canvas)
        valid = None
        if min(canvas.sizes) < longest:
            valid = (torch.arange(longest) < torch.tensor(canvas.sizes)[:, None]).to(self.device)
        return generate(
            believed,
            process,
            sampler,
            tokens,
            frozen,
            times.expand(-1, count, -1),
            Streams(canvas.seeds, canvas.sizes),
            valid,
            evaluations=1 if settings.guidance == 1 else 2,
        )

    def _believed(self, settings: SamplerSettings, denoiser: Denoiser | None) -> Denoiser:
        """The denoiser as it is asked in one run of the loop."""
        believed = denoiser or self.denoiser
        if self.network is not None and self.network.config.self_conditioned:
            believed = SelfConditioned(believed, self.network, self.process)
        if settings.temperature != 1:
            believed = Temperature(believed, settings.temperature)
        return TopP(believed, settings.top_p) if settings.top_p < 1 else believed

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

    def _times(self, sampler: Sampler, steps: int, canvas: Canvas) -> Tensor:
        """The clocks of the loop, (n + 1, 1, 1); block after block, (n + 1, 1, L), for a network of blocks.

        Then each block takes its share of the steps that a training sequence would.
        """
        longest = canvas.tokens.shape[1]
        if not self.block:
            return sampler.times(self.process, steps, int((~canvas.frozen).sum(-1).max()))[:, None, None]
        each = sampler.times(self.process, math.ceil(steps * self.block / self.length), self.block)
        starts = [s for s in range(0, longest, self.block) if not canvas.frozen[:, s : s + self.block].all()]
        position = torch.arange(longest)
        rows: list[Tensor] = []
        for start in starts:
            own = (position >= start) & (position < start + self.block)
            later = (position >= start + self.block).double()
            rows += [torch.where(own, t, later) for t in (each[1:] if rows else each)]
        return torch.stack(rows or [torch.zeros(longest, dtype=torch.float64)])[:, None]


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
