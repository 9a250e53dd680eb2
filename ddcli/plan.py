"""What a run needs, made and checked before anything is written: data, noise, objective, network.

Legend: B sequences of a step, L length.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .about import NOISE
from .annealing import Annealing
from .backbones.network import Network
from .checkpoint import checkpoints, refuse_older_noise
from .config import BEFORE_THERE_WAS_A_CHOICE, Config, build_config, flatten, may_change
from .data import Blocks
from .dataset import TrainingData, read_training_data, refuse_pipes
from .denoiser import AT_ONCE, ROW_COUNT, Head, check_taught, default_head, find_head
from .device import (
    COMPILED,
    PRECISION_NAMES,
    engine_of,
    in_reach,
    pick_device,
    pick_precision,
)
from .errors import DdcliError
from .files import without_place
from .objective import Objective, check_objective, default_objective, make_objective
from .optimizer import find_optimizer
from .process import Autoregressive, Process, Tables, check_names, make_process
from .saved import load_tables
from .schedule import make_times
from .start import find_start, settle
from .step import Task
from .tokenizer import Tokenizer
from .weights import count
from .world import World

CHOSEN_TIMES = "clipped"  # with no ends given


class Silent:
    """Who is told how training goes. This one tells nobody; a display overrides what it shows."""

    def say(self, line: str) -> None: ...
    def begin(self, step: int, steps: int) -> None: ...
    def past(self, lines: Sequence[Mapping[str, Any]]) -> None: ...
    def plan(self, steps: int) -> None: ...
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
    network: Network
    device: torch.device
    dtype: torch.dtype

    @property
    def parameters(self) -> int:
        return count(self.network)

    @property
    def trained(self) -> int:
        return sum(weight.numel() for weight in self.network.parameters() if weight.requires_grad)

    @cached_property
    def tokens(self) -> str:
        """sha256 of what is learnt, as numbers: the text as it is tokenized, of streams the part that is held
        out, and what the noise is made from."""
        arrays = [
            blocks.tokens for blocks in (self.data.train, self.data.valid) if isinstance(blocks, Blocks)
        ]
        arrays += [table.numpy(force=True) for _, table in sorted(self.process.tables().items())]
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def by_frequency(self) -> float | None:
        """Bits per character of the held-out text for one who knows how often each token is in what is
        learnt, and no more; None where that was not counted."""
        counts, valid = self.process.vocabulary.counts, self.data.valid
        if counts is None or not valid.characters:
            return None
        seen = counts + 1  # once more than it was, lest what is new be impossible
        bits = -(valid.counts(len(seen)) * np.log2(seen / seen.sum())).sum()
        return float(bits / valid.characters)

    @property
    def compiles(self) -> bool:
        """Whether its network is to be compiled, which depends on the device: a run may move to another."""
        return bool(self.config.train.compile) and self.device.type in COMPILED

    @property
    def task(self) -> Task:
        train = self.config.train
        return Task(
            self.process,
            self.objective,
            make_times(train.times),
            given=train.given if self.config.model.clock != "none" else 0.0,
            self_conditioned=0.5 if self.config.model.self_condition else 0.0,
            drop_prefix=train.drop_prefix,
            drop_label=train.drop_label if self.data.labels else 0.0,
            bos_id=self.data.tokenizer.bos_id,
            blocks=self.blocks,
            annealing=Annealing(train.anneal, train.seed),
            seed=train.seed,
        )

    @property
    def blocks(self) -> int:
        """Into how many a network of blocks divides a sequence; 1 for any other."""
        return self.data.length // (self.config.model.block or self.data.length)

    @property
    def engine(self) -> torch.device:
        """Where noise is drawn and losses are computed."""
        return engine_of(self.device)

    @property
    def own_steps(self) -> dict[str, int]:
        """In how many steps the model samples if nobody says: its T, in each block; {}: it has none."""
        timesteps = self.objective.timesteps
        return {"steps": timesteps * self.blocks} if timesteps else {}

    @property
    def memory(self) -> int:
        """Bytes that a step of training takes, estimated: weights; gradients, at most two moments and the
        average of those that are trained, all in float32; activations.

        Of a layer, some 20 widths a token and the attention's scores are kept for the way back; or its input
        alone, where the rest is computed again (`train.recompute`). Of the head, logits and their gradient at
        the positions that are unknown, as many as are held at once: half of them on average; or all, and what
        turns logits into beliefs, where noise leaves tokens visible.
        """
        shape, train = self.network.shape, self.config.train
        micro = -(-train.batch_size // train.accumulate)
        size = 2 if self.dtype == torch.bfloat16 else 4
        tokens = micro * self.data.length
        copies = 1 if self.blocks == 1 else 2
        scores = 2 * shape.heads * self.data.length * copies
        layer = 20 * shape.width + scores
        kept = shape.layers * shape.width + layer if train.recompute else shape.layers * layer
        activations = copies * tokens * kept * size
        logits = 8 if self.process.needs_clock else 2
        vocabulary = self.data.tokenizer.vocab_size
        numbers = tokens * vocabulary
        if self.network.in_halves:  # then those of some rows are there at once
            numbers = min(numbers, max(AT_ONCE[self.device.type], ROW_COUNT * vocabulary))
        return 4 * (self.parameters + 4 * self.trained) + activations + numbers * 4 * logits


def make_plan(
    config: Config,
    tokenizer: Tokenizer | None,
    reporter: Silent,
    tables: Tables | None = None,
    begun: Path | None = None,
) -> Plan:
    """Read the data and build the network. Writes nothing. Raises DdcliError for what cannot work.

    tokenizer, tables: of a run to go on with. begun: its folder.
    """
    check_objective(config.objective.name)
    if config.train.optimizer != "auto":
        find_optimizer(config.train.optimizer)
    make_times(config.train.times)
    if config.train.times == CHOSEN_TIMES and not config.validation.every:
        raise DdcliError(
            "clipped times are chosen after each validation, and there is none; give their ends, "
            "such as clipped:0.3:0.8, or set validation.every"
        )
    check_names(config.process.name, config.process.schedule)  # better refused before a long text is read
    device = pick_device(config.train.device)
    dtype = pick_precision(config.train.precision, device, for_training=True)
    start = find_start(config, device, begun)
    config = start.settled(config)
    data = read_training_data(config.data, start.tokenizer or tokenizer, reporter.say)
    if not data.tokenizer.is_exact:
        reporter.say(
            "the tokenizer forgets some of the text (case, accents, blanks); bounds are of what it keeps"
        )
    name, schedule = config.process.name, config.process.schedule
    process = make_process(name, schedule, data.vocabulary, tables or start.tables)
    config = _without_auto(config, process)
    objective = make_objective(config.objective.name, config.objective.timesteps, process)
    head = find_head(config.model.predicts, process)
    check_taught(config.model.predicts, objective, process)
    about = {
        "noise": NOISE,
        "process": without_place(name),
        "schedule": schedule,
        "objective": config.objective.name,
        "timesteps": objective.timesteps,
        "predicts": config.model.predicts,
        "data": {"source": without_place(config.data.source), "sha256": data.fingerprint},
        "length": data.length,
        "end_of_text": data.has_end_of_text,
        "record_lengths": _named(data.record_lengths),
        "labels": {name: _named(lengths) for name, lengths in data.labels.items()},
    }
    network = start.network(config, data, process, about)
    torch.nn.Module.to(network, device)
    picked = dtype
    dtype = in_reach(dtype, config.train.precision, network.computes_in, str(config.model.start))
    if dtype != picked:
        reporter.say(f"{config.model.start} cannot compute in {PRECISION_NAMES[picked]}; in float32, then")
    if config.train.recompute:
        network.recompute()
    return Plan(config, data, process, objective, head, network, device, dtype)


def plan_of(config: Config, run: Path, saved: Config | None, reporter: Silent) -> Plan:
    """What a run needs; for one that was saved, of the settings it was begun with."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    if saved is not None:
        refuse_pipes(saved.data, run / "config.toml")
    if saved is None or not checkpoints(run):  # nothing has been learnt yet that other settings would spoil
        return make_plan(config, None, reporter)
    refuse_older_noise(run, saved)
    if config.data.tokenizer is None:
        config = settle(config, data__tokenizer=saved.data.tokenizer)
    if config.train.optimizer == "auto":
        config = settle(config, train__optimizer=saved.train.optimizer)
    if config.train.decay is None:
        config = settle(config, train__decay=saved.train.decay)
    same_noise = saved.process == config.process
    tables = load_tables(run) if same_noise else None  # the file they were read from may be gone
    plan = make_plan(config, None if saved.model.start else Tokenizer.load(run), reporter, tables, run)
    if told := changes(flatten(saved.model_dump()), resolved(plan, config.train.steps)):
        raise DdcliError(f"{run} cannot go on with other settings: {told}; leave them out, or use another -o")
    return plan


def check_agreed(plan: Plan, saved: Config | None, world: World) -> None:
    """Raises DdcliError where the processes do not see the same things, or cannot share a batch out."""
    train = plan.config.train
    if train.batch_size < train.accumulate * world.size:
        each = f" in each of {world.size} processes" if world.size > 1 else ""
        raise DdcliError(
            f"--batch-size ({train.batch_size}) is too small to be read in train.accumulate "
            f"({train.accumulate}) parts{each}; raise it, or lower train.accumulate"
        )
    if world.size == 1:
        return
    if plan.engine != plan.device:
        raise DdcliError(f"several processes compute on cpu or cuda, not on {plan.device}; start one alone")
    if train.shard and train.times == CHOSEN_TIMES:
        raise DdcliError(
            "clipped times are not chosen while processes share weights (train.shard); give their ends, such "
            "as clipped:0.3:0.8"
        )
    if torch.device(train.device if train.device != "auto" else "cpu").index is not None:
        raise DdcliError(f"all processes would compute on {train.device}; give --device cuda, for one each")
    tokenizer = plan.data.tokenizer.hf.backend_tokenizer.to_str()
    seen = {
        "read different data; give all of them the same files": (plan.data.fingerprint, tokenizer),
        "see different run folders; give all of them the same one": saved and saved.to_toml(),
        "have different settings; start all of them alike": plan.config.to_toml(),
    }
    for problem, own in seen.items():
        if len(set(world.gather(own))) > 1:
            raise DdcliError(f"the processes {problem}")


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
    ordered = isinstance(process, Autoregressive)
    if asked.timesteps and objective.timesteps is None:
        other = "" if ordered else ", or use --objective discrete-elbo"
        raise DdcliError(f"the objective {name} knows no steps; leave --timesteps out{other}")
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
            "this noise leaves tokens visible or masks some sooner than others, and a network with "
            "model.clock=none could not tell given ones from noisy ones, nor how far noise has gone; for a "
            "network that reads no time use --set model.clock=given"
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


def dry_run(config: Config, reporter: Silent) -> Plan:
    """Everything `train` does before it writes: read the data, build the network, find what cannot work."""
    plan = make_plan(config, None, reporter)
    found = resolved(plan, config.train.steps)
    timed = found.train.model_copy(update={"minutes": config.train.minutes})
    return replace(plan, config=found.model_copy(update={"train": timed}))


def changes(before: Mapping[str, Any], asked: Config) -> str:
    """The settings, for people, that are others than before and would change what a run computes.

    before: flat keys, which an older version may have had others of.
    """
    after = flatten(asked.model_dump())
    changed = [k for k in before.keys() & after.keys() if before[k] != after[k] and not may_change(k)]
    return ", ".join(f"{k} ({before[k]} in the run, now {after[k]})" for k in sorted(changed))


def check_as_it_was(plan: Plan, state: Mapping[str, Any], run: Path) -> None:
    """Raises DdcliError where a run's own files are not those that its checkpoint was written beside.

    state: of the checkpoint.
    """
    if state["fingerprint"] != plan.data.fingerprint:
        raise DdcliError(f"the data has changed since {run} was begun; use another -o")
    if told := changes(
        BEFORE_THERE_WAS_A_CHOICE | state.get("settings", {}), resolved(plan, plan.config.train.steps)
    ):
        raise DdcliError(
            f"{run}/config.toml is not what its checkpoint was written with: {told}; put that back, or use "
            "another -o"
        )
    if state.get("tokens", plan.tokens) != plan.tokens:
        raise DdcliError(
            f"the tokenizer or the noise of {run} is not what it was trained with; put back its "
            "tokenizer.json and process.safetensors, or use another -o"
        )


def resolved(plan: Plan, steps: int) -> Config:
    """The config with everything that was left to the data or to the clock filled in."""
    flat = flatten(plan.config.model_dump(exclude_none=True))
    flat.pop("train.minutes", None)
    length, spec = plan.data.length, plan.data.tokenizer_spec
    found: dict[str, Any] = {"train.steps": steps, "data.length": length}
    if spec is not None:
        found["data.tokenizer"] = spec
    found["train.precision"] = PRECISION_NAMES[plan.dtype]
    return build_config(flat, found, "the run")


def too_large(plan: Plan, world: World) -> str:
    """What to do where memory does not suffice for a plan."""
    train = plan.config.train
    at_once = -(-train.batch_size // (train.accumulate * world.size))
    mend = "lower --length, or take a smaller --size"
    if at_once > 1:  # alone, a process would have lowered it by itself
        mend = f"set train.accumulate to {2 * train.accumulate} and --resume, {mend}"
    return f"out of memory: {at_once} x {plan.data.length} tokens at once do not fit; {mend}"
