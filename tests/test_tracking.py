"""Trackers that are told the metrics of a run, beside metrics.jsonl."""

import math
import sys
from types import ModuleType

import pytest
from accelerate import tracking as theirs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import metrics, stop_at, tiny_config, train_tiny

from ddcli.errors import DdcliError, needed
from ddcli.training import train


def test_tensorboard_is_told_each_line_once(text_file, tmp_path):
    """Of steps that were taken, lost and taken again, too."""
    run = tmp_path / "run"
    config = tiny_config(
        text_file, train__steps=8, checkpoint__every=4, metrics__every=1, metrics__track="tensorboard"
    )
    stop_at(6, run, config)
    (run / "checkpoints" / "step-00000006" / "state.json").write_text("lost")
    train(config, run, resume=True)
    told = EventAccumulator(str(run / "tensorboard")).Reload()
    lines = metrics(run)
    assert [line["step"] for line in lines] == [0, *range(1, 9)]
    for key in ("loss", "lr", "bound_nats_per_token"):
        wanted = [(line["step"], pytest.approx(line[key])) for line in lines if key in line]
        assert [(event.step, event.value) for event in told.Scalars(key)] == wanted


class Service(theirs.GeneralTracker):
    """Of somebody who has a network."""

    name, requires_logging_directory, tracker = "wandb", False, None
    made: list = []  # noqa: RUF012

    def __init__(self, **arguments):
        super().__init__()
        self.arguments, self.told, self.finished = arguments, [], False
        self.made.append(self)

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step):
        print("heard")  # as trackio does
        self.told.append((step, values))

    def finish(self):
        self.finished = True


def test_a_run_that_goes_on_is_the_one_that_was_begun(text_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "wandb", Service)
    settings = {"train__steps": 4, "checkpoint__every": 2, "metrics__every": 1, "validation__every": 0}
    config = tiny_config(text_file, **settings, metrics__track="wandb")
    for run in (tmp_path / "run", tmp_path / "other"):
        stop_at(2, run, config)
    train(config, tmp_path / "run", resume=True)
    begun, other, on = Service.made
    assert begun.arguments == on.arguments
    assert begun.arguments["resume"] == "allow"
    assert begun.arguments["id"] != other.arguments["id"]
    assert begun.settings["train.steps"] == 4
    assert not hasattr(on, "settings")
    assert [step for step, _ in begun.told + on.told] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for _, line in on.told for value in line.values())
    assert all(tracker.finished for tracker in Service.made)
    assert "heard" not in capsys.readouterr().out  # which is for answers


def test_a_tracker_that_fails_is_no_end_of_a_run(text_file, tmp_path, monkeypatch):
    class Unreached(Service):
        def log(self, values, step):
            raise ConnectionError("no network\nand a page more")

    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "wandb", Unreached)
    heard = train_tiny(tmp_path / "run", text_file, metrics__track="wandb", validation__every=0)
    assert heard.lines == ["--track wandb: it is told no more: no network"]
    assert len(metrics(tmp_path / "run")) == 4


def test_a_folder_that_bears_its_name_is_no_package(tmp_path, monkeypatch):
    """As the one that wandb writes to where it runs."""
    (tmp_path / "wandered").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        DdcliError, match=r"needs the package wandered .the folder .*wandered only bears its name"
    ):
        needed("wandered", "--track", "wandb")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorbord", "unknown tracker 'tensorbord'; did you mean 'tensorboard'?"),
        ("trackio", r"--track trackio needs the package trackio .*pip install 'ddcli\[trackio\]'"),
    ],
)
def test_a_tracker_that_is_not_there_is_told_in_one_line(name, said, text_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(DdcliError, match=said) as refused:
        train_tiny(tmp_path / "run", text_file, metrics__track=name)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
