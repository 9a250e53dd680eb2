"""Laws of the data: every source gives its text unchanged, and packing loses nothing."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import threading
import zipfile

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from datasets import Dataset
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from ddcli.data import Lane, StreamBlocks, pack, pack_records, permutation
from ddcli.errors import DdcliError
from ddcli.sources import Corpus, read_corpus, split_corpus, stream_documents
from ddcli.tokenizer import Tokenizer, make_tokenizer

AWKWARD = "\ufeffa BOM, then\r\nCRLF\u2028 and \x0c, trailing blanks  \n\n\te\u0301\n"
ROWS = ["first\r\nrow", 'second, "quoted"', "thi\u2028rd \u4e2d"]
PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def corpus_of(*documents):
    return Corpus(list(documents), "some text", "", 0)


def characters(*documents):
    return make_tokenizer("char", documents, print)


# ---------------------------------------------------------------------------------------------- reading


def test_a_text_file_is_one_document_not_a_character_changed(tmp_path):
    path = tmp_path / "text.weird-ending"
    path.write_bytes(AWKWARD.encode())
    corpus = read_corpus(str(path))
    assert corpus.documents == [AWKWARD]
    assert corpus.name == str(path)
    assert corpus.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_are_unpacked_whole(ending, tmp_path):
    path = tmp_path / f"seq.fna{ending}"
    path.write_bytes(PACKERS[ending](AWKWARD.encode()) + PACKERS[ending](b"second part"))
    assert read_corpus(str(path)).documents == [AWKWARD + "second part"]


@pytest.mark.parametrize("ending", PACKERS)
def test_a_broken_compressed_file_is_refused(ending, tmp_path):
    path = tmp_path / f"a.txt{ending}"
    for broken in (PACKERS[ending](AWKWARD.encode() * 9)[:-9], b"neither packed nor whole"):
        path.write_bytes(broken)
        with pytest.raises(DdcliError, match=f"a.txt{ending} cannot be read"):
            read_corpus(str(path))


def test_lines_are_documents_and_empty_ones_are_not(tmp_path):
    (tmp_path / "names").write_bytes("ann\r\n\nb\u2028ob \n\x0c\neve".encode())
    assert read_corpus(str(tmp_path / "names"), lines=True).documents == ["ann", "b\u2028ob ", "\x0c", "eve"]


def test_a_folder_is_its_visible_text_files_in_order(tmp_path):
    for name, data in {
        "b.py": b"b",
        "sub/c.json": b"{}",
        "a.txt": AWKWARD.encode(),
        ".git/x": b"x",
        ".hidden": b"x",
        "sub/image.png": b"\x89PNG\0",
        "z.txt.gz": gzip.compress(b"z"),
        "empty": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    corpus = read_corpus(str(tmp_path))
    assert corpus.documents == [AWKWARD, "b", "{}", "z"]
    assert corpus.skipped == 2


def test_a_glob_is_the_files_it_matches_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert read_corpus(f"{tmp_path}/*.txt").documents == ["a.txt", "b.txt"]
    with pytest.raises(DdcliError, match="no file matches"):
        read_corpus(f"{tmp_path}/*.rst")


def test_a_folder_of_nothing_but_tables_is_their_rows(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.jsonl").write_text(f'{{"text": "row {number}"}}\n')
    assert read_corpus(str(tmp_path)).documents == ["row 0", "row 1"]
    (tmp_path / "read.me").write_text("text")
    assert read_corpus(str(tmp_path)).documents == ['{"text": "row 0"}\n', '{"text": "row 1"}\n', "text"]


def write_table(path, rows, column="text"):
    """The same rows in the format of the path's ending (nothing is an empty field in CSV)."""
    objects = [{"id": str(i), column: row} for i, row in enumerate(rows)]

    def csv(rows):
        quoted = ['"' + (row or "").replace('"', '""') + '"' for row in rows]
        return f"id,{column}\n" + "".join(f"{i},{row}\n" for i, row in enumerate(quoted))

    writers = {
        ".jsonl": lambda: "\n".join(json.dumps(o, ensure_ascii=False) for o in objects).encode(),
        ".json": lambda: json.dumps(objects).encode(),
        ".csv": lambda: ("\ufeff" + csv(rows)).encode(),
        ".tsv": lambda: ("\ufeff" + csv(rows).replace(",", "\t", 1).replace(',"', '\t"')).encode(),
        ".parquet": lambda: parquet(pyarrow.Table.from_pylist(objects)),
        ".arrow": lambda: arrow(pyarrow.Table.from_pylist(objects), pyarrow.ipc.new_stream),
    }
    writers[".ndjson"] = writers[".jsonl"]
    path.write_bytes(writers[path.suffix]())
    return str(path)


def parquet(table):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def arrow(table, kind):
    sink = pyarrow.BufferOutputStream()
    with kind(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")


@pytest.mark.parametrize("ending", TABLES)
def test_each_row_of_a_table_is_a_document(ending, tmp_path):
    rows = [ROWS[0], "", *ROWS[1:], "long " * 40_000]
    source = write_table(tmp_path / f"t{ending}", rows, column="story")
    corpus = read_corpus(source, text_column="story")
    assert corpus.documents == [row for row in rows if row]
    assert corpus.skipped == 1
    assert read_corpus(source, text_column="story", lines=True) == corpus


def test_an_arrow_file_may_be_one_that_can_be_read_in_any_order(tmp_path):
    table = pyarrow.table({"text": ["a", "b"]})
    (tmp_path / "t.arrow").write_bytes(arrow(table, pyarrow.ipc.new_file))
    assert read_corpus(str(tmp_path / "t.arrow")).documents == ["a", "b"]


def test_a_dataset_that_was_saved_is_its_rows_and_not_its_description(tmp_path):
    rows = Dataset.from_dict({"text": [f"row {i}" for i in range(5)]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "more")
    one, more = str(tmp_path / "one"), str(tmp_path / "more")
    assert read_corpus(one).documents == read_corpus(more).documents == rows["text"][:]
    assert read_corpus(more, split="test").documents == ["row 1"]
    streamed = stream_documents(more)
    assert sorted(streamed.all()) == rows["text"][:]
    with pytest.raises(DdcliError, match=r"no split 'valid' but train, test; set data.split to one"):
        read_corpus(more, split="valid")
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "state.json"):  # a name that anybody may give a file
        (tmp_path / "texts" / name).write_text(name)
    assert read_corpus(str(tmp_path / "texts")).documents == ["a.txt", "state.json"]
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(DdcliError, match="cannot be read as a dataset"):
        read_corpus(one)


def test_an_archive_is_read_as_a_folder_is(tmp_path):
    def archive(**members):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            for name, content in members.items():
                file.writestr(name.replace("__", "."), content)
        return read_corpus(str(tmp_path / "a.zip"))

    texts = archive(b__txt="two", a__md="one", c__bin=b"\0", d__jsonl='{"text": "x"}')
    assert texts.documents == ["one", "two", '{"text": "x"}']
    assert texts.skipped == 1
    assert archive(a__csv="text\none\ntwo", b__jsonl__gz=gzip.compress(b'{"text": "x"}')).documents == [
        "one",
        "two",
        "x",
    ]
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.txt", "a text\n" * 100)
    damaged = whole.getvalue().replace(whole.getvalue()[35:45], b"\xff" * 10)
    for data in (b"PK and nothing else", damaged):
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(DdcliError, match=r"a\.zip cannot be read: "):
            read_corpus(str(tmp_path / "a.zip"))


def test_no_table_is_passed_over_among_other_files(tmp_path):
    """As in a dataset's repository, beside its card."""
    (tmp_path / "README.md").write_text("a card")
    write_table(tmp_path / "t.parquet", ROWS)
    with pytest.raises(DdcliError, match=r"t\.parquet is a table, but beside it .* --data '.*/\*\.parquet'"):
        read_corpus(str(tmp_path))


def test_a_table_may_end_its_lines_in_any_way(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "t.csv").write_bytes(f"id,text{end}1,a{end}2,b{end}".encode())
        assert read_corpus(str(tmp_path / "t.csv")).documents == ["a", "b"]


@pytest.mark.parametrize("ending", TABLES)
def test_a_missing_column_is_answered_with_those_there_are(ending, tmp_path):
    source = write_table(tmp_path / f"t{ending}", ROWS, column="story")
    with pytest.raises(DdcliError, match="no column 'text'; set --text-column to one of: id, story"):
        read_corpus(source)


def test_a_compressed_table_is_still_a_table(tmp_path):
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'))
    assert read_corpus(str(tmp_path / "t.jsonl.gz")).documents == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"caf\xe9", r"a.txt is not UTF-8 text \(byte 3\).*--tokenizer byte"),
        ("a.csv", b"text\ncaf\xe9", r"a.csv line 2: a text holds half a surrogate pair or a stray byte"),
        ("a.jsonl", b'{"text": null}', r"line 1: column 'text' holds null, not text; mend it"),
        ("a.txt", b"", "holds no text"),
        ("a.jsonl", b'{"text": "a"}\n{', "line 2 is not JSON"),
        ("a.jsonl", b"[1]", "a row is list"),
        ("a.jsonl", b'{"text": 1}', "column 'text' holds int, not text"),
        ("a.jsonl", b'{"text": "\\ud83d"}', "half a surrogate pair"),
        ("a.json", b'{"text": "a"}', "rename it .jsonl"),
        ("a.parquet", b"PAR", "is not a parquet file"),
        ("a.arrow", b"ARR", "is not an arrow file"),
        ("a.tar", b"a.txt\0\0\0text", "is binary, no text; --tokenizer byte takes it, or unpack"),
    ],
)
def test_data_that_cannot_be_read_is_refused_in_one_line(name, data, said, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DdcliError, match=said) as error:
        read_corpus(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_what_is_no_text_is_not_streamed_as_one(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"a.txt\0\0\0text")
    with pytest.raises(DdcliError, match="is binary, no text"):
        stream_documents(str(tmp_path / "a.tar"))
    assert stream_documents(str(tmp_path / "a.tar"), as_bytes=True).size == 12


BAD = {
    "a.jsonl": (
        b'{"text": "one"}\n{\n[1]\n{"text": null}\n{"text": 3}\n'
        b'{"text": "\\ud83d"}\n{"text": "two"}\n"\xff"\n',
        [
            "line 2 is not JSON",
            "line 3: a row is list",
            "line 4: column 'text' holds null",
            "line 5: column 'text' holds int",
            "line 6: a text holds half a surrogate pair",
            "line 8 is not UTF-8 text (byte 1)",
        ],
    ),
    "a.csv": (
        b"text,b\none,1\n\ncaf\xe9,1\ntwo,2\n",
        ["line 4: a text holds half a surrogate pair or a stray"],
    ),
    "a.json": (b'[{"text": "one"}, 3, {"text": "two"}]', ["row 2: a row is int"]),
    "a.parquet": (
        parquet(
            pyarrow.table({"text": pyarrow.array([b"one", b"caf\xe9", None, b"two"]).cast("string", False)})
        ),
        ["row 2: a text holds half a surrogate pair or a stray byte", "row 3: column 'text' holds null"],
    ),
    "lines.txt": (b"one\r\ncaf\xe9\n\ntwo", ["line 2 is not UTF-8 text (byte 3)"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named_by_file_and_line_and_left_out_if_asked(name, tmp_path):
    content, problems = BAD[name]
    (tmp_path / name).write_bytes(content)
    corpus = read_corpus(str(tmp_path / name), lines="lines" in name, skip_bad=True)
    assert corpus.documents == ["one", "two"]
    assert len(corpus.problems) == len(problems)
    for told, problem in zip(corpus.problems, problems, strict=True):
        assert told.startswith(f"{tmp_path / name} {problem}")
    if problems:
        with pytest.raises(
            DdcliError, match=r"; mend it, or leave such rows out with --bad-rows skip$"
        ) as error:
            read_corpus(str(tmp_path / name), lines="lines" in name)
        assert problems[0] in str(error.value)


def test_a_row_that_is_longer_than_any_document_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr("ddcli.sources.LONGEST_ROW", 10)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "more than that"}\n')
    with pytest.raises(DdcliError, match=r"a.jsonl line 2: 14 characters are no document \(at most 10\)"):
        read_corpus(str(tmp_path / "a.jsonl"))
    assert read_corpus(str(tmp_path / "a.jsonl"), skip_bad=True).documents == ["one"]


def test_bytes_are_no_bad_rows_for_a_vocabulary_of_them(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ncaf\xe9\n")
    corpus = read_corpus(str(tmp_path / "a.txt"), lines=True, as_bytes=True)
    assert corpus.documents == ["one", b"caf\xe9"]


def test_bad_rows_of_a_stream_are_told_and_left_out(monkeypatch):
    rows = Dataset.from_dict({"text": ["one", "", "two", "x" * 11]})
    monkeypatch.setattr("ddcli.sources.LONGEST_ROW", 10)
    monkeypatch.setattr("ddcli.sources._hub_rows", lambda *_, **__: rows.to_iterable_dataset(num_shards=2))
    told: list[str] = []
    stream = stream_documents("some/name", skip_bad=True, log=told.append)
    assert stream.shards == 2
    assert [[*stream.shard(i, 0)] for i in range(2)] == [["one", ""], ["two", None]]
    assert told == ["left out: some/name shard 1 row 2: 11 characters are no document (at most 10)"]
    assert [*stream.shard(0, 1)] == [""]
    with pytest.raises(DdcliError, match="shard 1 row 2: 11 characters"):
        list(stream_documents("some/name").shard(1, 1))


def test_for_the_byte_tokenizer_data_need_not_be_text(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00\xff\n\xfe")
    (tmp_path / "b").write_bytes(b"text")
    assert read_corpus(str(tmp_path), as_bytes=True).documents == [b"\x00\xff\n\xfe", "text"]
    assert read_corpus(str(tmp_path / "a"), as_bytes=True, lines=True).documents == [b"\x00\xff", b"\xfe"]


@pytest.mark.parametrize("source", ["nowhere/to/be/found", "nowhere.txt", "./nowhere", "nowhere.jsonl.gz"])
def test_a_path_that_is_nowhere_is_said_to_be(source):
    with pytest.raises(DdcliError, match=f"no such file or folder: {source}"):
        read_corpus(source)


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.txt.gz"])
def test_the_sum_of_a_single_file_is_that_of_the_file(tmp_path, name, lines):
    content = b'{"text": "one"}\r\n\n' if name == "a.jsonl" else b"text\r\none\n\ntwo\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read_corpus(str(path), lines=lines).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_pipe_is_read_but_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"the cat\n",), daemon=True)
    writer.start()
    assert read_corpus(str(pipe)).documents == ["the cat\n"]


def test_the_standard_library_is_one_corpus_in_a_fixed_order():
    corpus = read_corpus("python-stdlib")
    assert corpus.sha256 == read_corpus("python-stdlib").sha256
    assert 3_000_000 < sum(map(len, corpus.documents)) < 20_000_000
    assert any("class OrderedDict" in document for document in corpus.documents)


def test_a_dataset_is_loaded_by_name_config_and_split(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return Dataset.from_dict({"story": ["a", "", "b"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = read_corpus("some/stories:tiny", text_column="story", split="train[:10%]")
    assert asked == [(("some/stories", "tiny"), {"split": "train[:10%]", "streaming": False})]
    assert corpus.documents == ["a", "b"]
    assert corpus.skipped == 1
    with pytest.raises(DdcliError, match="set --text-column to one of: story"):
        read_corpus("stories")


@pytest.mark.parametrize("reached", [True, False])
def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, reached):
    """What was fetched before is read without it, and it is asked again the next time."""
    asked, seen = [], []

    def dataset_info(hub, name, **_):
        asked.append(name)
        if not reached:
            raise ConnectionError("nobody answers")

    def load_dataset(*_, **__):
        seen.append((constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        if len(seen) == 2:
            raise ConnectionError("Couldn't reach it (OfflineModeIsEnabled)")
        return Dataset.from_dict({"text": ["a"]})

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    assert read_corpus("some/stories").documents == ["a"]
    assert seen == [before if reached else (True, True)]
    assert before == (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    with pytest.raises(DdcliError, match="OfflineModeIsEnabled" if reached else "nobody answers"):
        read_corpus("some/stories")
    assert asked == ["some/stories"] * 2


@pytest.mark.parametrize(("rows", "shards"), [(200, 1), (1280, 10), (64 * 128 + 50, 64)])
def test_a_saved_dataset_is_streamed_by_shards_that_are_worth_opening(tmp_path, rows, shards):
    Dataset.from_dict({"text": ["a"] * rows}).save_to_disk(tmp_path / "saved")
    assert stream_documents(str(tmp_path / "saved")).shards == shards


def test_a_dataset_that_cannot_be_loaded_is_refused_in_one_line(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nand much more")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DdcliError, match=r"no file or folder wikitext.*Couldn't reach the Hub; give files"):
        stream_documents("wikitext")


# -------------------------------------------------------------------------------------------- splitting


def test_the_last_documents_are_for_validation():
    documents = [str(i) for i in range(100)]
    assert split_corpus(corpus_of(*documents)) == (documents[:95], documents[95:])
    assert split_corpus(corpus_of("a", "b", "c")) == (["a", "b"], ["c"])


@given(st.text(min_size=2) | st.binary(min_size=2), st.floats(0.01, 0.9))
def test_splitting_one_text_loses_nothing_and_leaves_both_parts(text, fraction):
    (train,), (valid,) = split_corpus(corpus_of(text), fraction)
    assert train + valid == text
    assert train
    assert valid


@pytest.mark.parametrize("kind", [str, str.encode])
def test_one_text_is_cut_at_a_line_start(kind):
    text = kind("a line of text\n" * 1003)
    (train,), (valid,) = split_corpus(corpus_of(text))
    assert train.endswith(kind("\n"))
    assert len(valid) == pytest.approx(0.05 * len(text), rel=0.02)


def test_a_text_too_short_to_split_is_refused():
    with pytest.raises(DdcliError, match="some text is too short"):
        split_corpus(corpus_of("a"))


# ---------------------------------------------------------------------------------------------- packing


@given(st.lists(st.text("abc", min_size=1), min_size=1), st.integers(1, 9))
@settings(deadline=None)
def test_blocks_hold_every_token_once_and_in_order(documents, length):
    tokenizer = characters("abc")
    blocks = pack(documents, tokenizer, length)
    owner = blocks.document()
    kept = owner >= 0
    end = [tokenizer.eos_id] if len(documents) > 1 else []
    for i, document in enumerate(documents):
        assert blocks.tokens[owner == i].tolist() == [*tokenizer.encode(document), *end]
    assert (np.diff(owner[kept]) >= 0).all()
    assert (blocks.valid() == kept).all()
    assert (blocks.tokens[~kept] == tokenizer.pad_id).all()
    assert (~kept).sum() < length
    assert kept.ravel()[: kept.sum()].all()
    assert blocks.characters == sum(map(len, documents))


def test_characters_and_bytes_are_counted_apart():
    tokenizer = make_tokenizer("byte", [], print)
    blocks = pack(["\u4e2d", b"\xff\xfe", "a"], tokenizer, 4)
    assert (blocks.characters, blocks.utf8_bytes) == (4, 6)


def test_ids_take_two_bytes_where_they_fit():
    assert pack(["abc"], characters("abc"), 2).tokens.dtype == np.uint16


def test_a_text_shorter_than_a_block_is_padded_but_not_trained_on():
    tokenizer = characters("abc")
    assert len(pack(["abc"], tokenizer, 4)) == 1
    assert len(pack(["abc"], tokenizer, 3, training=True)) == 1
    with pytest.raises(DdcliError, match="3 tokens, less than one block; lower --length from 4"):
        pack(["abc"], tokenizer, 4, training=True)


@pytest.mark.parametrize("size", [1, 3, 7, 25])
def test_an_epoch_shows_every_block_once(size):
    blocks = pack(["abcdefghij"], characters("abcdefghij"), 1)
    shown = np.concatenate([blocks.batch(step, size, seed=0).tokens for step in range(10)])[:, 0]
    epochs = shown[: len(shown) // 10 * 10].reshape(-1, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    blocks = pack(["abcdefghij" * 9], characters("abcdefghij"), 4)
    later, first = blocks.batch(30, 8, seed=1), blocks.batch(3, 8, seed=1)
    permutation.cache_clear()
    assert (blocks.batch(3, 8, seed=1).tokens == first.tokens).all()
    assert (blocks.batch(30, 8, seed=1).tokens == later.tokens).all()
    assert (blocks.batch(3, 8, seed=2).tokens != first.tokens).any()
    assert first.tokens.dtype == np.int64
    assert not first.given.any()


def test_blocks_are_taken_in_the_order_asked_for():
    blocks = pack(["abcde"], characters("abcde"), 1)
    assert blocks.take(np.array([3, 0, 3])).tokens.tolist() == [[3], [0], [3]]


def test_all_but_padding_and_given_ends_is_predicted():
    tokenizer = characters("abc")
    assert pack(["abc", "ab"], tokenizer, 4).predicted == len("abc.ab.")
    assert pack_records(["abc", "ab"], tokenizer, 6).predicted == len("abcab")


def test_only_padding_is_not_valid():
    blocks = pack(["abcde"], characters("abcde"), 3)
    batch = blocks.batch(0, 2, seed=0)
    assert batch.valid.sum() == 5
    assert (batch.valid == (batch.tokens != characters("abcde").pad_id)).all()


@given(st.lists(st.text("abc", min_size=1, max_size=8), min_size=1), st.integers(3, 9))
@settings(deadline=None)
def test_a_record_is_a_row_between_given_ends(documents, length):
    tokenizer = characters("abc")
    fitting = [d for d in documents if len(d) <= length - 2]
    if not fitting:
        with pytest.raises(DdcliError, match=f"the shortest needs {min(map(len, documents)) + 2}"):
            pack_records(documents, tokenizer, length)
        return
    blocks = pack_records(documents, tokenizer, length)
    assert blocks.left_out == len(documents) - len(fitting)
    assert blocks.characters == sum(map(len, fitting))
    owner = blocks.document()
    for row, document in enumerate(fitting):
        ids = [tokenizer.bos_id, *tokenizer.encode(document), tokenizer.eos_id]
        padding = [tokenizer.pad_id] * (length - len(ids))
        assert blocks.tokens[row].tolist() == ids + padding
        assert (owner[row] >= 0).tolist() == [True] * len(ids) + [False] * len(padding)
        assert np.flatnonzero(blocks.given[row]).tolist() == [0, len(ids) - 1]
        assert {documents[i] for i in owner[row] if i >= 0} == {document}


def test_of_a_text_of_no_tokens_there_are_no_blocks():
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordLevel({"<pad>": 0, "<mask>": 1, "<eos>": 2, "a": 3}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = {"pad_token": "<pad>", "mask_token": "<mask>", "eos_token": "<eos>"}
    blank = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, **roles))
    assert len(pack(["\n\n"], blank, 8)) == 0


def test_batches_of_records_carry_their_given_ends():
    tokenizer = characters("abc")
    batch = pack_records(["a", "bc"], tokenizer, 5).batch(0, 2, seed=0)
    ends = np.isin(batch.tokens, [tokenizer.bos_id, tokenizer.eos_id])
    assert (batch.given == ends).all()
    assert (batch.tokens[:, 0] == tokenizer.bos_id).all()
    assert (batch.valid == (batch.tokens != tokenizer.pad_id)).all()


# -------------------------------------------------------------------------------------------- streaming


class Letters:
    """One letter a document, dealt out to shards in order, which counts the rows that are read."""

    def __init__(self, count, shards=1):
        self.rows = [None, *(chr(ord("a") + i) for i in range(count))]
        self.shards, self.read = shards, 0

    def shard(self, number, start):
        for row in np.array_split(np.array(self.rows, object), self.shards)[number][start:]:
            self.read += 1
            yield row


@pytest.fixture(params=[1, 3])
def letters(request):
    return Letters(20, request.param)


@pytest.fixture
def stream(monkeypatch, letters):
    """Blocks of two tokens, `document <eos>`, in windows of 8 blocks; 20 documents, 4 held out."""
    monkeypatch.setattr(StreamBlocks, "window", 8)
    monkeypatch.setattr(Lane, "at_once", 5)
    return StreamBlocks(letters, characters(*letters.rows[1:]), 2, held_out=4)


def test_a_stream_goes_round_its_documents_without_the_held_out_ones(stream):
    assert stream.valid_documents == ["a", "b", "c", "d"]
    shown = np.concatenate([stream.batch(step, 8, seed=0).tokens for step in range(4)])
    assert (shown[:, 1] == stream.tokenizer.eos_id).all()
    rounds = shown[:, 0].reshape(2, 16)
    assert np.sort(rounds).tolist() == [[*range(4, 20)]] * 2
    assert (rounds[0] != np.sort(rounds[0])).any()


def test_documents_that_are_held_out_are_left_out_wherever_they_turn_up(monkeypatch):
    monkeypatch.setattr(StreamBlocks, "window", 3)
    documents = Letters(3)
    documents.rows = ["a", "b", "c", "b", "d", "a", "e"]
    stream = StreamBlocks(documents, characters(*"abcde"), 2, held_out=2)
    assert sorted(stream.batch(0, 3, seed=0).tokens[:, 0].tolist()) == [2, 3, 4]


def test_shards_are_read_in_a_new_order_each_round(monkeypatch):
    monkeypatch.setattr(StreamBlocks, "window", 24)
    documents = Letters(24, 6)
    documents.rows.remove(None)
    tokens = [
        Lane(StreamBlocks(documents, characters(*documents.rows), 2, 0), 0, 1).window_of(i)[:, 0] // 4
        for i in range(3)
    ]
    assert all(sorted(order) == sorted([*range(6)] * 4) for order in tokens)
    assert len({tuple(order) for order in tokens}) == 3


@pytest.mark.parametrize("step", [0, 3, 11, 40])
def test_a_stream_goes_on_from_a_place_without_reading_all_that_went_before(stream, letters, step):
    for i in range(step):
        stream.batch(i, 3, seed=1)
    wanted = [stream.batch(i, 3, seed=1).tokens.tolist() for i in range(step, step + 20)]
    again = StreamBlocks(letters, stream.tokenizer, 2, held_out=4)
    stream.go_to([])
    stream.batch(step, 3, seed=1)
    place = json.loads(json.dumps(stream.place()))
    again.go_to(place)
    letters.read = 0
    assert [again.batch(i, 3, seed=1).tokens.tolist() for i in range(step, step + 20)] == wanted
    assert letters.read <= (60 + 8 + 5) * 21 / 16 + 1


def test_a_batch_of_a_stream_is_a_pure_function_of_seed_and_step(stream):
    steps = [0, 1, 2, 7]
    first = {step: stream.batch(step, 3, seed=1).tokens for step in steps}
    for step in [7, 0, 2, 2, 1]:
        batch = stream.batch(step, 3, seed=1)
        assert (batch.tokens == first[step]).all()
        assert batch.valid.all()
        assert not batch.given.any()
    assert any((stream.batch(step, 3, seed=2).tokens != first[step]).any() for step in steps)


def test_a_stream_of_long_documents_is_cut_in_blocks():
    tokenizer = characters("abc")
    documents = Letters(0)
    documents.rows = ["abcabca"]
    blocks = StreamBlocks(documents, tokenizer, 3, held_out=0)
    blocks.window = 4
    shown = blocks.batch(0, 4, seed=0).tokens[np.argsort(permutation(4, 0, 0))]
    assert shown.ravel().tolist() == [
        *tokenizer.encode("abcabca"),
        tokenizer.eos_id,
        *tokenizer.encode("abca"),
    ]


def test_a_stream_with_all_documents_held_out_is_refused():
    with pytest.raises(DdcliError, match="2 documents held out"):
        StreamBlocks(Letters(2), characters("ab"), 2).batch(0, 1, seed=0)
