"""Training survives kills, bad numbers, small memory, small disks and a second process; little is lost."""

import errno
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from killing import assert_whole, kill_while_training
from safetensors.torch import load_file
from tiny import (
    SETTINGS,
    Heard,
    assert_same_run,
    assignments,
    copy_of,
    files,
    metrics,
    stop_at,
    tiny_config,
    train_tiny,
    untried,
)

import ddcli
from ddcli import cli, training
from ddcli import plan as plans
from ddcli.checkpoint import best_checkpoint, checkpoints, held, save_checkpoint
from ddcli.data import numbered
from ddcli.errors import DdcliError, RunFailed
from ddcli.evaluation import Estimates
from ddcli.files import verified
from ddcli.optimizer import OPTIMIZERS
from ddcli.step import State, Task
from ddcli.stopping import Brake, Stopped, spared, stop_signals
from ddcli.training import train
from ddcli.watch import PATIENCE, RECENT

# -- killed -----------------------------------------------------------------------------------------------


def test_a_run_that_is_killed_again_and_again_is_the_run_that_never_was(text_file, tmp_path):
    """A short form of `make torture`."""
    changes = {"checkpoint__every": 2, "samples__every": 5, "samples__count": 1, "train__ema": 0.5}
    config = tiny_config(text_file, train__steps=40, **changes)
    train(config, tmp_path / "whole")
    run, rng = tmp_path / "killed", random.Random(1)
    for _ in range(6):
        kill_while_training(config, run, rng, seconds=1.0)
        assert_whole(run)
    heard = Heard()
    train(config, run, resume=True, reporter=heard)
    if not heard.steps:  # it had come to its end already
        assert "is finished at step 40" in heard.text
    assert_same_run(run, tmp_path / "whole")
    assert files(run / "samples") == files(tmp_path / "whole" / "samples")
    assert not [path for path in run.rglob(".*")]


def test_where_the_last_checkpoint_is_whole_so_is_the_model_of_it(text_file, tmp_path, monkeypatch):
    """A run that died right before its end, or right after, is the run that did not."""
    train_tiny(tmp_path / "whole", text_file)

    class Killed(BaseException):
        pass

    for name in ("save_checkpoint", "save_model", "write_text"):
        run, real = tmp_path / name, getattr(training, name)

        def die(*arguments, real=real, run=run, **options):
            if (run / "metrics.jsonl").exists() and metrics(run) and metrics(run)[-1]["step"] == 20:
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(training, name, die)
        with pytest.raises(Killed):
            train_tiny(run, text_file)
        monkeypatch.undo()
        train_tiny(run, text_file, resume=True)
        assert_same_run(run, tmp_path / "whole")


def test_of_a_checkpoint_any_bit_that_is_flipped_is_found(tmp_path):
    tensors = {"weights": {"w": torch.arange(5.0)}, "ema": {"w": torch.ones(5)}}
    save_checkpoint(tmp_path, 5, tensors, {"step": 5, "bound": 1.5}, keep=1)
    folder, rng = tmp_path / "checkpoints/step-00000005", random.Random(0)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for _ in range(50):
            content = bytearray(whole)
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
            # a manifest says the same with another blank between its words
            same = file.name == "manifest.json" and _same_json(content, whole)
            assert verified(folder) == same
            file.write_bytes(whole[: rng.randrange(len(whole))])
            assert not verified(folder)
        file.write_bytes(whole)
    assert verified(folder)
    (folder / ".DS_Store").write_bytes(b"of a file manager")
    assert verified(folder)
    (folder / "extra.safetensors").write_bytes(b"")
    assert not verified(folder)


def _same_json(content, whole):
    try:
        return json.loads(content) == json.loads(whole)
    except ValueError:
        return False


# -- asked to stop ----------------------------------------------------------------------------------------


def test_a_run_stops_when_its_time_is_up_and_goes_on_as_if_nothing_had_been(text_file, tmp_path):
    config = tiny_config(text_file)
    train(config, tmp_path / "whole")
    with pytest.raises(Stopped) as stopped:
        train(config, tmp_path / "run", stop_after=0)
    assert stopped.value.exit_code == 75
    assert str(stopped.value) == f"stopped at step 1; go on with: ddcli train --resume -o {tmp_path / 'run'}"
    train(config, tmp_path / "run", resume=True, stop_after=60)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGXCPU, signal.SIGHUP])
def test_what_schedulers_and_terminals_send_stops_a_run_too(text_file, tmp_path, number):
    before = signal.signal(number, signal.SIG_DFL)  # nohup, which tests may be run under, ignores one of them
    try:
        assert stop_at(3, tmp_path / "run", tiny_config(text_file), number).exit_code == 128 + number
    finally:
        signal.signal(number, before)
    assert checkpoints(tmp_path / "run")[-1][0] == 3


def test_under_nohup_a_terminal_may_be_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals(pytest.fail, Brake()):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


class Gone(io.StringIO):
    """A terminal that is closed after the first line."""

    def write(self, text):
        if self.getvalue():
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


def test_a_run_goes_on_where_nobody_listens_any_more(text_file, tmp_path, monkeypatch):
    arguments = ["train", *flags(text_file), "-o", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "stderr", Gone())
    assert cli.main(arguments) == 0
    assert sys.stderr.getvalue().count("\n") == 1
    assert cli.main([*arguments[:-1], str(tmp_path / "other"), "--stop-after", "0"]) == 75
    assert checkpoints(tmp_path / "other")[-1][0] == 1


def test_compilers_are_spared_the_signals_that_a_terminal_sends_to_all():
    """Else torch would take a step otherwise than after it, and say nothing of it."""
    brake = Brake()
    with stop_signals(lambda line: None, brake), spared():
        compiler = subprocess.Popen([sys.executable, "-c", "print('begun', flush=True); input()"], **PIPES)
        assert compiler.stdout.readline() == "begun\n"
        for number in (signal.SIGINT, signal.SIGTERM):
            compiler.send_signal(number)
        os.kill(os.getpid(), signal.SIGTERM)
        while not brake.exit_code:
            time.sleep(0.01)
        compiler.communicate("\n")
    assert (compiler.returncode, brake.exit_code) == (0, 143)


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


def test_where_memory_is_lacking_the_compiler_is_not_blamed(text_file, tmp_path, monkeypatch):
    """Compiled code that finds no memory is tried again in parts, as it is."""

    def crowded(trunk):
        def forward(xt, *rest, **told):
            if len(xt) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return trunk(xt, *rest, **told)

        return forward

    monkeypatch.setattr(torch, "compile", crowded)
    monkeypatch.setattr("ddcli.training.can_compile", lambda: True)
    heard = train_tiny(tmp_path / "run", text_file, train__steps=1, train__compile=True)
    assert heard.lines == ["out of memory: 4 sequences at a time from here on"]


def test_the_command_says_how_it_was_stopped_by_its_exit_code(text_file, tmp_path, capsys):
    arguments = ["train", *flags(text_file), "-o", str(tmp_path / "run"), "-q"]
    assert cli.main([*arguments, "--stop-after", "0"]) == 75
    assert "stopped at step 1; go on with: ddcli train --resume" in capsys.readouterr().err
    assert cli.main([*arguments, "--resume", "--keep-last", "1"]) == 0
    assert "keep = 1\n" in (tmp_path / "run/config.toml").read_text()


def flags(source):
    return assignments({**SETTINGS, "data.source": str(source)})


# -- numbers that are none --------------------------------------------------------------------------------


def spoil(monkeypatch, *steps, value=math.nan):
    """Make the losses of some steps `value`."""
    whole = Task.loss
    at = [0]
    noised = Task.noised

    def counted(self, batch, step, device):
        at[0] = step
        return noised(self, batch, step, device)

    def loss(self, denoiser, batch):
        return whole(self, denoiser, batch) * (value if at[0] in steps else 1)

    monkeypatch.setattr(Task, "noised", counted)
    monkeypatch.setattr(Task, "loss", loss)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_whose_loss_is_no_number_is_left_out_counted_and_told(text_file, tmp_path, monkeypatch, value):
    spoil(monkeypatch, 3, 12, value=value)
    heard = train_tiny(tmp_path / "run", text_file)
    told = [line for line in heard.lines if "is left out" in line]
    assert len(told) == 2
    assert told[0].startswith(f"the loss is {value:g} and the norm of its gradient nan at step 3 (blocks ")
    assert [line.get("skipped_steps") for line in metrics(tmp_path / "run")] == [None, 1, None, 1, None]
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path / "run")[1:])
    state = checkpoints(tmp_path / "run")[-1][1] / "weights.safetensors"
    assert all(weight.isfinite().all() for weight in load_file(state).values())


def test_a_run_with_steps_left_out_goes_on_exactly(text_file, tmp_path, monkeypatch):
    spoil(monkeypatch, 3, 8, 9, 10)
    config = tiny_config(text_file, checkpoint__every=6)
    train(config, tmp_path / "whole")
    stop_at(7, tmp_path / "run", config)
    stop_at(10, tmp_path / "run", config, resume=True)  # amid those steps
    assert checkpoints(tmp_path / "run")[-1][0] == 7
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_that_is_no_number_leaves_everything_as_it_was(name, text_file):
    network = torch.nn.Linear(2, 1)
    network.layers, network.stacked = [network], dict
    config = tiny_config(text_file, train__lr=2e-3, train__optimizer=name)
    state = State.fresh(SimpleNamespace(network=network, dtype=torch.float32), config)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    loss = network(torch.tensor([math.inf, 1.0])).sum() * 0
    loss.backward()
    assert math.isnan(loss.item())
    assert math.isnan(state.update(torch.tensor(1.0), config)[1])
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    assert state.step == 1
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(x.any() for kept in state.optimizer.state.values() for x in kept.values())


def test_after_too_many_in_a_row_a_run_fails_and_spares_the_checkpoints(text_file, tmp_path, monkeypatch):
    spoil(monkeypatch, *range(11, 99))
    changes = {"train__steps": 60, "checkpoint__every": 5}
    with pytest.raises(RunFailed) as failure:
        train_tiny(tmp_path / "run", text_file, **changes)
    last = 11 + PATIENCE - 1
    assert failure.value.exit_code == 1
    assert f"the loss is nan and the norm of its gradient nan at step {last} (blocks" in str(failure.value)
    assert f"at the {PATIENCE - 1} before it; the checkpoint of step 10 is untouched" in str(failure.value)
    last_good = tmp_path / "run/checkpoints/step-00000010"
    assert str(failure.value).endswith(f"lower train.lr in another run: --from {last_good}")
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [5, 10]
    monkeypatch.undo()
    train_tiny(tmp_path / "run", text_file, resume=True, **changes)
    train_tiny(tmp_path / "whole", text_file, **changes)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_learning_rate_that_is_far_too_high_fails_in_words(text_file, tmp_path):
    with pytest.raises(RunFailed, match=r"there is no checkpoint of it; lower train\.lr"):
        train_tiny(
            tmp_path / "run",
            text_file,
            train__lr=1e38,
            train__warmup=0,
            train__steps=30,
            checkpoint__every=30,
        )


def test_a_loss_that_jumps_is_told(text_file, tmp_path, monkeypatch):
    spoil(monkeypatch, RECENT + 3, value=50.0)
    heard = train_tiny(tmp_path / "run", text_file, train__steps=RECENT + 6, checkpoint__every=500)
    told = [line for line in heard.lines if "against" in line]
    assert len(told) == 1
    assert told[0].startswith(f"step {RECENT + 3}: a loss of ")
    assert told[0].endswith(f"in the {RECENT} steps before: a spike, harmless if it passes")


def test_things_are_named_by_their_numbers():
    assert numbered("block", [3]) == "block 3"
    assert numbered("block", [3, 1200]) == "blocks 3 and 1,200"
    assert numbered("block", range(12), most=3) == "blocks 0, 1, 2 and 9 more"


# -- the best ---------------------------------------------------------------------------------------------


def test_the_checkpoint_with_the_lowest_bound_is_kept_too(tmp_path):
    tensors = {"weights": {"w": torch.ones(1)}}
    for step, bound in ((1, None), (2, 3.0), (3, 1.0), (4, 2.0), (5, None), (6, 1.5)):
        save_checkpoint(tmp_path, step, tensors, {"bound": bound}, keep=2)
        found = checkpoints(tmp_path)
        best = best_checkpoint([folder for _, folder in found])
        assert found[-1][0] == step
    assert [number for number, _ in found] == [3, 5, 6]
    assert best == found[0][1]
    save_checkpoint(tmp_path, 7, tensors, {"bound": 1.0}, keep=1)  # no worse, and newer
    save_checkpoint(tmp_path, 8, tensors, {"bound": math.nan}, keep=2)
    assert best_checkpoint([folder for _, folder in checkpoints(tmp_path)]).name == "step-00000007"
    save_checkpoint(tmp_path, 9, tensors, {"bound": 0.5}, keep=1)
    assert [number for number, _ in checkpoints(tmp_path)] == [9]


def test_a_run_is_read_from_a_checkpoint_too(absorbing_run, tmp_path, capsys):
    run = copy_of(absorbing_run, tmp_path)
    (_, first), (_, last) = checkpoints(run)
    drawn = {path: ddcli.load(path).sample(1, seed=1)[0].text for path in (first, last, run)}
    assert drawn[last] == drawn[run] != drawn[first]
    assert ddcli.evaluate(last).bound == ddcli.evaluate(run).bound
    about = ddcli.evaluate(first, limit=1).record()["model"]
    assert about["weights"].endswith("step-00000050/ema.safetensors")
    content = bytearray((first / "ema.safetensors").read_bytes())
    content[-1] ^= 1
    (first / "ema.safetensors").write_bytes(content)
    assert cli.main(["sample", str(first)]) == 2
    assert (
        capsys.readouterr().err
        == f"ddcli: the checkpoint {first} is damaged; take another, or the run itself\n"
    )


def test_a_run_that_got_worse_says_which_checkpoint_was_better(text_file, tmp_path, monkeypatch):
    bounds = iter([5.0, 1.0, 2.0, 3.0])
    measured = Estimates.bound
    monkeypatch.setattr(
        Estimates, "bound", lambda found: replace(measured(found), nats_per_token=next(bounds), stderr=0.1)
    )
    heard = train_tiny(tmp_path / "run", text_file, train__steps=30)
    (_, best), *_ = checkpoints(tmp_path / "run")
    assert best.name == "step-00000010"
    assert heard.lines[-1] == (
        f"an earlier checkpoint has a lower bound, 1.000 nats/token against 3.000: ddcli sample {best}"
    )


# -- memory -----------------------------------------------------------------------------------------------


def test_what_does_not_fit_into_memory_is_read_in_parts(text_file, tmp_path, monkeypatch):
    whole = Task.loss

    def loss(self, denoiser, noised):
        if len(noised.x0) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB")
        return whole(self, denoiser, noised)

    monkeypatch.setattr(Task, "loss", loss)
    heard = train_tiny(tmp_path / "run", text_file, train__batch_size=6)
    assert heard.lines[:2] == [
        "out of memory: 3 sequences at a time from here on",
        "out of memory: 1 sequence at a time from here on",
    ]
    monkeypatch.undo()
    train_tiny(tmp_path / "run", text_file, resume=True, train__batch_size=6)  # is not taken for another run
    train_tiny(tmp_path / "whole", text_file, train__batch_size=6, train__accumulate=6)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_what_a_machine_has_no_memory_for_is_not_tried(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "memory", lambda: (2_000_000, 1_000_000))
    heard = train_tiny(tmp_path / "run", text_file, train__batch_size=64, train__steps=1)
    assert heard.lines[0] == (
        "a step takes more than 0 GB, which is all there is: 32 sequences at a time from here on"
    )
    assert heard.lines[-1].endswith(": 4 sequences at a time from here on")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_where_not_even_one_sequence_fits_it_is_said_what_to_lower(text_file, tmp_path, monkeypatch, error):
    def loss(self, denoiser, noised):
        raise error

    monkeypatch.setattr(Task, "loss", loss)
    with pytest.raises(RunFailed, match=r"out of memory: 1 x 32 tokens at once do not fit; lower --length"):
        train_tiny(tmp_path / "run", text_file)


def test_other_errors_are_not_taken_for_a_lack_of_memory(text_file, tmp_path, monkeypatch):
    def loss(self, denoiser, noised):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Task, "loss", loss)
    with pytest.raises(RuntimeError, match="shapes"):
        train_tiny(tmp_path / "run", text_file)


def test_a_batch_size_left_to_the_machine_is_that_of_the_recipe(text_file, tmp_path, capsys):
    arguments = ["train", "--data", str(text_file), "--length", "32", "--dry-run", "-q", "--batch-size"]
    with untried():
        assert cli.main([*arguments, "auto"]) == 0
    assert "batch_size = 8\n" in capsys.readouterr().out
    assert cli.main([*arguments, "many"]) == 2
    assert capsys.readouterr().err == (
        "ddcli: --batch-size takes a whole number of sequences, or auto, not 'many'\n"
    )


# -- the disk ---------------------------------------------------------------------------------------------

SMALL_DISK = """
import resource, signal, sys
from ddcli import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(cli.main(sys.argv[2:]))
"""


def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint_and_no_part_of_a_file(text_file, tmp_path):
    """No file may be larger than the weights less a little, so the first write of the resumed run fails."""
    run = tmp_path / "run"
    stop_at(4, run, tiny_config(text_file))
    before = files(run / "checkpoints")
    size = (run / "model.safetensors").stat().st_size - 1000
    arguments = [*flags(text_file), "-o", run, "--resume", "-q"]
    found = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, str(size), "train", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    told = f"the checkpoint of step 4 is untouched; go on with: ddcli train --resume -o {run}\n"
    assert found.stderr == f"ddcli: {run} cannot be written: File too large (os error 27); {told}"
    assert found.stderr.count("\n") == 1
    assert files(run / "checkpoints") == before
    assert not [path for path in run.rglob(".*")]
    train_tiny(run, text_file, resume=True)
    train_tiny(tmp_path / "whole", text_file)
    assert_same_run(run, tmp_path / "whole")


def test_a_folder_that_goes_away_is_a_failed_run_in_words(text_file, tmp_path):
    run = tmp_path / "run"

    class Remover(Heard):
        def progress(self, step):
            if step == 3:
                run.rename(tmp_path / "elsewhere")

    with pytest.raises(RunFailed, match=f"{run} cannot be written: there is no such folder any more"):
        train(tiny_config(text_file), run, reporter=Remover())
    assert not run.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused_in_words(text_file, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RunFailed, match="Permission denied"):
        train_tiny(tmp_path / "closed/run", text_file)


# -- two at once ------------------------------------------------------------------------------------------


def test_two_processes_do_not_train_in_one_folder(text_file, tmp_path):
    run = tmp_path / "run"
    with held(run):
        for resume in (False, True):
            with pytest.raises(DdcliError, match=f"another process is training in {run}; wait for it"):
                train_tiny(run, text_file, resume=resume)
    assert not run.exists()  # nothing was written, so nothing is left
    train_tiny(run, text_file)


def test_a_lock_that_a_killed_process_left_is_no_obstacle(text_file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    train_tiny(run, text_file)
    assert not (run / ".lock").exists()


def test_a_run_that_another_process_finished_meanwhile_is_not_written_over(text_file, tmp_path, monkeypatch):
    run, planned = tmp_path / "run", plans.make_plan

    def plan(*arguments):
        monkeypatch.setattr(plans, "make_plan", planned)
        train_tiny(run, text_file)
        return planned(*arguments)

    monkeypatch.setattr(plans, "make_plan", plan)
    with pytest.raises(DdcliError, match="already holds a run"):
        train_tiny(run, text_file, train__seed=1)
    assert "seed = 0" in (run / "config.toml").read_text()


def test_a_brake_that_nobody_pulls_lets_go_on():
    assert Brake().exit_code is None
    assert Brake(received=[signal.SIGTERM]).exit_code == 143
