"""`ddcli train`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from ..errors import DdcliError, counted
from ..files import meant
from .answers import answer, console, tell
from .completion import names_in, one_of
from .options import DEVICES, PRECISIONS, Quiet

if TYPE_CHECKING:
    from ..config import Config

# flags and the settings they stand for
SETTINGS = "config.toml"  # by which a folder is one of a run
TRAIN_FLAGS = {
    "from_": "model.start",
    "lora": "model.lora",
    "data": "data.source",
    "tokenizer": "data.tokenizer",
    "text_column": "data.text_column",
    "label_column": "data.label_column",
    "bad_rows": "data.bad_rows",
    "split": "data.split",
    "streaming": "data.streaming",
    "lines": "data.lines",
    "valid_data": "data.valid",
    "valid_fraction": "data.valid_fraction",
    "length": "data.length",
    "process": "process.name",
    "schedule": "process.schedule",
    "objective": "objective.name",
    "timesteps": "objective.timesteps",
    "size": "model.size",
    "block": "model.block",
    "batch_size": "train.batch_size",
    "steps": "train.steps",
    "minutes": "train.minutes",
    "seed": "train.seed",
    "device": "train.device",
    "precision": "train.precision",
    "threads": "train.threads",
    "keep_last": "checkpoint.keep",
    "track": "metrics.track",
}


def train(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A TOML file, or the name of a shipped recipe.",
            autocompletion=names_in("config", "recipe_names"),
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run folder to make.")] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME_OR_FOLDER",
            help="Start from a masked language model or a decoder (hub name or folder), or from a run.",
        ),
    ] = None,
    lora: Annotated[
        str | None,
        typer.Option(
            metavar="r=16",
            help="Train adapters beside the model alone: r=16, and behind commas alpha=32, dropout=0.05 or "
            "targets=q_proj+v_proj.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Text file, folder, glob, .jsonl, .csv, .parquet, dataset name, or python-stdlib."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="char, byte, bpe:N, or a Hugging Face one.")] = None,
    process: Annotated[
        str | None,
        typer.Option(
            help="absorbing, uniform, hybrid[:P], stationary[:FILE|unigram], band[:PLACES], "
            "gaussian[:WIDTH], generator:FILE, steps:FILE, or autoregressive, the baseline.",
            autocompletion=names_in("process", "PROCESSES"),
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="linear, cosine, polynomial[:POWER], geometric[:SIGMA], gidd[:P] or, of band, gaussian and "
            "generator, information. Auto is information for these, linear for all other noise.",
            autocompletion=names_in("schedule", "SCHEDULES"),
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="auto, elbo, discrete-elbo, d3pm-hybrid[:WEIGHT], score-entropy or cross-entropy. Auto is "
            "elbo for masks, cross-entropy where tokens turn into others.",
            autocompletion=names_in("objective", "OBJECTIVES", "auto"),
        ),
    ] = None,
    timesteps: Annotated[
        int | None, typer.Option(help="T of discrete-elbo and d3pm-hybrid, and of cross-entropy in steps.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="tiny, mini (the default), small or base.", autocompletion=names_in("config", "SIZES")
        ),
    ] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a sequence.")] = None,
    block: Annotated[
        int | None, typer.Option(help="Block diffusion: write blocks of so many tokens, from left to right.")
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Sequences per update, in all. However many, memory decides how many at once.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for about so long: decides --steps.")] = None,
    stop_after: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after so many minutes, with a checkpoint; go on with --resume."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order and noise.")] = None,
    valid_data: Annotated[str | None, typer.Option(help="Data to validate on.")] = None,
    valid_fraction: Annotated[
        float | None, typer.Option(help="Share of the data held out, from its end; 0.05 by default.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of .jsonl, .csv, .parquet.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of what each record is, to write more like it by --label.")
    ] = None,
    bad_rows: Annotated[
        str | None,
        typer.Option(
            help="refuse or skip rows that are no text: not UTF-8, no JSON, a number.",
            autocompletion=one_of("refuse", "skip"),
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a dataset.")] = None,
    streaming: Annotated[
        bool | None,
        typer.Option("--streaming", help="Read a dataset, or files by folder or glob, as they come."),
    ] = None,
    lines: Annotated[bool | None, typer.Option("--lines", help="One record per line: names, SMILES.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps.", autocompletion=DEVICES)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bf16.", autocompletion=PRECISIONS)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    keep_last: Annotated[
        int | None, typer.Option(help="Checkpoints to keep, beside the best; 2 by default.")
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            help="Tell metrics to tensorboard, trackio or wandb as well.",
            autocompletion=names_in("tracking", "TRACKERS"),
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Any other setting, of those that --dry-run prints, such as train.lr=1e-3.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON object: how it ended or, of --dry-run, what would be done."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model into a run folder.

    ddcli train --data novel.txt --minutes 15 -o runs/novel

    ddcli train --from answerdotai/ModernBERT-base --data novel.txt --steps 2000 -o runs/tuned
    """
    from ..checkpoint import find_run
    from ..config import build_config, check_data_of, read_settings, read_toml
    from ..runlog import read_run
    from ..training import train as train_run
    from ..world import World

    flags = {key: context.params[flag] for flag, key in TRAIN_FLAGS.items()}
    flags["train.batch_size"] = _batch_size(batch_size)
    base, overrides, where = read_settings(recipe, set_ or (), flags)
    if output is None and not dry_run:
        raise DdcliError("where to? give the run folder with -o")
    goes_on = resume and output is not None and (output / SETTINGS).is_file()
    if goes_on:
        base.pop("train.minutes", None)  # has become a number of steps
        base = {**read_toml(cast(Path, output) / SETTINGS), **base}
    config = build_config(base, overrides, where)
    if recipe is None and "data.source" not in overrides and not goes_on:
        if resume:
            raise DdcliError(f"{output} holds no run to go on with{meant(str(output), SETTINGS)}")
        raise DdcliError("train on what? give --data, or a recipe (`ddcli recipes` lists them)")
    if "data.source" not in overrides and not goes_on:
        check_data_of(recipe, config.data.source)
    reporter = _reporter(quiet)
    if dry_run:
        if output is not None:
            find_run(output, resume=resume)
        if World.here().leads:  # one of several processes says it for all
            answer("\n".join(_planned(config, reporter, as_json)))
        return
    assert output is not None
    train_run(config, output, resume=resume, stop_after=stop_after, reporter=reporter)
    if not World.here().leads:
        return
    if as_json:
        answer(json.dumps({"run": str(output), **read_run(output).summary()}, ensure_ascii=False))
    if not quiet:
        command = f"ddcli sample {quote(str(output))}"
        tell(f"{output} is trained, and {output}/report.html tells of it; try: {command}")


def _planned(config: "Config", reporter: Any, as_json: bool) -> Iterator[str]:
    """What a training would do, and need; a recipe to copy, with the figures as comments, or JSON."""
    from ..plan import dry_run
    from ..tracking import find_tracker
    from ..training import estimate

    if config.metrics.track:
        find_tracker(config.metrics.track)
    plan = dry_run(config, reporter)
    train = plan.config.train
    needs = estimate(plan, reporter)
    known = {"parameters": plan.parameters, "trained_parameters": plan.trained, "data": plan.data.description}
    known |= {"steps": needs.steps, "seconds": needs.seconds, "memory_bytes": needs.memory}
    if as_json:
        yield json.dumps({"settings": plan.config.told(), **known}, ensure_ascii=False)
        return
    yield plan.config.to_toml()
    few = f", of which {plan.trained:,} are trained" * (plan.trained < plan.parameters)
    yield f"# {plan.parameters:,} parameters{few}, {plan.data.description}"
    tokens = needs.steps * train.batch_size * plan.data.length
    fits = "about " if train.minutes else ""
    yield f"# {fits}{counted(needs.steps, 'step')}, which read {tokens:,} tokens"
    told = f"{needs.seconds / 60:.1f} minutes"
    if needs.memory is not None:
        told += f" and {needs.memory / 1e9:.1f} GB of memory"
    yield f"# about {told}, by a few steps that were tried"


def _batch_size(text: str | None) -> int | None:
    if text in (None, "auto"):
        return None
    if not text.isdecimal() or not int(text):
        raise DdcliError(f"--batch-size takes a whole number of sequences, or auto, not {text!r}")
    return int(text)


def _reporter(quiet: bool) -> Any:
    from ..display import Patient, PlainLines, TrainingDisplay
    from ..plan import Silent

    if quiet:
        return Silent()
    screen = console(cast(TextIO, Patient(sys.stderr)) if sys.stderr else None)
    return TrainingDisplay(screen) if screen.is_terminal else PlainLines(screen)
