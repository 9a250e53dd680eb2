"""What takes long to make, kept for the next time, by what it was made from.

It lies where libraries of Hugging Face keep such things (`HF_ASSETS_CACHE`), and all of it can be removed.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from .errors import DdcliError, first_line
from .files import clear_partial, verified, whole_folder

GONE = OSError, DdcliError, ValueError, KeyError  # what reading ends in where another process removes it
MOST = 20 * 2**30  # bytes kept; what was not asked for for longest goes first

Made = TypeVar("Made")


def cached(
    kind: str,
    key: str,
    make: Callable[[], Made],
    save: Callable[[Made, Path], None],
    load: Callable[[Path], Made],
    log: Callable[[str], None],
) -> Made:
    """What `load` reads from the folder that `save` wrote for a key; if there is none it is made, and kept.

    Of processes that ask at once, one makes it. Where nothing can be kept, what was made is returned, and
    `log` is told.
    """
    from huggingface_hub import cached_assets_path

    with ExitStack() as held:
        try:
            place = cached_assets_path("ddcli", kind, key)
            _hold(held, place, kind, log)
            os.utime(place)
        except (OSError, ValueError, NotImplementedError) as error:  # of a disk without rights, or locks
            log(f"{kind} are not kept for the next time: {_reason(error)}")
            return make()
        folder = place / "made"
        if verified(folder):
            with suppress(*GONE):
                return load(folder)
        made = make()
        try:
            clear_partial(place)
            with whole_folder(folder) as beside:
                save(made, beside)
        except OSError as error:
            log(f"{kind} are not kept for the next time: {_reason(error)}")
            return made
        with suppress(*GONE):
            _make_room(place.parent)
            return load(folder)
        return made


def _hold(held: ExitStack, place: Path, kind: str, log: Callable[[str], None]) -> None:
    """Wait until no other process makes what belongs there."""
    lock = FileLock(place / ".lock")
    try:
        held.enter_context(lock.acquire(timeout=0))
    except Timeout:
        log(f"{kind}: another process is making the same, which is waited for")
        held.enter_context(lock.acquire())


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def _make_room(kept: Path) -> None:
    """Remove the entries that were not asked for for longest, until the others fit."""
    entries = sorted(kept.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
    total = 0
    for number, entry in enumerate(entries):
        total += sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if number and total > MOST:
            shutil.rmtree(entry, ignore_errors=True)
