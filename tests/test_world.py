"""Several processes train the run that one trains, go on with each other's checkpoints, and stop together."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import Failure, together
from safetensors.torch import load_file
from tiny import (
    SETTINGS,
    Heard,
    Outcome,
    assignments,
    command,
    copy_of,
    metrics,
    stop_at,
    tiny_config,
    train_tiny,
    words,
)

from ddcli import plan, training
from ddcli.checkpoint import checkpoints
from ddcli.data import Blocks, StreamBlocks
from ddcli.errors import DdcliError
from ddcli.step import Task
from ddcli.tokenizer import make_tokenizer
from ddcli.training import earliest, train
from ddcli.world import ALONE, World

NEAR = 1e-4  # of the size of a tensor: sums over processes are rounded otherwise
BATCH = {"train__batch_size": 16}


def trained(config, run, resume=False, reporter=None):
    """Train, and return what was told."""
    heard = reporter or Heard()
    train(config, run, resume=resume, reporter=heard)
    return heard


def train_by(size, run, source, *, resume=False, **changes):
    """Train with so many processes."""
    found = together(size, trained, tiny_config(source, **BATCH | changes), run, resume)
    assert all(isinstance(heard, Heard) for heard in found), found
    return found


def tensors(run, step=None):
    folder = dict(checkpoints(run))[step] if step else checkpoints(run)[-1][1]
    return {
        f"{group}/{name}": tensor
        for group in ("weights", "ema", "optimizer")
        for name, tensor in load_file(folder / f"{group}.safetensors").items()
    }


def assert_near_tensors(run, other):
    mine, theirs = tensors(run), tensors(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert (tensor - theirs[name]).norm() <= NEAR * theirs[name].norm(), name


def number(found):
    """What JSON has none for, as one that equals itself alone: of a list, each."""
    if isinstance(found, list):
        return [number(x) for x in found]
    return math.nan if found is None else found


def assert_near(run, other):
    """Weights, averages, moments and figures, but for how sums are rounded."""
    assert_near_tensors(run, other)
    mine, theirs = metrics(run), metrics(other)
    assert [line.keys() for line in mine] == [line.keys() for line in theirs]
    for line, same in zip(mine, theirs, strict=True):
        for name in line.keys() - {"seconds", "tokens_per_second"}:
            assert number(line[name]) == pytest.approx(number(same[name]), rel=1e-3, nan_ok=True), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory, text_file):
    """A run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train_tiny(run, text_file, **BATCH, samples__every=10, samples__count=3)
    return run


# -- the same run -----------------------------------------------------------------------------------------


# that shared weights make no difference is held below too, where four processes go on with fewer
@pytest.mark.parametrize(
    "shard",
    [pytest.param(False, id="replicated"), pytest.param(True, id="sharded", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_so_many_processes_train_the_run_that_one_trains(alone, text_file, tmp_path, size, shard):
    changes = {"samples__every": 10, "samples__count": 3, "train__shard": shard}
    first, *others = train_by(size, tmp_path / "run", text_file, **changes)
    assert_near(tmp_path / "run", alone)
    for text in (alone / "samples").iterdir():
        assert (tmp_path / "run/samples" / text.name).read_text() == text.read_text()
    assert first.steps == list(range(1, 21))
    assert not any(heard.steps or heard.lines for heard in others)


@pytest.mark.parametrize(
    ("size", "parts"),
    [pytest.param(3, 1, marks=pytest.mark.slow), pytest.param(2, 3, marks=pytest.mark.slow), (3, 5)],
)
def test_batches_are_shared_out_and_read_in_parts_in_any_way(alone, text_file, tmp_path, size, parts):
    """16 sequences on 3 processes, in 5 parts each: the sum over them is divided by the count of all."""
    train_by(size, tmp_path / "run", text_file, train__accumulate=parts, **{"samples__every": 0})
    assert_near_tensors(tmp_path / "run", alone)


def test_processes_share_out_what_is_measured_and_drawn(absorbing_run):
    measured = ["eval", absorbing_run, "--limit", "5", "--draws", "1", "--batch-size", "2", "--json"]
    alone, (first, second) = command(*measured), together(2, command, *measured)
    assert (first.code, second) == (0, Outcome(0, b"", ""))
    found, same = (
        json.loads(outcome.out, parse_float=lambda digits: f"{float(digits):.9g}")  # sums in another order
        for outcome in (first, alone)
    )
    assert found == same
    drawn = ["sample", absorbing_run, "-n", "3", "--seed", "7", "--steps", "4", "--json"]
    alone, (first, *others) = command(*drawn), together(4, command, *drawn)  # one of which has none to draw
    assert (first.out, others) == (alone.out, [Outcome(0, b"", "")] * 3)
    assert "seed 7" in first.err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["infill", "RUN", "-"], "ddcli infill is of one process"),
        (["eval", "RUN", "--sweep", "steps=2"], "several processes share the bound alone"),
        (["sample", "RUN", "-o", "nowhere/x.txt"], "there is no folder nowhere"),
    ],
)
def test_what_is_of_one_process_is_refused_by_one_of_several(absorbing_run, line, told):
    line = [str(absorbing_run) if part == "RUN" else part for part in line]
    first, second = together(2, command, *line)
    assert told in first.err
    assert (first.code, first.out, first.err.count("\n")) == (2, b"", 1)
    assert second == Outcome(2, b"", "")


WAYS = {
    "uniform, told its guess": {"process__name": "uniform", "model__self_condition": True},
    "hybrid, in steps": {"process__name": "hybrid", "objective__name": "discrete-elbo"},
    "blocks": {"model__block": 8},
    "in order": {"process__name": "autoregressive"},
    "by matrices": {"process__name": "gaussian"},
    "by scores": {"process__name": "stationary:unigram", "objective__name": "score-entropy"},
    "a chosen range of times": {"train__times": "clipped"},
    "recomputed": {"train__recompute": True},
    "minds that wander": {"train__drop_prefix": 0.3, "process__name": "uniform"},
}


FEW = ("uniform, told its guess", "blocks")


@pytest.mark.parametrize(
    "changes",
    [pytest.param(WAYS[way], id=way, marks=() if way in FEW else pytest.mark.slow) for way in WAYS],
)
def test_every_way_of_training_can_be_shared(text_file, tmp_path, changes):
    short = {"train__steps": 6, "validation__every": 3, "checkpoint__every": 6, "metrics__every": 1}
    train_tiny(tmp_path / "one", text_file, **BATCH, **short, **changes)
    train_by(2, tmp_path / "two", text_file, **short, **changes)
    assert_near(tmp_path / "two", tmp_path / "one")


def test_weights_that_are_shared_train_in_blocks_and_recomputed(text_file, tmp_path):
    short = {"train__steps": 6, "checkpoint__every": 6, "model__block": 8, "process__name": "uniform"}
    train_tiny(tmp_path / "one", text_file, **BATCH, **short)
    train_by(2, tmp_path / "two", text_file, **short, train__shard=True, train__recompute=True)
    assert_near(tmp_path / "two", tmp_path / "one")


def test_what_is_computed_again_is_what_it_was(text_file, tmp_path):
    for run, changes in {"kept": {}, "again": {"train__recompute": True}}.items():
        train_tiny(tmp_path / run, text_file, **changes)
    assert all(
        torch.equal(again, kept)
        for again, kept in zip(
            tensors(tmp_path / "again").values(), tensors(tmp_path / "kept").values(), strict=True
        )
    )


# -- going on ---------------------------------------------------------------------------------------------


class StopAt(Heard):
    """Stops one process after a step, as a scheduler would."""

    def __init__(self, step):
        super().__init__()
        self.at = step

    def progress(self, step):
        super().progress(step)
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "shard",
    [pytest.param(False, id="replicated", marks=pytest.mark.slow), pytest.param(True, id="sharded")],
)
def test_a_run_of_four_processes_goes_on_with_three_two_or_one(alone, text_file, tmp_path, shard):
    config = tiny_config(text_file, **BATCH, train__shard=shard, samples__every=10, samples__count=3)
    run = tmp_path / "run"
    for size, step in ((4, 5), (3, 9), (2, 14)):
        stopped = together(size, trained, config, run, step > 5, StopAt(step))
        assert [failure.name for failure in stopped] == ["Stopped", *["Followed"] * (size - 1)]
        assert {failure.exit_code for failure in stopped} == {143}
        assert checkpoints(run)[-1][0] == step
    trained(config, run, resume=True)
    assert_near(run, alone)


def test_a_run_of_one_process_goes_on_with_two(alone, text_file, tmp_path):
    config = tiny_config(text_file, **BATCH, samples__every=10, samples__count=3)
    stop_at(7, tmp_path / "run", config)
    train_by(2, tmp_path / "run", text_file, resume=True, samples__every=10, samples__count=3)
    assert_near(tmp_path / "run", alone)


# -- data that comes as a stream ----------------------------------------------------------------------------


class Shards:
    """Words, dealt out to shards, which remembers which of them were read."""

    def __init__(self, shards):
        self.shards, self.read = shards, set()

    def shard(self, number, start):
        self.read.add(number)
        yield from words(40, seed=number).splitlines()[start:]


def streams(count, lanes, shards=8):
    return [StreamBlocks(Shards(shards), TOKENIZER, 8, held_out=4, lanes=lanes) for _ in range(count)]


TOKENIZER = make_tokenizer("char", [words(40)], print)


@pytest.mark.parametrize(("lanes", "used"), [(1, 1), (4, 4), (6, 6), (8, 6), (100, 12)])
def test_processes_read_their_own_rows_of_a_stream_from_their_own_shards(monkeypatch, lanes, used):
    """12 rows of 12 shards, in lanes whose number divides both."""
    monkeypatch.setattr(StreamBlocks, "window", 48)
    (whole,) = streams(1, lanes, 12)
    parts = streams(3, lanes, 12)
    for step in range(9):
        tokens = whole.batch(step, 12, seed=1).tokens
        for rank, stream in enumerate(parts):
            share = World(rank, 3).share(12)
            rows = stream.batch(step, 12, 1, share)
            assert (rows.of, rows.first) == (12, 4 * rank)
            assert (rows.tokens == tokens[share.start : share.stop]).all()
    assert len(whole.place()) == used
    read = [stream.documents.read - {0} for stream in parts]  # all of them look there for what is held out
    if used >= 6:
        assert sum(map(len, read)) == 11
        assert set.union(*read) == set(range(1, 12))


@pytest.mark.parametrize("step", [0, 5, 11])
def test_a_stream_goes_on_in_any_number_of_processes(monkeypatch, step):
    monkeypatch.setattr(StreamBlocks, "window", 48)
    (whole,) = streams(1, 4)
    wanted = [whole.batch(i, 12, seed=1).tokens.tolist() for i in range(step + 6)][step:]
    before, after = streams(3, 4), streams(2, 4)
    for rank, stream in enumerate(before):
        for i in range(step):
            stream.batch(i, 12, 1, World(rank, 3).share(12))
    place = earliest([stream.place() for stream in before])
    assert len(place) == (4 if step else 0)
    found = []
    for rank, stream in enumerate(after):
        stream.go_to(json.loads(json.dumps(place)))
        shares = [stream.batch(step + i, 12, 1, World(rank, 2).share(12)).tokens for i in range(6)]
        found.append(shares)
    assert [[*a.tolist(), *b.tolist()] for a, b in zip(*found, strict=True)] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "sharded"])
def test_a_run_on_streamed_files_goes_on_in_any_number_of_processes(tmp_path, shard):
    """In parts of batches, from a step amid a window, by one process, then three, then two."""
    for i in range(6):
        texts = words(800, seed=i).splitlines()
        (tmp_path / f"{i}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = str(tmp_path / "*.jsonl")
    stream = {"data__streaming": True, "train__batch_size": 12, "train__accumulate": 2, "train__shard": shard}
    train_tiny(tmp_path / "whole", source, **stream)
    run, config = tmp_path / "run", tiny_config(source, **stream)
    stop_at(3, run, config)
    stopped = together(3, trained, config, run, True, StopAt(9))
    assert {failure.exit_code for failure in stopped} == {143}
    assert checkpoints(run)[-1][0] == 9
    train_by(2, run, source, resume=True, **stream)
    assert_near(run, tmp_path / "whole")


def test_a_lane_without_a_document_is_refused_by_its_shards():
    class Bare(Shards):
        def shard(self, number, start):
            return super().shard(number, start) if number % 2 == 0 else iter([None])

    stream = StreamBlocks(Bare(4), TOKENIZER, 8, held_out=4, lanes=2)
    with pytest.raises(DdcliError, match=r"shards 2, 4, ... of the stream .* data.lanes=1"):
        stream.batch(0, 2, seed=0)


def test_asking_where_a_block_is_does_not_move_a_stream():
    (stream,) = streams(1, 4)
    for step in range(30):
        stream.batch(step, 12, 1, range(3))
    before = stream.place()
    assert stream.where(30, 12, 1).count("lane") == 4
    assert stream.place() == before


@pytest.mark.parametrize(("shards", "used"), [(9, 3), (10, 2), (11, 1), (12, 4), (32, 4), (35, 4), (31, 3)])
def test_lanes_have_as_many_shards_as_each_other_or_nearly(shards, used):
    (stream,) = streams(1, 4, shards)
    stream.batch(0, 12, 1)
    assert len(stream.place()) == used


# -- ending together --------------------------------------------------------------------------------------


def trained_on(config, run, other):
    """The second process reads something else."""
    if World.here().rank == 1:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": other})})
    return trained(config, run)


def test_what_one_process_cannot_do_none_does_and_one_says_why(text_file, tmp_path):
    config = tiny_config(text_file)
    first, second = together(2, trained_on, config, tmp_path / "run", str(tmp_path / "gone.txt"))
    assert first == Failure("Followed", "", 2)
    assert second.message.startswith("process 2 of 2: ")
    assert "gone.txt" in second.message
    assert not (tmp_path / "run").exists()


def test_processes_that_read_different_data_are_refused(text_file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(words(300, seed=1))
    first, second = together(2, trained_on, tiny_config(text_file), tmp_path / "run", str(other))
    assert first == Failure(
        "DdcliError", "the processes read different data; give all of them the same files", 2
    )
    assert second == Failure("Followed", "", 2)


def in_own_folder(config, run):
    """Each process has a folder of its own."""
    return trained(config, Path(f"{run}-{World.here().rank}"), resume=True)


def test_processes_that_see_different_folders_are_refused(alone, text_file, tmp_path):
    copy_of(alone, tmp_path).rename(tmp_path / "run-0")
    found = together(2, in_own_folder, tiny_config(text_file, **BATCH), tmp_path / "run")
    assert "see different run folders" in found[0].message
    assert found[1] == Failure("Followed", "", 2)


def with_own_settings(config, run):
    """The second process was started otherwise."""
    if World.here().rank:
        config = config.model_copy(update={"train": config.train.model_copy(update={"lr": 0.1})})
    return trained(config, run)


def test_processes_of_different_settings_are_refused(text_file, tmp_path):
    found = together(2, with_own_settings, tiny_config(text_file), tmp_path / "run")
    assert "have different settings; start all of them alike" in found[0].message


def failing_alone(config, run, when, error):
    """The second process meets an error of its own, at a batch."""
    whole = Blocks.batch

    def batch(self, step, *rest):
        if World.here().rank == 1 and step == when:
            if error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise error
        return whole(self, step, *rest)

    Blocks.batch = batch
    return trained(config, run)


def test_an_error_that_one_process_meets_is_told_by_it(text_file, tmp_path):
    error = DdcliError("rows.jsonl line 7 is not a text")
    first, second = together(2, failing_alone, tiny_config(text_file), tmp_path / "run", 3, error)
    assert second == Failure("DdcliError", "process 2 of 2: rows.jsonl line 7 is not a text", 2)
    assert first.message.startswith("process 1 of 2 has lost another one")


def killed_reading(config, run):
    """The second process is killed while it reads its data."""

    def read(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if World.here().rank:
        plan.read_training_data = read
    return trained(config, run)


def test_a_process_that_is_killed_before_the_first_step_is_missed(text_file, tmp_path):
    first, second = together(2, killed_reading, tiny_config(text_file), tmp_path / "run")
    assert second is None
    assert first.message.startswith("process 1 of 2 has lost another one")


def saving_slowly(config, run):
    """When each process is done, by the clock; the first takes a second to write."""
    whole = training.save_checkpoint

    def save(*arguments):
        time.sleep(1)
        whole(*arguments)

    training.save_checkpoint = save
    trained(config, run)
    return time.time()


def test_no_process_leaves_before_the_last_checkpoint_is_written(text_file, tmp_path):
    """A launcher ends all of them once one has left."""
    config = tiny_config(text_file, checkpoint__every=20)
    left = together(2, saving_slowly, config, tmp_path / "run")
    newest = checkpoints(tmp_path / "run")[-1][1]
    assert min(left) > (newest / "manifest.json").stat().st_mtime


def spoilt(config, run):
    """Of one step the second process's loss is no number."""
    whole, steps = Task.loss, []

    def loss(self, *arguments):
        steps.append(None)
        return whole(self, *arguments) * (math.nan if len(steps) == 4 and World.here().rank else 1)

    Task.loss = loss
    return trained(config, run)


@pytest.mark.slow
def test_a_step_that_comes_to_no_number_in_one_process_is_left_out_by_all(text_file, tmp_path):
    first, _ = together(2, spoilt, tiny_config(text_file, metrics__every=1), tmp_path / "run")
    assert "the loss is nan" in first.text
    assert [line.get("skipped_steps", 0) for line in metrics(tmp_path / "run")][:6] == [0, 0, 0, 0, 1, 0]


@pytest.mark.slow
def test_minutes_are_as_many_steps_in_every_process(text_file, tmp_path):
    changes = {"train__minutes": 0.05, "train__steps": None, "samples__every": 10, "samples__count": 1}
    first, _ = train_by(2, tmp_path / "run", text_file, **changes)
    assert first.steps == list(range(1, len(first.steps) + 1))
    assert checkpoints(tmp_path / "run")[-1][0] == len(first.steps)


@pytest.mark.slow
def test_a_finished_run_is_finished_for_all(alone, text_file):
    first, second = train_by(2, alone, text_file, resume=True, samples__every=10, samples__count=3)
    assert "is finished at step 20" in first.text
    assert not second.lines


def test_an_indexed_device_is_refused(text_file, tmp_path, monkeypatch):
    found = together(2, trained, tiny_config(text_file, train__device="cpu:0"), tmp_path / "run")
    assert "all processes would compute on cpu:0" in found[0].message


def test_a_batch_too_small_to_be_shared_out_is_refused(text_file, tmp_path):
    changes = {"train__batch_size": 8, "train__accumulate": 3}
    first, *_ = together(3, trained, tiny_config(text_file, **changes), tmp_path / "run")
    assert "--batch-size (8) is too small" in first.message
    assert "(3) parts in each of 3 processes" in first.message


def test_a_range_of_times_cannot_be_chosen_where_weights_are_shared(text_file, tmp_path):
    config = tiny_config(text_file, train__times="clipped", train__shard=True)
    first, _ = together(2, trained, config, tmp_path / "run")
    assert "clipped times are not chosen" in first.message


def test_a_folder_that_holds_a_run_is_refused_once(alone, text_file):
    first, second = together(2, trained, tiny_config(text_file), alone)
    assert "already holds a run" in first.message
    assert second == Failure("Followed", "", 2)


class Dies(Heard):
    """The first process is killed after a step."""

    def progress(self, step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)


def test_where_a_process_is_killed_the_others_say_so_and_the_run_goes_on(alone, text_file, tmp_path):
    config = tiny_config(text_file, **BATCH, checkpoint__every=5, samples__every=10, samples__count=3)
    first, *others = together(3, trained, config, tmp_path / "run", False, Dies())
    assert first is None
    for rank, failure in enumerate(others, 2):
        assert failure.name == "RunFailed"
        go_on = f"go on with: ddcli train --resume -o {tmp_path / 'run'}"
        assert failure.message == f"process {rank} of 3 has lost another one; {go_on}"
    assert checkpoints(tmp_path / "run")[-1][0] == 5
    train(config, tmp_path / "run", resume=True)
    assert_near(tmp_path / "run", alone)


def test_alone_nothing_is_exchanged():
    assert ALONE.share(5) == range(5)
    assert ALONE.gather("x") == ["x"]
    assert ALONE.all(1, 2.5).tolist() == [[1.0, 2.5]]
    with pytest.raises(DdcliError, match="as it is"), ALONE.together():
        raise DdcliError("as it is")


@pytest.mark.parametrize(("count", "size"), [(16, 3), (2, 4), (8, 8), (1, 1)])
def test_shares_are_even_and_leave_nothing_out(count, size):
    shares = [World(rank, size).share(count) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# -- as people start it -----------------------------------------------------------------------------------


def launched(launcher, run, source, **changes):
    """A job of two processes of the command, by a launcher."""
    settings = assignments({**SETTINGS, "data.source": str(source), "train.batch_size": 16, **changes})
    command = [sys.executable, "-m", *launcher, "-m", "ddcli", "train", *settings, "-o", str(run)]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_torchrun_starts_it_and_a_killed_process_ends_it(text_file, tmp_path):
    torchrun, run = ["torch.distributed.run", "--nproc-per-node", "2"], tmp_path / "run"
    job = launched(torchrun, run, text_file, **{"train.steps": 100_000, "checkpoint.every": 5})
    for _ in range(2400):
        if checkpoints(run):
            break
        assert job.poll() is None
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True)
    os.kill(max(map(int, children.stdout.split())), signal.SIGKILL)
    told = job.communicate(timeout=30)[1]
    assert job.returncode != 0
    assert f"ddcli: process 1 of 2 has lost another one; go on with: ddcli train --resume -o {run}" in told
