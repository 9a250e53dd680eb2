"""What a run needs, made and checked before anything is written: data, noise, objective, network.

Legend: B sequences of a step, L length.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .backbones.transformer import DiffusionTransformer, DiffusionTransformerConfig
from .checkpoint import PRECISION_NAMES, pick_device, pick_precision
from .config import FREE_TO_CHANGE, Config, build_config, flatten
from .dataset import TrainingData, read_training_data
from .denoiser import Head, default_head, find_head
from .errors import DdcliError
from .objective import Objective, check_objective, default_objective, make_objective
from .process import Autoregressive, Process, Tables, check_names, make_process
from .schedule import make_times
from .step import Task
from .tokenizer import Tokenizer

CHOSEN_TIMES = "clipped"  # with no ends given


class Silent:
    """Who is told how training goes. This one tells nobody; a display overrides what it shows."""

    def say(self, line: str) -> None: ...
    def begin(self, step: int, steps: int) -> None: ...
    def progress(self, step: int) -> None: ...
    def metrics(self, line: Mapping[str, Any]) -> None: ...
    def samples(self, step: int, texts: list[str]) -> None: ...
    def end(self) -> None: ...


@dataclass
class Plan:
    """Everything a run needs, made and checked before anything is written."""

    config: Config
    data: TrainingData
    process: Process
    objective: Objective
    head: Head
    network: DiffusionTransformer
    device: torch.device
    dtype: torch.dtype

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.network.parameters())

    @property
    def task(self) -> Task:
        train = self.config.train
        return Task(
            self.process,
            self.objective,
            make_times(train.times),
            given=train.given if self.network.clock else 0.0,
            self_conditioned=0.5 if self.network.recall else 0.0,
            drop_prefix=train.drop_prefix,
            drop_label=train.drop_label if self.data.labels else 0.0,
            bos_id=self.data.tokenizer.bos_id,
            blocks=self.blocks,
            seed=train.seed,
        )

    @property
    def blocks(self) -> int:
        """Into how many a network of blocks divides a sequence; 1 for any other."""
        return self.data.length // (self.network.config.block or self.data.length)

    @property
    def memory(self) -> int:
        """Bytes, estimated: weights, gradients, two moments and the average in float32, and activations.

        Of a layer, some 20 widths a token and the attention's scores are kept for the way back, or what goes
        into it where the rest is computed again; of the head,
        logits and their gradient at the positions that are unknown, half of them on average. Where noise
        leaves tokens visible it is all of them, and what turns logits into beliefs.
        """
        shape, train = self.config.shape(), self.config.train
        micro = -(-train.batch_size // train.accumulate)
        size = 2 if self.dtype == torch.bfloat16 else 4
        tokens = micro * self.data.length
        copies = 1 if self.blocks == 1 else 2
        scores = 2 * shape["heads"] * self.data.length * copies
        layer = 20 * shape["width"] + scores
        kept = shape["layers"] * shape["width"] + layer if train.recompute else shape["layers"] * layer
        activations = copies * tokens * kept * size
        logits = 8 if self.process.needs_clock else 2
        return 5 * 4 * self.parameters + activations + tokens * self.data.tokenizer.vocab_size * 4 * logits


def make_plan(
    config: Config, tokenizer: Tokenizer | None, reporter: Silent, tables: Tables | None = None
) -> Plan:
    """Read the data and build the network. Writes nothing. Raises DdcliError for what cannot work.

    tokenizer, tables: of a run to go on with.
    """
    check_objective(config.objective.name)
    make_times(config.train.times)
    if config.train.times == CHOSEN_TIMES and not config.validation.every:
        raise DdcliError(
            "clipped times are chosen after each validation, and there is none; give their ends, "
            "such as clipped:0.3:0.8, or set validation.every"
        )
    shape = config.shape()
    check_names(config.process.name, config.process.schedule)  # better refused before a long text is read
    device = pick_device(config.train.device)
    dtype = pick_precision(config.train.precision, device, for_training=True)
    data = read_training_data(config.data, tokenizer, reporter.say)
    process = make_process(config.process.name, config.process.schedule, data.vocabulary, tables)
    config = _without_auto(config, process)
    objective = make_objective(config.objective.name, config.objective.timesteps, process)
    head = find_head(config.model.predicts, process)
    _refuse_too_large(shape["width"], shape["layers"], data.tokenizer.vocab_size)
    torch.manual_seed(config.train.seed)
    network = DiffusionTransformer(
        DiffusionTransformerConfig(
            vocab_size=data.tokenizer.vocab_size,
            **shape,
            clock=config.model.clock,
            causal=isinstance(process, Autoregressive),
            self_conditioned=config.model.self_condition,
            **_block_shape(config.model.block, data.length, process),
            mask_token_id=data.tokenizer.mask_id,
            pad_token_id=data.tokenizer.pad_id,
            eos_token_id=data.tokenizer.eos_id,
            bos_token_id=data.tokenizer.bos_id,
            diffusion={
                "process": config.process.name,
                "schedule": config.process.schedule,
                "objective": config.objective.name,
                "timesteps": objective.timesteps,
                "predicts": config.model.predicts,
                "data": {"source": config.data.source, "sha256": data.fingerprint},
                "length": data.length,
                "end_of_text": data.has_end_of_text,
                "record_lengths": _named(data.record_lengths),
                "labels": {name: _named(lengths) for name, lengths in data.labels.items()},
            },
        )
    )
    torch.nn.Module.to(network, device)
    if config.train.recompute:
        network.recompute()
    return Plan(config, data, process, objective, head, network, device, dtype)


def _refuse_too_large(width: int, layers: int, entries: int) -> None:
    """DdcliError, before any memory is taken, for a network that the machine has no room for."""
    size = 4 * width * (12 * width * layers + 2 * entries)  # bytes; what else there is counts for little
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    if size > there:
        raise DdcliError(
            f"the weights alone take {size / 1e9:,.1f} GB, and this machine has {there / 1e9:,.1f} GB of "
            "memory; take a smaller --size, or lower model.width"
        )


def _named(counts: Mapping[int, int]) -> dict[str, int]:
    """Counts as JSON has them."""
    return {str(n): count for n, count in counts.items()}


def _without_auto(config: Config, process: Process) -> Config:
    """The config with the process's own choice wherever one was left to it.

    Raises DdcliError for settings that the process or each other leave no use for.
    """
    asked, model = config.objective, config.model
    name = default_objective(process) if asked.name == "auto" else asked.name
    objective = make_objective(name, asked.timesteps, process)
    if asked.timesteps and objective.timesteps is None:
        raise DdcliError(
            f"the objective {name} knows no steps; leave --timesteps out, or use --objective discrete-elbo"
        )
    ordered = isinstance(process, Autoregressive)
    unfit = {
        "model.clock": ordered and model.clock not in ("auto", "none"),
        "model.self_condition": (ordered or model.block) and model.self_condition,
        "train.drop_prefix": (ordered or model.block) and config.train.drop_prefix,
        "data.lines": (ordered or model.block) and config.data.lines,
    }
    if refused := [key for key, is_so in unfit.items() if is_so]:
        order = "an autoregressive model writes in order, and has no use for {}; leave it out"
        blocks = "{} does not go with blocks; leave it or --block out"
        raise DdcliError((order if ordered else blocks).format(refused[0]))
    if process.needs_clock and model.clock == "none":
        raise DdcliError(
            "this noise leaves tokens visible, and a network with model.clock=none could not tell given ones "
            "from noisy ones; for a network that reads no time use --set model.clock=given"
        )
    own = {
        "predicts": default_head(objective, process),
        "clock": "time" if process.needs_clock else "none",
    }
    left = {key: value for key, value in own.items() if getattr(model, key) == "auto"}
    return config.model_copy(
        update={
            "objective": asked.model_copy(update={"name": name, "timesteps": objective.timesteps}),
            "model": model.model_copy(update=left),
        }
    )


def _block_shape(block: int | None, length: int, process: Process) -> dict[str, int]:
    """Raises DdcliError for a block length that does not divide the length of a sequence."""
    if block is None:
        return {"block": 0, "window": 0}
    if isinstance(process, Autoregressive):
        raise DdcliError("an autoregressive model knows no blocks; leave --block out")
    if length % block:
        raise DdcliError(f"--block {block} must divide the length of a sequence, {length}")
    return {"block": block, "window": length // block}


def dry_run(config: Config, reporter: Silent) -> Plan:
    """Everything `train` does before it writes: read the data, build the network, find what cannot work."""
    plan = make_plan(config, None, reporter)
    found = resolved(plan, config.train.steps)
    timed = found.train.model_copy(update={"minutes": config.train.minutes})
    return replace(plan, config=found.model_copy(update={"train": timed}))


def refuse_changes(saved: Config, asked: Config, run: Path) -> None:
    """Raises DdcliError, naming them, where settings differ that would change what a run computes."""
    before, after = flatten(saved.model_dump()), flatten(asked.model_dump())
    changed = [k for k in before if before[k] != after[k] and not k.startswith(FREE_TO_CHANGE)]
    if changed:
        told = ", ".join(f"{k} ({before[k]} in the run, now {after[k]})" for k in changed)
        raise DdcliError(f"{run} cannot go on with other settings: {told}; leave them out, or use another -o")


def resolved(plan: Plan, steps: int) -> Config:
    """The config with everything that was left to the data or to the clock filled in."""
    flat = flatten(plan.config.model_dump(exclude_none=True))
    flat.pop("train.minutes", None)
    length, spec = plan.data.length, plan.data.tokenizer_spec
    found = {"train.steps": steps, "data.length": length, "data.tokenizer": spec}
    found["train.precision"] = PRECISION_NAMES[plan.dtype]
    return build_config(flat, found, "the run")
