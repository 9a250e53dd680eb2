"""Masked language models that others trained: each is a denoiser, and every command works on it."""

import json
import os
import re
import shutil
from pathlib import Path

import borrowed
import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny import edit_json, files, logits_at

import ddcli
from ddcli.backbones.pretrained import PretrainedMaskedLM
from ddcli.cli import main
from ddcli.denoiser import Batched, OneByOne
from ddcli.errors import DdcliError
from ddcli.infilling import cut_matches, encode
from ddcli.randomness import LOG_ZERO
from ddcli.spelling import ForeignTokenizer

KINDS = list(borrowed.FAMILIES)
STYLES = {"bert": "wordpiece", "bert-cased": "wordpiece", "roberta": "byte pairs", "albert": "unigram"}
LETTER = "Dear  ZOË,\r\n\tthe Quick [MASK] jumps\tover [MASK:2]; isn't ([MASK:2-3]) it?\nÀ bientôt [MASK]\n"


@pytest.fixture(params=KINDS)
def folder(request, folders):
    return folders(request.param)


@pytest.fixture
def copied(folders, tmp_path):
    """A BERT of one's own, to damage."""
    return Path(shutil.copytree(folders("bert"), tmp_path / "bert"))


def noised(model, seed=0, length=20):
    """Text ids (1, L), a third of them masked, with the masked rows."""
    rng = torch.Generator().manual_seed(seed)
    text = model.process.vocabulary.text_ids
    xt = text[torch.randint(len(text), (1, length), generator=rng)]
    rows = torch.rand(1, length, generator=rng) < 1 / 3
    return xt.masked_fill(rows, model.tokenizer.mask_id), rows


# -- the network ------------------------------------------------------------------------------------------


def test_rows_have_the_logits_of_the_whole_model(folder):
    model, whole = ddcli.load(folder), hf.AutoModelForMaskedLM.from_pretrained(folder).eval()
    xt, rows = noised(model)
    opening, closing = model.tokenizer.ends
    ids = torch.tensor([[*opening, *xt[0].tolist(), *closing]])
    with torch.no_grad():
        wanted = whole(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(opening) :]
        found = logits_at(model.plain, xt, rows.double(), rows)
    entries = whole.get_input_embeddings().num_embeddings
    assert model.plain.network.in_halves == (folder.name != "longformer")  # which pads in between
    assert found.shape == (int(rows.sum()), model.tokenizer.vocab_size)
    assert model.tokenizer.vocab_size < entries
    assert len(opening) == len(closing) == 1
    torch.testing.assert_close(
        found, wanted[: xt.shape[1]][rows[0]][:, : found.shape[1]], atol=1e-5, rtol=1e-5
    )


def test_padding_and_neighbours_do_not_change_what_is_believed(folder):
    model = ddcli.load(folder)
    (short, few), (long, many) = noised(model, 1, 9), noised(model, 2, 20)
    pad = 20 - 9
    both = torch.cat([torch.nn.functional.pad(short, (0, pad), value=model.tokenizer.pad_id), long])
    rows = torch.cat([torch.nn.functional.pad(few, (0, pad)), many])
    valid = torch.arange(20) < torch.tensor([[9], [20]])
    with torch.no_grad():
        together = model.plain(both, rows.double(), rows, valid)
        alone = [model.plain(x, r.double(), r) for x, r in ((short, few), (long, many))]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_a_model_that_reads_padding_is_asked_about_one_sequence_at_a_time(folders, monkeypatch):
    assert isinstance(ddcli.load(folders("bert"), precision="bf16").denoiser, Batched)
    monkeypatch.setattr(PretrainedMaskedLM, "attention", lambda self, seen, **_: torch.ones_like(seen).long())
    assert isinstance(ddcli.load(folders("bert"), precision="bf16").denoiser, OneByOne)


def test_a_head_that_mixes_positions_is_asked_about_all_of_them(folders):
    network, tokenizer = borrowed.FAMILIES["bert"]()
    mixing = network.cls.forward
    network.cls.forward = lambda hidden: mixing(hidden + hidden.mean(1, keepdim=True))
    own = ForeignTokenizer(tokenizer)
    probe = list(range(6, 14))
    found = PretrainedMaskedLM(network, *own.ends, own.pad_id, probe, own.vocab_size)
    assert not found.in_halves
    ids = torch.tensor([probe])
    whole = network(input_ids=torch.tensor([[2, *probe, 3]])).logits
    rows = found.head(found.trunk(ids)[0, ::2])
    torch.testing.assert_close(rows, whole[0, 1:-1:2, : own.vocab_size])


@pytest.mark.parametrize(("kind", "length"), [("bert", 64), ("roberta", 62), ("deberta-v2", 64)])
def test_a_model_reads_what_its_table_of_positions_holds(kind, length, folders):
    model = ddcli.load(folders(kind))
    assert model.length == length
    assert len(model.sample(1, steps=1, seed=1)[0].tokens) == length


def test_a_tokenizer_that_reads_less_has_its_way(copied):
    edit_json(copied / "tokenizer_config.json", model_max_length=40)
    assert ddcli.load(copied).length == 38
    edit_json(copied / "tokenizer_config.json", model_max_length=10**30)
    assert ddcli.load(copied).length == 64


def test_padding_that_a_tokenizer_asks_for_is_no_end_of_text(copied):
    tokenizer = hf.AutoTokenizer.from_pretrained(copied)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.save(str(copied / "tokenizer.json"))
    found = ddcli.load(copied).tokenizer
    assert found.ends == ([2], [3])
    assert len(found.encode("to be, or not to be")) > 4


# -- what is drawn ----------------------------------------------------------------------------------------


def test_special_tokens_and_padding_of_the_vocabulary_are_never_drawn(folder):
    model = ddcli.load(folder)
    special = list(model.tokenizer.special_ids)
    assert {model.tokenizer.mask_id, model.tokenizer.pad_id, model.tokenizer.unk_id} <= set(special)
    xt, rows = noised(model)
    with torch.no_grad():
        log_p0 = model.plain(xt, rows.double(), rows)
    assert (log_p0[:, special] <= LOG_ZERO / 2).all()
    drawn = {
        token for sample in model.samples(3, steps=2, seed=1, temperature=3.0) for token in sample.tokens
    }
    assert not drawn & set(special)
    assert len(drawn) > 20


def test_words_that_nobody_uses_are_special(folders):
    tokenizer = ddcli.load(folders("bert")).tokenizer
    assert tokenizer.hf.get_vocab()["[unused0]"] in tokenizer.special_ids


def test_a_sample_does_not_depend_on_its_neighbours(folder):
    model = ddcli.load(folder)
    options = {"length": 12, "steps": 4, "seed": 5}
    together = [sample.text for sample in model.samples(3, batch_size=3, **options)]
    assert together == [sample.text for sample in model.samples(3, batch_size=1, **options)]
    assert len(set(together)) == 3


# -- text and gaps ----------------------------------------------------------------------------------------


def outside(document: str) -> str:
    """A pattern for the document, whatever is in its gaps."""
    return "(.*?)".join(map(re.escape, re.split(r"\[MASK(?::[\d-]+)?\]", document)))


def test_text_outside_of_gaps_comes_back_byte_for_byte(folder, tmp_path, capfdbinary):
    letter = LETTER.encode() + b"\xff\xfe \xc3 end\n"
    (tmp_path / "letter.txt").write_bytes(letter)
    assert main(["infill", str(folder), str(tmp_path / "letter.txt"), "--seed", "3", "--steps", "4"]) == 0
    out = capfdbinary.readouterr().out
    pattern = outside(letter.decode("latin-1"))
    assert re.fullmatch(pattern.encode("latin-1"), out, re.S)


@pytest.mark.parametrize(("kind", "going_on"), [("bert", "##"), ("roberta", "o"), ("albert", "o")])
def test_a_word_that_begins_in_a_gap_goes_on_behind_it(kind, going_on, folders):
    tokenizer = ddcli.load(folders(kind)).tokenizer
    document = cut_matches(b"the slow fox", "sl")
    _, behind = encode(document, tokenizer, 64, seams=tokenizer.seams).runs
    assert tokenizer._names[behind[0]].startswith(going_on)
    assert tokenizer.continuation([], behind, b"the sl") == b"ow fox"


@pytest.mark.parametrize("kind", STYLES)
@pytest.mark.parametrize(
    ("text", "gap"),
    [
        ("the quick brown fox jumps over the lazy dog", "brown"),
        ("the quick brown fox jumps over the lazy dog, and sleeps", "dog"),
        ("to be, or not to be, that is the question.", "question"),
        ("the dog sleeps on", "the dog"),
        ("we went home. then we sleep", "home. then"),
    ],
)
def test_a_gap_that_holds_what_stood_there_gives_the_ids_of_the_whole_text(kind, text, gap, folders):
    """So the network reads around gaps what it would read without them; and the text comes back."""
    tokenizer = ddcli.load(folders(kind)).tokenizer
    start, stop = text.index(gap), text.index(gap) + len(gap)
    document = cut_matches(text.encode(), re.escape(gap))
    blank = " " if start and text[start - 1] == " " else ""
    around = encode(document, tokenizer, 64, seams=tokenizer.seams)
    own = tokenizer.encode(blank + gap)
    whole = np.concatenate([around.runs[0], own, around.runs[1]])
    assert whole.tolist() == tokenizer.encode(text).tolist()
    assert tokenizer.continuation([], own, text[:start].encode()).decode() == text[start:stop]
    if 0 in around.first:
        assert around.first[0][own[0]]


@pytest.mark.parametrize(
    ("before", "pieces", "spelt"),
    [
        ("the quick", ["fox"], " fox"),
        ("the quick ", ["fox"], "fox"),
        ("the quick\n", ["fox"], "fox"),
        ("", ["fox", "jump", "##s"], "fox jumps"),
        ("the jump", ["##s", "on"], "s on"),
        ("said (", ["slowly", ")", "."], "slowly)."),
        ("we", ["'", "ll", "be"], "'ll be"),
        ("be", [",", "or", "not"], ", or not"),
    ],
)
def test_words_are_parted_as_most_text_parts_them(before, pieces, spelt, folders):
    tokenizer = ddcli.load(folders("bert")).tokenizer
    style = tokenizer._style
    assert style.spell(pieces, before) == spelt.encode()


def test_a_gap_behind_a_blank_begins_a_word(folder):
    """Which blank is not written twice."""
    model = ddcli.load(folder)
    ways = model.infill("the dog [MASK:2] on", 24, seed=1, steps=2, score=False)
    assert len({way.text for way in ways}) > 5
    _, begins = model.tokenizer.before_gap("the dog ")
    assert all(begins[way.gaps[0].tokens[0]] for way in ways)
    assert not begins.all()
    glued = [model.tokenizer.continuation([], way.gaps[0].tokens, b"dog") for way in ways]
    assert all(
        spelt == b" " + way.gaps[0].content
        for spelt, way in zip(glued, ways, strict=True)
        if spelt[:1] == b" "
    )


def test_a_prompt_is_kept_and_gone_on_with(folder, capfd):
    prompt = "The  QUICK Zoë "
    assert main(["sample", str(folder), "--prompt", prompt, "--seed", "2", "--steps", "3", "-q"]) == 0
    out = capfd.readouterr().out
    assert out.startswith(prompt)
    assert len(out) > len(prompt) + 5


def test_pieces_are_shown_as_they_are_spelt(folders):
    tokenizer = ddcli.load(folders("bert")).tokenizer
    ids = tokenizer.encode("jumps over")
    assert "".join(tokenizer.pieces([2, *ids])) == "[CLS] jumps over"


# -- what it is good for ----------------------------------------------------------------------------------

SAYS = {"dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "pig": "oink", "lamb": "baa"}


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    """A BERT that has learnt what animals say, by the loss that transformers gives it."""
    torch.manual_seed(0)
    lines = [f"the {animal} says {sound}, says the {animal}." for animal, sound in SAYS.items()]
    before, borrowed.TEXT[:] = borrowed.TEXT[:], lines * 9
    tokenizer = borrowed.wordpiece(lower=True)
    borrowed.TEXT[:] = before
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    network = borrowed.network("bert", tokenizer, **calm)
    network.apply(network._init_weights)
    network.train()
    ids = tokenizer(lines * 2, return_tensors="pt", padding=True)
    text = ids["attention_mask"].bool() & (ids["input_ids"] != 2) & (ids["input_ids"] != 3)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(200):
        masked = text & (torch.rand(text.shape) < torch.rand(len(text), 1))
        seen = ids["input_ids"].masked_fill(masked, tokenizer.mask_token_id)
        labels = ids["input_ids"].masked_fill(~masked, -100)
        loss = network(input_ids=seen, attention_mask=ids["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("farm") / "bert"
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_gaps_are_filled_with_what_the_model_has_learnt(farm):
    model = ddcli.load(farm)
    for animal, sound in SAYS.items():
        tokens = len(model.tokenizer.encode(sound))
        asked = f"The {animal.upper()} says [MASK:{tokens}], says the {animal}."
        (found,) = model.infill(asked, temperature=0, sampler="confidence")
        assert found.text == f"The {animal.upper()} says {sound}, says the {animal}."


def test_every_command_works(farm, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("The dog says woof, says the dog.\n")
    (tmp_path / "letter.txt").write_text("The cow says [MASK:1-3], says the cow.\n")

    def run(*arguments):
        assert main([*map(str, arguments)]) == 0, capfd.readouterr().err
        return capfd.readouterr().out

    assert re.fullmatch(r"The cow says .*, says the cow\.\n", run("infill", farm, "letter.txt", "--seed", 1))
    found = [json.loads(line) for line in run("infill", farm, "letter.txt", "-n", 3, "--json").splitlines()]
    assert all(way["score"] < 0 for way in found)
    assert run("sample", farm, "-n", 2, "--length", 8, "--seed", 1, "--sampler", "confidence", "--steps", 4)
    assert run("sample", farm, "--length", 9, "--prompt", "The dog", "--guidance", 2, "--steps", 4)
    told = json.loads(run("eval", farm, "--data", "text.txt", "--json", "--order", "confidence"))
    assert 0 < told["bound"]["nats_per_token"] < 1.5
    assert told["ordered"]["figure"] == "exact"
    assert told["data"]["tokens_tell_all_of_the_text"] is False
    assert told["model"]["architecture"] == "BertForMaskedLM"
    assert "model.safetensors" in told["model"]["files"]
    table = run("eval", farm, "--data", "text.txt", "--sweep", "steps=2,4")
    assert "forgets some of the text" in table
    assert "above the best" in table
    assert "woof" in run("noise-viz", "--text", "The dog says woof", "-m", farm)
    run("noise-viz", "text.txt", "-m", farm, "-o", "noise.html")
    assert "woof" in (tmp_path / "noise.html").read_text()


def test_several_texts_are_parted_by_what_is_given(farm, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "the dog says woof"}\n{"text": "the cat says meow"}\n')
    found = ddcli.evaluate(str(farm), str(tmp_path / "rows.jsonl"))
    tokens, given = found.text.blocks.tokens, found.text.blocks.given
    assert tokens[given].tolist() == [3, 3]


# -- what cannot work says so -----------------------------------------------------------------------------


def refusal(name, **options):
    with pytest.raises(DdcliError) as refused:
        ddcli.load(name, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def describe(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "a GPT2LMHeadModel, a causal decoder"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "a causal decoder"),
        ({"model_type": "bert", "is_decoder": True}, "a causal decoder"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "a causal decoder"),
        ({"model_type": "xlm", "architectures": ["XLMWithLMHeadModel"]}, "no tokenizer files"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "an encoder-decoder"),
        ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, "an encoder-decoder"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "no masked language model of text"),
        ({"model_type": "novel", "auto_map": {"AutoModel": "a.B"}}, "Python code of its own"),
        ({"model_type": "novel"}, "does not know"),
        ({"architectures": ["BertModel"]}, "says no model_type"),
        ({"model_type": "bert", "vocab_size": "many"}, "config.json cannot be used"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_what_it_is(config, said, tmp_path):
    folder = describe(tmp_path / "model", **config)
    told = refusal(folder)
    assert said in told
    assert str(folder) in told


def test_a_model_without_its_head_is_refused(copied):
    hf.AutoModel.from_pretrained(copied).save_pretrained(copied)
    assert re.search(r"no whole BertForMaskedLM: \d+ weights missing .* cls\.predictions", refusal(copied))


def test_pickled_weights_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "pytorch_model.bin, a pickle" in refusal(copied)
    (copied / "pytorch_model.bin").unlink()
    assert "model.safetensors is missing" in refusal(copied)


def test_a_pickle_is_read_where_that_is_asked_for(copied):
    whole = ddcli.load(copied)
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert "give --allow-pickle" in refusal(copied)
    found = ddcli.load(copied, allow_pickle=True)
    xt, rows = noised(whole)
    wanted, own = (logits_at(model.plain, xt, rows.double(), rows) for model in (whole, found))
    assert torch.equal(own, wanted)
    assert found.origin.files[1].name == "pytorch_model.bin"
    torch.save({"a": Path("trap")}, copied / "pytorch_model.bin")
    assert "cannot be loaded: the pickle holds more than numbers" in refusal(copied, allow_pickle=True)
    (copied / "pytorch_model.bin").write_bytes(b"nonsense")
    assert "cannot be loaded" in refusal(copied, allow_pickle=True)


@pytest.mark.parametrize(
    "named", ["../elsewhere.safetensors", "a.bin", "/tmp/a.safetensors", "a/b.safetensors"]
)
def test_an_index_of_weights_names_safetensors_of_its_own_folder_alone(copied, named):
    (copied / "model.safetensors").rename(copied / "x.safetensors")
    index = copied / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "x.safetensors", "b": named}}))
    assert f"names {named!r}" in refusal(copied)
    weights = load_file(copied / "x.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, "x.safetensors")}))
    assert ddcli.load(copied).sample(1, length=4, seed=1)


@pytest.mark.parametrize("name", ["model.safetensors", "x.safetensors"])
def test_a_pipe_in_the_place_of_weights_is_not_waited_for(copied, name):
    (copied / "model.safetensors").unlink()
    os.mkfifo(copied / name)
    index = {"metadata": {}, "weight_map": {"a": "x.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "a pipe or a device" in refusal(copied)


def test_weights_that_are_no_numbers_are_refused(copied):
    weights = load_file(copied / "model.safetensors")
    name = "bert.embeddings.LayerNorm.bias"
    weights[name][0] = torch.nan
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert f"the weights of {name} are not all numbers" in refusal(copied)


@pytest.mark.parametrize(
    "setting", [{"attn_implementation": "a/kernel"}, {"transformers_weights": "other.safetensors"}]
)
def test_settings_that_reach_elsewhere_are_refused(copied, setting):
    edit_json(copied / "config.json", **setting)
    assert f"config.json sets {min(setting)}" in refusal(copied)


def test_broken_files_are_refused(copied):
    whole = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(whole[:1000])
    assert "cannot be loaded" in refusal(copied)
    (copied / "model.safetensors").write_bytes(whole)
    (copied / "tokenizer.json").write_text("{broken")
    assert f"the tokenizer of {copied} cannot be loaded" in refusal(copied)
    (copied / "config.json").write_text("{broken")
    assert "config.json cannot be read" in refusal(copied)


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (
            {"hidden_size": 16},
            "LayerNorm.bias in model.safetensors is of shape [32], but config.json asks for [16]",
        ),
        (
            {"num_hidden_layers": 1},
            "holds more layers than config.json says, 16 weights such as bert.encoder.layer.1.",
        ),
        (
            {"num_hidden_layers": 3},
            "16 weights missing in model.safetensors, the first is bert.encoder.layer.2.",
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1,000,000"),
        ({"num_hidden_layers": "two"}, "expected int"),
        ({"model_type": "electra"}, "no whole ElectraForMaskedLM"),
        ({"hidden_act": "gulp"}, "cannot be loaded: there is no 'gulp'"),
    ],
)
def test_a_config_that_lies_is_refused_by_what_is_wrong(lie, said, copied):
    edit_json(copied / "config.json", **lie)
    assert said in refusal(copied)


def test_a_pointer_in_place_of_weights_is_named(copied):
    (copied / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\n")
    assert "model.safetensors is a pointer of Git LFS; get the file: git lfs pull" in refusal(copied)


def test_a_head_for_another_use_may_lie_beside_the_weights(copied):
    weights = load_file(copied / "model.safetensors") | {"cls.seq_relationship.bias": torch.zeros(2)}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert ddcli.load(copied).sample(1, length=4, seed=1)


def test_a_tokenizer_that_cannot_serve_is_refused(copied):
    kept = files(copied)

    def told(**roles):
        for name, content in kept.items():
            (copied / name).write_bytes(content)
        tokenizer = hf.AutoTokenizer.from_pretrained(copied)
        for role, token in roles.items():
            setattr(tokenizer, role, token)
        tokenizer.save_pretrained(copied)
        return refusal(copied)

    assert "has no mask token" in told(mask_token=None)
    for role in ("pad_token", "sep_token", "eos_token", "unk_token"):
        assert f"has [MASK] for its {role} as well as for masks" in told(**{role: "[MASK]"})
    ends = dict.fromkeys(("cls_token", "sep_token", "eos_token", "bos_token", "unk_token", "pad_token"))
    assert "has no special token but its mask" in told(**ends)
    for name, content in kept.items():
        (copied / name).write_bytes(content)
    tokenizer = hf.AutoTokenizer.from_pretrained(copied)
    tokenizer.add_tokens([f"word{i}" for i in range(20)])
    tokenizer.save_pretrained(copied)
    assert "but the network was made for" in refusal(copied)
    (copied / "tokenizer.json").unlink()
    assert "is tokenizer.json missing?" in refusal(copied)
    (copied / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    (copied / "vocab.json").write_text('{"a": 0, "<unk>": 1}')
    (copied / "merges.txt").write_text("#version: 0.2\n")
    assert "has only a slow tokenizer" in refusal(copied)


def test_a_vocabulary_of_sentencepiece_alone_asks_for_its_package(copied, monkeypatch):
    (copied / "tokenizer.json").unlink()
    (copied / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    (copied / "spm.model").write_bytes(b"no model")
    monkeypatch.setattr("ddcli.tokenizer.find_spec", lambda name: None)
    assert "it is spm.model alone, which takes a package more: pip install sentencepiece" in refusal(copied)


def test_what_only_a_run_folder_can_do_is_refused_by_name(farm, tmp_path):
    model = ddcli.load(farm)
    (tmp_path / "text.txt").write_text("the dog says woof")
    cases = {
        "give --data": lambda: ddcli.evaluate(model),
        "budgets are kept in run folders": lambda: model.sample(1, budget="fast"),
        "trained without labels": lambda: model.sample(1, label="dog"),
        "have no cache": lambda: model.sample(1, block=4, cache="prefix"),
        "--save keeps budgets in a run folder": lambda: ddcli.evaluate(
            model, str(tmp_path / "text.txt"), sweep="steps=2", save=True
        ),
    }
    before = files(farm)
    for said, ask in cases.items():
        with pytest.raises(DdcliError, match=said):
            ask()
    assert files(farm) == before
