"""Training in a process of its own that is killed, at some moment or at some call that writes."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ddcli
from ddcli.checkpoint import checkpoints
from ddcli.config import Config
from ddcli.errors import DdcliError
from ddcli.files import verified
from ddcli.training import train

WRITING = ("open", "fsync", "replace", "mkdir", "rmdir", "unlink", "chmod")  # of os: what changes a disk
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ddcli.training"])  # so that it is imported once, not for each to be killed


def train_and_die(config: Config, run: Path, fatal: int | None, begun: Any) -> None:
    """Train, say so by the event `begun`, and die before the call number `fatal` that changes the disk."""
    torch.set_num_threads(1)
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
    begun.set()
    train(config, run, resume=True)


def kill_while_training(config: Config, run: Path, rng: random.Random, *, seconds: float) -> str:
    """Resume a run and kill it, at a random call that writes or within so many seconds; which it was."""
    fatal, begun = rng.randint(1, 120) if rng.random() < 0.6 else None, CONTEXT.Event()
    process = CONTEXT.Process(target=train_and_die, args=(config, run, fatal, begun))
    process.start()
    if fatal is None:
        begun.wait()
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
