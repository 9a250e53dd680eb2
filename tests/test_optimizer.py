"""Muon: steps with their singular values made 1, beside AdamW; and runs that are begun with either."""

import json

import pytest
import torch
from test_hostile import sealed
from tiny import assert_same_run, metrics, start_config, stop_at, tiny_config, train_tiny

from ddcli import optimizer
from ddcli.checkpoint import checkpoints
from ddcli.cli import main
from ddcli.config import load_config
from ddcli.errors import DdcliError
from ddcli.optimizer import BETAS, MOMENTUM, SIZE, make_optimizer, orthogonal
from ddcli.plan import Silent, make_plan
from ddcli.runlog import read_run
from ddcli.training import train

RATE, DECAY = 0.01, 0.5


def with_values(*values, rows=12, columns=20, seed=0):
    """A matrix with these singular values."""
    rng = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=rng)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=rng)).Q
    return left * torch.tensor(values) @ right.mT


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 12)])
def test_singular_values_become_1(shape, scale):
    given = [1.0, 0.9, 0.5, 0.2, 0.1, 0.05, 0.03]
    x = with_values(*given, rows=shape[0], columns=shape[1])
    turned = orthogonal(scale * x[None])[0]
    found = torch.linalg.svdvals(turned)[: len(given)]
    assert (found - 1).abs().max() < 0.1
    # and singular vectors stay what they are
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    in_theirs = left.mT[: len(given)] @ turned @ right.mT[:, : len(given)]
    assert torch.allclose(in_theirs, in_theirs.diag().diag(), atol=1e-4)


def test_what_is_small_stays_small_and_nothing_stays_nothing():
    found = torch.linalg.svdvals(orthogonal(with_values(1.0, 1e-3)[None])[0])
    assert 0.03 < found[1] < 0.08
    assert not orthogonal(torch.zeros(2, 3, 4)).any()


@pytest.mark.parametrize("values", [(1.0,), (1.0, 0.3), (1.0,) * 12, (1.0, 0.5, 0.02)])
def test_what_bf16_rounds_makes_no_value_large(values):
    """A sum of fourth powers that is all one value's comes to 1, on which the polynomials' slope is steep."""
    some = [3.0 ** (seed % 20) * with_values(*values, seed=seed) for seed in range(50)]
    found = torch.linalg.svdvals(orthogonal(torch.stack(some).bfloat16()).float())
    assert found[:, : len(values)].max() < 1.15
    assert found[:, 0].min() > 0.85


def test_matrices_are_turned_one_by_one():
    some = torch.stack([with_values(1.0, 0.5, seed=seed) for seed in range(3)])
    each = torch.cat([orthogonal(one[None]) for one in some])
    assert torch.allclose(orthogonal(some), each, atol=1e-5)


def of_weights(*weights, **group):
    found = optimizer.Muon([{"params": list(weights), **group}], RATE, DECAY, torch.float32)
    found.found_inf = torch.zeros(())
    return found


def test_a_step_is_nesterov_momentum_with_its_values_made_1():
    weight = torch.nn.Parameter(with_values(1.0, 0.3))
    muon, own, momentum = of_weights(weight), weight.detach().clone(), torch.zeros_like(weight)
    for seed in (1, 2):
        weight.grad = with_values(1.0, 0.5, 0.4, seed=seed)
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * weight.grad
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * weight.grad
        own = (1 - RATE * DECAY) * own - RATE * SIZE * 20**0.5 * orthogonal(ahead[None])[0]
        muon.step()
        assert torch.allclose(weight, own, atol=1e-5)
    assert torch.allclose(muon.state[weight]["momentum"], momentum)


def test_its_size_is_that_of_adamw():
    """On gradients that are all noise, both move a number by about as much."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(64, 192)) for _ in range(2)]
    muon = of_weights(weights[0])
    adamw = torch.optim.AdamW([weights[1]], lr=RATE, betas=BETAS, weight_decay=DECAY)
    for _ in range(100):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        before = [weight.detach().clone() for weight in weights]
        muon.step()
        adamw.step()
    one, other = ((w - b).square().mean().sqrt().item() for w, b in zip(weights, before, strict=True))
    assert one == pytest.approx(other, rel=0.5)


@pytest.mark.parametrize("rows", [4, 24])
def test_stacked_matrices_are_turned_apart(rows):
    parts = [with_values(1.0, 0.5, rows=rows, seed=seed) * 10**seed for seed in range(3)]
    together = torch.nn.Parameter(torch.zeros(3 * rows, 20))
    together.grad = torch.cat(parts)
    of_weights(together, stacked=3).step()
    for part, found in zip(parts, together.chunk(3), strict=True):
        alone = torch.nn.Parameter(torch.zeros(rows, 20))
        alone.grad = part
        of_weights(alone).step()
        assert torch.allclose(found, alone, atol=1e-6)


def test_how_many_are_turned_together_changes_nothing(monkeypatch):
    found = []
    for at_once in (1, 2**24):
        monkeypatch.setattr(optimizer, "AT_ONCE", at_once)
        weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(4, 6), (6, 4), (4, 6), (4, 6)]]
        for i, weight in enumerate(weights):
            weight.grad = with_values(1.0, 0.5, rows=weight.shape[0], columns=weight.shape[1], seed=i)
        of_weights(*weights).step()
        found.append(torch.cat([weight.detach().flatten() for weight in weights]))
    assert torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_no_number_changes_neither_weights_nor_momenta(apart, monkeypatch):
    """Where a device works apart, and is not waited for, no less."""
    monkeypatch.setattr(optimizer, "works_apart", lambda device: apart)
    weight = torch.nn.Parameter(with_values(1.0, 0.3))
    together = optimizer.Together(of_weights(weight))
    weight.grad = with_values(1.0, 0.5, seed=1)
    together.found_inf = torch.zeros(())
    together.step()
    kept = weight.detach().clone(), together.state[weight]["momentum"].clone()
    assert not torch.equal(kept[0], with_values(1.0, 0.3))
    weight.grad = torch.full_like(weight, torch.nan)
    together.found_inf = torch.ones(())
    together.step()
    assert torch.equal(weight, kept[0])
    assert torch.equal(together.state[weight]["momentum"], kept[1])


def made_for(config):
    """The optimiser of a plan, and the names of its network's weights."""
    plan = make_plan(config, None, Silent())
    names = {id(weight): name for name, weight in plan.network.named_parameters()}
    return make_optimizer(plan.network, plan.config.train, plan.dtype), names


@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_what_a_weight_is_made_of_is_turned_apart_and_all_else_is_left_to_adamw(process, text_file):
    both, names = made_for(tiny_config(text_file, process__name=process))
    muon, adamw = both.parts
    stacked = {
        names[id(weight)]: group["stacked"] for group in muon.param_groups for weight in group["params"]
    }
    for layer in ("blocks.0", "blocks.1"):
        assert stacked.pop(f"{layer}.attention.qkv.weight") == 3 * 2
        assert {stacked.pop(f"{layer}.{part}.weight") for part in ("attention.out", "up", "down")} == {1}
        if process == "uniform":
            assert stacked.pop(f"{layer}.modulation.weight") == 4
    assert not stacked
    rest = {names[id(weight)] for group in adamw.param_groups for weight in group["params"]}
    assert "embedding.weight" in rest
    for group in both.param_groups:  # which are theirs
        group["lr"] = 7.0
    assert {group["lr"] for part in both.parts for group in part.param_groups} == {7.0}


def test_models_of_others_go_on_by_adamw_unless_muon_is_asked_for(folders, text_file, tmp_path):
    start = folders("llama")
    (alone,) = made_for(start_config(start, text_file))[0].parts
    assert isinstance(alone, torch.optim.AdamW)
    brief = {"train__optimizer": "muon", "train__steps": 4, "validation__every": 4, "samples__every": 0}
    both, names = made_for(start_config(start, text_file, **brief))
    turned = {names[id(w)] for group in both.parts[0].param_groups for w in group["params"]}
    assert len(turned) == 2 * 7
    assert not any("embed" in name for name in turned)
    for lora in ({}, {"model__lora": "r=4"}):  # with adapters alone, nothing is left to AdamW
        run = train(start_config(start, text_file, **brief, **lora), tmp_path / f"run{len(lora)}")
        bounds = [line["bound_nats_per_token"] for line in metrics(run) if "bound_nats_per_token" in line]
        assert bounds[-1] != bounds[0]


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_a_run_goes_on_with_what_it_was_begun_with(name, text_file, tmp_path):
    config = tiny_config(text_file, train__optimizer=name)
    train(config, tmp_path / "whole")
    stop_at(7, tmp_path / "run", config)
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert load_config(tmp_path / "run/config.toml").train.optimizer == name


def test_networks_of_our_own_are_trained_by_muon(text_file, tmp_path):
    train_tiny(tmp_path / "run", text_file)
    assert load_config(tmp_path / "run/config.toml").train.optimizer == "muon"
    train_tiny(tmp_path / "adamw", text_file, train__optimizer="adamw")
    muon, adamw = (metrics(tmp_path / run)[-1]["bound_nats_per_token"] for run in ("run", "adamw"))
    assert muon != adamw


@pytest.mark.parametrize("by", ["command", "python"])
def test_a_run_of_before_there_was_a_choice_goes_on_by_adamw(by, text_file, tmp_path):
    for run in ("old", "new"):
        stop_at(7, tmp_path / run, tiny_config(text_file, train__optimizer="adamw"))
    written, line = tmp_path / "old/config.toml", 'optimizer = "adamw"\n'
    assert line in written.read_text()
    written.write_text(written.read_text().replace(line, ""))
    newest = checkpoints(tmp_path / "old")[-1][1]
    state = json.loads((newest / "state.json").read_text())
    assert state["settings"].pop("train.optimizer") == "adamw"
    (newest / "state.json").write_text(json.dumps(state))
    sealed(newest)
    assert read_run(tmp_path / "old").config.train.optimizer == "adamw"
    for run in ("old", "new"):
        if by == "command":
            assert main(["train", "-q", "--resume", "--data", str(text_file), "-o", str(tmp_path / run)]) == 0
        else:
            train(tiny_config(text_file), tmp_path / run, resume=True)
    assert_same_run(tmp_path / "old", tmp_path / "new")
    assert load_config(written).train.optimizer == "adamw"


@pytest.mark.parametrize("by", ["command", "python"])
def test_a_run_keeps_the_decay_that_it_was_begun_with(by, text_file, tmp_path):
    """So do those of when the default was 0.5."""
    train_tiny(tmp_path / "straight", text_file, train__decay=0.3)
    stop_at(7, tmp_path / "run", tiny_config(text_file, train__decay=0.3))
    if by == "command":
        assert main(["train", "-q", "--resume", "--data", str(text_file), "-o", str(tmp_path / "run")]) == 0
    else:
        train(tiny_config(text_file), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_another_optimizer_is_refused(text_file, tmp_path):
    with pytest.raises(
        DdcliError, match=r"unknown optimizer 'muom'; did you mean 'muon'\? \(known: adamw, auto, muon\)"
    ):
        train_tiny(tmp_path / "run", text_file, train__optimizer="muom")
    assert not (tmp_path / "run").exists()
    stop_at(7, tmp_path / "run", tiny_config(text_file))
    with pytest.raises(DdcliError, match=r"train\.optimizer \(muon in the run, now adamw\)"):
        train(tiny_config(text_file, train__optimizer="adamw"), tmp_path / "run", resume=True)
