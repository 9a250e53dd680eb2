"""Gaps filled with what stands on both sides of them; everything else stays byte for byte as it is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .denoiser import Batched, Denoiser
from .errors import DdcliError
from .generate import Frame
from .infilling import (
    MAX_GAP,
    Document,
    Encoded,
    Hidden,
    Layout,
    Side,
    Window,
    encode,
    line_and_column,
    parse,
)
from .lengths import Posterior, Question, ask, likeliest, posterior
from .likelihood import nelbo
from .model import Asked, Canvas, Model, OnFrame, SamplerSettings, fresh_seed, last_of
from .process import Autoregressive, pure_noise
from .randomness import Streams, derive_seed
from .sampler import Shape
from .schedule import stratified
from .shaping import Among, InTurn, Shaped, Temperature, Without

Log = Callable[[str], None]

DRAWS = 16  # noisings that a score is the mean of
AT_ONCE = 16  # canvases


class OfGaps(Asked, total=False):
    """Keyword arguments of `infill`."""

    mask_token: str
    max_gap: int
    score: bool | None
    label: str | None
    seed: int | None
    on_frame: OnFrame | None
    log: Log | None


@dataclass(frozen=True)
class Fill:
    """What was written into one gap."""

    content: bytes
    start: int  # its place in the filled document, bytes
    tokens: list[int]  # of byte pairs some may reach over its edges
    log_probs: list[float] | None = (
        None  # of the tokens, nats: their shares of the score; None: not asked for
    )
    log_length: float = 0.0  # ln p of its length, and of where its tokens begin and end, as far as chosen

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


@dataclass(frozen=True)
class Infilling:
    """A document with its gaps filled."""

    content: bytes
    gaps: list[Fill]
    nfe: int  # network evaluations it took; a score takes DRAWS more of each window
    seed: int
    index: int
    score: float | None = None  # ln p(gaps | context), nats: an unbiased estimate of a lower bound
    ways: int = 1  # that came out as this text, where they are ranked

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    @property
    def fills(self) -> list[str]:
        return [gap.text for gap in self.gaps]


@dataclass
class _Way:
    """One of the ways, while it is being written."""

    seed: int
    index: int
    fills: list[Fill] = field(default_factory=list)  # their places not known yet
    nfe: int = 0

    def draw(self, name: str, *parts: int) -> int:
        """The seed of a draw that is this way's own."""
        return derive_seed(self.seed, name, self.index, *parts)

    def done(self, document: Document, scored: bool) -> Infilling:
        places, at = [], 0
        for piece, fill in zip(document.pieces, self.fills, strict=False):
            at += len(piece)
            places.append(at)
            at += len(fill.content)
        gaps = [
            Fill(fill.content, place, fill.tokens, fill.log_probs, fill.log_length)
            for fill, place in zip(self.fills, places, strict=True)
        ]
        score = sum(sum(gap.log_probs or ()) + gap.log_length for gap in gaps) if scored else None
        content = document.assemble([gap.content for gap in gaps])
        return Infilling(content, gaps, self.nfe, self.seed, self.index, score)


def check(model: Model, label: str | None = None, **settings: Unpack[Asked]) -> SamplerSettings:
    """The settings that gaps are filled with. Raises DdcliError where they could fill no document at all."""
    if model.block or isinstance(model.process, Autoregressive):
        kind = "a block" if model.block else "an autoregressive"
        raise DdcliError(
            f"{kind} model sees only what stands before a gap, and cannot infill; "
            "use a model of absorbing, uniform or hybrid noise without blocks"
        )
    model.opening(label)
    chosen = model.choose(**settings)
    model.sampler(chosen)
    model.believed(chosen)
    return chosen


def infill(
    model: Model,
    document: str | bytes | Document,
    n: int = 1,
    *,
    mask_token: str = "[MASK]",
    max_gap: int = MAX_GAP,
    score: bool | None = None,
    label: str | None = None,
    seed: int | None = None,
    on_frame: OnFrame | None = None,
    log: Log | None = None,
    **settings: Unpack[Asked],
) -> list[Infilling]:
    """Fill the gaps of a document in n ways; everything else stays byte for byte as it is.

    document: a text with gaps, `[MASK]` of one token, `[MASK:12]` of twelve, `[MASK:3-20]` and `[MASK:*]` (1
    to `max_gap`) of as many as the model finds likely, `\\[MASK]` the text itself; or one whose gaps
    `ddcli.infilling` has cut (`cut_spans`, `cut_matches`, `between`). A gap never holds an end of text. Each
    way draws the lengths of its gaps from their posterior; temperature 0 takes that of the likeliest
    filling.
    score: rank the ways by their estimated ln p(gaps | context), lengths that were chosen included, and list
    a text once, with how many `ways` came out as it; by default where there are several ways. False: n draws.
    Scores and lengths are judged by the model as it is, whatever the settings it is drawn with.
    label: that of each line, told wherever the model reads the line's beginning. log: is told what takes
    long, and what of a range of lengths has no room.

    Raises DdcliError (GapError, with a caret) for a document without gaps, a gap that cannot be, a
    label the model does not know, or an autoregressive model.

    >>> model.infill("To be [MASK:5] the question", seed=1)[0].text
    """
    chosen = check(model, label, **settings)
    document = _read(document, mask_token, max_gap)
    seed = fresh_seed() if seed is None else seed
    work = prepare(model, document, n, seed, chosen, label=label, log=log)
    score = n > 1 if score is None else score
    (found,) = fill(model, [work], chosen, score=score, on_frame=on_frame)
    return found


@dataclass
class _Part:
    """A text with room for its gaps, while they are being written: the same room in some of the ways."""

    document: Document  # whose gaps it has
    name: str  # of that
    layout: Layout
    number: int  # of the text in its document
    ways: list[_Way]
    of: int  # ways, in all
    log_sizes: Sequence[float]  # ln p of the room for each gap, nats
    ids: np.ndarray  # (n, N), of each way
    shares: np.ndarray  # (n, N): ln p of each token, nats

    def done(self, model: Model, score: bool) -> None:
        """Add what was written to the ways."""
        layout = self.layout
        for way, row, share in zip(self.ways, self.ids, self.shares, strict=True):
            each = zip(layout.gaps, layout.edges, layout.before, self.log_sizes, strict=True)
            content = b""
            for gap, edge, before, log_length in each:
                spelt = model.tokenizer.continuation(row[: gap.start], row[gap], before or content)
                content = edge.inner(spelt)
                log_probs = share[gap].tolist() if score else None
                way.fills.append(Fill(content, 0, row[gap].tolist(), log_probs, log_length))


@dataclass(frozen=True)
class Work:
    """A document of whose gaps all is settled but what they hold."""

    document: Document
    ways: list[_Way]
    parts: list[_Part]


def prepare(
    model: Model,
    document: Document,
    n: int,
    seed: int,
    settings: SamplerSettings,
    *,
    label: str | None = None,
    log: Log | None = None,
    name: str = "",
) -> Work:
    """How much room the gaps of a document have, in each of n ways.

    name: of the document, where it is told which of several is being filled. Other arguments, and errors: see
    `infill`.
    """
    if n < 1:
        raise DdcliError(f"at least one way to fill the gaps, not {n}")
    counts = _record_lengths(model, label)
    work = Work(document, [_Way(seed, i) for i in range(n)], [])
    for number, whole in enumerate(_texts(model, document, label)):
        for some, text, log_cut in _cut(model, whole, number, work.ways, settings.temperature):
            laid_out = _laid_out(model, text, number, some, settings.temperature, counts, log)
            for members, lengths, layout in laid_out:
                log_sizes = [float(a + log_p) for a, (_, log_p) in zip(log_cut, lengths, strict=True)]
                ids = np.tile(layout.ids, (len(members), 1))
                shares = np.zeros(ids.shape)
                part = _Part(text.document, name, layout, number, members, n, log_sizes, ids, shares)
                work.parts.append(part)
    for part in work.parts if settings.guidance != 1 else ():
        for number in range(len(part.layout.windows)):  # refuses those without anything to go by
            model.denoise(_canvas(model, _rows(part, number)), settings)
    return work


def fill(
    model: Model,
    works: Sequence[Work],
    settings: SamplerSettings,
    *,
    score: bool,
    on_frame: OnFrame | None = None,
) -> list[list[Infilling]]:
    """Fill the gaps of some documents, as many at once as a batch has. Arguments: those of `infill`.

    What comes out for one does not depend on the others, but for rounding: in bf16, and of networks that are
    told a guess.
    """
    parts = [part for work in works for part in work.parts]
    for number in range(max(len(part.layout.windows) for part in parts)):
        rows = [row for part in parts for row in _rows(part, number)]
        for start in range(0, len(rows), AT_ONCE):
            _write(model, rows[start : start + AT_ONCE], settings, score, on_frame)
    for part in parts:
        part.done(model, score)
    done = [[way.done(work.document, score) for way in work.ways] for work in works]
    return [_ranked(ways) for ways in done] if score else done


def explain(
    model: Model,
    document: str | bytes | Document,
    *,
    mask_token: str = "[MASK]",
    max_gap: int = MAX_GAP,
    score: bool = False,
    label: str | None = None,
    **settings: Unpack[Asked],
) -> str:
    """How the gaps of a document are filled, and what each way costs, in a line for people.

    Options: `infill`. Of gaps of unknown length, from the least to the most that may be.
    """
    chosen = check(model, label, **settings)
    counts = _record_lengths(model, label)
    total, windows = np.zeros(4), 0
    for text in _texts(model, _read(document, mask_token, max_gap), label):
        layout, hidden = text.hiding()
        windows += len(layout.windows)
        asked = sum(any(token.side[0] in window.gaps for token in hidden) for window in layout.windows)
        cuts = (text, text.giving_up(text.sides)) if hidden else (text,)
        costs = [_cost(model, cut, counts, chosen) for cut in cuts]
        low, high = np.min(costs, 0), np.max(costs, 0)
        total += low[0] + asked, high[1] + asked, low[2], high[3]
    least, most, fewest, longest = total.tolist()
    more = f"; about {DRAWS * windows:,} more for its score" if score else ""
    return f"{model.described(chosen)}; {model.priced(least, most, int(fewest), int(longest))}{more}"


def _cost(
    model: Model, text: Encoded, counts: Mapping[int, int] | None, settings: SamplerSettings
) -> tuple[float, float, int, int]:
    """Network evaluations that a text takes, and tokens that are written, at least and at most of each."""
    least = most = 0.0
    choices = list[Sequence[int]]()
    for gap in range(len(text.document.gaps)):
        choices.append(text.candidates(gap))
        if len(choices[gap]) > 1:
            question = ask(model, text, gap, [lengths[0] for lengths in choices[:gap]], counts)
            choices[gap], calls = question.lengths, question.calls
            beside = text.beside(gap)  # which may be given up, and is one thing more to judge lengths by
            more = len(question.lengths) if not text.edges and (beside.before or beside.after) else 0
            least, most = least + calls[0], most + calls[1] + more
            if settings.temperature == 0:
                least, most = least + question.lengths[0], most + sum(question.lengths)
    ends = [[lengths[i] for lengths in choices] for i in (0, -1)]
    costs = [_calls(model, text.layout(lengths), settings) for lengths in ends]
    least, most = least + min(low for low, _ in costs), most + max(high for _, high in costs)
    return least, most, sum(ends[0]), sum(ends[1])


def _calls(model: Model, layout: Layout, settings: SamplerSettings) -> tuple[float, float]:
    """Network evaluations that writing the gaps of a layout takes, at least and at most."""
    calls = [model.calls(settings, ~window.frozen) for window in layout.windows]
    return sum(least for least, _ in calls), sum(most for _, most in calls)


def _read(document: str | bytes | Document, mask_token: str, max_gap: int) -> Document:
    if isinstance(document, str):
        document = document.encode(errors="surrogateescape")
    return parse(document, mask_token, max_gap=max_gap) if isinstance(document, bytes) else document


def _texts(model: Model, document: Document, label: str | None) -> list[Encoded]:
    """What of a document is read at a time: of a model of records each line that has gaps, or else all."""
    parts = [line for line in document.lines() if line.gaps] if model.record_lengths else [document]
    edges = (model.opening(label), model.tokenizer.eos_id) if model.record_lengths else None
    tokenizer = model.tokenizer
    return [
        encode(part, tokenizer, model.length, edges, tokenizer.spelling, tokenizer.seams) for part in parts
    ]


def _record_lengths(model: Model, label: str | None) -> Mapping[int, int] | None:
    return model.record_lengths if label is None else model.labels[label]


def _ranked(ways: Iterable[Infilling]) -> list[Infilling]:
    """By their score, best first, each text once."""
    ranked: dict[bytes, Infilling] = {}
    for way in sorted(ways, key=lambda way: -(way.score or 0.0)):
        best = ranked.get(way.content)
        ranked[way.content] = replace(best, ways=best.ways + 1) if best else way
    return list(ranked.values())


def _cut(
    model: Model, text: Encoded, number: int, ways: list[_Way], temperature: float
) -> list[tuple[list[_Way], Encoded, np.ndarray]]:
    """The ways by which tokens beside the gaps of a text they give up to them, the text so cut, and ln p of
    that for each gap."""
    layout, hidden = text.hiding()
    if not hidden:
        return [(ways, text, np.zeros(len(layout.gaps)))]
    seed = derive_seed(ways[0].seed, "beside", number)
    odds, chance, calls = _reaching(model, layout, hidden, temperature, seed)
    groups: dict[frozenset[Side], list[_Way]] = {}
    for way in ways:
        way.nfe += calls
        reaches = Streams([way.draw("beside", number)]).uniform(len(chance))[0] < chance
        sides = frozenset(token.side for token, yes in zip(hidden, reaches.tolist(), strict=True) if yes)
        groups.setdefault(sides, []).append(way)
    cuts = []
    for sides, members in groups.items():
        log_cut = np.zeros(len(layout.gaps))
        for token, log_odds in zip(hidden, odds, strict=True):
            log_cut[token.side[0]] += logsigmoid(log_odds if token.side in sides else -log_odds).item()
        cuts.append((members, text.giving_up(sides), log_cut))
    return cuts


@torch.no_grad()
def _reaching(
    model: Model, layout: Layout, hidden: Sequence[Hidden], temperature: float, seed: int
) -> tuple[Tensor, Tensor, int]:
    """The log odds that in the place of each `hidden` token stands a longer one, which reaches into its gap;
    the chance to draw such a one, float64; and the evaluations it took, one for each window.

    By what is believed of these places where neither they nor the gaps are seen.
    """
    odds, chance, calls = list[Tensor](), list[Tensor](), 0
    for window in layout.windows:
        asked = {token.place - window.span.start: token for token in hidden if token.side[0] in window.gaps}
        if not asked:
            continue
        x0 = torch.tensor(layout.ids[window.span], device=model.device)[None]
        unseen = x0 == model.tokenizer.mask_id
        rows = torch.zeros_like(unseen)
        rows[0, list(asked)] = True
        seen = pure_noise(model.process, x0, unseen.double(), Streams([seed]))
        longer = {at: torch.tensor(layout.allowed[token.place]) for at, token in asked.items()}
        fits = {at: ids.scatter(0, torch.tensor(asked[at].id), True) for at, ids in longer.items()}
        where = seen, unseen.double(), rows
        log_p0 = Shaped(_within_text(model), Among([fits]))(*where).double()
        drawn_from = Temperature(temperature)(log_p0, *where)
        for log_p, law, (at, token) in zip(log_p0.cpu(), drawn_from.cpu(), asked.items(), strict=True):
            odds.append(log_p[longer[at]].logsumexp(0) - log_p[token.id])
            chance.append(law[longer[at]].exp().sum())
        calls += 1
    return torch.stack(odds), torch.stack(chance), calls


Lengths = tuple[tuple[int, float], ...]  # of each gap: tokens, and ln p of so many


def _laid_out(
    model: Model,
    text: Encoded,
    number: int,
    ways: Iterable[_Way],
    temperature: float,
    counts: Mapping[int, int] | None,
    log: Log | None,
) -> list[tuple[list[_Way], Lengths, Layout]]:
    """The ways by the lengths they have drawn for the gaps of a text, one after the other."""
    asked: dict[tuple[int, bytes], Posterior] = {}  # by a gap, and what is seen before it
    groups: dict[Lengths, list[_Way]] = {}
    told = set[int]()
    for way in ways:
        lengths: list[tuple[int, float]] = []
        for gap in range(len(text.document.gaps)):
            candidates = text.candidates(gap)
            if len(candidates) == 1:
                lengths.append((candidates[0], 0.0))
                continue
            before = [tokens for tokens, _ in lengths]
            seen = gap, text.before(gap, before).tobytes()  # nothing else depends on the gaps before
            if seen not in asked:
                noise = derive_seed(way.seed, "unseen", number, gap)
                question = ask(model, text, gap, before, counts)
                if log and gap not in told:
                    told.add(gap)
                    log(_weighing(text, gap, question))
                answer = posterior(model, _weigher(model), question, noise)
                if temperature == 0:
                    answer = likeliest(model, _weigher(model), question, answer, noise)
                asked[seen] = answer
            u = Streams([way.draw("length", number, gap)]).uniform()[0]
            lengths.append(asked[seen].draw(temperature or 1.0, u))
            way.nfe += asked[seen].nfe
        groups.setdefault(tuple(lengths), []).append(way)
    return [
        (members, lengths, text.layout([tokens for tokens, _ in lengths]))
        for lengths, members in groups.items()
    ]


@dataclass(frozen=True)
class _Row:
    """One of the ways through a window of a part."""

    part: _Part
    window: Window
    place: int  # among the ways of the part

    @property
    def ids(self) -> np.ndarray:
        return self.part.ids[self.place]

    @property
    def way(self) -> _Way:
        return self.part.ways[self.place]

    @property
    def name(self) -> str:
        """Where its gaps are and which way it is, for people."""
        document, first = self.part.document, self.window.gaps.start
        line, column = line_and_column(document.source, document.gaps[first].offset)
        place = f"gap{'s from' if len(self.window.gaps) > 1 else ' at'} {line}:{column}"
        way = f"way {self.way.index + 1}" if self.part.of > 1 else ""
        return ", ".join(filter(None, (self.part.name, place, way)))


def _rows(part: _Part, number: int) -> list[_Row]:
    """Those of a part's window by its number, if it has as many."""
    windows = part.layout.windows[number : number + 1]
    return [_Row(part, window, place) for window in windows for place in range(len(part.ways))]


def _canvas(model: Model, rows: Sequence[_Row]) -> Canvas:
    sizes = [len(row.window.frozen) for row in rows]
    tokens = np.full((len(rows), max(sizes)), model.tokenizer.pad_id)
    frozen = np.ones_like(tokens, dtype=bool)
    for row, ids, given, size in zip(rows, tokens, frozen, sizes, strict=True):
        ids[:size], given[:size] = row.ids[row.window.span], row.window.frozen
    seeds = [row.way.draw("infill", row.part.number, row.window.gaps.start) for row in rows]
    return Canvas(tokens, frozen, sizes, seeds)


def _write(
    model: Model, rows: Sequence[_Row], settings: SamplerSettings, score: bool, on_frame: OnFrame | None
) -> None:
    """Write the gaps of some windows, none of which waits for another."""
    frames = model.denoise(_canvas(model, rows), settings, _possible(model, rows))
    watcher = None if on_frame is None else _named(on_frame, rows)
    frame = last_of(frames, watcher)
    for row, x0, nfe in zip(rows, frame.x.cpu().numpy(), frame.nfe.tolist(), strict=True):
        row.window.write(row.ids, x0[: len(row.window.frozen)])
        row.way.nfe += nfe
        if score:
            row.part.shares[row.place, row.window.span] += _log_probs(model, row)


def _named(on_frame: OnFrame, rows: Sequence[_Row]) -> OnFrame:
    """A watcher who is told which gaps are written, and all evaluations of their ways so far."""
    ways = list({id(row.way): row.way for row in rows}.values())
    way = torch.tensor([next(i for i, each in enumerate(ways) if each is row.way) for row in rows])
    names, before = [row.name for row in rows], torch.tensor([each.nfe for each in ways])

    def told(frame: Frame) -> None:
        on_frame(replace(frame, names=names, nfe=before.index_add(0, way, frame.nfe.cpu())[way]))

    return told


def _weighing(text: Encoded, gap: int, question: Question) -> str:
    """What is about to take long, for people."""
    asked, offset = text.document.gaps[gap].lengths, text.document.gaps[gap].offset
    line, column = line_and_column(text.document.source, offset)
    least, most = question.lengths[0], question.lengths[-1]
    cut = f" (of {asked[-1]:,} asked for: no room for more)" if asked and asked[-1] > most else ""
    cost = f"up to {question.calls[1]:,} evaluations"
    return f"gap at {line}:{column}: weighing lengths {least:,} to {most:,}{cut}, {cost}"


def _weigher(model: Model) -> Denoiser:
    """What is believed where no text ends, of canvases that are always asked about together."""
    return Shaped(_together(model), Without(_never(model)))


def _together(model: Model) -> Denoiser:
    """What is believed of canvases that are always asked about together: in one batch, in any precision."""
    return model.denoiser if model.plain is None else Batched(model.plain)


def _within_text(model: Model) -> Denoiser:
    """What is believed of positions where no text ends."""
    return Shaped(model.denoiser, Without(_never(model)))


def _never(model: Model) -> list[int]:
    """What no gap holds: an end of text, and special tokens, which noise of some models may be."""
    return sorted({model.tokenizer.eos_id, *model.tokenizer.special_ids})


def _possible(model: Model, rows: Sequence[_Row], each: int = 1) -> Shape:
    """No text ends in the gaps of a window, and their edges may have to spell what was given up to them.

    each: canvases of every row.
    """
    allowed = [of_one for row in rows for of_one in [_allowed(model, row)] * each]
    return InTurn([Without(_never(model)), Among(allowed)])


def _allowed(model: Model, row: _Row) -> dict[int, Tensor]:
    start, stop = row.window.span.start, row.window.span.stop
    allowed = row.part.layout.allowed.items()
    return {
        place - start: torch.tensor(fits, device=model.device)
        for place, fits in allowed
        if start <= place < stop
    }


def _log_probs(model: Model, row: _Row) -> np.ndarray:
    """Each token's share (n,) of a lower bound on ln p(its gaps | what a window was given), nats.

    Every way meets the same noise.
    """
    window, ids = row.window, row.ids[row.window.span]

    def repeated(of_one: np.ndarray) -> Tensor:
        return torch.tensor(of_one, device=model.device).expand(DRAWS, -1)

    rng = Streams([derive_seed(row.way.seed, "score", i) for i in range(DRAWS)])
    with torch.no_grad():
        nats = nelbo(
            model.process,
            Shaped(_together(model), _possible(model, [row], DRAWS)),
            repeated(ids),
            repeated(window.own),
            stratified(rng.uniform()),
            rng,
            unseen=repeated(~window.frozen & ~window.own),
        )
    return -nats.strict.mean(0).cpu().numpy()
