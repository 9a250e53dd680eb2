"""Training: it learns, it stops and goes on as if it never had, and it refuses before it writes."""

import errno
import itertools
import json
import math
import os
import shutil
import signal
import threading
import tomllib
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny import (
    LENGTH,
    Heard,
    StopAt,
    assert_same_run,
    copy_of,
    edit_json,
    files,
    metrics,
    names,
    stop_at,
    timeless,
    tiny_config,
    train_tiny,
    words,
)

import ddcli
from ddcli import start, training
from ddcli.checkpoint import checkpoints
from ddcli.config import load_config
from ddcli.data import Lane, StreamBlocks
from ddcli.denoiser import NetworkDenoiser
from ddcli.device import can_compile, memory_kept
from ddcli.errors import DdcliError, RunFailed, counted, printable
from ddcli.evaluation import bound
from ddcli.objective import OBJECTIVES
from ddcli.optimizer import BETAS, OPTIMIZERS, make_optimizer
from ddcli.pace import Pace
from ddcli.plan import Silent, dry_run, make_plan
from ddcli.randomness import Streams
from ddcli.schedule import SCHEDULES, EvenTimes
from ddcli.step import State, Task, given_spans, gradient_noise, learning_rate
from ddcli.stopping import Stopped
from ddcli.training import train
from ddcli.weights import fill

CPU = torch.device("cpu")


def load_ema(run):
    return load_file(checkpoints(run)[-1][1] / "ema.safetensors")


def task_of(plan, **changes):
    return replace(plan.task, **{"times": EvenTimes(), **changes})


def denoiser_of(plan):
    return NetworkDenoiser(plan.network, plan.process, plan.head, torch.float32)


def symbols_of(plan):
    """How many symbols a text is made of."""
    return plan.data.tokenizer.vocab_size - len(plan.data.excluded_ids)


# -- where it starts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("objective", ["elbo", "discrete-elbo", "score-entropy"])
@pytest.mark.parametrize("lines", [False, True])
def test_an_absorbing_loss_starts_at_the_log_of_the_number_of_symbols(
    text_file, names_file, objective, schedule, lines
):
    """Each masked token costs ln V, times the weight of its clock, where all logits are 0."""
    source = names_file if lines else text_file
    config = tiny_config(
        source,
        data__lines=lines,
        data__length=None if lines else LENGTH,
        objective__name=objective,
        objective__timesteps=10_000 if objective == "discrete-elbo" else None,
        process__schedule=schedule,
    )
    plan = make_plan(config, None, Silent())
    torch.nn.init.zeros_(plan.network.head.weight)
    task = task_of(plan)
    noised = task.noised(plan.data.train.batch(0, 16, 0), 0, CPU)
    masked = noised.xt == plan.data.tokenizer.mask_id
    weight = plan.process.loss_weight(noised.clock[masked]).sum()
    loss = task.loss(denoiser_of(plan), noised)
    assert (masked & ~noised.running).sum() == 0
    # of 10,000 steps, the discrete weight differs from the density's by the change of the density in a step
    assert loss.item() == pytest.approx(math.log(symbols_of(plan)) * weight.item(), rel=2e-3)


def test_a_uniform_loss_starts_at_the_log_of_the_number_of_symbols_in_the_mean(text_file):
    plan = make_plan(
        tiny_config(text_file, process__name="uniform", train__given=0, objective__name="elbo"),
        None,
        Silent(),
    )
    task, nats, tokens = task_of(plan), 0.0, 0
    with torch.no_grad():
        for step in range(8):
            noised = task.noised(plan.data.train.batch(step, 128, 0), step, CPU)
            nats += task.loss(denoiser_of(plan), noised).item()
            tokens += int(noised.running.sum())
    assert nats / tokens == pytest.approx(math.log(symbols_of(plan)), rel=0.1)


@pytest.mark.parametrize("documents", [1, 30])
def test_the_bound_before_training_is_the_log_of_the_number_of_symbols(tmp_path, documents):
    """Of a head that begins at zero, as beside a clock. The end of a document among several is a symbol."""
    source = tmp_path / "data.jsonl"
    texts = [words(600 // documents, seed) for seed in range(documents)]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    train_tiny(tmp_path / "run", source, train__steps=1, model__clock="time")
    first = metrics(tmp_path / "run")[0]
    symbols = len(set("".join(texts))) + (documents > 1)
    assert first["step"] == 0
    assert first["bound_nats_per_token"] == pytest.approx(math.log(symbols), rel=1e-6)
    assert first["bound_stderr"] == pytest.approx(0, abs=1e-6)
    assert first["bound_perplexity"] == pytest.approx(symbols, rel=1e-5)


def test_metrics_are_json_even_where_an_error_cannot_be_estimated(tmp_path):
    (tmp_path / "data.txt").write_text(words(20))
    train_tiny(tmp_path / "run", tmp_path / "data.txt", train__steps=1)  # a single block to validate on
    text = (tmp_path / "run/metrics.jsonl").read_text()
    first = json.loads(text.splitlines()[0], parse_constant=pytest.fail)
    assert first["bound_stderr"] is None
    assert first["bound_nats_per_token"] > 0


def test_the_bound_of_a_uniform_model_before_training_is_the_same_but_for_its_error(text_file, tmp_path):
    """If its head does not begin by repeating what it reads, as one of the posterior may."""
    heads = {"process__name": "uniform", "model__predicts": "leave-one-out"}
    train_tiny(tmp_path / "run", text_file, train__steps=1, **heads)
    first = metrics(tmp_path / "run")[0]
    symbols = len(set(words(300)))
    assert abs(first["bound_nats_per_token"] - math.log(symbols)) < 4 * first["bound_stderr"]


# -- that it learns ---------------------------------------------------------------------------------------

LEARNERS = [
    *itertools.product(("absorbing", "uniform"), OBJECTIVES),
    *itertools.product(("hybrid", "stationary", "band:1", "gaussian:2", "autoregressive"), ["auto"]),
]


@pytest.mark.parametrize(("process", "objective"), LEARNERS)
def test_training_on_a_periodic_text_finds_more_than_its_letters(tmp_path, process, objective):
    """Well below the unigram entropy, ln 6, which no model blind to context can pass."""
    (tmp_path / "periodic.txt").write_text("abcdef" * 1000)
    run = tmp_path / "run"
    train_tiny(
        run,
        tmp_path / "periodic.txt",
        process__name=process,
        objective__name=objective,
        train__steps=120,
        train__lr=0.01,
        train__ema=0.1,
        validation__every=120,
        validation__final_draws=8,
    )
    assert metrics(run)[-1]["bound_nats_per_token"] < 0.5 * math.log(6)


def test_a_trained_model_is_better_than_its_letters_and_says_so(absorbing_run):
    lines = [line for line in metrics(absorbing_run) if "bound_nats_per_token" in line]
    text = words(300)
    shares = [text.count(c) / len(text) for c in set(text)]
    unigram = -sum(p * math.log(p) for p in shares)
    assert lines[-1]["bound_nats_per_token"] < unigram < lines[0]["bound_nats_per_token"]


# -- what it writes ---------------------------------------------------------------------------------------


def test_a_run_folder_holds_everything(absorbing_run):
    assert {p.name for p in absorbing_run.iterdir()} == {
        "README.md",
        "checkpoints",
        "config.json",
        "config.toml",
        "generation_config.json",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "run.json",
        "samples",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [p.name for p in sorted((absorbing_run / "samples").iterdir())] == [
        "step-00000050.txt",
        "step-00000100.txt",
    ]
    newest = absorbing_run / "checkpoints/step-00000100"
    assert {p.name for p in newest.iterdir()} == {
        "ema.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    }


def test_nothing_in_a_run_folder_is_a_pickle(absorbing_run):
    for name, content in files(absorbing_run).items():
        assert name.endswith(".safetensors") or content.decode().isprintable() or b"\n" in content, name
        assert name.endswith((".safetensors", ".json", ".jsonl", ".toml", ".md", ".txt", ".html")), name


def test_metrics_say_what_happened_and_when(absorbing_run):
    lines = metrics(absorbing_run)
    always, trained = {"step", "seconds"}, {"loss", "tokens_per_second", "lr", "gradient_norm"}
    bounds = {"bound_nats_per_token", "bound_bits_per_char", "bound_stderr", "bound_perplexity"}
    bounds |= {"literature_nats_per_token", "bound_by_time"}
    assert [line["step"] for line in lines] == [0, *range(5, 101, 5)]
    for line in lines:
        expected = set(always)
        expected |= trained if line["step"] else set()
        expected |= bounds if line["step"] % 10 == 0 else set()
        assert line.keys() == expected
    assert all(line["bound_nats_per_token"] > 0 for line in lines if "bound_stderr" in line)
    last = lines[-1]
    assert last["bound_perplexity"] == pytest.approx(math.exp(last["bound_nats_per_token"]))
    # one token is one character here
    assert last["bound_bits_per_char"] == pytest.approx(last["bound_nats_per_token"] / math.log(2))
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_validation_can_be_turned_off(text_file, tmp_path):
    train_tiny(tmp_path / "run", text_file, validation__every=0)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [5, 10, 15, 20]
    assert not any("bound" in key for line in metrics(tmp_path / "run") for key in line)
    assert "Bound" not in (tmp_path / "run/README.md").read_text()


def test_speed_and_loss_are_those_since_the_last_line(text_file, tmp_path, monkeypatch):
    """By a clock that ticks whenever one looks at it; the third step takes a hundred ticks more."""
    ticks = iter(range(1000))

    def step(run, number):
        run.state.step += 1
        [next(ticks) for _ in range(100 * (number == 2))]
        return float(number), 1.0, 1000

    monkeypatch.setattr(training._Run, "_step", step)
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(State, "tensors", lambda self: {"ema": self.ema})
    train_tiny(tmp_path / "run", text_file, train__steps=6, metrics__every=2, validation__every=0)
    lines = metrics(tmp_path / "run")
    assert [line["loss"] for line in lines] == [0.5, 2.5, 4.5]
    assert [line["tokens_per_second"] for line in lines] == [1000.0, round(2000 / 102, 1), 1000.0]


def test_the_card_says_what_the_model_is(absorbing_run):
    card = (absorbing_run / "README.md").read_text()
    last = metrics(absorbing_run)[-1]
    known = json.loads((absorbing_run / "run.json").read_text())["by_frequency_bits_per_char"]
    assert 2 < known < 6  # of letters
    assert f"{last['bound_bits_per_char']:.3f} bits per character ({known:.2f} by how frequent" in card
    assert "`absorbing`, `linear` schedule" in card
    assert "Trained for 100 of 100 steps of 8 sequences, by muon, in float32, last on " in card
    assert f"torch {version('torch')}" in card
    sample = (absorbing_run / "samples/step-00000100.txt").read_text().partition("\n---\n")[0]
    assert printable(sample, keep="\n") in card
    assert "Sampler, if nobody says: `ancestral`, 128 steps" in card
    assert str(absorbing_run.parent) not in card  # which strangers may read
    front = ModelCard(card).data.to_dict()
    assert (front["library_name"], front["pipeline_tag"]) == ("ddcli", "fill-mask")


def test_samples_during_training_are_told_and_written(text_file, tmp_path):
    told = {}

    class Listener(Silent):
        def samples(self, step, texts):
            told[step] = texts

    config = tiny_config(text_file, samples__every=10, samples__count=3)
    run = train(config, tmp_path / "run", reporter=Listener())
    assert list(told) == [10, 20]
    assert all(len(texts) == 3 and all(len(text) == LENGTH for text in texts) for texts in told.values())
    for step, texts in told.items():
        assert (run / f"samples/step-{step:08}.txt").read_text() == "\n---\n".join(texts) + "\n"


def test_validation_and_samples_leave_no_trace_in_the_weights(text_file, tmp_path):
    busy = {"validation__every": 3, "samples__every": 4, "metrics__every": 1, "checkpoint__every": 5}
    train_tiny(tmp_path / "busy", text_file, **busy)
    train_tiny(tmp_path / "calm", text_file, validation__every=0, checkpoint__every=100)
    mine, theirs = (checkpoints(tmp_path / name)[-1][1] for name in ("busy", "calm"))
    for name in ("weights", "ema", "optimizer"):
        assert (mine / f"{name}.safetensors").read_bytes() == (theirs / f"{name}.safetensors").read_bytes()


def test_the_same_seed_is_the_same_run_and_another_is_another(text_file, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_tiny(tmp_path / name, text_file, train__seed=seed, train__steps=5)
    a, b, c = (load_file(tmp_path / name / "model.safetensors")["embedding.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid", "band", "autoregressive"])
def test_the_bound_is_that_of_the_averaged_weights_which_are_the_ones_saved(text_file, tmp_path, process):
    config = tiny_config(text_file, process__name=process, train__ema=0.5, train__lr=0.01)
    run = train(config, tmp_path / "run")
    told = metrics(run)[-1]
    saved, average = load_file(run / "model.safetensors"), load_ema(run)
    assert all(saved[name].equal(weight) for name, weight in average.items())
    valid, draws = make_plan(config, None, Silent()).data.valid, config.validation.final_draws
    model = ddcli.load(run)

    def measured():
        found = bound(model.denoiser, model.process, valid, sequences=4, draws=draws)
        return found.nats_per_token, found.stderr

    expected = (told["bound_nats_per_token"], told["bound_stderr"])
    assert measured() == pytest.approx(expected, rel=1e-5)
    raw = load_file(checkpoints(run)[-1][1] / "weights.safetensors")
    fill(model.denoiser.denoiser.network, raw)
    assert measured() != pytest.approx(expected, rel=2e-4)


def test_weights_begin_as_the_seed_says(text_file):
    first = [make_plan(tiny_config(text_file, train__seed=s), None, Silent()) for s in (1, 1, 2)]
    a, b, c = (plan.network.embedding.weight for plan in first)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_validation_data_of_their_own_are_what_is_validated_on(text_file, tmp_path):
    (tmp_path / "valid.txt").write_text("the cat sat on a mat " * 50)
    (tmp_path / "strange.txt").write_text("zqxj" * 300)
    bounds = {}
    for name in ("valid", "strange"):
        source = tmp_path / f"{name}.txt"
        config = tiny_config(text_file, data__valid=str(source), train__steps=1, data__tokenizer="byte")
        plan = make_plan(config, None, Silent())
        bounds[name] = plan.data.valid.tokens
        assert bytes(plan.data.valid.tokens[0].tolist()) == source.read_bytes()[:LENGTH]
    assert bounds["valid"].shape != bounds["strange"].shape


# -- accumulation, precision ------------------------------------------------------------------------------


FIRST = ("momentum", "exp_avg")  # moments, of Muon and of AdamW


@pytest.mark.parametrize("case", ["absorbing", "uniform", "records"])
def test_accumulating_changes_neither_the_loss_nor_the_gradient(text_file, names_file, tmp_path, case):
    """The first moment of the optimizer is a weighted sum of the gradients."""
    lines = case == "records"
    changes = {
        "process__name": "absorbing" if lines else case,
        "data__lines": lines,
        "data__length": None if lines else LENGTH,
        "train__steps": 100,  # so that warm-up keeps the four steps small
        "train__clip": 1e9,
        "validation__every": 0,
        "metrics__every": 1,
    }
    found = []
    for parts in (1, 2, 4):
        run = tmp_path / f"in {parts}"
        source = names_file if lines else text_file
        stop_at(4, run, tiny_config(source, train__accumulate=parts, **changes))
        moments = load_file(run / "checkpoints/step-00000004/optimizer.safetensors")
        found.append((timeless(run), {k: v for k, v in moments.items() if k.endswith(FIRST)}))
    (lines_1, moments_1), *others = found
    assert {name.rpartition("/")[2] for name in moments_1} == set(FIRST)
    assert all(moment.abs().sum() > 0 for moment in moments_1.values())
    for lines_n, moments_n in others:
        for one, other in zip(lines_1, lines_n, strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
        for name, moment in moments_1.items():
            torch.testing.assert_close(moments_n[name], moment, rtol=1e-4, atol=1e-6)


def test_accumulating_reads_a_part_of_the_batch_at_a_time(text_file, tmp_path, monkeypatch):
    sizes, whole = [], Task.loss

    def loss(self, denoiser, noised):
        sizes.append(len(noised.x0))
        return whole(self, denoiser, noised)

    monkeypatch.setattr(Task, "loss", loss)
    train_tiny(tmp_path / "run", text_file, train__accumulate=4, train__steps=2)
    assert sizes == [2] * 8


def test_a_batch_of_fewer_sequences_than_parts_is_refused(text_file, tmp_path):
    with pytest.raises(DdcliError, match=r"--batch-size \(3\) is too small .* lower train.accumulate"):
        train_tiny(tmp_path / "run", text_file, train__batch_size=3, train__accumulate=4)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid", "band", "autoregressive"])
def test_in_bf16_weights_and_their_average_stay_float32(text_file, tmp_path, process):
    changes = {"process__name": process, "train__steps": 5, "metrics__every": 1}
    for precision in ("bf16", "float32"):
        train_tiny(tmp_path / precision, text_file, train__precision=precision, **changes)
    for name in ("weights", "ema", "optimizer"):
        saved = load_file(tmp_path / f"bf16/checkpoints/step-00000005/{name}.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    for half, full in zip(*(timeless(tmp_path / p) for p in ("bf16", "float32")), strict=True):
        if "loss" in half:
            assert half["loss"] == pytest.approx(full["loss"], rel=0.03)
    assert timeless(tmp_path / "bf16") != timeless(tmp_path / "float32")


# -- stopping and going on --------------------------------------------------------------------------------

CASES = {
    "absorbing": {},
    "absorbing, accumulated": {"train__accumulate": 2, "objective__name": "discrete-elbo"},
    "uniform, accumulated": {"process__name": "uniform", "train__accumulate": 4},
    "uniform, bf16": {"process__name": "uniform", "train__precision": "bf16"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_stopped_is_the_run_that_never_was(text_file, tmp_path, case):
    """Stopped twice, within a window of metrics and between two validations."""
    # an average over several steps, or it would be no more than the weights themselves
    config = tiny_config(text_file, samples__every=10, train__ema=0.5, **CASES[case])
    train(config, tmp_path / "whole")
    run = tmp_path / "stopped"
    stop_at(7, run, config)
    assert checkpoints(run)[-1][0] == 7
    stop_at(13, run, config, resume=True)
    train(config, run, resume=True)
    assert_same_run(run, tmp_path / "whole")
    assert files(run / "samples") == files(tmp_path / "whole" / "samples")


def test_records_too_go_on_where_they_were(names_file, tmp_path):
    config = tiny_config(names_file, data__lines=True, data__length=None)
    train(config, tmp_path / "whole")
    stop_at(12, tmp_path / "stopped", config)
    train(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_made_ahead_changes_nothing(text_file, tmp_path, monkeypatch, streaming, chosen):
    """As for a GPU: neither noise nor the place in a stream, also where times are chosen in between."""
    rows = [{"text": line} for line in text_file.read_text().splitlines()]
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows).to_iterable_dataset()
    )
    monkeypatch.setattr(StreamBlocks, "window", 20)  # of blocks: some 3 steps
    changes = {"data__streaming": True, "validation__every": 5} if streaming else {"validation__every": 5}
    source = "some/rows" if streaming else text_file
    config = tiny_config(source, train__times="clipped" if chosen else "even", **changes)
    train(config, tmp_path / "whole")
    monkeypatch.setattr(training, "works_apart", lambda device: True)
    for stop in (7, 12):
        stop_at(stop, tmp_path / "stopped", config, resume=stop > 7)
    train(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("apart", [False, True])  # True: as for a GPU, for which one more batch has been read
def test_a_stream_is_not_read_anew_where_times_are_chosen(apart, text_file, tmp_path, monkeypatch):
    """For which batches are looked at that belong to steps to come."""
    monkeypatch.setattr(training, "works_apart", lambda device: apart)
    rows = [{"text": line} for line in text_file.read_text().splitlines()]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    monkeypatch.setattr(StreamBlocks, "window", 20)
    begun, go_to = [], Lane._go_to
    monkeypatch.setattr(Lane, "_go_to", lambda lane, place: begun.append(place.window) or go_to(lane, place))
    changes = {"train__times": "clipped", "validation__every": 12, "data__streaming": True}
    train(tiny_config("some/rows", **changes), tmp_path / "run")
    # to count tokens, to train, and behind the 96 blocks of 12 steps, of which the next reads two windows
    assert begun == [0, 0, 4] + apart * [4]


@pytest.mark.parametrize("damage", ["gone", "flipped", "unfinished"])
def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_used(text_file, tmp_path, damage):
    train_tiny(tmp_path / "whole", text_file)
    run = copy_of(tmp_path / "whole", tmp_path / "copy")
    newest = run / "checkpoints/step-00000020"
    if damage == "gone":
        shutil.rmtree(newest)
    elif damage == "unfinished":
        (newest / "manifest.json").unlink()
    else:
        content = bytearray((newest / "optimizer.safetensors").read_bytes())
        content[-1] ^= 4
        (newest / "optimizer.safetensors").write_bytes(content)
    heard = train_tiny(run, text_file, resume=True)
    assert heard.steps[0] == 11
    assert ("checkpoint 20 is damaged and is passed over" in heard.lines) == (damage != "gone")
    assert_same_run(run, tmp_path / "whole")


def test_a_line_of_metrics_that_was_cut_short_is_no_obstacle(text_file, tmp_path):
    train_tiny(tmp_path / "whole", text_file)
    stop_at(13, tmp_path / "run", tiny_config(text_file))
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    train_tiny(tmp_path / "run", text_file, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_lines_of_metrics_after_the_checkpoint_are_not_kept_twice(text_file, tmp_path):
    run = tmp_path / "run"
    train_tiny(run, text_file, checkpoint__every=8)
    shutil.rmtree(run / "checkpoints/step-00000020")
    train_tiny(run, text_file, resume=True)
    assert [line["step"] for line in metrics(run)] == [0, 5, 10, 15, 20]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(text_file, tmp_path, number):
    run = tmp_path / "run"
    before = signal.getsignal(number)
    reporter = StopAt(3, number)
    with pytest.raises(Stopped) as raised:
        train(tiny_config(text_file), run, reporter=reporter)
    stopped = raised.value
    assert reporter.lines == ["stopping after this step; once more stops at once"]
    assert str(stopped) == f"stopped at step 3; go on with: ddcli train --resume -o {run}"
    assert stopped.exit_code == 128 + number
    assert [step for step, _ in checkpoints(run)] == [3]
    assert "Trained for 3 of 20 steps" in (run / "README.md").read_text()
    assert ddcli.load(run).sample(1, steps=2, seed=1)
    assert signal.getsignal(number) is before


def test_the_card_keeps_the_last_bound_when_a_run_goes_on(text_file, tmp_path):
    run = tmp_path / "run"
    for step in (11, 12):
        stop_at(step, run, tiny_config(text_file), resume=step > 11)
        card = (run / "README.md").read_text()
        assert f"Trained for {step} of 20 steps" in card
        told = [line["bound_bits_per_char"] for line in metrics(run) if "bound_bits_per_char" in line]
        assert f"{told[-1]:.3f} bits per character" in card


def test_a_second_signal_acts_at_once(text_file, tmp_path):
    reporter = StopAt(3, signal.SIGINT, signal.SIGINT)
    # jobs in the background are started without one
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(text_file), tmp_path / "run", reporter=reporter)
        assert not checkpoints(tmp_path / "run")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_in_the_last_step_finds_the_run_finished(text_file, tmp_path):
    train(tiny_config(text_file), tmp_path / "run", reporter=StopAt(20))
    assert checkpoints(tmp_path / "run")[-1][0] == 20


def test_a_thread_that_gets_no_signals_can_train(text_file, tmp_path):
    thread = threading.Thread(target=train_tiny, args=(tmp_path / "run", text_file))
    thread.start()
    thread.join()
    assert checkpoints(tmp_path / "run")[-1][0] == 20


def test_as_many_checkpoints_are_kept_as_asked_for(text_file, tmp_path):
    train_tiny(tmp_path / "run", text_file, checkpoint__every=4, checkpoint__keep=3)
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [12, 16, 20]


def test_clipped_times_are_chosen_where_gradients_vary_least_and_resume_knows_them(text_file, tmp_path):
    changes = {"train__times": "clipped", "train__steps": 30, "checkpoint__every": 5}
    heard = train_tiny(tmp_path / "whole", text_file, **changes)
    assert heard.text.count("noise of the gradient") == 2  # at 10 and 20 steps, not at the end
    stop_at(15, tmp_path / "run", tiny_config(text_file, **changes))
    train_tiny(tmp_path / "run", text_file, resume=True, **changes)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    run, whole = (checkpoints(tmp_path / name)[-1][1] / "state.json" for name in ("run", "whole"))
    assert json.loads(run.read_text())["gradients"] == json.loads(whole.read_text())["gradients"]


def test_clips_are_compared_by_sums_over_the_run_and_one_lost_in_chance_is_not_chosen(
    text_file, tmp_path, monkeypatch
):
    """Variance and squared mean of each range, in turn: the third is best by the sums alone."""
    first = [(1.0, 0.0), (1.0, 0.5), (5.0, 1.0), (1.0, -0.1), (9.0, 1.0), (9.0, 1.0)]
    then = [(1.0, -1.0), (9.0, 0.1), (1.0, 3.0), (1.0, -0.1), (9.0, 1.0), (0.1, 1.0)]
    chosen, answers = [], iter([*first, *then])
    monkeypatch.setattr(training, "gradient_noise", lambda *rest: next(answers))
    clip = training._Run._clip
    monkeypatch.setattr(training._Run, "_clip", lambda run, n: (chosen.append(n), clip(run, n)))
    train_tiny(tmp_path / "run", text_file, train__times="clipped", train__steps=30)
    assert chosen == [1, 2]


def test_where_every_range_is_lost_in_chance_the_present_one_stays(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "gradient_noise", lambda *rest: (1.0, -0.1))
    heard = train_tiny(tmp_path / "run", text_file, train__times="clipped")
    assert "inf" in heard.text
    state = json.loads((checkpoints(tmp_path / "run")[-1][1] / "state.json").read_text())
    assert state["clip"] is None
    assert state["gradients"][0] == [1.0, -0.1]


def test_the_noise_of_a_gradient_is_its_variance_and_its_squared_mean_less_chance(text_file):
    plan = make_plan(tiny_config(text_file), None, Silent())
    batches = [plan.data.train.batch(i, 4, 0) for i in range(5)]
    gradients = []
    for i, batch in enumerate(batches):
        noised = plan.task.noised(batch, 7 + i, CPU)
        loss = plan.task.loss(denoiser_of(plan), noised) / noised.running.sum()
        found = torch.autograd.grad(loss, list(plan.network.parameters()), allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]).double())
    g = torch.stack(gradients)
    pairs = (g @ g.T).fill_diagonal_(0).sum() / 20  # mean of g . g' over different batches: no chance in it
    found = gradient_noise(plan.task, denoiser_of(plan), batches, 7, CPU)
    assert found == pytest.approx((g.var(0).sum().item(), pairs.item()), rel=1e-4)
    assert all(weight.grad is None for weight in plan.network.parameters())


# -- resuming ---------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_as_it_is(text_file, tmp_path):
    run = tmp_path / "run"
    train_tiny(run, text_file)
    before = files(run)
    heard = train_tiny(run, text_file, resume=True)
    assert heard.text == f"{run} is finished at step 20; give more --steps to go on"
    assert files(run) == before


def test_a_finished_run_goes_on_with_more_steps(text_file, tmp_path):
    run = tmp_path / "run"
    train_tiny(run, text_file)
    heard = train_tiny(run, text_file, resume=True, train__steps=30)
    assert heard.steps == list(range(21, 31))
    assert [line["step"] for line in metrics(run)] == [0, 5, 10, 15, 20, 25, 30]
    assert tomllib.loads((run / "config.toml").read_text())["train"]["steps"] == 30
    assert "Trained for 30 of 30 steps" in (run / "README.md").read_text()


@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({}, True),
        ({"process__name": "autoregressive"}, True),
        ({"process__name": "uniform"}, True),
        ({"process__name": "uniform", "model__predicts": "leave-one-out"}, False),
        ({"model__clock": "time"}, False),
    ],
)
def test_tokens_are_read_and_written_by_one_table_where_what_is_read_may_be_put_out(
    text_file, settings, tied
):
    network = make_plan(tiny_config(text_file, **settings), None, Silent()).network
    assert (network.head.weight is network.embedding.weight) == tied
    assert network.config.tie_word_embeddings == tied


@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_a_run_that_was_begun_by_other_defaults_goes_on_as_the_network_it_is(
    text_file, tmp_path, monkeypatch, process
):
    """With two tables for tokens, as all once had, and other heads than now."""
    config, asked = tiny_config(text_file, process__name=process), start._shape_asked
    other = {"heads": 4, "tie_word_embeddings": False}
    with monkeypatch.context() as before:
        before.setattr(start, "_shape_asked", lambda config: asked(config) | other)
        train(config, tmp_path / "whole")
        stop_at(13, tmp_path / "parts", config)
    train(config, tmp_path / "parts", resume=True)
    assert {"embedding.weight", "head.weight"} <= load_file(tmp_path / "parts/model.safetensors").keys()
    assert ddcli.load(tmp_path / "parts").denoiser.denoiser.network.config.heads == 4
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (
        tmp_path / "parts/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train.lr", 0.5, "train.lr (0.002 in the run, now 0.5)"),
        ("train.seed", 3, "train.seed (0 in the run, now 3)"),
        ("train.batch_size", 4, "train.batch_size (8 in the run, now 4)"),
        ("process.name", "uniform", "process.name (absorbing in the run, now uniform)"),
        ("objective.name", "discrete-elbo", "objective.name (elbo in the run, now discrete-elbo)"),
        ("model.width", 64, "model.width (32 in the run, now 64)"),
        ("data.length", 16, "data.length (32 in the run, now 16)"),
        ("data.tokenizer", "byte", "data.tokenizer (char in the run, now byte)"),
        ("data.valid_fraction", 0.1, "data.valid_fraction (0.05 in the run, now 0.1)"),
    ],
)
def test_settings_that_matter_cannot_change_and_are_named(text_file, tmp_path, key, value, said):
    run = tmp_path / "run"
    train_tiny(run, text_file, train__steps=5)
    before = files(run)
    changes = {key.replace(".", "__"): value, "train__steps": 10}
    with pytest.raises(DdcliError) as refusal:
        train_tiny(run, text_file, resume=True, **changes)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert files(run) == before


def test_settings_that_do_not_matter_can_change(text_file, tmp_path):
    run = tmp_path / "run"
    train_tiny(run, text_file, train__steps=5)
    changes = {"metrics__every": 2, "validation__every": 0, "checkpoint__keep": 1, "samples__every": 3}
    heard = train_tiny(run, text_file, resume=True, train__steps=10, **changes)
    assert heard.steps == [6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("name", "was", "now", "said"),
    [
        ("config.toml", "seed = 0", "seed = 8", "written with: train.seed (0 in the run, now 8); put"),
        ("tokenizer.json", '"a": 2', '"a": 3', "the tokenizer or the noise"),
    ],
)
def test_a_run_whose_own_files_have_changed_does_not_go_on_as_another(
    text_file, tmp_path, name, was, now, said
):
    """A bit that is flipped in them is seen too: they are what the checkpoint was written beside."""
    run = tmp_path / "run"
    train_tiny(run, text_file, train__steps=5)
    content = (run / name).read_text()
    changed = content.replace(was, "?").replace(now, was).replace("?", now)
    assert changed != content
    (run / name).write_text(changed)
    with pytest.raises(DdcliError) as refusal:
        train(load_config(run / "config.toml", ["train.steps=10"]), run, resume=True)
    assert said in str(refusal.value)


def test_data_may_lie_elsewhere_and_bad_rows_be_left_out_from_then_on(tmp_path, monkeypatch):
    """Of a stream a bad row is met when it is read, and refused, which is no end of a run."""
    monkeypatch.setattr("ddcli.dataset.SAMPLE", (100, 10_000))
    monkeypatch.setattr("ddcli.data.StreamBlocks.window", 16)
    monkeypatch.setattr("ddcli.data.Lane.at_once", 50)
    rows = [json.dumps({"text": line}) + "\n" for line in words(400).splitlines()]
    run, (old, new) = tmp_path / "run", (tmp_path / name for name in ("old", "new"))
    old.mkdir()
    (old / "a.jsonl").write_text("".join(rows) + '{"text": null}\n')
    settings = {"data__streaming": True, "train__steps": 400, "checkpoint__every": 10}
    with pytest.raises(DdcliError, match=r"a.jsonl line 401: column 'text' holds null.*--bad-rows skip"):
        train_tiny(run, old / "a.jsonl", **settings)
    old.rename(new)
    settings |= {"train__steps": checkpoints(run)[-1][0] + 1, "data__bad_rows": "skip"}
    heard = train_tiny(run, new / "a.jsonl", resume=True, **settings)
    assert heard.steps == [settings["train__steps"]]


def test_data_that_have_changed_are_refused(text_file, tmp_path):
    source = tmp_path / "data.txt"
    source.write_text(words(100))
    run = tmp_path / "run"
    train_tiny(run, source, train__steps=5)
    before = files(run)
    source.write_text(words(100)[:-2] + "?\n")
    with pytest.raises(DdcliError, match="the data has changed since"):
        train_tiny(run, source, resume=True, train__steps=10)
    assert files(run) == before


def test_where_there_is_no_run_yet_resuming_starts_one_and_says_so(text_file, tmp_path):
    run = tmp_path / "run"
    heard = train_tiny(run, text_file, resume=True)
    assert heard.lines == [f"{run} holds no run yet: starting afresh"]
    train_tiny(tmp_path / "fresh", text_file)
    assert_same_run(run, tmp_path / "fresh")


def test_where_there_is_no_checkpoint_resuming_starts_afresh_and_says_so(text_file, tmp_path):
    train_tiny(tmp_path / "whole", text_file)
    run = copy_of(tmp_path / "whole", tmp_path / "copy")
    shutil.rmtree(run / "checkpoints")
    heard = train_tiny(run, text_file, resume=True)
    assert heard.lines == [f"{run} holds no checkpoint: starting afresh"]
    assert_same_run(run, tmp_path / "whole")


def test_where_nothing_has_been_learnt_other_settings_are_no_obstacle(text_file, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RunFailed):
        train_tiny(run, text_file, train__lr=1e38, train__warmup=0)
    assert not checkpoints(run)
    train_tiny(run, text_file, resume=True, train__seed=3)
    train_tiny(tmp_path / "fresh", text_file, train__seed=3)
    assert_same_run(run, tmp_path / "fresh")


def test_where_every_checkpoint_is_damaged_the_run_is_not_thrown_away(text_file, tmp_path):
    run = tmp_path / "run"
    train_tiny(run, text_file)
    for _, folder in checkpoints(run):
        (folder / "state.json").write_text("{}")
    before = files(run)
    with pytest.raises(DdcliError, match=r"every checkpoint of .* is damaged"):
        train_tiny(run, text_file, resume=True, train__steps=30)
    assert files(run) == before


def test_what_people_edit_in_the_run_stays_as_they_left_it(text_file, tmp_path):
    run = tmp_path / "run"
    train_tiny(run, text_file)
    edit_json(run / "generation_config.json", steps=7)
    train_tiny(run, text_file, resume=True, train__steps=30)
    assert ddcli.load(run).settings.steps == 7


def test_time_goes_on_where_it_stopped(text_file, tmp_path):
    run = tmp_path / "run"
    stop_at(11, run, tiny_config(text_file))
    before = metrics(run)[-1]["seconds"]
    train_tiny(run, text_file, resume=True)
    times = [line["seconds"] for line in metrics(run)]
    assert times == sorted(times)
    assert before in times


def test_a_run_is_not_overwritten_unasked(text_file, tmp_path):
    run = tmp_path / "run"
    train_tiny(run, text_file, train__steps=5)
    before = files(run)
    with pytest.raises(DdcliError, match="already holds a run"):
        train_tiny(run, text_file, train__steps=5)
    assert files(run) == before


# -- what goes wrong --------------------------------------------------------------------------------------

BAD = {
    "missing": (None, {}, "no such file or folder"),
    "empty": (b"", {}, "holds no text"),
    "no UTF-8": (b"caf\xe9 " * 500, {}, "is not UTF-8 text"),
    "short": (b"hello", {}, "less than one block; lower --length from 32"),
    "long records": (b"x" * 99 + b"\n" + b"y" * 99 + b"\n", {"data__lines": True}, "no record fits"),
    "unknown process": (b"abc" * 500, {"process__name": "gossamer"}, "unknown process"),
    "unknown schedule": (b"abc" * 500, {"process__schedule": "sine"}, "unknown schedule"),
    "unknown objective": (b"abc" * 500, {"objective__name": "mse"}, "unknown objective"),
    "unknown times": (b"abc" * 500, {"train__times": "late"}, "unknown spread of times"),
    "unknown size": (b"abc" * 500, {"model__size": "huge"}, "unknown model size"),
    "unknown device": (b"abc" * 500, {"train__device": "abacus"}, "device 'abacus' cannot be used"),
    "unknown precision": (b"abc" * 500, {"train__precision": "int3"}, "unknown precision"),
    "heads that do not fit": (b"abc" * 500, {"model__heads": 5}, "must be an even multiple"),
    "small vocabulary": (b"abc" * 500, {"data__tokenizer": "bpe:9"}, "260 or more"),
    "missing validation data": (b"abc" * 500, {"data__valid": "nowhere.txt"}, "no such file or folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, name):
    content, changes, message = BAD[name]
    source = tmp_path / "data.txt"
    if content is not None:
        source.write_bytes(content)
    before = files(tmp_path)
    with pytest.raises(DdcliError) as refusal:
        train_tiny(tmp_path / "runs/run", source, **changes)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2
    assert files(tmp_path) == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("No space left on device (os error 28)"),
    ],
    ids=["file", "safetensors"],
)
def test_a_full_disk_is_a_failed_run_in_one_line(text_file, tmp_path, monkeypatch, error):
    def full(tensors, path, **options):
        if "checkpoints" in path.parts:
            raise error
        save_file(tensors, path, **options)

    monkeypatch.setattr("ddcli.checkpoint.save_file", full)
    with pytest.raises(RunFailed) as failure:
        train_tiny(tmp_path / "run", text_file)
    assert str(failure.value).startswith(f"{tmp_path / 'run'} cannot be written: No space left on device")
    assert failure.value.exit_code == 1
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_a_reporter_hears_the_end_however_it_comes(text_file, tmp_path):
    class Listener(Heard):
        ended = 0

        def end(self):
            self.ended += 1

        def progress(self, step):
            if step == 3:
                raise ZeroDivisionError

    listener = Listener()
    with pytest.raises(ZeroDivisionError):
        train(tiny_config(text_file), tmp_path / "run", reporter=listener)
    assert listener.ended == 1
    assert not torch.are_deterministic_algorithms_enabled()


# -- minutes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", [0, 10])
def test_minutes_fix_the_number_of_steps_and_measuring_leaves_no_trace(
    text_file, tmp_path, monkeypatch, validation
):
    monkeypatch.setattr(training, "OFF", math.inf)  # however unsteady the machine is
    changes = {
        "validation__every": validation,
        "samples__every": validation,
        "process__name": "uniform",
    }
    heard = train_tiny(tmp_path / "timed", text_file, train__minutes=0.005, train__steps=None, **changes)
    saved = tomllib.loads((tmp_path / "timed/config.toml").read_text())["train"]
    assert "minutes" not in saved
    assert heard.steps == list(range(1, saved["steps"] + 1))
    assert f"\n{counted(saved['steps'], 'step')} planned for --minutes 0.005 " in heard.text
    assert ("so few steps teach next to nothing" in heard.text) == (saved["steps"] < training.FEW_STEPS)
    train_tiny(tmp_path / "counted", text_file, train__steps=saved["steps"], **changes)
    assert_same_run(tmp_path / "timed", tmp_path / "counted")


def test_minutes_given_to_a_finished_run_are_minutes_more(text_file, tmp_path, monkeypatch):
    """However long it has run before, which only the column `seconds` counts on from."""
    train_tiny(tmp_path / "run", text_file, train__steps=10)
    monkeypatch.setattr(training, "read_checkpoint", long_ago(training.read_checkpoint))

    def a_second(work):
        work()
        return 1.0

    monkeypatch.setattr(training, "_seconds", a_second)
    changes = {"train__minutes": 0.2, "train__steps": None}
    heard = train_tiny(tmp_path / "run", text_file, resume=True, **changes)
    assert heard.steps[0] == 11
    assert len(heard.steps) > 2
    assert metrics(tmp_path / "run")[-1]["seconds"] > 10_000


def long_ago(load):
    """A checkpoint of a run that has taken hours so far."""

    def loaded(*arguments):
        groups, state = load(*arguments)
        return groups, state | {"seconds": 10_000.0}

    return loaded


def test_a_stop_while_the_speed_is_measured_writes_nothing_and_promises_nothing(
    text_file, tmp_path, monkeypatch
):
    """There is no run to go on with: `--resume` would train something else from its defaults."""

    def stopping(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.1

    monkeypatch.setattr(training, "_seconds", stopping)
    with pytest.raises(Stopped, match="nothing is written") as stopped:
        train(tiny_config(text_file, train__steps=None, train__minutes=1), tmp_path / "run")
    assert stopped.value.exit_code == 143
    assert "--resume" not in str(stopped.value)
    assert not (tmp_path / "run").exists()


class Clock:
    """One that goes on by what each step is said to take, and by nothing else."""

    def __init__(self, seconds):
        self.now, self.seconds = 1000.0, iter(seconds)

    def monotonic(self):
        return self.now

    perf_counter = monotonic

    def goes_on(self):
        self.now += next(self.seconds)


@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize(("then", "steps"), [(2.0, 40), (0.5, 100), (1.01, 60)])
def test_a_run_of_minutes_keeps_to_them_where_the_machine_changes(
    text_file, tmp_path, monkeypatch, then, steps, validates
):
    """60 steps of a second fit in; after the first 20 of them, each takes longer, or less."""
    clock = Clock(itertools.chain([1.0] * (training.REHEARSED + 20), itertools.repeat(then)))
    monkeypatch.setattr(training, "time", clock)
    step = training._Run._step
    monkeypatch.setattr(training._Run, "_step", lambda run, n: (clock.goes_on(), step(run, n))[1])
    heard = train_tiny(
        tmp_path / "run",
        text_file,
        train__minutes=(training.REHEARSED + 60) / 60,
        train__steps=None,
        validation__every=10 if validates else 0,  # which takes no time here
        samples__every=0,
        metrics__every=1,
    )
    assert "\n60 steps planned for --minutes" in heard.text
    assert len(heard.steps) == steps
    assert clock.now - 1000 - training.REHEARSED == pytest.approx(60, abs=then)
    config = load_config(tmp_path / "run/config.toml")
    assert config.train.steps == steps
    last = metrics(tmp_path / "run")[-1]
    assert last["lr"] == config.train.peak * learning_rate(steps - 1, config)
    assert (f"\n{steps} steps in place of " in heard.text) == (steps != 60)


def test_minutes_that_are_too_few_for_a_step_are_one_step(text_file, tmp_path):
    heard = train_tiny(tmp_path / "run", text_file, train__minutes=1e-6, train__steps=None)
    assert heard.steps == [1]


# -- the parts --------------------------------------------------------------------------------------------


def learning_rates(**changes):
    config = tiny_config("unread", **changes)
    return np.array([learning_rate(step, config) for step in range(config.train.steps)])


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    rates = learning_rates(train__steps=1000, train__warmup=100, train__decay=0.5)
    assert (rates > 0).all()
    assert rates.max() == 1
    np.testing.assert_allclose(np.diff(rates[:100]), 1 / 101)
    assert (rates[100:501] == 1).all()
    np.testing.assert_allclose(np.diff(rates[500:]), -1 / 500)
    assert rates[-1] == 1 / 500


@pytest.mark.parametrize(
    ("steps", "warmup", "falls_from"),
    [(40, 10, 20), (2200, 100, 1100), (2400, 100, 1100), (4000, 10, 1010), (20_000, 1500, 2500)],
)
def test_if_nobody_says_the_rate_falls_over_half_of_a_short_run_and_most_of_a_long_one(
    steps, warmup, falls_from
):
    rates = learning_rates(train__steps=steps, train__warmup=warmup)
    np.testing.assert_allclose(rates[min(warmup, steps // 10) : falls_from + 1], 1)
    np.testing.assert_allclose(np.diff(rates[falls_from:]), -1 / (steps - falls_from))


def test_warm_up_takes_a_tenth_of_a_short_run():
    rates = learning_rates(train__steps=50, train__warmup=100, train__decay=0)
    assert (rates < 1).sum() == 5
    assert (learning_rates(train__steps=5, train__warmup=0, train__decay=0) == 1).all()


def state_of_one_weight(**changes):
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    settled = {"train__lr": 2e-3, "train__optimizer": "muon"}
    config = tiny_config("unread", **settled | changes)
    network.layers, network.stacked = [], dict
    return State.fresh(SimpleNamespace(network=network, dtype=torch.float32), config), config


def test_the_average_reaches_over_its_share_of_the_run():
    """After a jump of the weights, a horizon later, 1/e of the way is left."""
    state, config = state_of_one_weight(train__steps=5000, train__ema=0.02)
    state.step = 2500
    torch.nn.init.ones_(state.network.weight)
    for _ in range(100):
        state._average(state._newest(), config)
    assert 1 - state.ema["weight"].item() == pytest.approx((1 - 1 / 100) ** 100, rel=1e-4)


def test_the_average_of_a_young_run_forgets_where_it_began():
    state, config = state_of_one_weight(train__steps=100_000, train__ema=0.02)
    torch.nn.init.ones_(state.network.weight)
    for _ in range(100):
        state._average(state._newest(), config)
        state.step += 1
    assert state.ema["weight"].item() == pytest.approx(1, abs=1e-6)


def test_averaged_weights_are_lent_and_given_back():
    state, _ = state_of_one_weight()
    torch.nn.init.ones_(state.network.weight)
    with pytest.raises(ZeroDivisionError), state.averaged():
        1 / state.network.weight.item()
    assert state.network.weight.item() == 1


@pytest.mark.parametrize(("found", "left"), [(0.5, 0.5), (3.0, 1.0), (-3.0, -1.0)])
def test_a_gradient_is_clipped_where_it_is_larger_and_else_left_as_it_is(found, left):
    state, config = state_of_one_weight(train__clip=1.0)
    state.network.weight.grad = torch.full((1, 1), found)
    _, norm = state.update(torch.zeros((), dtype=torch.float64), config)
    assert norm == abs(found)
    moment = state.optimizer.state[state.network.weight]["exp_avg"].item()
    assert moment == pytest.approx((1 - BETAS[0]) * left, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_matrices_of_the_trunk_decay(name, text_file):
    config = tiny_config(text_file, process__name="uniform", train__optimizer=name)
    plan = make_plan(config, None, Silent())
    *decayed, plain = make_optimizer(plan.network, plan.config.train, plan.dtype).param_groups
    assert {group["weight_decay"] for group in decayed} == {0.1}
    assert plain["weight_decay"] == 0
    of_layers = sum(len(group["params"]) for group in decayed)
    assert of_layers == 2 * 5  # qkv, out, up, down and what steers them, of two layers
    assert of_layers + len(plain["params"]) == len(list(plan.network.parameters()))


def given(share, rows=4000):
    running = torch.ones(rows, 50, dtype=torch.bool)
    running[:, -5:] = False  # padding, say
    return given_spans(running, share, Streams(range(rows))), running


def test_given_spans_are_in_their_share_of_the_sequences():
    assert not given(0.0)[0].any()
    spans, running = given(0.3)
    assert not (spans & ~running).any()
    rows = spans.any(1).double().mean().item()  # a span may fall between two positions, and hold none
    assert rows == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 4000) ** 0.5 + 0.01)
    everywhere, running = given(1.0)
    assert everywhere[running].double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_given_spans_are_a_span_or_all_but_a_span():
    spans, _ = given(1.0)
    changes = (spans[:, 1:45] != spans[:, :44]).sum(1)
    assert changes.max() == 2
    inner = spans[changes == 2]
    assert 0.4 < inner[:, 0].double().mean() < 0.6  # of either kind alike


def test_only_a_network_that_reads_clocks_is_given_spans(text_file):
    for process, needed in (("absorbing", False), ("uniform", True)):
        plan = make_plan(tiny_config(text_file, process__name=process, train__given=1), None, Silent())
        noised = plan.task.noised(plan.data.train.batch(0, 32, 0), 0, CPU)
        assert bool((~noised.running).any()) == needed == bool((noised.clock == 0).any())
        assert torch.equal(noised.xt[~noised.running], noised.x0[~noised.running])


def test_the_noise_of_a_step_depends_on_the_seed_and_the_step_alone(text_file):
    plan = make_plan(tiny_config(text_file), None, Silent())
    batch = plan.data.train.batch(3, 8, 0)
    again, other, seeded = (
        task_of(plan, seed=seed).noised(batch, step, CPU).xt for seed, step in ((0, 3), (0, 4), (1, 3))
    )
    assert torch.equal(task_of(plan).noised(batch, 3, CPU).xt, again)
    assert not torch.equal(again, other)
    assert not torch.equal(again, seeded)


def test_padding_and_the_ends_of_records_are_never_noised(names_file):
    plan = make_plan(tiny_config(names_file, data__lines=True, data__length=None), None, Silent())
    tokenizer = plan.data.tokenizer
    batch = plan.data.train.batch(0, 64, 0)
    noised = task_of(plan).noised(batch, 0, CPU)
    fixed = np.isin(batch.tokens, [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id])
    assert fixed.any()
    assert not noised.running[torch.tensor(fixed)].any()
    assert torch.equal(noised.xt[torch.tensor(fixed)], noised.x0[torch.tensor(fixed)])
    assert noised.padded


# -- dry runs, compilers ----------------------------------------------------------------------------------


def test_a_dry_run_resolves_everything_and_writes_nothing(text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = dry_run(tiny_config(text_file, data__tokenizer=None), Silent())
    assert plan.config.data.tokenizer == "char"
    assert plan.parameters == sum(p.numel() for p in plan.network.parameters()) > 0
    assert plan.memory > 20 * plan.parameters
    assert not list(tmp_path.iterdir())


def test_memory_is_kept_on_a_cpu_alone_and_the_allocator_is_left_able(monkeypatch):
    told = []
    library = SimpleNamespace(mallopt=lambda which, value: told.append((which, value)))
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    with memory_kept(torch.device("meta")):
        assert not told
    # the inner one as where a run of training draws samples
    with pytest.raises(ZeroDivisionError), memory_kept(CPU), memory_kept(CPU):
        _ = 1 / len(told[2:])
    assert told == [(-4, 0), (-1, -1), (-4, 65_536), (-3, 32 * 2**20), (-1, 64 * 2**20)]
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace())  # a library without it
    with memory_kept(CPU):
        pass


def test_what_a_dry_run_has_compiled_is_not_reckoned_with_again(text_file, monkeypatch):
    """The run that follows finds it, so the estimate is of steps that find it too."""
    paces = [Pace(warming=70.0, step=0.5, draw=0.0, sampling=0.0), Pace(4.0, 0.25, 0.0, 0.0)]
    monkeypatch.setattr(training._Run, "rehearse", lambda run: paces.pop(0))
    monkeypatch.setattr(NetworkDenoiser, "compile", lambda self, log: None)
    plan = make_plan(tiny_config(text_file, train__steps=8, train__compile=True), None, Silent())
    assert training.estimate(plan, Silent()).seconds == 4.0 + 8 * 0.25
    assert not paces


def test_a_dry_run_keeps_the_minutes_asked_for(text_file):
    assert (
        dry_run(tiny_config(text_file, train__steps=None, train__minutes=3), Silent()).config.train.minutes
        == 3
    )


@pytest.mark.parametrize("compiler", [None, "/usr/bin/c++"])
def test_where_there_is_no_compiler_training_is_eager(text_file, tmp_path, monkeypatch, compiler):
    compiled = []
    monkeypatch.setattr(shutil, "which", lambda name: compiler)
    monkeypatch.setattr(NetworkDenoiser, "compile", lambda self, log: compiled.append(self))
    assert can_compile() == bool(compiler)
    train_tiny(tmp_path / "run", text_file, train__steps=1, train__compile=True)
    assert len(compiled) == bool(compiler)


@pytest.mark.parametrize("named", ["", " ", "ccache g++"])
def test_the_compiler_is_the_one_the_environment_names_or_else_the_usual_one(monkeypatch, named):
    asked = []
    monkeypatch.setenv("CXX", named)
    monkeypatch.setattr(shutil, "which", lambda name: asked.append(name))
    assert not can_compile()
    assert asked == ["g++"]


def test_where_compiling_fails_training_is_eager_and_says_so(text_file, tmp_path, monkeypatch):
    def broken(network):
        def forward(*_, **__):
            raise RuntimeError("cc1plus: not found\nand a page more")

        return forward

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", broken)
    heard = train_tiny(tmp_path / "run", text_file, train__compile=True)
    assert heard.lines == ["not compiled, which is slower: cc1plus: not found"]
    assert heard.steps[-1] == 20


def test_bytes_that_are_no_text_are_data_for_a_byte_vocabulary(tmp_path):
    (tmp_path / "data.bin").write_bytes(b"caf\xe9 \xff\x00" * 500)
    train_tiny(tmp_path / "run", tmp_path / "data.bin", data__tokenizer="byte", train__steps=2)
    assert ddcli.sample(tmp_path / "run", steps=2, seed=1)


def test_names_too_long_for_a_block_are_left_out_and_counted(tmp_path):
    (tmp_path / "names.txt").write_text(names(100) + "x" * 50 + "\n" + names(20))
    heard = train_tiny(tmp_path / "run", tmp_path / "names.txt", data__lines=True, train__steps=1)
    assert "1 records of more than 30 characters left out" in heard.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, while it compiles
@pytest.mark.skipif(not can_compile(), reason="no C++ compiler here")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_compiled_run_goes_on_exactly_too(text_file, tmp_path, precision):
    """And computes what the eager one does, up to rounding."""
    config = tiny_config(text_file, train__compile=True, train__precision=precision, train__ema=0.5)
    train(config, tmp_path / "whole")
    torch.compiler.reset()
    stop_at(7, tmp_path / "stopped", config)
    torch.compiler.reset()
    train(config, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    train_tiny(tmp_path / "eager", text_file, train__precision=precision, train__ema=0.5)
    for one, other in zip(*(timeless(tmp_path / name) for name in ("whole", "eager")), strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-3 if precision == "float32" else 0.05)
