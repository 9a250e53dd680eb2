"""What a machine, a run or a recipe is fit for: what is fine, what is slow and why, what is wrong."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Literal

import torch

from .checkpoint import best_checkpoint, checkpoints
from .config import check_data_of, find_recipe, load_config, recipe_names
from .device import can_compile, pick_device, pick_precision
from .errors import DdcliError, counted, nearest, unknown
from .files import meant, verified
from .hub import is_name
from .machine import GB, cores, memory, processor, versions
from .pace import peak_memory
from .plan import Silent, dry_run
from .runlog import RunLog, read_run
from .sampling import Writer
from .saved import load_writer
from .stopping import go_on
from .textmodel import TextModel
from .tokenizer import Tokenizer

Kind = Literal["fine", "slow", "wrong"]
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "safetensors")
COMPILER = 155e6  # bytes that torch's takes in a process, as measured


@dataclass(frozen=True)
class Finding:
    """Something about a machine, a run or a recipe."""

    about: str  # device, tokenizer, checkpoint, ...
    found: str
    kind: Kind = "fine"
    mend: str = ""  # what to do, where something can be done


def examine(
    subject: str | Path | None = None, data: str | None = None, *, allow_pickle: bool = False
) -> list[Finding]:
    """What can be told of this machine, and of a model or a recipe if one is given: a run folder, or the
    folder or hub name of a model that others trained.

    data: what a recipe is to train on, if not what it says. allow_pickle: as in `ddcli.load`.
    Raises DdcliError where the subject is neither. What is wrong with it is a finding, not an error.

    >>> [finding.found for finding in ddcli.examine("runs/x") if finding.kind == "wrong"]
    """
    found = list(_machine())
    if subject is None:
        return found
    if Path(subject).is_dir():
        return found + list(_run(Path(subject), allow_pickle))
    name = str(subject)
    if Path(subject).is_file() or name in recipe_names():
        return found + list(_recipe(name, data))
    if name.endswith(".toml"):
        raise DdcliError(f"no such recipe: {name}{meant(name)}")
    if "/" not in name and (nearest(name, recipe_names(), 0.75) or not is_name(name)):
        raise unknown("run or recipe", name, recipe_names())
    return found + list(_model(load_writer(name, allow_pickle=allow_pickle), name))


# -- the machine ------------------------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    yield Finding("versions", versions("ddcli", *PACKAGES))
    device = pick_device("auto")
    yield Finding("processor", f"{processor()}, {counted(cores(), 'core')}")
    threads = torch.get_num_threads()
    if threads < cores() and device.type == "cpu":
        yield Finding(
            "processor",
            f"torch computes on {threads} of {cores()} cores",
            "slow",
            "unset OMP_NUM_THREADS, or give --threads",
        )
    if device.type == "cuda":
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            yield Finding("device", f"cuda:{number}, {about.name}, {about.total_memory / GB:.0f} GB")
    else:
        apple = torch.backends.mps.is_available()
        yield Finding(
            "device", "cpu; " + ("--device mps takes its GPU" if apple else "no CUDA device is seen")
        )
    if pick_precision("auto", device, for_training=True) == torch.float32:
        yield Finding(
            "precision",
            "float32: this device has no fast bf16, so training takes two to five times as long",
            "slow",
        )
    else:
        yield Finding("precision", "bf16 in training; float32 for samples on a CPU")
    if can_compile():
        yield Finding("compiler", "found: training compiles the network at its first step")
    else:
        yield Finding(
            "compiler", "no C++ compiler: training is not compiled", "slow", "install g++, or set CXX"
        )
    total, free = memory()
    yield Finding("memory", f"{total / GB:.1f} GB" + (f", {free / GB:.1f} GB free" if free else ""))
    yield Finding("disk", f"{shutil.disk_usage('.').free / GB:.0f} GB free here")


# -- a run ------------------------------------------------------------------------------------------------


def _run(run: Path, allow_pickle: bool) -> Iterator[Finding]:
    yield from _checkpoints(run)
    try:
        model = load_writer(run, allow_pickle=allow_pickle)
    except DdcliError as error:
        yield Finding("model", str(error), "wrong")
        return
    yield from _model(model, str(run))
    if isinstance(model, TextModel) and not model.origin:  # then others trained it
        yield from _progress(run)


def _model(model: Writer, name: str) -> Iterator[Finding]:
    if not isinstance(model, TextModel):
        yield Finding("model", "writes with `ddcli sample`, and does nothing else")
        return
    process = type(model.process).__name__.lower()
    yield Finding("model", f"{model.parameters:,} parameters, {process} noise, {model.length} tokens at once")
    yield from _tokenizer(model.tokenizer)
    yield Finding("sampling", f"{model.settings.sampler}, {model.settings.steps} steps, if nobody says")
    if not model.budgets and not model.origin:
        command = f'`ddcli eval {quote(name)} --sweep "steps=8,16,32,64" --save`'
        mend = f"{command} finds the fewest steps that are as good"
        yield Finding("sampling", "no budgets are measured", mend=mend)


def _speed(log: RunLog) -> Iterator[Finding]:
    """How fast it was trained, and what kept it from being faster that this machine need not suffer."""
    if rates := [rate for _, rate in log.over_steps("tokens_per_second")]:
        yield Finding("speed", f"trained at {median(rates):,.0f} tokens a second")
    train, device = log.config.train, pick_device("auto")
    fast = pick_precision("auto", device, for_training=True) == torch.bfloat16
    on_cpu = device.type == "cpu" and train.device in ("auto", "cpu")
    slow = {
        f"trained on {train.threads} of {cores()} cores": (
            on_cpu and train.threads is not None and train.threads < cores(),
            f"give --threads {cores()}",
        ),
        "trained in float32, where this machine is fast at bf16": (
            fast and train.precision == "float32",
            "leave train.precision out of the next training",
        ),
        "trained without compiling the network": (
            train.compile is False and can_compile() and log.config.model.start is None,
            "leave train.compile out of the next training",
        ),
        f"each batch is read in {train.accumulate} parts": (
            train.accumulate > 1,
            "--set train.accumulate=1 where memory suffices",
        ),
        "layers are computed twice, which saves memory": (
            train.recompute,
            "--set train.recompute=false where memory suffices",
        ),
    }
    for found, (is_so, mend) in slow.items():
        if is_so:
            yield Finding("speed", found, "slow", mend)


def _checkpoints(run: Path) -> Iterator[Finding]:
    found = checkpoints(run)
    damaged = [folder for _, folder in found if not verified(folder)]
    whole = [folder for _, folder in found if folder not in damaged]
    for folder in damaged:
        yield Finding(
            "checkpoint",
            f"{folder} is damaged",
            "wrong",
            "--resume passes over it; remove it" if whole else "train again, with another -o",
        )
    if whole:
        best = best_checkpoint(whole)
        told = f", the best is {best.name}" if best and best != whole[-1] else ""
        yield Finding("checkpoint", f"{counted(len(whole), 'checkpoint')} whole, to {whole[-1].name}{told}")


def _progress(run: Path) -> Iterator[Finding]:
    """How its training went, by its own account."""
    try:
        log = read_run(run)
        skipped = sum(int(line.get("skipped_steps", 0)) for line in log.lines)
    except (DdcliError, ValueError, TypeError) as error:
        yield Finding("training", f"what it says of its training cannot be read: {error}", "wrong")
        return
    done, steps = max((step for step, _ in checkpoints(run)), default=0), log.config.train.steps
    if done < steps:
        yield Finding("training", f"stopped at step {done:,} of {steps:,}", mend=go_on(run))
    else:
        yield Finding("training", f"finished at step {done:,}")
    if skipped:
        yield Finding("training", f"{counted(skipped, 'step')} came to no number", "wrong", "lower train.lr")
    yield from _speed(log)


def _tokenizer(tokenizer: Tokenizer) -> Iterator[Finding]:
    """What stands for a mask, padding and the ends of a text, and what of a text is lost."""
    ids = {"mask": tokenizer.mask_id, "pad": tokenizer.pad_id}
    ids |= {"end": tokenizer.eos_id, "start": tokenizer.bos_id}
    told = ", ".join(f"{name} {id}" for name, id in ids.items())
    yield Finding("tokenizer", f"{tokenizer.vocab_size:,} tokens by {tokenizer.unit}; {told}")
    roles: dict[int, list[str]] = {}
    for name, id in ids.items():
        roles.setdefault(id, []).append(name)
    for id, names in roles.items():
        if len(names) > 1:
            padded = "; padding is never learnt from" * ("pad" in names)
            kind: Kind = "wrong" if "mask" in names and names != ["mask", "pad"] else "fine"
            yield Finding("tokenizer", f"{' and '.join(names)} are one token, {id}{padded}", kind)
    if not tokenizer.is_exact:
        yield Finding("tokenizer", "it forgets some of what is written, such as case or blanks")


# -- a recipe ---------------------------------------------------------------------------------------------


def _recipe(name: str, data: str | None) -> Iterator[Finding]:
    path = find_recipe(name)
    try:
        config = load_config(path, flags={"data.source": data})
        if data is None:
            check_data_of(name, config.data.source)
        plan = dry_run(config, Silent())
    except DdcliError as error:
        mend = "" if data or "--data" in str(error) else "--data names other data"
        yield Finding("recipe", f"{path}: {error}", "wrong", mend)
        return
    train = plan.config.train
    length = f"{train.minutes:g} minutes" if train.minutes else counted(train.steps, "step")
    yield Finding(
        "recipe", f"{path}: {plan.parameters:,} parameters, {length} of {train.batch_size} sequences"
    )
    yield Finding("data", plan.data.description)
    yield from _tokenizer(plan.data.tokenizer)
    free = torch.cuda.mem_get_info(plan.device)[0] if plan.device.type == "cuda" else memory()[1]
    # on a CPU this process, with what it has imported and read, is beside it, and torch's compiler will be
    beside = (peak_memory(plan.device) or 0) + COMPILER * (plan.compiles and can_compile())
    takes = plan.memory + (0 if plan.device.type == "cuda" else beside)
    needs = f"about {takes / GB:.1f} GB of memory to train"
    if free and plan.memory > free:  # this process has what it holds already
        mend = "lower --length, take a smaller --size, or raise train.accumulate"
        yield Finding("memory", f"{needs}, more than the {free / GB:.1f} GB that are free", "wrong", mend)
    else:
        yield Finding("memory", needs)
