"""Laws of what a run trains and validates on."""

import gzip
import json

import datasets
import numpy as np
import pytest

from ddcli.config import Data
from ddcli.data import StreamBlocks
from ddcli.dataset import read_training_data
from ddcli.errors import DdcliError
from ddcli.sources import read_corpus, stream_documents


def read(**settings):
    return read_training_data(Data(**settings), None, lambda line: None)


@pytest.fixture
def dataset(monkeypatch):
    """A stand-in for the hub: rows that can be streamed, whatever the name."""
    rows = [{"text": f"row {i} of some text to read"} for i in range(400)]

    def load(name, config=None, *, split, streaming):
        whole = datasets.Dataset.from_list(rows)
        return whole.to_iterable_dataset() if streaming else whole

    monkeypatch.setattr(datasets, "load_dataset", load)


def test_a_stream_trains_on_what_it_does_not_validate_on(dataset):
    data = read(source="some/rows", streaming=True, tokenizer="char", length=16)
    held_out = set(data.train.valid_documents)
    text = data.tokenizer.decode(data.train.batch(0, 64, 0).tokens.ravel())
    assert len(held_out) == 100
    assert "row 0 of some text to read" in held_out
    assert not any(document in text for document in held_out)
    assert data.has_end_of_text
    assert data.description.startswith("a stream of blocks of 16 characters")


def test_files_are_the_shards_of_a_stream(tmp_path):
    """Read as they are when they are read whole, bad rows and all; known again by names and sizes."""
    for i in range(4):
        rows = [{"text": f"shard {i} row {j}\u2028é"} for j in range(130)]
        (tmp_path / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n")
    source, told = str(tmp_path / "*.jsonl"), []
    settings = Data(source=source, streaming=True, tokenizer="char", length=128, bad_rows="skip")
    data = read_training_data(settings, None, told.append)
    documents = read_corpus(source, skip_bad=True).documents
    assert data.train.valid_documents == documents[:100]
    blocks = data.train.batch(0, 64, 0).tokens
    whole = (np.split(block, np.flatnonzero(block == data.tokenizer.eos_id))[1:-1] for block in blocks)
    found = {data.tokenizer.decode(part[1:]) for parts in whole for part in parts}
    assert len(found) > 100
    assert found <= set(documents[100:])
    assert [line.partition(" is not")[0] for line in told] == [
        f"left out: {tmp_path}/{i}.jsonl line 131" for i in range(4)
    ]
    (tmp_path / "4.jsonl").write_text(json.dumps({"text": "more"}))
    assert read_training_data(settings, None, told.append).fingerprint != data.fingerprint


def test_of_long_texts_a_stream_holds_out_few(tmp_path, monkeypatch):
    monkeypatch.setattr(StreamBlocks, "enough", 1000)
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text(f"text {i}, " * 90)
    data = read(source=str(tmp_path / "*.txt"), streaming=True, tokenizer="char", length=16)
    assert [text[:6] for text in data.train.valid_documents] == ["text 0", "text 1"]
    assert "text 5" in data.tokenizer.decode(data.train.batch(0, 64, 0).tokens.ravel())


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_single_text_is_streamed_in_pieces(name, tmp_path, monkeypatch):
    """None of which cuts a word or a character, or ends the text; what is held out is its beginning."""
    for limit, value in {"PIECE": 64, "REACH": 16, "PIECES": 4}.items():
        monkeypatch.setattr(f"ddcli.sources.{limit}", value)
    text = "".join(f"line {i} läuft\n" for i in range(60)) + "wörter ohne ende " * 40 + "語" * 500
    (tmp_path / name).write_bytes(text.encode() if name == "a.txt" else gzip.compress(text.encode()))
    source = str(tmp_path / name)
    shards = stream_documents(source)
    pieces = [[*shards.shard(i, 0)] for i in range(shards.shards)]
    assert "".join(piece for shard in pieces for piece in shard) == text
    assert len(pieces) == -(-len(text.encode()) // (64 * 4))
    assert [*shards.shard(1, 3)] == pieces[1][3:]
    assert all(piece.endswith(("\n", " ")) for piece in pieces[0])
    data = read(source=source, streaming=True, tokenizer="char", length=16, valid_fraction=0.03, lanes=1)
    held_out = "".join(data.train.valid_documents)
    assert text.startswith(held_out)
    assert 0.03 < len(held_out.encode()) / len(text.encode()) < 0.09
    tokens = data.train.batch(0, 256, 0).tokens
    assert data.tokenizer.eos_id not in tokens
    assert not data.has_end_of_text
    assert data.tokenizer.decode(tokens[0]) in text.replace(held_out, "") * 2


def test_what_a_stream_cannot_do_is_refused_by_name(dataset, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("some text\n" * 50)
    with pytest.raises(DdcliError, match="leave --valid-data out"):
        read(source="some/rows", streaming=True, valid=str(file))
    with pytest.raises(DdcliError, match="leave --streaming out"):
        read(source="/dev/null", streaming=True)
    with pytest.raises(DdcliError, match="no more than the 1 documents held out for validation"):
        read(source=str(file), streaming=True, length=16).train.batch(0, 4, 0)
    with pytest.raises(DdcliError, match="cannot be streamed"):
        read(source="some/rows", streaming=True, lines=True)
    with pytest.raises(DdcliError, match="cannot be streamed"):
        read(source="some/rows", streaming=True, label_column="kind")


@pytest.mark.parametrize("changes", [{"split": "test"}, {"valid": "valid.txt", "valid_split": "test"}])
def test_a_split_of_files_is_refused_and_not_passed_over(text_file, changes, monkeypatch):
    monkeypatch.chdir(text_file.parent)
    (text_file.parent / "valid.txt").write_text("the cat sat")
    with pytest.raises(DdcliError, match=r"no splits; leave data\.\w+ out, and give the files"):
        read_training_data(Data(source=str(text_file), **changes), None, print)


def test_validation_ends_its_texts_exactly_where_training_does(tmp_path):
    """Else a model that never learnt to end a text would be asked how likely an end is."""
    (tmp_path / "one.txt").write_text("abc " * 100)
    many = tmp_path / "many"
    many.mkdir()
    for i in range(3):
        (many / f"{i}.txt").write_text("cab " * 20)
    data = read(source=str(tmp_path / "one.txt"), valid=str(many), tokenizer="char", length=16)
    assert not data.has_end_of_text
    assert data.tokenizer.eos_id not in data.valid.tokens
    assert data.tokenizer.eos_id in data.excluded_ids
    other = read(source=str(many), valid=str(tmp_path / "one.txt"), tokenizer="char", length=16)
    assert (other.valid.tokens == other.tokenizer.eos_id).sum() == 1


@pytest.mark.parametrize("lines", [False, True])
def test_unknown_symbols_count_neither_as_tokens_nor_as_characters(tmp_path, lines):
    (tmp_path / "train.txt").write_text("abab\nbaba\n" * 30)
    (tmp_path / "valid.txt").write_text("aXXb\nbYYa\n" * 4)
    source, valid = str(tmp_path / "train.txt"), str(tmp_path / "valid.txt")
    data = read(source=source, valid=valid, tokenizer="char", length=12, lines=lines)
    assert data.valid.predicted == data.valid.characters
    (tmp_path / "valid.txt").write_text("XYZ")
    with pytest.raises(DdcliError, match="no symbol of the validation data"):
        read(source=source, valid=valid, tokenizer="char", length=12, lines=lines)


def test_line_ends_of_two_kinds_are_told_of(tmp_path):
    for name, ends in {"unix": "\n", "windows": "\r\n"}.items():
        (tmp_path / f"{name}.txt").write_bytes(f"a line{ends}".encode() * 300)
    told = []
    for source in (tmp_path, tmp_path / "unix.txt", tmp_path / "windows.txt"):
        read_training_data(Data(source=str(source), tokenizer="char", length=64), None, told.append)
    (line,) = told
    assert line.startswith(f"{tmp_path}: 300 of 600 lines end in CR LF")
