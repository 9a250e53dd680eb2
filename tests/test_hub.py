"""Models by their hub names, from a server here that answers as the hub does: the client is the real one."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ddit_reference
import pytest
from huggingface_hub import constants
from test_ddit import gpt2_like
from tiny import BORROWED, assignments

import ddcli
from ddcli.cli import main
from ddcli.errors import DdcliError
from ddcli.saved import load_writer

COMMIT = "c" * 40
PATIENCE = 100  # seconds that a command may take


class Hub(ThreadingHTTPServer):
    """Folders OWNER/NAME under `root`, by the routes that models are looked up and fetched by.

    The owner's name says what else happens: "gated" shows a page and gives no files to anybody, "private"
    does not even say that there is one, and of what "dying" gives the connection ends midway.
    """

    daemon_threads = True

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), Answer)
        self.root, self.asked = root, []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self):
        self.shutdown()
        self.server_close()

    def given(self):
        """The names of the files that were fetched since the last time, without their model's."""
        found = [path.rpartition("/")[2] for way, path in self.asked if way == "GET" and "/resolve/" in path]
        self.asked.clear()
        return found


class Answer(BaseHTTPRequestHandler):
    timeout = 10  # seconds

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        self.server.asked.append((self.command, path))
        match path.split("/"):
            case ["api", "models", owner, name, *rest]:
                self.describe(owner, name, is_tree="tree" in rest)
            case [owner, name, "resolve", _, file]:
                self.give(owner, name, file)
            case _:
                self.refuse(404, "EntryNotFound")

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_):
        pass

    def describe(self, owner, name, *, is_tree):
        folder = self.server.root / owner / name
        if owner == "private":
            return self.refuse(401, "RepoNotFound")
        if not folder.is_dir():
            return self.refuse(404, "RepoNotFound")
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        tree = [{"type": "file", "path": n, "size": len(d), "oid": _tag(d)} for n, d in files.items()]
        page = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
        return self.send(json.dumps(tree if is_tree else page).encode())

    def give(self, owner, name, file):
        path = self.server.root / owner / name / file
        if owner == "gated":
            return self.refuse(403, "GatedRepo")
        if not path.is_file():
            return self.refuse(404, "EntryNotFound")
        data = path.read_bytes()
        dies = owner == "dying" and self.command == "GET"
        return self.send(data, {"ETag": f'"{_tag(data)}"', "X-Repo-Commit": COMMIT}, dies=dies)

    def refuse(self, code, kind):
        return self.send(b"", {"X-Error-Code": kind}, code=code)

    def send(self, data, headers=None, *, code=200, dies=False):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if dies else data)


def _tag(data):
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that this process asks, and a cache of its own."""
    found = Hub(tmp_path / "root")
    monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
    template = found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield found
    found.stop()


def put(hub, name, folder):
    """A copy of a folder, under a name."""
    return Path(shutil.copytree(folder, hub.root / name))


def refusal(name, **options):
    with pytest.raises(DdcliError) as refused:
        ddcli.load(name, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_model_is_fetched_by_its_name_and_then_read_without_a_network(hub, folders, monkeypatch):
    there = put(hub, "somebody/bert", folders("bert"))
    for name in ("modeling.py", "pytorch_model.bin", "notes.md"):
        (there / name).write_text("not wanted")
    options = {"length": 12, "steps": 2, "seed": 1}
    wanted = ddcli.load(folders("bert")).sample(1, **options)[0].text
    model = ddcli.load("somebody/bert")
    assert model.origin.name == "somebody/bert"
    assert model.sample(1, **options)[0].text == wanted
    *described, weights = hub.given()
    assert sorted(described) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert weights == "model.safetensors"
    assert ddcli.load("somebody/bert").sample(1, **options)[0].text == wanted
    assert hub.given() == []
    hub.stop()
    assert ddcli.load("somebody/bert").sample(1, **options)[0].text == wanted
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ddcli.load("somebody/bert").sample(1, **options)[0].text == wanted
    assert "the hub cannot be asked for it" in refusal("somebody/other")


@pytest.mark.filterwarnings("default::DeprecationWarning")  # as in test_diffusion_gemma.py
def test_all_that_a_model_says_of_itself_is_fetched(hub, tmp_path):
    """The template of a chat too, without which a question is text to go on with."""
    from borrowed import diffusion_gemma

    folder = diffusion_gemma(tmp_path / "chats", chats=True)
    put(hub, "somebody/chats", folder)
    written = [
        load_writer(name).sample(1, prompt="Why?", length=8, seed=1)[0].text
        for name in (folder, "somebody/chats")
    ]
    assert written[0] == written[1]
    assert {path.name for path in folder.iterdir()} <= {*hub.given(), "model.safetensors"}


def test_a_pickle_is_fetched_where_that_is_asked_for_alone(hub):
    (hub.root / "research").mkdir(parents=True)
    ddit_reference.save("mdlm", hub.root / "research" / "mdlm", gpt2_like(), as_pickle=True)
    assert "give --allow-pickle" in refusal("research/mdlm")
    assert sorted(hub.given()) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert ddcli.load("research/mdlm", allow_pickle=True).origin.name == "research/mdlm"
    assert hub.given() == ["pytorch_model.bin"]


def test_a_model_of_another_kind_is_refused_before_its_weights_are_fetched(hub, folders):
    put(hub, "somebody/llama", folders("llama"))
    assert refusal("somebody/llama").startswith("somebody/llama is a LlamaForCausalLM, a causal decoder")
    assert "model.safetensors" not in hub.given()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gated/bert", "gated/bert is gated: ask for access on its page, and log in with `hf auth login`"),
        ("private/bert", "no such model on the hub (or it is private: `hf auth login`)"),
        ("somebody/nothing", "no such model on the hub"),
    ],
)
def test_what_the_hub_does_not_give_is_told_in_one_line(name, said, hub, folders):
    put(hub, "gated/bert", folders("bert"))
    assert said in refusal(name)


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "~/nowhere", "/nowhere"])
def test_what_is_no_name_is_not_asked_for(name, hub, capsys):
    assert main(["sample", name]) == 2
    assert f"{name} is no run folder: there is no such folder" in capsys.readouterr().err
    assert not hub.asked


@pytest.mark.slow
def test_commands_take_names_as_people_type_them(tmp_path, folders):
    """Processes of their own: a masked model, research and a decoder by their names; then the same with the
    hub forbidden, and with a hub that is gone; and what is not for everybody, or breaks off."""
    hub = Hub(tmp_path / "hub")
    for name, kind in {"people/bert": "bert", "people/llama": "llama", "gated/bert": "bert"}.items():
        put(hub, name, folders(kind))
    put(hub, "dying/bert", folders("bert"))
    ddit_reference.save("bd3lm", hub.root / "people" / "bd3lm", gpt2_like())
    (tmp_path / "letter.txt").write_text("the quick [MASK:2] fox jumps")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)

    def run(*arguments, code=0, **env):
        own = {
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": "0",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "ddcli", *arguments],
            cwd=tmp_path,
            env=os.environ | own | env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        assert done.returncode == code, done.stderr
        assert code == 0 or (len(done.stderr.splitlines()) == 1 and not done.stdout)
        return done.stdout if code == 0 else done.stderr

    filling = ("infill", "people/bert", "letter.txt", "--seed", "1")
    writing = ("sample", "people/bd3lm", "--seed", "1", "--length", "8", "--steps", "4")
    filled, written = run(*filling), run(*writing)
    assert filled.startswith("the quick")
    assert filled.endswith("fox jumps")
    brief = assignments({**BORROWED, "train.steps": 1, "data.length": 16})
    run("train", "--from", "people/llama", "--data", "text.txt", *brief, "-o", "run")
    assert "base_model: people/llama" in (tmp_path / "run" / "README.md").read_text()
    run("eval", "run", "--generative", "people/llama", "--samples", "2", "--steps", "2")
    assert "gated/bert is gated: ask for access" in run("infill", "gated/bert", "letter.txt", code=2)
    assert "closed connection" in run("infill", "dying/bert", "letter.txt", code=2)
    assert run(*filling, HF_HUB_OFFLINE="1") == filled
    hub.stop()
    assert run(*filling) == filled
    assert run(*writing) == written
    told = run("infill", "people/other", "letter.txt", code=2)
    assert "the hub cannot be asked for it" in told
    assert "give a folder with its config.json" in told
