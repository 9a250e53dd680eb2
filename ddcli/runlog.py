"""What a run wrote of itself while it was trained: settings, figures over steps, samples, a sweep."""

import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import Config, config_of
from .errors import DdcliError
from .files import meant, read_json, read_small

ABOUT = "run.json"  # what is trained, and where
FRONTIER = "frontier.json"  # the points of the sweep that was saved last
METRICS = "metrics.jsonl"
SAMPLES = "samples"  # its folder of those
BETWEEN = "\n---\n"  # samples of a step
START = 4096  # bytes of one that are read for a card
SAMPLE = re.compile(r"step-(\d{8,12})\.txt", re.ASCII)
FIGURES = (
    "seconds", "loss", "gradient_norm", "tokens_per_second", "bound_nats_per_token", "bound_stderr",
    "bound_bits_per_char", "bound_perplexity", "literature_nats_per_token",
)  # fmt: skip
MOST_SAMPLES = 2**20  # bytes of a file of samples


@dataclass(frozen=True)
class RunLog:
    """A run folder, as far as people read it. Figures are those that are finite numbers."""

    folder: Path
    config: Config
    about: dict[str, Any]  # run.json; {} of a run that has none
    lines: list[dict[str, Any]]  # of metrics.jsonl, by step
    samples: dict[int, str]  # by step
    frontier: list[dict[str, Any]]  # `Point.record`s
    budgets: dict[str, dict[str, Any]]  # the same, of those that were chosen, by name

    @property
    def step(self) -> int:
        """How far its figures go."""
        return max((line["step"] for line in self.lines), default=0)

    @property
    def seconds(self) -> float | None:
        """Of training, by its last figures."""
        return self.last("seconds")

    def summary(self) -> dict[str, Any]:
        """How far it is, and the last of each figure; None of one that is not known."""
        return {
            "step": self.step,
            "steps": self.config.train.steps,
            **{key: self.last(key) for key in FIGURES},
        }

    def over_steps(self, key: str) -> list[tuple[int, float]]:
        """A figure, at each step where it is known."""
        return [(line["step"], float(line[key])) for line in self.lines if is_number(line.get(key))]

    def last(self, key: str) -> float | None:
        """The last of a figure."""
        found = self.over_steps(key)
        return found[-1][1] if found else None

    def by_time(self) -> list[tuple[int, list[float | None]]]:
        """What the bound is made of over time: step, and nats per token and unit of time in equal ranges."""
        found = []
        for line in self.lines:
            shares = line.get("bound_by_time")
            if isinstance(shares, list) and shares:
                found.append((line["step"], [float(n) if is_number(n) else None for n in shares]))
        return found


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_run(folder: str | Path) -> RunLog:
    """The log of a run folder. Raises DdcliError where it is none, or a file of it is damaged."""
    folder = Path(folder)
    if not (folder / "config.toml").exists():
        why = "config.toml is missing" if folder.is_dir() else "there is no such folder"
        raise DdcliError(f"{folder} is no run folder: {why}{meant(str(folder), 'config.toml')}")
    budgets = _json(folder / "generation_config.json", dict).get("budgets", {})
    return RunLog(
        folder,
        config_of(folder),
        _json(folder / ABOUT, dict),
        metrics_of(folder),
        _samples(folder / SAMPLES),
        [point for point in _json(folder / FRONTIER, list) if isinstance(point, dict)],
        {name: point for name, point in budgets.items() if isinstance(point, dict)},
    )


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last one without an end, which a killed process leaves, is left out.

    Raises DdcliError where it cannot be read, or a line is no JSON object with a step.
    """
    path = folder / METRICS
    try:
        *whole, _ = read_small(path).decode().split("\n")
        lines = [json.loads(line) for line in whole]
        if not all(isinstance(line, dict) and type(line["step"]) is int for line in lines):
            raise ValueError
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DdcliError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, RecursionError):
        raise DdcliError(f"{path} is damaged: not each line is JSON with a step; move it away") from None
    return lines


def _json(path: Path, kind: type) -> Any:
    """The content of a file, an empty one of its kind where there is no file."""
    return read_json(path, kind) if path.exists() else kind()


def newest_sample(folder: Path, step: int) -> str:
    """The last text that a run wrote up to a step, or the start of it; "" where there is none to be read."""
    paths = (folder / SAMPLES).glob("step-*.txt")
    told = {int(name[1]): path for path in paths if (name := SAMPLE.fullmatch(path.name)) and path.is_file()}
    for at in sorted(told, reverse=True):
        if at <= step:
            with suppress(OSError), told[at].open("rb") as file:
                return file.read(START).decode(errors="replace").partition(BETWEEN)[0].strip("\n")
    return ""


def _samples(folder: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for path in sorted(folder.glob("step-*.txt")):
        if step := SAMPLE.fullmatch(path.name):
            try:
                found[int(step[1])] = read_small(path, MOST_SAMPLES).decode(errors="replace")
            except OSError as error:
                raise DdcliError(f"{path} cannot be read: {error.strerror}") from None
    return dict(sorted(found.items()))
