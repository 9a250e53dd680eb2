"""Laws of records that carry a label: what is read, learnt, sampled and guided by."""

import csv
import gzip
import json
import random

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from chains import OneStream
from scipy.stats import chisquare
from tiny import Heard, copy_of, edit_json, tiny_config, train_tiny, untried
from worlds import make

from ddcli import generative
from ddcli.cli import main
from ddcli.config import Data
from ddcli.data import pack_records
from ddcli.dataset import read_training_data
from ddcli.errors import DdcliError
from ddcli.files import sha256
from ddcli.filling import fill, prepare
from ddcli.generate import generate
from ddcli.generative import real_texts
from ddcli.guidance import guided, without_label
from ddcli.heldout import text_from
from ddcli.infilling import parse
from ddcli.model import SamplerSettings
from ddcli.plan import Silent, make_plan
from ddcli.sampler import Ancestral
from ddcli.saved import load_model
from ddcli.schedule import time_grid
from ddcli.sources import read_corpus
from ddcli.tokenizer import Tokenizer, make_tokenizer

CPU = torch.device("cpu")
ROWS = [
    {"text": "one", "kind": "b"},
    {"text": "two", "kind": None},
    {"text": None, "kind": "lost"},
    {"text": "three", "kind": 'a <b>, "c"\n'},
]


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def letters(count, seed=0):
    """Records of a's labelled A, of twice as many b's labelled B, and a few of either without a label."""
    rng = random.Random(seed)
    texts = [(rng.choice("AB"), rng.randint(2, 4)) for _ in range(count)]
    return [
        {"text": label.lower() * (n * (1 + (label == "B"))), "kind": "" if i % 10 == 0 else label}
        for i, (label, n) in enumerate(texts)
    ]


def labelled(path, **changes):
    """A config for records with a label."""
    settings = {"data__lines": True, "data__label_column": "kind", "data__length": None}
    return tiny_config(path, **{**settings, **changes})


def read(path, heard=None, **settings):
    chosen = {"lines": True, "label_column": "kind", "tokenizer": "char", **settings}
    return read_training_data(Data(source=str(path), **chosen), None, (heard or Heard()).say)


@pytest.fixture(scope="module")
def letters_file(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("labels") / "rows.csv", letters(400))


@pytest.fixture(scope="module")
def letters_run(tmp_path_factory, letters_file):
    run = tmp_path_factory.mktemp("labels") / "run"
    settings = {"data__lines": True, "data__label_column": "kind", "data__length": None}
    train_tiny(run, letters_file, **settings, train__steps=150, checkpoint__every=75, validation__every=75)
    return run


@pytest.fixture(scope="module")
def model(letters_run):
    return load_model(letters_run)


# -- reading ----------------------------------------------------------------------------------------------

WRITERS = {
    "rows.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.csv": lambda path: write_csv(path, ROWS),
    "rows.csv.gz": lambda path: path.write_bytes(
        gzip.compress(write_csv(path.with_suffix(""), ROWS).read_bytes())
    ),
    "rows.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_text_comes_with_its_label_and_one_without_has_none(name, tmp_path):
    WRITERS[name](tmp_path / name)
    corpus = read_corpus(str(tmp_path / name), label_column="kind", skip_bad=True)
    assert corpus.documents == ["one", "two", "three"]
    assert corpus.labels == ["b", "", 'a <b>, "c"\n']
    assert corpus.skipped + len(corpus.problems) == 1  # null is no text; in a .csv it is an empty one
    plain = read_corpus(str(tmp_path / name), skip_bad=True)
    assert plain.documents == corpus.documents
    assert plain.sha256 == corpus.sha256 == sha256(tmp_path / name)  # of which the labels are a part


def test_datasets_have_labels_too_and_numbers_can_be_labels(monkeypatch):
    rows = [{"text": "one", "kind": 0}, {"text": "two", "kind": 12}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    assert read_corpus("some/rows", label_column="kind").labels == ["0", "12"]


BAD = {
    "plain text": ("rows.txt", "some text\n", {}, "is plain text, which has no column 'kind'"),
    "no such column": ("rows.csv", "text,sort\na,b\nc,d\n", {}, "set --label-column to one of: text, sort"),
    "no records": ("rows.csv", "text,kind\na,b\nc,d\n", {"lines": False}, "give --lines"),
    "no label at all": ("rows.csv", "text,kind\na,\nc,\n", {}, "column 'kind' is empty in all records"),
    "a list": ("rows.jsonl", '{"text": "a", "kind": ["b"]}\n', {}, "column 'kind' holds list"),
    "half a character": ("rows.jsonl", '{"text": "a", "kind": "\\ud800"}\n', {}, "half a surrogate pair"),
    "too many": (
        "rows.csv",
        "text,kind\n" + "".join(f"a,{i}\n" for i in range(1301)),
        {},
        "holds 1,236 different values, which is no label",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_label_is_refused_by_name(case, tmp_path):
    name, content, settings, said = BAD[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(DdcliError, match=said) as error:
        read(tmp_path / name, **settings)
    assert "\n" not in str(error.value)


def test_models_that_write_in_order_have_no_labels(letters_file):
    with pytest.raises(DdcliError, match=r"no use for data\.lines"):
        make_plan(labelled(letters_file, process__name="autoregressive"), None, Silent())


@pytest.mark.parametrize("spec", ["char", "byte", "bpe:270"])
def test_labels_are_tokens_that_no_text_spells_and_are_found_again(spec, tmp_path):
    names = ['a <b>, "c"\n', "two words", "été", "x"]
    tokenizer = make_tokenizer(spec, ["<label:x> and more"], lambda line: None)
    size, texts = tokenizer.vocab_size, tokenizer.encode("<label:x>").tolist()
    tokenizer = tokenizer.labelled(names)
    assert tokenizer.label_ids == {name: size + i for i, name in enumerate(names)}
    assert tokenizer.encode("<label:x>").tolist() == texts
    assert set(tokenizer.label_ids.values()) <= set(tokenizer.special_ids)
    assert tokenizer.decode([*texts, size + 3]) == "<label:x>"
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.label_ids == tokenizer.label_ids
    assert again.encode("<label:x>").tolist() == texts


# -- training ---------------------------------------------------------------------------------------------


def test_a_label_stands_in_place_of_bos_and_is_given():
    tokenizer = make_tokenizer("char", ["ab"], lambda line: None).labelled(["A", "B"])
    blocks = pack_records(["ab", "b", "a", "bb"], tokenizer, 5, ["B", "", "new", "A"])
    ids, bos = tokenizer.label_ids, tokenizer.bos_id
    assert blocks.tokens[:, 0].tolist() == [ids["B"], bos, bos, ids["A"]]
    assert blocks.given[:, 0].all()
    plain = pack_records(["ab", "b", "a", "bb"], tokenizer, 5)
    assert (blocks.tokens[:, 1:] == plain.tokens[:, 1:]).all()
    assert (blocks.given == plain.given).all()
    assert blocks.predicted == plain.predicted  # the bound is that of a text given its label, which is free


def test_labels_come_with_the_lengths_of_their_records(letters_file):
    data = read(letters_file)
    assert list(data.labels) == ["A", "B"]
    assert set(data.labels["A"]) == {2, 3, 4}
    assert set(data.labels["B"]) == {4, 6, 8}
    counted = sum(sum(lengths.values()) for lengths in data.labels.values())
    assert counted == 0.9 * sum(data.record_lengths.values())
    assert "2 labels" in data.description
    assert not set(data.tokenizer.label_ids.values()) - set(data.excluded_ids)


def test_labels_that_training_lacks_are_told_and_taken_as_none(tmp_path, letters_file):
    valid = write_csv(tmp_path / "valid.csv", [{"text": "ab", "kind": k} for k in ("A", "Z", "", "Y")])
    heard = Heard()
    data = read(letters_file, heard, valid=str(valid))
    assert "2 validation records have labels that no training record has" in heard.text
    ids = data.tokenizer
    assert data.valid.tokens[:, 0].tolist() == [ids.label_ids["A"], *[ids.bos_id] * 3]


def opened(path, step=0, **changes):
    """What a step shows the network in the first position of each record, and what stands there."""
    plan = make_plan(labelled(path, **changes), None, Silent())
    batch = plan.data.train.batch(step, 400, 0)
    noised = plan.task.noised(batch, step, CPU)
    assert torch.equal(noised.x0[:, 0], noised.xt[:, 0])
    assert not noised.running[:, 0].any()
    return noised, torch.tensor(batch.tokens[:, 0]), plan.data.tokenizer.bos_id


@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_a_label_is_dropped_in_its_share_of_the_records(process, letters_file):
    noised, own, bos = opened(letters_file, train__drop_label=0.0, process__name=process)
    assert torch.equal(noised.xt[:, 0], own)
    noised, _, _ = opened(letters_file, train__drop_label=1.0, process__name=process)
    assert (noised.xt[:, 0] == bos).all()
    noised, own, _ = opened(letters_file, train__drop_label=0.3, process__name=process)
    dropped = (noised.xt[:, 0] != own)[own != bos]
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=0.08)
    again, _, _ = opened(letters_file, train__drop_label=0.3, process__name=process)
    assert torch.equal(again.xt, noised.xt)


def test_records_without_labels_draw_the_numbers_they_always_drew(letters_file):
    """Nothing is drawn for labels where there are none, or where they are never dropped."""
    noised, _, _ = opened(letters_file, train__drop_label=0.0)
    unlabelled, _, _ = opened(letters_file, data__label_column=None)
    assert torch.equal(noised.clock, unlabelled.clock)
    assert torch.equal(noised.xt == noised.x0, unlabelled.xt == unlabelled.x0)


def test_labelled_runs_go_on_exactly_and_not_with_other_labels(tmp_path, letters_run, letters_file):
    settings = {"data__lines": True, "data__label_column": "kind", "data__length": None}
    schedule = {**settings, "train__steps": 150, "checkpoint__every": 75, "validation__every": 75}
    run = copy_of(letters_run, tmp_path)
    whole = (run / "model.safetensors").read_bytes()
    torch.manual_seed(1)
    for file in (run / "checkpoints").glob("step-*150/*"):
        file.write_bytes(b"damaged")
    train_tiny(run, letters_file, resume=True, **schedule)
    assert (run / "model.safetensors").read_bytes() == whole
    rows = letters(400)
    rows[1]["kind"] = "AB".replace(rows[1]["kind"], "")
    moved = tmp_path / "rows.csv"
    other = copy_of(letters_run, tmp_path / "other")
    write_csv(moved, rows)
    toml = (other / "config.toml").read_text().replace(str(letters_file), str(moved))
    (other / "config.toml").write_text(toml)
    with pytest.raises(DdcliError, match="the data has changed"):
        train_tiny(other, moved, resume=True, **schedule)


# -- sampling and filling ---------------------------------------------------------------------------------


def test_a_label_decides_what_is_written_and_how_long_it_is(model):
    assert list(model.labels) == ["A", "B"]
    for label, letter, lengths in (("A", "a", {2, 3, 4}), ("B", "b", {4, 6, 8})):
        texts = [one.text for one in model.sample(40, label=label, seed=1, steps=16)]
        assert {len(text) for text in texts} == lengths
        right = [text for text in texts if set(text) == {letter}]
        assert len(right) >= 36
    unlabelled = [one.text for one in model.sample(40, seed=1, steps=16)]
    assert {len(text) for text in unlabelled} == {2, 3, 4, 6, 8}
    assert set("".join(unlabelled)) == {"a", "b"}


def test_a_label_decides_what_gaps_hold(model):
    assert model.infill("[MASK:3]\n[MASK:3]\n", label="A", seed=1)[0].text == "aaa\naaa\n"
    assert model.infill("[MASK:3]\r\n", label="B", seed=1)[0].text == "bbb\r\n"
    ways = {
        label: model.infill("[MASK]aa", label=label, seed=1, score=True)[0].score for label in ("A", None)
    }
    assert ways["A"] > -0.5


@pytest.mark.parametrize(("label", "lengths"), [("A", {2, 3, 4}), ("B", {4, 6, 8})])
def test_a_label_decides_how_long_gaps_are(model, label, lengths):
    ways = model.infill("[MASK:1-8]", 40, label=label, seed=1, steps=2)
    assert {len(way.gaps[0].tokens) for way in ways} == lengths


def test_samples_take_a_list_of_labels_in_turn(model):
    drawn = model.sample(5, label=["A", "B", None], seed=1, steps=16, batch_size=2)
    assert [one.label for one in drawn] == ["A", "B", None, "A", "B"]
    alone = {label: model.sample(5, label=label, seed=1, steps=16) for label in ("A", "B", None)}
    assert drawn == [alone[one.label][one.index] for one in drawn]


def test_samples_before_a_scorer_have_the_labels_of_the_real_text_beside_them(
    model, letters_file, monkeypatch
):
    text = text_from(model, str(letters_file), label_column="kind")
    real = real_texts(model, text.blocks, count=12, length=None)
    assert {text.label for text in real} == {"A", "B", None}
    assert all(text.label in {None, text.content[0].upper()} for text in real)
    monkeypatch.setattr(generative, "figures", lambda scorer, texts: texts)
    made = generative.figures_of_samples(
        model, None, SamplerSettings(steps=16), real, count=12, length=None, seed=1
    )
    asked = model.sample(12, label=[text.label for text in real], seed=1, steps=16)
    assert [text.content for text in made] == [one.text for one in asked]
    unlabelled = text_from(model, str(letters_file))
    assert {text.label for text in real_texts(model, unlabelled.blocks, count=12, length=None)} == {None}


def test_samples_of_a_run_say_of_which_label_they_are(tmp_path, letters_file):
    settings = {"data__lines": True, "data__label_column": "kind", "data__length": None}
    train_tiny(tmp_path / "run", letters_file, **settings, train__steps=2, samples__every=2)
    (written,) = (tmp_path / "run" / "samples").iterdir()
    assert [part[:3] for part in written.read_text().split("\n---\n")] == ["A: ", "B: "]


def test_a_label_makes_a_sample_depend_on_its_seed_and_number_alone(model):
    alone = model.sample(3, label="B", seed=4, guidance=2, steps=8)
    together = model.sample(5, label="B", seed=4, guidance=2, steps=8, batch_size=2)
    assert [one.text for one in alone] == [one.text for one in together[:3]]


def test_guidance_of_one_is_the_plain_conditional_and_asks_once(model):
    plain, one = (model.sample(4, label="A", seed=2, steps=8, **g) for g in ({}, {"guidance": 1}))
    assert plain == one
    two = model.sample(4, label="A", seed=2, steps=8, guidance=2)
    assert [s.nfe for s in two] == [2 * s.nfe for s in plain]


def test_with_a_label_and_a_prompt_it_is_the_label_that_is_guided_by(model):
    """At strength 0 the label is as if it were not there, and the prompt still is."""
    unguided = model.sample(6, prompt="b", length=4, seed=3, steps=8)
    without = model.sample(6, prompt="b", length=4, seed=3, steps=8, label="A", guidance=0)
    assert [one.text for one in without] == [one.text for one in unguided]


class TwoLaws:
    """Believes one law under the label and another under <bos>; both must be given."""

    def __init__(self, label, bos, laws):
        self.laws = {label: laws[0], bos: laws[1]}

    def __call__(self, xt, t, rows, valid=None):
        assert (t[:, 0] == 0).all()
        (first,) = xt[:, 0].unique().tolist()
        return self.laws[first].log().expand(int(rows.sum()), -1)


@pytest.mark.parametrize("name", ["absorbing", "uniform", "hybrid"])
@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_guidance_by_a_label_draws_from_the_product_of_powers_of_the_two_laws(name, strength):
    size, label, bos = 20_000, 4, 3
    p, q = (torch.tensor([*law, 1e-30, 1e-30], dtype=torch.float64) for law in ((3, 2, 5), (6, 3, 1)))
    canvas = torch.tensor([[label, 0]]).expand(size, -1)
    places = torch.tensor([[True, False]]).expand(size, -1)
    world = TwoLaws(label, bos, (p / p.sum(), q / q.sum()))
    process = make(name)
    denoiser, mix = guided(world, world, process, strength, without_label(places, bos))
    times = time_grid(1)[:, None, None].expand(-1, size, -1)
    *_, last = generate(denoiser, process, Ancestral(), canvas, places, times, OneStream(size, 2), mix=mix)
    assert (last.x[:, 0] == label).all()
    law = (p**strength * q ** (1 - strength))[:3]
    seen = torch.bincount(last.x[:, 1], minlength=3)
    assert chisquare(seen, size * law / law.sum()).pvalue > 1e-3


# -- what cannot be ---------------------------------------------------------------------------------------


def test_labels_that_a_model_does_not_know_are_refused(model, absorbing_run, records_run):
    with pytest.raises(DdcliError, match=r"unknown label 'C' \(known: A, B\)"):
        model.sample(1, label="C")
    with pytest.raises(DdcliError, match=r"unknown label 'a' \(known: A, B\)"):
        model.infill("[MASK]", label="a")
    with pytest.raises(DdcliError, match="give --prompt or --label"):
        model.sample(1, guidance=2)
    for run in (absorbing_run, records_run):
        with pytest.raises(DdcliError, match="trained without labels"):
            load_model(run).sample(1, label="A")
        with pytest.raises(DdcliError, match="trained without labels"):
            load_model(run).infill("[MASK]", label="A")


def test_a_run_of_a_version_without_labels_is_read_and_a_strange_one_refused(tmp_path, letters_run):
    run = copy_of(letters_run, tmp_path)
    edit_json(run / "config.json", diffusion__labels=...)
    assert not load_model(run).labels
    edit_json(run / "config.json", diffusion__labels={"Z": {"3": 1}})
    with pytest.raises(DdcliError, match="no token for the label 'Z'"):
        load_model(run)


# -- the command line -------------------------------------------------------------------------------------


def test_the_commands_take_labels(letters_run, letters_file, tmp_path, capsys):
    assert main(["sample", str(letters_run), "--label", "B", "--guidance", "2", "--seed", "1", "-q"]) == 0
    assert set(capsys.readouterr().out.strip()) == {"b"}
    (tmp_path / "gaps.txt").write_text("[MASK:4]")
    assert (
        main(["infill", str(letters_run), str(tmp_path / "gaps.txt"), "--label", "A", "-q", "--seed", "1"])
        == 0
    )
    assert capsys.readouterr().out == "aaaa"
    assert main(["sample", str(letters_run), "--label", "B", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "B"
    assert main(["sample", str(letters_run), "--json", "-q"]) == 0
    assert "label" not in json.loads(capsys.readouterr().out)
    assert main(["sample", str(letters_run), "--label", "C"]) == 2
    assert capsys.readouterr().err == "ddcli: unknown label 'C' (known: A, B)\n"
    asked = ["train", "--data", str(letters_file), "--lines", "--label-column", "kind", "--dry-run", "-q"]
    with untried():
        assert main(asked) == 0
    assert "2 labels" in capsys.readouterr().out
    assert "- 2 labels (`ddcli sample . --label NAME`): `A`, `B`" in (letters_run / "README.md").read_text()


def test_what_a_gap_far_into_a_record_is_guided_by_does_not_depend_on_its_neighbours(model):
    """Its window does not show the label, and beside it is one that does."""
    how = {"steps": 3, "guidance": 3.0, "temperature": 3.0, "label": "A"}
    documents = [parse(text.encode()) for text in ("a[MASK:4]b", "aab" * model.length + "[MASK:6]ab")]
    settings = SamplerSettings(steps=3, guidance=3.0, temperature=3.0)
    for seed in range(20):
        works = [prepare(model, document, 1, seed, settings, label="A") for document in documents]
        alone = [model.infill(document, seed=seed, **how) for document in documents]
        assert fill(model, works, settings, score=False) == alone
