"""Documents as blocks of tokens, and blocks as batches.

Legend: N blocks, L tokens a block, B blocks a batch. Nothing here needs torch: batches are numpy arrays, and
pure functions of (seed, step), so that a run can stop and go on anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np

from .errors import DdcliError
from .sources import Document, present, utf8
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    tokens: np.ndarray  # (B, L) int64
    given: np.ndarray  # (B, L) bool: clean from the start, never noised (ends of records, unknown symbols)
    valid: np.ndarray  # (B, L) bool: False at padding


@dataclass(frozen=True)
class Blocks:
    """Documents as blocks of equal length, each short one padded at its end."""

    tokens: np.ndarray  # (N, L) uint16, or int32 for large vocabularies
    document: np.ndarray  # (N, L) int32: which document a token is of; -1 at padding
    given: np.ndarray | None  # (N, L) bool, as in Batch; None: nowhere
    characters: int  # of the documents packed, to give bits per character
    utf8_bytes: int  # likewise, to give bits per byte
    left_out: int = 0  # records too long for a block

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def predicted(self) -> int:
        """Tokens whose likelihood is asked for: all but padding and given ones."""
        valid = self.document >= 0
        return int(valid.sum() if self.given is None else (valid & ~self.given).sum())

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each id occurs, (V,)."""
        return np.bincount(self.tokens[self.document >= 0], minlength=vocab_size)

    def take(self, rows: np.ndarray) -> Batch:
        """The blocks numbered `rows` (B,), in that order."""
        tokens, valid = self.tokens[rows].astype(np.int64), self.document[rows] >= 0
        return Batch(tokens, np.zeros_like(valid) if self.given is None else self.given[rows], valid)

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """Batch number `step` of `size` blocks, in a new order each epoch; a pure function."""
        return self.take(self._rows(step, size, seed))

    def where(self, step: int, size: int, seed: int) -> str:
        """Which blocks those are, for people."""
        return numbered("block", self._rows(step, size, seed).tolist())

    def _rows(self, step: int, size: int, seed: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), len(self))
        rows = [permutation(len(self), seed, int(e))[p] for e, p in zip(epochs, places, strict=True)]
        return np.array(rows)


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
            f"the text has {len(stream)} tokens, less than one block; lower --length from {length}"
        )
    owner = np.repeat(np.arange(len(encoded), dtype=np.int32), [len(ids) + len(end) for ids in encoded])
    whole = len(stream) - len(stream) % length if training else len(stream)
    room = -whole % length
    tokens = np.pad(stream[:whole].astype(_id_type(tokenizer)), (0, room), constant_values=tokenizer.pad_id)
    document = np.pad(owner[:whole], (0, room), constant_values=-1)
    tokens, document = tokens.reshape(-1, length), document.reshape(-1, length)
    unknown = np.isin(tokens, tokenizer.special_ids) & (document >= 0)
    characters, utf8_bytes = _count(documents, tokenizer)
    return Blocks(tokens, document, unknown if unknown.any() else None, characters, utf8_bytes)


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
    document = np.full(tokens.shape, -1, np.int32)
    given = np.zeros(tokens.shape, bool)
    tokens[:, 0], given[:, 0] = tokenizer.bos_id, True
    if labels:
        tokens[:, 0] = [tokenizer.label_ids.get(labels[i], tokenizer.bos_id) for i in fitting]
    for row, i in enumerate(fitting):
        end = len(encoded[i]) + 1
        tokens[row, 1:end], tokens[row, end] = encoded[i], tokenizer.eos_id
        given[row, end] = True
        document[row, : end + 1] = i
    unknown = np.isin(tokens, tokenizer.special_ids) & (document >= 0) & ~given
    characters, utf8_bytes = _count([documents[i] for i in fitting], tokenizer)
    return Blocks(
        tokens,
        document,
        given | unknown,
        characters,
        utf8_bytes,
        left_out=len(encoded) - len(fitting),
    )


class StreamBlocks:
    """Blocks of documents too many to hold, round and round; shuffled within windows of 4096 blocks.

    `documents` starts from the first each time it is iterated; `held_out` of them are set aside in
    `valid_documents`. Batches are pure functions of (seed, step): a later step is reached by reading up to
    it, an earlier one by starting anew.
    """

    window = 4096  # blocks

    def __init__(
        self, documents: Iterable[Document | None], tokenizer: Tokenizer, length: int, held_out: int = 100
    ):
        self.documents, self.tokenizer, self.length, self.held_out = documents, tokenizer, length, held_out
        self.valid_documents = list(islice(present(documents), held_out))
        self._restart()

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """Batch number `step` of `size` blocks. DdcliError if all documents are held out."""
        windows, places = np.divmod(np.arange(step * size, (step + 1) * size), self.window)
        rows = [
            self._window(int(w))[permutation(self.window, seed, int(w))[p]]
            for w, p in zip(windows, places, strict=True)
        ]
        tokens = np.stack(rows).astype(np.int64)
        return Batch(tokens, np.isin(tokens, self.tokenizer.special_ids), np.ones(tokens.shape, bool))

    def where(self, step: int, size: int, seed: int) -> str:
        """Which blocks of the stream those are, for people."""
        windows, places = np.divmod(np.arange(step * size, (step + 1) * size), self.window)
        orders = [permutation(self.window, seed, int(w)) for w in windows]
        blocks = [int(w * self.window + o[p]) for w, o, p in zip(windows, orders, places, strict=True)]
        return numbered("block", blocks)

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each id occurs in the first window, (V,)."""
        return np.bincount(self._window(0).ravel(), minlength=vocab_size)

    def _restart(self) -> None:
        self._blocks, self._at = self._pack(), -1

    def _window(self, number: int) -> np.ndarray:
        """Blocks of a window, (window, L)."""
        if number < self._at:
            self._restart()
        while self._at < number:
            self._held = np.stack(list(islice(self._blocks, self.window)))
            self._at += 1
        return self._held

    def _pack(self) -> Iterator[np.ndarray]:
        """Blocks (L,) of `doc <eos> doc <eos> ...`, without end."""
        rest = np.array([], np.int32)
        while True:
            training = islice(present(self.documents), self.held_out, None)
            empty = True
            while some := list(islice(training, 256)):  # enough to keep all cores encoding
                empty = False
                encoded = self.tokenizer.encode_documents(some)
                end = np.array([self.tokenizer.eos_id], np.int32)
                rest = np.concatenate([rest, *(part for ids in encoded for part in (ids, end))])
                whole = len(rest) // self.length * self.length
                yield from rest[:whole].reshape(-1, self.length)
                rest = rest[whole:]
            if empty:
                raise DdcliError(
                    f"the stream has no more than the {self.held_out} documents held out for validation; "
                    "give a larger dataset, or read it without streaming"
                )


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
