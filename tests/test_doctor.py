"""What is told of a machine, a run and a recipe; and the recipes that ship."""

import json
import os
import re
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch
from tiny import copy_of, stop_at, tiny_config

import ddcli
from ddcli import cli, doctor
from ddcli.checkpoint import checkpoints
from ddcli.config import recipe_names
from ddcli.errors import DdcliError


def told(findings, about):
    return [finding for finding in findings if finding.about == about]


def test_a_machine_is_described():
    found = ddcli.examine()
    assert f"torch {version('torch')}" in told(found, "versions")[0].found
    assert {"processor", "device", "precision", "compiler", "memory", "disk"} <= {x.about for x in found}
    assert not any(finding.kind == "wrong" for finding in found)


def test_what_is_slow_is_told_with_what_to_do(monkeypatch):
    monkeypatch.setattr(doctor, "cores", lambda: 64)
    monkeypatch.setattr(doctor, "can_compile", lambda: False)
    monkeypatch.setattr(doctor, "pick_precision", lambda *_, **__: torch.float32)
    slow = {x.about: x for x in ddcli.examine() if x.kind == "slow"}
    assert slow.keys() == {"processor", "precision", "compiler"}
    assert slow["processor"].found == f"torch computes on {torch.get_num_threads()} of 64 cores"
    assert "g++" in slow["compiler"].mend


def test_a_fast_machine_has_nothing_slow(monkeypatch):
    monkeypatch.setattr(doctor, "cores", torch.get_num_threads)
    monkeypatch.setattr(doctor, "can_compile", lambda: True)
    monkeypatch.setattr(doctor, "pick_precision", lambda *_, **__: torch.bfloat16)
    assert {x.kind for x in ddcli.examine()} == {"fine"}


def test_a_run_that_is_whole_has_nothing_wrong(absorbing_run):
    found = ddcli.examine(absorbing_run)
    assert not any(finding.kind == "wrong" for finding in found)
    assert told(found, "training")[0].found == "finished at step 100"
    assert "absorbing noise, 32 tokens" in told(found, "model")[0].found
    assert "by character; mask " in told(found, "tokenizer")[0].found
    assert "2 checkpoints whole" in told(found, "checkpoint")[0].found
    assert "--sweep" in told(found, "sampling")[1].mend


def test_a_run_that_was_stopped_says_how_to_go_on(text_file, tmp_path):
    run = tmp_path / "my run"
    stop_at(3, run, tiny_config(text_file))
    (training,) = told(ddcli.examine(run), "training")
    assert training.found == "stopped at step 3 of 20"
    assert training.mend == f"go on with: ddcli train --resume -o '{run}'"


def test_what_kept_a_training_from_being_fast_is_told(absorbing_run, tmp_path, monkeypatch):
    run = copy_of(absorbing_run, tmp_path)
    monkeypatch.setattr(doctor, "pick_precision", lambda *_, **__: torch.bfloat16)
    monkeypatch.setattr(doctor, "cores", lambda: 64)
    monkeypatch.setattr(doctor, "can_compile", lambda: True)
    config = (run / "config.toml").read_text()
    assert "threads = 1\n" in config
    for key, value in {"accumulate": "4", "recompute": "true"}.items():
        config = re.sub(rf"^{key} = .*$", f"{key} = {value}", config, flags=re.M)
    (run / "config.toml").write_text(config)
    rate, *slow = told(ddcli.examine(run), "speed")
    assert re.fullmatch(r"trained at [\d,]+ tokens a second", rate.found)
    assert [finding.kind for finding in slow] == ["slow"] * 5
    assert slow[0].found == "trained on 1 of 64 cores"
    assert all(finding.mend for finding in slow)


def test_roles_that_share_a_token_are_told():
    tokenizer = SimpleNamespace(
        mask_id=0, pad_id=3, eos_id=3, bos_id=3, vocab_size=9, unit="token", is_exact=False
    )
    _, shared, lost = doctor._tokenizer(tokenizer)
    assert shared.found == "pad and end and start are one token, 3; padding is never learnt from"
    assert "forgets" in lost.found
    tokenizer.pad_id = 0  # as it is where a vocabulary has nothing else to pad with
    assert [found.kind for found in doctor._tokenizer(tokenizer)] == ["fine"] * 4
    tokenizer.eos_id = 0
    assert [found.kind for found in doctor._tokenizer(tokenizer)] == ["fine", "wrong", "fine"]


def test_damage_is_found(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    newest = checkpoints(run)[-1][1]
    (newest / "ema.safetensors").write_bytes(b"")
    found = ddcli.examine(run)
    (wrong,) = [finding for finding in found if finding.kind == "wrong"]
    assert wrong.found == f"{newest} is damaged"
    assert wrong.mend == "--resume passes over it; remove it"
    (run / "config.json").unlink()
    assert "config.json is missing" in told(ddcli.examine(run), "model")[0].found
    for _, folder in checkpoints(run):
        (folder / "state.json").unlink()
    assert {x.mend for x in told(ddcli.examine(run), "checkpoint")} == {"train again, with another -o"}


def test_steps_that_came_to_no_number_are_wrong(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 100, "skipped_steps": 3}\n')
    assert told(ddcli.examine(run), "training")[-1].found == "3 steps came to no number"


@pytest.mark.parametrize("content", ["[1]", "null", "[" * 100_000, '{"step": 1, "skipped_steps": "x"}', None])
def test_metrics_that_are_none_are_wrong_and_not_waited_for(absorbing_run, tmp_path, content):
    run = copy_of(absorbing_run, tmp_path)
    (run / "metrics.jsonl").unlink()
    if content is None:
        os.mkfifo(run / "metrics.jsonl")
    else:
        (run / "metrics.jsonl").write_text(content + "\n")
    (training,) = told(ddcli.examine(run), "training")
    assert training.kind == "wrong"


def test_a_pipe_in_a_checkpoint_is_damage(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    newest = checkpoints(run)[-1][1]
    (newest / "ema.safetensors").unlink()
    os.mkfifo(newest / "ema.safetensors")
    assert told(ddcli.examine(run), "checkpoint")[0].found == f"{newest} is damaged"


@pytest.fixture
def recipe(text_file, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f'[data]\nsource = "{text_file}"\nlength = 32\n[model]\nsize = "tiny"\n')
    return path


def test_a_recipe_is_tried_but_for_the_training(recipe):
    found = ddcli.examine(recipe)
    assert "4,000 steps of 8 sequences" in told(found, "recipe")[0].found
    assert "of 32 characters" in told(found, "data")[0].found
    assert told(found, "memory")[1].kind == "fine"


def test_a_recipe_that_does_not_fit_is_wrong(recipe, monkeypatch):
    monkeypatch.setattr(doctor, "memory", lambda: (10**9, 10**6))
    memory = told(ddcli.examine(recipe), "memory")[1]
    assert memory.kind == "wrong"
    assert "more than the 0.0 GB that are free" in memory.found


def test_a_recipe_without_its_data_is_wrong_and_takes_others(recipe, text_file):
    recipe.write_text(recipe.read_text().replace(str(text_file), "gone.txt"))
    (wrong,) = told(ddcli.examine(recipe), "recipe")
    assert wrong.kind == "wrong"
    assert "gone.txt" in wrong.found
    assert wrong.mend == "--data names other data"
    assert told(ddcli.examine(recipe, data=str(text_file)), "recipe")[0].kind == "fine"


def test_a_recipe_that_ships_says_where_its_data_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (wrong,) = told(ddcli.examine("names"), "recipe")
    assert "names reads names.txt, which is not here: `ddcli recipes names` says what it is" in wrong.found


def test_a_recipe_of_ones_own_is_not_taken_for_one_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.toml").write_text('[data]\nsource = "gone.txt"\n')
    (wrong,) = told(ddcli.examine("./names.toml"), "recipe")
    assert "no such file or folder: gone.txt" in wrong.found


def test_what_is_neither_run_nor_recipe_is_refused():
    with pytest.raises(
        DdcliError, match="unknown run or recipe 'tinyshakespear'; did you mean 'tinyshakespeare'"
    ):
        ddcli.examine("tinyshakespear")
    with pytest.raises(DdcliError, match=r"^no such recipe: recipes/names\.tml$|^no such recipe: no\.toml$"):
        ddcli.examine("no.toml")
    with pytest.raises(DdcliError, match=r"^runs/none is no run folder: there is no such"):
        ddcli.examine("runs/none")


# -- the commands -----------------------------------------------------------------------------------------


def test_the_command_prints_a_line_for_each_and_fails_where_something_is_wrong(
    absorbing_run, tmp_path, capsys
):
    assert cli.main(["doctor", str(absorbing_run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ddcli.examine(absorbing_run))
    assert all(line.startswith(("ok    ", "slow  ")) for line in lines)
    assert cli.main(["doctor", str(tmp_path)]) == 1
    assert "WRONG model      " in capsys.readouterr().out


def test_the_command_has_it_as_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line.keys() == {"about", "found", "kind", "mend"} for line in found)


def test_recipes_are_listed(capsys):
    assert cli.main(["recipes"]) == 0
    lines = re.sub(r"\n +", " ", capsys.readouterr().out).splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    shown = "Tiny Shakespeare, by characters (2 CPU cores, 10 minutes)"
    assert lines[recipe_names().index("tinyshakespeare")].endswith(shown)
    assert cli.main(["recipes", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [known["name"] for known in listed] == recipe_names()
    for known in listed:  # each header says it all, figures or that there are none
        assert known.keys() == {"name", "about", "hardware", "minutes", "expected"}
        assert re.match(r"(about )?\d|not run yet", known["minutes"])
        assert re.match(r"\d\.\d+ |not run yet", known["expected"])


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_shown_and_copied_as_it_is(name, tmp_path, capsysbinary):
    copy = tmp_path / "mine.toml"
    assert cli.main(["recipes", name, "-o", str(copy)]) == 0
    assert cli.main(["recipes", name]) == 0
    assert capsysbinary.readouterr().out == copy.read_bytes()
    assert cli.main(["recipes", name, "-o", str(copy)]) == 2
    assert b"is there already" in capsysbinary.readouterr().err
    assert cli.main(["recipes", name, "--json"]) == 0
    told = capsysbinary.readouterr().out
    assert told.endswith(b"}\n")
    assert json.loads(told) == {"name": name, "recipe": copy.read_text()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nmes"], "did you mean 'names'"),
        ([__file__], "unknown recipe"),
        (["-o", "mine.toml"], "which recipe?"),
    ],
)
def test_recipes_that_are_none_are_refused(arguments, message, capsys):
    assert cli.main(["recipes", *arguments]) == 2
    assert message in capsys.readouterr().err
