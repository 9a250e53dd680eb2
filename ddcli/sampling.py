"""New text: a prompt, then canvases that hold nothing else, filled from noise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Unpack

import numpy as np
import torch

from .errors import DdcliError
from .generate import Frame
from .model import Asked, Canvas, Model, OnFrame, SamplerSettings, fresh_seed, last_of
from .process import Autoregressive, Process
from .randomness import Streams, derive_seed
from .sampler import Shape, as_believed
from .shaping import Among
from .tokenizer import Tokenizer

Label = str | Sequence[str | None] | None  # of all samples; or a list, whose members they take in turn


class Wanted(Asked, total=False):
    """What a text is to be, and how it is made."""

    length: int | None
    prompt: str
    label: Label
    fixed: Mapping[int, str] | None


class OfOne(Wanted, total=False):
    """Keyword arguments of `frames` and `explain`."""

    seed: int | None


class OfMany(Wanted, total=False):
    """Keyword arguments of `samples`."""

    seed: int | None
    batch_size: int
    on_frame: OnFrame | None


@dataclass(frozen=True)
class Sample:
    """A text drawn from the model."""

    content: bytes  # the prompt included; of byte-level vocabularies it need not be UTF-8
    tokens: list[int]  # after the prompt: drawn, or fixed
    nfe: int  # network evaluations it took
    seed: int
    index: int  # with `seed`, its random stream
    label: str | None = None  # that it was asked for
    fixed: int = 0  # of its tokens, those that were not drawn

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


class Writer(Protocol):
    """What `ddcli sample` asks of a model: a text model, or one that does nothing but write."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def process(self) -> Process: ...

    def choose(self, **asked: Unpack[Asked]) -> SamplerSettings: ...

    def described(self, settings: SamplerSettings) -> str: ...

    def explanation(self, **options: Unpack[OfOne]) -> str: ...

    def sample(self, n: int | range = 1, **options: Unpack[OfMany]) -> list[Sample]: ...

    def samples(self, n: int | range = 1, **options: Unpack[OfMany]) -> Iterator[Sample]: ...


def samples(
    model: Model,
    n: int | range = 1,
    *,
    length: int | None = None,
    prompt: str = "",
    label: Label = None,
    fixed: Mapping[int, str] | None = None,
    seed: int | None = None,
    batch_size: int = 16,
    on_frame: OnFrame | None = None,
    **settings: Unpack[Asked],
) -> Iterator[Sample]:
    """Draw n texts, or those of a range of numbers, a batch at a time. Sample i depends on (seed, i) alone.

    length: tokens, the prompt included; of records the default is drawn as often as in training, among those
    of the `label` where one is given. label: of all texts, or a list whose labels they take in turn. fixed:
    text that stands at a token's place, 0 the first of the prompt. settings: those of `SamplerSettings`; None
    means the model's own, or those of `budget`, which is quality, balanced or fast.
    Raises DdcliError for a prompt, label or length the model cannot take, or a sampler it cannot use.
    """
    chosen = model.choose(**settings)
    seed = fresh_seed() if seed is None else seed
    numbers = range(n) if isinstance(n, int) else n
    if not numbers or batch_size < 1:
        raise DdcliError(f"at least one sample in batches of at least one, not {n} in {batch_size}")
    given, first = _given(model, prompt)
    pieces = _placed(model, fixed or {}, len(given))
    for start in range(0, len(numbers), batch_size):
        indices = numbers[start : start + batch_size]
        canvas = _blank(model, length, given, label, seed, indices, pieces)
        frames = model.denoise(canvas, chosen, _possible(model, len(canvas.sizes), len(given), pieces, first))
        if model.block:
            frames = _until_end(model, frames, canvas)
        frame = last_of(frames, on_frame)
        rows = frame.x.cpu().numpy()
        front, back = model.edges
        for i, row, size, nfe in zip(indices, rows, canvas.sizes, frame.nfe.tolist(), strict=True):
            drawn = row[front + len(given) : size - back].tolist()
            if model.tokenizer.eos_id in drawn:
                drawn = drawn[: drawn.index(model.tokenizer.eos_id)]
            content = prompt.encode() + model.tokenizer.continuation(given, drawn, prompt.encode())
            yield Sample(content, drawn, nfe, seed, i, _label_of(label, i), sum(map(len, pieces.values())))


def frames(
    model: Model,
    *,
    length: int | None = None,
    prompt: str = "",
    label: Label = None,
    fixed: Mapping[int, str] | None = None,
    seed: int | None = None,
    **settings: Unpack[Asked],
) -> Iterator[Frame]:
    """Every state on the way to the first sample of a seed. Options as in `samples`."""
    seed = fresh_seed() if seed is None else seed
    given, first = _given(model, prompt)
    pieces = _placed(model, fixed or {}, len(given))
    canvas = _blank(model, length, given, label, seed, range(1), pieces)
    return model.denoise(canvas, model.choose(**settings), _possible(model, 1, len(given), pieces, first))


def _blank(
    model: Model,
    length: int | None,
    given: np.ndarray,
    label: Label,
    seed: int,
    indices: range,
    fixed: Mapping[int, np.ndarray] | None = None,
) -> Canvas:
    """Canvases that hold a prompt and nothing else; between what stands around every text, as records do."""
    front, back = model.edges
    labels = [_label_of(label, i) for i in indices]
    openings = [model.opening(own) for own in labels]
    usual = [model.record_lengths if own is None else model.labels[own] for own in labels]
    least = max([len(given) + 1, *(place + len(ids) for place, ids in (fixed or {}).items())])
    lengths = [
        _length(model, length, counts, len(given), least, seed, i)
        for counts, i in zip(usual, indices, strict=True)
    ]
    tokens = np.full((len(lengths), front + max(lengths) + back), model.tokenizer.pad_id)
    frozen = np.ones_like(tokens, dtype=bool)
    for row, kept, size, opening in zip(tokens, frozen, lengths, openings, strict=True):
        row[:front], row[front + size : front + size + back] = opening, model.tokenizer.eos_id
        row[front : front + len(given)] = given
        kept[front + len(given) : front + size] = False
        for place, ids in (fixed or {}).items():
            if place + len(ids) > size:
                raise DdcliError(
                    f"the text fixed at {place} would end at {place + len(ids)}, past the {size} "
                    f"{model.tokenizer.unit}s there are; place it earlier, or set --length"
                )
            row[front + place : front + place + len(ids)] = ids
            kept[front + place : front + place + len(ids)] = True
    seeds = [derive_seed(seed, "sample", i) for i in indices]
    return Canvas(tokens, frozen, [front + size + back for size in lengths], seeds)


def _label_of(label: Label, index: int) -> str | None:
    return label if isinstance(label, str | None) else label[index % len(label)]


def _placed(model: Model, fixed: Mapping[int, str], start: int) -> dict[int, np.ndarray]:
    """The ids of texts by their places. Raises DdcliError where they meet the prompt or each other, or the
    model could not heed them."""
    unit, end, placed = model.tokenizer.unit, start, {}
    sees = 1 if isinstance(model.process, Autoregressive) else model.block  # at once; 0: everything
    for place, text in sorted(fixed.items()):
        if place < end:
            raise DdcliError(
                f"the text fixed at {unit} {place} meets what stands before {end}; place it later"
            )
        if sees and place > end and end // sees != place // sees:
            raise DdcliError(
                f"the text fixed at {unit} {place} would be met by chance: the model does not see it from "
                f"{end}; begin with it (--prompt), or use a model that sees all of a text"
            )
        placed[place] = model.tokenizer.encode(text)
        if set(placed[place].tolist()) & set(model.tokenizer.special_ids):
            raise DdcliError(f"the text fixed at {unit} {place} has a symbol that the vocabulary lacks")
        end = place + len(placed[place])
    return placed


def _given(model: Model, prompt: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The ids of a prompt, and which can stand right behind it, (V,) bool; None: any can."""
    seams = model.tokenizer.seams
    read, first = seams.before_gap(prompt) if seams else (prompt, None)
    return model.tokenizer.encode(read), first


def _possible(
    model: Model, count: int, start: int, pieces: Mapping[int, np.ndarray], first: np.ndarray | None
) -> Shape:
    """Of so many texts none ends before the last piece that is fixed; and of what can be the first token
    behind the prompt, (V,) bool."""
    front, _ = model.edges
    text = torch.ones(model.tokenizer.vocab_size, dtype=torch.bool)
    text[model.tokenizer.eos_id] = False
    allowed = dict.fromkeys(range(front + start, front + max(pieces, default=start)), text)
    if first is not None:
        allowed[front + start] = torch.tensor(first)
    return Among([allowed] * count) if allowed else as_believed


def explain(
    model: Model,
    *,
    length: int | None = None,
    prompt: str = "",
    label: Label = None,
    fixed: Mapping[int, str] | None = None,
    seed: int | None = None,
    **settings: Unpack[Asked],
) -> str:
    """How the first sample of a seed is made, and what it costs, in a line for people. Options: `samples`."""
    seed = fresh_seed() if seed is None else seed
    given, first = _given(model, prompt)
    pieces = _placed(model, fixed or {}, len(given))
    canvas = _blank(model, length, given, label, seed, range(1), pieces)
    chosen = model.choose(**settings)
    model.denoise(
        canvas, chosen, _possible(model, 1, len(given), pieces, first)
    )  # refuses what it would refuse
    return model.explain(chosen, ~canvas.frozen[0])


def _length(
    model: Model,
    asked: int | None,
    usual: Mapping[int, int] | None,
    given: int,
    least: int,
    seed: int,
    index: int,
) -> int:
    """Tokens of a sample, its prompt included; of records, drawn by how many had a `usual` length, `least` of
    them or more.

    Raises DdcliError for what the model cannot write.
    """
    longest = model.length - sum(model.edges)
    unit = model.tokenizer.unit
    if 0 < model.block < longest and asked is not None and asked > longest:
        longest = asked  # block after block, a text may be of any length
    if asked is not None and not 1 <= asked <= longest:
        raise DdcliError(f"this model writes 1 to {longest} {unit}s at once, not {asked}; set --length")
    if given >= (asked or longest):
        raise DdcliError(
            f"the prompt's {given} {unit}s leave nothing to write of {asked or longest}; "
            "shorten it, or set --length"
        )
    if asked or not usual:
        return asked or longest
    able = {size: count for size, count in usual.items() if size >= least} or {longest: 1}
    u = Streams([derive_seed(seed, "length", index)]).uniform().item()
    reached = np.cumsum(list(able.values()))
    return list(able)[int(np.searchsorted(reached, u * reached[-1], side="right"))]


def _until_end(model: Model, frames: Iterator[Frame], canvas: Canvas) -> Iterator[Frame]:
    """The frames up to the one where every text has an end, and nothing before it is open any more."""
    written = torch.tensor(~canvas.frozen)
    for frame in frames:
        yield frame
        ends = (frame.x.cpu() == model.tokenizer.eos_id) & written & (frame.clock.cpu() == 0)
        before = ends.cumsum(-1) == 0
        if bool(ends.any(-1).all()) and not bool((before & (frame.clock.cpu() > 0)).any()):
            return
