"""The command line: stdout is the answer, stderr the conversation, and an error is one line."""

import inspect
import io
import json
import os
import re
import runpy
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from typing import get_type_hints

import datasets
import pytest
import torch
from tiny import LENGTH, SETTINGS, assignments, copy_of, edit_json, files, metrics, train_tiny, untried, words
from typer.main import get_command

import ddcli
from ddcli import cli, device
from ddcli.cli import options
from ddcli.cli.answers import record_of
from ddcli.errors import DdcliError, RunFailed
from ddcli.filling import Fill, Infilling, OfGaps, infill
from ddcli.infilling import MAX_GAP
from ddcli.model import Asked, SamplerSettings
from ddcli.sampling import OfMany, OfOne, explain, frames, samples
from ddcli.textmodel import TextModel

COMMANDS = ("train", "sample", "infill", "eval", "noise-viz", "report")
ASK_NOTHING = ("recipes", "doctor")
DASHES = b"-" * 40 + b"\n"


def tiny(**changes):
    """The settings of tiny runs as arguments; None leaves one out."""
    changed = {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}
    return assignments({key: value for key, value in changed.items() if value is not None})


TINY = tiny()
FEW = ("--steps", "4", "--seed", "1")


@pytest.fixture
def run(capsysbinary, monkeypatch):
    """Run a command in this process: its exit code, what it answered, and what it said."""

    def command(*arguments, stdin=b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsysbinary.readouterr()
        return code, out, err.decode()

    return command


@pytest.fixture
def refused(run):
    """Run a command that fails in one line with exit code 2; returns the line."""

    def command(*arguments, stdin=b"", lines=1):
        code, out, err = run(*arguments, stdin=stdin)
        assert (code, out) == (2, b"")
        assert err.startswith("ddcli: ")
        assert err.count("\n") == lines, err
        assert err.endswith("\n")
        return err.removeprefix("ddcli: ").removesuffix("\n")

    return command


def in_new_process(*arguments, **options):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, check=False, **options)


# -- the commands as such ---------------------------------------------------------------------------------


def test_the_commands_are_these():
    assert set(get_command(cli.app).commands) == {*COMMANDS, *ASK_NOTHING}


@pytest.mark.parametrize("command", [*COMMANDS, *ASK_NOTHING])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help_with_an_example(run, command, flag):
    code, out, err = run(command, flag)
    assert (code, err) == (0, "")
    assert b"Usage: ddcli " + command.encode() in out
    assert b"ddcli " + command.encode() + b" " in out.split(b"Options:")[0].split(b"\n", 1)[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_has_help(command):
    for parameter in get_command(cli.app).commands[command].params:
        assert getattr(parameter, "help", None) or parameter.name in ("steps", "seed"), parameter.name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_python_twin(command):
    names = {"eval": "evaluate", "report": "write_report"}
    twin = getattr(ddcli, names.get(command, command.replace("-", "_")))
    assert inspect.isfunction(twin)
    assert ">>>" in twin.__doc__


@pytest.mark.parametrize("command", COMMANDS)
def test_output_is_an_option_of_every_command(command):
    options = [name for p in get_command(cli.app).commands[command].params for name in p.opts]
    assert {"-o", "--output"} <= set(options)


def test_help_names_every_command(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(command.encode() in out for command in COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_command_without_arguments_shows_its_help(run, command):
    code, out, err = run(*filter(None, [command]))
    assert (code, out) == (2, b"")
    assert err.startswith(f"Usage: ddcli {command}")


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (0, f"ddcli {ddcli.__version__}\n".encode(), "")


def test_help_and_version_load_no_heavy_library():
    program = """
import sys
from ddcli.cli import main
for arguments in (["--help"], ["--version"], ["train", "--help"], ["noise-viz", "--help"]):
    assert main(arguments) == 0
heavy = {"torch", "transformers", "datasets", "numpy", "matplotlib", "pandas", "pyarrow"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = in_new_process("-c", program, text=True)
    assert done.stderr == "[]\n"


def test_a_run_writes_without_what_takes_seconds_to_import(absorbing_run):
    program = """
import sys
from ddcli.cli import main
assert main(["sample", sys.argv[1], "--steps", "2", "--quiet"]) == 0
heavy = {"transformers.modeling_utils", "torch._dynamo", "torch.distributed.tensor", "datasets", "matplotlib"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = in_new_process("-c", program, absorbing_run, text=True)
    assert done.stderr == "[]\n"


def test_the_module_runs_as_the_program_does(monkeypatch, capsys):
    for arguments, code in ((["--version"], 0), (["nonsense"], 2)):
        monkeypatch.setattr("sys.argv", ["ddcli", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("ddcli", run_name="__main__")
        assert stop.value.code == code
    assert capsys.readouterr().out == f"ddcli {ddcli.__version__}\n"


def test_options_and_commands_that_do_not_exist_are_refused(refused, absorbing_run):
    assert "No such command 'trian'" in refused("trian")
    assert "ddcli sample has no option --tempo; `ddcli sample -h` lists" in refused("sample", "r", "--tempo")
    assert "option --temprature; did you mean --temperature?" in refused("sample", "r", "--temprature", "2")
    assert "requires an argument" in refused("train", "--data")
    assert "train.lr=VALUE" in refused("train", "--train.lr=3")
    told = refused("train", "--every", "3")
    assert all(f"--set {section}.every=VALUE" in told for section in ("validation", "checkpoint", "samples"))
    for option, key in (("--lr", "train.lr"), ("--learning-rate", "train.lr"), ("--layers", "model.layers")):
        assert f"ddcli train has no option {option}; give --set {key}=VALUE" in refused("train", option, "3")
    assert "Missing argument" in refused("infill", absorbing_run)
    assert "'-n'" in refused("sample", absorbing_run, "-n", "many")
    assert "'-n'" in refused("sample", absorbing_run, "-n", "0")
    assert "--seed" in refused("sample", absorbing_run, "--seed", "-1")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ddcli recipes text", ["text8", "text8-gpu"]),
        ("ddcli train --size ti", ["tiny"]),
        ("ddcli train --process un", ["uniform"]),
        ("ddcli noise-viz --schedule gi", ["gidd"]),
        ("ddcli sample runs/x --sampler conf", ["confidence"]),
        ("ddcli eval runs/x --device c", ["cpu", "cuda"]),
        ("ddcli train --bad-rows s", ["skip"]),
        ("ddcli noise-viz --compare absorbing,hy", ["absorbing,hybrid"]),
    ],
)
def test_a_shell_completes_what_there_is(words, found):
    asked = {"_DDCLI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    told = subprocess.run(
        [sys.executable, "-m", "ddcli"], env=os.environ | asked, capture_output=True, text=True, timeout=60
    )
    assert told.stdout.split() == found


def test_what_is_completed_without_asking_torch_is_what_there_is():
    assert options.DEVICES("") == ["auto", *device.KINDS]
    assert options.PRECISIONS("") == ["auto", *device.PRECISIONS]


def test_debug_shows_where_an_error_comes_from(tmp_path):
    with pytest.raises(DdcliError, match="no run folder"):
        cli.main(["sample", str(tmp_path), "--debug"])


@pytest.mark.parametrize("error", [ZeroDivisionError("nought"), KeyboardInterrupt()])
def test_what_nobody_foresaw_is_one_line_too(run, monkeypatch, error):
    def accident(*_, **__):
        raise error

    monkeypatch.setattr("ddcli.saved.load_writer", accident)
    code, out, err = run("sample", "runs/x")
    assert (code, out) == ((130, b"") if isinstance(error, KeyboardInterrupt) else (1, b""))
    assert err.count("\n") == 1
    assert "nought" in err or err == "ddcli: interrupted\n"
    with pytest.raises(type(error)) if code == 1 else pytest.MonkeyPatch.context():
        cli.main(["--debug", "sample", "runs/x"])


# -- train ------------------------------------------------------------------------------------------------


def test_training_answers_nothing_and_says_how_it_goes(run, text_file, tmp_path):
    target = tmp_path / "run"
    code, out, err = run("train", "--data", text_file, *TINY, "-o", target)
    assert (code, out) == (0, b"")
    assert "step 20/20: loss " in err
    assert "bits/char" in err
    assert err.endswith(
        f"{target} is trained, and {target}/report.html tells of it; try: ddcli sample {target}\n"
    )
    assert metrics(target)[-1]["step"] == 20


def test_quiet_training_says_nothing_but_how_it_ended_as_json(run, text_file, tmp_path):
    code, out, err = run("train", "--data", text_file, *TINY, "-q", "--json", "-o", tmp_path / "run")
    assert (code, err, out.count(b"\n")) == (0, "", 1)
    told, last = json.loads(out), metrics(tmp_path / "run")[-1]
    assert (told["run"], told["step"], told["steps"]) == (str(tmp_path / "run"), 20, 20)
    assert told["bound_nats_per_token"] == last["bound_nats_per_token"]


def test_the_command_and_its_twin_train_the_same_model(run, text_file, tmp_path):
    run("train", "--data", text_file, *TINY, "--seed", "3", "-o", tmp_path / "a", "-q")
    flags = {**SETTINGS, "data.source": str(text_file), "train.seed": 3}
    ddcli.train(ddcli.load_config(None, flags=flags), tmp_path / "b")
    for name in ("model.safetensors", "config.toml", "config.json", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def on_a_screen(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def test_on_a_terminal_training_shows_a_bar_and_samples(run, text_file, tmp_path, monkeypatch):
    on_a_screen(monkeypatch)
    monkeypatch.setenv("COLUMNS", "120")
    settings = tiny(samples__every=10)
    code, out, err = run("train", "--data", text_file, *settings, "-o", tmp_path / "run")
    assert (code, out) == (0, b"")
    assert "\x1b[" in err
    assert "20/20" in err
    assert "step 20: " in err
    assert "tokens/s" in err


FLAGS = {
    "--process": ("uniform", "process.name"),
    "--schedule": ("cosine", "process.schedule"),
    "--objective": ("discrete-elbo", "objective.name"),
    "--timesteps": (17, "objective.timesteps"),
    "--size": ("base", "model.size"),
    "--block": (8, "model.block"),
    "--length": (16, "data.length"),
    "--batch-size": (4, "train.batch_size"),
    "--steps": (3, "train.steps"),
    "--minutes": (2.5, "train.minutes"),
    "--seed": (9, "train.seed"),
    "--tokenizer": ("byte", "data.tokenizer"),
    "--valid-fraction": (0.25, "data.valid_fraction"),
    "--text-column": ("body", "data.text_column"),
    "--split": ("test", "data.split"),
    "--bad-rows": ("skip", "data.bad_rows"),
    "--device": ("cpu", "train.device"),
    "--precision": ("bf16", "train.precision"),
    "--threads": (1, "train.threads"),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_reaches_its_setting(run, text_file, flag, tmp_path):
    value, key = FLAGS[flag]
    if flag == "--split":  # which files have none of
        rows = datasets.Dataset.from_dict({"text": text_file.read_text().splitlines()})
        text_file = tmp_path / "saved"
        datasets.DatasetDict({value: rows}).save_to_disk(text_file)
    section, name = key.split(".")
    base = {"model.width": 48, "model.heads": 12, "model.layers": 1}
    if flag == "--timesteps":
        base["objective.name"] = "discrete-elbo"
    arguments = ["train", "--data", text_file, *assignments(base), flag, value, "--dry-run"]
    with untried():
        code, out, _ = run(*arguments)
    assert code == 0
    assert tomllib.loads(out.decode())[section][name] == value


def test_flags_without_a_value_reach_theirs(run, names_file):
    with untried():
        code, out, _ = run("train", "--data", names_file, "--lines", "--valid-data", names_file, "--dry-run")
    settings = tomllib.loads(out.decode())["data"]
    assert (code, settings["lines"], settings["valid"]) == (0, True, str(names_file))


def test_a_dry_run_prints_a_recipe_and_writes_nothing(run, text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "run"
    code, out, _ = run("train", "--data", text_file, *TINY, "--dry-run", "-o", target)
    assert code == 0
    assert not list(tmp_path.iterdir())
    assert b"parameters" in out
    assert b"\n# 20 steps, which read 5,120 tokens\n" in out
    (tmp_path / "printed.toml").write_bytes(out)
    code, again, _ = run("train", "printed.toml", "--dry-run")
    assert code == 0
    assert again.splitlines()[:-1] == out.splitlines()[:-1]
    assert re.fullmatch(rb"# about [\d.]+ minutes and [\d.]+ GB of memory, .*", out.splitlines()[-1])
    assert run("train", "printed.toml", "-q", "-o", "run") == (0, b"", "")
    assert tomllib.loads(out.decode()) == tomllib.loads((target / "config.toml").read_text())


def test_a_dry_run_finds_what_a_run_would_fall_over(run, text_file, absorbing_run):
    arguments = ("train", "--data", text_file, *TINY, "--dry-run")
    code, _, err = run(*arguments, "-o", absorbing_run)
    assert (code, "already holds a run" in err) == (2, True)
    code, _, err = run(*arguments, "--track", "tensorbord")
    assert (code, "did you mean 'tensorboard'?" in err) == (2, True)


def test_a_dry_run_of_a_timed_recipe_tells_its_time(run, text_file):
    code, out, _ = run("train", "--data", text_file, *tiny(train__steps=None), "--minutes", "3", "--dry-run")
    assert code == 0
    told = tomllib.loads(out.decode())["train"]
    assert (told["minutes"], "steps" in told) == (3, False)
    assert re.search(rb"# about [\d,]+ steps, which read [\d,]+ tokens\n", out)
    assert b"# about 3.0 minutes and" in out


def test_a_dry_run_is_json_too(run, text_file):
    code, out, _ = run("train", "--data", text_file, *TINY, "--dry-run", "--json")
    told = json.loads(out)
    assert (code, told["settings"]["train"]["steps"]) == (0, 20)
    assert told["parameters"] == told["trained_parameters"] > 1000
    assert min(told["seconds"], told["memory_bytes"]) > 0


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("sample", "RUN", "It was"), "no use for 'It was'; text to begin with is given by --prompt"),
        (("infill", "RUN", "a [MASK] text"), "a text itself is given on stdin: echo"),
        (("infill", "RUN", "a.txt", "b.txt"), "no use for 'b.txt'; a text itself is given on stdin: echo"),
        (("train", "names", "names.txt"), "what to train on is given by --data"),
        (("report", "RUN", "page.html"), "`ddcli report -h` shows what it takes"),
    ],
)
def test_what_is_said_in_the_wrong_place_is_told_the_right_one(refused, arguments, hint):
    assert hint in refused(*arguments)


def test_what_is_printed_is_utf8_wherever_it_goes(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="cp1252"))  # a pipe on Windows
    assert cli.main(["noise-viz", "--text", "ab", "--process", "absorbing", "--times", "1"]) == 0
    assert "░░" in printed.getvalue().decode()


TRAINING_ERRORS = {
    "nowhere to write": (["--data", "good.txt"], "give the run folder with -o"),
    "missing data": (["--data", "missing.txt", "-o", "run"], "no such file or folder: missing.txt"),
    "misspelt data": (["--data", "god.txt", "-o", "run"], "folder: god.txt; did you mean 'good.txt'?"),
    "a run for a recipe": (["full", "-o", "run"], "to start from a run in it, give --from full"),
    "empty data": (["--data", "empty.txt", "-o", "run"], "empty.txt holds no text"),
    "data no UTF-8": (["--data", "latin.txt", "-o", "run"], "latin.txt is not UTF-8 text"),
    "short data": (["--data", "short.txt", "-o", "run"], "lower --length from 32"),
    "another's folder": (["--data", "good.txt", "-o", "full"], "full is not empty and holds no run"),
    "a file": (["--data", "good.txt", "-o", "good.txt"], "good.txt is a file"),
    "below a file": (["--data", "good.txt", "-o", "good.txt/run"], "good.txt is a file"),
    "unknown recipe": (["tiny-stories", "-o", "run"], "unknown recipe 'tiny-stories'"),
    "a name without end": (["9" * 400, "-o", "run"], "9… is too long for the name of a file"),
    "a recipe that is none": (["good.txt", "-o", "run"], "to train on it, give --data good.txt"),
    "unknown process": (["--data", "good.txt", "-o", "run", "--process", "noise"], "unknown process 'noise'"),
    "unknown schedule": (["--data", "good.txt", "-o", "run", "--schedule", "x"], "unknown schedule 'x'"),
    "bad power": (["--data", "good.txt", "-o", "run", "--schedule", "polynomial:x"], "does not take 'x'"),
    "unknown objective": (["--data", "good.txt", "-o", "run", "--objective", "x"], "unknown objective 'x'"),
    "no such device": (["--data", "good.txt", "-o", "run", "--device", "x"], "device 'x' cannot be used"),
    "a number that is none": (["--data", "good.txt", "-o", "run", "--minutes", "soon"], "--minutes"),
    "endless": (["--data", "good.txt", "-o", "run", "--set", "train.clip=inf"], "train.clip = inf"),
    "bad fraction": (["--data", "good.txt", "-o", "run", "--valid-fraction", "2"], "less than 1"),
    "given twice": (["--data", "good.txt", "-o", "run", "--length", "9"], "by a flag and by --set"),
    "unknown setting": (["--data", "good.txt", "-o", "run", "--set", "train.rl=1"], "'train.lr'"),
    "no setting": (["--data", "good.txt", "-o", "run", "--set", "train.lr"], "section.key=value"),
}


@pytest.mark.parametrize("name", TRAINING_ERRORS)
def test_training_that_cannot_work_is_refused_and_writes_nothing(refused, tmp_path, monkeypatch, name):
    arguments, message = TRAINING_ERRORS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text(words(50))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1") * 99)
    (tmp_path / "short.txt").write_text("hello")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("precious")
    before = files(tmp_path)
    assert message in refused("train", *arguments, *TINY)
    assert files(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["full"]


def test_resuming_takes_the_settings_of_the_run(run, text_file, tmp_path):
    target = tmp_path / "run"
    run("train", "--data", text_file, *TINY, "-o", target)
    code, _, err = run("train", "--resume", "-o", target, "--steps", "30")
    assert code == 0, err
    assert [line["step"] for line in metrics(target)][-2:] == [25, 30]


def test_resuming_with_other_settings_is_refused_and_they_are_named(refused, text_file, tmp_path, run):
    target = tmp_path / "run"
    run("train", "--data", text_file, *TINY, "-o", target)
    before = files(target)
    message = refused("train", "--resume", "-o", target, "--batch-size", "4", "--seed", "5")
    assert "train.batch_size (8 in the run, now 4)" in message
    assert "train.seed (0 in the run, now 5)" in message
    message = refused("train", "--data", text_file, *TINY, "-o", target)
    assert "already holds a run; go on with --resume" in message
    assert files(target) == before


def test_a_recipe_without_its_data_says_where_that_is(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused("train", "tinyshakespeare", "-o", "run")
    assert line == (
        "tinyshakespeare reads input.txt, which is not here: `ddcli recipes tinyshakespeare` says what it "
        "is; or give other --data"
    )
    assert not (tmp_path / "run").exists()


def test_nothing_is_trained_that_nobody_asked_for(refused, text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("train", "-o", "runs/x") == (
        "train on what? give --data, or a recipe (`ddcli recipes` lists them)"
    )
    train_tiny(tmp_path / "runs/novel", text_file, train__steps=2)
    line = refused("train", "--resume", "-o", "runs/novl")
    assert line == "runs/novl holds no run to go on with; did you mean 'runs/novel'?"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["novel"]


def test_a_text_that_looks_like_something_else_is_asked_about(run, uniform_run, tmp_path):
    (tmp_path / "jobs.jsonl").write_text('{"text": "a[MASK:2]b"}\n')
    code, _, err = run("infill", uniform_run, tmp_path / "jobs.jsonl", *FEW)
    assert code == 0
    assert "where each of its lines is one, give --jsonl" in err
    (tmp_path / "t.jsonl").write_text('{"kind":"trace"}\n')
    code, _, err = run("noise-viz", tmp_path / "t.jsonl", "-o", tmp_path / "t.html")
    assert code == 0
    assert f"to replay it, give --trace {tmp_path / 't.jsonl'}" in err


def test_the_minutes_of_a_recipe_are_not_spent_twice(run, text_file, tmp_path):
    recipe, target = tmp_path / "timed.toml", tmp_path / "run"
    recipe.write_text(f"[train]\nminutes = 1e-5\n[data]\nsource = '{text_file}'\n")
    untimed = tiny(train__steps=None)
    code, _, err = run("train", recipe, *untimed, "-o", target)
    assert code == 0
    assert "1 step planned for --minutes 1e-05 " in err
    code, _, err = run("train", recipe, *untimed, "-o", target, "--resume")
    assert code == 0
    assert "is finished at step 1; give more --steps to go on" in err


def test_a_run_that_fails_is_exit_code_1(run, text_file, tmp_path):
    settings = tiny(train__lr=1e38, train__warmup=0)
    code, out, err = run("train", "--data", text_file, *settings, "-q", "-o", tmp_path / "run")
    assert (code, out) == (1, b"")
    assert "lower train.lr" in err
    assert err.count("\n") == 1


def test_an_interrupted_training_leaves_a_checkpoint_and_says_how_to_go_on(text_file, tmp_path):
    """As from a terminal: a process of its own, and SIGINT."""
    target = tmp_path / "run"
    arguments = ["--data", text_file, *tiny(train__steps=100_000), "-o", target]
    command = [sys.executable, "-m", "ddcli", "train", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(10_000):
            told = (target / "metrics.jsonl").read_text() if (target / "metrics.jsonl").exists() else ""
            if '"step": 5,' in told or process.poll() is not None:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("ddcli: stopped at step ")
    assert last.endswith(f"go on with: ddcli train --resume -o {target}")
    step = int(last.split()[4].rstrip(";"))
    assert (target / f"checkpoints/step-{step:08}/manifest.json").exists()


# -- sample -----------------------------------------------------------------------------------------------


def test_a_sample_is_text_on_stdout_and_figures_on_stderr(run, absorbing_run):
    code, out, err = run("sample", absorbing_run, "--steps", "4", "--seed", "7")
    assert code == 0
    assert len(out.decode()) == LENGTH + 1
    assert out.endswith(b"\n")
    assert err.startswith("NFE 4, 8.0 tokens per call, ")
    assert err.endswith("tokens/s, seed 7\n")
    assert run("sample", absorbing_run, "--steps", "4", "--seed", "7", "--quiet") == (0, out, "")


def test_a_seed_nobody_gave_is_told_and_gives_the_text_again(run, absorbing_run):
    _, out, err = run("sample", absorbing_run, "--steps", "4")
    seed = err.split()[-1]
    assert run("sample", absorbing_run, "--steps", "4", "--seed", seed, "-q")[1] == out
    _, other, err = run("sample", absorbing_run, "--steps", "4")
    assert err.split()[-1] != seed
    assert other != out


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "records"])
def test_a_seed_means_a_text_whatever_the_batch(run, request, kind):
    model = request.getfixturevalue(f"{kind}_run")
    found = {
        run("sample", model, *FEW, "-n", "7", "-q", "--json", "--batch-size", size)[1] for size in (1, 3, 16)
    }
    assert len(found) == 1
    fewer = run("sample", model, *FEW, "-n", "3", "-q", "--json")[1]
    assert found.pop().startswith(fewer)


def test_the_command_and_its_twin_draw_the_same_text(run, absorbing_run):
    _, out, _ = run("sample", absorbing_run, *FEW, "-n", "2", "--json")
    twins = ddcli.sample(absorbing_run, n=2, steps=4, seed=1)
    assert [json.loads(line)["text"] for line in out.decode().splitlines()] == [twin.text for twin in twins]


def test_samples_are_separated_by_dashes_by_nul_or_as_json(run, absorbing_run):
    texts = [s.text for s in ddcli.sample(absorbing_run, n=3, steps=4, seed=1)]
    dashes, nul, lines = (
        run("sample", absorbing_run, *FEW, "-n", "3", "-q", *how)[1] for how in ((), ("-0",), ("--json",))
    )
    assert dashes == DASHES.join(f"{text}\n".encode() for text in texts)
    assert nul == b"".join(text.encode() + b"\0" for text in texts)
    records = [json.loads(line) for line in lines.decode().splitlines()]
    assert [record["text"] for record in records] == texts
    assert [(record["seed"], record["index"]) for record in records] == [(1, 0), (1, 1), (1, 2)]
    assert all(0 < record["nfe"] <= 4 and len(record["tokens"]) == LENGTH for record in records)


def test_samples_go_to_a_file_or_to_a_file_each(run, absorbing_run, tmp_path):
    out = run("sample", absorbing_run, *FEW, "-n", "3", "-q")[1]
    lines = run("sample", absorbing_run, *FEW, "-n", "3", "-q", "--json")[1]
    for target, how in (("a.txt", ()), ("new/", ()), ("json/", ("--json",))):
        arguments = ["sample", absorbing_run, *FEW, "-n", "3", "-q", *how, "-o", f"{tmp_path}/{target}"]
        assert run(*arguments) == (0, b"", "")
    assert (tmp_path / "a.txt").read_bytes() == out
    assert files(tmp_path / "new") == {f"000{i}.txt": part for i, part in enumerate(out.split(DASHES))}
    assert files(tmp_path / "json") == {
        f"000{i}.json": part + b"\n" for i, part in enumerate(lines.splitlines())
    }
    (tmp_path / "there").mkdir()
    assert run("sample", absorbing_run, *FEW, "-q", "-o", tmp_path / "there")[0] == 0
    assert list(files(tmp_path / "there")) == ["0000.txt"]


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "records"])
@pytest.mark.parametrize("prompt", ["the", "ab", "q☃\U0001f600é", "<mask>", " "])
def test_a_prompt_is_kept_exactly_at_the_start(run, request, kind, prompt):
    """Characters never seen in training included."""
    model = request.getfixturevalue(f"{kind}_run")
    code, out, _ = run("sample", model, *FEW, "-n", "4", "-q", "-0", "--prompt", prompt)
    texts = out.decode().split("\0")[:-1]
    assert (code, len(texts)) == (0, 4)
    assert all(text.startswith(prompt) for text in texts)
    assert all(len(text) > len(prompt) or kind == "records" for text in texts)


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "records"])
@pytest.mark.parametrize("how", [["--steps", "2"], ["--temperature", "100"], ["--top-p", "0.5"]])
def test_only_symbols_of_the_text_are_ever_written(run, request, kind, how):
    model = request.getfixturevalue(f"{kind}_run")
    code, out, _ = run("sample", model, "--seed", "3", "-n", "12", "-q", "--json", *how)
    records = [json.loads(line) for line in out.decode().splitlines()]
    symbols = set("abcdefgh") if kind == "records" else set(words(300))
    assert code == 0
    assert set("".join(record["text"] for record in records)) <= symbols
    tokenizer = ddcli.load(model).tokenizer
    drawn = {token for record in records for token in record["tokens"]}
    assert not drawn & {*tokenizer.special_ids, tokenizer.eos_id}


def test_records_vary_in_length_as_they_did_in_training(run, records_run):
    _, out, _ = run("sample", records_run, *FEW, "-n", "60", "-q", "-0")
    lengths = {len(text) for text in out.decode().split("\0")[:-1]}
    assert lengths <= set(range(3, 13))
    assert len(lengths) > 4
    assert b"\n" not in out


def test_a_length_is_the_whole_text_prompt_included(run, absorbing_run):
    _, out, _ = run("sample", absorbing_run, *FEW, "-q", "--length", "10", "--prompt", "the ")
    assert len(out) == 11


def test_a_canvas_can_be_watched_as_it_denoises(run, absorbing_run, monkeypatch):
    _, out, err = run("sample", absorbing_run, *FEW, "--live")
    assert len(out) == LENGTH + 1
    assert "step 4/4, NFE 4, 0 masks left" in err
    on_a_screen(monkeypatch)
    _, coloured, err = run("sample", absorbing_run, "--seed", "1", "--live", "--steps", "300", "-n", "2")
    assert b"\x1b" not in coloured
    assert "\x1b[" in err


def test_quiet_means_no_lines_of_the_live_view_either(run, absorbing_run):
    assert run("sample", absorbing_run, *FEW, "--live", "-q")[2] == ""


def test_what_a_model_cannot_write_is_refused(refused, absorbing_run, uniform_run, tmp_path):
    assert "writes 1 to 32 characters at once, not 33" in refused("sample", absorbing_run, "--length", "33")
    assert "leave nothing to write" in refused("sample", absorbing_run, "--prompt", "x" * 32)
    assert "leave nothing to write" in refused("sample", absorbing_run, "--prompt", "abc", "--length", "3")
    assert "unknown sampler 'best'" in refused("sample", absorbing_run, "--sampler", "best")
    assert "did you mean 'ancestral'" in refused("sample", absorbing_run, "--sampler", "ancestor")
    assert "--top-p 0.0: " in refused("sample", absorbing_run, "--top-p", "0")
    assert "temperature" in refused("sample", absorbing_run, "--temperature", "-1")
    assert "unknown precision" in refused("sample", absorbing_run, "--precision", "half")
    assert "device 'x'" in refused("sample", absorbing_run, "--device", "x")
    assert "--prompt is not UTF-8 text" in refused("sample", absorbing_run, "--prompt", "caf\udce9")
    line = refused("sample", uniform_run, "--sampler", "confidence")
    assert "sampler confidence" in line
    assert "--sampler ancestral" in line


def test_confidence_sampling_works_where_there_are_masks(run, absorbing_run):
    code, out, _ = run("sample", absorbing_run, *FEW, "-q", "--sampler", "confidence")
    assert (code, len(out)) == (0, LENGTH + 1)


def test_what_is_no_run_is_refused(refused, tmp_path, absorbing_run):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("precious")
    gap = tmp_path / "gap.txt"
    gap.write_text("[MASK]")
    assert "no run folder but a file; to train a model on it: `ddcli train --data" in refused("sample", gap)
    near = absorbing_run.with_name(f"{absorbing_run.name}s")
    assert (
        f"there is no such folder; train one with `ddcli train -o {near}`; did you mean '{absorbing_run}'?"
        in (refused("sample", near))
    )
    for model in (tmp_path / "missing", tmp_path / "full", gap):
        assert "is no run folder" in refused("sample", model)
        assert "is no run folder" in refused("infill", model, gap)
        assert "is no run folder" in refused("noise-viz", "--text", "a", "-m", model)
    run = copy_of(absorbing_run, tmp_path)
    edit_json(run / "config.json", diffusion__schedule=...)
    assert "config.json is damaged: diffusion.schedule" in refused("sample", run)


@pytest.mark.parametrize("target", ["missing/a.txt", "file/", "file/a.txt"])
def test_an_output_that_cannot_be_written_is_refused(refused, absorbing_run, tmp_path, target):
    (tmp_path / "file").write_text("old")
    assert f"{tmp_path}/{target.rstrip('/')}" in refused(
        "sample", absorbing_run, *FEW, "-o", f"{tmp_path}/{target}"
    )
    assert files(tmp_path) == {"file": b"old"}


def test_an_output_of_which_one_file_cannot_be_written_is_refused(refused, absorbing_run, tmp_path):
    (tmp_path / "texts/0000.txt").mkdir(parents=True)
    line = refused("sample", absorbing_run, *FEW, "-o", f"{tmp_path}/texts/")
    assert f"{tmp_path}/texts/0000.txt cannot be written" in line
    assert not files(tmp_path)


@pytest.fixture
def breaks_down(monkeypatch):
    """Sampling that breaks down after the first text."""
    whole = TextModel.samples

    def samples(self, n=1, **options):
        yield from whole(self, 1, **options)
        raise RunFailed("out of luck")

    monkeypatch.setattr(TextModel, "samples", samples)


def test_a_text_is_written_as_soon_as_it_is_drawn(run, absorbing_run, breaks_down):
    code, out, err = run("sample", absorbing_run, *FEW, "-n", "3")
    assert (code, err) == (1, "ddcli: out of luck\n")
    assert len(out) == LENGTH + 1


def test_a_file_is_written_whole_or_not_at_all(run, absorbing_run, breaks_down, tmp_path):
    (tmp_path / "out.txt").write_text("old")
    assert run("sample", absorbing_run, *FEW, "-n", "3", "-o", tmp_path / "out.txt")[0] == 1
    assert files(tmp_path) == {"out.txt": b"old"}


def test_a_reader_that_goes_away_is_no_error(absorbing_run):
    command = [sys.executable, "-m", "ddcli", "sample", absorbing_run, "--steps", "1", "-n", "3", "-q"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


# -- infill -----------------------------------------------------------------------------------------------

NASTY = (
    b"\xef\xbb\xbfthe cat \xff\xfe\r\n\ta dog\t \r\n[MASK:3] sat\0 \xe2\x98\x83 on\r\r\n a [MASK]   \n\n \n"
)


def assert_filled(document: bytes, filled: bytes, **gaps: int) -> None:
    """Every marker has become so many (ASCII) characters, and everything else is as it was."""
    pattern = re.escape(document)
    for marker, size in gaps.items():
        assert re.escape(marker.encode()) in pattern
        pattern = pattern.replace(re.escape(marker.encode()), b"[ -~\n]{%d}" % size, 1)
    assert re.fullmatch(pattern, filled), filled


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "records"])
@pytest.mark.parametrize("way", ["stdin", "file", "output", "in place"])
def test_everything_outside_the_gaps_stays_byte_for_byte(run, request, tmp_path, kind, way):
    model = request.getfixturevalue(f"{kind}_run")
    file, target = tmp_path / "in.txt", tmp_path / "out.txt"
    file.write_bytes(NASTY)
    arguments = {
        "stdin": ["-"],
        "file": [file],
        "output": [file, "-o", target],
        "in place": [file, "--in-place"],
    }[way]
    code, out, err = run("infill", model, *arguments, *FEW, stdin=NASTY)
    assert (code, err.splitlines()[0]) == (0, "2 gaps, 4 characters")
    filled = {"output": target, "in place": file}[way].read_bytes() if way in ("output", "in place") else out
    assert way in ("stdin", "file") or out == b""
    assert_filled(NASTY, filled, **{"[MASK:3]": 3, "[MASK]": 1})
    assert way == "in place" or file.read_bytes() == NASTY
    assert {p.name for p in tmp_path.iterdir()} == {"in.txt", *(["out.txt"] if way == "output" else [])}


def test_a_document_in_place_is_replaced_whole_and_keeps_its_permissions(run, absorbing_run, tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("the [MASK:3]")
    file.chmod(0o640)
    inode = file.stat().st_ino
    assert run("infill", absorbing_run, file, "--in-place", *FEW)[0] == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.stat().st_ino != inode  # another file took its place in one move
    assert "MASK" not in file.read_text()


def test_a_document_that_cannot_be_filled_stays_as_it_is(refused, absorbing_run, tmp_path):
    file = tmp_path / "in.txt"
    for content, lines in ((b"nothing to do", 1), (b"a [MASK:99] b", 3), (b"a [MASK:0] b", 3)):
        file.write_bytes(content)
        refused("infill", absorbing_run, file, "--in-place", "-q", lines=lines)
        assert files(tmp_path) == {"in.txt": content}


@pytest.mark.parametrize(
    "how", [["-n", "3"], ["-o", "other.txt"], ["--json"], ["-0"]], ids=lambda how: how[0]
)
def test_in_place_takes_one_file_and_one_way(refused, absorbing_run, tmp_path, how):
    file = tmp_path / "in.txt"
    file.write_text("the [MASK:3]")
    assert "--in-place takes one FILE" in refused("infill", absorbing_run, file, "--in-place", *how)
    assert "--in-place takes one FILE" in refused("infill", absorbing_run, "-", "--in-place", stdin=b"[MASK]")
    assert files(tmp_path) == {"in.txt": b"the [MASK:3]"}


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_alternatives_come_best_first_with_their_scores(run, request, kind):
    model = request.getfixturevalue(f"{kind}_run")
    code, out, err = run("infill", model, "-", "-n", "4", *FEW, stdin=b"the [MASK:4] sat")
    assert code == 0
    ways = out.split(b"\n" + DASHES)
    assert len(ways) == 4
    assert all(way.startswith(b"the ") and way.endswith(b" sat") for way in ways)
    lines = [line for line in err.splitlines() if "ln p(gaps | text)" in line]
    scores = [float(line.split(" at least ")[1].split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert [line.split(":")[0] for line in lines] == ["1", "2", "3", "4"]
    _, out, _ = run("infill", model, "-", "-n", "4", "--json", *FEW, stdin=b"the [MASK:4] sat")
    records = [json.loads(line) for line in out.decode().splitlines()]
    assert [record["text"].encode() for record in records] == ways
    assert [f"{record['score']:.2f}" for record in records] == [f"{score:.2f}" for score in scores]
    assert sorted(record["index"] for record in records) == [0, 1, 2, 3]
    assert all(record["text"] == f"the {record['fills'][0]} sat" for record in records)


def test_alternatives_go_to_a_file_each(run, absorbing_run, tmp_path):
    arguments = ["-n", "2", *FEW, "-q", "-o", f"{tmp_path}/ways/"]
    assert run("infill", absorbing_run, "-", *arguments, stdin=b"a [MASK:2]\r\n") == (0, b"", "")
    found = files(tmp_path / "ways")
    assert list(found) == ["0000.txt", "0001.txt"]
    assert all(way.startswith(b"a ") and way.endswith(b"\r\n") and len(way) == 6 for way in found.values())


def test_the_command_and_its_twin_fill_the_same_text(run, absorbing_run):
    _, out, _ = run("infill", absorbing_run, "-", *FEW, stdin=b"the [MASK:5] cat")
    assert ddcli.infill(absorbing_run, "the [MASK:5] cat", steps=4, seed=1)[0].content == out


def test_a_literal_marker_and_another_marker_are_possible(run, absorbing_run):
    infill = ["infill", absorbing_run, "-", *FEW]
    _, out, _ = run(*infill, stdin=rb"\[MASK] [MASK:2] \[MASK:3]")
    assert_filled(b"[MASK] @ [MASK:3]", out, **{"@": 2})
    _, out, err = run(*infill, "--mask-token", "<?>", stdin=b"[MASK] <?:4> <?>")
    assert err.startswith("2 gaps, 5 characters\n")
    assert_filled(b"[MASK] <?:4> <?>", out, **{"<?:4>": 4, "<?>": 1})
    _, out, _ = run(*infill, "--mask-token", "___", stdin=b"the ___ [MASK]")
    assert_filled(b"the ___ [MASK]", out, ___=1)


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_documents_longer_than_the_model_are_filled_by_windows(run, request, kind):
    model = request.getfixturevalue(f"{kind}_run")
    filler = words(100).encode()
    document = b"[MASK:2]" + filler + b"[MASK:20]" + filler + b"[MASK:3]"
    code, out, err = run("infill", model, "-", *FEW, stdin=document)
    assert (code, err.splitlines()[0]) == (0, "3 gaps, 25 characters")
    assert out[2 : 2 + len(filler)] == filler
    assert out[22 + len(filler) : -3] == filler
    assert len(out) == len(document) - len(b"[MASK:2][MASK:20][MASK:3]") + 25


def test_a_gap_that_cannot_be_filled_is_shown_with_a_caret(refused, absorbing_run):
    document = b"first line\n  then [MASK:99] here\n"
    message, line, caret = refused("infill", absorbing_run, "-", "-q", stdin=document, lines=3).split("\n")
    assert message.startswith("line 2, column 8: the model reads 32 tokens at once")
    assert line == "  then [MASK:99] here"
    assert caret == " " * line.index("[MASK") + "^"
    message, line, caret = refused("infill", absorbing_run, "-", "-q", stdin=b"a [MASK:x]", lines=3).split(
        "\n"
    )
    assert "needs a whole number of tokens" in message
    assert (line, caret) == ("a [MASK:x]", "  ^")


def test_what_cannot_be_infilled_is_refused(refused, absorbing_run, uniform_run, tmp_path):
    assert "no gap to fill; write [MASK]" in refused("infill", absorbing_run, "-", stdin=b"text")
    assert "no gap to fill" in refused("infill", absorbing_run, "-", stdin=b"")
    assert "cannot be read: No such file" in refused("infill", absorbing_run, tmp_path / "missing.txt")
    (tmp_path / "letter.txt").write_text("a")
    for command in (("infill", absorbing_run), ("noise-viz",)):
        assert f"did you mean '{tmp_path}/letter.txt'?" in refused(*command, tmp_path / "lettr.txt")
    assert "the model comes first, then a text" in refused("infill", tmp_path / "text.txt", absorbing_run)
    assert "the mask token is empty" in refused("infill", absorbing_run, "-", "--mask-token", "", stdin=b"a")
    quiet = ["-q", "--sampler", "confidence"]
    assert "--sampler ancestral" in refused("infill", uniform_run, "-", *quiet, stdin=b"[MASK]")


def test_places_can_be_said_beside_the_text(run, absorbing_run, tmp_path):
    """By spans, by a pattern, by two files: the text is then no place for markers."""
    (tmp_path / "a.txt").write_bytes(b"the cat\r\nsat [MASK] on\xff a mat")
    infill = ["infill", absorbing_run, tmp_path / "a.txt", *FEW]
    code, out, err = run(*infill, "--span", "1:5-1:8", "--span", "2:12-2:17=2")
    assert (code, err.splitlines()[0]) == (0, "2 gaps, 5 characters")
    assert_filled(b"the @@@\r\nsat [MASK] ## mat", out, **{"@@@": 3, "##": 2})
    code, out, err = run(*infill, "--regex", "a(t)", "--gap", "2")
    assert (code, err.splitlines()[0]) == (0, "3 gaps, 6 characters")
    assert_filled(b"the ca@\r\nsa# [MASK] on\xff a ma%", out, **{"@": 2, "#": 2, "%": 2})
    (tmp_path / "b.txt").write_bytes(b"[MASK]")
    infill = ["infill", absorbing_run, *FEW]
    _, out, err = run(*infill, "--prefix", tmp_path / "a.txt", "--suffix", tmp_path / "b.txt", "--gap", "3")
    assert err.splitlines()[0] == "1 gap, 3 characters"
    assert_filled((tmp_path / "a.txt").read_bytes() + b"@[MASK]", out, **{"@": 3})
    _, out, err = run(*infill, "--suffix", tmp_path / "b.txt", "--max-gap", "4")
    assert err.splitlines()[0] == "1 gap, 1 to 4 characters"
    assert re.fullmatch(rb"[ -~\n]{1,4}\[MASK]", out)


def test_the_command_and_its_twin_allow_the_same_lengths():
    (option,) = [p for p in get_command(cli.app).commands["infill"].params if p.name == "max_gap"]
    assert option.default == MAX_GAP


def test_lengths_may_be_left_to_the_model(run, absorbing_run):
    code, out, err = run("infill", absorbing_run, "-", *FEW, stdin=b"the [MASK:2-5] sat [MASK:*]")
    assert (code, err.splitlines()[0]) == (0, "2 gaps, 3 to 37 characters")
    assert re.fullmatch(rb"the [ -~\n]{2,5} sat [ -~\n]{1,16}", out)
    _, again, _ = run("infill", absorbing_run, "-", *FEW, stdin=b"the [MASK:2-5] sat [MASK:*]")
    assert again == out
    arguments = ["--mask-token", "___", "--gap", "2-3", "--json", *FEW]
    _, out, _ = run("infill", absorbing_run, "-", *arguments, stdin=b"the ___ sat")
    (span,) = json.loads(out)["spans"]
    assert len(span["tokens"]) == len(span["log_probs"]) == span["end"]["byte"] - 4 in (2, 3)
    assert span["log_length"] < 0
    assert span["start"] == {"byte": 4, "line": 1, "column": 5}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["FILE", "--span", "1:1-1:2", "--regex", "x"], "not by --span and by --regex"),
        (["FILE", "--prefix", "FILE"], "in the place of FILE"),
        (["FILE", "--gap", "2-"], "--gap 2-: a gap has a length such as 12"),
        (["FILE", "--span", "9:1-9:2"], "there is no line 9; the text has lines 1 to 1"),
        (["FILE", "--regex", "("], "--regex (: missing )"),
        (["FILE", "--span", "1:2-1:2", "-q"], "nothing is replaced here"),
        (["FILE", "--backup", ".bak"], "--backup keeps what --in-place replaces"),
        (["FILE", "--in-place", "--backup", ""], "no suffix"),
        (["FILE", "--in-place", "--jsonl"], "--in-place takes one FILE"),
        (["FILE", "--diff", "--json"], "--diff shows what changes in one FILE"),
        (["--suffix", "FILE", "--diff"], "--diff shows what changes in one FILE"),
        (["--suffix", "FILE", "--in-place"], "--in-place takes one FILE"),
        (["--suffix", "FILE", "--jsonl"], "--jsonl takes a FILE"),
        (["FILE", "--jsonl", "--explain"], "--explain tells how one FILE is filled: no --jsonl"),
    ],
)
def test_options_that_contradict_each_other_are_refused(refused, absorbing_run, tmp_path, arguments, problem):
    file = tmp_path / "in.txt"
    file.write_text("the [MASK:3]")
    arguments = [file if argument == "FILE" else argument for argument in arguments]
    assert problem in refused("infill", absorbing_run, *arguments, lines=3 if "-q" in arguments else 1)
    assert files(tmp_path) == {"in.txt": b"the [MASK:3]"}


def test_the_old_file_is_kept_under_another_name_and_never_over_another_file(
    run, refused, absorbing_run, tmp_path, monkeypatch
):
    file = tmp_path / "in.txt"
    file.write_text("the [MASK:3]")
    file.chmod(0o640)
    arguments = ["infill", absorbing_run, file, "--in-place", "--backup", ".bak", *FEW]
    assert run(*arguments)[:2] == (0, b"")
    assert set(files(tmp_path)) == {"in.txt", "in.txt.bak"}
    assert (tmp_path / "in.txt.bak").read_text() == "the [MASK:3]"
    assert stat.S_IMODE((tmp_path / "in.txt.bak").stat().st_mode) == 0o640
    file.write_text("a [MASK]")
    before = files(tmp_path)
    assert "in.txt.bak is there already; give another suffix" in refused(*arguments)
    assert files(tmp_path) == before
    (tmp_path / "in.txt.bak").unlink()
    with monkeypatch.context() as disk_without_links:
        disk_without_links.setattr(
            "os.link", lambda *paths: (_ for _ in ()).throw(OSError(1, "not permitted"))
        )
        assert run(*arguments)[0] == 0
    assert (tmp_path / "in.txt.bak").read_text() == "a [MASK]"
    assert stat.S_IMODE((tmp_path / "in.txt.bak").stat().st_mode) == 0o640
    assert set(files(tmp_path)) == {"in.txt", "in.txt.bak"}
    (tmp_path / "in.txt.bak").unlink()
    file.write_text("a [MASK]")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left")))
    code, out, err = run(*arguments)
    assert (code, out) == (2, b"")
    assert "cannot be written: No space left" in err
    assert files(tmp_path) == {"in.txt": b"a [MASK]"}


def test_a_diff_turns_the_old_text_into_the_new(run, absorbing_run, tmp_path):
    file = tmp_path / "in.txt"
    old = b"the cat\r\x0b\r\n" + b"on\n" * 9 + b"a [MASK:3]\n" + b"on\n" * 9 + b"the [MASK]"
    old = old.replace(b"a [", b"\\[MASK] b\n" + b"on\n" * 9 + b"c [MASK]d[MASK:2]\n" + b"\n" * 9 + b"a [")
    file.write_bytes(old)
    _, plain, _ = run("infill", absorbing_run, file, *FEW)
    code, out, _ = run("infill", absorbing_run, file, *FEW, "--diff")
    assert (code, file.read_bytes()) == (0, old)
    assert out.startswith(f"--- {file}\n+++ {file}\n@@ -8,7 +8,7 @@\n on\n".encode())
    assert b"\n-\\[MASK] b\n+[MASK] b\n" in out
    assert out.endswith(b"\n\\ No newline at end of file\n")
    assert b"\n-a [MASK:3]\n+a " in out
    (tmp_path / "diff").write_bytes(out)
    if shutil.which("patch"):
        subprocess.run(["patch", "-s", "--binary", file, tmp_path / "diff"], check=True)
        assert file.read_bytes() == plain
        file.write_bytes(old)
    assert run("infill", absorbing_run, file, *FEW, "--diff", "--in-place")[1] == out
    assert file.read_bytes() == plain


def test_lines_of_json_are_filled_one_by_one_and_a_bad_one_harms_no_other(run, absorbing_run, tmp_path):
    lines = [
        b'{"id": 1, "text": "the [MASK:3] sat", "seed": null}',
        b"",
        b"{broken",
        b'{"prefix": "the cat", "suffix": " on", "gap": "2-4", "id": [2]}',
        b'{"text": "no gap"}',
        b'{"text": "[MASK]", "prefix": "a"}',
        b'{"text": 5}',
        b"[1]",
        '{"text": "é☃ [MASK]"}'.encode(),
        rb'{"text": "[MASK] \ud800"}',
        b"[" * 100_000,
    ]
    code, out, err = run("infill", absorbing_run, "-", "--jsonl", *FEW, stdin=b"\n".join(lines))
    assert code == 2
    found = [json.loads(line) for line in out.decode().split("\n")[:-1]]
    assert [record["line"] for record in found] == [1, *range(3, 12)]
    assert [n for n, record in enumerate(found) if "error" not in record] == [0, 2, 7]
    assert (found[0]["id"], found[0]["seed"], found[0]["text"][:4]) == (1, 1, "the ")
    assert found[0]["text"] == f"the {found[0]['fills'][0]} sat"
    assert (found[2]["id"], found[2]["prefix"], found[2]["gap"]) == ([2], "the cat", "2-4")
    assert found[2]["text"] == f"the cat{found[2]['fills'][0]} on"
    assert len(found[2]["fills"][0]) in (2, 3, 4)
    assert found[3]["text"] == "no gap"
    assert found[7]["text"].startswith("é☃ ")
    assert found[8]["text"] == "[MASK] \ud800"
    assert [line.split(":")[1] for line in err.splitlines() if ": line " in line] == [
        f" line {number}" for number in (3, 5, 6, 7, 8, 10, 11)
    ]
    assert err.splitlines()[-1] == "ddcli: 7 of 10 lines could not be filled"
    # a line's own seed fills it again
    alone = ["--seed", str(found[7]["seed"]), "--steps", "4", "--json"]
    _, out, _ = run("infill", absorbing_run, "-", *alone, stdin="é☃ [MASK]".encode())
    assert json.loads(out) | {"line": 9} == found[7]


def test_what_eval_cannot_read_is_told_without_options_of_training(refused, absorbing_run, tmp_path):
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    told = refused("eval", absorbing_run, "--data", tmp_path / "latin.txt")
    assert "is not UTF-8 text" in told
    assert "--bad-rows" not in told
    assert "--tokenizer" not in told


def test_a_length_in_a_line_of_json_may_be_a_number_and_what_is_no_text_is_named(run, absorbing_run):
    lines = [
        b'{"prefix": "a", "gap": 3}',
        b'{"prefix": "a", "gap": 0}',
        b'{"prefix": "a", "gap": true}',
        rb'{"prefix": "a", "suffix": "\ud800"}',
    ]
    _, out, _ = run("infill", absorbing_run, "-", "--jsonl", *FEW, stdin=b"\n".join(lines))
    first, *others = map(json.loads, out.splitlines())
    assert (first["gap"], len(first["fills"][0])) == (3, 3)
    assert [record["error"].partition(":")[0] for record in others] == [
        "--gap 0",
        "`gap` is a whole number, or a string such as 12, 3-20 or *, not True",
        "`suffix` is not UTF-8 text",
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--sampler", "nope"], "unknown sampler 'nope'"),
        (["--sampler", "confidence"], "--sampler ancestral"),
        (["--label", "A"], "trained without labels"),
        (["--budget", "fast"], "holds no budgets"),
    ],
)
def test_options_that_fill_no_line_are_refused_before_the_first(refused, uniform_run, options, problem):
    lines = b'{"text": "the [MASK]"}\n' * 2
    assert problem in refused("infill", uniform_run, "-", "--jsonl", *options, stdin=lines)


def test_of_several_ways_to_fill_a_line_all_are_told(run, absorbing_run, tmp_path):
    arguments = ["--jsonl", "-n", "3", *FEW, "-q", "-o", tmp_path / "out.jsonl"]
    line = b'{"text": "the [MASK:3] sat"}\n'
    assert run("infill", absorbing_run, "-", *arguments, stdin=line * 2) == (0, b"", "")
    for record in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()):
        ways = record.pop("alternatives")
        assert record == {"line": record["line"], **ways[0]}
        assert [way["score"] for way in ways] == sorted((way["score"] for way in ways), reverse=True)
        assert sorted(way["index"] for way in ways) == [0, 1, 2]


def test_a_folder_is_made_when_there_is_something_to_put_into_it(run, refused, absorbing_run, tmp_path):
    folder = f"{tmp_path}/new/folder/"
    infill = ["infill", absorbing_run, "-", "-q", *FEW, "-o", folder]
    assert "at most 31, not 99" in refused(*infill, stdin=b"a [MASK:99]", lines=3)
    assert "unknown sampler 'nope'" in refused(*infill, "--sampler", "nope", stdin=b"a [MASK]")
    assert "unknown sampler 'nope'" in refused("sample", absorbing_run, "--sampler", "nope", "-o", folder)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    where = f"{tmp_path}/file/new/"
    assert "file is a file" in refused("sample", absorbing_run, "--sampler", "nope", "-o", where)
    (tmp_path / "file").unlink()
    assert run(*infill, "-n", "2", stdin=b"a [MASK]") == (0, b"", "")
    assert set(files(tmp_path)) == {"new/folder/0000.txt", "new/folder/0001.txt"}


def test_places_of_many_gaps_in_a_big_text_are_found():
    content = "a line, é\n".encode() * 400_000
    gaps = [Fill(b"\n", place, [1]) for place in range(10, len(content), 2200)]
    spans = record_of(Infilling(content, gaps, 1, 1, 0))["spans"]
    assert len(spans) == 2000
    assert spans[1]["start"] == {"byte": 2210, "line": 201, "column": 10}
    assert spans[1]["end"] == {"byte": 2211, "line": 202, "column": 1}


def test_an_infilling_can_be_watched(run, uniform_run, monkeypatch):
    on_a_screen(monkeypatch)
    code, out, err = run("infill", uniform_run, "-", *FEW, "--live", stdin=b"the [MASK:4] sat")
    assert (code, b"\x1b" in out) == (0, False)
    assert "\x1b[" in err


# -- noise-viz --------------------------------------------------------------------------------------------


def test_what_a_vocabulary_lacks_is_said_to_be_drawn_as_unknown(run, absorbing_run):
    arguments = ("noise-viz", "--text", "the ☃ and ☃", "-m", absorbing_run, "--times", "0.5")
    assert "2 symbols that the model's vocabulary lacks: drawn as unknown" in run(*arguments)[2]
    assert "vocabulary" not in run(*arguments, "-q")[2]


@pytest.mark.parametrize("source", ["--text", "file", "-"])
def test_noise_is_shown_in_the_terminal(run, tmp_path, source):
    text = "to be or not to be"
    (tmp_path / "be.txt").write_text(text)
    arguments = {"--text": ["--text", text], "file": [tmp_path / "be.txt"], "-": ["-"]}[source]
    code, out, err = run("noise-viz", *arguments, stdin=text.encode())
    assert (code, err) == (0, "")
    assert "absorbing noise" in out.decode()
    assert "uniform noise" in out.decode()
    assert text in out.decode()


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>"), (".HTML", b"<!")],
)
def test_noise_is_drawn_to_a_file_by_its_suffix(run, tmp_path, suffix, start):
    target = tmp_path / f"noise{suffix}"
    code, out, err = run("noise-viz", "--text", "to be", "-o", target, "--process", "absorbing")
    assert (code, out, err) == (0, b"", f"{target} is written\n")
    assert target.read_bytes()[: len(start)].lower() == start.lower()
    assert run("noise-viz", "--text", "to be", "-o", target, "-q") == (0, b"", "")
    code, out, _ = run("noise-viz", "--text", "to be", "--process", "uniform", "--json")
    assert [chapter["name"] for chapter in json.loads(out)["chapters"]] == ["uniform"]


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "records"])
def test_with_a_model_the_way_back_is_shown_too(run, request, kind):
    model = request.getfixturevalue(f"{kind}_run")
    code, out, err = run("noise-viz", "--text", "a bad cab", "-m", model, "-q")
    assert (code, err) == (0, "")
    shown = out.decode()
    noise = "absorbing" if kind == "records" else kind
    assert f"{noise} noise" in shown
    assert f"a model undoes {noise} noise" in shown
    assert ("uniform noise" in shown) == (noise == "uniform")


def test_noise_takes_processes_schedules_times_and_seeds(run):
    def shown(*options):
        code, out, err = run("noise-viz", "--text", "to be or not to be, that is", *options)
        assert (code, err) == (0, "")
        return out.decode()

    only = shown("--process", "uniform")
    assert "absorbing noise" not in only
    assert shown("--process", "both") == shown() == shown("--process", "absorbing, uniform")
    rows = shown("--process", "absorbing", "--times", "0.25,0.75").splitlines()
    assert [row.split()[:2] for row in rows if row.startswith("0.")] == [["0.25", "0.75"], ["0.75", "0.25"]]
    cosine = shown("--process", "absorbing", "--times", "0.5", "--schedule", "cosine")
    assert "0.50 0.29" in cosine
    assert shown("--seed", "1") == shown("--seed", "1") != shown("--seed", "2")
    assert shown("--tokenizer", "byte")


def test_noise_that_cannot_be_drawn_is_refused_and_writes_nothing(refused, tmp_path, absorbing_run):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    text = ["--text", "to be"]
    cases = {
        "No such file": [tmp_path / "to be"],
        f"a model is given by -m {absorbing_run}": [absorbing_run],
        "is not UTF-8 text (byte 3)": [tmp_path / "latin.txt"],
        "give one text": [tmp_path / "latin.txt", *text],
        "the text is empty": ["--text", ""],
        "--text is not UTF-8 text": ["--text", "\udce9"],
        "unknown picture format '.jpg'": [*text, "-o", tmp_path / "a.jpg"],
        "there is no folder": [*text, "-o", tmp_path / "missing/a.png"],
        "unknown process 'gauss'": [*text, "--process", "gauss"],
        "unknown schedule 'x'": [*text, "--schedule", "x"],
        "--times takes numbers": [*text, "--times", "now"],
        "times lie between 0": [*text, "--times", "0.5,1.5"],
        "is no run folder": [*text, "-m", tmp_path],
        "a model brings its own tokenizer": [*text, "-m", absorbing_run, "--tokenizer", "byte"],
    }
    for message, arguments in cases.items():
        assert message in refused("noise-viz", *arguments)
    assert "give one text" in refused("noise-viz", "--seed", "1")
    assert list(files(tmp_path)) == ["latin.txt"]


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "records"])
def test_a_sampling_is_traced_and_replayed(run, request, tmp_path, kind):
    model, trace = request.getfixturevalue(f"{kind}_run"), tmp_path / "trace.jsonl"
    plain = run("sample", model, *FEW, "-n", "2")[1]
    code, out, _ = run("sample", model, *FEW, "-n", "2", "--trace", trace)
    assert (code, out) == (0, plain)
    code, out, err = run("noise-viz", "--trace", trace)
    assert (code, err) == (0, "")
    assert "sample: canvas 2 of 2, from" in out.decode()
    assert run("noise-viz", "--trace", trace, "-o", tmp_path / "trace.html", "-q") == (0, b"", "")
    assert b"Noise becoming text" in (tmp_path / "trace.html").read_bytes()


def test_an_infilling_is_traced_and_replayed(run, uniform_run, tmp_path):
    trace = tmp_path / "trace.jsonl"
    given = {"stdin": b"the [MASK:4] sat"}
    plain = run("infill", uniform_run, "-", *FEW, **given)[1]
    assert run("infill", uniform_run, "-", *FEW, "--trace", trace, "--live", **given)[1] == plain
    code, out, _ = run("noise-viz", "--trace", trace)
    assert (code, "infill: gap at 1:5, from uniform noise" in out.decode()) == (0, True)
    assert plain.decode().strip() in out.decode()


def test_a_trace_names_its_gaps_and_ways(run, absorbing_run, tmp_path):
    (tmp_path / "far.txt").write_text("the [MASK:2]\n" + "the cat sat\n" * 40 + "a [MASK:3] dog\n")
    trace = tmp_path / "trace.jsonl"
    run("infill", absorbing_run, tmp_path / "far.txt", "-n", "2", *FEW, "--trace", trace)
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    names = {line["name"] for line in lines if line["kind"] == "canvas"}
    assert names == {f"gap at {place}, way {way}" for place in ("1:5", "42:3") for way in (1, 2)}


def test_a_trace_of_many_texts_names_their_lines(run, absorbing_run, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "the [MASK:2]"}\n\n{"text": "a [MASK:3] dog"}\n')
    trace = tmp_path / "trace.jsonl"
    run("infill", absorbing_run, texts, "--jsonl", *FEW, "--trace", trace)
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    names = [line["name"] for line in lines if line["kind"] == "canvas"]
    assert names == ["line 1, gap at 1:5", "line 3, gap at 1:3"]


def test_whoever_watches_is_told_all_evaluations(run, absorbing_run, tmp_path):
    """Those for the length of a gap too, before it is filled."""
    trace = tmp_path / "trace.jsonl"
    _, out, _ = run(
        "infill", absorbing_run, "-", *FEW, "--json", "--trace", trace, stdin=b"the [MASK:2-5] sat"
    )
    last = [json.loads(line) for line in trace.read_text().splitlines()][-2]
    assert last["nfe"] == json.loads(out)["nfe"] > 4


def test_a_trace_of_many_texts_says_how_many_are_drawn(run, absorbing_run, tmp_path):
    trace = tmp_path / "trace.jsonl"
    run("sample", absorbing_run, "-n", "9", *FEW, "--trace", trace)
    _, out, _ = run("noise-viz", "--trace", trace)
    assert "the first 8 of 9 canvases" in out.decode()


def test_a_trace_is_replayed_alone_and_written_where_it_can_be(refused, tmp_path, absorbing_run):
    trace = tmp_path / "trace.jsonl"
    assert "trace.jsonl cannot be read" in refused("noise-viz", "--trace", trace)
    trace.write_text("to be\n")
    assert "trace.jsonl, line 1: this is no trace" in refused("noise-viz", "--trace", trace)
    for option in (["--text", "a"], ["--seed", "1"], ["--process", "uniform"], ["--times", "0.5"], ["a.txt"]):
        assert "--trace replays what happened" in refused("noise-viz", "--trace", trace, *option)
    assert "there is no folder" in refused("sample", absorbing_run, *FEW, "--trace", tmp_path / "no/t")
    assert "it is a folder" in refused("sample", absorbing_run, *FEW, "--trace", tmp_path)
    assert trace.read_text() == "to be\n"


def test_processes_and_schedules_are_compared(run):
    code, out, _ = run(
        "noise-viz", "--text", "to be", "--compare", "absorbing,hybrid:0.1", "--schedule", "linear,cosine"
    )
    assert code == 0
    for name in ("absorbing", "hybrid:0.1"):
        assert f"{name}, linear noise" in out.decode()
        assert f"{name}, cosine noise" in out.decode()


def test_an_empty_output_is_refused(refused, absorbing_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "-o is empty" in refused("sample", absorbing_run, *FEW, "-o", "")
    assert files(tmp_path) == {}


def test_sampling_can_be_explained_and_text_fixed(run, absorbing_run):
    code, out, err = run("sample", absorbing_run, *FEW, "--fix", "5:cat", "--explain", "--top-k", "3")
    assert code == 0
    assert out[5:8] == b"cat"
    assert err.startswith("sampler ancestral, steps 4, temperature 1.0, top k 3; NFE ")
    assert f"expected for {LENGTH - 3} characters" in err


@pytest.mark.parametrize("fix", ["cat", "x:cat", "5:", "-1:cat"])
def test_a_place_that_makes_no_sense_is_refused(refused, absorbing_run, fix):
    assert "--fix takes POSITION:TEXT" in refused("sample", absorbing_run, f"--fix={fix}")


def test_an_infilling_can_be_explained(run, absorbing_run):
    code, _, err = run("infill", absorbing_run, "-", "--explain", stdin=b"the [MASK:6] sat")
    assert code == 0
    assert "sampler ancestral" in err
    assert "for 6 characters" in err


def test_what_is_approximate_says_so(run, absorbing_run):
    _, out, err = run(
        "sample", absorbing_run, *FEW, "--block", "8", "--cache", "prefix", "--json", "--explain"
    )
    assert json.loads(out)["approximate"] == "prefix cache"
    assert "cache prefix, approximate; NFE" in err
    assert "approximate: written with the prefix cache" in err
    how = ["--block", "8", "--cache", "prefix", "--json", *FEW]
    _, out, err = run("infill", absorbing_run, "-", *how, stdin=b"the [MASK:2] sat")
    assert json.loads(out)["approximate"] == "prefix cache"
    assert "approximate: written with the prefix cache" in err


def test_every_setting_of_sampling_is_an_option():
    wanted = {*SamplerSettings.model_fields, "budget"}
    assert set(Asked.__annotations__) == wanted
    for command in ("sample", "infill"):
        taken = {parameter.name for parameter in get_command(cli.app).commands[command].params}
        assert wanted <= taken


@pytest.mark.parametrize(
    ("options", "function"),
    [(OfMany, samples), (OfOne, frames), (OfOne, explain), (OfGaps, infill)],
)
def test_methods_are_typed_by_the_keywords_of_the_functions_behind_them(options, function):
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert get_type_hints(options) == get_type_hints(Asked) | {
        p.name: get_type_hints(function)[p.name] for p in keywords
    }


def test_text_that_is_fixed_is_not_drawn(run, absorbing_run):
    how = ["--sampler", "confidence", "--steps", "4", "--seed", "1", "--fix", "5:cat"]
    _, _, err = run("sample", absorbing_run, *how)
    assert f"NFE 4, {(LENGTH - 3) / 4:.1f} tokens per call" in err


def test_bytes_that_are_no_text_survive_json_both_ways(run, absorbing_run):
    text = b"the \xff\xe9[MASK:2] s\xe9t"
    _, out, _ = run("infill", absorbing_run, "-", "--json", *FEW, stdin=text)
    found = json.loads(out)
    content = found["text"].encode(errors="surrogateescape")
    (span,) = found["spans"]
    filled = content[span["start"]["byte"] : span["end"]["byte"]]
    assert content == text.replace(b"[MASK:2]", filled)
    assert filled == found["fills"][0].encode(errors="surrogateescape")
    line = json.dumps({"text": text.decode(errors="surrogateescape")}).encode()
    _, out, _ = run("infill", absorbing_run, "-", "--jsonl", *FEW, stdin=line)
    assert json.loads(out)["text"] == found["text"]


def test_ways_that_are_one_text_are_counted(run, absorbing_run):
    how = ["-n", "3", "--temperature", "0", "--sampler", "confidence", *FEW]
    _, out, err = run("infill", absorbing_run, "-", *how, stdin=b"the [MASK:3] sat")
    assert out.count(b"sat") == 1
    assert "(estimate) (3 of 3 ways)" in err
    assert err.count("at temperature 0 there is a single way") == 1
    _, out, _ = run("infill", absorbing_run, "-", *how, "--json", stdin=b"the [MASK:3] sat")
    assert json.loads(out)["ways"] == 3


def test_weighing_lengths_is_told_but_not_if_quiet(run, absorbing_run):
    arguments = ["infill", absorbing_run, "-", *FEW]
    _, _, err = run(*arguments, stdin=b"the [MASK:2-5] sat on a mat")
    assert "gap at 1:5: weighing lengths 2 to 5, up to 52 evaluations" in err
    assert run(*arguments, "-q", stdin=b"the [MASK:2-5] sat on a mat")[2] == ""


@pytest.mark.parametrize(
    "told",
    [
        ("sample", "-n", "2", "--steps", "4"),
        ("infill", "GAPS", "--steps", "4"),
        ("eval", "--limit", "2", "--draws", "1"),
    ],
    ids=lambda told: told[0],
)
def test_what_is_compiled_is_what_the_network_is_asked_by(absorbing_run, tmp_path, monkeypatch, capsys, told):
    (tmp_path / "gaps.txt").write_text("a[MASK:3]e")
    command, *options = [str(tmp_path / "gaps.txt") if word == "GAPS" else word for word in told]
    seed = [] if command == "eval" else ["--seed", "1"]
    told, asked = [command, str(absorbing_run), *options, *seed, "-q"], []

    def compiled(plain, **how):
        def counted(*inputs, **others):
            asked.append(plain)
            return plain(*inputs, **others)

        return counted

    assert cli.main(told) == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(torch, "compile", compiled)
    assert cli.main([*told, "--compile"]) == 0
    assert asked
    if command != "eval":  # which tells how long it took
        assert capsys.readouterr().out == expected


def test_what_is_read_by_parts_is_not_compiled_and_says_so(absorbing_run, capsys):
    assert cli.main(["sample", str(absorbing_run), "--block", "4", "--cache", "prefix", "--compile"]) == 2
    assert re.fullmatch("ddcli: --cache reads a text by parts.*--compile out\n", capsys.readouterr().err)


def test_what_is_written_never_takes_the_place_of_what_is_read(refused, absorbing_run, tmp_path):
    """Texts with gaps, what stands before or behind one, and the files of a model; by whatever name."""
    text, before = tmp_path / "0000.txt", tmp_path / "before.txt"
    text.write_bytes(b"the [MASK:2] sat")
    before.write_bytes(b"the ")
    (tmp_path / "link.txt").symlink_to(text)
    theirs = [absorbing_run / name for name in ("config.json", "model.safetensors", "new.safetensors")]
    checkpoint = next((absorbing_run / "checkpoints").iterdir())
    theirs += [absorbing_run / "checkpoints/x", checkpoint / "manifest.json"]
    kept = {path: path.read_bytes() for path in (text, before, *theirs[:2])}
    infill, sample = ["infill", absorbing_run, *FEW], ["sample", absorbing_run, *FEW]
    for arguments in (
        [*infill, text, "-o", text],
        [*infill, text, "-o", tmp_path / "link.txt"],
        [*infill, text, "-o", f"{tmp_path}/"],
        [*infill, text, "--jsonl", "-o", text],
        [*infill, text, "--trace", text],
        [*infill, "--prefix", before, "-o", before],
        ["noise-viz", tmp_path / "page.html", "-o", tmp_path / "page.html"],
    ):
        (tmp_path / "page.html").write_text("to be")
        message = refused(*arguments)
        assert "is read, and" in message
        assert "would replace it; give another place" in message
    for arguments in (
        [*infill, text, "-o"],
        [*sample, "-o"],
        [*sample, "--trace"],
        ["report", absorbing_run, "-o"],
    ):
        for file in theirs:
            assert "is a file of the model" in refused(*arguments, file)
    asked = ["sample", checkpoint, *FEW, "-o"]
    assert "is a file of the model" in refused(*asked, absorbing_run / "tokenizer.json")
    assert kept == {path: path.read_bytes() for path in kept}


def test_a_run_folder_takes_what_is_written_into_it_again(run, absorbing_run, tmp_path, monkeypatch):
    """So does a file that nobody reads, a device, and stdout by its name."""
    for place in (absorbing_run / "sample.txt", tmp_path / "sample.txt", "/dev/null", "/dev/stdout"):
        for _ in range(2):
            assert run("sample", absorbing_run, *FEW, "-q", "-o", place)[0] == 0
    (absorbing_run / "sample.txt").unlink()


def test_where_nothing_can_be_written_is_said_before_any_work(
    refused, absorbing_run, text_file, monkeypatch, tmp_path
):
    monkeypatch.setattr("ddcli.files.os.access", lambda path, mode: False)
    monkeypatch.setattr("ddcli.report.measure", None)
    monkeypatch.setattr("ddcli.sampling.samples", None)
    (tmp_path / "text.txt").write_bytes(b"the [MASK:2] sat")
    said = f"nothing can be written in {tmp_path}"
    for output in ("a.txt", "", "new/folder/"):
        assert said in refused("sample", absorbing_run, "-o", f"{tmp_path}/{output}")
    assert said in refused("sample", absorbing_run, "--trace", tmp_path / "a.jsonl")
    assert said in refused("infill", absorbing_run, tmp_path / "text.txt", "--in-place")
    sweep = ["eval", absorbing_run, "--data", text_file, "--sweep", "steps=1"]
    assert said in refused(*sweep, "-o", tmp_path / "a.png")
    assert f"nothing can be written in {absorbing_run}" in refused(*sweep, "--save")


def test_text_that_is_not_utf8_but_twice_as_wide_is_named(refused, absorbing_run, tmp_path):
    for coding in ("utf-16", "utf-32"):
        (tmp_path / "wide.txt").write_text("the [MASK:2] sat", encoding=coding)
        asked = ["infill", absorbing_run, tmp_path / "wide.txt"]
        assert f"the document is {coding} text; make UTF-8 of it: `iconv -f {coding} -t" in refused(*asked)
        assert f"`iconv -f {coding} -t utf-8`" in refused("eval", absorbing_run, "--data", asked[-1])


def test_a_length_that_is_not_closed_or_falls_is_told_apart(refused, absorbing_run):
    for document, problem in ((b"a [MASK:2", "is not closed"), (b"a [MASK:9-3]", "a range that rises")):
        assert problem in refused("infill", absorbing_run, "-", "-q", stdin=document, lines=3)


def test_a_text_that_was_trained_on_is_named_where_it_judges(run, absorbing_run, text_file, tmp_path):
    said = run("eval", absorbing_run, "--data", text_file, "--limit", "2", "--draws", "1")[2]
    assert "is what the model was trained on; without --data it is judged by what was held out" in said
    (tmp_path / "other.txt").write_text(text_file.read_text()[:2000])
    assert "trained on" not in run("eval", absorbing_run, "--data", tmp_path / "other.txt", "--limit", "2")[2]


@pytest.mark.parametrize("command", [["sample"], ["infill"]])
def test_a_number_of_steps_that_has_no_say_is_said_to_have_none(run, absorbing_run, command):
    given = {"stdin": b"the [MASK:2] sat"} if command == ["infill"] else {}
    asked = [*command, absorbing_run, *(["-"] if given else []), *FEW, "--sampler"]
    said = "first-hitting goes at a pace of its own here, which --steps does not change"
    assert said in run(*asked, "first-hitting", **given)[2]
    assert "pace of its own" not in run(*asked, "first-hitting", "-q", **given)[2]
    assert "pace of its own" not in run(*asked, "ancestral", **given)[2]


def test_figures_of_few_blocks_are_said_to_say_little(run, absorbing_run, text_file):
    asked = ["eval", absorbing_run, "--data", text_file, "--draws", "1", "--limit"]
    few, more = (run(*asked, limit)[1].decode() for limit in ("2", "9"))
    assert "standard error over 2 clusters, so few that it says little itself" in few
    assert "standard error over 9 clusters (" in more


def test_a_sweep_whose_best_is_its_most_steps_says_so(run, absorbing_run, text_file, tmp_path, monkeypatch):
    model = shutil.copytree(absorbing_run, tmp_path / "run")
    asked = ["eval", model, "--data", text_file, "--limit", "2", "--draws", "1", "--save", "--sweep"]
    said = "steps are the most that were swept; more may be better still"
    names = ("quality", "balanced", "fast")
    for best, sweep, true in (
        (-1, "steps=1,4 sampler=random", True),
        (0, "steps=1,4 sampler=random", False),
        (-1, "steps=4 sampler=random,confidence", False),
        (-1, "steps=1,4 sampler=random,first-hitting", False),  # whose pace is its own
    ):
        monkeypatch.setattr(
            "ddcli.report.budgets",
            lambda frontier, within, best=best: dict.fromkeys(names, frontier[best]),
        )
        assert (f"4 {said}" in run(*asked, sweep)[2]) == true
