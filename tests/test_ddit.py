"""Checkpoints of research codebases: opened, they are what their own papers say they are."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import borrowed
import ddit_reference as reference
import pytest
import torch
from ddit_reference import ORIGINALS
from safetensors.torch import load_file, save_file
from tiny import edit_json, logits_at
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import ddcli
from ddcli.cli import main
from ddcli.denoiser import Batched
from ddcli.errors import DdcliError
from ddcli.process import posterior
from ddcli.randomness import LOG_ZERO

KINDS = list(ORIGINALS)
PROCESSES = {"udlm": "Uniform", "duo": "Uniform", "gidd": "Hybrid"}
SCHEDULES = {"sedd-geometric": "Geometric", "gidd": "Gidd"}
END = "<|endoftext|>"


def gpt2_like():
    """Byte pairs that know no mask, padding or unknown symbol, and one token that parts texts, their last."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(borrowed.TEXT, trainer)
    backend.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END)


TOKENIZERS = {"udlm": borrowed.uncased, "gidd": borrowed.byte_pairs, "gidd-masks": borrowed.byte_pairs}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(folder, weights, model) of a kind, made when it is first asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("ddit") / kind
            weights = reference.save(kind, folder, TOKENIZERS.get(kind, gpt2_like)())
            made[kind] = folder, weights, ddcli.load(folder)
        return made[kind]

    return of


@pytest.fixture
def copied(opened, tmp_path):
    """An MDLM of one's own, to damage."""
    return Path(shutil.copytree(opened("mdlm")[0], tmp_path / "mdlm"))


def noisy(model, length=5):
    """Ids (1, L) of text, some of which noise has changed, and which, (1, L) bool."""
    rng = torch.Generator().manual_seed(1)
    text = model.process.vocabulary.text_ids
    xt = text[torch.randint(len(text), (1, length), generator=rng)]
    rows = torch.arange(length)[None] % 3 == 1
    masks = model.process.mix_at(torch.tensor(model.tokenizer.mask_id), torch.tensor(0.5))[1] * rows > 0.0
    return xt.masked_fill(masks, model.tokenizer.mask_id), rows


# -- the network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [0.3, 1.0])
def test_logits_are_those_of_the_published_network(kind, t, opened):
    _, weights, model = opened(kind)
    xt, rows = noisy(model)
    clock = torch.where(
        rows, t, 0.0
    ).double()  # what is given stands at 0; the network knows the running time
    ends = model.plain.network.ends
    ids = [*ends.opening, *xt[0].tolist(), *ends.closing]
    wanted = reference.logits_of(
        weights, reference.HEADS, ids, ORIGINALS[kind].told(t), ORIGINALS[kind].block
    )
    found = logits_at(model.plain, xt, clock, rows)
    assert len(ends) == 2 * ORIGINALS[kind].has_ends
    torch.testing.assert_close(
        found, wanted[len(ends.opening) :][: xt.shape[1]][rows[0]], atol=1e-4, rtol=1e-4
    )
    assert wanted.std() > 0.1


@pytest.mark.parametrize("kind", ["mdlm", "udlm", "sedd", "bd3lm"])
def test_padding_and_neighbours_do_not_change_what_is_believed(kind, opened):
    _, _, model = opened(kind)
    short, few = noisy(model, 5)
    long, many = noisy(model, 11)
    both = torch.cat([torch.nn.functional.pad(short, (0, 6), value=model.tokenizer.pad_id), long])
    rows = torch.cat([torch.nn.functional.pad(few, (0, 6)), many])
    valid = torch.arange(11) < torch.tensor([[5], [11]])
    clock = rows * torch.tensor([[0.4], [0.8]], dtype=torch.float64)
    together = model.plain(both, clock, rows, valid)
    alone = [model.plain(short, few * 0.4, few), model.plain(long, many * 0.8, many)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_bf16_is_close_and_asks_for_sequences_together(opened):
    folder, _, model = opened("mdlm-told")
    rough = ddcli.load(folder, precision="bf16")
    assert isinstance(rough.denoiser, Batched)
    xt, rows = noisy(model)
    clock = rows * 0.6
    wanted, found = (logits_at(m.plain, xt, clock, rows) for m in (model, rough))
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.1 * wanted.abs().max()


# -- what the logits mean ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_process_and_the_schedule_are_those_of_its_training(kind, opened):
    model = opened(kind)[2]
    assert type(model.process).__name__ == PROCESSES.get(kind, "Absorbing")
    assert type(model.process.schedule).__name__ == SCHEDULES.get(kind, "Linear")
    hides = type(model.process).__name__ != "Uniform"
    assert model.process.vocabulary.special_ids == ((model.tokenizer.mask_id,) if hides else ())
    assert model.length == 32 - 2 * ORIGINALS[kind].has_ends


@pytest.mark.parametrize("kind", ["mdlm", "mdlm-told", "gidd-masks"])
def test_beliefs_are_the_logits_without_the_mask(kind, opened):
    """SUBS, and what GIDD does before its softmax."""
    model = opened(kind)[2]
    xt, rows = noisy(model)
    clock = torch.full(xt.shape, 0.6, dtype=torch.float64)
    belief = model.plain(xt, clock, rows)
    for found, logits in zip(belief, logits_at(model.plain, xt, clock, rows), strict=True):
        wanted = reference.subs(logits, model.tokenizer.mask_id)
        assert found[model.tokenizer.mask_id] <= LOG_ZERO / 2
        text = model.process.vocabulary.is_text
        torch.testing.assert_close(found[text], wanted[text], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["sedd", "sedd-geometric"])
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_scores_are_scaled_by_sigma(kind, t, opened):
    model, mask = opened(kind)[2], opened(kind)[2].tokenizer.mask_id
    xt, rows = noisy(model)
    clock = torch.full(xt.shape, t, dtype=torch.float64)
    logits = logits_at(model.plain, xt, clock, rows)
    found = model.plain.head.score(model.process, logits, xt[rows], clock[rows])
    sigma = -math.log(model.process.schedule.alpha(clock[0, 0]))
    assert sigma == pytest.approx(ORIGINALS[kind].told(t))
    for own, theirs in zip(found, logits, strict=True):
        torch.testing.assert_close(own, reference.sedd_log_score(theirs, mask, sigma), atol=1e-4, rtol=1e-4)
    belief = model.plain(xt, clock, rows)
    text = model.process.vocabulary.is_text
    torch.testing.assert_close(belief[:, text], logits[:, text].log_softmax(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["udlm", "duo"])
def test_a_step_is_their_posterior_with_the_softmax_in_the_place_of_the_text(kind, opened):
    model = opened(kind)[2]
    xt, rows = noisy(model)
    t, s = torch.full(xt.shape, 0.7, dtype=torch.float64), torch.full(xt.shape, 0.4, dtype=torch.float64)
    logits = logits_at(model.plain, xt, t, rows).double()
    found = posterior(model.process, model.plain(xt, t, rows).double(), xt[rows], s[rows], t[rows]).exp()
    for own, theirs, token in zip(found, logits, xt[rows], strict=True):
        wanted = reference.uniform_step(theirs.softmax(-1), int(token), 1 - 0.4, 1 - 0.7)
        torch.testing.assert_close(own, wanted, atol=1e-6, rtol=1e-4)
    assert found.shape[-1] == logits.shape[-1]


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_hybrid_noise_mixes_as_theirs(t, opened):
    model = opened("gidd")[2]
    mask, other = model.tokenizer.mask_id, 7
    alpha, masked = model.process.mix_at(torch.tensor(mask), torch.tensor(t, dtype=torch.float64))
    random = model.process.mix_at(torch.tensor(other), torch.tensor(t, dtype=torch.float64))[1]
    wanted = reference.gidd_mix(t, 0.2)
    assert (alpha.item(), masked.item()) == pytest.approx(wanted[:2])
    assert random.item() == pytest.approx(wanted[2] / (model.tokenizer.vocab_size - 1))


# -- every command ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mdlm", "sedd", "udlm", "duo", "gidd"])
def test_texts_are_written_filled_and_measured(kind, opened):
    model = opened(kind)[2]
    letter = "Dear  Zoë,\n the dog [MASK:2] on, it [MASK:1] so.\n"
    ways = model.infill(letter, steps=2, seed=1, score=True)
    assert all(re.fullmatch("Dear  Zoë,\n the dog .* on, it .* so\\.\n", way.text, re.S) for way in ways)
    assert all(math.isfinite(way.score) for way in ways)
    (sample,) = model.sample(1, prompt="The dog", length=12, steps=3, seed=2)
    assert sample.text.startswith("The dog")
    assert math.isfinite(model.score("the quick brown fox jumps over the lazy dog", draws=1).nats_per_token)


def masked(xt, rows, model):
    return xt.masked_fill(rows, model.tokenizer.mask_id)


def test_blocks_in_one_pass_are_those_of_a_pass_for_each(opened):
    _, weights, model = opened("bd3lm")
    clean = noisy(model, 12)[0]
    rows = torch.arange(12)[None] % 3 != 1
    xt = masked(clean, rows, model)
    wanted = reference.block_logits(weights, reference.HEADS, xt[0].tolist(), clean[0].tolist(), 4)
    found = logits_at(model.plain, xt, rows.double(), rows, clean=clean)
    torch.testing.assert_close(found, wanted[rows[0]], atol=1e-4, rtol=1e-4)


def test_blocks_are_written_behind_what_parts_texts_from_what_is_kept_of_those_before(opened, monkeypatch):
    model = opened("bd3lm")[2]
    begin = model.tokenizer.bos_id
    asked = {"prompt": "The quick", "length": 40, "steps": 16, "seed": 2}  # more than it was trained on
    frames = list(model.frames(**asked))
    assert all(frame.x[0, 0] == begin and frame.clock[0, 0] == 0 for frame in frames)
    assert frames[-1].x.shape == (1, 41)
    for frame in frames:  # later blocks wait for earlier ones
        opens = (frame.clock[0] > 0).nonzero()[:, 0]
        assert (frame.clock[0, (opens[0] // 4 + 1) * 4 :] == 1).all() if len(opens) else True
    lengths, go_on = [], model.plain.network.go_on
    monkeypatch.setattr(
        model.plain.network, "go_on", lambda ids, *rest: lengths.append(ids.shape[1]) or go_on(ids, *rest)
    )
    (kept,) = model.sample(**asked)
    assert max(lengths) <= 8  # the prompt's two blocks, and then never more than one
    plain = replace(model, plain=None)  # a model of which nothing can be kept
    assert plain.sample(**asked)[0].tokens == kept.tokens
    assert kept.text.startswith("The quick")
    with pytest.raises(DdcliError, match="a block model sees only what stands before a gap"):
        model.infill("the [MASK:2] dog")
    with pytest.raises(DdcliError, match="writes blocks of 4; leave --block out"):
        model.sample(block=8)


def test_the_bound_of_blocks_of_one_is_the_likelihood_of_each_token_by_those_before(opened, tmp_path):
    """The first of each block of text is told what stands before it, and costs nothing itself."""
    folder, weights, _ = opened("bd3lm")
    folder = Path(shutil.copytree(folder, tmp_path / "ones"))
    edit_json(folder / "config.json", block_size=1, model_length=8)
    model = ddcli.load(folder)
    text = "The quick brown fox jumps."
    ids = [*model.tokenizer.encode(text).tolist(), model.tokenizer.eos_id]
    assert len(ids) > 14
    nats, before = 0.0, model.tokenizer.bos_id
    for start in range(0, len(ids), 7):
        clean = [before, *ids[start : start + 7]]
        masks = [model.tokenizer.mask_id] * len(clean)
        said = reference.block_logits(weights, reference.HEADS, masks, clean, 1)
        for logits, token in zip(said[1:], clean[1:], strict=True):
            nats -= reference.subs(logits, model.tokenizer.mask_id)[token].item()
        before = clean[-1]
    bound = model.score(text)
    assert bound.tokens == len(ids)
    assert bound.nats_per_token == pytest.approx(nats / len(ids), rel=1e-4)
    assert bound.bits_per_char == pytest.approx(nats / math.log(2) / len(text), rel=1e-4)


def test_one_block_is_a_model_that_sees_both_sides(opened, tmp_path):
    folder, weights, _ = opened("bd3lm")
    folder = Path(shutil.copytree(folder, tmp_path / "whole"))
    edit_json(folder / "config.json", block_size=32)
    model = ddcli.load(folder)
    assert (model.block, model.length) == (0, 31)
    xt, rows = noisy(model)
    wanted = reference.logits_of(weights, reference.HEADS, [model.tokenizer.bos_id, *xt[0].tolist()], 0.0)
    found = logits_at(model.plain, xt, rows.double(), rows)
    torch.testing.assert_close(found, wanted[1:][rows[0]], atol=1e-4, rtol=1e-4)
    assert model.infill("the [MASK:2] dog", steps=2, seed=1, score=False)[0].text.endswith(" dog")


def test_no_gap_holds_a_special_token(opened, monkeypatch):
    """Which is noise like any other to such a model, and may be believed."""
    model = opened("udlm")[2]
    bias = model.plain.network.output_layer.linear.bias
    special = list(model.tokenizer.special_ids)
    assert model.process.vocabulary.is_text[special].all()
    monkeypatch.setattr(bias, "data", bias.data.index_fill(0, torch.tensor(special), 1e3))
    (way,) = model.infill("the [MASK:4] dog", steps=3, seed=1, score=False)
    assert not set(way.gaps[0].tokens) & set(special)


def test_every_command_works(opened, tmp_path, capfdbinary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = str(opened("mdlm")[0])
    (tmp_path / "letter.txt").write_bytes("Dear  Zoë,\n the dog [MASK:2] and [MASK:1-2] on.\n".encode())
    (tmp_path / "text.txt").write_text("the quick fox")

    def run(*arguments):
        assert main([*arguments]) == 0, capfdbinary.readouterr().err
        return capfdbinary.readouterr().out

    filled = run("infill", folder, "letter.txt", "--seed", "1", "--steps", "3")
    assert re.fullmatch(rb"Dear  Zo\xc3\xab,\n the dog .* and .* on\.\n", filled, re.S)
    told = json.loads(run("eval", folder, "--data", "text.txt", "--json", "--draws", "1"))
    assert told["model"]["process"] == "absorbing"
    assert told["model"]["architecture"] == "MDLM (DDiT)"
    assert b"quick" in run("noise-viz", "--text", "the quick fox", "-m", folder)


def test_a_text_ends_where_the_model_ends_it(opened, monkeypatch):
    """The token that parts texts is one of those that it writes, and no gap holds one."""
    model = opened("mdlm")[2]
    end = model.tokenizer.eos_id
    linear = model.plain.network.output_layer.linear
    bias = linear.bias.data.clone()
    bias[end] = 1e3
    monkeypatch.setattr(linear.bias, "data", bias)
    assert model.sample(1, length=6, steps=2, seed=1)[0].tokens == []
    (way,) = model.infill("the [MASK:3] dog", steps=2, seed=1, score=False)
    assert end not in way.gaps[0].tokens


@pytest.mark.parametrize("kind", KINDS)
def test_training_does_not_start_from_one(kind, opened, tmp_path, capfd):
    (tmp_path / "text.txt").write_text(" ".join(borrowed.TEXT))
    folder, _, model = opened(kind)
    asked = ["train", "--from", folder, "--data", tmp_path / "text.txt", "-o", tmp_path / "run"]
    assert main([str(part) for part in asked]) == 2
    said = capfd.readouterr().err
    name = model.origin.architecture.split()[0]
    assert f"a checkpoint of {name}, which can be sampled, but training cannot start from it" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


# -- the tokenizer ----------------------------------------------------------------------------------------


def test_a_mask_is_added_as_the_last_token(opened):
    model = opened("mdlm")[2]
    assert model.tokenizer.mask_id == model.tokenizer.vocab_size - 1 == len(gpt2_like())
    assert model.plain.network.ends.opening == [model.tokenizer.hf.get_vocab()[END]]


def test_a_tokenizer_that_says_no_roles_ends_texts_as_gpt2_does(copied):
    (copied / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    tokenizer = ddcli.load(copied).tokenizer
    assert tokenizer.eos_id == tokenizer.bos_id == tokenizer.hf.get_vocab()[END]


def test_a_model_without_its_tokenizer_asks_for_it_by_name(copied, monkeypatch):
    for path in copied.glob("tokenizer*"):
        path.unlink()
    told = refusal(copied)
    assert "comes without its tokenizer, of " in told
    assert f"beside config.json in {copied}" in told
    asked = []

    def read(name):
        asked.append(name)
        raise DdcliError(f"no tokenizer {name!r}: the hub cannot be asked")

    monkeypatch.setattr("ddcli.foreign.researched.read_pretrained", read)
    edit_json(copied / "config.json", vocab_size=50_258)
    assert "tokenizer 'openai-community/gpt2': the hub cannot be asked; or put its files" in refusal(copied)
    edit_json(copied / "config.json", vocab_size=30_522)
    refusal(copied)
    assert asked == ["openai-community/gpt2", "google-bert/bert-base-uncased"]


def test_a_tokenizer_of_another_vocabulary_is_refused(copied):
    borrowed.uncased().save_pretrained(copied)
    assert re.search(r"the tokenizer has \d+ tokens, but the network was made for \d+", refusal(copied))


# -- what is refused --------------------------------------------------------------------------------------


def refusal(folder, **options):
    with pytest.raises(DdcliError) as refused:
        ddcli.load(folder, **options)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)
    return str(refused.value)


WRONG = {
    "missing": (
        lambda w: w.pop("backbone.blocks.1.mlp.2.bias"),
        "lacks 1 of .* is backbone.blocks.1.mlp.2.bias",
    ),
    "one more": (
        lambda w: w.update({"backbone.cond_map.weight": torch.ones(2)}),
        "holds 1 weight that .*cond_map",
    ),
    "another shape": (
        lambda w: w.update({"backbone.output_layer.linear.bias": torch.ones(3)}),
        r"linear.bias in model.safetensors is of shape \[3\], but config.json asks for \[\d+\]",
    ),
    "no floats": (
        lambda w: w.update({"backbone.blocks.0.norm1.weight": torch.ones(16, dtype=torch.int32)}),
        "norm1.weight in model.safetensors is no floating-point numbers",
    ),
    "no number": (
        lambda w: w["backbone.sigma_map.mlp.0.weight"][0, :1].fill_(torch.nan),
        "the weights of backbone.sigma_map.mlp.0.weight are not all numbers",
    ),
    "other rotations": (
        lambda w: w["backbone.rotary_emb.inv_freq"].mul_(0.5),
        "inv_freq in model.safetensors is not that of such a network",
    ),
    "no prefix": (
        lambda w: [w.update({k.removeprefix("backbone."): w.pop(k)}) for k in list(w)],
        "lacks .* backbone.blocks.0",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_weights_that_do_not_fit_are_refused_by_name(what, copied):
    change, said = WRONG[what]
    weights = load_file(copied / "model.safetensors")
    change(weights)
    save_file(weights, copied / "model.safetensors")
    assert re.search(said, refusal(copied))


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("mdlm", {"hidden_dim": ...}, "hidden_dim: field required"),
        ("mdlm", {"hidden_dim": "wide"}, "hidden_dim wide"),
        ("mdlm", {"n_blocks": 10**9}, "n_blocks 1000000000"),
        ("mdlm", {"n_heads": 5}, "width 16 does not fit 5 heads"),
        ("mdlm", {"time_conditioning": ...}, "time_conditioning: field required"),
        ("mdlm", {"hidden_dim": 32}, "asks for"),
        ("udlm", {"cfg": True}, "cfg True: it was trained for classes"),
        ("duo", {"causal": True}, "causal True: it sees what stands before a token alone"),
        ("sedd", {"graph__type": "uniform"}, "graph.type uniform"),
        ("sedd", {"noise__type": "cosine"}, "noise is read that is loglinear or geometric"),
        ("sedd", {"model__scale_by_sigma": False}, "its scores are not scaled by sigma"),
        ("sedd-geometric", {"noise__sigma_min": 0.1}, "its least sigma is another"),
        ("sedd-geometric", {"noise__sigma_max": 1e9}, "sigma_max 1000000000.0"),
        ("gidd", {"p_uniform": 1.0}, "p_uniform 1.0"),
        ("bd3lm", {"block_size": 5}, "blocks of 5 do not fill 32 tokens"),
        ("bd3lm", {"block_size": ...}, "block_size: field required"),
        ("bd3lm", {"time_conditioning": True}, "its blocks are told the time"),
        ("bd3lm", {"causal": True}, "it sees what stands before a token alone"),
    ],
)
def test_a_config_that_is_not_read_is_refused_in_one_line(kind, change, said, opened, tmp_path):
    folder = Path(shutil.copytree(opened(kind)[0], tmp_path / kind))
    edit_json(folder / "config.json", **change)
    assert said in refusal(folder)


def test_no_memory_is_taken_for_sizes_that_the_file_does_not_have(copied, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("memory was taken"))
    edit_json(copied / "config.json", hidden_dim=65_536, n_heads=2, n_blocks=8)
    assert "asks for" in refusal(copied)


# -- pickles ----------------------------------------------------------------------------------------------


@pytest.fixture
def pickled(tmp_path):
    reference.save("mdlm", tmp_path / "mdlm", gpt2_like(), as_pickle=True)
    return tmp_path / "mdlm"


def test_a_pickle_is_read_where_that_is_asked_for_alone(pickled, opened, capfd):
    assert "pytorch_model.bin, a pickle" in refusal(pickled)
    found = ddcli.load(pickled, allow_pickle=True)
    xt, rows = noisy(found)
    clock = rows.double()
    wanted = logits_at(opened("mdlm")[2].plain, xt, clock, rows)
    assert torch.equal(logits_at(found.plain, xt, clock, rows), wanted)
    arguments = ["sample", str(pickled), "--length", "4", "--steps", "1", "--seed", "1", "-q"]
    assert main(arguments) == 2
    assert "--allow-pickle" in capfd.readouterr().err
    assert main([*arguments, "--allow-pickle"]) == 0


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("trapped"),)


def test_nothing_in_a_pickle_is_run(pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Trap()}, pickled / "pytorch_model.bin")
    assert "cannot be read" in refusal(pickled, allow_pickle=True)
    assert not (tmp_path / "trapped").exists()
    for content in ([torch.ones(2)], {"state_dict": {"a": torch.ones(2)}}, {1: torch.ones(2)}):
        torch.save(content, pickled / "pytorch_model.bin")
        refusal(pickled, allow_pickle=True)
    (pickled / "pytorch_model.bin").write_bytes(b"PK nonsense")
    assert "cannot be read" in refusal(pickled, allow_pickle=True)


def test_safetensors_are_read_even_if_a_pickle_is_allowed(copied):
    (copied / "pytorch_model.bin").write_bytes(b"nonsense")
    assert ddcli.load(copied, allow_pickle=True).origin.files[1].name == "model.safetensors"
