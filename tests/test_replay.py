"""Laws of replayed likelihoods: probabilities of all texts sum to 1, whatever the order and the pace."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from tiny import copy_of, edit_json, train_tiny, words
from worlds import SYMBOLS, VOCABULARY, ExactDenoiser, world

import ddcli
from ddcli import cli
from ddcli.data import Blocks
from ddcli.errors import DdcliError
from ddcli.evaluation import Bound, Clusters, estimates, measure, two_errors
from ddcli.frontier import (
    Point,
    Quality,
    above_the_best,
    budgets,
    named,
    quality_of,
    read_sweep,
)
from ddcli.generative import Cost
from ddcli.heldout import blocks_of
from ddcli.model import Model, SamplerSettings
from ddcli.process import Absorbing, Uniform
from ddcli.replay import SelfTest, no_likelihood, replayed, self_test
from ddcli.sampler import SAMPLERS, make_sampler
from ddcli.schedule import Cosine, Geometric, Linear, Polynomial

F64 = torch.float64
ABSORBING = Absorbing.over(VOCABULARY, Linear())
UNIFORM = Uniform.over(VOCABULARY, Linear())
CERTAIN = ["confidence", "margin", "entropy", "left-to-right"]  # and at a pace that is asked for
ORDERS = [*CERTAIN, "random"]
ADAPTIVE = ["threshold", "threshold:0.5", "entropy-bounded", "entropy-bounded:1"]
DRAWN = ["random", "ancestral", "first-hitting", "euler", "tau-leaping"]
LENGTH = 3
STRINGS, LOG_P = world(LENGTH)


def each_a_document(tokens):
    """Blocks (N, LENGTH) of which each is a document."""
    sizes = np.full(len(tokens), LENGTH, np.int32)
    return Blocks(tokens.astype(np.uint16), sizes, np.cumsum(sizes), None, tokens.size, tokens.size)


EVERY = each_a_document(STRINGS.numpy())


def someone(xt, t, rows, valid=None):
    """A belief of no world: it follows from what is revealed, by arithmetic that no joint has."""
    weight = torch.tensor([3, 5, 7, 11])[: xt.shape[1]]
    state = ((xt + 1) * weight).sum(-1, keepdim=True) + torch.arange(xt.shape[1])
    logits = torch.sin(torch.arange(1, SYMBOLS + 1) * state[..., None].double())
    belief = torch.full((*xt.shape, VOCABULARY.size), -1e5, dtype=F64)
    belief[..., :SYMBOLS] = logits.log_softmax(-1)
    return belief[rows]


def model_of(denoiser, schedule=None, process=None):
    process = process or Absorbing.over(VOCABULARY, schedule or Linear())
    return Model(denoiser, process, tokenizer=None, length=LENGTH, device=torch.device("cpu"))  # type: ignore[arg-type]


def likelihoods(model, order, calls):
    """ln p of every string of the world, (S,)."""
    found = replayed(model, EVERY, SamplerSettings(sampler=order, steps=calls))
    return -found.nats.sum(-1)


def has_likelihood(name):
    return no_likelihood(ABSORBING, SamplerSettings(sampler=name), make_sampler(name)) is None


def test_a_likelihood_has_who_opens_positions_without_looking_at_the_tokens_drawn():
    known = {name.partition(":")[0] for name in [*CERTAIN, *ADAPTIVE, *DRAWN]}
    assert {name for name in SAMPLERS if has_likelihood(name)} == known


@pytest.mark.parametrize("order", ADAPTIVE)
def test_it_sums_to_one_at_a_pace_of_the_samplers_own(order):
    found = replayed(model_of(someone), EVERY, SamplerSettings(sampler=order))
    assert found.exact
    assert np.exp(-found.nats.sum(-1)).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("order", CERTAIN)
def test_the_probabilities_of_all_texts_sum_to_one(order, calls):
    assert np.exp(likelihoods(model_of(someone), order, calls)).sum() == pytest.approx(1, abs=1e-9)


def by_hand(order, calls, string, temperature=1.0):
    """ln p of a string: what the order would choose is worked out anew, position by position.

    It chooses by what is believed, and draws from that at a temperature.
    """
    ranks = {
        "confidence": lambda p: p.max(),
        "margin": lambda p: p.sort().values[-1] - p.sort().values[-2],
        "entropy": lambda p: torch.xlogy(p, p).sum(),
    }
    known = torch.full((LENGTH,), VOCABULARY.mask_id)
    total, left = 0.0, LENGTH
    for call in range(calls):
        stay = LENGTH - math.floor(LENGTH * (call + 1) / calls)
        masked = [i for i in range(LENGTH) if known[i] == VOCABULARY.mask_id]
        rows = torch.zeros(1, LENGTH, dtype=torch.bool)
        rows[0, masked] = True
        law = dict(zip(masked, someone(known[None], None, rows).exp(), strict=True))
        if order == "left-to-right":
            chosen = masked[: left - stay]
        else:
            chosen = sorted(masked, key=lambda i: (-ranks[order](law[i]).item(), i))[: left - stay]
        for i in chosen:
            total += (law[i].log() / temperature).log_softmax(-1)[string[i]].item()
        known[chosen] = string[chosen]
        left = stay
    return total


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("order", CERTAIN)
def test_a_replay_is_what_comes_out_by_hand(order, calls):
    expected = [by_hand(order, calls, string) for string in STRINGS]
    assert likelihoods(model_of(someone), order, calls) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.3, 4.0])
@pytest.mark.parametrize("order", CERTAIN)
def test_a_temperature_changes_what_is_drawn_and_not_the_order(order, temperature):
    settings = SamplerSettings(sampler=order, steps=2, temperature=temperature)
    found = -replayed(model_of(someone), EVERY, settings).nats.sum(-1)
    assert found == pytest.approx([by_hand(order, 2, string, temperature) for string in STRINGS], rel=1e-9)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_one_token_a_call_of_an_exact_belief_is_the_true_likelihood_in_any_order(order):
    model = model_of(ExactDenoiser(Absorbing.over(VOCABULARY, Linear()), STRINGS, LOG_P))
    assert likelihoods(model, order, LENGTH) == pytest.approx(LOG_P.numpy(), rel=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_all_tokens_in_one_call_are_a_product_of_marginals(order):
    model = model_of(ExactDenoiser(Absorbing.over(VOCABULARY, Linear()), STRINGS, LOG_P))
    marginals = [
        torch.stack([LOG_P[STRINGS[:, i] == symbol].logsumexp(0) for symbol in range(SYMBOLS)])
        for i in range(LENGTH)
    ]
    expected = torch.stack([marginals[i][STRINGS[:, i]] for i in range(LENGTH)]).sum(0)
    found = replayed(model, EVERY, SamplerSettings(sampler=order), tokens_per_call=LENGTH)
    assert -found.nats.sum(-1) == pytest.approx(expected.numpy(), rel=1e-9)
    assert (found.nfe == 1).all()


def test_random_order_has_the_bound_as_its_mean():
    """Of one string, over every order: 3! of them, equally likely."""
    model, string = model_of(someone), STRINGS[11]
    total = 0.0
    for order in itertools.permutations(range(LENGTH)):
        known = torch.full((1, LENGTH), VOCABULARY.mask_id)
        for i in order:
            rows = torch.zeros(1, LENGTH, dtype=torch.bool)
            rows[0, i] = True
            total -= someone(known, None, rows)[0, string[i]].item() / 6
            known[0, i] = string[i]
    one = each_a_document(EVERY.tokens[11:12])
    bound = measure(model, one, draws=30_000, batch_size=30_000).strict.sum()
    settings = SamplerSettings(sampler="random", steps=LENGTH)
    nats = [replayed(model, one, settings, seed=seed).nats.sum() for seed in range(1500)]
    assert bound == pytest.approx(total, abs=0.02)
    error = np.std(nats) / len(nats) ** 0.5
    assert np.mean(nats) == pytest.approx(total, abs=4 * error)
    assert error < 0.05


# -- of trained models ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(absorbing_run):
    return ddcli.load(absorbing_run)


@pytest.fixture(scope="module")
def blocks(model):
    return blocks_of(model, [words(8, seed=5)], "words")


def test_random_order_and_the_bound_agree_on_the_same_blocks(model, blocks):
    found = self_test(model, blocks, sequences=8)
    assert found.blocks == 8
    assert abs(found.difference) < 4 * found.stderr
    assert found.stderr < 0.1


def test_of_a_single_block_nobody_knows_whether_they_agree(model, blocks):
    found = self_test(model, blocks, sequences=1)
    assert math.isnan(found.stderr)
    assert found.passed is None


def test_positions_that_cost_nothing_count_as_well():
    def sure(xt, t, rows, valid=None):
        belief = torch.full((*xt.shape, VOCABULARY.size), -1e5, dtype=F64)
        belief[..., 0] = 0.0
        return belief[rows]

    zeros = each_a_document(np.zeros((2, LENGTH)))
    found = self_test(model_of(sure), zeros, sequences=2)
    assert (found.difference, found.passed) == (0, True)


def test_a_likelihood_does_not_depend_on_the_size_of_a_batch(model, blocks):
    for order in ("entropy", "random"):
        settings = SamplerSettings(sampler=order, steps=8)
        one, many = (replayed(model, blocks, settings, batch_size=size) for size in (1, 64))
        assert (one.nats == many.nats).all()
        assert (one.nfe == many.nfe).all()


def test_at_most_so_many_tokens_are_filled_at_a_call(model, blocks):
    found = replayed(model, blocks, SamplerSettings(sampler="margin"), tokens_per_call=5)
    assert found.settings.steps == math.ceil(model.length / 5)
    assert (found.nfe <= found.settings.steps).all()
    assert 1 < found.tokens_per_call <= 5


def test_the_likelihood_is_that_of_what_the_sampler_writes(records_run):
    """Texts of one token: a sampler writes each as often as its likelihood says."""
    model = ddcli.load(records_run)
    texts = [symbol for symbol in "abcdefgh"]
    found = replayed(model, blocks_of(model, texts, "letters"), SamplerSettings(sampler="entropy"))
    chance = np.exp(-found.nats.sum(-1))
    assert chance.sum() == pytest.approx(1, abs=1e-3)
    drawn = [s.text for s in model.sample(400, length=1, sampler="entropy", steps=1, seed=3)]
    for text, p in zip(texts, chance, strict=True):
        assert drawn.count(text) / 400 == pytest.approx(p, abs=5 * (p * (1 - p) / 400) ** 0.5 + 1e-3)


def test_an_autoregressive_model_replayed_costs_its_likelihood(tmp_path, text_file):
    train_tiny(
        tmp_path / "run", text_file, train__steps=5, validation__every=0, process__name="autoregressive"
    )
    model = ddcli.load(tmp_path / "run")
    blocks = blocks_of(model, [words(3)], "words")
    found = replayed(model, blocks, SamplerSettings(sampler="left-to-right"))
    assert found.nats == pytest.approx(measure(model, blocks, draws=1).strict, abs=1e-4)
    settings = SamplerSettings(sampler="left-to-right")
    with pytest.raises(DdcliError, match="left-to-right goes at a pace of its own"):
        replayed(model, blocks, settings, tokens_per_call=2)


def test_a_model_of_blocks_is_replayed_block_after_block(tmp_path, text_file):
    for block in (1, 8):
        run = tmp_path / str(block)
        train_tiny(run, text_file, train__steps=5, validation__every=0, model__block=block)
        model = ddcli.load(run)
        blocks = blocks_of(model, [words(8)[: 4 * model.length]], "words")
        settings = SamplerSettings(sampler="confidence")
        one = replayed(model, blocks, settings, tokens_per_call=1)
        if block == 1:
            assert one.nats == pytest.approx(measure(model, blocks, draws=1).strict, abs=1e-4)
        two = replayed(model, blocks, settings, tokens_per_call=2)
        assert one.tokens_per_call == 1
        assert two.tokens_per_call == (1 if block == 1 else 2)


@pytest.mark.parametrize("schedule", [Cosine(), Polynomial(2)])
def test_one_token_a_call_is_one_whatever_the_schedule(schedule):
    model = model_of(ExactDenoiser(Absorbing.over(VOCABULARY, schedule), STRINGS, LOG_P), schedule)
    found = replayed(model, EVERY, SamplerSettings(sampler="confidence"), tokens_per_call=1)
    assert (found.nfe == LENGTH).all()
    assert -found.nats.sum(-1) == pytest.approx(LOG_P.numpy(), rel=1e-9)


# -- what has none ----------------------------------------------------------------------------------------


def test_what_has_no_likelihood_in_order_is_refused_by_name(model, blocks):
    uniform = model_of(someone, process=UNIFORM)
    refused = [
        (
            model_of(someone, Geometric(1.0)),
            {"sampler": "entropy"},
            "some positions are visible from the start",
        ),
        (uniform, {"sampler": "ancestral"}, "under absorbing noise alone.* this model's is uniform"),
        (
            uniform,
            {"sampler": "entropy"},
            "sampler entropy: it chooses which masks to open, and needs noise that only",
        ),
        (
            model,
            {"sampler": "greedy"},
            "what greedy opens depends on the tokens it draws; replay one of: anc",
        ),
        (model, {"sampler": "remask"}, "what remask opens depends on the tokens"),
        (model, {"sampler": "entropy", "top_p": 0.9}, "never written with top-k, top-p"),
        (model, {"sampler": "entropy", "temperature": 0.0}, "never written"),
    ]
    for who, settings, message in refused:
        with pytest.raises(DdcliError, match=message):
            replayed(who, blocks, SamplerSettings(**settings))
    for sampler in ("threshold", "ancestral"):
        with pytest.raises(DdcliError, match=f"{sampler} goes at a pace of its own"):
            replayed(model, blocks, SamplerSettings(sampler=sampler), tokens_per_call=2)


def test_where_positions_start_visible_ancestral_steps_have_the_bound_of_their_chain():
    model = model_of(someone, Geometric(1.0))
    for sampler, kind in (("ancestral", "bound"), ("entropy", None)):
        found = quality_of(model, EVERY, SamplerSettings(sampler=sampler, steps=4), draws=1, sequences=None)
        assert (found and found.kind) == kind


@pytest.mark.slow
def test_drawn_orders_have_the_bound_of_a_chain_as_their_mean():
    """Ancestral steps replayed, and the same chain's bound estimated step by step."""
    model, string = model_of(someone), slice(11, 12)
    one = each_a_document(EVERY.tokens[string])
    expected = estimates(
        someone, model.process, one, draws=30_000, batch_size=30_000, timesteps=2
    ).strict.sum()
    settings = SamplerSettings(sampler="ancestral", steps=2)
    drawn = [replayed(model, one, settings, seed=seed) for seed in range(2000)]
    assert not drawn[0].exact
    nats = [each.nats.sum() for each in drawn]
    error = np.std(nats) / len(nats) ** 0.5
    assert error < 0.05
    assert np.mean(nats) == pytest.approx(expected, abs=4 * error + 0.03)


# -- sweeps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_ancestral_steps_have_the_bound_of_a_chain_of_as_many(noise):
    """Few steps of an exact belief are wrong, and cost it; many cost the entropy."""
    process = UNIFORM if noise == "uniform" else ABSORBING
    model = model_of(ExactDenoiser(process, STRINGS, LOG_P), process=process)
    drawn = torch.multinomial(LOG_P.exp(), 2000, True, generator=torch.Generator().manual_seed(1))
    some = each_a_document(EVERY.tokens[drawn])
    found = {
        steps: quality_of(model, some, SamplerSettings(steps=steps), draws=1, sequences=2000, batch_size=2000)
        for steps in (1, 64)
    }
    assert all(quality.kind == "bound" for quality in found.values())
    truth = -LOG_P[drawn].mean().item() / LENGTH
    nats = {steps: quality.bound.nats_per_token for steps, quality in found.items()}
    assert nats[1] > nats[64] > truth - 0.1
    assert nats[64] == pytest.approx(truth, abs=0.1)


def test_nothing_is_claimed_where_nothing_is_known(model, blocks):
    for changes in ({"top_p": 0.9}, {"guidance": 2.0}, {"sampler": "remask"}, {"greedy_tail": 2}):
        settings = SamplerSettings(**changes)
        assert quality_of(model, blocks, settings, draws=1, sequences=1) is None


def test_a_sweep_is_saved_as_budgets_and_read_again(absorbing_run, tmp_path, capfd):
    run = copy_of(absorbing_run, tmp_path)
    edit_json(run / "generation_config.json", mine="kept")
    arguments = ["eval", run, "--limit", 2, "--draws", 1, "--quiet", "--json", "--save"]
    arguments += ["--sweep", "steps=2,8 sampler=ancestral,entropy", "-o", tmp_path / "frontier.svg"]
    assert cli.main([str(a) for a in arguments]) == 0
    found = json.loads(capfd.readouterr().out)
    assert len(found["frontier"]) == 4
    assert {point["figure"] for point in found["frontier"]} == {"exact", "bound"}
    saved = json.loads((run / "generation_config.json").read_text())
    assert saved["mine"] == "kept"
    assert saved["budgets"] == found["budgets"]
    best = saved["budgets"]["quality"]
    told = f"- Sampler, if nobody says: `{best['sampler']}`, {best['steps']} steps"
    assert told in (run / "README.md").read_text()
    assert "What more evaluations buy" in (run / "report.html").read_text()
    assert "No sweep is saved yet" not in (run / "report.html").read_text()
    assert set(saved["budgets"]) == {"quality", "balanced", "fast"}
    assert saved["budgets"]["fast"]["nfe"] <= saved["budgets"]["quality"]["nfe"]
    best = {name: saved["budgets"]["quality"][name] for name in SamplerSettings.model_fields}
    assert {name: saved[name] for name in best} == best
    assert ddcli.load(run).settings == SamplerSettings(**best)
    assert b"entropy" in (tmp_path / "frontier.svg").read_bytes()
    assert cli.main(["sample", str(run), "--budget", "fast", "--length", "4", "--seed", "1"]) == 0
    capfd.readouterr()
    for own in (
        b"- Sampler, if nobody says: mine\r\n\xe9",
        b"my own words\r\n",
    ):  # not UTF-8, and no such line
        (run / "README.md").write_bytes(own)
        assert cli.main([str(a) for a in [*arguments, "--sweep", "steps=2"]]) == 0
        assert (run / "README.md").read_bytes() == own
    capfd.readouterr()
    (run / "metrics.jsonl").write_text("damage\n")  # of which no page can be made: that loses no sweep
    assert cli.main([str(a) for a in [*arguments, "--sweep", "steps=2"]]) == 0
    assert len(json.loads(capfd.readouterr().out)["frontier"]) == 1


def point(nfe, costs, seconds=1.0, settings=None):
    """Of a sampler whose four documents of ten tokens cost so much a token."""
    clusters = Clusters(10.0 * np.array(costs), np.full(4, 10))
    bound = Bound(clusters.mean()[0], 1.0, 1.0, clusters.mean()[1], 4, 40)
    settings = settings or SamplerSettings(steps=int(nfe))
    return Point(settings, True, Cost(nfe, seconds), Quality(bound, "exact", clusters), None)


def test_a_budget_is_the_fewest_evaluations_of_those_that_are_surely_near_the_best():
    best = point(64, [1.0, 2.0, 3.0, 4.0])
    near = point(32, [1.01, 2.01, 3.01, 4.01])  # 0.4 % worse, each of them
    worse = point(16, [1.05, 2.05, 3.05, 4.05])  # 2 %
    unsure = point(12, [1.1, 1.95, 3.1, 3.96])  # 1.1 %, but for chance up to 6 %
    much_worse = point(8, [1.2, 2.2, 3.2, 4.2])  # 8 %
    chosen = budgets([best, near, worse, unsure, much_worse])
    assert {name: at.cost.nfe for name, at in chosen.items()} == {"quality": 32, "balanced": 16, "fast": 8}
    assert budgets([best, unsure])["balanced"] is best
    assert above_the_best([best, worse])[1] == pytest.approx((0.05, 0.0), abs=1e-12)


def test_of_a_single_document_the_best_point_is_taken():
    def of_one(nfe, nats):
        clusters = Clusters(np.array([nats]), np.full(1, 10))
        quality = Quality(Bound(nats / 10, 1.0, 1.0, math.nan, 1, 10), "exact", clusters)
        return Point(SamplerSettings(steps=nfe), True, Cost(nfe, 1.0), quality, None)

    best = of_one(64, 20.0)
    assert all(at is best for at in budgets([of_one(8, 20.01), best]).values())


def test_a_budget_within_a_time_is_the_best_of_what_takes_no_longer():
    slow, quick = point(64, [1.0, 2.0, 3.0, 4.0], 2.0), point(8, [2.0, 3.0, 4.0, 5.0], 0.5)
    assert {at.cost.nfe for at in budgets([slow, quick], within=1.0).values()} == {8}
    assert budgets([slow, quick])["quality"] is slow


def test_points_that_come_to_the_same_are_measured_once(model, tmp_path, text_file):
    def read(sweep, of=model):
        found = read_sweep(sweep, of, SamplerSettings(steps=7))
        return [named(each, paced=of.paced(each)) for each in found]

    assert read("steps=4,4,2") == ["ancestral, 4 steps", "ancestral, 2 steps"]
    assert read("steps=2,4 sampler=threshold:0.8,first-hitting,entropy-bounded") == [
        "threshold:0.8",
        "first-hitting",
        "entropy-bounded",
    ]
    assert read("steps=2,4 sampler=threshold temperature=0.5,1") == [
        "threshold, temperature 0.5",
        "threshold",
    ]
    run = tmp_path / "run"
    train_tiny(run, text_file, train__steps=2, validation__every=0, process__name="autoregressive")
    assert read("steps=2,4 sampler=left-to-right", ddcli.load(run)) == ["left-to-right"]
    assert len(read("steps=2,4 sampler=left-to-right")) == 2


def test_what_is_swept_is_named_in_the_table_the_progress_and_the_picture(absorbing_run, tmp_path, capfd):
    arguments = ["eval", absorbing_run, "--limit", 2, "--draws", 1, "-o", tmp_path / "sweep.svg"]
    arguments += ["--sweep", "steps=2,4 sampler=entropy,remask,threshold block=8,16 top_k=3"]
    assert cli.main([str(a) for a in arguments]) == 0
    out, err = capfd.readouterr()
    (head,) = (line for line in out.splitlines() if "s a sample" in line)
    assert head.split()[:5] == ["sampler", "steps", "top", "k", "block"]
    (row,) = (line.split() for line in out.splitlines() if line.startswith("  threshold") and " 16 " in line)
    assert row[:4] == ["threshold", "-", "3", "16"]
    assert "point 1 of 10: entropy, 2 steps, top k 3, block 8\n" in err
    assert b"remask, top k 3, block 16 (no likelihood)" in (tmp_path / "sweep.svg").read_bytes()


def test_the_command_tells_an_order_and_its_self_test(absorbing_run, capfd):
    arguments = ["eval", absorbing_run, "--limit", 3, "--order", "entropy", "--tokens-per-call", 4, "--quiet"]
    assert cli.main([str(a) for a in arguments]) == 0
    out = capfd.readouterr().out
    assert "order entropy, 8 steps; exact" in out
    assert "tokens a call" in out
    assert "self-test: random order" in out


@pytest.mark.parametrize(
    ("blocks", "errors", "agree"), [(2, 13.0, True), (2, 15.0, False), (400, 2.1, False)]
)
def test_few_blocks_have_to_differ_by_more(blocks, errors, agree):
    """As seldom as many by two standard errors: of two, which know little of theirs, by fourteen."""
    assert SelfTest(blocks, 0.01 * errors, 0.01).passed == agree


def test_two_standard_errors_of_few_are_those_of_students_law():
    rng = torch.Generator().manual_seed(0)
    for clusters in (2, 3, 5, 6, 12):
        drawn = torch.randn(400_000, clusters, generator=rng, dtype=torch.float64)
        stderr = drawn.std(-1) / clusters**0.5
        outside = (drawn.mean(-1).abs() > two_errors(clusters) * stderr).double().mean().item()
        assert outside == pytest.approx(1 - math.erf(2**0.5), abs=0.002)  # that of two of very many


def test_a_sweep_tells_its_self_test_and_what_its_budgets_promise(records_run, tmp_path, capfd):
    run, sweep = copy_of(records_run, tmp_path), "steps=1,2,8 sampler=ancestral"
    arguments = ["eval", run, "--limit", 2, "--draws", 1, "--sweep", sweep, "--save", "--quiet"]
    assert cli.main([str(a) for a in arguments]) == 0
    out = capfd.readouterr().out
    assert "self-test: random order" in out
    assert (
        "by more than quality 1%, balanced 3%, fast 10%, two standard errors counted in,\n  on 2 records"
        in out
    )
    points = [line.split() for line in out.splitlines() if line.split()[:1] == ["ancestral"]]
    best = min(points, key=lambda row: float(row[4]))
    (quality,) = (line.split() for line in out.splitlines() if line.split()[:1] == ["quality"])
    assert quality[2] in {best[1], *(row[1] for row in points if row[7] != "best" and float(row[7]) < 0.03)}


def test_the_self_test_is_announced_and_takes_no_more_blocks_than_asked_for(absorbing_run, capfd):
    arguments = ["eval", absorbing_run, "--limit", 1, "--order", "entropy", "--tokens-per-call", 16]
    assert cli.main([str(a) for a in arguments]) == 0
    out, err = capfd.readouterr()
    assert "self-test: replaying 1 block in random order" in err
    assert "paired on 1 block: too few to tell" in out
    assert "nan" not in out


def test_of_noise_without_masks_ancestral_steps_alone_have_a_figure(uniform_run, capfd):
    sweep = "steps=2,4 sampler=ancestral,corrector"
    found = ddcli.evaluate(uniform_run, limit=2, draws=1, sweep=sweep).record()
    figures = {(point["sampler"], point["steps"]): point["figure"] for point in found["frontier"]}
    assert figures == {
        ("ancestral", 2): "bound",
        ("ancestral", 4): "bound",
        ("corrector", 2): None,
        ("corrector", 4): None,
    }
    assert len(found["bound"]["by_time"]) == 10
    assert found["bound"]["by_masked_share"] == []
    arguments = [
        "eval",
        uniform_run,
        "--limit",
        1,
        "--sweep",
        "sampler=corrector steps=2",
        "--save",
        "--quiet",
    ]
    assert cli.main([str(a) for a in arguments]) == 2
    assert "no sampler of this sweep has a likelihood of its own" in capfd.readouterr().err
