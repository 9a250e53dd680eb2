"""The run folder: written whole or not at all, verified when read, and never a pickle in it.

runs/x/
  config.json  model.safetensors  tokenizer files  generation_config.json   a Hugging Face model (`saved`)
  config.toml  run.json  metrics.jsonl  samples/  README.md  report.html    what was run, and how it went
  frontier.json                                                             the sweep that was saved last
  checkpoints/step-00000500/  weights, ema and optimizer as safetensors, state.json, manifest.json
"""

import errno
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from filelock import FileLock, Timeout
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from .about import Excerpt, meaning_of_noise, schedule_of
from .config import Config, Section, config_of
from .errors import DdcliError, RunFailed
from .files import (
    PARTIAL,
    clear_partial,
    links_out,
    read_json,
    read_small,
    verified,
    whole_folder,
)
from .schedule import CLIPS
from .stopping import go_on
from .tensors import read_tensors
from .weights import weights_of

STEP = re.compile(r"step-(\d{1,12})$", re.ASCII)
STATE = "state.json"  # of a checkpoint
LOCK = ".lock"  # held by the process that trains in a run folder


# -- checkpoints ------------------------------------------------------------------------------------------


def save_checkpoint(
    run: Path,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
) -> None:
    """Write checkpoints/step-N, a safetensors file for each group, then drop all but the newest `keep`.

    The one with the lowest bound is kept as well: `state["bound"]`, nats per token, None where there is none.
    """
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    with whole_folder(folder / f"step-{step:08}") as beside:
        for name, group in groups.items():
            save_file(dict(group), beside / f"{name}.safetensors")
        (beside / STATE).write_text(json.dumps(dict(state), indent=1))
    known = [path for at, path in checkpoints(run) if at <= step]
    kept = {*known[-keep:], best_checkpoint(known)}
    for _, path in checkpoints(run):
        if path not in kept:  # old, or of a later step: damaged, and passed over when the run went on
            shutil.rmtree(path)


def best_checkpoint(folders: Sequence[Path]) -> Path | None:
    """Of some checkpoints, oldest first, the newest with the lowest bound; None where none was measured."""
    bounds = {}
    for folder in folders:
        with suppress(
            OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError
        ):  # not measured, or damaged
            bound = json.loads(read_small(folder / STATE))["bound"]
            if math.isfinite(bound):
                bounds[folder] = bound
    return min(reversed(bounds), key=bounds.__getitem__, default=None)


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, oldest first."""
    found = [(STEP.match(path.name), path) for path in (run / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def intact_checkpoint(run: Path, log: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies, or None where there is none."""
    for step, folder in reversed(checkpoints(run)):
        if verified(folder) and read_json(folder / STATE).get("step", step) == step:
            return folder
        log(f"checkpoint {step} is damaged and is passed over")
    return None


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by group, and state."""
    groups = {file.stem: read_tensors(file) for file in sorted(folder.glob("*.safetensors"))}
    return groups, read_json(folder / STATE)


class _Bound(Section):
    """A `Bound`, as state.json has it."""

    nats_per_token: float
    bits_per_char: float
    literature_nats_per_token: float
    stderr: float
    clusters: int
    tokens: int
    bits_per_byte: float = math.nan

    model_config = ConfigDict(strict=True, allow_inf_nan=True)


class _Window(Section):
    """What happened since the last line of metrics."""

    losses: list[float]
    norms: list[float]
    tokens: int
    seconds: float
    skipped: int = 0

    model_config = ConfigDict(strict=True)


class _State(Excerpt):
    """What state.json has to say for a run to go on."""

    model_config = ConfigDict(strict=True, allow_inf_nan=True)  # as what was never measured is

    step: int = Field(ge=0)
    fingerprint: str
    tokens: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    seconds: float = Field(ge=0, lt=2**53)
    window: _Window
    bounds: list[_Bound]
    recent: list[float]
    lost: list[int]
    place: list[list[int]]
    gradients: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        min_length=len(CLIPS), max_length=len(CLIPS)
    )
    clip: int | None = Field(ge=0, lt=len(CLIPS))


def check_checkpoint(
    groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], network: nn.Module, run: Path
) -> None:
    """DdcliError where a checkpoint, though it is as it was written, cannot be one of this network."""
    try:
        _State.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DdcliError(f"a checkpoint of {run} is damaged: {key}: {first['msg'].lower()}") from None
    wanted = {name: weight.shape for name, weight in weights_of(network).items()}
    for name in ("weights", "ema"):
        if {key: weight.shape for key, weight in groups.get(name, {}).items()} != wanted:
            raise DdcliError(f"a checkpoint of {run} is damaged: its {name} are not those of this network")
    for name, group in groups.items():
        if not all(weight.is_floating_point() and bool(weight.isfinite().all()) for weight in group.values()):
            raise DdcliError(f"a checkpoint of {run} is damaged: its {name} are not all numbers")
    moments = groups.get("optimizer", {})
    known = {name: {weight.shape, torch.Size()} for name, weight in network.named_parameters()}
    if any(value.shape not in known.get(key.rpartition("/")[0], ()) for key, value in moments.items()):
        raise DdcliError(f"a checkpoint of {run} is damaged: its optimizer is not that of this network")


# -- the folder itself ------------------------------------------------------------------------------------


def find_run(run: Path, *, resume: bool) -> Config | None:
    """The config of the run that the folder holds; None where there is no folder yet, or an empty one.

    Raises DdcliError if it holds something else, or a run that was not to be resumed. Writes nothing.
    """
    if (run / "config.toml").is_file():
        if not resume:
            raise DdcliError(f"{run} already holds a run; go on with --resume, or choose another -o")
        refuse_links(run)
        return config_of(run)
    if files := [place for place in (run, *run.parents) if place.exists() and not place.is_dir()]:
        raise DdcliError(f"{files[0]} is a file; -o takes a folder")
    begun = {run / LOCK, *run.glob(f".config.toml.*{PARTIAL}")}  # of one that was killed as it began
    if run.is_dir() and not begun.issuperset(run.iterdir()):
        raise DdcliError(f"{run} is not empty and holds no run; choose another -o")
    return None


def refuse_older_noise(run: Path, config: Config) -> None:
    """DdcliError for a run to go on with whose config names noise in another meaning than that of today."""
    path, noise = run / "config.json", config.process
    meaning = meaning_of_noise(read_json(path), path)
    if (today := schedule_of(noise.name, noise.schedule, meaning)) != noise.schedule:
        raise DdcliError(
            f"{run} was begun by an older version, whose schedule {noise.schedule} of {noise.name} noise is "
            f"{today} now, and cannot go on; start another from it: --from {run}"
        )


def refuse_links(run: Path) -> None:
    """DdcliError where writing into a run folder would change something elsewhere."""
    if link := links_out(run):
        raise DdcliError(
            f"{link} is a link to {link.resolve()}, outside of the run that is to be written; put the thing "
            "itself there, or link the whole folder"
        )


@contextmanager
def held(run: Path) -> Iterator[None]:
    """The run folder, made if it is not there, for this process alone; what was left half written is cleared.

    The lock is the operating system's: it ends with the process, however that ends. Raises DdcliError where
    another process trains there.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DdcliError(f"another process is training in {run}; wait for it, or choose another -o") from None
    try:
        for folder in (run, run / "checkpoints", run / "samples"):
            clear_partial(folder)
        yield
    finally:
        with suppress(OSError):  # of a folder that is gone, or cannot be written
            (run / LOCK).unlink(missing_ok=True)  # while it is held, so that nobody else's is taken away
            run.rmdir()  # where nothing was written
        lock.release()


def failed_write(run: Path, error: OSError | SafetensorError) -> RunFailed:
    """For a full disk, a folder that may not be written, or one that was taken away meanwhile."""
    reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
    if not run.is_dir() and getattr(error, "errno", errno.ENOENT) == errno.ENOENT:
        reason = "there is no such folder any more"
    told = remains(run)
    return RunFailed(f"{run} cannot be written: {reason}; {told}" + f"; {go_on(run)}" * run.is_dir())


def remains(run: Path) -> str:
    """What is left of a run that broke down, for messages."""
    good = checkpoints(run)
    return f"the checkpoint of step {good[-1][0]:,} is untouched" if good else "there is no checkpoint of it"
