"""What the README shows is run: every command, and the Python."""

import io
import re
import shlex
from pathlib import Path

import pytest
from tiny import SETTINGS, assignments, words

from ddcli.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
COMMANDS = [
    line.partition("  #")[0]
    for kind, block in BLOCKS
    if kind == "sh"
    for line in block.splitlines()
    if re.match(r"(echo .*\| )?ddcli", line)
]
TRAININGS = {
    made[1]: shlex.split(command)[1:]
    for command in COMMANDS
    if command.startswith("ddcli train") and (made := re.search(r"-o (\S+)", command))
}
# what makes a training of minutes one of seconds; the data and the rest of a command stay as they are
QUICK = assignments({k: v for k, v in SETTINGS.items() if k not in ("data.tokenizer", "train.steps")})
TRACE = """\
{"kind":"trace","command":"sample","noise":"absorbing","sampling":"","unit":"character","mask":0}
{"kind":"pieces","pieces":{"0":"<mask>","1":"a"}}
{"kind":"canvas","canvas":0,"steps":1,"tokens":[0],"clock":[[1,1.0]],"tentative":[]}
{"kind":"step","canvas":0,"step":1,"t":0.0,"nfe":1,"clock":[[1,0.0]],"tentative":[],"opened":[[0,1,null]],\
"replaced":[],"remasked":[],"beliefs":[]}
{"kind":"end","lines":5}
"""
TAKES_VALUE = {"--minutes", "--steps", "--size", "--length"}


def test_the_readme_shows_every_command():
    for command in ("train", "sample", "infill", "eval", "noise-viz"):
        assert any(re.search(rf"ddcli {command}\b", line) for line in COMMANDS)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the files that the README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "runs").mkdir()
    (folder / "input.txt").write_text(words(200))
    (folder / "names.txt").write_text("ann\nbob\ncarol\n" * 30)
    rows = [f"{line},{'play' if i % 2 else 'story'}" for i, line in enumerate(words(60).splitlines())]
    (folder / "rows.csv").write_text("\n".join(["text,genre", *rows]))
    (folder / "letter.txt").write_text("the cat [MASK:3] on a mat\n")
    (folder / "trace.jsonl").write_text(TRACE)
    (folder / "before.txt").write_text("the cat sa")
    (folder / "after.txt").write_text(" my dog\n")
    (folder / "lines.jsonl").write_text('{"text": "the [MASK:3] sat"}\n{"prefix": "a", "suffix": "at"}\n')
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command, workplace, monkeypatch, capfd):
    monkeypatch.chdir(workplace)
    piped, _, command = command.rpartition("| ")
    if piped:
        text = shlex.split(piped)[1] + "\n"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    _, *arguments = shlex.split(command.partition(" > ")[0])
    trained_for(command)
    if arguments not in TRAININGS.values():
        assert main(quick(arguments)) == 0, capfd.readouterr().err


def trained_for(text):
    """Make the runs that a text names, by the commands that the README shows for them."""
    for run, arguments in TRAININGS.items():
        if run in text and not Path(run).exists():
            assert main(quick(arguments)) == 0


def quick(arguments):
    """A command that is over in seconds."""
    if arguments[0] != "train":
        return arguments
    for option in TAKES_VALUE & set(arguments):
        place = arguments.index(option)
        arguments = arguments[:place] + arguments[place + 2 :]
    return [*arguments, *QUICK, "--steps", "2"]


def test_the_python_runs(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    (python,) = [block for kind, block in BLOCKS if kind == "python"]
    trained_for(python)
    exec(compile(python, "README.md", "exec"), {})
    assert capsys.readouterr().out
