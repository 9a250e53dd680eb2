"""The one loop that turns noise into text, and what it is used for: sampling and infilling.

Legend: B sequences, L positions, N positions asked for, V states. A canvas is (B, L) tokens; frozen
positions are given and stand at clock 0, the others run from clock 1 down to 0.
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
from .denoiser import Denoiser, SelfConditioned, Temperature, TopP, Without
from .errors import DdcliError, unknown
from .guidance import guided
from .infilling import Window, parse
from .likelihood import nelbo
from .process import Autoregressive, Process, pure_noise
from .randomness import Streams, derive_seed
from .sampler import SAMPLERS, Sampler
from .schedule import stratified
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Frame:
    """The canvas after a step: what progress bars, the live view, traces and pictures read."""

    x: Tensor  # (B, L) tokens
    clock: Tensor  # (B, L) float64
    opened: Tensor  # (B, L) bool, positions whose token changed in this step
    nfe: Tensor  # (B,) network evaluations of each sequence so far
    step: int  # 0 is the pure noise the loop starts from
    steps: int


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    process: Process,
    sampler: Sampler,
    canvas: Tensor,
    frozen: Tensor,
    times: Tensor,
    rng: Streams,
    valid: Tensor | None = None,
    evaluations: int = 1,
) -> Iterator[Frame]:
    """Fill the positions of `canvas` (B, L) that are not `frozen` (B, L), and yield every state on the way.

    times (steps + 1, B, 1 or L) float64 fall from 1 to 0. valid (B, L) is False at padding, which is frozen.
    evaluations: of the network, for each time the denoiser is asked about a sequence.
    """
    times = times.to(canvas.device)
    clock = torch.where(frozen, 0.0, times[0])
    x = pure_noise(process, canvas, clock, rng)
    nfe = torch.zeros(len(canvas), dtype=torch.long)
    steps = len(times) - 1
    yield Frame(x, clock, ~frozen, nfe, 0, steps)
    for step, s in enumerate(times[1:], 1):
        before, target = clock, torch.where(frozen, 0.0, s)
        whether, what = rng.uniform(2, canvas.shape[1]).to(canvas.device).unbind(1)
        rows = sampler.rows(process, x, target, before, whether)
        previous = x
        if rows.any():
            x = sampler.step(process, denoiser(x, before, rows, valid), rows, x, target, before, what)
            nfe = nfe + evaluations * rows.any(-1).cpu()
        clock = target
        yield Frame(x, clock, x != previous, nfe, step, steps)


class SamplerSettings(BaseModel):
    """How to sample; a model's own are saved in its generation_config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: str = "ancestral"
    steps: int = Field(128, ge=1, le=1_000_000)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    guidance: float = Field(1.0, ge=0, le=100)  # strength of the prompt; 1 is the plain model

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
class Sample:
    """A text drawn from the model."""

    content: bytes  # the prompt included; of byte-level vocabularies it need not be UTF-8
    tokens: list[int]  # drawn, without the prompt
    nfe: int  # network evaluations it took
    seed: int
    index: int  # with `seed`, its random stream

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


@dataclass(frozen=True)
class Infilling:
    """A document with its gaps filled."""

    content: bytes
    fills: list[str]
    nfe: int
    seed: int
    index: int
    score: float | None = None  # ln p(gaps | context), nats: an unbiased estimate of a lower bound

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


@dataclass(frozen=True)
class Canvas:
    """B sequences to denoise: what is given, what is not, and each one's random stream."""

    tokens: np.ndarray  # (B, L); what stands at positions that are not frozen does not matter
    frozen: np.ndarray  # (B, L) bool
    sizes: Sequence[int]  # (B,) tokens of each; what follows is padding, and frozen
    seeds: Sequence[int]  # (B,)


OnFrame = Callable[[Frame], None]


@dataclass(frozen=True)
class TextModel:
    """A denoiser with all it needs to read and write text. `ddcli.load` makes one from a run folder."""

    denoiser: Denoiser
    process: Process
    tokenizer: Tokenizer
    length: int  # tokens in a training block: the longest canvas
    device: torch.device
    record_lengths: Mapping[int, int] | None = None  # trained on records: how many had each length, in tokens
    network: DiffusionTransformer | None = None  # behind the denoiser, which may hide how it is asked
    settings: SamplerSettings = field(default_factory=SamplerSettings)

    @property
    def block(self) -> int:
        """Tokens that a network of blocks denoises at once; 0: all."""
        return self.network.config.block if self.network is not None else 0

    # -- sampling --------------------------------------------------------------------------------------

    def sample(self, n: int = 1, **options: Any) -> list[Sample]:
        """Draw n texts. Options: those of `samples`.

        >>> model.sample(n=2, steps=64, prompt="ROMEO:", seed=1)[0].text
        """
        return list(self.samples(n, **options))

    def samples(
        self,
        n: int = 1,
        *,
        length: int | None = None,
        prompt: str = "",
        seed: int | None = None,
        batch_size: int = 16,
        on_frame: OnFrame | None = None,
        **settings: Any,
    ) -> Iterator[Sample]:
        """Draw n texts, a batch at a time. Sample i depends on (seed, i) alone.

        length: tokens, the prompt included; of records the default is drawn as often as in training.
        settings: sampler, steps, temperature, top_p; None means the model's own.
        Raises DdcliError for a prompt or length the model cannot take, or a sampler it cannot use.
        """
        chosen = self.settings.but(**settings)
        seed = fresh_seed() if seed is None else seed
        if n < 1 or batch_size < 1:
            raise DdcliError(f"at least one sample in batches of at least one, not {n} in {batch_size}")
        given = self.tokenizer.encode(prompt)
        for start in range(0, n, batch_size):
            indices = range(start, min(start + batch_size, n))
            canvas = self._blank(length, given, seed, indices)
            frames = self._denoise(canvas, chosen)
            if self.block:
                frames = self._until_end(frames, canvas)
            frame = self._last(frames, on_frame)
            rows = frame.x.cpu().numpy()
            for i, row, frozen, nfe in zip(indices, rows, canvas.frozen, frame.nfe.tolist(), strict=True):
                drawn = row[~frozen].tolist()
                if self.tokenizer.eos_id in drawn:
                    drawn = drawn[: drawn.index(self.tokenizer.eos_id)]
                content = prompt.encode() + self.tokenizer.continuation(given, drawn)
                yield Sample(content, drawn, nfe, seed, i)

    def frames(
        self, *, length: int | None = None, prompt: str = "", seed: int = 0, **settings: Any
    ) -> Iterator[Frame]:
        """Every state on the way to the first sample of a seed. Options as in `samples`."""
        canvas = self._blank(length, self.tokenizer.encode(prompt), seed, range(1))
        return self._denoise(canvas, self.settings.but(**settings))

    def _blank(self, length: int | None, given: np.ndarray, seed: int, indices: range) -> Canvas:
        """Canvases that hold a prompt and nothing else; between the ends of a record if it is to be one."""
        edge = 1 if self.record_lengths else 0
        lengths = [self._length(length, len(given), seed, i) for i in indices]
        tokens = np.full((len(lengths), max(lengths) + 2 * edge), self.tokenizer.pad_id)
        frozen = np.ones_like(tokens, dtype=bool)
        for row, kept, size in zip(tokens, frozen, lengths, strict=True):
            row[edge : edge + len(given)] = given
            kept[edge + len(given) : edge + size] = False
            if edge:
                row[0], row[edge + size] = self.tokenizer.bos_id, self.tokenizer.eos_id
        seeds = [derive_seed(seed, "sample", i) for i in indices]
        return Canvas(tokens, frozen, [size + 2 * edge for size in lengths], seeds)

    def _length(self, asked: int | None, given: int, seed: int, index: int) -> int:
        """Tokens of a sample, its prompt included. Raises DdcliError for what the model cannot write."""
        longest = self.length - (2 if self.record_lengths else 0)
        unit = self.tokenizer.unit
        if 0 < self.block < longest and asked is not None and asked > longest:
            longest = asked  # block after block, a text may be of any length
        if asked is not None and not 1 <= asked <= longest:
            raise DdcliError(f"this model writes 1 to {longest} {unit}s at once, not {asked}; set --length")
        if given >= (asked or longest):
            raise DdcliError(
                f"the prompt's {given} {unit}s leave nothing to write of {asked or longest}; "
                "shorten it, or set --length"
            )
        if asked or not self.record_lengths:
            return asked or longest
        able = {size: count for size, count in self.record_lengths.items() if size > given} or {longest: 1}
        u = Streams([derive_seed(seed, "length", index)]).uniform().item()
        reached = np.cumsum(list(able.values()))
        return list(able)[int(np.searchsorted(reached, u * reached[-1], side="right"))]

    # -- infilling -------------------------------------------------------------------------------------

    def infill(
        self,
        document: str | bytes,
        n: int = 1,
        *,
        mask_token: str = "[MASK]",
        score: bool = False,
        seed: int | None = None,
        on_frame: OnFrame | None = None,
        **settings: Any,
    ) -> list[Infilling]:
        """Fill the gaps of a document in n ways; everything else stays byte for byte as it is.

        `[MASK]` is a gap of one token, `[MASK:12]` of twelve, `\\[MASK]` the text itself. A gap never holds
        an end of text. With `score`, the ways are ranked by their estimated ln p(gaps | context).

        Raises DdcliError (GapError, with a caret) for a document without gaps, a gap that cannot be, or an
        autoregressive model.

        >>> model.infill("To be [MASK:5] the question", seed=1)[0].text
        """
        if self.block or isinstance(self.process, Autoregressive):
            kind = "a block" if self.block else "an autoregressive"
            raise DdcliError(
                f"{kind} model sees only what stands before a gap, and cannot infill; "
                "use a model of absorbing, uniform or hybrid noise without blocks"
            )
        chosen = self.settings.but(**settings)
        seed = fresh_seed() if seed is None else seed
        if n < 1:
            raise DdcliError(f"at least one way to fill the gaps, not {n}")
        source = document.encode(errors="surrogateescape") if isinstance(document, str) else document
        whole = parse(source, mask_token)
        # a model of records reads one line at a time
        parts = [line for line in whole.lines() if line.gaps] if self.record_lengths else [whole]
        edges = (self.tokenizer.bos_id, self.tokenizer.eos_id) if self.record_lengths else None
        layouts = [part.layout(self.tokenizer, self.length, edges) for part in parts]
        fills: list[list[bytes]] = [[] for _ in range(n)]
        nfe, scores = np.zeros(n, dtype=np.int64), np.zeros(n)
        for number, layout in enumerate(layouts):
            ids = np.tile(layout.ids, (n, 1))
            for window in layout.windows:
                seeds = [derive_seed(seed, "infill", i, number, window.gaps.start) for i in range(n)]
                canvas = Canvas(
                    ids[:, window.span],
                    np.tile(window.frozen, (n, 1)),
                    [len(window.frozen)] * n,
                    seeds,
                )
                frame = self._last(self._denoise(canvas, chosen, self._within_text), on_frame)
                window.write(ids, frame.x.cpu().numpy())
                nfe += frame.nfe.numpy()
                if score:
                    scores += [self._score(row[window.span], window, seed) for row in ids]
            for row, filled in zip(ids, fills, strict=True):
                filled += [self.tokenizer.continuation(row[: gap.start], row[gap]) for gap in layout.gaps]
        ways = [
            Infilling(
                content=whole.assemble(filled),
                fills=[fill.decode(errors="replace") for fill in filled],
                nfe=int(nfe[i]),
                seed=seed,
                index=i,
                score=float(scores[i]) if score else None,
            )
            for i, filled in enumerate(fills)
        ]
        return sorted(ways, key=lambda way: -(way.score or 0.0))

    @property
    def _within_text(self) -> Denoiser:
        """What is believed of positions where no text ends."""
        return Without(self.denoiser, (self.tokenizer.eos_id,))

    def _score(self, ids: np.ndarray, window: Window, seed: int) -> float:
        """A lower bound on ln p(its gaps | what a window was given), nats; every way meets the same noise."""
        draws = 16

        def repeated(row: np.ndarray) -> Tensor:
            return torch.tensor(row, device=self.device).expand(draws, -1)

        rng = Streams([derive_seed(seed, "score", i) for i in range(draws)])
        with torch.no_grad():
            nats = nelbo(
                self.process,
                self._within_text,
                repeated(ids),
                repeated(window.own),
                stratified(rng.uniform()),
                rng,
                unseen=repeated(~window.frozen & ~window.own),
            )
        return -nats.strict.sum().item() / draws

    # -- the loop --------------------------------------------------------------------------------------

    def _denoise(
        self, canvas: Canvas, settings: SamplerSettings, denoiser: Denoiser | None = None
    ) -> Iterator[Frame]:
        sampler = SAMPLERS[settings.sampler]()
        sampler.check(self.process)
        believed = self._believed(settings, denoiser)
        process = self.process
        tokens = torch.tensor(canvas.tokens, device=self.device, dtype=torch.long)
        frozen = torch.tensor(canvas.frozen, device=self.device)
        if settings.guidance != 1:
            seeds = [derive_seed(seed, "guidance") for seed in canvas.seeds]
            prompt = self._prompt(canvas)
            blind = self._believed(settings, denoiser)
            believed, process = guided(
                believed, blind, process, settings.guidance, tokens, prompt, Streams(seeds, canvas.sizes)
            )
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

    def _prompt(self, canvas: Canvas) -> Tensor:
        """Where text is given, (B, L) bool. Raises DdcliError where guidance has nothing to go by."""
        if self.block or isinstance(self.process, Autoregressive):
            raise DdcliError("guidance hides a prompt, which a model that writes in order cannot do without")
        special = np.isin(canvas.tokens, self.tokenizer.special_ids)
        prompt = canvas.frozen & ~special & (canvas.tokens != self.tokenizer.eos_id)
        if not prompt.any():
            raise DdcliError("guidance makes more of a prompt, but there is none; give --prompt")
        return torch.tensor(prompt, device=self.device)

    def _until_end(self, frames: Iterator[Frame], canvas: Canvas) -> Iterator[Frame]:
        """The frames up to the one where every text has an end, and nothing before it is open any more."""
        written = torch.tensor(~canvas.frozen)
        for frame in frames:
            yield frame
            ends = (frame.x.cpu() == self.tokenizer.eos_id) & written & (frame.clock.cpu() == 0)
            before = ends.cumsum(-1) == 0
            if bool(ends.any(-1).all()) and not bool((before & (frame.clock.cpu() > 0)).any()):
                return

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

    @staticmethod
    def _last(frames: Iterator[Frame], on_frame: OnFrame | None) -> Frame:
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
