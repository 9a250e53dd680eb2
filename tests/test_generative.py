"""Samples before a scorer: what a figure counts, and that real text is measured just as samples are."""

import json
import logging
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny import words
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import ddcli
from ddcli import cli
from ddcli.errors import DdcliError
from ddcli.generative import Cost, Generation, Text, cost_of, figures, load_scorer, matched, real_texts
from ddcli.heldout import blocks_of
from ddcli.model import SamplerSettings


@pytest.fixture(scope="module")
def scorer_folder(tmp_path_factory):
    """A GPT-2 of random weights, with a vocabulary of its own."""
    folder = tmp_path_factory.mktemp("scorer")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([words(40)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=len(backend.get_vocab()), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(scorer_folder):
    return load_scorer(str(scorer_folder))


def text(content):
    return Text([ord(c) for c in content], content)


# -- the figures ------------------------------------------------------------------------------------------


def test_every_token_of_the_scorer_but_the_first_is_scored(scorer):
    content = "the cat sat"
    ids = scorer.tokenizer(content)["input_ids"]
    log_p = scorer.network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = -sum(log_p[i, token].item() for i, token in enumerate(ids[1:]))
    nats, tokens, characters = scorer.nats(content)
    assert nats == pytest.approx(expected)
    assert tokens == len(ids) - 1
    assert characters == len(content) - len(scorer.tokenizer.decode(ids[:1]))


def test_a_text_longer_than_the_scorer_reads_is_cut(scorer):
    assert scorer.window == 32
    assert scorer.nats(words(40))[1] == 31
    assert "cut after 32 tokens" in scorer.protocol


def test_figures_are_means_over_all_scored_tokens(scorer):
    texts = [text("the cat sat on a mat"), text("my dog")]
    found = figures(scorer, texts)
    scored = [scorer.nats(each.content) for each in texts]
    assert found.nats_per_token == pytest.approx(sum(s[0] for s in scored) / sum(s[1] for s in scored))
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))
    assert found.bits_per_char == pytest.approx(
        sum(s[0] for s in scored) / math.log(2) / sum(s[2] for s in scored)
    )


def test_entropy_distinct_and_repetition_of_a_text_that_can_be_counted_by_hand(scorer):
    found = figures(scorer, [text("abababab"), text("abcdefgh")])
    assert found.entropy == pytest.approx((math.log(2) + math.log(8)) / 2)
    assert found.distinct[0] == 8 / 16
    assert found.distinct[1] == 8 / 14  # ab ba, bc cd de ef fg gh
    assert found.distinct[2] == 8 / 12
    assert found.repetition == pytest.approx(3 / 10)  # abab baba abab baba abab


def test_texts_without_a_token_to_score_are_refused(scorer):
    with pytest.raises(DdcliError, match="nothing to score"):
        figures(scorer, [text(""), text("a")])


def test_an_empty_text_among_others_is_no_obstacle(scorer):
    assert figures(scorer, [text(""), text("the cat")]).texts == 2


# -- real text is the yardstick ---------------------------------------------------------------------------


def test_real_text_is_cut_and_spelt_as_samples_are(absorbing_run):
    model = ddcli.load(absorbing_run)
    document = words(12, seed=2)
    blocks = blocks_of(model, [document], "words")
    texts = real_texts(model, blocks, count=3, length=20)
    assert [len(each.tokens) for each in texts] == [20] * 3
    assert texts[0].content == document[:20]
    assert all(each.content in document for each in texts)
    whole = "".join(each.content for each in real_texts(model, blocks, count=999, length=None))
    assert document.startswith(whole)
    assert len(document) - len(whole) < model.length


def test_real_records_come_without_their_ends(records_run):
    model = ddcli.load(records_run)
    blocks = blocks_of(model, ["abba", "hedge"], "names")
    assert [t.content for t in real_texts(model, blocks, count=2, length=None)] == ["abba", "hedge"]


def test_identical_text_has_identical_figures_whoever_wrote_it(scorer, absorbing_run):
    model = ddcli.load(absorbing_run)
    drawn = model.sample(n=4, seed=1, steps=4)
    samples = [Text(each.tokens, each.text) for each in drawn]
    blocks = blocks_of(model, ["".join(each.text for each in drawn)], "samples")
    assert figures(scorer, real_texts(model, blocks, count=4, length=None)) == figures(scorer, samples)


# -- matched entropy --------------------------------------------------------------------------------------


def at(temperature, entropy, nats, scorer):
    plain = figures(scorer, [text("the cat")])
    found = type(plain)(**{**plain.__dict__, "entropy": entropy, "nats_per_token": nats})
    return Generation(SamplerSettings(temperature=temperature), found, Cost(1, 1))


def test_perplexity_is_read_off_at_the_entropy_of_real_text(scorer):
    frontier = [at(1.0, 3.0, 5.0, scorer), at(0.8, 2.0, 3.0, scorer)]
    found = matched(frontier, 2.5)
    assert found.temperature == pytest.approx(0.9)
    assert found.perplexity == pytest.approx(math.exp(4.0))
    assert matched(frontier, 3.5) is None
    assert matched(frontier[:1], 3.0) is None


# -- scorers, good and bad --------------------------------------------------------------------------------


def test_a_folder_that_is_no_scorer_is_refused_in_one_line(tmp_path, absorbing_run):
    (tmp_path / "file").write_text("")
    for source in (tmp_path / "missing", tmp_path / "file", tmp_path, absorbing_run):
        with pytest.raises(DdcliError, match=r"is no (folder|causal language model)") as refused:
            load_scorer(str(source))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("by_name", [False, True])
def test_adapters_are_no_scorer(by_name, scorer_folder, tmp_path, monkeypatch):
    """transformers would go on to whatever model they name. by_name: of the hub, as its cache has them."""
    kept = tmp_path / "models--some--adapters"
    folder = shutil.copytree(scorer_folder, kept / "snapshots" / "1")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("1")
    (folder / "adapter_config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("ddcli.generative.unreachable", lambda name: OSError("no network"))
    with pytest.raises(DdcliError, match="holds adapters for another model"):
        load_scorer("some/adapters" if by_name else str(folder))


def test_a_name_that_the_hub_does_not_give_is_asked_for_once_and_quietly(monkeypatch):
    asked, hub = [], logging.getLogger("huggingface_hub")

    def nowhere(self, name, timeout):
        asked.append((name, hub.isEnabledFor(logging.WARNING)))
        raise OSError("nobody answers\nat all")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", nowhere)
    level = hub.level
    with pytest.raises(DdcliError) as refused:
        load_scorer("nosuchfolder/x")
    assert "as a Hugging Face name it could not be loaded: nobody answers; give" in str(refused.value)
    assert str(refused.value).startswith("there is no folder nosuchfolder/x here; ")
    assert asked == [("nosuchfolder/x", False)]
    assert hub.level == level


def test_a_gguf_file_is_named_in_two_ways_and_has_to_be_there(tmp_path):
    asked = ((f"{tmp_path}::x.gguf", None), (str(tmp_path), "x.gguf"))
    for source, gguf in asked:
        with pytest.raises(DdcliError, match=r"holds no x\.gguf$"):
            load_scorer(source, gguf=gguf)
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(DdcliError, match=r"holds no x\.gguf; it holds other\.gguf"):
        load_scorer(*asked[0][:1])
    with pytest.raises(
        DdcliError, match=r"holds no model but other\.gguf; give --generative-gguf other\.gguf"
    ):
        load_scorer(str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"")
    for source, gguf in asked:
        with pytest.raises(DdcliError, match="is no causal language model"):
            load_scorer(source, gguf=gguf)


def test_code_that_comes_with_a_scorer_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DdcliError, match="is no causal language model"):
        load_scorer(str(tmp_path))
    assert not marker.exists()


# -- the command ------------------------------------------------------------------------------------------


def test_no_perplexity_stands_alone(absorbing_run, scorer_folder, capfd):
    arguments = ["eval", absorbing_run, "--limit", 2, "--generative", scorer_folder, "--samples", 3]
    arguments += ["--steps", 4, "--temperatures", "0.5,1.0", "--quiet"]
    assert cli.main([str(a) for a in arguments]) == 0
    out = capfd.readouterr().out
    for told in ("retokenised by", "first token unscored", "entropy", "distinct", "repeated", "real text"):
        assert told in out
    assert cli.main([str(a) for a in [*arguments, "--json"]]) == 0
    found = json.loads(capfd.readouterr().out)["generative"]
    assert [point["temperature"] for point in found["samples"]] == [0.5, 1.0]
    assert found["real"].keys() <= found["samples"][0].keys()
    assert found["samples"][0]["nfe"] <= 4


def test_by_default_it_is_a_frontier_over_temperature(absorbing_run, scorer_folder):
    found = ddcli.evaluate(absorbing_run, limit=2, draws=1, generative=str(scorer_folder), samples=1, steps=2)
    at = [0.7, 0.8, 0.9, 1.0, 1.1]
    assert [each.settings.temperature for each in found.generative.samples] == at
    assert found.record()["settings"]["temperatures"] == at


def test_seconds_of_a_sample_are_those_of_one_drawn_alone_after_one_that_does_not_count(monkeypatch):
    drawn, times = [], iter([0.0, 1.0])

    def sampled(model, n, batch_size=16, **options):
        drawn.append((n, batch_size))
        return [SimpleNamespace(nfe=i) for i in range(n)]

    monkeypatch.setattr("ddcli.generative.samples", sampled)
    monkeypatch.setattr("ddcli.generative.time.perf_counter", lambda: next(times))
    assert cost_of(None, SamplerSettings(), length=3, seed=1) == Cost(1.5, 0.25)
    assert drawn == [(1, 16), (4, 1)]


def test_a_scorer_judges_every_point_of_a_sweep(absorbing_run, scorer_folder, tmp_path, capfd):
    arguments = ["eval", absorbing_run, "--limit", 2, "--draws", 1, "--generative", scorer_folder]
    arguments += ["--samples", 2, "--steps", 2, "--sweep", "steps=2,4 sampler=remask", "--quiet"]
    arguments += ["-o", tmp_path / "sweep.png"]
    assert cli.main([str(a) for a in arguments]) == 0
    out = capfd.readouterr().out
    assert "not known" in out
    assert "their entropy" in out
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([str(a) for a in [*arguments, "--json"]]) == 0
    points = json.loads(capfd.readouterr().out)["frontier"]
    assert [point["figure"] for point in points] == [None, None]
    assert all(point["generative"]["entropy"] > 0 for point in points)
