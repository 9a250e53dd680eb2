"""Training, from top to bottom: data, network, steps, validation, checkpoints.

Legend: B sequences of a step, L length. The data order and the noise of a step are functions of the seed and
the step alone, never of what the process did before, so a resumed run is the run that was never stopped.
"""

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .checkpoint import (
    checkpoints,
    failed_write,
    find_run,
    load_checkpoint,
    load_tables,
    save_checkpoint,
    save_model,
)
from .config import Config
from .denoiser import Batched, NetworkDenoiser
from .errors import DdcliError
from .evaluation import Bound, bound
from .files import write_text
from .model import SamplerSettings
from .modelcard import model_card
from .plan import CHOSEN_TIMES, Plan, Silent, make_plan, refuse_changes, resolved
from .sampler import default_sampler
from .schedule import CLIPS
from .step import State, gradient_noise, learning_rate
from .textmodel import TextModel
from .tokenizer import Tokenizer

GRADIENTS = 8  # batches over which their noise is measured


class Stopped(DdcliError):  # noqa: N818 - asked for, not an error
    """Training was asked to stop; it left a checkpoint if it had begun. Exit code 128 + the signal."""

    def __init__(self, run: Path, step: int, number: int) -> None:
        go_on = f"stopped at step {step}; go on with: ddcli train --resume -o {run}"
        super().__init__(go_on if step else "stopped before the first step; nothing is written")
        self.exit_code = 128 + number


# -- the run ----------------------------------------------------------------------------------------------


def train(config: Config, run: str | Path, *, resume: bool = False, reporter: Silent | None = None) -> Path:
    """Train a model into the run folder, and return the folder.

    With `resume`, go on from the newest checkpoint that verifies; settings that would change what is computed
    must be those of the run. Raises DdcliError before anything is written for settings or data that cannot
    work, RunFailed for a run that broke down, Stopped after a signal.

    >>> ddcli.train(ddcli.load_config("names", ["train.minutes=2"]), "runs/names")
    """
    reporter = reporter or Silent()
    run = Path(run)
    saved = find_run(run, resume=resume)
    if resume and saved is None:
        reporter.say(f"{run} holds no run yet: starting afresh")
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    started = time.monotonic()
    begun = bool(checkpoints(run))  # else nothing has been learnt yet that other settings would spoil
    same_noise = begun and saved is not None and saved.process == config.process
    tables = load_tables(run) if same_noise else None  # the file they were read from may be gone
    plan = make_plan(config, Tokenizer.load(run) if begun else None, reporter, tables)
    if saved and begun:
        refuse_changes(saved, resolved(plan, config.train.steps), run)
    with deterministic(plan.device), stop_signals(reporter) as stop:
        try:
            return _Run(plan, run, reporter, stop, started).go(resume=saved is not None)
        except (OSError, SafetensorError) as error:
            raise failed_write(run, error) from error
        finally:
            reporter.end()


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Compiled code on a CPU is reproducible from process to process only so; no speed is lost."""
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(device.type == "cpu")
    memory.fill_uninitialized_memory = False  # nothing here reads what it has not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]


@contextmanager
def stop_signals(reporter: Silent) -> Iterator[list[int]]:
    """A list that receives the first SIGINT or SIGTERM; a second one acts at once, as it always does."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        reporter.say("stopping after this step; once more stops at once")
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def can_compile() -> bool:
    """Whether there is a C++ compiler, which generated code needs on a CPU, and its launcher on a GPU."""
    command = os.environ.get("CXX", "").split() or ["g++"]
    return shutil.which(command[-1]) is not None


@dataclass
class _Run:
    """A run in progress."""

    plan: Plan
    folder: Path
    reporter: Silent
    stop: list[int]
    started: float
    state: State = field(init=False)
    bounds: list[Bound] = field(default_factory=list)
    clip: int | None = None  # which of `CLIPS`, once one is chosen
    window: "_Window" = field(default_factory=lambda: _Window())

    def __post_init__(self) -> None:
        plan = self.plan
        self.config = plan.config
        self.task = plan.task
        self.denoiser = NetworkDenoiser(plan.network, plan.process, plan.head, plan.dtype)
        self.eager = Batched(NetworkDenoiser(plan.network, plan.process, plan.head, plan.dtype))
        if self.config.train.compile and can_compile():
            self.denoiser.compile(self.reporter.say)
        elif self.config.train.compile:
            self.reporter.say("no C++ compiler is found: not compiled, which is slower")
        self.state = State.fresh(plan.network, self.config)  # until the number of steps is known

    # -- the loop --------------------------------------------------------------------------------------

    def go(self, *, resume: bool) -> Path:
        found = load_checkpoint(self.folder, self.reporter.say) if resume else None
        if found is None and checkpoints(self.folder):
            raise DdcliError(
                f"every checkpoint of {self.folder} is damaged; sample from it as it is, or use another -o"
            )
        if resume and found is None:
            self.reporter.say(f"{self.folder} holds no checkpoint: starting afresh")
        if found and found[1]["fingerprint"] != self.plan.data.fingerprint:
            raise DdcliError(f"the data has changed since {self.folder} was begun; use another -o")
        first = found[1]["step"] if found else 0
        self.config = resolved(self.plan, self._number_of_steps(first))
        self.state = State.fresh(self.plan.network, self.config)
        if found:
            self.state.restore(found[0], first)
            self.started -= found[1]["seconds"]  # so that `seconds` counts on
            self.bounds = [Bound(**saved) for saved in found[1]["bounds"]]
            self.window = _Window(**found[1]["window"])
            if found[1]["clip"] is not None:
                self._clip(found[1]["clip"])
        if first >= self.config.train.steps:
            self.reporter.say(f"{self.folder} is finished at step {first:,}; give more --steps to go on")
            return self.folder

        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.toml", self.config.to_toml())
        self.plan.data.tokenizer.save(self.folder)
        metrics = self.folder / "metrics.jsonl"
        write_text(metrics, _lines_up_to(metrics, first))

        config, steps = self.config, self.config.train.steps
        self.reporter.begin(first, steps)
        if not found and config.validation.every:
            self._write({"step": 0, **self._validate(config.validation.draws)})
        while self.state.step < steps:
            step, begun = self.state.step, time.perf_counter()
            loss, norm, tokens = self._step(step)
            self.window.add(loss, norm, tokens, time.perf_counter() - begun)
            step += 1
            self.reporter.progress(step)
            last = step == steps
            validates = config.validation.every and (last or step % config.validation.every == 0)
            if last or validates or step % config.metrics.every == 0:
                rate = config.train.lr * learning_rate(step - 1, config)
                line = {"step": step, "lr": rate, **self.window.means()}
                self.window = _Window()
                if validates:
                    line |= self._validate(config.validation.final_draws if last else config.validation.draws)
                self._write(line)
            if config.samples.every and (last or step % config.samples.every == 0):
                self._sample(step)
            if validates and not last and config.train.times == CHOSEN_TIMES:
                self._choose_times(step)
            stop = bool(self.stop) and not last
            if last or stop or step % config.checkpoint.every == 0:
                self._save(step)
            if stop:
                raise Stopped(self.folder, step, self.stop[0])
        return self.folder

    def _step(self, step: int) -> tuple[float, float, int]:
        """One update: the loss in nats per token, the gradient's norm, the number of tokens read."""
        train = self.config.train
        batch = self.plan.data.train.batch(step, train.batch_size, train.seed)
        noised = self.task.noised(batch, step, self.plan.device)
        count = max(1, int(noised.running.sum()))
        parts = (self.task.loss(self.denoiser, part) / count for part in noised.split(train.accumulate))
        loss, norm = self.state.update(parts, self.config)
        return loss, norm, int(batch.valid.sum())

    def _number_of_steps(self, first: int) -> int:
        """What was asked for, or what fits in the minutes given, measured on steps that leave no trace."""
        train = self.config.train
        if train.minutes is None:
            return train.steps
        before = {name: weight.clone() for name, weight in self.plan.network.state_dict().items()}
        steps = []
        for step in range(12):
            steps.append(_seconds(partial(self._step, step)))
            if self.stop:
                raise Stopped(self.folder, first, self.stop[0])
        self.plan.network.load_state_dict(before)
        a_step = sorted(steps[4:])[len(steps[4:]) // 2]
        config, left, between = self.config, 60 * train.minutes, 0.0
        if config.validation.every:
            a_draw = _seconds(partial(self._validate, 1))
            self.bounds.clear()
            left -= a_draw * (config.validation.draws + config.validation.final_draws)
            between += a_draw * config.validation.draws / config.validation.every
        if config.samples.every:
            a_sampling = _seconds(self._texts)
            left -= a_sampling
            between += a_sampling / config.samples.every
        left -= time.monotonic() - self.started
        fitting = max(1, int(left / (a_step + between)))
        self.reporter.say(
            f"{first + fitting:,} steps fit in {train.minutes:g} minutes ({a_step:.3f} s a step)"
        )
        return first + fitting

    # -- what happens between steps --------------------------------------------------------------------

    def _choose_times(self, step: int) -> None:
        """The range of times over which gradients vary least, by the network as it is."""
        train = self.config.train
        batches = [
            self.plan.data.train.batch(step + i, train.batch_size, train.seed) for i in range(GRADIENTS)
        ]
        noise = [
            gradient_noise(
                replace(self.task, times=clip), self.denoiser, batches, self.plan.device, train.accumulate
            )
            for clip in CLIPS
        ]
        self._clip(noise.index(min(noise)))
        told = ", ".join(f"[{c.low:g}, {c.high:g}] {n:.2f}" for c, n in zip(CLIPS, noise, strict=True))
        self.reporter.say(f"times from {told} (noise of the gradient): the least is taken")

    def _clip(self, number: int) -> None:
        self.clip = number
        self.task = replace(self.task, times=CLIPS[number])

    def _validate(self, draws: int) -> dict[str, float]:
        validation = self.config.validation
        with self.state.averaged():
            found = bound(
                self.eager,
                self.plan.process,
                self.plan.data.valid,
                sequences=validation.sequences,
                draws=draws,
                device=self.plan.device,
                timesteps=self.plan.objective.timesteps,
                parts=self.plan.blocks,
            )
        self.bounds.append(found)
        return {
            "bound_nats_per_token": found.nats_per_token,
            "bound_bits_per_char": found.bits_per_char,
            "bound_stderr": found.stderr,
            "bound_perplexity": found.perplexity,
            "literature_nats_per_token": found.literature_nats_per_token,
        }

    def _texts(self, seed: int = 0) -> list[str]:
        data, samples = self.plan.data, self.config.samples
        model = TextModel(
            self.eager,
            self.plan.process,
            data.tokenizer,
            data.length,
            self.plan.device,
            data.record_lengths or None,
            data.labels,
            settings=SamplerSettings(sampler=default_sampler(self.plan.process), steps=samples.steps),
            network=self.plan.network,
        )
        with self.state.averaged():
            drawn = model.sample(samples.count, label=list(data.labels) or None, seed=seed)
            return [f"{s.label}: {s.text}" if s.label else s.text for s in drawn]

    def _sample(self, step: int) -> None:
        texts = self._texts(step)
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        write_text(folder / f"step-{step:08}.txt", "\n---\n".join(texts) + "\n")
        self.reporter.samples(step, texts)

    def _write(self, line: dict[str, Any]) -> None:
        line["seconds"] = round(time.monotonic() - self.started, 3)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            known = {k: v if math.isfinite(v) else None for k, v in line.items()}  # JSON has no NaN
            file.write(json.dumps(known) + "\n")
        self.reporter.metrics(line)

    def _save(self, step: int) -> None:
        """The checkpoint first: it is what a run goes on from. Then the model people use."""
        state = {
            "step": step,
            "fingerprint": self.plan.data.fingerprint,
            "window": asdict(self.window),
            "seconds": time.monotonic() - self.started,
            "clip": self.clip,
            "bounds": [asdict(found) for found in self.bounds[-1:]],
        }
        save_checkpoint(self.folder, step, self.state.tensors(), state, self.config.checkpoint.keep)
        process, network = self.plan.process, self.plan.network
        defaults = SamplerSettings(sampler=default_sampler(process)).model_dump()
        save_model(self.folder, network.config, self.state.ema, process.tables(), defaults)
        card = model_card(self.config, self.plan.data, self.plan.parameters, step, self.bounds[-1:])
        write_text(self.folder / "README.md", card)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@dataclass
class _Window:
    """What happened since the last line of metrics."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def add(self, loss: float, norm: float, tokens: int, seconds: float) -> None:
        self.losses.append(loss)
        self.norms.append(norm)
        self.tokens += tokens
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """Of its steps; tokens per second of training time alone."""
        return {
            "loss": sum(self.losses) / len(self.losses),
            "gradient_norm": sum(self.norms) / len(self.norms),
            "tokens_per_second": round(self.tokens / self.seconds, 1),
        }


def _lines_up_to(metrics: Path, step: int) -> str:
    """The lines of metrics.jsonl that a checkpoint at `step` knows of."""
    if not step or not metrics.exists():
        return ""
    *lines, _ = metrics.read_text(encoding="utf-8").split("\n")  # a last line without an end was cut short
    return "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step)
