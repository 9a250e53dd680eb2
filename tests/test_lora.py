"""Adapters beside a model that others trained: what is trained, saved and merged, and what is refused."""

import dataclasses
import json
import shutil
import sys

import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from test_start import logits_of, looking_ahead, masked
from tiny import (
    assert_same_run,
    command,
    copy_of,
    edit_json,
    logits_at,
    metrics,
    start_config,
    stop_at,
    tiny_config,
    train_tiny,
)

import ddcli
from ddcli.checkpoint import checkpoints
from ddcli.denoiser import NetworkDenoiser
from ddcli.errors import DdcliError
from ddcli.lora import Lora
from ddcli.plan import Silent, make_plan
from ddcli.training import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # peft asks for it
BRIEF = {"train__steps": 6, "checkpoint__every": 3, "validation__every": 6, "train__lr": 0.03}


def lora_config(start, source, lora="r=4", **changes):
    return start_config(start, source, model__lora=lora, **{**BRIEF, **changes})


@pytest.fixture(scope="module")
def config(folders, text_file, tmp_path_factory):
    """Of a Llama of one's own, with dropout."""
    start = copy_of(folders("llama"), tmp_path_factory.mktemp("lora"))
    return lora_config(start, text_file, "r=4,dropout=0.2", samples__every=3)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("lora") / "run")


def test_adapters_alone_are_trained_and_the_run_is_a_model_of_its_own(run, config):
    """Merged, plain transformers reads it; peft reads the adapters beside the model; all say the same."""
    kept = load_file(checkpoints(run)[-1][1] / "weights.safetensors")
    assert {name.rpartition(".lora_")[2] for name in kept} == {"A.default.weight", "B.default.weight"}
    assert len(kept) == 2 * 2 * 7  # layers of seven matrices
    bounds = [line["bound_nats_per_token"] for line in metrics(run) if "bound_nats_per_token" in line]
    assert bounds[-1] < bounds[0]

    model = ddcli.load(run)
    ids = masked(model.tokenizer, "the cat sat on a mat")
    asked = torch.tensor([[1, *ids[0].tolist()]])
    found = logits_of(model, ids)
    whole = hf.AutoModelForCausalLM.from_pretrained(run).eval()
    base = looking_ahead(config.model.start)
    with torch.no_grad():
        before = base(input_ids=asked).logits[0, :-1]
        merged = whole(input_ids=asked).logits[0, :-1]
        beside = peft.PeftModel.from_pretrained(base, run / "adapter").eval()(input_ids=asked).logits[0, :-1]
    torch.testing.assert_close(found, merged, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, :330], beside[:, :330], atol=1e-4, rtol=1e-4)  # but for the mask
    assert (found - before).abs().max() > 0.01

    checkpoint = ddcli.load(checkpoints(run)[-1][1])
    assert torch.equal(logits_of(checkpoint, ids), found)
    count = sum(weight.numel() for weight in kept.values())
    assert f"adapters of {count:,} numbers" in (run / "README.md").read_text()
    assert command("sample", run, "--seed", 1, "--steps", 2).out


def test_going_on_is_exact_and_needs_the_same_model(config, run, tmp_path):
    stop_at(4, tmp_path / "run", config)
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", run)
    weights = tmp_path / "model.safetensors"
    start = copy_of(run, tmp_path / "other")  # of the same kind, but not the one
    itself = checkpoints(tmp_path / "run")[-1][1]
    beside = json.loads((run / "config.json").read_text())["diffusion"]["beside"]
    for other, said in ((start, "whose weights have changed since"), (weights, "which is needed again")):
        edit_json(tmp_path / "run" / "config.json", diffusion__beside={**beside, "model": str(other)})
        with pytest.raises(DdcliError, match=said) as refused:
            train(config, tmp_path / "run", resume=True)
        assert "\n" not in str(refused.value)
        with pytest.raises(DdcliError, match=said):
            ddcli.load(checkpoints(tmp_path / "run")[-1][1])
    for changes, said in (
        ({"model": str(itself)}, "lead back to themselves"),
        ({"lora": "r=60000"}, "of rank 60,000"),
    ):
        edit_json(tmp_path / "run" / "config.json", diffusion__beside={**beside, **changes})
        with pytest.raises(DdcliError, match=said):
            ddcli.load(itself)
    assert ddcli.load(tmp_path / "run")  # in which they are merged


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2", "qwen3", "modernbert"])
def test_every_kind_of_matrix_is_merged(kind, folders, text_file, tmp_path):
    """Turned ones, tied ones; and a start may be a checkpoint of adapters."""
    run = train(lora_config(folders(kind), text_file, samples__every=0), tmp_path / "run")
    model, checkpoint = ddcli.load(run), ddcli.load(checkpoints(run)[-1][1])
    ids = masked(model.tokenizer, "the cat sat on a mat")
    assert torch.equal(logits_of(model, ids), logits_of(checkpoint, ids))
    assert not torch.equal(logits_of(ddcli.load(checkpoints(run)[0][1]), ids), logits_of(model, ids))
    plan = make_plan(lora_config(checkpoints(run)[-1][1], text_file), None, Silent())
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    denoiser = NetworkDenoiser(plan.network, plan.process, plan.head, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(logits_at(denoiser, ids, ids.double(), everywhere), logits_of(model, ids))


@pytest.mark.slow
def test_what_is_dropped_is_dropped_again_where_layers_are_computed_again(config):
    found = []
    for again in (False, True):
        train_again = config.train.model_copy(update={"recompute": again})
        plan = make_plan(config.model_copy(update={"train": train_again}), None, Silent())
        weights = [weight for weight in plan.network.parameters() if weight.requires_grad]
        with torch.no_grad():
            torch.manual_seed(0)
            for weight in weights:
                weight.add_(0.1 * torch.randn_like(weight))
        denoiser = NetworkDenoiser(plan.network, plan.process, plan.head, torch.float32)
        noised = plan.task.noised(plan.data.train.batch(0, 2, 0), 0, plan.device)
        for seed in (1, 2):
            with plan.network.dropping(seed):
                found.append(torch.autograd.grad(plan.task.loss(denoiser, noised), weights))
    for plain, again in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(plain, again)
    assert any(not torch.allclose(one, two) for one, two in zip(found[0], found[1], strict=True))


# -- what cannot be ---------------------------------------------------------------------------------------


def test_adapters_are_described_by_their_rank_and_more():
    assert Lora.parse("r=16") == Lora(16, 32.0)
    asked = Lora.parse("r=8, alpha=4,dropout=0.05,targets=q_proj+v_proj")
    assert asked == Lora(8, 4.0, 0.05, "q_proj+v_proj")
    assert Lora.parse(str(asked)) == asked
    assert dataclasses.replace(asked, r=4) != asked


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ("16", "unknown part of --lora '16'"),
        ("rank=16", "unknown part of --lora 'rank'"),
        ("alpha=16", "the rank is missing; begin with r=16"),
        ("r=0", "r is a whole number from 1 to 65,536, not '0'"),
        ("r=4,r=8", "r is to be given once"),
        ("r=4,dropout=1", "dropout is a number from 0 to 0.99, not '1'"),
        ("r=4,targets=nowhere", "Target modules"),
    ],
)
def test_adapters_that_cannot_be_are_refused_in_one_line(lora, said, folders, text_file):
    with pytest.raises(DdcliError) as refused:
        make_plan(lora_config(folders("llama"), text_file, lora), None, Silent())
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "target"),
    [("qwen3", "lm_head"), ("gemma", "embed_tokens"), ("gpt2", "wte"), ("bert", "decoder")],
)
def test_weights_of_two_layers_are_not_parted(kind, target, folders, text_file):
    """An adapter beside one of them would, merged, be beside both."""
    with pytest.raises(DdcliError, match=rf"{target} shares its weights with another layer"):
        make_plan(lora_config(folders(kind), text_file, f"r=4,targets={target}"), None, Silent())


def test_a_checkpoint_of_embeddings_with_adapters_is_read(folders, text_file, tmp_path):
    run = train(lora_config(folders("llama"), text_file, "r=4,targets=embed_tokens"), tmp_path / "run")
    (one, other) = (ddcli.load(path) for path in (run, checkpoints(run)[-1][1]))
    assert one.score("the cat sat", seed=1) == other.score("the cat sat", seed=1)


def test_adapters_need_peft_and_a_network_that_it_knows(folders, text_file, tmp_path, monkeypatch):
    begun = tmp_path / "begun"
    train_tiny(begun, text_file, train__steps=1, validation__every=0)
    for config in (tiny_config(text_file, model__lora="r=4"), lora_config(begun, text_file)):
        with pytest.raises(DdcliError, match=r"--lora does not go with .*start --from a model"):
            make_plan(config, None, Silent())
    monkeypatch.setitem(sys.modules, "peft", None)
    told = command("train", "--from", folders("llama"), "--lora", "r=4", "--data", text_file, "--dry-run")
    assert told.code == 2
    assert "--lora needs the package peft" in told.err
    assert "pip install 'ddcli[lora]'" in told.err


def test_adapters_are_no_model(run, tmp_path):
    """transformers would go on to whatever model they name."""
    own = copy_of(run, tmp_path)
    (own / "adapter_config.json").write_text("{}")
    shutil.copytree(run / "adapter", tmp_path / "bare" / "adapter")
    (tmp_path / "bare" / "config.json").write_text(
        '{"model_type": "bert"}'
    )  # a base, in which nothing is merged
    for folder, said in {
        own: "holds adapters for another model",
        tmp_path / "bare" / "adapter": "holds adapters for another model",
        run / "adapter": f"adapters of {run} alone; {run} itself has them merged",
    }.items():
        told = command("sample", folder)
        assert told.code == 2
        assert said in told.err
