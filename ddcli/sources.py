"""Any source of text, read without changing a character."""

from __future__ import annotations

import bz2
import codecs
import csv
import glob
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import sysconfig
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .errors import DdcliError, counted, first_line
from .files import meant, sha256, wide_encoding
from .hub import is_name, offline, quiet, unreachable

Document = str | bytes

STDLIB_SOURCE = "python-stdlib"
# Modules and packages of the standard library that make up the source `python-stdlib`: several MB of real
# code that every interpreter carries. Tables, tests and the modules some versions have removed stay out.
STDLIB = """
    __future__ _collections_abc _compat_pickle _compression _markupbase _py_abc _pydatetime _pydecimal
    _pyio _strptime _threading_local _weakrefset abc argparse ast asyncio base64 bdb bisect bz2 cProfile
    calendar cmd code codecs codeop collections colorsys compileall concurrent configparser contextlib
    contextvars copy copyreg csv ctypes curses dataclasses datetime dbm decimal difflib dis doctest email
    enum filecmp fileinput fnmatch fractions ftplib functools genericpath getopt getpass gettext glob
    graphlib gzip hashlib heapq hmac html http imaplib importlib inspect io ipaddress json keyword
    linecache locale logging lzma mailbox mimetypes modulefinder multiprocessing netrc ntpath nturl2path
    numbers opcode operator optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib
    posixpath pprint profile pstats pty py_compile pyclbr pydoc queue quopri random re reprlib rlcompleter
    runpy sched secrets selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl
    stat statistics string stringprep struct subprocess symtable sysconfig tabnanny tarfile tempfile
    textwrap threading timeit token tokenize tomllib trace traceback tracemalloc tty turtle types typing
    unittest urllib uuid venv warnings wave weakref webbrowser wsgiref xml xmlrpc zipapp zipfile zipimport
    zoneinfo
"""


TOLD = 5  # bad rows, by file and line; of more there is a count
LONGEST_ROW = 50_000_000  # characters of a row of a table: more is no document, but a file gone wrong
PIECE = 2**16  # bytes of a single text that is streamed, and what is missing to the end of a line
REACH = 2**12  # bytes; in a line that goes on for longer, a piece ends amid it
PIECES = 256  # of a shard
HEAD = 8_000  # bytes by which text is told from what is none
SHARDS = 64  # of a dataset on this machine that is streamed, if each then has as many rows as are FULL
FULL = 128


class BadRow(DdcliError):  # noqa: N818 - the row is bad
    """A row that holds no text, named by its file and line."""


class Row(NamedTuple):
    """A document as it is found, or None in its place, and its label."""

    text: Document | None
    label: str = ""  # empty: none
    problem: str = ""  # why there is none, and where


@dataclass(frozen=True)
class Corpus:
    """Documents of one source, in a fixed order."""

    documents: list[Document]  # bytes only where asked for, and only those that are not UTF-8
    name: str  # the source, as given
    sha256: str  # of a single file what sha256sum says; else of documents, then labels, a NUL byte between
    skipped: int  # empty rows and files and, in folders, binary ones
    problems: list[str] = field(default_factory=list)  # of bad rows that were left out: where, and what
    labels: list[str] = field(default_factory=list)  # of each document, empty: none


@dataclass(frozen=True)
class Reading:
    """How the documents are found inside a file."""

    text_column: str = "text"
    label_column: str | None = None
    lines: bool = False  # each non-empty line of a text is a document
    as_bytes: bool = False  # text that is not UTF-8 is taken as bytes instead of refused
    skip_bad: bool = False  # a bad row is left out instead of refused
    trains: bool = True  # for training, whose options may be recommended

    def row(self, make: Callable[[Any, Reading, str], Row], found: Any, where: str) -> Row:
        """The row that `make` sees in what was found. Raises BadRow, unless such rows are left out."""
        try:
            return make(found, self, where)
        except BadRow as error:
            if self.skip_bad:
                return Row(None, problem=str(error))
            leave = ", or leave such rows out with --bad-rows skip" if self.trains else ""
            raise BadRow(f"{error}; mend it{leave}") from None


def read_corpus(
    source: str,
    *,
    text_column: str = "text",
    label_column: str | None = None,
    split: str = "train",
    lines: bool = False,
    as_bytes: bool = False,
    skip_bad: bool = False,
    trains: bool = True,
) -> Corpus:
    """Read `python-stdlib`, a file, a folder, a glob or a Hugging Face dataset (`name` or `name:config`).

    A text file is one document, or with `lines` one for each non-empty line, and so is any file of a folder
    or .zip that holds more than tables. Of tables (`TABLES`), .json files and datasets (their `split`), those
    in a folder that `save_to_disk` wrote too, each row's `text_column` is one, with what its `label_column`
    says, if asked for: a text or a whole number, null or empty for none. .gz, .bz2, .xz and .zst files are
    unpacked. With `as_bytes`, documents that are not UTF-8 are bytes; without, they are bad rows, as are rows
    that are no JSON, null, no text, or too long to be any: refused, or left out with `skip_bad`.

    trains: whether it is for training, whose options may be recommended.

    Raises DdcliError where there is no such source, it cannot be read, it holds no text, or no such column.
    """
    reading = Reading(text_column, label_column, lines, as_bytes, skip_bad, trains)
    path = Path(source)
    if (local := _local(source)) is not None:
        rows = [row for file in local.files for row in local.read(file, reading)]
    else:
        rows = list(_rows_of(_dataset(source, split, streaming=False), reading, source))
    documents = list(present(row.text for row in rows))
    problems = [row.problem for row in rows if row.problem]
    if not documents:
        raise DdcliError(f"{source} holds no text{told_of(problems)}; give a source that does")
    labels = [row.label for row in rows if row.text]
    own = path.is_file() and source != STDLIB_SOURCE  # a pipe can be read but once
    digest = sha256(path) if own else sha256_of([*documents, *labels] if label_column else documents)
    skipped = len(rows) - len(documents) - len(problems)
    return Corpus(documents, source, digest, skipped, problems, labels)


def split_corpus(corpus: Corpus, fraction: float = 0.05) -> tuple[list[Document], list[Document]]:
    """Documents to train on, and the last `fraction` of them (at least one) to validate on.

    A single document is cut, at the first line start after 1 - `fraction` of it if one is near.
    """
    documents = corpus.documents
    if len(documents) > 1:
        kept = len(documents) - max(1, round(len(documents) * fraction))
        return documents[:kept], documents[kept:]
    (text,) = documents
    cut = min(max(1, int(len(text) * (1 - fraction))), len(text) - 1)
    near = cut + max(1, len(text) // 100)
    newline = text.find("\n", cut, near) if isinstance(text, str) else text.find(b"\n", cut, near)
    if 0 <= newline < len(text) - 1:
        cut = newline + 1
    if cut < 1:
        raise DdcliError(f"{corpus.name} is too short to set a part aside for validation; give more text")
    return [text[:cut]], [text[cut:]]


@dataclass(frozen=True)
class StreamedDocuments:
    """Documents too many to hold, shard by shard."""

    name: str  # the source, as given
    shards: int
    rows: Callable[[int, int], Iterable[Row]]  # of a shard, from a row on
    log: Callable[[str], None]  # who is told of bad rows that are left out
    files: tuple[str, ...] = ()  # what shards that are files are known by
    problems: set[str] = field(default_factory=set)  # of bad rows that were left out so far
    size: int = 0  # bytes of a single text, whose pieces these are; 0 of documents that end

    def all(self) -> Iterator[Document | None]:
        """The documents of all parts, once."""
        return chain.from_iterable(self.shard(number, 0) for number in range(self.shards))

    def shard(self, number: int, start: int) -> Iterator[Document | None]:
        """The documents of a part from row `start` on; None for a row without one. Raises DdcliError."""
        try:
            for row in self.rows(number, start):
                if row.problem and row.problem not in self.problems:
                    self.problems.add(row.problem)
                    self._tell(row.problem)
                yield row.text
        except OSError as error:  # of a disk, or of a network
            raise DdcliError(f"{self.name} cannot be read any more: {first_line(error)}") from error

    def _tell(self, problem: str) -> None:
        """The first few, and then how many they are by now, ever more seldom."""
        count = len(self.problems)
        if count <= TOLD:
            self.log(f"left out: {problem}")
        elif set(str(count)[1:]) == {"0"}:
            self.log(f"{count:,} bad rows left out so far")


def stream_documents(
    source: str,
    *,
    text_column: str = "text",
    split: str = "train",
    as_bytes: bool = False,
    skip_bad: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> StreamedDocuments:
    """The source that `read_corpus` reads, as it comes: files, each a shard, a dataset of the hub, or the
    pieces of a single text."""
    reading = Reading(text_column, as_bytes=as_bytes, skip_bad=skip_bad)
    if (local := _local(source)) is not None:
        if len(local.files) == 1 and _inner(local.files[0]).suffix not in READERS:
            return _pieces_of(source, local.files[0], reading, log)
        known = tuple(f"{file.name} {file.stat().st_size}" for file in local.files)

        def of_file(number: int, start: int) -> Iterable[Row]:
            return islice(local.read(local.files[number], reading), start, None)

        return StreamedDocuments(source, len(local.files), of_file, log, known)
    rows: Any = _dataset(source, split, streaming=True)  # an IterableDataset
    shards = rows.num_shards

    def of_dataset(number: int, start: int) -> Iterable[Row]:
        part = rows.shard(shards, number, contiguous=True) if shards > 1 else rows
        where = f"{source} shard {number}" if shards > 1 else source
        return _rows_of(part.skip(start), reading, where, start + 1)

    return StreamedDocuments(source, shards, of_dataset, log)


def _pieces_of(name: str, path: Path, reading: Reading, log: Callable[[str], None]) -> StreamedDocuments:
    """One text, of which no more is held than a piece; of one that is compressed, all."""
    with _opened(path) as file:
        _check_is_text(file.read(HEAD), str(path), reading)
        size = file.seek(0, os.SEEK_END)
    count = -(-size // PIECE)

    def of_text(number: int, start: int) -> Iterator[Row]:
        first = PIECES * number
        with _opened(path) as file:
            end = _cut(file, PIECE * (first + start))
            for piece in range(first + start, min(first + PIECES, count)):
                begin, end = end, _cut(file, PIECE * (piece + 1))
                file.seek(begin)
                yield reading.row(_text_row, file.read(end - begin), f"{path} from byte {begin:,} on")

    known = (f"{path.name} {path.stat().st_size}",)
    return StreamedDocuments(name, max(1, -(-count // PIECES)), of_text, log, known, size=size)


def _cut(file: BinaryIO, at: int) -> int:
    """The first byte from `at` on that begins a line; or a word, or a character, where lines are long."""
    file.seek(at)
    ahead = file.read(REACH) if at else b""
    for end in (b"\n", b" "):
        if (found := ahead.find(end)) >= 0:
            return at + found + 1
    return at + len(ahead) - len(ahead.lstrip(bytes(range(0x80, 0xC0))))  # what goes on with a character


def _opened(path: Path) -> BinaryIO:
    try:
        return io.BytesIO(_unpack(path)) if path.suffix in UNPACKERS else path.open("rb")
    except OSError as error:
        raise DdcliError(f"{path} cannot be read: {error.strerror}") from error


class _Files(NamedTuple):
    """A source on this machine."""

    files: list[Path]
    read: Callable[[Path, Reading], Iterable[Row]]


def refuse_files(source: str, option: str) -> None:
    """DdcliError for a source that is read as files, by an option that names a split of it."""
    if _local(source) is not None:
        raise DdcliError(
            f"{source} is read as files, which have no splits; leave {option} out, and give the files "
            "that are wanted alone"
        )


def _local(source: str) -> _Files | None:
    """None where it can but be a dataset: the name of one, or a folder that `save_to_disk` wrote."""
    path = Path(source)
    if source == STDLIB_SOURCE:
        return _Files(list(_stdlib_files()), _read_file)
    if _is_saved(path):
        return None
    if path.is_dir():
        files = _files_below(path)
        return _Files(files, _read_file if _are_tables(files) else _read_member)
    if path.exists():
        return _Files([path], _read_file)
    if glob.has_magic(source):
        return _Files([Path(file) for file in _files_matching(source)], _read_file)
    return None


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote a folder: a dataset or several. Others may have a state.json too."""
    one = all((path / name).is_file() for name in ("state.json", "dataset_info.json"))
    return one or (path / "dataset_dict.json").is_file()


def _are_tables(files: Iterable[Path]) -> bool:
    return all(_inner(file).suffix in TABLES for file in files)


def _dataset(source: str, split: str, *, streaming: bool) -> Iterable[dict[str, Any]]:
    return (_saved_rows if _is_saved(Path(source)) else _hub_rows)(source, split, streaming=streaming)


def _saved_rows(source: str, split: str, *, streaming: bool) -> Iterable[dict[str, Any]]:
    import datasets

    try:
        with quiet():
            found = datasets.load_from_disk(source)
    except Exception as error:  # of whatever its files are damaged by
        raise DdcliError(f"{source} cannot be read as a dataset: {first_line(error)}") from error
    if isinstance(found, dict):
        if split not in found:
            raise DdcliError(
                f"{source} has no split {split!r} but {', '.join(map(str, found))}; set data.split to one"
            )
        found = found[split]
    return found.to_iterable_dataset(max(1, min(SHARDS, len(found) // FULL))) if streaming else found


def _hub_rows(source: str, split: str, *, streaming: bool) -> Iterable[dict[str, Any]]:
    name, _, config = source.partition(":")
    looks_like_a_file = {*TABLES, *READERS, *UNPACKERS, ".txt"} & set(Path(source).suffixes)
    if looks_like_a_file or not is_name(name):
        raise DdcliError(f"no such file or folder: {source}{meant(source)}")

    import datasets

    trouble = unreachable(name, dataset=True)
    without_the_hub = offline() if trouble else nullcontext()  # what was fetched before is there all the same
    try:
        with quiet(), without_the_hub:
            return datasets.load_dataset(name, config or None, split=split, streaming=streaming)
    except Exception as error:  # what comes out of here is anything from an HTTP error to a parser's
        cause = trouble if trouble and "Offline" in str(error) else error
        raise DdcliError(
            f"no file or folder {source}, and as a hub dataset it cannot be loaded: {first_line(cause)}; "
            "give files, or a folder that save_to_disk wrote"
        ) from error


def _read_file(path: Path, reading: Reading) -> Iterable[Row]:
    """Documents of one file, by the ending of its name (before that of its compression)."""
    read = READERS.get(_inner(path).suffix, _read_text)
    return read(_unpack(path), str(path), reading)


def _inner(path: Path) -> Path:
    """The name of a file, unpacked."""
    return path.with_suffix("") if path.suffix in UNPACKERS else path


def _read_member(path: Path, reading: Reading) -> Iterable[Row]:
    """Documents of a file in a folder: text whatever its name, None if it is binary (as git sees it).

    Raises DdcliError for a table that would be passed over as such.
    """
    if _inner(path).suffix in BINARY_TABLES:
        part, dash, _ = path.stem.partition("-")  # as in train-00000-of-00001.parquet
        raise DdcliError(
            f"{path} is a table, but beside it are files that are none; give the tables alone, as "
            f"--data '{path.parent}/{part + '-' if dash else ''}*{path.suffix}'"
        )
    return _member(_unpack(path), str(path), reading)


def _member(data: bytes, where: str, reading: Reading) -> Iterable[Row]:
    binary = not reading.as_bytes and _is_binary(data)
    return [Row(None)] if binary else _read_text(data, where, reading)


def _is_binary(data: bytes) -> bool:
    return b"\0" in data[:HEAD]


def _check_is_text(head: bytes, where: str, reading: Reading) -> None:
    if not reading.as_bytes and (wide := wide_encoding(head)):
        raise DdcliError(f"{where} is {wide} text; make UTF-8 of it: `iconv -f {wide} -t utf-8`")
    if not reading.as_bytes and _is_binary(head):
        raise DdcliError(f"{where} is binary, no text; --tokenizer byte takes it, or unpack what it holds")


def _read_text(data: bytes, where: str, reading: Reading) -> Iterable[Row]:
    if reading.label_column:
        raise DdcliError(
            f"{where} is plain text, which has no column {reading.label_column!r}; "
            "--label-column takes .jsonl, .json, .csv or .parquet files, or a dataset"
        )
    _check_is_text(data, where, reading)
    if not reading.lines:
        return [reading.row(_text_row, data, where)]
    lines = enumerate(re.split(rb"\r?\n", data), 1)
    return [reading.row(_text_row, line, f"{where} line {i}") for i, line in lines if line]


def _text_row(data: bytes, reading: Reading, where: str) -> Row:
    try:
        return Row(data.decode())
    except UnicodeDecodeError as error:
        if reading.as_bytes:
            return Row(data)
        other = ", and --tokenizer byte takes any bytes" if reading.trains else ""
        raise BadRow(
            f"{where} is not UTF-8 text (byte {error.start:,}); `iconv -f windows-1252 -t utf-8` converts "
            f"what Windows wrote{other}"
        ) from error


def _read_zip(data: bytes, where: str, reading: Reading) -> Iterable[Row]:
    """As a folder is read, without what is hidden."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [Path(name) for name in sorted(archive.namelist()) if not name.endswith("/")]
            files = [
                name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.parts)
            ]
            held = {
                file: _unpacked(archive.read(file.as_posix()), file, f"{where}: {file}") for file in files
            }
    except DdcliError:
        raise
    except Exception as error:  # damaged or encrypted: each compression has exceptions of its own
        raise DdcliError(f"{where} cannot be read: {first_line(error)}") from error
    tables = _are_tables(files)
    for file, content in held.items():
        read = READERS.get(_inner(file).suffix, _member) if tables else _member
        yield from read(content, f"{where}: {file}", reading)


def _read_jsonl(data: bytes, where: str, reading: Reading) -> Iterable[Row]:
    # Not splitlines, which would also cut at the line separators that JSON strings may hold.
    for number, line in enumerate(io.BytesIO(_without_mark(data)), 1):
        if line.strip():
            yield reading.row(_json_row, line, f"{where} line {number}")


def _json_row(line: bytes, reading: Reading, where: str) -> Row:
    try:
        return _row(json.loads(line.decode()), reading, where)
    except UnicodeDecodeError as error:
        raise BadRow(f"{where} is not UTF-8 text (byte {error.start:,})") from error
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{where} is not JSON: {error}") from error


def _read_json(data: bytes, where: str, reading: Reading) -> Iterable[Row]:
    try:
        rows = json.loads(_decode_table(data))
    except (ValueError, RecursionError) as error:
        raise DdcliError(f"{where} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise DdcliError(f"{where} is not a list of rows; rename it .jsonl if each line is one")
    return _rows_of(rows, reading, where)


def _read_csv(data: bytes, where: str, reading: Reading, delimiter: str = ",") -> Iterable[Row]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 kB is less than a long document
    rows = csv.DictReader(io.StringIO(_decode_table(data), newline=""), delimiter=delimiter)
    try:
        for row in rows:
            yield reading.row(_row, row, f"{where} line {rows.line_num}")
    except csv.Error as error:
        raise DdcliError(f"{where} line {rows.line_num}: {error}") from error


def _read_parquet(data: bytes, where: str, reading: Reading) -> Iterable[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
    except pyarrow.ArrowException as error:
        raise DdcliError(f"{where} is not a parquet file: {first_line(error)}") from error
    columns = _columns_of(file.schema_arrow.names, where, reading)
    return _table_rows(file.read(columns=columns), columns, where, reading)


def _read_arrow(data: bytes, where: str, reading: Reading) -> Iterable[Row]:
    """As `datasets` writes them (streams), and others (files)."""
    import pyarrow

    try:
        is_file = data.startswith(b"ARROW1")
        with (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(data) as file:
            table = file.read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DdcliError(f"{where} is not an arrow file: {first_line(error)}") from error
    return _table_rows(table, _columns_of(table.column_names, where, reading), where, reading)


def _columns_of(names: Collection[str], where: str, reading: Reading) -> list[str]:
    """The columns that are read. Raises DdcliError where there is none of that name."""
    columns = {reading.text_column: "--text-column"}
    if reading.label_column:
        columns[reading.label_column] = "--label-column"
    for column, option in columns.items():
        if column not in names:
            raise _no_column(where, column, names, option)
    return list(columns)


def _table_rows(table: Any, columns: list[str], where: str, reading: Reading) -> Iterator[Row]:
    cells = zip(*(_cells_of(table[column]) for column in columns), strict=True)
    return _rows_of((dict(zip(columns, row, strict=True)) for row in cells), reading, where)


def _cells_of(column: Any) -> list[Any]:
    """Text as `_decode_table` has it, where pyarrow would give up at the first byte that is no UTF-8."""
    from pyarrow import large_binary, types

    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        return list(column.to_pylist())
    found = column.cast(large_binary()).to_pylist()
    return [None if text is None else text.decode(errors="surrogateescape") for text in found]


def _unpack_zst(packed: bytes) -> bytes:
    import zstandard

    unpacked = []
    while packed:  # frame by frame: the library's own file reader takes a file cut short for a whole one
        frame = zstandard.ZstdDecompressor().decompressobj()
        unpacked.append(frame.decompress(packed))
        if not frame.eof:
            raise EOFError("it ends inside a frame")
        packed = frame.unused_data
    return b"".join(unpacked)


Reader = Callable[[bytes, str, Reading], Iterable[Row]]  # of what a file holds, unpacked, and its name
TABLES: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
BINARY_TABLES = {".parquet", ".arrow"}
READERS: dict[str, Reader] = {**TABLES, ".json": _read_json, ".zip": _read_zip}
UNPACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _unpack_zst,
}


def _unpack(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DdcliError(f"{path} cannot be read: {first_line(error)}") from error
    return _unpacked(data, path, str(path))


def _unpacked(data: bytes, name: Path, where: str) -> bytes:
    try:
        return UNPACKERS.get(name.suffix, bytes)(data)
    except Exception as error:  # each compression has exceptions of its own
        raise DdcliError(f"{where} cannot be read: {first_line(error)}") from error


def _without_mark(data: bytes) -> bytes:
    return data.removeprefix(codecs.BOM_UTF8)  # in a table a byte order mark is no part of the text


def _decode_table(data: bytes) -> str:
    """Bytes that are no UTF-8 become halves of surrogate pairs, so that the row they are in can be named."""
    return _without_mark(data).decode(errors="surrogateescape")


def _rows_of(rows: Iterable[Any], reading: Reading, source: str, first: int = 1) -> Iterator[Row]:
    for number, row in enumerate(rows, first):
        yield reading.row(_row, row, f"{source} row {number}")


def _row(row: Any, reading: Reading, where: str) -> Row:
    text = _text_of(row, reading.text_column, where)
    return Row(text, _label_of(row, reading.label_column, where) if reading.label_column else "")


def _text_of(row: Any, column: str, where: str) -> str:
    text = _cell(row, column, where, "--text-column")
    if not isinstance(text, str):
        what = "null" if text is None else type(text).__name__
        raise BadRow(f"{where}: column {column!r} holds {what}, not text")
    if len(text) > LONGEST_ROW:
        raise BadRow(f"{where}: {len(text):,} characters are no document (at most {LONGEST_ROW:,})")
    return _whole_characters(text, where)


def _label_of(row: Any, column: str, where: str) -> str:
    label = _cell(row, column, where, "--label-column")
    if not isinstance(label, str | int | None):
        raise BadRow(f"{where}: column {column!r} holds {type(label).__name__}, which is no label")
    return "" if label is None else _whole_characters(str(label), where)


def _cell(row: Any, column: str, where: str, option: str) -> Any:
    if not isinstance(row, dict):
        raise BadRow(f"{where}: a row is {type(row).__name__}, not a mapping of columns")
    if column not in row:
        raise BadRow(str(_no_column(where, column, row, option)))
    return row[column]


def _whole_characters(text: str, where: str) -> str:
    if re.search("[\ud800-\udfff]", text):  # JSON can spell them, and `_decode_table` makes them of bytes
        raise BadRow(f"{where}: a text holds half a surrogate pair or a stray byte, which is not UTF-8")
    return text


def _no_column(where: str, column: str, columns: Iterable[Any], option: str) -> DdcliError:
    return DdcliError(
        f"{where} has no column {column!r}; set {option} to one of: {', '.join(map(str, columns))}"
    )


def _stdlib_files() -> Iterator[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in STDLIB.split():
        package = [p for p in _files_below(root / name) if p.suffix == ".py" and "test" not in p.parts]
        yield from package or [p for p in [root / f"{name}.py"] if p.exists()]


def _files_below(folder: Path) -> list[Path]:
    """Files below a folder, sorted, hidden ones and those in hidden folders left out."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p for p in files if not any(x.startswith(".") for x in p.relative_to(folder).parts))


def _files_matching(pattern: str) -> list[str]:
    files = sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
    if not files:
        raise DdcliError(f"no file matches {pattern}")
    return files


def told_of(problems: Collection[str]) -> str:
    """The first of some bad rows, in brackets."""
    return f" ({counted(len(problems), 'bad row')}: {next(iter(problems))})" if problems else ""


def present(documents: Iterable[Document | None]) -> Iterator[Document]:
    return (document for document in documents if document)


def some_of(documents: Iterable[Document], most: int, enough: int) -> Iterator[Document]:
    """The first documents: `most` of them, or fewer that hold `enough` characters."""
    size = 0
    for document in islice(documents, most):
        yield document
        size += len(document)
        if size >= enough:
            return


def sha256_of(documents: Iterable[Document]) -> str:
    """Of the documents, with a NUL byte between them."""
    digest = hashlib.sha256()
    for i, document in enumerate(documents):
        digest.update(b"\0" * (i > 0))
        digest.update(utf8(document))
    return digest.hexdigest()


def sum_of(documents: Iterable[Document]) -> str:
    """sha256 of the documents, each with its kind and its length: of no others is it the same."""
    digest = hashlib.sha256()
    for document in documents:
        content = utf8(document)
        digest.update(f"{type(document).__name__} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def utf8(document: Document) -> bytes:
    return document.encode() if isinstance(document, str) else document
