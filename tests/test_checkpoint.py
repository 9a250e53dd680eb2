"""The run folder: verified when it is read, and loaded by others as a model folder like any."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import copy_of, edit_json, files
from transformers import AutoModelForMaskedLM

import ddcli
from ddcli.checkpoint import (
    checkpoints,
    find_run,
    held,
    intact_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from ddcli.denoiser import Batched, OneByOne
from ddcli.device import pick_device, pick_precision
from ddcli.errors import DdcliError
from ddcli.files import verified
from ddcli.saved import load_model

CPU = torch.device("cpu")


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"weights": {"w": torch.full((3,), value)}, "ema": {"w": torch.full((3,), -value)}}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def take_away(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


damages = pytest.mark.parametrize("damage", [truncate, flip_a_bit, take_away, empty])


# -- checkpoints ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    save_checkpoint(tmp_path, 7, tensors(0.1), {"step": 7, "fingerprint": "é"}, keep=2)
    groups, state = read_checkpoint(intact_checkpoint(tmp_path, print))
    assert state == {"step": 7, "fingerprint": "é"}
    assert {name: list(group) for name, group in groups.items()} == {"ema": ["w"], "weights": ["w"]}
    assert torch.equal(groups["weights"]["w"], tensors(0.1)["weights"]["w"])
    assert torch.equal(groups["ema"]["w"], tensors(0.1)["ema"]["w"])


@damages
@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_and_said_to_be(tmp_path, damage, name):
    for step in (5, 10):
        save_checkpoint(tmp_path, step, tensors(step), {"step": step}, keep=2)
    newest = tmp_path / "checkpoints" / "step-00000010"
    assert verified(newest)
    damage(newest / name)
    assert not verified(newest)
    said: list[str] = []
    groups, state = read_checkpoint(intact_checkpoint(tmp_path, said.append))
    assert state["step"] == groups["weights"]["w"][0] == 5
    assert said == ["checkpoint 10 is damaged and is passed over"]


def test_where_every_checkpoint_is_damaged_there_is_none(tmp_path):
    said: list[str] = []
    for step in (5, 10):
        save_checkpoint(tmp_path, step, tensors(step), {"step": step}, keep=2)
        flip_a_bit(tmp_path / f"checkpoints/step-{step:08}/weights.safetensors")
    assert intact_checkpoint(tmp_path, said.append) is None
    assert len(said) == 2


def test_where_no_checkpoint_was_written_there_is_none(tmp_path):
    assert intact_checkpoint(tmp_path, pytest.fail) is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_checkpoints_are_kept(tmp_path, keep):
    for step in (5, 10, 15, 20, 1000):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep=keep)
    assert [step for step, _ in checkpoints(tmp_path)] == [5, 10, 15, 20, 1000][-keep:]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        f"step-{step:08}" for step in (5, 10, 15, 20, 1000)[-keep:]
    ]


def test_a_checkpoint_is_not_dropped_for_a_later_one_that_was_passed_over(tmp_path):
    for step in (10, 20):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep=2)
    flip_a_bit(tmp_path / "checkpoints/step-00000020/weights.safetensors")
    save_checkpoint(tmp_path, 15, tensors(15), {}, keep=1)
    assert [step for step, _ in checkpoints(tmp_path)] == [15]


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    half = tmp_path / "checkpoints" / ".step-00000005.x7.partial"
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half")
    (tmp_path / ".model.safetensors.y8.partial").write_bytes(b"half")
    (tmp_path / "checkpoints" / ".mine").write_text("not ours")
    assert intact_checkpoint(tmp_path, pytest.fail) is None
    with held(tmp_path):
        assert files(tmp_path).keys() == {".lock", "checkpoints/.mine"}


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    for step in (5, 10):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep=1)
    others = [tmp_path / "checkpoints" / name for name in ("step-best", "notes")]
    for other in others:
        other.mkdir()
    save_checkpoint(tmp_path, 15, tensors(15), {}, keep=1)
    assert all(other.is_dir() for other in others)
    assert [step for step, _ in checkpoints(tmp_path)] == [15]


# -- loading a model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "records"])
def test_a_run_says_all_that_is_needed_to_use_it(kind, request):
    model = load_model(request.getfixturevalue(f"{kind}_run"))
    assert model.sample(1, steps=2, seed=1)[0].text
    assert bool(model.record_lengths) == (kind == "records")
    assert model.tokenizer.unit == "character"


def test_float32_is_computed_by_sequence_and_bf16_by_batch(absorbing_run):
    assert isinstance(load_model(absorbing_run).denoiser, OneByOne)
    rounded = load_model(absorbing_run, precision="bf16")
    assert isinstance(rounded.denoiser, Batched)
    assert rounded.network.blocks[0].up.weight.dtype == torch.bfloat16


def test_a_run_without_its_checkpoints_is_a_model_still(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    for name in ("checkpoints", "samples"):
        shutil.rmtree(run / name)
    for name in ("metrics.jsonl", "README.md", "config.toml"):
        (run / name).unlink()
    same = [load_model(r).sample(1, seed=1, steps=4)[0].text for r in (run, absorbing_run)]
    assert same[0] == same[1]


def test_samplers_default_to_what_the_run_says(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    edit_json(run / "generation_config.json", steps=3, temperature=0.5, transformers_version="5")
    assert load_model(run).settings.steps == 3
    assert load_model(run).sample(1, seed=1)[0].nfe <= 3


def edit_weights(run, edit):
    weights = load_file(run / "model.safetensors")
    edit(weights)
    save_file(weights, run / "model.safetensors")


def edit_config(**changes):
    return lambda run: edit_json(run / "config.json", **changes)


def edit_file(name, content):
    return lambda run: (run / name).write_bytes(content)


def remove(name):
    return lambda run: (run / name).unlink()


BROKEN = {
    "not a run": (lambda run: [p.unlink() for p in run.iterdir() if p.is_file()], "no run folder"),
    "no config": (remove("config.json"), "config.json is missing"),
    "config cut short": (edit_file("config.json", b'{"model_type": "dd'), "config.json cannot be read"),
    "config no object": (edit_file("config.json", b"[]"), "config.json is damaged"),
    "config no UTF-8": (edit_file("config.json", b"\xff\xfe{}"), "config.json cannot be read"),
    "another model": (edit_config(model_type=...), "none that ddcli trained"),
    "no diffusion section": (edit_config(diffusion=...), "no diffusion section"),
    "diffusion no section": (edit_config(diffusion="absorbing"), "diffusion"),
    "no process": (edit_config(diffusion__process=...), "diffusion.process"),
    "process no name": (edit_config(diffusion__process=3), "diffusion.process"),
    "unknown process": (edit_config(diffusion__process="absorbin"), "did you mean 'absorbing'"),
    "noise of a plug-in": (edit_config(diffusion__process="typos"), "start the file that adds it"),
    "no schedule": (edit_config(diffusion__schedule=...), "diffusion.schedule"),
    "unknown schedule": (edit_config(diffusion__schedule="sine"), "schedule 'sine'"),
    "no length": (edit_config(diffusion__length=...), "diffusion.length"),
    "length no number": (edit_config(diffusion__length="long"), "diffusion.length"),
    "length negative": (edit_config(diffusion__length=-32), "diffusion.length"),
    "no end of text": (edit_config(diffusion__end_of_text=...), "diffusion.end_of_text"),
    "end of text no bool": (edit_config(diffusion__end_of_text="maybe"), "diffusion.end_of_text"),
    "no record lengths": (edit_config(diffusion__record_lengths=...), "diffusion.record_lengths"),
    "record lengths a list": (edit_config(diffusion__record_lengths=[3]), "diffusion.record_lengths"),
    "record length no number": (edit_config(diffusion__record_lengths={"a": 1}), "diffusion.record_lengths"),
    "predicts something else": (edit_config(diffusion__predicts="noise"), "head 'noise'"),
    "no width": (edit_config(width=...), "width"),
    "width no number": (edit_config(width="wide"), "width"),
    "width negative": (edit_config(width=-1), "width"),
    "no heads": (edit_config(heads=...), "heads"),
    "heads zero": (edit_config(heads=0), "heads"),
    "heads that do not fit": (edit_config(heads=3), "3 heads"),
    "no clock": (edit_config(clock=...), "clock"),
    "more layers": (edit_config(layers=3), "does not fit config.json"),
    "another network": (edit_config(clock="time"), "does not fit config.json"),
    "another vocabulary": (edit_config(vocab_size=24), "the tokenizer has 23 tokens"),
    "no weights": (remove("model.safetensors"), "no finished run: model.safetensors is missing"),
    "weights cut short": (lambda run: truncate(run / "model.safetensors"), "damaged"),
    "weights empty": (edit_file("model.safetensors", b""), "damaged"),
    "weights no safetensors": (edit_file("model.safetensors", b"\x80\x04K\x01." * 99), "damaged"),
    "a weight missing": (
        lambda run: edit_weights(run, lambda w: w.pop("embedding.weight")),
        "embedding.weight",
    ),
    "a weight too many": (lambda run: edit_weights(run, lambda w: w.update(a=torch.ones(2))), "first is a"),
    "a weight misshapen": (
        lambda run: edit_weights(run, lambda w: w.update({"embedding.weight": torch.ones(2, 2)})),
        "embedding.weight",
    ),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer"),
    "tokenizer broken": (edit_file("tokenizer.json", b"{}"), "tokenizer"),
    "no sampler settings": (remove("generation_config.json"), "generation_config.json is missing"),
    "sampler settings wrong": (
        edit_file("generation_config.json", b'{"steps": "many"}'),
        "generation_config.json: --steps many",
    ),
    "sampler unknown": (edit_file("generation_config.json", b'{"sampler": "best"}'), "sampler 'best'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_refused_in_one_line(name, absorbing_run, tmp_path):
    breaks, message = BROKEN[name]
    run = copy_of(absorbing_run, tmp_path)
    breaks(run)
    before = files(run)
    with pytest.raises(DdcliError) as refusal:
        load_model(run)
    assert message in str(refusal.value)
    assert str(run) in str(refusal.value) or "known:" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert files(run) == before


@pytest.mark.parametrize("name", ["absent", "a file"])
def test_what_is_no_folder_is_no_run(name, tmp_path):
    path = tmp_path / name
    if name == "a file":
        path.write_text("text")
    with pytest.raises(DdcliError, match="no run folder"):
        load_model(path)


# -- other people's tools ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["absorbing", "uniform", "records"])
def test_a_run_is_a_hugging_face_model_folder(kind, request):
    run = request.getfixturevalue(f"{kind}_run")
    ours = load_model(run)
    network = ours.denoiser.denoiser.network
    text = "a cab"
    ids = torch.tensor(ours.tokenizer.encode(text))[None].long()
    clock = torch.tensor([[0.0, 0.5, 0.5, 0.0, 1.0]])
    with torch.no_grad():
        expected = network.logits(ids, clock)
        for loaded in (ddcli.DiffusionTransformer, AutoModelForMaskedLM):
            theirs = loaded.from_pretrained(run).eval()
            assert torch.equal(theirs(ids, clock=clock).logits, expected)
            assert expected.shape[-1] == ours.tokenizer.vocab_size
            assert theirs.config.mask_token_id == ours.tokenizer.mask_id


def test_plain_transformers_reads_the_tokenizer_and_with_ddcli_the_model(absorbing_run):
    """In a process of its own: the tokenizer by itself, the model once ddcli is imported."""
    program = """
import json, sys
from transformers import AutoModelForMaskedLM, AutoTokenizer
run = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(run)
ids = tokenizer("the cat <mask>").input_ids
found = [ids, tokenizer.decode(ids, skip_special_tokens=True), tokenizer.mask_token, "ddcli" in sys.modules]
import ddcli
print(json.dumps([*found, type(AutoModelForMaskedLM.from_pretrained(run)).__name__]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, absorbing_run], capture_output=True, check=True, text=True, cwd="/"
    )
    ids, text, mask, imported, network = json.loads(done.stdout)
    ours = load_model(absorbing_run).tokenizer
    assert ids == ours.encode("the cat <mask>").tolist()
    assert text == ours.decode(ids)
    assert (mask, imported) == ("<mask>", False)
    assert network == "DiffusionTransformer"


def test_a_tokenizer_without_a_mask_token_is_refused(absorbing_run, tmp_path):
    run = copy_of(absorbing_run, tmp_path)
    edit_json(run / "tokenizer_config.json", mask_token=...)
    backend = json.loads((run / "tokenizer.json").read_text())
    del backend["model"]["vocab"]["<mask>"]
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["content"] != "<mask>"]
    (run / "tokenizer.json").write_text(json.dumps(backend))
    with pytest.raises(DdcliError, match="tokenizer is not the one") as refusal:
        load_model(run)
    assert "\n" not in str(refusal.value)


# -- devices and precisions -------------------------------------------------------------------------------


def test_an_absent_device_is_refused_by_name():
    with pytest.raises(DdcliError, match="device 'abacus' cannot be used") as refusal:
        pick_device("abacus")
    assert "\n" not in str(refusal.value)


def test_a_device_of_another_kind_is_refused():
    with pytest.raises(DdcliError, match="device 'meta' cannot be used: ddcli computes on cpu, cuda, mps"):
        pick_device("meta")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one")
def test_mps_is_refused_where_there_is_none():
    with pytest.raises(DdcliError, match="device 'mps' cannot be used") as refusal:
        pick_device("mps")
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(DdcliError, match=r"device 'gpu' cannot be used: .*; did you mean cuda\?"):
        pick_device("gpu")
    with pytest.raises(DdcliError, match="device 'cuda' cannot be used") as refusal:
        pick_device("cuda")
    assert "\n" not in str(refusal.value)


def test_an_unknown_precision_is_refused_by_name():
    with pytest.raises(DdcliError, match="unknown precision 'bf61'; did you mean 'bf16'"):
        pick_precision("bf61", CPU, for_training=True)


def test_inference_on_a_cpu_is_float32_unless_asked_otherwise():
    assert pick_precision("auto", CPU, for_training=False) == torch.float32
    assert pick_precision("bf16", CPU, for_training=False) == torch.bfloat16


# -- the folder itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_no_folder_or_an_empty_one_holds_no_run_yet(tmp_path, resume):
    assert find_run(tmp_path / "absent", resume=resume) is None
    assert find_run(tmp_path, resume=resume) is None
    for left in (".lock", ".config.toml.a1b2c3.partial"):  # by a run that was killed as it began
        (tmp_path / left).touch()
    assert find_run(tmp_path, resume=resume) is None


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path, resume):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DdcliError, match="not empty and holds no run"):
        find_run(tmp_path, resume=resume)


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_is_no_place_for_a_run(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DdcliError, match="file is a file; -o takes a folder"):
        find_run(tmp_path / "file" / below, resume=False)


def test_a_run_is_gone_on_with_only_if_asked(absorbing_run):
    with pytest.raises(DdcliError, match="already holds a run; go on with --resume"):
        find_run(absorbing_run, resume=False)
    assert find_run(absorbing_run, resume=True).train.steps == 100
