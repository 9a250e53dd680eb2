"""Laws of the network and of what is built around it."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import logits_at

from ddcli import denoiser as denoisers
from ddcli.backbones import transformer
from ddcli.backbones.automodel import DiffusionTransformer
from ddcli.backbones.transformer import DiffusionTransformerConfig, Transformer
from ddcli.compiled import Compiled, padded, room_for
from ddcli.denoiser import (
    HEADS,
    Batched,
    NetworkDenoiser,
    OneByOne,
    SelfConditioned,
)
from ddcli.device import can_compile
from ddcli.objective import make_objective
from ddcli.process import Uniform, Vocabulary, flat_text, log_ratios, make_process
from ddcli.randomness import Streams
from ddcli.schedule import Linear
from ddcli.shaping import Shaped, Temperature, TopP, Without

V, L = 11, 24
COMPILED = pytest.mark.skipif(not can_compile(), reason="there is no C++ compiler")


def network(clock="none", seed=0, **shape):
    """A network with nothing left at zero, so that every part of it shows."""
    torch.manual_seed(seed)
    config = DiffusionTransformerConfig(vocab_size=V, width=32, layers=2, heads=2, clock=clock, **shape)
    made = Transformer(config).eval()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made


def denoiser(net, special=()):
    process = Uniform(Vocabulary(V, None, special), Linear())
    return NetworkDenoiser(net, process, HEADS["leave-one-out"], torch.float32)


def inputs(b=3, seed=1):
    rng = torch.Generator().manual_seed(seed)
    xt = torch.randint(0, V, (b, L), generator=rng)
    t = torch.rand(b, L, generator=rng, dtype=torch.float64)
    return xt, t, torch.rand(b, L, generator=rng) < 0.4


def fixed(log_p):
    """A denoiser that always believes the same rows."""
    return lambda xt, t, rows, valid=None: log_p


NOTHING = (torch.zeros(1, 1),) * 3


@torch.no_grad()
def test_beliefs_at_rows_are_those_of_the_whole_and_never_of_impossible_ids():
    net = network()
    xt, t, rows = inputs()
    log_p = denoiser(net, special=(3, 7))(xt, t, rows)
    logits = net.logits(xt)[rows]
    text = [i for i in range(V) if i not in (3, 7)]
    torch.testing.assert_close(log_p[:, text], logits[:, text].log_softmax(-1), rtol=1e-5, atol=1e-5)
    assert (log_p[:, [3, 7]].exp() == 0).all()
    assert log_p.isfinite().all()


def test_entries_behind_the_vocabulary_are_never_looked_at():
    process = Uniform(Vocabulary(V, None, (3,)), Linear())
    logits, of = torch.randn(4, V + 5), (torch.zeros(4, dtype=torch.long), torch.full((4,), 0.5).double())
    believed = HEADS["leave-one-out"].belief(process, logits, *of)
    logits[:, V:] = torch.tensor([math.inf, -math.inf, math.nan, 1e9, 0.0])
    assert torch.equal(HEADS["leave-one-out"].belief(process, logits, *of), believed)
    assert believed.shape == (4, V)


@pytest.mark.parametrize("clock", ["none", "given", "time"])
@pytest.mark.parametrize("block", [0, 2])
def test_what_is_computed_at_chosen_positions_alone_is_what_it_is_among_all(clock, block):
    """Hidden states and gradients of what they cost, beside padding, and in blocks beside a clean copy."""
    net = network(clock=clock, block=block, window=L)
    xt, t, rows = inputs()
    told = {"clean": xt.flip(1)} if block else {"valid": torch.arange(L) < torch.tensor([[L], [L - 2], [3]])}
    chosen = rows.flatten().nonzero()[:, 0]
    weight = torch.randn(len(chosen), 32)

    def found(hidden):
        cost = (hidden * weight).sum()
        return hidden, *torch.autograd.grad(cost, list(net.parameters()), materialize_grads=True)

    few = found(net.trunk(xt, t.float(), chosen=chosen, **told))
    whole = found(net.trunk(xt, t.float(), **told).flatten(0, 1)[chosen])
    assert len(few[0]) == len(chosen)
    torch.testing.assert_close(few, whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_fresh_network_believes_nothing():
    torch.manual_seed(0)
    net = Transformer(DiffusionTransformerConfig(vocab_size=V, width=32, layers=2, heads=2))
    assert (net.logits(inputs()[0]) == 0).all()


@torch.no_grad()
def test_every_position_sees_every_other_one():
    net = network()
    xt = inputs(1)[0]
    before = net.logits(xt)
    for changed in (0, L // 2, L - 1):
        other = xt.clone()
        other[0, changed] = (other[0, changed] + 1) % V
        assert ((net.logits(other) - before).abs().amax(-1) > 0).all()


@torch.no_grad()
def test_padding_is_never_attended_to():
    net = network()
    xt = inputs(1)[0]
    valid = torch.arange(L)[None] < 15
    alone = net.logits(xt[:, :15])
    padded = net.logits(xt, valid=valid)[:, :15]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_attention_is_the_same_by_either_way_of_computing_it(monkeypatch):
    """By products of matrices in training, up to some length; by torch's SDPA elsewhere."""
    name, calls, sdpa = "scaled_dot_product_attention", [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, name, lambda *inputs, **told: calls.append(1) or sdpa(*inputs, **told))
    net = network()
    xt = inputs()[0]
    valid = torch.arange(L)[None] < torch.tensor([L, 10, 15])[:, None]
    trained = net.logits(xt, valid=valid)
    assert not calls
    with torch.no_grad():
        torch.testing.assert_close(net.logits(xt, valid=valid)[valid], trained[valid], rtol=1e-4, atol=1e-5)
    assert len(calls) == len(net.blocks)
    monkeypatch.setattr(transformer, "SHORT", L - 1)
    torch.testing.assert_close(net.logits(xt, valid=valid)[valid], trained[valid], rtol=1e-4, atol=1e-5)
    assert len(calls) == 2 * len(net.blocks)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_attention_by_products_has_the_gradients_of_its_formula(bounded, biased):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    seen = torch.rand(2, 1, 1, 5) < 0.6
    seen[..., 0] = True
    bias = transformer.bias_of(seen) if biased else None
    upstream = torch.randn(2, 3, 5, 8)

    def slopes(attention):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        mixed = attention(*leaves)
        return [mixed.detach(), *torch.autograd.grad(mixed, leaves, upstream)]

    def formula(q, k, v):
        scores = q @ k.mT * 8**-0.5
        return (scores if bias is None else scores + bias).softmax(-1) @ v

    found = slopes(lambda *x: transformer.attend(*x, bias, None, bounded=bounded))
    torch.testing.assert_close(found, slopes(formula), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("clock", ["none", "time"])
def test_matrices_that_are_rounded_once_answer_as_those_that_are_rounded_each_time(clock):
    process = Uniform(Vocabulary(V), Linear())
    beliefs = []
    for once in (False, True):
        found = NetworkDenoiser(network(clock), process, HEADS["leave-one-out"], torch.bfloat16)
        if once:
            found.round_layers()
        beliefs.append(found(*inputs()))
    assert torch.equal(*beliefs)
    assert found.network.layers[0].up.weight.dtype == torch.bfloat16
    assert found.network.head.weight.dtype == torch.float32


@pytest.mark.filterwarnings("default")  # of the compiler about itself
def test_layers_are_made_again_on_the_way_back_where_logits_are_many_alone(monkeypatch):
    kept = []

    def noted(self, plain):
        return lambda *inputs: kept.append(torch._functorch.config.activation_memory_budget) or plain(*inputs)

    monkeypatch.setattr(Compiled, "compiled", noted)
    few, many = denoiser(network()), denoiser(network())
    few.compile(print)
    monkeypatch.setattr(denoisers, "MANY", V)
    many.compile(print)
    xt, _, _ = inputs()
    few.trunk(xt)
    many.trunk(xt)
    with torch.no_grad():
        many.trunk(xt)
    assert kept == [1, denoisers.KEPT, 1]
    assert denoisers.KEPT < 1


@torch.no_grad()
def test_what_is_expected_of_many_positions_is_made_of_few_logits_at_a_time(monkeypatch):
    net = network(self_conditioned=True)
    found = denoiser(net)
    xt, t, rows = inputs(40)
    guess = torch.zeros(40, L, 32)
    whole = net.expected(found(xt, t, rows, guess=guess))
    monkeypatch.setitem(denoisers.AT_ONCE, "cpu", V * denoisers.ROW_COUNT)
    made = []
    net.head.register_forward_hook(lambda head, inputs, logits: made.append(len(logits)))
    torch.testing.assert_close(found.expected(xt, t, rows, guess=guess), whole)
    assert sum(made) == rows.sum() > 2 * max(made)


def test_attention_that_is_not_bounded_bears_any_score():
    q = torch.full((1, 1, 2, 4), 100.0)
    k = torch.stack([q[0, 0, 0], -q[0, 0, 0]])[None, None]
    v = torch.tensor([[[[1.0], [5.0]]]])
    assert (transformer.attend(q, k, v, None, None) == 1).all()


def test_who_is_shown_nothing_reads_nothing_and_teaches_nothing():
    nothing = transformer.bias_of(torch.zeros(1, 1, 1, 4, dtype=torch.bool))
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 1, 2, 4, 8).unbind())
    mixed = transformer.attend(q, k, v, nothing, None, bounded=True)
    assert (mixed == 0).all()
    slopes = torch.autograd.grad(mixed, (q, k, v), torch.full_like(mixed, 1e6))
    assert all((slope == 0).all() for slope in slopes)


@pytest.mark.parametrize("short", [512, 0])  # by products, or not
@pytest.mark.parametrize("seen", ["all", "some"])
def test_what_is_past_is_attended_to_as_if_it_were_not(short, seen, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(transformer, "SHORT", short)
    q, k, v = torch.randn(3, 2, 3, 7, 8).unbind()
    bias = None if seen == "all" else transformer.bias_of(torch.rand(4, 7) < 0.5)
    past = k[:, :, :3], v[:, :, :3]
    apart = transformer.attend(q[:, :, 3:], k[:, :, 3:], v[:, :, 3:], bias, past, bounded=True)
    whole = transformer.attend(q[:, :, 3:], k, v, bias, None, bounded=True)
    torch.testing.assert_close(apart, whole, rtol=1e-5, atol=1e-6)


def test_blocks_behind_a_past_see_what_is_in_their_window():
    past = [(torch.zeros(1, 1, 6, 4),) * 2]
    device = torch.device("cpu")
    seen = transformer.seen_with_past(6, 4, past, 2, 3, device)
    assert torch.equal(seen, transformer.in_blocks(torch.arange(6, 10), torch.arange(10), 2, 3))
    assert transformer.seen_with_past(6, 2, past, 2, 4, device) is None
    assert not transformer.seen_with_past(6, 2, past, 2, 3, device).all()


@pytest.mark.filterwarnings("default")  # of the compiler about itself
@pytest.mark.parametrize(
    ("shape", "compiled"),
    [
        ({}, False),
        ({"causal": True, "bos_token_id": 0}, False),
        ({"block": 6, "window": 4}, False),
        pytest.param({}, True, marks=COMPILED),
    ],
)
def test_a_first_layer_that_reads_a_little_table_is_the_one_that_reads_each_token(
    shape, compiled, monkeypatch
):
    net = network(tie_word_embeddings=True, **shape)
    xt, t, _ = inputs()
    upstream = torch.randn(*xt.shape, 32)

    def found(trunk):
        hidden = trunk(xt, t.float())
        return [hidden.detach(), *torch.autograd.grad(hidden, list(net.parameters()), upstream)]

    read = []
    net.blocks[0].attention.qkv.register_forward_pre_hook(lambda _, of: read.append(of[0].shape))
    found(net.trunk)
    by_table = found(torch.compile(net.trunk) if compiled else net.trunk)
    monkeypatch.setattr(transformer, "LITTLE", 0)
    torch.testing.assert_close(by_table, found(net.trunk), rtol=1e-4, atol=1e-5)
    assert read[0] == (V, 32)
    assert read[-1] == (*xt.shape, 32)
    net.trunk(xt[:1, : V - 1])
    assert read[-1] == (1, V - 1, 32)  # of fewer tokens than entries


@pytest.mark.filterwarnings("default")  # of the compiler about itself
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILED)])
def test_gradients_of_many_tokens_of_few_symbols_lose_nothing_in_bf16(compiled):
    """bf16 has 8 digits of two: a sum of 2,000 equal numbers would end at 256 of them."""
    net = network(tie_word_embeddings=True)
    chosen = torch.arange(0, 4096, 3)
    xt = torch.zeros(16, 256, dtype=torch.long)
    xt[:, ::5] = 1
    upstream = torch.randn(len(chosen), 32).abs()

    def slope(trunk, dtype):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            hidden = trunk(xt, chosen=chosen)
        return torch.autograd.grad((hidden * upstream).sum(), net.blocks[0].attention.qkv.weight)[0]

    exact = slope(net.trunk, torch.float32)
    trunk = torch.compile(net.trunk, fullgraph=True) if compiled else net.trunk
    error = (slope(trunk, torch.bfloat16) - exact).norm() / exact.norm()
    assert error < 0.03


@pytest.mark.filterwarnings("default")  # of the compiler about itself
@COMPILED
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_gradients_are_the_eager_ones_for_any_number_of_sequences_and_rows(recompute):
    net = network()
    if recompute:
        net.recompute()
    trunk = torch.compile(net.trunk, fullgraph=True)
    for sequences in (4, 3):
        xt, t, rows = inputs(sequences)
        chosen = rows.flatten().nonzero()[:, 0]
        weights = [weight for name, weight in net.named_parameters() if name != "head.weight"]

        def slopes(trunk, xt=xt, t=t, chosen=chosen, weights=weights):
            hidden = trunk(xt, t.float(), chosen=chosen)
            return torch.autograd.grad(hidden.square().sum(), weights)

        torch.testing.assert_close(slopes(trunk), slopes(net.trunk), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_clock_is_read_at_each_position_and_only_where_there_is_one():
    xt, t, rows = inputs()
    other = t.clone()
    other[:, 5] = 0.0
    reads, ignores = (denoiser(network(clock)) for clock in ("time", "none"))
    assert (reads(xt, t, rows) != reads(xt, other, rows)).any()
    assert (ignores(xt, t, rows) == ignores(xt, other, rows)).all()


@torch.no_grad()
def test_one_by_one_a_sequence_does_not_depend_on_its_neighbours_to_the_last_bit():
    xt, t, rows = inputs(5)
    valid = torch.arange(L)[None] < torch.tensor([L, 10, 15, 20, L])[:, None]
    rows &= valid
    rows[3] = False
    each = denoiser(network("time"))
    together = OneByOne(each)(xt, t, rows, valid).split(rows.sum(-1).tolist())
    for i in (0, 1, 2, 4):
        alone = OneByOne(each)(xt[i : i + 1], t[i : i + 1], rows[i : i + 1], valid[i : i + 1])
        assert (alone == together[i]).all()
    batched = Batched(each)(xt, t, rows, valid)
    torch.testing.assert_close(batched, torch.cat(together), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_a_self_conditioned_network_is_told_what_it_last_believed_of_each_position(tied):
    net = network(self_conditioned=True, tie_word_embeddings=tied)
    plain = denoiser(net)
    xt, t, rows = inputs(2)
    t = t.clamp(min=0.1)
    t[0, :4] = 0.0
    rows &= t > 0
    asked = t > 0
    remembering = SelfConditioned(plain, net, plain.process)
    nothing = torch.zeros(2, L, 32)
    first = plain(xt, t, asked, guess=nothing)
    torch.testing.assert_close(remembering(xt, t, rows), first[rows[asked]])
    guess = torch.zeros(2, L, 32)
    guess[asked] = first.exp() @ net.embedding.weight
    second = plain(xt, t, asked, guess=guess)
    torch.testing.assert_close(remembering(xt, t, rows), second[rows[asked]])
    assert not torch.allclose(first, second)
    known = torch.zeros_like(t)
    known[:, 0] = 0.5
    remembering(xt, known, known > 0)
    assert (remembering.guess[:, 1:] == 0).all()  # of what is known there is nothing to guess


def test_sequences_that_ask_for_nothing_are_not_computed():
    asked = []

    def spy(xt, t, rows, valid=None):
        asked.append(len(xt))
        return torch.zeros(int(rows.sum()), V)

    xt, t, rows = inputs(4)
    rows[1:3] = False
    OneByOne(spy)(xt, t, rows)
    Batched(spy)(xt, t, rows)
    assert asked == [1, 1, 2]


def test_temperature_sharpens_and_zero_leaves_the_likeliest():
    log_p = torch.tensor([[0.5, 0.3, 0.2]]).log()
    cold = Shaped(fixed(log_p), Temperature(0.5))(*NOTHING).exp()
    torch.testing.assert_close(cold, torch.tensor([[0.25, 0.09, 0.04]]) / 0.38)
    assert Shaped(fixed(log_p), Temperature(0))(*NOTHING).exp().tolist() == [[1, 0, 0]]


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.floats(0.05, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p_with_the_crossing_token(weights, p):
    probs = torch.tensor([weights], dtype=torch.float64)
    probs /= probs.sum()
    kept = Shaped(fixed(probs.log()), TopP(p))(*NOTHING).exp() > 0
    ranked = probs[kept].sort(descending=True).values
    assert ranked.sum() >= p - 1e-9
    assert ranked[:-1].sum() < p + 1e-9
    if kept.sum() < probs.numel():
        assert probs[~kept].max() <= ranked[-1] + 1e-12


def test_top_p_drops_what_lies_beyond_the_crossing_token():
    log_p = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert (Shaped(fixed(log_p), TopP(0.6))(*NOTHING).exp() > 0).tolist() == [[True, True, False]]


def test_without_a_token_the_others_keep_their_odds():
    log_p = torch.tensor([[0.5, 0.3, 0.2]]).log()
    found = Shaped(fixed(log_p), Without((0,)))(*NOTHING).exp()
    torch.testing.assert_close(found, torch.tensor([[0, 0.6, 0.4]]))


@pytest.mark.parametrize("shape", [(3, 5), (7,)])
def test_the_configuration_survives_a_round_trip(tmp_path, shape):
    net = DiffusionTransformer(network().config)
    net.save_pretrained(tmp_path)
    again = DiffusionTransformer.from_pretrained(tmp_path)
    xt = torch.zeros(1, *shape[:1], dtype=torch.long)
    assert (again(xt).logits == net(xt).logits).all()


def score_logits(process, log_p0, xt, t):
    """What a network of scores that knows the law puts out."""
    flat = flat_text(process).expand_as(log_p0)
    return log_ratios(process, log_p0, xt, t) - log_ratios(process, flat, xt, t)


def scored(noise, schedule, t, error=0.0, n=200, k=27):
    """Beliefs (n, k), read off scores that are wrong by `error` nats, and those of who knows nothing."""
    process, rng = make_process(noise, schedule, Vocabulary(k)), torch.Generator().manual_seed(2)
    log_p0 = (2 * torch.randn(n, k, generator=rng, dtype=torch.float64)).log_softmax(-1)
    clock, xt = torch.full((n,), t, dtype=torch.float64), torch.randint(0, k, (n,), generator=rng)
    logits = score_logits(process, log_p0, xt, clock)
    logits = logits + error * torch.randn(logits.shape, generator=rng, dtype=torch.float64)
    found = HEADS["score"].belief(process, logits, xt, clock)
    return process, clock, log_p0, found, flat_text(process).expand_as(log_p0)


def apart(log_p, log_q):
    """L1, the mean over rows."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1).mean().item()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "geometric"])
def test_a_score_that_is_a_little_wrong_is_read_as_little_knowledge_not_as_wild_belief(schedule):
    """Its error grows as 1 / alpha, and alpha of the geometric schedule falls to 2e-9."""
    for t in (0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
        _, _, truth, found, flat = scored("uniform", schedule, t, error=0.01)
        assert apart(found, truth) < apart(flat, truth) + 0.05
        process, clock, truth, exact, _ = scored("uniform", schedule, t)
        if process.schedule.alpha(clock)[0] > 0.031:
            assert apart(exact, truth) < 1e-6


@pytest.mark.parametrize("schedule", ["linear", "information"])
@pytest.mark.parametrize("noise", ["band:1", "gaussian:2"])
def test_a_score_of_matrices_is_judged_by_a_belief_whose_noisy_law_is_its_own(noise, schedule):
    """Fine detail that noise has wiped out cannot be read off again; but nothing hangs on it."""
    for t in (0.001, 0.05, 0.3, 0.6, 0.9):
        process, clock, truth, found, _ = scored(noise, schedule, t)
        assert apart(process.marginal(found, clock), process.marginal(truth, clock)) < 0.015


@pytest.mark.parametrize("process", ["absorbing", "uniform", "hybrid:0.1"])
@pytest.mark.parametrize("objective", ["elbo", "cross-entropy", "score-entropy"])
def test_a_loss_in_parts_has_the_value_and_the_gradients_of_the_whole(process, objective, monkeypatch):
    made = make_process(process, "linear", Vocabulary(V, V - 1, (V - 1,)))
    learnt = make_objective(objective, None, made)
    net = network(clock="time")
    asked = NetworkDenoiser(net, made, HEADS["leave-one-out"], torch.float32)
    rng = torch.Generator().manual_seed(1)
    x0 = torch.randint(0, V - 1, (16, L), generator=rng)
    t = torch.rand(16, 1, generator=rng, dtype=torch.float64).expand(16, L)
    xt = made.noise(x0, t, Streams(range(16)))
    rows = made.unknown(xt, t)
    read = learnt.reads(asked.head)
    of = (x0, xt, t)
    count = int(rows.sum())
    padded = -(-count // 128) * 128
    seen = []

    def cost(logits, x0, xt, t):
        seen.append(len(logits))
        return learnt(made, read(made, logits, xt, t), x0, xt, t)

    def gradients():
        net.zero_grad()
        loss = asked.total(cost, of, xt, t, rows)
        (3 * loss).backward()
        return loss.detach(), [weight.grad.clone() for weight in net.parameters()]

    whole, slopes = gradients()
    assert seen == [padded]
    monkeypatch.setitem(denoisers.AT_ONCE, "cpu", 1)
    seen.clear()
    parts, others = gradients()
    assert max(seen) == 128
    assert sum(seen) == padded > 128
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    for one, other in zip(others, slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(asked.total(cost, of, xt, t, rows), whole, rtol=1e-5, atol=1e-5)


def test_rounded_numbers_are_added_up_in_slices_as_finely_as_the_sum(monkeypatch):
    monkeypatch.setattr(denoisers, "SLICE", 24)
    more = torch.randn(11, 7, generator=torch.Generator().manual_seed(1)).bfloat16()
    for total in (torch.zeros(11, 7), torch.zeros(7), torch.zeros(()), torch.zeros(0, 7)):
        part = more[: len(total)] if total.ndim == 2 else more[0] if total.ndim else more[0, 0]
        for _ in range(300):
            denoisers.add_up(total, part)
        torch.testing.assert_close(total, 300 * part.float(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 8, 9])
def test_few_rows_of_a_head_have_the_logits_of_many(rows):
    head, hidden = network().head, torch.randn(rows, 32, generator=torch.Generator().manual_seed(1))
    logits = head(hidden)
    assert logits.is_contiguous()
    torch.testing.assert_close(logits, hidden @ head.weight.t(), rtol=1e-5, atol=1e-5)


def test_matrices_that_are_rounded_once_for_all_parts_have_the_gradients_of_a_loss_at_once(monkeypatch):
    """To the precision of bf16, in which both compute."""
    made = make_process("absorbing", "linear", Vocabulary(V, V - 1, (V - 1,)))
    net = network()
    asked = NetworkDenoiser(net, made, HEADS["leave-one-out"], torch.bfloat16)
    xt, t, rows = inputs(b=32)

    def gradients(at_once):
        monkeypatch.setitem(denoisers.AT_ONCE, "cpu", at_once)
        net.zero_grad()
        asked.total(lambda logits, x0: logits.log_softmax(-1)[:, 0], (xt,), xt, t, rows).backward()
        return {name: weight.grad for name, weight in net.named_parameters()}

    whole, parts = gradients(2**24), gradients(1)
    assert rows.sum() > 256
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_one_table_to_read_and_write_by_has_the_gradients_of_both(monkeypatch):
    """In parts, too."""
    monkeypatch.setitem(denoisers.AT_ONCE, "cpu", 1)
    tied, untied = (network(tie_word_embeddings=t) for t in (True, False))
    untied.load_state_dict(tied.state_dict())
    xt, t, rows = inputs(b=32)
    for net in (tied, untied):
        denoiser(net).total(lambda logits, x0: logits.log_softmax(-1)[:, 0], (xt,), xt, t, rows).backward()
    assert tied.head.weight is tied.embedding.weight
    of_both = untied.embedding.weight.grad + untied.head.weight.grad
    assert of_both.abs().min() > 0
    torch.testing.assert_close(
        tied.embedding.weight.grad, of_both, rtol=0, atol=1e-5 * float(of_both.abs().max())
    )


@torch.no_grad()
def test_a_network_begins_with_beliefs_that_hardly_tell_tokens_apart():
    """But for what stands there, where that is read and written by one table beside a clock."""
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "width": 64, "layers": 2, "heads": 2}
    ids = inputs()[0]

    def logits(**told):
        return Transformer(DiffusionTransformerConfig(**shape, **told)).logits(ids)

    assert not logits(clock="time").any()
    flat = logits(tie_word_embeddings=True).log_softmax(-1) + math.log(300)
    assert flat.std() < 0.2
    assert abs(flat.mean()) < 0.02
    repeating = logits(tie_word_embeddings=True, clock="time")
    assert (repeating.argmax(-1) == ids).float().mean() > 0.9


@torch.no_grad()
def test_of_a_trunk_in_bf16_logits_are_as_fine_as_float32():
    net = network()
    xt, t, rows = inputs(b=8)
    asked = NetworkDenoiser(
        net, make_process("uniform", "linear", Vocabulary(V, None, ())), None, torch.bfloat16
    )
    logits = logits_at(asked, xt, t, rows)
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).float().mean() > 0.9


@torch.no_grad()
@pytest.mark.filterwarnings("default")  # of the compiler about itself
@COMPILED
def test_a_network_is_compiled_once_for_one_sequence_and_once_for_any_other_number():
    net = network()
    plain, compiled, heard = denoiser(net), denoiser(net), []
    compiled.compile(heard.append, varies=True)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    for b in (1, 4, 3, 2, 7):
        told = inputs(b=b)
        torch.testing.assert_close(compiled(*told), plain(*told), rtol=1e-4, atol=1e-4)
    xt, t, _ = inputs(b=2)
    for few in (1, 2, 40):  # positions asked about
        rows = torch.arange(2 * L).view(2, L) < few
        torch.testing.assert_close(compiled(xt, t, rows), plain(xt, t, rows), rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not heard


def test_sequences_are_padded_to_few_numbers_of_them_by_their_last_one():
    """What a GPU records graphs for; that they compute the same is asked of one in test_devices.py."""
    rooms = [room_for(count) for count in range(1, 65)]
    assert sorted(set(rooms)) == [*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    assert all(count <= room < 1.25 * count for count, room in enumerate(rooms, 1))
    xt, clock = torch.arange(6).view(3, 2), torch.rand(3, 2)
    longer = padded({"xt": xt, "clock": clock, "valid": None}, 2)
    assert longer["xt"].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert torch.equal(longer["clock"][:3], clock)
    assert longer["valid"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler about itself
def test_what_is_compiled_of_a_large_vocabulary_has_the_value_and_the_gradients_of_plain_python(monkeypatch):
    """In parts, as training computes it; with another number of rows, too."""
    size = denoisers.MANY + 5
    process = make_process("absorbing", "linear", Vocabulary(size, size - 1, (size - 1,)))
    shape = {"vocab_size": size, "width": 32, "layers": 1, "heads": 2}
    net, objective = Transformer(DiffusionTransformerConfig(**shape)), make_objective("elbo", None, process)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    monkeypatch.setitem(denoisers.AT_ONCE, "cpu", 128 * size)

    def cost(logits, x0, xt, t):
        return objective(process, HEADS["leave-one-out"].belief(process, logits, xt, t), x0, xt, t)

    def measured(asked, share):
        x0 = torch.arange(16 * 24).view(16, 24)
        t = torch.full((16, 24), 0.5, dtype=torch.float64)
        rows = torch.arange(24).expand(16, 24) < share
        net.zero_grad()
        loss = asked.total(cost, (x0, x0.masked_fill(rows, size - 1), t), x0, t, rows)
        loss.backward()
        return [loss.detach(), *(weight.grad.clone() for weight in net.parameters())]

    heard = []
    plain, compiled = (NetworkDenoiser(net, process, HEADS["leave-one-out"], torch.float32) for _ in range(2))
    compiled.compile(heard.append)
    for share in (20, 13):
        for found, expected in zip(measured(compiled, share), measured(plain, share), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not heard


def test_a_head_with_padded_rows_puts_out_a_vocabulary():
    """Off a CPU; its numbers are compared on a GPU."""
    net = network().to("meta")
    logits = net.head(torch.zeros(3, net.config.width, device="meta"))
    assert logits.shape == (3, 64)
    assert net.logits(torch.zeros(2, 5, dtype=torch.long, device="meta")).shape == (2, 5, V)


def test_the_loss_of_no_rows_is_nothing():
    xt, t, _ = inputs()
    rows = torch.zeros_like(xt, dtype=torch.bool)
    loss = denoiser(network()).total(lambda logits, x0: logits.sum(-1), (xt,), xt, t, rows)
    loss.backward()
    assert loss == 0
