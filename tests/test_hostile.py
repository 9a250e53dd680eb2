"""Runs, texts and names from strangers: no code of theirs runs, nothing outside is read or changed, nothing
waits or fills the memory, and a terminal that shows them does nothing.
"""

import json
import math
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import tomllib
import xml.etree.ElementTree
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import tomli_w
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from test_filling import MODELS
from tiny import SETTINGS, assignments, command, copy_of, edit_json, files, tiny_config, train_tiny

from ddcli import api, saved
from ddcli.checkpoint import checkpoints
from ddcli.display import TrainingDisplay
from ddcli.errors import escaped, printable
from ddcli.files import MANIFEST, sha256
from ddcli.model import SamplerSettings
from ddcli.modelcard import model_card
from ddcli.plan import Silent, make_plan

READ = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
)


@pytest.fixture(autouse=True)
def _nothing_waits():
    """A pipe that is opened, or a device that is read, would keep a test for ever."""

    def fail(*_):
        raise AssertionError("still at it after two minutes")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def run(absorbing_run, tmp_path):
    return copy_of(absorbing_run, tmp_path)


def refusal(*arguments, stdin=b"", lines=1):
    """What a command says that fails in one line with exit code 2, fit for a terminal."""
    found = command(*arguments, stdin=stdin)
    assert (found.code, found.out) == (2, b""), found
    assert found.err.startswith("ddcli: ")
    assert found.err.count("\n") == lines, found.err
    assert harmless(found.err)
    return found.err


def harmless(text):
    return text == printable(text, keep="\n\t")


def sampled(run):
    return command("sample", run, "--steps", "2", "--seed", "1", "-q")


def as_safetensors(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def sealed(folder):
    """Make a checkpoint verify as it is now, as whoever changed it would."""
    sums = {path.name: sha256(path) for path in folder.iterdir() if path.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(sums))


def test_what_people_write_is_shown_as_it_is():
    text = "if x:\u3000a\u00a0b\u200d\U0001f468\u00ad"
    assert printable(text) == text
    assert printable("\x1b[1m\x9b\u202e\u2028\x7f") == "␛[1m\ufffd\ufffd\ufffd\ufffd"


def test_what_is_written_to_stdout_by_its_name_is_added_to_what_it_is(run, tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    line = [sys.executable, "-m", "ddcli", "sample", str(run), "--steps", "2", "-q", "-o", "/dev/stdout"]
    with log.open("a") as file:
        subprocess.run(line, stdout=file, check=True)
    assert log.read_text().startswith("before\n")
    assert len(log.read_text()) > len("before\n")


# -- code -------------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.fixture
def bomb(tmp_path):
    """A pickle that makes a folder when it is read."""
    mark = tmp_path / "bang"
    content = pickle.dumps(Bomb(mark))
    pickle.loads(content)
    mark.rmdir()  # it works
    return content, mark


BESIDE = ("pytorch_model.bin", "model.pt", "model.ckpt", "vocab.pkl", "tokenizer.pkl", "training_args.bin")
SLOW_VOCABULARIES = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "tekken.json",
)


def test_pickles_beside_a_model_are_not_read(run, bomb):
    expected = sampled(run)
    content, mark = bomb
    for name in (*BESIDE, "checkpoints/step.pt", "samples/s.pkl"):
        (run / name).write_bytes(content)
    assert sampled(run) == expected
    assert not mark.exists()


@pytest.mark.parametrize("name", [*READ, "process.safetensors", *SLOW_VOCABULARIES, "pytorch_model.bin"])
def test_a_pickle_in_the_place_of_a_file_is_refused(run, bomb, name):
    content, mark = bomb
    if name in SLOW_VOCABULARIES:
        (run / "tokenizer.json").unlink()
    if name == "pytorch_model.bin":
        (run / "model.safetensors").unlink()
    (run / name).write_bytes(content)
    refusal("sample", run)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["ema", "weights", "optimizer"])
def test_a_pickle_in_a_checkpoint_is_refused_though_the_manifest_knows_it(run, bomb, text_file, name):
    content, mark = bomb
    _, newest = checkpoints(run)[-1]
    (newest / f"{name}.safetensors").write_bytes(content)
    sealed(newest)
    if name == "ema":
        assert "is damaged" in refusal("sample", newest)
    assert "is damaged" in refusal(*resuming(run, text_file))
    assert not mark.exists()


@pytest.mark.parametrize("diffusion", [[], "hybrid", {"noise": []}, {"noise": 99}])
def test_a_run_that_says_nonsense_of_its_noise_does_not_go_on(run, text_file, diffusion):
    edit_json(run / "config.json", diffusion=diffusion)
    assert "config.json is damaged" in refusal(*resuming(run, text_file))


def resuming(run, text_file):
    changed = {"data.source": str(text_file), "train.steps": 100, "checkpoint.every": 50, "samples.every": 50}
    return ["train", *assignments({**SETTINGS, **changed}), "-o", run, "--resume", "-q"]


def custom_code(folder, mark):
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n\n\nclass Evil: pass\n")


@pytest.mark.parametrize("kind", ["EvilTokenizer", "TokenizersBackend"])
def test_no_code_of_a_run_is_run_though_stdin_says_yes(run, tmp_path, kind):
    mark = tmp_path / "bang"
    custom_code(run, mark)
    edit_json(
        run / "tokenizer_config.json", tokenizer_class=kind, auto_map={"AutoTokenizer": ["evil.Evil"] * 2}
    )
    edit_json(run / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForMaskedLM": "evil.Evil"})
    found = command("infill", run, "-", "--steps", "2", "-q", stdin=b"y\n[MASK:2]\n" * 9)
    assert not mark.exists()
    if kind == "EvilTokenizer":
        assert (found.code, found.out) == (2, b"")
        assert found.err.endswith("cannot be loaded: it comes with code of its own, which ddcli never runs\n")
    else:  # one that transformers knows: the code is passed over
        assert found.code == 0


def test_no_code_of_a_tokenizer_folder_is_run(run, tmp_path, text_file):
    mark = tmp_path / "bang"
    custom_code(run, mark)
    edit_json(run / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    arguments = ["train", "--data", text_file, "--tokenizer", run, "--size", "tiny", "--dry-run", "-q"]
    arguments += ["--set", "train.compile=false", "--batch-size", 2]
    command(*arguments, stdin=b"y\n" * 9)
    assert not mark.exists()


# -- names that lead elsewhere ----------------------------------------------------------------------------


def test_an_index_leads_nowhere(run, tmp_path):
    expected = sampled(run)
    names = load_file(run / "model.safetensors").keys()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../weights.safetensors")}
    (run / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sampled(run) == expected
    (run / "model.safetensors").rename(tmp_path / "weights.safetensors")
    assert "model.safetensors is missing" in refusal("sample", run)


@pytest.mark.parametrize("key", ["tokenizer_file", "vocab_file", "fast_tokenizer_files"])
def test_a_tokenizer_is_not_read_from_elsewhere(run, tmp_path, key):
    elsewhere = (run / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    for path in (str(elsewhere), "../tokenizer.json"):
        edit_json(run / "tokenizer_config.json", **{key: [path] if key.startswith("fast") else path})
        assert "cannot be loaded" in refusal("sample", run)


def put_link(path, to):
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def put_pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def put_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


PLACES = {
    "endless": lambda path: put_link(path, "/dev/zero"),
    "nothing": lambda path: put_link(path, "/dev/null"),
    "nowhere": lambda path: put_link(path, "nowhere"),
    "the root": lambda path: put_link(path, "/"),
    "a pipe": put_pipe,
    "a folder": put_folder,
    "empty": lambda path: path.write_bytes(b""),
}
OPTIONAL = ("tokenizer_config.json",)  # what is no file is no such file, and a tokenizer can do without


@pytest.mark.parametrize("name", [*READ, "process.safetensors"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_of_a_run_is_refused_and_not_waited_for(run, place, name):
    PLACES[place](run / name)
    if (name in OPTIONAL and place != "empty") or (name == "process.safetensors" and place == "nowhere"):
        assert sampled(run).code == 0
    else:
        refusal("sample", run)


def test_a_file_that_fills_the_memory_is_refused(run):
    for name in ("config.json", "generation_config.json", "process.safetensors"):
        whole = (run / name).read_bytes() if (run / name).exists() else None
        with (run / name).open("wb") as file:
            file.truncate(2**36)  # of which the disk holds nothing
        assert name in refusal("sample", run)
        (run / name).unlink() if whole is None else (run / name).write_bytes(whole)


@pytest.mark.parametrize("name", [*READ, "README.md", "metrics.jsonl", "samples", "checkpoints"])
def test_nothing_is_written_through_a_link_that_leads_out_of_a_run(run, text_file, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    before = files(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    assert f"{name} is a link to {elsewhere}, outside of the run" in refusal(*resuming(run, text_file))
    sweep = ["--limit", "1", "--draws", "1", "--sweep", "steps=1", "--save", "-q"]
    assert "outside of the run" in refusal("eval", run, "--data", text_file, *sweep)
    assert (files(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before
    assert sampled(run).code == 0  # reading does no harm


def test_a_run_that_is_a_link_itself_goes_on(run, text_file, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert command(*resuming(tmp_path / "link", text_file)).code == 0


# -- sizes ------------------------------------------------------------------------------------------------

HUGE = 2**48
CLAIMS = {
    "a petabyte in the file": lambda run: (run / "model.safetensors").write_bytes(
        as_safetensors({"embedding.weight": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}})
    ),
    "a petabyte of nothing": lambda run: (run / "model.safetensors").write_bytes(
        as_safetensors({"embedding.weight": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 0]}})
    ),
    "a header of an exabyte": lambda run: (run / "model.safetensors").write_bytes(struct.pack("<Q", 2**60)),
    "a wide network": lambda run: edit_json(run / "config.json", width=60_000),
    "a deep network": lambda run: edit_json(run / "config.json", layers=1000),
    "a network beyond measure": lambda run: edit_json(run / "config.json", width=HUGE, heads=1),
    "layers without end": lambda run: edit_json(run / "config.json", layers=HUGE),
    "a vocabulary beyond measure": lambda run: edit_json(run / "config.json", vocab_size=HUGE),
    "a long text": lambda run: edit_json(run / "config.json", diffusion__length=HUGE),
    "long records": lambda run: edit_json(run / "config.json", diffusion__record_lengths={str(HUGE): 1}),
    "many steps": lambda run: edit_json(run / "generation_config.json", steps=HUGE),
}
LIMITED = """
import resource, sys
import torch
from ddcli import cli
from ddcli.saved import load_model
load_model(sys.argv[1]).sample(1, steps=1)  # what it takes in any case
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30,) * 2)
for run in sys.argv[2:]:
    print(cli.main(["sample", run]), flush=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and limits the memory")
def test_a_size_is_checked_before_memory_is_taken(absorbing_run, tmp_path):
    folders = []
    for name, claim in CLAIMS.items():
        folders.append(copy_of(absorbing_run, tmp_path / name.replace(" ", "-")))
        claim(folders[-1])
    found = subprocess.run(
        [sys.executable, "-c", LIMITED, absorbing_run, *folders], capture_output=True, text=True, check=False
    )
    assert found.stderr.count("\n") == len(CLAIMS), found.stderr
    *codes, megabytes = map(int, found.stdout.split())
    assert codes == [2] * len(CLAIMS)
    assert megabytes < 100


@pytest.mark.parametrize("name", READ[:4])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_json_without_a_bottom_is_refused(run, name, brackets):
    opening, closing = brackets[:-1], brackets[-1]
    (run / name).write_text(opening * 100_000 + "1" + closing * 100_000)
    assert "recursion" in refusal("sample", run)


def test_toml_without_a_bottom_is_refused(run, text_file, tmp_path):
    deep = "a = " + "[" * 100_000 + "]" * 100_000
    (tmp_path / "recipe.toml").write_text(deep)
    assert "is no valid TOML" in refusal("train", tmp_path / "recipe.toml", "--data", text_file, "--dry-run")
    (run / "config.toml").write_text(deep)
    assert "config.toml is no valid TOML" in refusal(*resuming(run, text_file))
    assert "train.steps = " in refusal("train", "--set", f"train.steps={'[' * 100_000}", "--dry-run")


# -- numbers ----------------------------------------------------------------------------------------------

NUMBERS = [True, -1, HUGE, 10**400, float("nan"), float("inf"), -float("inf"), [1], {}, "one"]
SAMPLER_NUMBERS = ("steps", "temperature", "top_p", "guidance", "greedy_tail", "block")
NETWORK_NUMBERS = (
    *("vocab_size", "width", "layers", "heads", "mlp_ratio", "block", "window", "diffusion__length"),
    *("diffusion__timesteps", "mask_token_id", "pad_token_id", "eos_token_id", "bos_token_id"),
)


@pytest.mark.parametrize("key", SAMPLER_NUMBERS)
def test_numbers_that_are_none_are_refused_in_sampler_settings(run, key):
    for value in NUMBERS:
        edit_json(run / "generation_config.json", **{key: value})
        assert f"generation_config.json: --{key.replace('_', '-')} " in refusal("sample", run)


@pytest.mark.parametrize("key", NETWORK_NUMBERS)
def test_numbers_that_are_none_are_refused_in_a_network(run, key):
    for value in NUMBERS:
        edit_json(run / "config.json", **{key: value})
        message = refusal("sample", run)
        assert str(run) in message
        assert key.rpartition("__")[2].removesuffix("_token_id") in message or key == "vocab_size"


@pytest.mark.parametrize("lengths", [{"-1": 1}, {"3": -1}, {"3": 0}, {"3": True}, {"31": 1}, {"3": 10**400}])
def test_records_of_impossible_lengths_are_refused(run, lengths):
    edit_json(run / "config.json", diffusion__record_lengths=lengths)
    assert "record" in refusal("sample", run)


@pytest.mark.parametrize("value", ["true", "-1", "nan", "inf", "9" * 400, "[1]", "'one'"])
def test_numbers_that_are_none_are_refused_in_a_recipe(run, text_file, value):
    (run / "config.toml").write_text(f"[train]\nsteps = {value}\n")
    assert refusal(*resuming(run, text_file)).startswith("ddcli: train.steps = ")
    assert "train.lr" in refusal("train", "--data", text_file, "--set", f"train.lr={value}", "--dry-run")


def test_a_network_that_the_machine_has_no_room_for_is_refused(text_file):
    arguments = ["--data", text_file, "--set", "model.width=65536", "--set", "model.layers=1024"]
    assert "the weights alone take 211," in refusal("train", *arguments, "--dry-run", "-q")


# -- parts that disagree ----------------------------------------------------------------------------------


def edit_backend(run, edit):
    backend = json.loads((run / "tokenizer.json").read_text())
    edit(backend)
    (run / "tokenizer.json").write_text(json.dumps(backend))


def test_a_tokenizer_that_the_model_was_not_trained_with_is_refused(run):
    said = (run / "tokenizer_config.json").read_bytes()
    for role, other in (("mask", "a"), ("pad", "<mask>"), ("bos", "<mask>"), ("eos", "<bos>")):
        edit_json(run / "tokenizer_config.json", **{f"{role}_token": other})
        assert "token" in refusal("sample", run)
        (run / "tokenizer_config.json").write_bytes(said)
    for unit in ("byte",):
        edit_json(run / "tokenizer_config.json", unit=unit)
        assert "its entries are not one byte each" in refusal("sample", run)
    (run / "tokenizer_config.json").write_bytes(said)
    edit_backend(run, lambda backend: backend["model"]["vocab"].update(a=10**9))
    assert "it has 23 entries, and larger ids" in refusal("sample", run)


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
        ("decoder", {"type": "Strip", "content": "a", "start": 100, "stop": 100}),
    ],
)
def test_a_tokenizer_whose_rules_break_the_library_is_refused_in_one_line(run, capfd, part, rule):
    """What is written in Rust says so on the stderr of the system, and raises no Exception."""
    edit_backend(run, lambda backend: backend.update({part: rule}))
    assert "the tokenizer of" in refusal("sample", run)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("role", ["mask", "pad", "eos", "bos"])
@pytest.mark.parametrize("id", [0, 23, 10**9])
def test_a_token_that_a_model_does_not_have_is_refused_by_name(run, role, id):
    edit_json(run / "config.json", **{f"{role}_token_id": id})
    assert re.search(rf"{role} (token is \d+, but config.json says )?{id}\b", refusal("sample", run))


def test_two_roles_for_one_token_are_refused(run):
    edit_json(run / "config.json", pad_token_id=22)
    assert "mask 22, pad 22, eos 18, bos 20 are not 4 tokens of 23" in refusal("sample", run)


WEIGHTS = {
    "missing": lambda w: w.pop("embedding.weight"),
    "one more": lambda w: w.update({"head.bias": torch.zeros(3)}),
    "of another shape": lambda w: w.update({"embedding.weight": w["embedding.weight"][:-1].clone()}),
    "of another kind": lambda w: w.update({"embedding.weight": w["embedding.weight"].to(torch.int8)}),
    "no number": lambda w: w["embedding.weight"].fill_(float("nan")),
    "no number but infinite": lambda w: w["embedding.weight"][0, 0].fill_(float("inf")),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_do_not_fit_are_refused_by_name(run, what):
    weights = load_file(run / "model.safetensors")
    WEIGHTS[what](weights)
    save_file(weights, run / "model.safetensors")
    assert re.search(r"embedding\.weight|head\.bias", refusal("sample", run))


# -- checkpoints that somebody has changed ----------------------------------------------------------------

STATES = {
    "step": [True, -1, "1", None, 1e300, 10**400, 7],
    "fingerprint": [None, 3, ["a"]],
    "seconds": ["x", -1, float("nan"), 10**400],
    "window": [None, 3, {"losses": "x"}, {"losses": 1.0}, {"tokens": [1.0]}, {"unknown": 1}],
    "bounds": [3, [1], [{"nats_per_token": "x"}], [{"unknown": 1.0}]],
    "recent": [3, ["a"], [None]],
    "lost": [3, ["a"], [True]],
    "place": [3, ["a"]],
    "gradients": [3, [[1.0]], [["a", "b"]], []],
    "clip": [-1, "a", True, 99],
}


@pytest.mark.parametrize("key", STATES)
def test_a_state_that_somebody_changed_is_refused(run, text_file, key):
    _, newest = checkpoints(run)[-1]
    shutil.rmtree(checkpoints(run)[0][1])
    arguments = resuming(run, text_file)
    whole = (newest / "state.json").read_bytes()
    for value in [*STATES[key], ...]:
        (newest / "state.json").write_bytes(whole)
        edit_json(newest / "state.json", **{key: value})
        sealed(newest)
        before = files(run)
        refusal(*arguments)
        assert files(run) == before
    for content in ("[" * 100_000, "[]", "", "nonsense"):
        (newest / "state.json").write_text(content)
        sealed(newest)
        refusal(*arguments)


@pytest.mark.parametrize("group", ["weights", "ema", "optimizer"])
def test_tensors_of_another_network_are_refused(run, text_file, group):
    _, newest = checkpoints(run)[-1]
    path = newest / f"{group}.safetensors"
    tensors = load_file(path)
    first, own = next(iter(tensors.items()))
    changes = [{first: torch.zeros(7, 3)}, {"strange/exp_avg": torch.zeros(2)}]
    changes += [{first: torch.full_like(own, torch.nan)}, {first: own.to(torch.int8)}]
    for change in changes:
        save_file({**tensors, **change}, path)
        sealed(newest)
        assert f"its {group} " in refusal(*resuming(run, text_file))


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"step": "a"}', "{}", "[" * 100_000, "\udcff"])
def test_metrics_that_somebody_changed_are_refused(run, text_file, line):
    shutil.rmtree(checkpoints(run)[-1][1])  # so that there is something to go on with
    with (run / "metrics.jsonl").open("a", errors="surrogateescape") as file:
        file.write(f"{line}\n")
    assert "metrics.jsonl is damaged" in refusal(*resuming(run, text_file))


# -- what is shown ----------------------------------------------------------------------------------------

TRICKS = "\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e\u2066\x85\r\b\x00\x7f"
FEW_TRICKS = "\x1b]0;x\x07\x9b\u202e\b"  # that a short prompt has room for
LOOKS = re.compile(r"\x1b\[[\d;]*m")  # what rich itself writes


def without_looks(text):
    return LOOKS.sub("", text)


@pytest.fixture
def babbler(monkeypatch):
    """A model that writes any bytes whatever."""
    model = MODELS["byte", "absorbing"]
    monkeypatch.setattr(api, "load", lambda *_, **__: model)
    monkeypatch.setattr(saved, "load_writer", lambda *_, **__: model)
    return model


@pytest.mark.parametrize("options", [[], ["--json"], ["-0"], ["-n", "3"]])
def test_a_sample_does_nothing_to_a_terminal_and_is_exact_anywhere_else(babbler, tmp_path, options):
    arguments = [
        "sample",
        "run",
        "--prompt",
        FEW_TRICKS,
        "--seed",
        "1",
        "--steps",
        "2",
        "-q",
        *options,
    ]
    piped = command(*arguments)
    shown = command(*arguments, terminal=True)
    assert command(*arguments, "-o", tmp_path / "out").code == piped.code == shown.code == 0
    assert (tmp_path / "out").read_bytes() == piped.out
    if "--json" not in options:
        assert FEW_TRICKS.encode() in piped.out
    assert not harmless(piped.out.decode(errors="replace"))
    assert harmless(shown.out.decode())
    if "--json" in options:
        assert json.loads(shown.out) == json.loads(piped.out)


@pytest.mark.parametrize("options", [[], ["--json"], ["--diff"], ["-n", "2"], ["--explain"]])
def test_a_filled_text_does_nothing_to_a_terminal_and_is_exact_anywhere_else(babbler, tmp_path, options):
    text = f"{TRICKS}[MASK:4]{TRICKS}\n[MASK:1-2]".encode()
    file = tmp_path / TRICKS.replace("\0", "").replace("/", "")
    file.write_bytes(text)
    arguments = ["infill", "run", file, "--seed", "1", "--steps", "2", *options]
    piped, shown = command(*arguments), command(*arguments, terminal=True)
    assert piped.code == shown.code == 0
    assert harmless(shown.out.decode())
    assert harmless(shown.err)
    assert harmless(piped.err)
    if not options:
        assert piped.out.startswith(TRICKS.encode())


def test_noise_is_shown_without_doing_anything_to_a_terminal(tmp_path):
    found = command("noise-viz", "--text", TRICKS.replace("\0", "") + "</script><script>", terminal=True)
    assert found.code == 0
    assert harmless(without_looks(found.out.decode()))


def test_pictures_and_pages_are_text_whatever_they_show(tmp_path):
    text = TRICKS.replace("\0", "") + "</script><!--$x$&;]]>"
    for suffix in ("svg", "html"):
        assert command("noise-viz", "--text", text, "-o", tmp_path / f"n.{suffix}", "-q").code == 0
    xml.etree.ElementTree.parse(tmp_path / "n.svg")
    page = (tmp_path / "n.html").read_text()
    assert page.count("<script") == 2  # our data and our program
    assert harmless(page)


def test_a_training_does_nothing_to_a_terminal():
    screen = StringIO()
    display = TrainingDisplay(Console(file=screen, force_terminal=True, width=200))
    display.samples(1, [TRICKS])
    display.say(TRICKS)
    assert harmless(without_looks(screen.getvalue()))


def test_a_model_card_is_text_whatever_the_data_is_called(text_file, tmp_path):
    plan = make_plan(tiny_config(text_file), None, Silent())
    name = "a`b\n# <script>\x1b[2J"
    config = plan.config.model_copy(update={"data": plan.config.data.model_copy(update={"source": name})})
    data, settings = replace(plan.data, labels={"</p>`\n": {3: 1}}), SamplerSettings()
    sample = "```\n# a heading\x1b[2J"
    about = {"precision": "bf16", "machine": "m", "versions": "v"}
    card = model_card(config, data, plan.network, 1, [], settings, about, sample)
    assert harmless(card)
    assert "- Data: `a'b␊# <script>␛[2J` (sha256" in card
    assert "`</p>'␊`" in card
    assert "\n````\n```\n# a heading␛[2J\n````\n" in card
    assert r'source = "a`b\n# <script>\u001b[2J"' in card
    assert plan.config.train.threads == 1
    assert "\nsteps = 20\n" in card
    assert "threads =" not in card  # which is of this machine


HOSTILE_NAMES = [
    "a\nb",
    "\x1b]0;x\x07",
    'a"b',
    "a'b",
    "--help",
    "\u202etxt",
    os.fsdecode(b"\xff\xfe"),
    "a b;c",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_file_is_read_written_and_named_whatever_it_is_called(absorbing_run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("the [MASK:2] cat\n")
    few = ["--steps", "2", "--seed", "1", "-q"]
    assert command("infill", absorbing_run, *few, "-o", f"{name}.out", "--", name).code == 0
    assert re.fullmatch("the .{2} cat\n", Path(f"{name}.out").read_text(), re.DOTALL)
    assert command("infill", absorbing_run, *few, "--diff", "--", name).code == 0
    assert command("infill", absorbing_run, *few, "--in-place", "--backup", ".old", "--", name).code == 0
    assert Path(f"{name}.old").read_text() == "the [MASK:2] cat\n"
    assert "cannot be read" in refusal("infill", absorbing_run, *few, "--", f"no {name}")
    assert "no run folder" in refusal("sample", f"no {name}")
    assert "cannot be" in refusal("infill", absorbing_run, *few, "-o", f"no/{name}", "--", f"{name}.old")
    refusal("train", "--data", f"no {name}.txt", "--dry-run")
    refusal("train", f"--set=train.{name}=1", "--dry-run")
    refusal("sample", absorbing_run, f"--{name}x")
    refusal("sample", absorbing_run, "--steps", name)
    refusal("sample", absorbing_run, "--sampler", name)


@pytest.mark.skipif(shutil.which("patch") is None, reason="there is no patch")
@pytest.mark.parametrize("name", ["plain", "a\nb", 'a"b', "a\\b", os.fsdecode(b"\xff\xfe")])
def test_a_diff_can_be_taken_whatever_the_file_is_called(absorbing_run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("one\nthe [MASK:2] cat\ntwo\n")
    options = ["--steps", "2", "--seed", "1", "-q", "--", name]
    difference = command("infill", absorbing_run, "--diff", *options).out
    expected = command("infill", absorbing_run, *options).out
    subprocess.run(["patch", "-p0", "--posix" if name == "plain" else "-s"], input=difference, check=True)
    assert Path(name).read_bytes() == expected


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_run_may_be_called_anything_or_is_refused(absorbing_run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(absorbing_run, name)
    found = command("sample", "--steps", "2", "--explain", "--", name, terminal=True)
    assert harmless(found.err)
    assert found.code == (0 if name.isascii() or name.isprintable() or "\u202e" in name else 2)


# -- what a text is read from -----------------------------------------------------------------------------


def test_a_text_may_come_from_a_pipe(absorbing_run, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"the [MASK:2]",))
    writer.start()
    found = command("infill", absorbing_run, pipe, "--steps", "2", "-q")
    writer.join()
    assert re.fullmatch(rb"the .{2}", found.out, re.DOTALL)


@pytest.mark.parametrize("key", ["source", "valid"])
def test_data_of_a_run_that_is_a_pipe_is_refused_and_not_waited_for(run, text_file, tmp_path, key):
    """As config.toml names it; its owner may be a stranger."""
    os.mkfifo(tmp_path / "pipe")
    settings = tomllib.loads((run / "config.toml").read_text())
    settings["data"][key] = str(tmp_path / "pipe")
    (run / "config.toml").write_text(tomli_w.dumps(settings))
    before = files(run)
    for arguments in (("eval", run), ("train", "--resume", "-o", run, "--steps", "200")):
        assert f"config.toml names {tmp_path / 'pipe'} as its data, a pipe or a device" in refusal(*arguments)
    assert files(run) == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_process_of_what_is_no_number_is_refused(tmp_path, text_file, value):
    train_tiny(tmp_path / "run", text_file, process__name="band:1", train__steps=1)
    tables = load_file(tmp_path / "run/process.safetensors")
    for name, table in tables.items():
        table.view(-1)[0] = value
        save_file(tables, tmp_path / "run/process.safetensors")
        assert f"its {name} is not made of numbers" in refusal("sample", tmp_path / "run", "--steps", "2")


def test_where_there_is_no_text_it_is_said(absorbing_run, tmp_path):
    (tmp_path / "empty").touch()
    for source in ("/dev/null", tmp_path / "empty"):
        assert "no gap to fill" in refusal("infill", absorbing_run, source, "-q")
        assert "holds no text" in refusal("train", "--data", source, "--dry-run")
        refusal("noise-viz", source)
        refusal("eval", absorbing_run, "--data", source)
    assert "is a folder; the model comes first" in refusal("infill", absorbing_run, tmp_path)
    assert "is a folder, not a text" in refusal("noise-viz", tmp_path)
    assert "recipe" in refusal("train", tmp_path, "--dry-run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_what_may_not_be_read_is_named(run, text_file, tmp_path):
    closed = tmp_path / "closed.txt"
    closed.write_text("the [MASK]")
    closed.chmod(0)
    assert "Permission denied" in refusal("infill", run, closed)
    assert "Permission denied" in refusal("train", "--data", closed, "--dry-run")
    for name in READ:
        (run / name).chmod(0)
        refusal("sample", run)
        (run / name).chmod(0o644)


def test_control_characters_have_pictures_and_escapes():
    assert printable("a\x1b\n\x9b\u202eé漢") == "a␛␊\ufffd\ufffdé漢"
    assert json.loads(f'"{escaped(TRICKS[1:])}"') == TRICKS[1:]
    assert escaped("é漢\n") == "é漢\n"
