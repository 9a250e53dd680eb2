"""Training in a process of its own that is killed, at some moment or at some call that writes."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ddcli
from ddcli.checkpoint import checkpoints, verified
from ddcli.config import Config
from ddcli.errors import DdcliError
from ddcli.training import train

WRITING = ("open", "fsync", "replace", "mkdir", "rmdir", "unlink", "chmod")  # of os: what changes a disk
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torture"])  # torch is imported once, not for every process to be killed


def train_and_die(config: Config, run: Path, fatal: int | None) -> None:
    """Train, and be killed before the call that changes the disk for the time number `fatal`."""
    calls = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return called

    for name in WRITING:
        setattr(os, name, dying(getattr(os, name)))
    train(config, run, resume=True)


def kill_while_training(config: Config, run: Path, rng: random.Random, *, seconds: float) -> str:
    """Resume a run and kill it, at a random call that writes or within so many seconds; which it was."""
    fatal = rng.randint(1, 120) if rng.random() < 0.6 else None
    process = CONTEXT.Process(target=train_and_die, args=(config, run, fatal))
    process.start()
    if fatal is None:
        time.sleep(seconds * rng.random())
        process.kill()
    process.join()
    return "finished" if process.exitcode == 0 else "amid writing" if fatal else "at some moment"


def assert_whole(run: Path) -> None:
    """Nothing that can be read is half of something."""
    assert all(verified(folder) for _, folder in checkpoints(run))
    if (run / "model.safetensors").exists():
        try:
            ddcli.load(run)
        except DdcliError as error:
            assert "is missing" in str(error)  # noqa: PT017 - of a run that was killed before its first was whole
