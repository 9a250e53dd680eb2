"""What was tokenized before is read again, the same, and only where it is of the same text and settings."""

import json
import os
import threading
from dataclasses import fields

import numpy as np
import pytest
from filelock import FileLock
from tiny import Heard, names, words

from ddcli import cache, dataset
from ddcli.cache import cached
from ddcli.config import Data
from ddcli.sources import sum_of
from ddcli.spelling import ForeignTokenizer
from ddcli.tokenizer import CharacterTokenizer, Tokenizer, make_tokenizer

ASSETS = "huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE"
LABELLED = [{"text": name, "kind": kind} for name, kind in zip(names(40).split(), "ab" * 20, strict=True)]
SOURCES = {
    "a text": (words(60), {"tokenizer": "bpe:300", "length": 16}),
    "records": (names(60), {"lines": True}),
    "labelled records": (
        "".join(json.dumps(row) + "\n" for row in LABELLED),
        {"lines": True, "label_column": "kind", "length": 12},
    ),
    "documents": ("".join(json.dumps({"text": words(9, seed=i)}) + "\n" for i in range(30)), {"length": 32}),
}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """An empty cache, in which everything is worth a place."""
    monkeypatch.setattr(ASSETS, str(tmp_path / "assets"))
    monkeypatch.setattr(dataset, "WORTH_KEEPING", 1)
    return tmp_path / "assets" / "ddcli" / "tokens"


def read(path, own=None, heard=None, **settings):
    return dataset.read_training_data(Data(source=str(path), **settings), own, (heard or Heard()).say)


def written(tmp_path, kind):
    text, settings = SOURCES[kind]
    path = tmp_path / ("rows.jsonl" if text.startswith("{") else "text.txt")
    path.write_text(text)
    return path, settings


def refuse(*_):
    raise AssertionError("tokenized again")


def same(found, expected):
    for blocks, others in ((found.train, expected.train), (found.valid, expected.valid)):
        for field in fields(blocks):
            assert np.array_equal(getattr(blocks, field.name), getattr(others, field.name)), field.name
    texts = ("fingerprint", "length", "tokenizer_spec", "record_lengths", "labels", "has_end_of_text")
    assert [getattr(found, name) for name in texts] == [getattr(expected, name) for name in texts]
    assert found.tokenizer.digest == expected.tokenizer.digest
    return True


@pytest.mark.parametrize("kind", SOURCES)
def test_a_second_start_reads_what_the_first_one_made(kind, kept, tmp_path, monkeypatch):
    path, settings = written(tmp_path, kind)
    first, second = Heard(), Heard()
    monkeypatch.setattr(dataset, "WORTH_KEEPING", 10**9)
    made = read(path, **settings)
    assert not kept.exists()
    monkeypatch.setattr(dataset, "WORTH_KEEPING", 1)
    assert same(read(path, heard=first, **settings), made)
    monkeypatch.setattr(Tokenizer, "_encode_batch", refuse)
    monkeypatch.setattr(dataset, "make_tokenizer", refuse)
    other = path.rename(tmp_path / f"moved{path.suffix}")  # it is known by what is in it
    found = read(other, heard=second, **settings)
    assert same(found, made)
    learnt = "its entries are learnt", "entries to learn"  # which nobody does again
    assert second.lines == [line for line in first.lines if not any(words in line for words in learnt)]
    assert isinstance(found.train.tokens.base, np.memmap) or isinstance(found.train.tokens, np.memmap)
    assert len([*kept.iterdir()]) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_a_tokenizer_that_is_given_is_kept_by_nobody(damaged, kept, tmp_path):
    path, settings = written(tmp_path, "a text")
    own = make_tokenizer("char", [path.read_text()], lambda line: None)
    made = read(path, own, **settings)
    if damaged:
        (tokens,) = kept.glob("*/made/train.tokens.npy")
        content = bytearray(tokens.read_bytes())
        content[-1] ^= 1
        tokens.unlink()  # what was made is mapped from it
        tokens.write_bytes(content)
    found = read(path, own, **settings)
    assert same(found, made)
    assert found.tokenizer is own


@pytest.mark.parametrize("kind", ["a text", "documents"])
def test_a_run_that_goes_on_reads_what_its_start_made(kind, kept, tmp_path, monkeypatch):
    """With the settings that its config.toml has, where nothing is left open."""
    path, settings = written(tmp_path, kind)
    made = read(path, **settings)
    monkeypatch.setattr(Tokenizer, "_encode_batch", refuse)
    monkeypatch.setattr(CharacterTokenizer, "encode_documents", refuse)
    settled = {**settings, "tokenizer": made.tokenizer_spec, "length": made.length}
    assert same(read(path, made.tokenizer, **settled), made)


def test_a_file_is_known_by_what_is_read_in_it(kept, tmp_path):
    """The same bytes are one text by one name, and many by another."""
    rows = "".join(json.dumps({"text": words(2, seed=i)}) + "\n" for i in range(30))
    for name in ("rows.txt", "rows.jsonl"):
        (tmp_path / name).write_text(rows)
    text, table = (read(tmp_path / name, tokenizer="char", length=16) for name in ("rows.txt", "rows.jsonl"))
    assert (text.has_end_of_text, table.has_end_of_text) == (False, True)
    assert len(text.train) > len(table.train)
    assert sum_of(["ab", "c"]) != sum_of(["a", "bc"]) != sum_of([b"a", "bc"])


def test_tokenizers_that_take_a_token_for_something_else_are_others():
    own = make_tokenizer("char", ["abc"], lambda line: None)
    assert own.digest == make_tokenizer("char", ["cba"], lambda line: None).digest
    assert len({kind(own.hf).digest for kind in (Tokenizer, CharacterTokenizer, ForeignTokenizer)}) == 3


@pytest.mark.parametrize(
    "change", [{"length": 8}, {"valid_fraction": 0.5}, {"tokenizer": "bpe:270"}, {"tokenizer": None}]
)
def test_other_settings_make_other_tokens(change, kept, tmp_path):
    path, settings = written(tmp_path, "a text")
    read(path, **settings)
    read(path, **{**settings, **change})
    assert len([*kept.iterdir()]) == 2


def test_another_text_or_another_tokenizer_makes_other_tokens(kept, tmp_path):
    path, settings = written(tmp_path, "a text")
    one, other = (make_tokenizer("char", [text], lambda line: None) for text in (SOURCES["a text"][0], "abc"))
    found = [read(path, tokenizer, **settings) for tokenizer in (one, other)]
    path.write_text(SOURCES["a text"][0] + "more\n")
    found.append(read(path, one, **settings))
    assert len([*kept.iterdir()]) == 3
    assert found[0].train.given is None
    assert found[1].train.given.any()


def test_where_nothing_can_be_kept_training_starts_all_the_same(kept, tmp_path, monkeypatch):
    path, settings = written(tmp_path, "a text")
    made, heard = read(path, **settings), Heard()
    (tmp_path / "taken").write_text("a file where the folder should be")
    monkeypatch.setattr(ASSETS, str(tmp_path / "taken"))
    assert same(read(path, heard=heard, **settings), made)
    for kind in ("tokenizers", "tokens"):
        assert any(line.startswith(f"{kind} are not kept for the next time: ") for line in heard.lines)


def test_a_full_disk_costs_nothing_but_the_place(kept, tmp_path, monkeypatch):
    def full(made, folder):
        raise troubles[len(heard.lines)]

    monkeypatch.setattr(ASSETS, str(tmp_path))
    heard, troubles = Heard(), [OSError(28, "No space left on device"), OSError("8 requested and 0 written")]
    for _ in troubles:
        assert cached("tokens", "k", lambda: "made", full, refuse, heard.say) == "made"
    reasons = "No space left on device", "8 requested and 0 written"
    assert heard.lines == [f"tokens are not kept for the next time: {reason}" for reason in reasons]
    assert [path.name for path in (tmp_path / "ddcli" / "tokens" / "k").iterdir()] == [".lock"]


def test_what_was_not_asked_for_for_longest_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(ASSETS, str(tmp_path))
    monkeypatch.setattr(cache, "MOST", 2500)

    def ask(key):
        save = lambda made, folder: (folder / "content").write_bytes(made)  # noqa: E731
        return cached("things", key, lambda: b"x" * 1000, save, lambda folder: folder, print)

    for time, key in enumerate("abac"):
        os.utime(ask(key).parent, (time, time))
    assert {path.name for path in (tmp_path / "ddcli" / "things").iterdir()} == {"a", "c"}


def test_of_those_who_ask_at_once_one_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ASSETS, str(tmp_path))
    made, found, first = [], [], threading.Event()

    def make():
        made.append(1)
        first.set()
        return "content"

    def ask():
        save = lambda made, folder: (folder / "content").write_text(made)  # noqa: E731
        load = lambda folder: (folder / "content").read_text()  # noqa: E731
        found.append(cached("things", "k", make, save, load, print))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == ["content"] * 4
    assert made == [1]


def test_who_waits_for_another_process_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(ASSETS, str(tmp_path))
    place, heard = tmp_path / "ddcli" / "things" / "k", Heard()
    place.mkdir(parents=True)
    lock, said = FileLock(place / ".lock"), threading.Event()

    def say(line):
        heard.say(line)
        said.set()

    def ask():
        cached("things", "k", lambda: "made", lambda made, folder: None, lambda folder: "kept", say)

    with lock:
        thread = threading.Thread(target=ask)
        thread.start()
        assert said.wait(20)
    thread.join(20)
    assert heard.lines == ["things: another process is making the same, which is waited for"]


def test_what_cannot_be_read_again_is_what_was_made(tmp_path, monkeypatch):
    """As where another process has just made room."""
    monkeypatch.setattr(ASSETS, str(tmp_path))

    def gone(folder):
        raise FileNotFoundError(2, "No such file or directory")

    for _ in range(2):
        assert cached("things", "k", lambda: "made", lambda made, folder: None, gone, print) == "made"
