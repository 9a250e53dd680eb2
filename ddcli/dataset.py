"""What a run trains and validates on: from settings to a tokenizer and blocks of tokens."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .cache import cached
from .config import Data
from .data import Blocks, StreamBlocks, pack, pack_records
from .errors import DdcliError
from .files import read_json
from .process import Vocabulary
from .sources import (
    TOLD,
    Corpus,
    Document,
    present,
    read_corpus,
    refuse_files,
    sha256_of,
    some_of,
    split_corpus,
    stream_documents,
    sum_of,
    told_of,
)
from .tokenizer import Tokenizer, default_tokenizer, is_built, make_tokenizer

DEFAULT_LENGTH = 256
SAMPLE = 10_000, 100_000_000  # documents of a stream that a tokenizer is made from, and characters
SOURCE_TOKENIZERS = {"python-stdlib": "bpe:2048"}  # few symbols, but code is worth reading in larger pieces
LONGEST_RECORD = 1024  # tokens; of records that set no --length
MOST_LABELS = 1000  # different ones; of more, each would be too rare to learn

WORTH_KEEPING = 1_000_000  # characters: what is made of fewer is made at once

Log = Callable[[str], None]
Records = tuple[list[Document], list[str]]  # and the label of each, empty: none


@dataclass(frozen=True)
class TrainingData:
    tokenizer: Tokenizer
    tokenizer_spec: str | None  # what it was made from; None of one that is no choice of the run's
    length: int  # tokens in a block
    train: Blocks | StreamBlocks
    valid: Blocks
    fingerprint: str  # of all documents (of the validation documents where the rest is streamed)
    record_lengths: dict[int, int]  # how many training records had each length, in tokens; empty for texts
    labels: dict[str, dict[int, int]]  # the same of the training records of each label, by its name
    has_end_of_text: bool  # whether the model learns to end a text

    @property
    def excluded_ids(self) -> tuple[int, ...]:
        """Ids that are never text, neither as x_0 nor as noise."""
        return self.tokenizer.excluded_ids(has_end_of_text=self.has_end_of_text)

    @property
    def vocabulary(self) -> Vocabulary:
        """What a noise process runs over."""
        size = self.tokenizer.vocab_size
        pieces = self.tokenizer.pieces(range(size))
        return Vocabulary(size, self.tokenizer.mask_id, self.excluded_ids, pieces, self.train.counts(size))

    @property
    def description(self) -> str:
        blocks = f"{len(self.train):,} blocks" if isinstance(self.train, Blocks) else "a stream of blocks"
        unit = self.tokenizer.unit
        labels = f", {len(self.labels):,} labels" if self.labels else ""
        return f"{blocks} of {self.length} {unit}s, vocabulary {self.tokenizer.vocab_size:,}{labels}"


def read_training_data(settings: Data, tokenizer: Tokenizer | None, log: Log) -> TrainingData:
    """Read, split, tokenize and pack. `tokenizer`: of a run to go on with, or of a model to start from; None
    makes the one asked for.

    Raises DdcliError for data that cannot be read, is empty, or does not fill one block.
    """
    for source, key in ((settings.source, "split"), (settings.valid, "valid_split")):
        if source and getattr(settings, key) != Data.model_fields[key].default:
            refuse_files(source, f"data.{key}")
    if settings.streaming:
        return _streamed(settings, tokenizer, log)
    if settings.label_column and not settings.lines:
        raise DdcliError("a label stands at the beginning of a record; give --lines with --label-column")
    as_bytes = (tokenizer.unit if tokenizer else settings.tokenizer) == "byte"
    corpus = _corpus(settings, settings.source, settings.split, as_bytes, log)
    fingerprint = corpus.sha256
    if settings.valid is None:
        held_out = corpus
        train, valid = split_corpus(corpus, settings.valid_fraction)
    else:
        held_out = _corpus(settings, settings.valid, settings.valid_split, as_bytes, log)
        train, valid = corpus.documents, held_out.documents
        fingerprint = f"{fingerprint}+{held_out.sha256}"
    labels, valid_labels = corpus.labels[: len(train)], held_out.labels[-len(valid) :]
    names = _label_names(settings, labels)
    spec, known_by = settings.tokenizer, _known_by(train)
    if tokenizer is None:
        tokenizer, spec = _made_tokenizer(settings, train, known_by, names, log)
    if strange := next((name for name in names if name not in tokenizer.label_ids), None):
        raise DdcliError(
            f"the tokenizer of the model has no token for the label {strange!r}; leave --label-column out"
        )
    known = {"", *names}
    if settings.label_column and (strangers := sum(label not in known for label in valid_labels)):
        log(f"{strangers:,} validation records have labels that no training record has: taken for none")
    kept = _Kept(settings, tokenizer, spec, (train, labels), (valid, valid_labels), fingerprint, log)
    if known_by is None:
        return kept.make()
    return cached("tokens", kept.key(known_by), kept.make, kept.save, kept.load, log)


def _made_tokenizer(
    settings: Data, documents: list[Document], known_by: str | None, labels: Sequence[str], log: Log
) -> tuple[Tokenizer, str]:
    """The tokenizer that is asked for or fit, and what it was made from. One that is learnt is kept."""
    asked = settings.tokenizer or SOURCE_TOKENIZERS.get(settings.source)

    def make() -> tuple[Tokenizer, str]:
        spec = asked or default_tokenizer(documents)
        return make_tokenizer(spec, documents, log).labelled(labels), spec

    def save(made: tuple[Tokenizer, str], folder: Path) -> None:
        tokenizer, spec = made
        tokenizer.save(folder)
        (folder / SPEC).write_text(json.dumps({"spec": spec}))

    def load(folder: Path) -> tuple[Tokenizer, str]:
        return Tokenizer.load(folder), read_json(folder / SPEC)["spec"]

    if known_by is None or (asked and not is_built(asked)):
        made = make()
    else:
        made = cached("tokenizers", _key(asked, labels, known_by), make, save, load, log)
    if not settings.tokenizer:
        log(f"tokenizer {made[1]}, chosen for this data; --tokenizer sets another")
    return made


def _known_by(documents: Sequence[Document]) -> str | None:
    """What tells a text from all others, if it is so long that what is made of it is worth keeping."""
    return sum_of(documents) if sum(map(len, documents)) >= WORTH_KEEPING else None


def _corpus(settings: Data, source: str, split: str, as_bytes: bool, log: Log) -> Corpus:
    """A source, read whole; what was left out of it is told."""
    corpus = read_corpus(
        source,
        text_column=settings.text_column,
        label_column=settings.label_column,
        split=split,
        lines=settings.lines,
        as_bytes=as_bytes,
        skip_bad=settings.bad_rows == "skip",
    )
    if told := _mixed_ends(corpus.documents):
        log(f"{source}: {told}")
    if corpus.skipped:
        log(f"{source}: {corpus.skipped:,} empty or unreadable documents left out")
    if corpus.problems:
        for problem in corpus.problems[:TOLD]:
            log(f"left out: {problem}")
        log(f"{source}: {len(corpus.problems):,} bad rows left out")
    return corpus


def _mixed_ends(documents: Sequence[Document]) -> str:
    """What to know of texts some lines of which end as on Windows: a model would learn to write both."""
    texts = [text for text in documents if isinstance(text, str)]
    every, windows = (sum(text.count(end) for text in texts) for end in ("\n", "\r\n"))
    if not 0 < windows < every:
        return ""
    return (
        f"{windows:,} of {every:,} lines end in CR LF, as on Windows, and the model learns both; for one "
        "kind: sed -i 's/\\r$//' FILES"
    )


def _label_names(settings: Data, labels: Sequence[str]) -> list[str]:
    """The different labels, sorted; none where no column of them is asked for. Raises DdcliError."""
    if not settings.label_column:
        return []
    names, column = sorted({*labels} - {""}), f"column {settings.label_column!r}"
    if not names:
        raise DdcliError(f"{column} is empty in all records to train on; set --label-column to another")
    if len(names) > MOST_LABELS:
        raise DdcliError(
            f"{column} holds {len(names):,} different values, which is no label (at most {MOST_LABELS:,}); "
            "set --label-column to another"
        )
    return names


def _checked(valid: Blocks) -> Blocks:
    """Validation blocks in which there is something to predict. Raises DdcliError."""
    if not valid.predicted or not valid.characters:
        raise DdcliError("no symbol of the validation data is in the vocabulary; give others to validate on")
    return valid


def _records(
    settings: Data,
    tokenizer: Tokenizer,
    spec: str | None,
    train: Records,
    valid: Records,
    fingerprint: str,
    log: Log,
) -> TrainingData:
    longest = max(len(ids) for ids in tokenizer.encode_documents(train[0])) + 2
    length = settings.length or min(longest, LONGEST_RECORD)
    blocks, held_out = (pack_records(texts, tokenizer, length, labels) for texts, labels in (train, valid))
    if blocks.left_out:
        log(f"{blocks.left_out:,} records of more than {length - 2} {tokenizer.unit}s left out")
    lengths, opening = blocks.sizes - 2, blocks.tokens[:, 0]
    labels = {name: _tally(lengths[opening == id]) for name, id in tokenizer.label_ids.items()}
    return TrainingData(
        tokenizer,
        spec,
        length,
        blocks,
        _checked(held_out),
        fingerprint,
        record_lengths=_tally(lengths),
        labels={name: counts for name, counts in labels.items() if counts},
        has_end_of_text=False,
    )


def _tally(lengths: np.ndarray) -> dict[int, int]:
    """How many records have each length."""
    return {n: int(count) for n, count in enumerate(np.bincount(lengths)) if count}


def _streamed(settings: Data, tokenizer: Tokenizer | None, log: Log) -> TrainingData:
    if settings.lines or settings.label_column:
        raise DdcliError(
            "records (--lines, --label-column) cannot be streamed; read the data whole, without streaming"
        )
    if settings.valid is not None:
        raise DdcliError("streamed data is validated on its own first documents; leave --valid-data out")
    path = Path(settings.source)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DdcliError(f"{settings.source} can be read but once, which is no stream; leave --streaming out")
    documents = stream_documents(
        settings.source,
        text_column=settings.text_column,
        split=settings.split,
        as_bytes=(tokenizer.unit if tokenizer else settings.tokenizer) == "byte",
        skip_bad=settings.bad_rows == "skip",
        log=log,
    )
    length = settings.length or DEFAULT_LENGTH
    first = list(some_of(present(documents.all()), *SAMPLE))
    if not first:
        told = told_of(documents.problems)
        raise DdcliError(f"{settings.source} holds no text{told}; give a source that does")
    spec = settings.tokenizer
    if tokenizer is None:
        tokenizer, spec = _made_tokenizer(settings, first, _known_by(first), (), log)
    ends = not documents.size
    enough = None if ends else min(StreamBlocks.enough, int(documents.size * settings.valid_fraction) + 1)
    stream = StreamBlocks(documents, tokenizer, length, lanes=settings.lanes, enough=enough, ends=ends)
    valid = _checked(pack(stream.valid_documents, tokenizer, length, end_of_text=ends))
    return TrainingData(
        tokenizer,
        spec,
        length,
        stream,
        valid,
        fingerprint=sha256_of([*stream.valid_documents, *documents.files]),
        record_lengths={},
        labels={},
        has_end_of_text=ends and tokenizer.eos_id not in tokenizer.special_ids,
    )


def refuse_pipes(settings: Data, where: Path) -> None:
    """Raises DdcliError for saved settings whose data is a pipe or a device, which can be read but once.

    where: the file they were read from. Whoever names a pipe themselves may well mean it; by the file of a
    stranger it would be waited for.
    """
    for source in (settings.source, settings.valid):
        path = Path(source or ".")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DdcliError(f"{where} names {source} as its data, a pipe or a device; give data that stays")


# -- kept for the next start ------------------------------------------------------------------------------

KEPT = "1"  # another one wherever other tokens are made of the same text
SPEC = "spec.json"
ARRAYS = "tokens", "sizes", "ends", "given"
COUNTS = "characters", "utf8_bytes", "left_out"
PLAIN = "length", "has_end_of_text"


def _key(*of: Any) -> str:
    """Of what something was made from, and by."""
    import tokenizers

    return sha256_of([json.dumps([KEPT, tokenizers.__version__, *of])])


@dataclass(frozen=True)
class _Kept:
    """How training data is made, written, and read again as if it had just been made."""

    settings: Data
    tokenizer: Tokenizer
    spec: str | None  # as in TrainingData
    train: Records
    valid: Records
    fingerprint: str  # of the sources
    log: Log
    said: list[str] = field(default_factory=list)  # while it was made

    def key(self, known_by: str) -> str:
        """Of all that tokens depend on: the text as it was read, the tokenizer, and how it is cut up."""
        length = self.settings.length or (None if self.settings.lines else DEFAULT_LENGTH)
        others = [sum_of(part) for part in (self.train[1], *self.valid)]
        return _key(known_by, others, self.tokenizer.digest, self.settings.lines, length)

    def make(self) -> TrainingData:
        if self.settings.lines:
            records = self.train, self.valid
            return _records(self.settings, self.tokenizer, self.spec, *records, self.fingerprint, self.say)
        length = self.settings.length or DEFAULT_LENGTH
        ends = len(self.train[0]) > 1
        return TrainingData(
            self.tokenizer,
            self.spec,
            length,
            pack(self.train[0], self.tokenizer, length, end_of_text=ends, training=True),
            _checked(pack(self.valid[0], self.tokenizer, length, end_of_text=ends)),
            self.fingerprint,
            record_lengths={},
            labels={},
            has_end_of_text=ends and self.tokenizer.eos_id not in self.tokenizer.special_ids,
        )

    def say(self, line: str) -> None:
        self.said.append(line)
        self.log(line)

    def save(self, data: TrainingData, folder: Path) -> None:
        told: dict[str, Any] = {name: getattr(data, name) for name in PLAIN}
        told |= {"said": self.said, "record_lengths": [*data.record_lengths.items()]}
        told["labels"] = {name: [*counts.items()] for name, counts in data.labels.items()}
        for part, blocks in {"train": data.train, "valid": data.valid}.items():
            assert isinstance(blocks, Blocks)
            arrays = {name: getattr(blocks, name) for name in ARRAYS}
            there = {name: array for name, array in arrays.items() if array is not None}
            told[part] = {"arrays": [*there], **{name: getattr(blocks, name) for name in COUNTS}}
            for name, array in there.items():
                np.save(folder / f"{part}.{name}.npy", array)
        (folder / "data.json").write_text(json.dumps(told))

    def load(self, folder: Path) -> TrainingData:
        """Tokens as files that are mapped. What was said by whoever made it is said here."""
        told = read_json(folder / "data.json")
        data = TrainingData(
            tokenizer=self.tokenizer,
            tokenizer_spec=self.spec,
            train=_mapped(folder, "train", told),
            valid=_mapped(folder, "valid", told),
            fingerprint=self.fingerprint,
            record_lengths=dict(told["record_lengths"]),
            labels={name: dict(counts) for name, counts in told["labels"].items()},
            **{name: told[name] for name in PLAIN},
        )
        for line in told["said"][len(self.said) :]:
            self.log(line)
        return data


def _mapped(folder: Path, part: str, told: Mapping[str, Any]) -> Blocks:
    arrays: dict[str, Any] = dict.fromkeys(ARRAYS)
    arrays |= {name: np.load(folder / f"{part}.{name}.npy", "r") for name in told[part]["arrays"]}
    return Blocks(**arrays, **{name: told[part][name] for name in COUNTS})
