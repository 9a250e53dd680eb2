"""Several processes that work together, started as `torchrun` does it but in no time: they are forks of a
server that has imported what they need, and never computed anything."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ddcli.errors import DdcliError

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ddcli.training", "tiny"])


class Failure(NamedTuple):
    """A DdcliError of another process."""

    name: str
    message: str
    exit_code: int


def together(size: int, work: Callable[..., Any], *arguments: Any, timeout: float = 120) -> list[Any]:
    """What `work` returns, or the `Failure` it ends in, in each of so many processes; None if it died."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    everywhere = {"WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    children = []
    for rank in range(size):
        told = {name: str(value) for name, value in {**everywhere, "RANK": rank, "LOCAL_RANK": rank}.items()}
        here, there = FORKS.Pipe()
        child = FORKS.Process(target=_one_of_them, args=(told, there, work, arguments), daemon=True)
        child.start()
        there.close()
        children.append((child, here))
    found = []
    for child, pipe in children:
        try:
            if not pipe.poll(timeout):
                raise TimeoutError("a process does not end")
            found.append(pipe.recv())
        except EOFError:
            found.append(None)
        child.join(timeout)
    return found


def _one_of_them(environment, pipe, work, arguments):
    os.environ |= environment
    torch.set_num_threads(1)
    try:
        pipe.send(work(*arguments))
    except DdcliError as error:
        pipe.send(Failure(type(error).__name__, str(error), error.exit_code))
