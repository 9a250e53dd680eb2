"""Metrics of a run told to a tracker too, by its name, through accelerate; metrics.jsonl is there anyway."""

import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import flatten, read_toml
from .errors import DdcliError, first_line, needed, unknown
from .files import write_text
from .plan import Silent
from .runlog import is_number

PROJECT = "ddcli"
ID = "tracked.id"  # by which a tracker knows a run again that goes on


def _in_the_run(run: Path, first: int) -> dict[str, Any]:
    """What was told of steps that are taken again is left out of what is shown."""
    return {"run_name": "tensorboard", "logging_dir": run, "purge_step": first + 1}


def _elsewhere(run: Path, first: int) -> dict[str, Any]:
    if not first or not (run / ID).is_file():
        write_text(run / ID, uuid.uuid4().hex[:8] + "\n")
    id = (run / ID).read_text().strip()
    return {"run_name": PROJECT, "name": f"{run.absolute().name}-{id}", "resume": "allow"}


def _by_id(run: Path, first: int) -> dict[str, Any]:
    found = _elsewhere(run, first)
    return {**found, "id": found["name"].rpartition("-")[2]}


@dataclass(frozen=True)
class Kind:
    """A tracker that accelerate knows by the same name."""

    arguments: Callable[
        [Path, int], dict[str, Any]
    ]  # of its class, for a run that goes on behind a step, or 0
    finish: Callable[[Any], object] = lambda tracker: tracker.finish()


TRACKERS: dict[str, Kind] = {
    "tensorboard": Kind(_in_the_run),
    # accelerate's own leaves the run open, which trackio then ends again, and says so
    "trackio": Kind(_elsewhere, lambda _: needed("trackio", "--track trackio", "trackio").finish()),
    "wandb": Kind(_by_id),
}


def find_tracker(name: str) -> Kind:
    """Raises DdcliError for a name that is not known, and where a package is missing."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    for package in ("accelerate", name):
        needed(package, f"--track {name}", name)
    return TRACKERS[name]


class Tracked(Silent):
    """A reporter, and a tracker that is told the metrics as well."""

    def __init__(self, reporter: Silent, name: str, run: Path) -> None:
        """Raises DdcliError as `find_tracker` does."""
        self.reporter, self.name, self.run, self.kind = reporter, name, run, find_tracker(name)
        self.tracker: Any = None

    def begin(self, step: int, steps: int) -> None:
        """Raises DdcliError where the tracker cannot be started."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        settings = flatten(read_toml(self.run / "config.toml"))
        try:
            PartialState()  # without which its log says nothing but that it is missing
            with redirect_stdout(sys.stderr):  # some speak where answers belong
                tracker = LOGGER_TYPE_TO_CLASS[self.name](**self.kind.arguments(self.run, step))
                tracker.main_process_only = (
                    False  # which this one is, whatever accelerate makes of the others
                )
                tracker.start()
                if not step:
                    tracker.store_init_configuration(settings)
        except Exception as error:  # whatever a service and its client make of their troubles
            raise DdcliError(f"--track {self.name}: it cannot be started: {first_line(error)}") from None
        self.tracker = tracker
        self.reporter.begin(step, steps)

    def metrics(self, line: Mapping[str, Any]) -> None:
        self.reporter.metrics(line)
        numbers = {key: value for key, value in line.items() if key != "step" and is_number(value)}
        self._tell(lambda tracker: tracker.log(numbers, step=line["step"]))

    def end(self) -> None:
        self.reporter.end()
        self._tell(self.kind.finish)

    def _tell(self, what: Callable[[Any], object]) -> None:
        """Whatever becomes of a tracker, the training goes on."""
        if self.tracker:
            try:
                with redirect_stdout(sys.stderr):
                    what(self.tracker)
            except Exception as error:
                self.tracker = None
                self.reporter.say(f"--track {self.name}: it is told no more: {first_line(error)}")

    def say(self, line: str) -> None:
        self.reporter.say(line)

    def past(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self.reporter.past(lines)

    def plan(self, steps: int) -> None:
        self.reporter.plan(steps)

    def progress(self, step: int) -> None:
        self.reporter.progress(step)

    def samples(self, step: int, texts: list[str]) -> None:
        self.reporter.samples(step, texts)
