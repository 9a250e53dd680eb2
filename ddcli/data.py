"""Documents as blocks of tokens, and blocks as batches.

Legend: D documents, N blocks, L tokens a block, B blocks a batch. Nothing here needs torch: batches are numpy
arrays, and pure functions of (seed, step), so that a run can stop and go on anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from .errors import DdcliError, counted
from .sources import Document, present, some_of, utf8
from .tokenizer import Tokenizer

EVERY = slice(None)
AT_ONCE = 4096  # blocks


@dataclass(frozen=True)
class Batch:
    tokens: np.ndarray  # (B, L) int64
    given: np.ndarray  # (B, L) bool: clean from the start, never noised (ends of records, unknown symbols)
    valid: np.ndarray  # (B, L) bool: False at padding
    of: int  # rows of the whole batch
    first: int = 0  # the number of the first row in it


@dataclass(frozen=True)
class Blocks:
    """Documents as blocks of equal length, each short one padded at its end."""

    tokens: np.ndarray  # (N, L) uint16, or int32 for large vocabularies
    sizes: np.ndarray  # (N,) int32: tokens of each block; what stands behind them is padding
    ends: np.ndarray  # (D,) int64: how many tokens there are up to the end of each document
    given: np.ndarray | None  # (N, L) bool, as in Batch, False at padding; None: nowhere
    characters: int  # of the documents packed, to give bits per character
    utf8_bytes: int  # likewise, to give bits per byte
    left_out: int = 0  # records too long for a block

    problems: ClassVar[frozenset[str]] = frozenset()  # bad rows are left out before there are blocks

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def predicted(self) -> int:
        """Tokens whose likelihood is asked for: all but padding and given ones."""
        return int(self.sizes.sum()) - (0 if self.given is None else int(self.given.sum()))

    def valid(self, rows: np.ndarray | slice = EVERY) -> np.ndarray:
        """Where the blocks numbered `rows` (B,) have tokens, (B, L) bool: all but padding."""
        return np.arange(self.tokens.shape[1]) < self.sizes[rows][:, None]

    def document(self, rows: np.ndarray | slice = EVERY) -> np.ndarray:
        """Which document each token of the blocks numbered `rows` (B,) is of, (B, L); -1 at padding."""
        place = self._before[rows][:, None] + np.arange(self.tokens.shape[1])
        return np.where(self.valid(rows), np.searchsorted(self.ends, place, side="right"), -1)

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each id occurs, (V,)."""
        found = np.zeros(vocab_size, np.int64)
        for first in range(0, len(self), AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            found += np.bincount(self.tokens[rows][self.valid(rows)], minlength=vocab_size)
        return found

    def take(self, rows: np.ndarray) -> Batch:
        """The blocks numbered `rows` (B,), in that order."""
        tokens, valid = self.tokens[rows].astype(np.int64), self.valid(rows)
        given = np.zeros_like(valid) if self.given is None else self.given[rows]
        return Batch(tokens, given, valid, of=len(rows))

    def led_by(self, first: int) -> Blocks:
        """These blocks, each with what stands before it in front of it, given: `first` before all of them."""
        before = np.concatenate([[first], self.tokens[:-1, -1]]).astype(self.tokens.dtype)
        given = np.zeros(self.tokens.shape, bool) if self.given is None else self.given
        return replace(
            self,
            tokens=np.column_stack([before, self.tokens]),
            sizes=self.sizes + 1,
            ends=self.ends + np.searchsorted(self._before, self.ends),  # one more a block that begins in it
            given=np.column_stack([np.ones(len(self), bool), given]),
        )

    def batch(self, step: int, size: int, seed: int, rows: range | None = None) -> Batch:
        """Batch number `step` of `size` blocks, or some `rows` of it; in a new order each epoch.

        A pure function.
        """
        rows = range(size) if rows is None else rows
        numbers = self._rows(step, size, seed)[rows.start : rows.stop]
        return replace(self.take(numbers), of=size, first=rows.start)

    def where(self, step: int, size: int, seed: int) -> str:
        """Which blocks those are, for people."""
        return numbered("block", self._rows(step, size, seed).tolist())

    def place(self) -> list[list[int] | None]:
        """Nothing needs to be known to go on."""
        return []

    def go_to(self, place: Sequence[Sequence[int] | None]) -> None:
        """Any block can be read at any time."""

    def _rows(self, step: int, size: int, seed: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), len(self))
        rows = [permutation(len(self), seed, int(e))[p] for e, p in zip(epochs, places, strict=True)]
        return np.array(rows)

    @cached_property
    def _before(self) -> np.ndarray:
        """How many tokens stand before each block, (N,) int64."""
        return np.cumsum(self.sizes, dtype=np.int64) - self.sizes


def pack(
    documents: list[Document],
    tokenizer: Tokenizer,
    length: int,
    *,
    end_of_text: bool | None = None,
    training: bool = False,
) -> Blocks:
    """Cut `doc <eos> doc <eos> ...` in blocks of `length`; by default a lone document gets no eos.

    The last block is padded. For training it is left out instead, so that all shapes are alike; DdcliError
    where the text then fills no block. Symbols the vocabulary lacks are given: context, never predicted.
    """
    encoded = tokenizer.encode_documents(documents)
    ends = len(encoded) > 1 if end_of_text is None else end_of_text
    end = np.array([tokenizer.eos_id] if ends else [], np.int32)
    stream = np.concatenate([part for ids in encoded for part in (ids, end)])
    if training and len(stream) < length:
        raise DdcliError(
            f"the text has {counted(len(stream), 'token')}, less than one block; lower --length from {length}"
        )
    whole = len(stream) - len(stream) % length if training else len(stream)
    room = -whole % length
    unknown = np.isin(stream[:whole], tokenizer.special_ids)
    given = np.pad(unknown, (0, room)).reshape(-1, length) if unknown.any() else None
    tokens = np.pad(stream[:whole].astype(_id_type(tokenizer)), (0, room), constant_values=tokenizer.pad_id)
    sizes = np.full((whole + room) // length, length, np.int32)
    sizes[-1:] -= room  # of a text of no tokens there is no block
    ends = np.minimum(np.cumsum([len(ids) + len(end) for ids in encoded]), whole)
    return Blocks(tokens.reshape(-1, length), sizes, ends, given, *_count(documents, tokenizer))


def pack_records(
    documents: list[Document], tokenizer: Tokenizer, length: int, labels: Sequence[str] = ()
) -> Blocks:
    """One record a row, `<bos> record <eos> <pad>...`, bos and eos given; too long ones are left out.

    labels: of each document; one that the tokenizer has a token for stands in place of `<bos>`.
    DdcliError if no record fits.
    """
    encoded = tokenizer.encode_documents(documents)
    fitting = [i for i, ids in enumerate(encoded) if len(ids) <= length - 2]
    if not fitting:
        least = min(map(len, encoded)) + 2
        raise DdcliError(f"no record fits --length {length} with its ends; the shortest needs {least}")
    tokens = np.full((len(fitting), length), tokenizer.pad_id, _id_type(tokenizer))
    given = np.zeros(tokens.shape, bool)
    tokens[:, 0], given[:, 0] = tokenizer.bos_id, True
    if labels:
        tokens[:, 0] = [tokenizer.label_ids.get(labels[i], tokenizer.bos_id) for i in fitting]
    taken = np.zeros(len(encoded), np.int64)
    for row, i in enumerate(fitting):
        end = len(encoded[i]) + 1
        tokens[row, 1:end], tokens[row, end] = encoded[i], tokenizer.eos_id
        given[row, end] = True
        taken[i] = end + 1
    sizes = taken[fitting].astype(np.int32)
    given |= np.isin(tokens, tokenizer.special_ids) & (np.arange(length) < sizes[:, None])
    characters, utf8_bytes = _count([documents[i] for i in fitting], tokenizer)
    return Blocks(
        tokens,
        sizes,
        np.cumsum(taken),
        given,
        characters,
        utf8_bytes,
        left_out=len(encoded) - len(fitting),
    )


class Shards(Protocol):
    """Documents too many to hold, in parts that can be read one by one."""

    @property
    def shards(self) -> int:
        """How many parts there are."""

    @property
    def problems(self) -> Set[str]:
        """Of bad rows that were left out so far: where, and what."""

    def shard(self, number: int, start: int) -> Iterator[Document | None]:
        """The documents of a part from row `start` on; None for a row without one."""


class Place(NamedTuple):
    """Where in a stream a window begins: `skip` tokens into what is encoded from a row of a shard on."""

    window: int = 0
    turn: int = 0  # shards read before this one, over all rounds
    row: int = 0  # of the shard
    skip: int = 0


class StreamBlocks:
    """Blocks of documents too many to hold, round and round.

    The shards are dealt out to lanes, read apart from each other, and each row of a batch has its lane; so
    processes that share a batch need not read the same shards. The first `held_out` documents, or fewer that
    hold `enough` characters, are set aside in `valid_documents`, and left out wherever they turn up again.
    Batches are pure functions of (seed, step): a later step is reached by reading up to it, or from a `place`
    near it.
    """

    window = 4096  # blocks that are shuffled, over all lanes
    even = 8
    enough = 500_000  # characters: of long texts, a hundred would be most of what there is

    def __init__(
        self,
        documents: Shards,
        tokenizer: Tokenizer,
        length: int,
        held_out: int = 100,
        lanes: int = 1,
        *,
        enough: int | None = None,
        ends: bool = True,
    ):
        """lanes: at most so many, and as many as divide a batch. ends: whether documents do, with an <eos>.

        They are to have as many shards as each other, lest some text be read more often than other; or, of
        `even` shards and more, one more than another.
        """
        self.documents, self.tokenizer, self.length, self.most_lanes = documents, tokenizer, length, lanes
        self.end = np.array([tokenizer.eos_id] if ends else [], np.int32)
        rows = chain.from_iterable(documents.shard(i, 0) for i in range(documents.shards))
        self.valid_documents = list(some_of(present(rows), held_out, enough or self.enough))
        self._held_out = {_digest(document) for document in self.valid_documents}
        self.go_to([])

    def batch(self, step: int, size: int, seed: int, rows: range | None = None) -> Batch:
        """Batch number `step` of `size` blocks, or some `rows` of it.

        Raises DdcliError where a lane has no documents.
        """
        rows = range(size) if rows is None else rows
        self._count = self._lanes_of(size)
        tokens = np.concatenate(
            [self._lane(lane).take(own, seed) for lane, own in self._numbers(step, size, rows).items()]
        )
        given = np.isin(tokens, self.tokenizer.special_ids)
        return Batch(tokens, given, np.ones_like(given), of=size, first=rows.start)

    def where(self, step: int, size: int, seed: int) -> str:
        """Which blocks of the stream those are, for people."""
        lanes, of = self._numbers(step, size, range(size)), self._lanes_of(size)
        told = [
            numbered("block", Lane(self, lane, of).order(own, seed).tolist()) for lane, own in lanes.items()
        ]
        if len(told) == 1:
            return told[0]
        return "; ".join(f"lane {lane}: {blocks}" for lane, blocks in zip(lanes, told, strict=True))

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each id occurs in the first window, (V,)."""
        first = Lane(self, 0, 1)
        return np.bincount(first.window_of(0).ravel(), minlength=vocab_size)

    def place(self) -> list[list[int] | None]:
        """Where the window in hand of each lane begins, for `go_to`; None of a lane that was not read."""
        return [list(self._lanes[i].place) if i in self._lanes else None for i in range(self._count)]

    @property
    def problems(self) -> Set[str]:
        """Of bad rows that were left out so far: where, and what."""
        return self.documents.problems

    def go_to(self, place: Sequence[Sequence[int] | None]) -> None:
        """Read each lane from a place on."""
        self._count = len(place)
        self._begin = {lane: Place(*at) for lane, at in enumerate(place) if at is not None}
        self._lanes: dict[int, Lane] = {}

    def held_out(self, document: Document) -> bool:
        return _digest(document) in self._held_out

    def _lanes_of(self, size: int) -> int:
        shards = self.documents.shards
        most = min(self.most_lanes, shards)
        fair = (n for n in range(most, 0, -1) if shards % n == 0 or shards >= self.even * n)
        return next(n for n in fair if size % n == 0)

    def _lane(self, number: int) -> Lane:
        if number not in self._lanes:
            self._lanes[number] = Lane(self, number, self._count, self._begin.get(number, Place()))
        return self._lanes[number]

    def _numbers(self, step: int, size: int, rows: range) -> dict[int, np.ndarray]:
        """Of the blocks of some rows of a batch: lane, and which ones of the lane, (n,)."""
        each = size // self._lanes_of(size)
        lanes, places = np.divmod(np.array(rows), each)
        return {int(lane): step * each + places[lanes == lane] for lane in np.unique(lanes)}


class Lane:
    """The blocks of a share of a stream's shards: read in a new order each round, shuffled within windows."""

    at_once = 256  # documents: enough to keep all cores encoding
    enough = 4_000_000  # characters, likewise
    _blocks: np.ndarray | None  # of the window in hand

    def __init__(self, stream: StreamBlocks, number: int, of: int, place: Place = Place()):
        self.stream, self.number, self.of = stream, number, of
        self.tokenizer, self.length = stream.tokenizer, stream.length
        self.window = max(1, stream.window // of)
        self.place = place
        self._go_to(place)

    def take(self, numbers: np.ndarray, seed: int) -> np.ndarray:
        """Blocks by their numbers (n,) in the order of the seed, (n, L) int64."""
        windows, places = np.divmod(self.order(numbers, seed), self.window)
        found = [self.window_of(int(w))[place] for w, place in zip(windows, places, strict=True)]
        return np.stack(found).astype(np.int64)

    def order(self, numbers: np.ndarray, seed: int) -> np.ndarray:
        """Which of the lane's blocks come at those numbers, (n,)."""
        windows, places = np.divmod(numbers, self.window)
        orders = (permutation(self.window, seed, int(w) * self.of + self.number) for w in windows)
        return np.array([w * self.window + o[p] for w, o, p in zip(windows, orders, places, strict=True)])

    def window_of(self, number: int) -> np.ndarray:
        """Blocks of a window, (window, L)."""
        if number < self.place.window:
            self._go_to(Place())
        while self._blocks is None or self.place.window < number:
            self.place = self._next
            self._blocks = self._read()
        return self._blocks

    def _go_to(self, place: Place) -> None:
        self.place, self._next = place, place
        self._blocks = None
        self._rest, self._skip = np.array([], np.int32), self._next.skip
        self._encoded = self._encode(self._next)

    def _read(self) -> np.ndarray:
        """The window that begins at `_next`, which moves on to its end."""
        size = self.window * self.length
        while len(self._rest) < size:
            self._begins, encoded = next(self._encoded)
            self._size = len(encoded)
            self._rest, self._skip = np.concatenate([self._rest, encoded[self._skip :]]), 0
        blocks, self._rest = self._rest[:size], self._rest[size:]
        # what is left over is the end of what was encoded last
        self._next = self._begins._replace(window=self.place.window + 1, skip=self._size - len(self._rest))
        return blocks.reshape(-1, self.length)

    def _encode(self, place: Place) -> Iterator[tuple[Place, np.ndarray]]:
        """`doc <eos> doc <eos> ...`, some documents at a time, for ever; and where each of them begins."""
        turn, row = place.turn, place.row
        own = np.arange(self.stream.documents.shards)[self.number :: self.of]
        some: list[Document] = []
        size = 0
        begins, end = place, self.stream.end
        empty = -1 if row else 0  # shards in a row without a document; of the first some may have been read
        while empty < len(own):
            round_, number = divmod(turn, len(own))
            empty += 1
            shard = int(own[permutation(len(own), self.number, round_)[number]])
            for document in self.stream.documents.shard(shard, row):
                row += 1
                if not document or self.stream.held_out(document):
                    continue
                empty = 0
                some.append(document)
                size += len(document)
                if len(some) == self.at_once or size >= self.enough:
                    encoded = self.tokenizer.encode_documents(some)
                    yield begins, np.concatenate([part for ids in encoded for part in (ids, end)])
                    some, size, begins = [], 0, Place(turn=turn, row=row)
            turn, row = turn + 1, 0
        those = f"the {len(self.stream.valid_documents)} documents held out for validation"
        if self.of > 1:
            raise DdcliError(
                f"shards {self.number + 1}, {self.number + 1 + self.of}, ... of the stream have no documents "
                f"but {those}; give a larger dataset, or set data.lanes=1"
            )
        raise DdcliError(
            f"the stream has no more than {those}; give a larger dataset, or read it without streaming"
        )


def _digest(document: Document) -> bytes:
    return hashlib.sha256(utf8(document)).digest()


def numbered(what: str, numbers: Sequence[int], most: int = 8) -> str:
    """Things by their numbers, for people: `blocks 3, 5 and 7`."""
    told = [f"{n:,}" for n in numbers[:most]]
    rest = len(numbers) - len(told)
    *others, last = [*told, f"{rest:,} more"] if rest else told
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(others)}{' and ' * bool(others)}{last}"


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n things in an epoch, (n,)."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def _id_type(tokenizer: Tokenizer) -> type[np.integer]:
    return np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32


def _count(documents: list[Document], tokenizer: Tokenizer) -> tuple[int, int]:
    """Characters and UTF-8 bytes; bytes that are no text count as a character each.

    Characters that a vocabulary of them lacks are left out, or what is not predicted would make the others
    look cheap.
    """
    if tokenizer.unit == "character":
        texts = [str(document) for document in documents]  # as they are: bytes have been refused
        lacking = set().union(*texts) - tokenizer.hf.get_vocab().keys()
        documents = [text.translate({ord(symbol): None for symbol in lacking}) for text in texts]
    return sum(map(len, documents)), sum(len(utf8(document)) for document in documents)
