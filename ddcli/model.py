"""A denoiser with all it needs to read and write text, and how it is asked to fill a canvas.

Legend: B sequences, L positions; frozen positions are given.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, cast

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from .backbones.transformer import Transformer
from .config import MOST_TOKENS, Section
from .denoiser import (
    Batched,
    BlockNetwork,
    Cached,
    Denoiser,
    NetworkDenoiser,
    OneByOne,
    PrefixCached,
    SelfConditioned,
)
from .errors import DdcliError, printable, shorten, unknown
from .generate import Frame, generate
from .guidance import Blindfold, guided, without_label, without_prompt
from .process import Autoregressive, Masking, Process, pure_noise
from .randomness import Streams, derive_seed
from .sampler import Draw, Sampler, Shape, as_believed, by_chance, make_sampler
from .shaping import GreedyTail, InTurn, Shaped, Temperature, TopK, TopP
from .tokenizer import Tokenizer
from .weights import count


class SamplerSettings(Section):
    """How to sample; a model's own are saved in its generation_config.json."""

    sampler: str = "ancestral"
    steps: int = Field(128, ge=1, le=1_000_000)
    temperature: float = Field(1.0, ge=0, le=100)
    top_k: int | None = Field(None, ge=1)  # only so many of the likeliest tokens
    top_p: float = Field(1.0, gt=0, le=1)  # only the likeliest ones that together reach this
    guidance: float = Field(1.0, ge=0, le=100)  # strength of the label or prompt; 1 is the plain model
    greedy_tail: int = Field(
        0, ge=0, le=1_000_000
    )  # in so many steps at the end (of each block), only the likeliest token
    block: int | None = Field(
        None, ge=1, le=MOST_TOKENS
    )  # block after block of so many tokens, left to right
    cache: Literal["none", "prefix"] = "none"  # approximate: what is before a block is not computed again

    @property
    def cuts(self) -> bool:
        """Whether some tokens that are believed possible are never drawn."""
        return self.top_k is not None or self.top_p < 1 or self.greedy_tail > 0 or self.temperature == 0

    def but(self, **changes: Any) -> "SamplerSettings":
        """These settings with those of `changes` that are not None. Raises DdcliError for a bad value."""
        chosen = {**self.model_dump(), **{k: v for k, v in changes.items() if v is not None}}
        if strange := next((name for name in changes if name not in SamplerSettings.model_fields), None):
            raise unknown("setting", strange, SamplerSettings.model_fields)
        try:
            settings = SamplerSettings(**chosen)
        except ValidationError as error:
            first = error.errors()[0]
            option = str(first["loc"][0]).replace("_", "-")
            said = shorten(str(first["input"]), 60)
            raise DdcliError(f"--{option} {said}: {first['msg'].lower()}") from None
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


class Share(NamedTuple):
    """What a block of a canvas is to hold, and how it is written."""

    span: slice
    unknown: int  # positions to be filled
    steps: int


OnFrame = Callable[[Frame], None]
SAID = ("sampler", "steps", "temperature")  # of the settings, whatever they are
BUDGETS = ("quality", "balanced", "fast")  # settings that were measured to be worth their evaluations


@dataclass(frozen=True)
class Origin:
    """Where a model that ddcli did not train is from, and what it is."""

    name: str  # a folder or hub name
    architecture: str
    parameters: int
    process: str
    schedule: str
    files: tuple[Path, ...]  # config and weights


@dataclass(frozen=True, repr=False)
class Model:
    """A denoiser with all it needs to read and write text."""

    denoiser: Denoiser
    process: Process
    tokenizer: Tokenizer
    length: int  # tokens in a training block: the longest canvas
    device: torch.device  # where clocks and draws are, which is where the network is if it can be
    record_lengths: Mapping[int, int] | None = None  # trained on records: how many had each length, in tokens
    labels: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # the same of each label's records
    network: Transformer | None = None  # of ours, behind the denoiser, which may hide how it is asked
    plain: NetworkDenoiser | None = None  # the network asked about all sequences at once
    block: int = 0  # tokens that it denoises at once, given all before them; 0: all
    opened: bool = False  # canvases begin with a <bos> that is given, though their texts are no records
    settings: SamplerSettings = field(default_factory=SamplerSettings)
    budgets: Mapping[str, SamplerSettings] = field(default_factory=dict)  # by a name of `BUDGETS`
    folder: Path | None = None  # of the run it was read from
    weights: Path | None = None  # the file they were read from
    origin: Origin | None = None  # of a model that ddcli did not train, which has no run folder
    about: Mapping[str, Any] = field(default_factory=dict)  # the `diffusion` section of a run's config.json

    def __repr__(self) -> str:
        noise, unit = type(self.process).__name__.lower(), self.tokenizer.unit
        place = self.origin.name if self.origin else self.folder
        source = f" from {place}" if place else ""
        entries = f"{self.tokenizer.vocab_size:,} entries"
        return f"<{type(self).__name__}{source}: {noise}, {self.length} {unit}s at once, {entries}>"

    @property
    def parts(self) -> int:
        """Into how many blocks a network of them divides a sequence; 1 for any other."""
        return self.length // (self.block or self.length)

    @property
    def edges(self) -> tuple[int, int]:
        """How many tokens that are given stand before and behind every text on a canvas."""
        return (1, 1) if self.record_lengths else (int(self.opened), 0)

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
        return self.about.get("timesteps")

    @property
    def parameters(self) -> int:
        """How many numbers the network has learnt; 0 where it is not known."""
        if self.origin:
            return self.origin.parameters
        network = self.plain and self.plain.network
        return count(network) if isinstance(network, torch.nn.Module) else 0

    def choose(self, **asked: Unpack[Asked]) -> SamplerSettings:
        """Its own settings, or those of a budget, with those of `asked` that are not None.

        Raises DdcliError for a bad value, and a budget that was never measured.
        """
        budget, changes = asked.get("budget"), {k: v for k, v in asked.items() if k != "budget"}
        if budget is None:
            return self.settings.but(**changes)
        if budget not in BUDGETS:
            raise unknown("budget", budget, BUDGETS)
        if self.origin:
            raise DdcliError(
                f"budgets are kept in run folders, and {self.origin.name} is none; give --sampler and --steps"
            )
        if budget not in self.budgets:
            raise DdcliError(
                f"{self.folder or 'this model'} holds no budgets; measure them with "
                f'`ddcli eval {quote(str(self.folder or "MODEL"))} --sweep "steps=8,16,32,64" --save`'
            )
        return self.budgets[budget].but(**changes)

    def sampler(self, settings: SamplerSettings) -> Sampler:
        """The sampler of some settings. Raises DdcliError where they do not go with the model."""
        sampler = make_sampler(settings.sampler)
        if self.block and settings.block:
            raise DdcliError(f"this network writes blocks of {self.block}; leave --block out")
        if settings.greedy_tail and not (sampler.even and sampler.paced(self.process)):
            raise DdcliError(
                f"a greedy tail is so many even steps, which sampler {settings.sampler} has not; leave "
                "--greedy-tail out"
            )
        if settings.greedy_tail > settings.steps:
            raise DdcliError(
                f"--greedy-tail {settings.greedy_tail}: there are only {settings.steps} steps; give no more"
            )
        if settings.guidance != 1 and settings.cuts and not isinstance(self.process, Masking):
            raise DdcliError(
                "with guidance, steps of this model's noise are mixed, not beliefs, and cannot be cut to "
                "likely tokens; leave --top-k, --top-p, --greedy-tail and --temperature 0 out"
            )
        try:
            sampler.check(self.process)
        except DdcliError as error:
            raise DdcliError(f"sampler {settings.sampler}: {error}") from None
        return sampler

    def paced(self, settings: SamplerSettings) -> bool:
        """Whether the number of steps has a say in how some settings sample."""
        return self.sampler(settings).paced(self.process)

    def calls(self, settings: SamplerSettings, unknown: Sequence[bool] | np.ndarray) -> tuple[float, float]:
        """Network evaluations for a sequence whose positions are to be filled where `unknown` (L,) bool.

        At least, and at most; where theory has an expected number, that, for both.
        """
        sampler = self.sampler(settings)
        shares = self.shares(settings, sampler, unknown)
        each = {kind: sampler.calls(self.process, *kind) for kind in {(s.steps, s.unknown) for s in shares}}
        asked = 1 if settings.guidance == 1 else 2
        least, most = (asked * sum(each[s.steps, s.unknown][which] for s in shares) for which in (0, 1))
        return least, most

    def shares(
        self, settings: SamplerSettings, sampler: Sampler, unknown: Sequence[bool] | np.ndarray
    ) -> list[Share]:
        """The blocks of a canvas that have something to fill, where `unknown` (L,) bool, in their order.

        The steps are shared out over the unknown positions: rounded up, so that a few more may be taken. A
        network of blocks takes them for a sequence as long as those it was trained on, and may write on.
        """
        size = self.block or settings.block or max(1, len(unknown))
        spans = [slice(start, start + size) for start in range(0, len(unknown), size)]
        counts = [int(np.sum(unknown[span])) for span in spans]
        whole = min(sum(counts), self.length - sum(self.edges)) if self.block else sum(counts)
        fullest = -(-settings.steps * max(counts, default=0) // max(1, whole))
        fewest = min(sampler.fewest, fullest)  # a short last block is no reason to refuse
        return [
            Share(span, count, max(fewest, -(-settings.steps * count // whole)))
            for span, count in zip(spans, counts, strict=True)
            if count
        ]

    def explain(self, settings: SamplerSettings, unknown: Sequence[bool] | np.ndarray) -> str:
        """How a text is sampled where it is `unknown` (L,) bool, and what it costs: a line for people."""
        steps = [share.steps for share in self.shares(settings, self.sampler(settings), unknown)]
        count = int(np.sum(unknown))
        cost = self.priced(*self.calls(settings, unknown), count, count)
        return f"{self.described(settings, steps)}; {cost}"

    def described(self, settings: SamplerSettings, steps: Sequence[int] = ()) -> str:
        """Settings for people, as far as they matter; with the steps that each block takes of them."""
        told = settings.model_dump(include=set(SAID)) | settings.model_dump(exclude_defaults=True)
        own = (self.process.timesteps or math.inf) * self.parts
        if not self.paced(settings):
            told.pop("steps")
        elif settings.steps > own:
            told["steps"] = f"{settings.steps} (of which there are {own}: the model was trained in steps)"
        if "steps" in told and (self.block or settings.block) and steps:
            least, most = min(steps), max(steps)
            told["steps"] = f"{told['steps']} ({least if least == most else f'{least} to {most}'} a block)"
        names = [name for name in SamplerSettings.model_fields if name in told]
        shown = [f"{name.replace('_', ' ')} {told[name]}" for name in names]
        return ", ".join(shown + ["approximate"] * (settings.cache != "none"))

    def priced(self, least: float, most: float, fewest: int, longest: int) -> str:
        """For people: the evaluations, at least and at most, that `fewest` to `longest` positions cost."""
        many = f"{fewest:,}" if fewest == longest else f"{fewest:,} to {longest:,}"
        what = f"{many} {self.tokenizer.unit}{'s' * (longest != 1)}"
        if math.isclose(least, most, abs_tol=0.05):
            return f"NFE {most:.1f} expected for {what}"
        digits = 0 if most - least >= 1 else 1
        return f"NFE {least:.{digits}f} to {most:.{digits}f} for {what}, as the text turns out"

    def denoise(
        self,
        canvas: Canvas,
        settings: SamplerSettings,
        possible: Shape = as_believed,
        sampler: Sampler | None = None,
        pen: Draw = by_chance,
    ) -> Iterator[Frame]:
        """Fill a canvas; every state on the way. `possible`: what is known of its tokens, which beliefs are
        conditioned on. `sampler`: in place of the settings'. pen: see `Step`.

        Raises DdcliError, before anything is asked for, where the settings do not go with the model.
        """
        sampler = sampler or self.sampler(settings)
        believed = self._asked(settings, possible)
        tokens = torch.tensor(canvas.tokens, device=self.device, dtype=torch.long)
        frozen = torch.tensor(canvas.frozen, device=self.device)
        mix = None
        if settings.guidance != 1:
            blind = self._asked(settings, possible)
            strength, blindfold = settings.guidance, self._blindfold(canvas)
            believed, mix = guided(believed, blind, self.process, strength, blindfold)
        shares = [self.shares(settings, sampler, ~frozen) for frozen in canvas.frozen]
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
            self._times(sampler, settings, canvas, shares),
            Streams(canvas.seeds, canvas.sizes),
            valid,
            evaluations=1 if settings.guidance == 1 else 2,
            mix=mix,
            shape=InTurn(self._shapes(settings, shares, longest)),
            pen=pen,
        )

    def believed(self, settings: SamplerSettings) -> Denoiser:
        """What tokens are drawn from in one run of the loop, without guidance or a greedy tail."""
        return Shaped(self._asked(settings), InTurn(self._shapes(settings)))

    def _asked(self, settings: SamplerSettings, possible: Shape = as_believed) -> Denoiser:
        """Who believes, with a memory of one run where there is any."""
        asked: Denoiser = self.denoiser
        if settings.cache == "prefix":
            asked = self._prefix_cached(settings)
        elif self.block and self.plain is not None and isinstance(asked, OneByOne | Batched):
            asked = Cached(asked, self.plain, cast(BlockNetwork, self.plain.network))
        if possible is not as_believed:
            asked = Shaped(asked, possible)
        if self.network is not None and self.network.config.self_conditioned:
            asked = SelfConditioned(asked, self.network, self.process)
        return asked

    def _shapes(
        self, settings: SamplerSettings, shares: Sequence[Sequence[Share]] = (), longest: int = 0
    ) -> list[Shape]:
        """What beliefs go through before tokens are drawn: sharper or flatter, then cut to what is likely.

        shares: of each sequence, (B,), whose last steps a greedy tail is.
        """
        shapes: list[Shape] = []
        if settings.temperature != 1:
            shapes.append(Temperature(settings.temperature))
        if settings.top_k is not None:
            shapes.append(TopK(settings.top_k))
        if settings.top_p < 1:
            shapes.append(TopP(settings.top_p))
        if settings.greedy_tail and shares:
            last = torch.zeros(len(shares), longest, dtype=torch.float64, device=self.device)
            for row, blocks in zip(last, shares, strict=True):
                for share in blocks:
                    row[share.span] = settings.greedy_tail / share.steps
            shapes.append(GreedyTail(self.process, last))
        return shapes

    def _prefix_cached(self, settings: SamplerSettings) -> Denoiser:
        """Raises DdcliError where there is nothing to keep, or it is kept exactly."""
        if self.block or isinstance(self.process, Autoregressive) or not settings.block:
            raise DdcliError(
                "the prefix cache keeps what stands before a block, for models that see both sides; give "
                "--block to such a model, or leave --cache out"
            )
        if self.plain and not isinstance(self.plain.network, Transformer):
            raise DdcliError(
                "networks that others made have no cache of what stands before a block; leave --cache out"
            )
        if self.plain is None or self.network is None or self.network.config.self_conditioned:
            raise DdcliError(
                "the prefix cache serves sampling with a network that is told nothing else; leave --cache out"
            )
        return PrefixCached(self.plain, self.network, settings.block)

    def _blindfold(self, canvas: Canvas) -> Blindfold:
        """Hides the label or, of a sequence without one, the prompt. DdcliError where there is neither."""
        tokens = torch.tensor(canvas.tokens, device=self.device, dtype=torch.long)
        labels = list(self.tokenizer.label_ids.values())
        label = torch.isin(tokens, torch.tensor(labels, device=self.device, dtype=torch.long))
        labelled, by_label = label.any(-1, keepdim=True), without_label(label, self.tokenizer.bos_id)
        if labelled.all():
            return by_label
        rng = Streams([derive_seed(seed, "guidance") for seed in canvas.seeds], canvas.sizes)
        by_prompt = without_prompt(self.process, tokens, self._prompt(canvas), rng)
        return by_label.for_some(labelled, by_prompt)

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

    def _times(
        self,
        sampler: Sampler,
        settings: SamplerSettings,
        canvas: Canvas,
        shares: Sequence[Sequence[Share]],
    ) -> Tensor:
        """The clocks of the loop, (n + 1, B, 1); block after block, (n + 1, B, L), where that is asked for.

        Then each sequence goes through blocks of its own, whatever its neighbours do.
        """
        unknown = self._unknown(canvas)
        seeds = [derive_seed(seed, "times") for seed in canvas.seeds]
        if not (self.block or settings.block):
            steps = max((share.steps for blocks in shares for share in blocks), default=1)
            return sampler.times(self.process, steps, unknown, Streams(seeds, canvas.sizes))[..., None]
        position = torch.arange(unknown.shape[1])
        rows: list[list[Tensor]] = []
        for open_ones, blocks, seed, size in zip(unknown, shares, seeds, canvas.sizes, strict=True):
            clocks, rng = list[Tensor](), Streams([seed], [size])
            for share in blocks:
                own = (position >= share.span.start) & (position < share.span.stop)
                later = (position >= share.span.stop).double()
                each = sampler.times(self.process, share.steps, (open_ones & own)[None], rng)
                clocks += [torch.where(own, t, later) for t in (each[1:] if clocks else each)]
            rows.append(clocks)
        times = torch.zeros(max(1, *map(len, rows)), *unknown.shape, dtype=torch.float64)
        for i, clocks in enumerate(rows):
            for number, clock in enumerate(clocks):
                times[number, i] = clock
        return times

    def _unknown(self, canvas: Canvas) -> Tensor:
        """Positions that are open at t = 1, (B, L) bool: those to be filled, less what noise by masks leaves
        visible on a schedule that ends above 0. The noise is what the loop will draw."""
        running = torch.tensor(~canvas.frozen)
        if self.process.forgets or not isinstance(self.process, Masking):
            return running
        rng = Streams(canvas.seeds, canvas.sizes)
        noise = pure_noise(self.process, torch.tensor(canvas.tokens).long(), running.double(), rng)
        return running & (noise == self.process.mask_id)


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
