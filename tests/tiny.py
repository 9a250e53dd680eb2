"""Runs small enough to train within a test, and short ways to make, damage and read them."""

import io
import json
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch import Tensor

from ddcli import cli
from ddcli.checkpoint import checkpoints
from ddcli.config import Config, load_config
from ddcli.denoiser import NetworkDenoiser
from ddcli.plan import Silent
from ddcli.stopping import Stopped
from ddcli.training import Needs, train

LENGTH = 32
TIMED = ("seconds", "tokens_per_second")  # what no two runs have in common
SETTINGS: dict[str, Any] = {
    "data.tokenizer": "char",
    "data.length": LENGTH,
    "model.size": "tiny",
    "model.width": 32,
    "model.layers": 2,
    "model.heads": 2,
    "train.steps": 20,
    "train.precision": "float32",
    "train.compile": False,
    "train.threads": 1,
    "validation.every": 10,
    "validation.sequences": 4,
    "validation.draws": 2,
    "validation.final_draws": 2,
    "checkpoint.every": 10,
    "samples.every": 0,
    "samples.steps": 8,
    "metrics.every": 5,
}
OURS = ("data.tokenizer", "model.size", "model.width", "model.layers", "model.heads")
BORROWED = {key: value for key, value in SETTINGS.items() if key not in OURS}
BORROWED |= {
    "train.ema": 0.5,
    "train.steps": 12,
    "checkpoint.every": 6,
    "validation.every": 6,
    "train.batch_size": 4,
}
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "my", "dog", "run", "far"]


def words(lines: int, seed: int = 0) -> str:
    """Lines of eight random words."""
    rng = random.Random(seed)
    return "".join(" ".join(rng.choices(WORDS, k=8)) + "\n" for _ in range(lines))


def names(count: int, seed: int = 0) -> str:
    """One name a line, 3 to 12 letters."""
    rng = random.Random(seed)
    return "".join("".join(rng.choices("abcdefgh", k=rng.randint(3, 12))) + "\n" for _ in range(count))


def tiny_config(source: str | Path, **changes: Any) -> Config:
    """`train__lr=1` stands for train.lr = 1."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(None, flags={**SETTINGS, "data.source": str(source), **changed})


def assignments(settings: dict[str, Any]) -> list[str]:
    """Settings as the command line takes them."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def start_config(start: str | Path, source: str | Path, **changes: Any) -> Config:
    """For a run that starts from a model."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(
        None, flags={**BORROWED, "model.start": str(start), "data.source": str(source), **changed}
    )


class Heard(Silent):
    """A reporter that remembers what it was told, and can answer by pulling the brake."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, step: int) -> None:
        self.steps.append(step)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def train_tiny(run: Path, source: str | Path, *, resume: bool = False, **changes: Any) -> Heard:
    heard = Heard()
    train(tiny_config(source, **changes), run, resume=resume, reporter=heard)
    return heard


class StopAt(Heard):
    """Sends this process a signal, or two, after a step."""

    def __init__(self, step: int, *signals: int) -> None:
        super().__init__()
        self.at, self.signals = step, signals or (signal.SIGINT,)

    def progress(self, step: int) -> None:
        if step == self.at:
            for number in self.signals:
                signal.raise_signal(number)  # to this very thread: two at once would become one


@contextmanager
def untried() -> Iterator[None]:
    """Dry runs that take no steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddcli.training.estimate", lambda plan, reporter: Needs(7, 60.0, 1e9))
        yield


def stop_at(step: int, run: Path, config: Config, *signals: int, resume: bool = False) -> Stopped:
    """Train until a signal after a step."""
    with pytest.raises(Stopped) as stopped:
        train(config, run, resume=resume, reporter=StopAt(step, *signals))
    return stopped.value


class Outcome(NamedTuple):
    """What became of a command."""

    code: int
    out: bytes
    err: str


class Stream(io.TextIOWrapper):
    """A standard stream that remembers, and may say that it is a terminal."""

    def __init__(self, content: bytes = b"", terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", errors="surrogateescape", newline="")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def written(self) -> bytes:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


def command(*arguments: object, stdin: bytes = b"", terminal: bool = False) -> Outcome:
    """Run a command in this process."""
    streams = sys.stdin, sys.stdout, sys.stderr
    out, err = Stream(terminal=terminal), Stream()
    sys.stdin, sys.stdout, sys.stderr = Stream(stdin), out, err
    try:
        code = cli.main([str(argument) for argument in arguments])
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
    return Outcome(code, out.written(), err.written().decode())


def timeless(run: Path) -> list[dict[str, Any]]:
    """What a run wrote of itself, but for the time it took."""
    return [{k: v for k, v in line.items() if k not in TIMED} for line in metrics(run)]


def copy_of(run: Path, folder: Path) -> Path:
    """A run of one's own, to damage."""
    return Path(shutil.copytree(run, folder / run.name))


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file, `section__key` inside a section; Ellipsis takes a key away."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        target = content
        for section in sections:
            target = target[section]
        if value is ...:
            del target[key]
        else:
            target[key] = value
    path.write_text(json.dumps(content))


def logits_at(plain: NetworkDenoiser, xt: Tensor, t: Tensor, rows: Tensor, **told: Tensor) -> Tensor:
    """What a head puts out, (N, V), at the N positions of `rows` (B, L)."""
    return plain.answer(plain.hidden(xt, t, rows.flatten().nonzero()[:, 0], **told))


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, to compare before and after."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_run(run: Path, other: Path) -> None:
    """To the last bit, but for the time it took."""
    assert timeless(run) == timeless(other)
    (_, mine), (_, theirs) = checkpoints(run)[-1], checkpoints(other)[-1]
    assert mine.name == theirs.name
    for name in ("weights", "ema", "optimizer"):
        assert (mine / f"{name}.safetensors").read_bytes() == (theirs / f"{name}.safetensors").read_bytes()
    for name in ("model.safetensors", "config.json", "config.toml", "tokenizer.json", "README.md"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
