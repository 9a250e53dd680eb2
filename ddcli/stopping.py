"""How a run is asked to stop: by a signal, or by the clock."""

import math
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DdcliError

OUT_OF_TIME = 75  # exit code: "try again later", as mail systems have it
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGXCPU", "SIGHUP")
    if hasattr(signal, name)
]
HANG_UP = getattr(signal, "SIGHUP", None)  # the terminal is closed


class Stopped(DdcliError):  # noqa: N818 - asked for, not an error
    """Training was asked to stop; it left a checkpoint if it had begun.

    Exit code 128 + the signal, or 75 where its time was up.
    """

    def __init__(self, run: Path, step: int, exit_code: int) -> None:
        begun = (run / "config.toml").exists()  # whose first step may take long: it is compiled
        at = f"at step {step}" if step else "before the first step"
        super().__init__(f"stopped {at}; {go_on(run) if step or begun else 'nothing is written'}")
        self.exit_code = exit_code


def go_on(run: Path) -> str:
    """How to, for messages."""
    return f"go on with: ddcli train --resume -o {shlex.quote(str(run))}"


@dataclass
class Brake:
    """Whether a run is to stop: after a signal, or when its time is up."""

    at: float = math.inf  # by time.monotonic()
    received: list[int] = field(default_factory=list)  # signals

    @property
    def exit_code(self) -> int | None:
        """None while the run is to go on."""
        if self.received:
            return 128 + self.received[0]
        return OUT_OF_TIME if time.monotonic() >= self.at else None


@contextmanager
def stop_signals(say: Callable[[str], None], brake: Brake, at_once: bool = True) -> Iterator[None]:
    """The first of the `SIGNALS` pulls the brake; a second one acts at once, as it always does.

    Unless it is not to: a launcher hands on what its processes were sent already.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before.get(HANG_UP) is signal.SIG_IGN:  # as nohup would have it
        del before[HANG_UP]

    def receive(number: int, _frame: Any) -> None:
        brake.received.append(number)
        if len(brake.received) == 1:
            say("stopping after this step" + "; once more stops at once" * at_once)
        if at_once:
            signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def spared() -> Iterator[None]:
    """What is started in the block is spared the `SIGNALS`; this process hears them still.

    A terminal sends an interrupt to all that was started from it, compilers too. One that is killed as torch
    asks what it can do is taken for one that can do less, and the step is computed otherwise.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    done = threading.Event()
    ear = threading.Thread(target=done.wait, name="ear")  # started before they are blocked here
    ear.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        done.set()
        ear.join()
