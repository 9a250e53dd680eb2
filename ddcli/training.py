"""Training, from top to bottom: data, network, steps, validation, checkpoints.

Legend: B sequences of a step, L length. The data order and the noise of a step are functions of the seed and
the step alone, never of what the process did before, so a resumed run is the run that was never stopped.
"""

import json
import math
import os
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .ahead import Ahead
from .annealing import Annealing
from .backbones.network import Network
from .backbones.transformer import Transformer
from .checkpoint import (
    STATE,
    best_checkpoint,
    check_checkpoint,
    checkpoints,
    failed_write,
    find_run,
    held,
    intact_checkpoint,
    read_checkpoint,
    remains,
    save_checkpoint,
)
from .config import Config, flatten
from .data import Batch
from .denoiser import Batched, NetworkDenoiser
from .device import PRECISION_NAMES, can_compile, deterministic, memory_kept, out_of_memory, works_apart
from .errors import DdcliError, RunFailed, counted
from .evaluation import Bound, estimates
from .files import finite, write_text
from .machine import GB, described, memory, versions
from .model import SamplerSettings
from .modelcard import model_card
from .pace import Deadline, Pace, peak_memory
from .plan import CHOSEN_TIMES, Plan, Silent, check_agreed, check_as_it_was, plan_of, resolved, too_large
from .runlog import ABOUT, BETWEEN, METRICS, SAMPLES, metrics_of, newest_sample
from .sampler import default_sampler
from .saved import save_model
from .schedule import CLIPS
from .sources import TOLD
from .step import Noised, State, Task, gradient_noise, learning_rate
from .stopping import Brake, Stopped, go_on, spared, stop_signals
from .textmodel import TextModel
from .tracking import Tracked
from .viz.runpage import try_report
from .watch import PATIENCE, Watch, Window
from .world import ALONE, Lost, World

GRADIENTS = 8  # batches over which their noise is measured
REHEARSED = 12  # steps at most, and no more than take LONG_ENOUGH, by which time is measured
LONG_ENOUGH = 30.0  # seconds
COLD = 10.0  # seconds: what first steps take longer than others where a compiler has kept nothing of them
FEW_STEPS = 50
OFF = 0.02  # share of its steps by which a plan that is made again differs before it replaces the old one


def train(
    config: Config,
    run: str | Path,
    *,
    resume: bool = False,
    stop_after: float | None = None,
    reporter: Silent | None = None,
) -> Path:
    """Train a model into the run folder, and return the folder.

    Alone, or with the other processes that `torchrun` started: then each is called alike, and the first one
    writes and tells the reporter.

    With `resume`, go on from the newest checkpoint that verifies; settings that would change what is computed
    must be those of the run. stop_after: minutes, after which the run stops with a checkpoint and its plan
    unchanged. Raises DdcliError before anything is written for settings or data that cannot work, RunFailed
    for a run that broke down, Stopped after a signal or when the time is up.

    >>> ddcli.train(ddcli.load_config("names", ["train.minutes=2"]), "runs/names")
    """
    world, run = World.here(), Path(run)
    reporter = reporter if reporter and world.leads else Silent()
    if config.metrics.track and world.leads:
        reporter = Tracked(reporter, config.metrics.track, run)
    started = time.monotonic()
    brake = Brake(math.inf if stop_after is None else started + 60 * stop_after)
    try:
        with world.joined():
            with world.together():
                saved = find_run(run, resume=resume)
                plan = plan_of(config, run, saved, reporter)
            with world.together():
                check_agreed(plan, saved, world)
            if resume and saved is None:
                reporter.say(f"{run} holds no run yet: starting afresh")
            at_once = world.size == 1
            with (
                deterministic(plan.device),
                memory_kept(plan.engine),
                stop_signals(reporter.say, brake, at_once),
                ExitStack() as stack,
            ):
                with world.together():
                    if world.leads:
                        stack.enter_context(_alone(run, saved, resume))
                try:
                    return _Run(plan, run, reporter, brake, started, world).go(resume=saved is not None)
                except DdcliError as error:
                    raise world.signed(error) from error.__cause__
                except (MemoryError, RuntimeError) as error:
                    if out_of_memory(error):
                        raise world.signed(RunFailed(too_large(plan, world))) from error
                    raise
    except Lost as error:
        raise RunFailed(f"{error}; {go_on(run)}") from error
    finally:
        reporter.end()


@contextmanager
def _alone(run: Path, saved: Config | None, resume: bool) -> Iterator[None]:
    """The run folder for this job alone, and as it was when it was looked at."""
    try:
        with held(run):
            if find_run(run, resume=resume) != saved:
                raise DdcliError(f"{run} was changed by another process; try again")
            yield
    except (OSError, SafetensorError) as error:
        raise failed_write(run, error) from error


@dataclass
class _Run:
    """A run in progress."""

    plan: Plan
    folder: Path
    reporter: Silent
    brake: Brake
    started: float
    world: World = ALONE
    state: State = field(init=False)
    bounds: list[Bound] = field(default_factory=list)
    clip: int | None = None  # which of `CLIPS`, once one is chosen
    gradients: list[list[float]] = field(default_factory=lambda: [[0.0, 0.0] for _ in CLIPS])
    window: Window = field(default_factory=Window)
    watch: Watch = field(default_factory=Watch)
    has_begun: bool = False  # and its config.toml is written, by this process
    deadline: Deadline | None = None  # of a run of minutes

    def __post_init__(self) -> None:
        plan = self.plan
        self.config = plan.config
        self.task = plan.task
        self.denoiser = NetworkDenoiser(plan.network, plan.process, plan.head, plan.dtype)
        if plan.compiles and can_compile():
            self.denoiser.compile(self.reporter.say)
        elif plan.compiles:
            self.reporter.say("no C++ compiler is found: not compiled, which is slower")
        self.state = State.fresh(self.denoiser, self.config, self.world)
        self.compiles = True  # in its next step, if at all
        self.ahead = Ahead(self._make_ready)
        self.place = plan.data.train.place()
        self._begin_in_parts()

    # -- the loop --------------------------------------------------------------------------------------

    def go(self, *, resume: bool) -> Path:
        found = self._saved() if resume else None
        if resume and found is None:
            self.reporter.say(f"{self.folder} holds no checkpoint: starting afresh")
        first = found[1]["step"] if found else 0
        self.config = resolved(self.plan, self._number_of_steps(first))
        if found:
            self.state.restore(found[0], first)
            self.started -= found[1]["seconds"]  # so that `seconds` counts on
            self.bounds = [Bound(**saved) for saved in found[1]["bounds"]]
            self.window = Window(**found[1]["window"])
            self.watch = Watch(found[1]["recent"], found[1]["lost"])
            self.plan.data.train.go_to(found[1]["place"])
            self.place = self.plan.data.train.place()
            self.gradients = found[1]["gradients"]
            if found[1]["clip"] is not None:
                self._clip(found[1]["clip"])
        if first >= self.config.train.steps:
            self.reporter.say(f"{self.folder} is finished at step {first:,}; give more --steps to go on")
            return self.folder

        known: list[dict[str, Any]] = []
        if self.world.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            known = [line for line in metrics_of(self.folder) if line["step"] <= first] if first else []
            write_text(self.folder / "config.toml", self.config.to_toml())
            write_text(self.folder / ABOUT, json.dumps(self._about(), indent=2) + "\n")
            self.plan.data.tokenizer.save(self.folder)
            write_text(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in known))
            self.has_begun = True

        config = self.config
        self.reporter.begin(first, config.train.steps)
        self.reporter.past(known)
        if not found and config.validation.every:
            self._write({"step": 0, **self._validate(config.validation.draws)})
        while self.state.step < self.config.train.steps:
            step, begun = self.state.step, time.perf_counter()
            loss, norm, tokens = self._step(step)
            seconds = time.perf_counter() - begun
            self.window.add(loss, norm, tokens, seconds)
            self._watch(step, loss, norm)
            step += 1
            self.reporter.progress(step)
            last = step == self.config.train.steps
            validates = config.validation.every and (last or step % config.validation.every == 0)
            if last or validates or step % config.metrics.every == 0:
                rate = self.config.train.peak * learning_rate(step - 1, self.config)
                line = {"step": step, "lr": rate, **self.window.means()}
                self.window = Window()
                if validates:
                    line |= self._validate(config.validation.final_draws if last else config.validation.draws)
                self._write(line)
            if config.samples.every and (last or step % config.samples.every == 0):
                self._sample(step)
            if validates and not last and config.train.times == CHOSEN_TIMES:
                self._choose_times(step)
            if self.deadline and not last:
                self._keep_to(self.deadline, step, seconds)
            stop = None if last else self._told_to_stop()
            if last or stop or step % config.checkpoint.every == 0:
                self._save(step, measured=bool(validates), ends=bool(last or stop))
            if stop:
                self._count_bad_rows()
                raise self.world.once(Stopped(self.folder, step, stop))
        self._count_bad_rows()
        if self.world.leads:
            self._point_out_the_best()
        return self.folder

    def _saved(self) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
        """The newest checkpoint that verifies, by the one process that looks; None where there is none.

        Raises DdcliError where there is none that can be gone on with.
        """
        newest = None
        with self.world.together():
            if self.world.leads:
                newest = intact_checkpoint(self.folder, self.reporter.say)
                if newest is None and checkpoints(self.folder):
                    raise DdcliError(
                        f"every checkpoint of {self.folder} is damaged; sample from it as it is, or use "
                        "another -o"
                    )
        newest = self.world.gather(newest)[0]
        if newest is None:
            return None
        with self.world.together():
            found = read_checkpoint(newest)
            check_checkpoint(*found, self.plan.network, self.folder)
            check_as_it_was(self.plan, found[1], self.folder)
        return found

    def _told_to_stop(self) -> int | None:
        """The exit code with which all processes stop, if one of them is to."""
        return int(self.world.all(self.brake.exit_code or 0).max()) or None

    def _step(self, step: int) -> tuple[float, float, int]:
        """One update: the loss in nats per token, the gradient's norm, the number of tokens read.

        Where memory is too small for it, the batch is read in smaller parts from then on.
        """
        while True:
            train = self.config.train
            try:
                ready = self._ready(step)
                noised, self.place = ready.noised, ready.place
                told = self.world.all(noised.count, ready.tokens)
                count, tokens = (int(n) for n in told.sum(0))
                with spared() if self.compiles and self.plan.compiles else nullcontext():
                    loss = self.state.descend(self.task, noised, max(1, count), train.accumulate)
                self.compiles = False
                self.world.add_up([loss])
                return *self.state.update(loss, self.config), tokens
            except (MemoryError, RuntimeError) as error:
                # what processes are in the midst of telling each other cannot be begun again
                if not out_of_memory(error) or train.accumulate == train.batch_size or self.world.size > 1:
                    raise
            self._read_in_smaller_parts("out of memory")

    def _begin_in_parts(self) -> None:
        """Where a step takes more memory than the machine has, whose system would end it without a word."""
        has, _ = memory()
        if not has or self.plan.engine.type != "cpu" or self.world.size > 1:
            return
        while self.plan.memory > has and self.config.train.accumulate < self.config.train.batch_size:
            self._read_in_smaller_parts(f"a step takes more than {has / GB:.0f} GB, which is all there is")

    def _ready(self, step: int) -> "_Ready":
        """What a step begins with. Where the processor is idle meanwhile, that of the next is begun."""
        more = works_apart(self.plan.device) and step + 1 < self.config.train.steps
        return self.ahead.take((step, self.task), (step + 1, self.task) if more else None)

    def _make_ready(self, key: tuple[int, Task]) -> "_Ready":
        step, task = key
        batch = self._batch(step)
        place = self.plan.data.train.place()
        return _Ready(task.noised(batch, step, self.plan.engine), int(batch.valid.sum()), place)

    def _batch(self, step: int) -> Batch:
        """This process's rows of a batch."""
        train = self.config.train
        rows = self.world.share(train.batch_size)
        return self.plan.data.train.batch(step, train.batch_size, train.seed, rows)

    def _read_in_smaller_parts(self, why: str) -> None:
        train, config = self.config.train, self.config
        parts = range(train.accumulate + 1, train.batch_size + 1)
        more = next(n for n in parts if n >= 2 * train.accumulate and train.batch_size % n == 0)
        at_once = counted(train.batch_size // more, "sequence")
        self.reporter.say(f"{why}: {at_once} at a time from here on")
        self.state.optimizer.zero_grad(set_to_none=True)
        self.compiles = True  # for other shapes
        if self.plan.device.type != "cpu":
            torch.get_device_module(self.plan.device).empty_cache()
        changed = {"train": train.model_copy(update={"accumulate": more})}
        self.config = config.model_copy(update=changed)
        self.plan.config = self.plan.config.model_copy(update=changed)
        if self.has_begun:
            write_text(self.folder / "config.toml", self.config.to_toml())

    def _watch(self, step: int, loss: float, norm: float) -> None:
        """Say what looks wrong with a step. Raises RunFailed after `PATIENCE` in a row that are no number."""
        if told := self.watch.spike(step, loss, norm):
            self.reporter.say(told)
        if not self.watch.lost:
            return
        train = self.config.train
        which = self.plan.data.train.where(step, train.batch_size, train.seed)
        what = f"the loss is {loss:g} and the norm of its gradient {norm:g} at step {step:,} ({which})"
        if len(self.watch.lost) < PATIENCE:
            self.reporter.say(f"{what}: the step is left out")
            return
        what = f"{what}, and at the {PATIENCE - 1} before it; {remains(self.folder)}; lower train.lr"
        if found := checkpoints(self.folder):
            what += f" in another run: --from {shlex.quote(str(found[-1][1]))}"
        raise self.world.once(RunFailed(what))

    def _count_bad_rows(self) -> None:
        """Of a stream, as far as it was read this time; of other data that is told at once."""
        bad = set().union(*self.world.gather(self.plan.data.train.problems))
        if len(bad) > TOLD:
            self.reporter.say(
                f"{self.config.data.source}: {len(bad):,} bad rows left out, as far as it was read"
            )

    def _point_out_the_best(self) -> None:
        """Say so where an earlier checkpoint is better than the last by more than both bounds may be off."""
        found = checkpoints(self.folder)
        best = best_checkpoint([folder for _, folder in found])
        if best is None or best == found[-1][1] or not self.bounds:
            return
        states = [json.loads((folder / STATE).read_text()) for folder in (best, found[-1][1])]
        bounds = [state["bound"] for state in states]
        if bounds[1] is None:
            return
        errors = [state["bounds"][-1]["stderr"] for state in states]  # of few noisings, and of many
        if bounds[1] - bounds[0] > math.hypot(*errors):
            told = f"{bounds[0]:.3f} nats/token against {bounds[1]:.3f}"
            self.reporter.say(
                f"an earlier checkpoint has a lower bound, {told}: ddcli sample {shlex.quote(str(best))}"
            )

    def _number_of_steps(self, first: int) -> int:
        """What was asked for, or what fits in the minutes given, measured on steps that leave no trace."""
        train = self.config.train
        if train.minutes is None:
            return train.steps
        pace = self.rehearse(first)
        self.deadline = Deadline(pace, self.started + 60 * train.minutes)
        begins = time.monotonic() + (0.0 if first else pace.before(self.config))
        fitting = self.world.gather(self.deadline.plan(first, begins, self.config))[0]
        self.reporter.say(
            f"{counted(first + fitting, 'step')} planned for --minutes {train.minutes:g} "
            f"({pace.step:.3f} s a step)"
        )
        if first + fitting < FEW_STEPS:
            self.reporter.say("so few steps teach next to nothing: give it more --minutes")
        return first + fitting

    def _keep_to(self, deadline: Deadline, step: int, seconds: float) -> None:
        """Plan again where the machine has turned out faster or slower. seconds: what the last step took."""
        deadline.add(seconds)
        if not self.world.all(float(deadline.asks(step, time.monotonic()))).any():
            return
        steps = step + self.world.gather(deadline.plan(step, time.monotonic(), self.config))[0]
        planned = self.config.train.steps
        if abs(steps - planned) <= OFF * planned:
            return
        train = self.config.train.model_copy(update={"steps": steps})
        self.config = self.config.model_copy(update={"train": train})
        if self.has_begun:
            write_text(self.folder / "config.toml", self.config.to_toml())
        self.reporter.plan(steps)
        self.reporter.say(
            f"{counted(steps, 'step')} in place of {planned:,}, to end in time, at "
            f"{deadline.pace.step:.3f} s a step"
        )

    def rehearse(self, first: int = 0) -> "Pace":
        """Measure what a run is made of, on steps that leave no trace. Raises Stopped after a signal."""
        self.reporter.say("measuring the speed of a few steps, which takes up to a minute")
        steps: list[float] = []
        begun = time.monotonic()
        with self.state.rehearsal():
            for step in range(REHEARSED):
                steps.append(_seconds(partial(self._step, step)))
                if stop := self._told_to_stop():
                    raise self.world.once(Stopped(self.folder, first, stop))
                enough = step >= 5 and time.monotonic() - begun > LONG_ENOUGH
                if self.world.all(float(enough)).any():
                    break
        self.ahead.drop()
        usual = statistics.median(steps[len(steps) // 3 :])
        draw = sampling = 0.0
        if self.config.validation.every:
            draw = _seconds(partial(self._validate, 1))
            self.bounds.clear()
        if self.config.samples.every:
            sampling = _seconds(self._texts)
        return Pace(max(0.0, sum(steps) - usual * len(steps)), usual, draw, sampling)

    # -- what happens between steps --------------------------------------------------------------------

    def _choose_times(self, step: int) -> None:
        """The range of times over which gradients vary least for their size, by all that was measured so far.

        A few batches tell little, so variances and squared means are each summed over the run. A range whose
        squared mean is still lost in chance is not chosen; where all are, the present one stays.
        """
        train = self.config.train
        self.ahead.drop()  # it reads the same data
        self._read_on()
        batches = [self._batch(step + i) for i in range(GRADIENTS)]
        self._read_on()
        for sums, clip in zip(self.gradients, CLIPS, strict=True):
            task = replace(self.task, times=clip, annealing=Annealing(0, train.seed))  # as it will be used
            found = gradient_noise(
                task, self.denoiser, batches, step, self.plan.engine, train.accumulate, self.world
            )
            sums[:] = (before + more for before, more in zip(sums, found, strict=True))
        noise = [variance / mean if mean > 0 else math.inf for variance, mean in self.gradients]
        if min(noise) < math.inf:
            self._clip(noise.index(min(noise)))
        told = ", ".join(f"[{c.low:g}, {c.high:g}] {n:.2f}" for c, n in zip(CLIPS, noise, strict=True))
        self.reporter.say(f"times from {told} (noise of the gradient): the least is taken")

    def _read_on(self) -> None:
        """From where the last step was: else a stream would be read from its beginning again."""
        if self.plan.data.train.place() != self.place:
            self.plan.data.train.go_to(self.place)

    def _clip(self, number: int) -> None:
        self.clip = number
        self.task = replace(self.task, times=CLIPS[number])

    def _validate(self, draws: int) -> dict[str, Any]:
        validation = self.config.validation
        with self.state.averaged() as network:
            measured = estimates(
                self._asked(network),
                self.plan.process,
                self.plan.data.valid,
                sequences=validation.sequences,
                draws=draws,
                device=self.plan.engine,
                timesteps=self.plan.objective.timesteps,
                parts=self.plan.blocks,
                world=self.world,
            )
        found, shares = measured.bound(), [share.nats for share in measured.by_time()]
        self.bounds.append(found)
        return {
            "bound_nats_per_token": found.nats_per_token,
            "bound_bits_per_char": found.bits_per_char,
            "bound_stderr": found.stderr,
            "bound_perplexity": found.perplexity,
            "literature_nats_per_token": found.literature_nats_per_token,
            **({"bound_by_time": shares} if shares else {}),
        }

    def _asked(self, network: Network) -> Batched:
        return Batched(NetworkDenoiser(network, self.plan.process, self.plan.head, self.plan.dtype))

    def _texts(self, seed: int = 0) -> list[str]:
        data, samples = self.plan.data, self.config.samples
        with self.state.averaged() as network:
            model = TextModel(
                self._asked(network),
                self.plan.process.in_steps(self.plan.objective.timesteps),
                data.tokenizer,
                data.length,
                self.plan.engine,
                data.record_lengths or None,
                data.labels,
                settings=SamplerSettings(sampler=default_sampler(self.plan.process), steps=samples.steps),
                network=network if isinstance(network, Transformer) else None,
                block=self.config.model.block or 0,
                about=network.config.diffusion,
            )
            own = self.world.share(samples.count)
            drawn = model.sample(own, label=list(data.labels) or None, seed=seed) if own else []
        texts = [f"{s.label}: {s.text}" if s.label else s.text for s in drawn]
        return [text for part in self.world.gather(texts) for text in part]

    def _sample(self, step: int) -> None:
        texts = self._texts(step)
        if not self.world.leads:
            return
        folder = self.folder / SAMPLES
        folder.mkdir(exist_ok=True)
        write_text(folder / f"step-{step:08}.txt", BETWEEN.join(texts) + "\n")
        self.reporter.samples(step, texts)

    def _write(self, line: dict[str, Any]) -> None:
        if not self.world.leads:
            return
        line["seconds"] = round(time.monotonic() - self.started, 3)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that counts on it is
        self.reporter.metrics(line)

    def _about(self) -> dict[str, Any]:
        """What is trained, and where, for the report."""
        plan = self.plan
        return {
            "parameters": plan.parameters,
            "data": plan.data.description,
            "unit": plan.data.tokenizer.unit,
            "by_frequency_bits_per_char": plan.by_frequency,
            "machine": described(plan.device),
            "processes": self.world.size,
            "precision": PRECISION_NAMES[plan.dtype],
            "versions": versions("ddcli", "torch"),
        }

    def _save(self, step: int, *, measured: bool, ends: bool) -> None:
        """The model people use, then the checkpoint: where there is one, all that goes with it is there too.

        Amid steps that come to no number there is none, but at the end: it would take a good one's place.
        """
        if self.watch.lost and step < self.config.train.steps:
            return
        groups, place = self.state.tensors(), earliest(self.world.gather(self.place))
        if self.world.leads:
            self._write_all(step, groups, place, measured=measured)
            if ends:
                try_report(self.folder, self.reporter.say)
        self.world.gather(None)  # a launcher may end all of them once one has left

    def _write_all(
        self,
        step: int,
        groups: Mapping[str, Mapping[str, torch.Tensor]],
        place: list[list[int]],
        *,
        measured: bool,
    ) -> None:
        process, network = self.plan.process, self.state.plain or self.plan.network
        defaults = SamplerSettings(sampler=default_sampler(process), **self.plan.own_steps)
        save_model(self.folder, network, groups["ema"], process.tables(), defaults.model_dump())
        data, bounds = self.plan.data, self.bounds[-1:]
        sample = newest_sample(self.folder, step)
        card = model_card(self.config, data, network, step, bounds, defaults, self._about(), sample)
        write_text(self.folder / "README.md", card)
        state = {
            "step": step,
            "fingerprint": self.plan.data.fingerprint,
            "tokens": self.plan.tokens,
            "settings": flatten(self.config.model_dump()),
            "window": asdict(self.window),
            "seconds": time.monotonic() - self.started,
            "clip": self.clip,
            "place": place,
            "gradients": self.gradients,
            **asdict(self.watch),
            "bounds": [asdict(found) for found in self.bounds[-1:]],
            "bound": self.bounds[-1].nats_per_token if measured else None,
        }
        save_checkpoint(self.folder, step, groups, state, self.config.checkpoint.keep)


def earliest(places: Sequence[Sequence[list[int] | None]]) -> list[list[int]]:
    """Where data is read, in each of its lanes, by where each process reads those that are its own."""
    return [min(at for at in lane if at is not None) for lane in zip(*places, strict=True)]


@dataclass(frozen=True)
class Needs:
    """What a run of a plan would need in this process."""

    steps: int  # that are asked for, or fit
    seconds: float
    memory: float | None  # bytes at the peak; None where the system does not tell


def estimate(plan: Plan, reporter: Silent) -> Needs:
    """By a few steps. Leaves no trace but what a compiler keeps. Raises as `train` does."""
    with deterministic(plan.device), memory_kept(plan.engine), tempfile.TemporaryDirectory() as nowhere:

        def rehearsed() -> Pace:
            return _Run(plan, Path(nowhere), reporter, Brake(), time.monotonic()).rehearse()

        try:
            pace = rehearsed()
            if plan.compiles and pace.warming > COLD:
                # what has been compiled now is found by the run that follows
                torch.compiler.reset()
                pace = rehearsed()
        except (MemoryError, RuntimeError) as error:
            if out_of_memory(error):
                raise RunFailed(too_large(plan, ALONE)) from error
            raise
    train, each = plan.config.train, pace.each(plan.config)
    around = pace.warming + pace.before(plan.config) + pace.after(plan.config)
    steps, seconds = train.steps, around + train.steps * each
    if train.minutes:
        seconds = 60 * train.minutes
        steps = max(1, int((seconds - around) / each))
    return Needs(steps, seconds, peak_memory(plan.device))


@dataclass(frozen=True)
class _Ready:
    """What a step begins with."""

    noised: Noised
    tokens: int  # that are no padding
    place: list[list[int] | None]  # where the data is read, once the step is taken


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
