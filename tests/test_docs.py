"""What the documentation shows is true: each of its commands is one that ddcli takes, and is run.

A block of commands or Python that is not run says why, in a line above it: `<!-- not run: needs a GPU -->`.
A page of records says it once for all: `<!-- not run, this page: its runs take hours -->`. A block of Python
that belongs in a file says in which: `<!-- file: typos.py -->`. Other blocks are `text` and the like.
"""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from quick import quick
from tiny import SETTINGS, words
from typer.exceptions import TyperException

from ddcli.cli import app, main
from ddcli.cli.train import TRAIN_FLAGS
from ddcli.config import load_config
from ddcli.errors import DdcliError
from ddcli.model import SamplerSettings
from ddcli.process import check_names
from ddcli.sampler import make_sampler

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"sh", "console", "python"}
SHOWN = {"text", "math", "toml", "json"}
FENCE = re.compile(
    r"^(?:(?P<indent> *)<!-- (?P<about>not run|file): (?P<value>[^\n]+?) -->\n+)?"
    r"^(?P<inner> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=inner)```$",
    re.M | re.S,
)
WHOLE_PAGE = re.compile(r"^<!-- not run, this page: .+ -->$", re.M)
# what makes a training of minutes one of seconds; the data and the rest of a command stay as they are
WITHIN_SECONDS = {k: v for k, v in SETTINGS.items() if k not in ("data.tokenizer", "train.steps")}
QUICK = [f"{key}={json.dumps(value)}" for key, value in {**WITHIN_SECONDS, "data.length": 64}.items()]
TRACE = """\
{"kind":"trace","command":"sample","noise":"absorbing","sampling":"","unit":"character","mask":0}
{"kind":"pieces","pieces":{"0":"<mask>","1":"a"}}
{"kind":"canvas","canvas":0,"steps":1,"tokens":[0],"clock":[[1,1.0]],"tentative":[]}
{"kind":"step","canvas":0,"step":1,"t":0.0,"nfe":1,"clock":[[1,0.0]],"tentative":[],"opened":[[0,1,null]],\
"replaced":[],"remasked":[],"beliefs":[]}
{"kind":"end","lines":5}
"""


class Block(NamedTuple):
    """A fenced block of a page."""

    where: str
    kind: str
    text: str
    skipped: bool
    file: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    whole = bool(WHOLE_PAGE.search(text))
    return [
        Block(
            f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, fence.start('inner')) + 1}",
            fence["kind"],
            re.sub(rf"^{fence['inner']}", "", fence["text"], flags=re.M),
            whole or fence["about"] == "not run",
            fence["value"] if fence["about"] == "file" else None,
        )
        for fence in FENCE.finditer(text)
    ]


BLOCKS = {page: blocks(page) for page in PAGES}


# -- reading commands ---------------------------------------------------------------------------------------


def commands(block: Block) -> list[list[str]]:
    """The arguments of each `ddcli` of a block of shell, however it is begun, fed and looped over."""
    text = block.text
    if block.kind == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    text = re.sub(r"<<'?(\w+)'?\n.*?\n\1\n", "\n", text, flags=re.S)  # a file that is written here
    text = re.sub(r"(^|\s)#\s.*$", r"\1", text.replace("\\\n", " "), flags=re.M)
    for name, value in re.findall(r"for (\w+) in (\S+)", text):
        text = re.sub(rf"\$\{{?{name}\b\}}?", value.rstrip(";"), text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    found, words_of, skip = [], [], False
    for word in [*lexer, "\n"]:
        if set(word) <= set("();|&\n"):
            found.append(words_of)
            words_of = []
        elif set(word) <= set("<>"):
            skip = True  # the file behind it is no argument
        elif not skip:
            words_of.append(word)
        else:
            skip = False
    return [arguments for words_of in found if (arguments := arguments_of(words_of)) is not None]


def arguments_of(words_of: list[str]) -> list[str] | None:
    """What stands behind `ddcli`, wherever that is called: by its name, a path, or `python -m`."""
    for place, word in enumerate(words_of):
        if Path(word).name == "ddcli":
            return words_of[place + 1 :]
    return None


def begun(arguments: list[str]) -> str | None:
    """The run that a command begins, if it does."""
    trains = arguments[0] == "train" and "-o" in arguments and "--resume" not in arguments
    return arguments[arguments.index("-o") + 1] if trains else None


README, *OTHERS = PAGES
COMMANDS = {
    page: [
        (block.where, arguments)
        for block in found
        if block.kind in ("sh", "console")
        for arguments in commands(block)
    ]
    for page, found in BLOCKS.items()
}
# by which command each run is made: the README's, or the first of a page
TRAININGS = {
    run: arguments
    for page in [*OTHERS, README]
    for _, arguments in reversed(COMMANDS[page])
    if (run := begun(arguments))
}


# -- every command is one that ddcli takes ------------------------------------------------------------------


@functools.cache
def whole_command() -> Any:
    return typer.main.get_command(app)


def check(arguments: list[str]) -> None:
    """Raise where ddcli would refuse a command line before it reads a file: options, and what they name."""
    group = whole_command()
    name, *rest = arguments
    if name.startswith("-"):
        return
    whole = group.make_context("ddcli", [name])
    command = group.get_command(whole, name)
    if command is None:
        raise DdcliError(f"there is no command {name}")
    try:
        given = command.make_context(name, rest, parent=whole).params
    except TyperException as error:
        raise DdcliError(error.format_message()) from None
    if given.get("sampler"):
        make_sampler(given["sampler"])
    if name == "train":
        check_training(given)
    if name == "eval" and given["sweep"]:
        check_sweep(given["sweep"])
    if name == "noise-viz":
        for noise in (given["process"] or "both").replace("both", "absorbing,uniform").split(","):
            for schedule in (given["schedule"] or "auto").split(","):
                check_names(noise, schedule)


def check_training(given: dict) -> None:
    flags = {key: given[flag] for flag, key in TRAIN_FLAGS.items()}
    recipe = given["recipe"]
    if recipe and (recipe.isupper() or recipe.endswith(".toml")):
        recipe = None  # stands for any, or is made by the reader
    config = load_config(recipe, given["set_"] or (), flags)
    config.shape()
    check_names(config.process.name, config.process.schedule)


def check_sweep(sweep: str) -> None:
    for axis in sweep.split():
        key, _, values = axis.partition("=")
        for value in values.split(","):
            SamplerSettings().but(**{key: value})
            if key == "sampler":
                make_sampler(value)


def test_every_command_line_is_one_that_ddcli_takes():
    wrong = []
    for page in PAGES:
        for where, arguments in COMMANDS[page]:
            try:
                check(arguments)
            except Exception as error:
                wrong.append(f"{where}: ddcli {shlex.join(arguments)}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("ddcli sampel runs/x", "sampel"),
        ("ddcli sample runs/x --stepz 8", "--stepz"),
        ("echo a | ddcli infill runs/x - --seed one", "--seed"),
        ("for s in 1 2; do ddcli sample runs/x --sampler confidense --seed $s -q; done", "confidense"),
        ("ddcli train names --data names.txt --set train.learning_rate=1", "learning_rate"),
        ("ddcli train nmaes -o runs/x", "nmaes"),
        ("ddcli train --data a.txt \\\n    --process hybird:0.1 -o runs/x  # no such noise", "hybird"),
        ('ddcli eval runs/x --sweep "steps=8 smapler=ancestral"', "smapler"),
        ("ddcli noise-viz --text a --compare absorbing,unifrom > noise.txt", "unifrom"),
    ],
)
def test_a_wrong_command_line_is_found(line, wrong):
    (arguments,) = commands(Block("", "sh", line, False, None))
    with pytest.raises(Exception, match=wrong):
        check(arguments)


def test_every_block_is_run_or_says_why_not():
    """And is of a kind that is known, and Python is Python."""
    for found in BLOCKS.values():
        for block in found:
            assert block.kind in RUN | SHOWN, f"{block.where}: a block of {block.kind or 'no kind'}"
            assert block.kind != "console" or block.skipped, f"{block.where}: a session is not run; say why"
            if block.kind == "python":
                compile(block.text, block.where, "exec")


# -- and is run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the files that commands name, and `ddcli` and `python` that train for two steps."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "runs").mkdir()
    (folder / "input.txt").write_text(words(200))
    (folder / "names.txt").write_text("ann\nbob\ncarol\n" * 30)
    rows = [f"{line},{'play' if i % 2 else 'story'}" for i, line in enumerate(words(60).splitlines())]
    (folder / "rows.csv").write_text("\n".join(["text,genre", *rows]))
    (folder / "line.txt").write_text("the cat [MASK:3] on a mat\n")
    (folder / "letter.txt").write_text("the cat [MASK:3] on a mat\n")
    (folder / "written.jsonl").write_text(TRACE)
    (folder / "sonnets.txt").write_text(words(60, seed=1))
    (folder / "before.txt").write_text("the cat sa")
    (folder / "after.txt").write_text(" my dog\n")
    (folder / "lines.jsonl").write_text('{"text": "the [MASK:3] sat"}\n{"prefix": "a", "suffix": "at"}\n')
    (folder / "docs").mkdir()
    (folder / "src").mkdir()
    for i in range(3):
        lines = "".join(f"# {line}\n" for line in words(60, seed=i).splitlines())
        (folder / "src" / f"words_{i}.py").write_text(f"{lines}TODO\n")
    (folder / "bin").mkdir()
    for name in ("ddcli", "python"):
        program = folder / "bin" / name
        program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("quick.py")}" {name} "$@"\n'
        )
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    "line",
    [line for block in BLOCKS[README] if block.kind == "sh" and not block.skipped
     for line in block.text.splitlines() if line.startswith("ddcli")],
)  # fmt: skip
def test_every_command_of_the_readme_runs(line, workplace, monkeypatch, capfd):
    """Each in this process, which need not start again. Whole pages are run by a slow test."""
    monkeypatch.chdir(workplace)
    (arguments,) = commands(Block("", "sh", line, False, None))
    made = begun(arguments)
    trained_for(line, [made])
    if not made or not Path(made).exists():
        assert main(quick(arguments, QUICK)) == 0, capfd.readouterr().err


def trained_for(text, made=()):
    """Make the runs that a text names and does not make by itself, by the commands that the pages show."""
    for run, arguments in TRAININGS.items():
        if run not in made and re.search(rf"{re.escape(run)}\b", text) and not Path(run).exists():
            trained_for(" ".join(arguments), [run])
            assert main([*quick(arguments, QUICK), "--quiet"]) == 0


def test_the_python_of_the_readme_runs(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    (python,) = [block.text for block in BLOCKS[README] if block.kind == "python"]
    trained_for(python)
    exec(compile(python, "README.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.kind in RUN and not block.skipped for block in BLOCKS[page])],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_block_of_a_page_runs(page, workplace, monkeypatch):
    """One after the other, as a reader would."""
    monkeypatch.chdir(workplace)
    outside = {
        **os.environ,
        "PATH": f"{workplace / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DDCLI_QUICK": json.dumps(QUICK),
    }
    for block in BLOCKS[page]:
        if block.kind not in RUN or block.skipped:
            continue
        if block.file:
            Path(block.file).write_text(block.text)
            continue
        made = list(filter(None, map(begun, commands(block) if block.kind == "sh" else [])))
        for run in made:
            shutil.rmtree(run, ignore_errors=True)
        trained_for(block.text, made)
        program = ["bash", "-euo", "pipefail", "-c"] if block.kind == "sh" else ["python", "-c"]
        done = subprocess.run(
            [*program, block.text], env=outside, capture_output=True, text=True, errors="replace"
        )
        assert done.returncode == 0, f"{block.where}\n{done.stdout}{done.stderr}"
