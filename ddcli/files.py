"""Writing whole or not at all: what a reader finds is the old content or the new, never a part.

Reading what may have come from anybody: nothing that never ends, and nothing that fills the memory.
"""

import codecs
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DdcliError, nearest

MANIFEST = "manifest.json"
CONFIG = "config.json"  # what a model's folder has
LARGEST = 256 * 2**20  # bytes of a file of settings; the largest vocabularies take 40 million
PARTIAL = ".partial"  # what is not whole yet, or never will be: a process was killed while it wrote


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, put in its place once the block is left without an error.

    A link stays, and what it points to is replaced. A pipe or a device is written to as it is.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))  # an endless link stays itself, and cannot be written
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        beside.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, sealed by a manifest of sha256 sums, which then takes its place."""
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL))
    try:
        yield beside
        sums = {file.name: sha256(file) for file in sorted(beside.iterdir())}
        (beside / MANIFEST).write_text(json.dumps(sums, indent=1))
        for file in beside.iterdir():
            file.chmod(0o666 & ~_umask())  # safetensors are written for their owner alone
            _sync(file)
        beside.chmod(0o777 & ~_umask())
        _sync(beside)
        if path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def verified(folder: Path) -> bool:
    """Whether the files of a folder that was written whole are those that were written, each as it was."""
    try:
        sums = json.loads(read_small(folder / MANIFEST))
        names = {path.name for path in folder.iterdir()} - {MANIFEST}
        there = {name for name in names if not name.startswith(".")}  # which file managers leave; never read
        return sums.keys() == there and all(sha256(folder / name) == sums[name] for name in there)
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def read_small(path: Path, most: int = LARGEST) -> bytes:
    """The content of a file of settings. Raises OSError for a pipe, a device, and what is far too large."""
    waits = getattr(os, "O_NONBLOCK", 0)  # which opening a pipe would do until somebody writes
    with open(os.open(path, os.O_RDONLY | waits), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file, but a folder, a pipe or a device")
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON object, or array, of a run folder. Raises DdcliError, naming the file, where there is none."""
    try:
        content = json.loads(read_small(path))
    except FileNotFoundError:
        raise DdcliError(f"{path.parent} is no run folder: {path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DdcliError(f"{path} cannot be read: {reason}") from None
    if not isinstance(content, kind):
        raise DdcliError(f"{path} is damaged: a JSON {'object' if kind is dict else 'array'} was expected")
    return content


def links_out(folder: Path) -> Path | None:
    """Something in a folder, or in a folder in it, that leads out of it; None where all stays inside."""
    top = Path(os.path.realpath(folder))
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(top):
                return path
    return None


def clear_partial(folder: Path) -> None:
    """Remove what a killed process left half written in a folder. For whoever alone writes there."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as beside:
        beside.write_bytes(text.encode())


def finite(content: Any) -> Any:
    """The same for JSON, which has no NaN: None for what is no number."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder to flush it
    handle = os.open(
        path, os.O_RDWR if os.name == "nt" else os.O_RDONLY
    )  # Windows flushes what is written to
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def wide_encoding(content: bytes) -> str | None:
    """Of a text that begins with the mark of one of several bytes a character, its name."""
    marks = {
        "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # the first begins as one of utf-16 does
        "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    }
    return next((name for name, of in marks.items() if content.startswith(of)), None)


def check_place(path: str | Path) -> None:
    """Raises DdcliError, before any work is done, for a file that could not be put where it is asked for."""
    real = os.path.realpath(path)  # where a link leads is what would be replaced
    folder = os.path.dirname(real)
    if os.path.isdir(real):
        raise DdcliError(f"{path} cannot be written: it is a folder")
    if not os.path.isdir(folder):
        raise DdcliError(f"{path} cannot be written: there is no folder {Path(path).parent}; make it first")
    if os.path.isfile(real) or not os.path.exists(real):  # a device or a pipe is written to
        check_folder(folder, path)


def check_folder(folder: str | Path, path: str | Path) -> None:
    """Raises DdcliError where nothing can be written in a folder that is there, in which `path` is to be."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DdcliError(f"{path} cannot be written: nothing can be written in {folder}")


def check_regular(path: Path) -> None:
    """OSError for a pipe, which would be waited for, a device, which may have no end, and a folder."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file, but a folder, a pipe or a device")


def sha256(path: Path) -> str:
    """Raises OSError for what is no file."""
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_place(source: str) -> str:
    """A source, a model or noise (`NAME:FILE`) as strangers may read it: of a path elsewhere, its end."""
    path = Path(source)
    if path.is_absolute() or path.parts[:1] in {("~",), ("..",)}:
        return path.name
    kind, colon, rest = source.partition(":")
    return source if not colon or rest.startswith("//") else f"{kind}:{without_place(rest)}"


def _stem(path: str) -> str:
    return Path(path).stem


def meant(path: str, holding: str = "") -> str:
    """`; did you mean 'runs/novel'?`, by what lies beside where a path leads, or nothing.

    holding: a file that what is meant has in it, such as config.json.
    """
    folder = Path(path).parent
    try:
        if not folder.is_dir():
            others = [entry.name for entry in os.scandir(folder.parent) if entry.is_dir()]
            there = folder.parent / nearest(folder.name, others, 0.6) / Path(path).name
            return f"; did you mean {str(there)!r}?" if (there / holding).exists() else ""
        beside = [entry.name for entry in os.scandir(folder) if (Path(entry.path) / holding).exists()]
    except (OSError, ValueError):
        return ""
    stems: dict[str, list[str]] = {}
    for name in beside:
        stems.setdefault(_stem(name), []).append(name)
    alike = stems.get(nearest(_stem(path), stems, 0.6), [])  # an ending in common says nothing
    near = nearest(Path(path).name, alike, 0)
    return f"; did you mean {str(folder / near)!r}?" if near else ""
