"""Laws that engines of discrete diffusion are known to break without a test failing."""

import math
import os
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from chains import OneStream, Oracle, random_chain, sample
from scipy.stats import chisquare
from tiny import tiny_config
from worlds import (
    CONTINUOUS,
    PER_POSITION,
    RING,
    STEPS,
    SYMBOLS,
    chain_states,
    continuous,
    make,
    random_belief,
)

from ddcli.data import pack
from ddcli.denoiser import HEADS
from ddcli.generate import generate
from ddcli.likelihood import PUBLISHED_FROM, nelbo
from ddcli.objective import ContinuousElbo, DiscreteElbo, elbo, elbo_step
from ddcli.plan import Silent, make_plan
from ddcli.process import (
    PROCESSES,
    Absorbing,
    Uniform,
    Vocabulary,
    clean_posterior,
    one_hot,
    posterior,
    prior,
    prior_term,
)
from ddcli.process.matrix import normalised
from ddcli.randomness import LOG_ZERO
from ddcli.sampler import Ancestral
from ddcli.schedule import Linear, make_schedule, time_grid
from ddcli.tokenizer import make_tokenizer

F64 = torch.float64

# -- a large vocabulary ------------------------------------------------------------------------------------

ZIPF_SIZE = 50_257
ZIPF_STEPS = 1024
EDGES = torch.tensor([1, 2, 4, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000])  # of groups of ranks
GRID = 2.0**-24  # the numbers that torch.rand gives in float32 are its multiples


def zipf(size):
    p = 1 / torch.arange(1, size + 1, dtype=F64)
    return p / p.sum()


def raced(true, grid):
    """With which weight a race of exponentials on a grid draws a token of weight `true` beside a stay of 1.

    Token i wins where its E_i < true E_0, E_0 that of staying. If E_i is a multiple k of the grid, each with
    a chance of about `grid`, that is the sum over k >= 1 of grid exp(-k grid / true).
    """
    return torch.where(grid < 700 * true, grid / torch.expm1((grid / true).clamp(max=700)), 0.0)


def weights_when_half_is_open(p, steps):
    """Of tokens, beside a stay of 1, in the step from t = 1/2: the ancestral row over what its mask keeps."""
    opening = 2 / steps
    return p * opening / (1 - opening)


def test_numbers_in_float32_are_multiples_of_the_grid_and_reach_its_first():
    u = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)).double() / GRID
    assert (u == u.round()).all()
    assert u[u > 0].min() < 100
    assert -math.log1p(-GRID) == pytest.approx(GRID)


def test_a_race_on_a_grid_starves_rare_tokens_and_opens_less_as_its_closed_form_says():
    """On a coarse grid, so that little is to be drawn; the race itself is that of a float32 sampler."""
    grid, n = 2.0**-10, 400_000
    true = grid * torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5], dtype=F64)
    rng = torch.Generator().manual_seed(1)
    u = torch.randint(1, round(1 / grid), (n, len(true)), generator=rng).double() * grid
    stay = -torch.rand(n, generator=rng, dtype=F64).log()
    first, token = (-torch.log1p(-u) / true).min(-1)
    opens = first < stay
    drawn = torch.bincount(token[opens], minlength=len(true))
    seen = torch.cat([drawn, (~opens).sum()[None]])

    def due(weights):
        return n * torch.cat([weights, torch.ones(1, dtype=F64)]) / (1 + weights.sum())

    assert chisquare(seen, due(raced(true, grid))).pvalue > 1e-3
    assert chisquare(seen, due(true)).pvalue < 1e-6
    assert drawn[-1] < due(true)[-2] / 2


@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_ancestral_steps_keep_the_law_and_the_pace_of_a_large_vocabulary_where_a_race_loses_both(n):
    """A race in float32 on the scaled row is a hidden top-p; openings are drawn apart here, tokens
    in float64.

    Ours: which step a position opens in is even over the steps, and what it becomes is Zipf's law.
    """
    p = zipf(ZIPF_SIZE)
    true = weights_when_half_is_open(p, ZIPF_STEPS)
    wrong = raced(true, GRID)
    law = wrong / wrong.sum()
    assert wrong.sum() < 0.8 * true.sum()
    assert -torch.xlogy(law, law).sum() < -torch.xlogy(p, p).sum() - 1

    bins = 16
    vocabulary = Vocabulary(ZIPF_SIZE + 1, mask_id=ZIPF_SIZE, special_ids=(ZIPF_SIZE,))
    belief = torch.cat([p.log(), torch.tensor([LOG_ZERO])]).float()  # as a network gives it
    frames = generate(
        lambda xt, t, rows, valid=None: belief.expand(int(rows.sum()), -1),
        Absorbing.over(vocabulary, Linear()),
        Ancestral(),
        torch.zeros(n, 1, dtype=torch.long),
        torch.zeros(n, 1, dtype=torch.bool),
        time_grid(ZIPF_STEPS)[:, None, None].expand(-1, n, -1),
        OneStream(n, 0),
    )
    opened = []
    for frame in frames:
        opened.append(int(frame.opened.sum()))
    assert chisquare(torch.tensor(opened[1:]).view(bins, -1).sum(-1)).pvalue > 1e-3

    seen = torch.bincount(torch.bucketize(frame.x[:, 0], EDGES, right=True), minlength=len(EDGES) + 1)
    ranks = torch.bucketize(torch.arange(ZIPF_SIZE), EDGES, right=True)
    shares = torch.zeros(len(EDGES) + 1, dtype=F64).index_add(0, ranks, p)
    starved = torch.zeros(len(EDGES) + 1, dtype=F64).index_add(0, ranks, law)
    assert chisquare(seen, n * shares).pvalue > 1e-3
    assert starved[-1] < 0.01 * shares[-1]  # what a race would leave of the tail


@pytest.mark.parametrize("n", [400, pytest.param(100_000, marks=pytest.mark.slow)])
def test_uniform_steps_keep_the_law_of_a_large_vocabulary(n):
    """One position, an exact belief: Zipf's law, in any number of steps."""
    process, p = Uniform.over(Vocabulary(ZIPF_SIZE), Linear()), zipf(ZIPF_SIZE)
    belief, seen = p.log().float(), torch.zeros(len(EDGES) + 1, dtype=torch.long)
    for seed in range(n // 200):  # rows of a whole vocabulary are large
        frames = generate(
            lambda xt, t, rows, valid=None: belief.expand(int(rows.sum()), -1),
            process,
            Ancestral(),
            torch.zeros(200, 1, dtype=torch.long),
            torch.zeros(200, 1, dtype=torch.bool),
            time_grid(3)[:, None, None].expand(-1, 200, -1),
            OneStream(200, seed),
        )
        for frame in frames:
            last = frame.x[:, 0]
        seen += torch.bincount(torch.bucketize(last, EDGES, right=True), minlength=len(EDGES) + 1)
    ranks = torch.bucketize(torch.arange(ZIPF_SIZE), EDGES, right=True)
    shares = torch.zeros(len(EDGES) + 1, dtype=F64).index_add(0, ranks, p)
    assert chisquare(seen, n * shares).pvalue > 1e-3


# -- the ends of time --------------------------------------------------------------------------------------


def test_the_prior_term_is_what_the_end_of_a_schedule_leaves_of_the_text():
    """alpha ln K under absorbing noise; and its closed form under uniform noise."""
    schedule, k = make_schedule("geometric:3"), SYMBOLS
    a = schedule.alpha(torch.ones((), dtype=F64)).item()
    x0 = torch.arange(k)
    masks = prior_term(make("absorbing", "geometric").over(make("absorbing").vocabulary, schedule), x0)
    torch.testing.assert_close(masks, torch.full((k,), a * math.log(k), dtype=F64))
    uniform = prior_term(Uniform.over(make("uniform").vocabulary, schedule), x0)
    found = (a + (1 - a) / k) * math.log((k - 1) * a + 1) + (1 - 1 / k) * (1 - a) * math.log1p(-a)
    torch.testing.assert_close(uniform, torch.full((k,), found, dtype=F64))


def test_the_strict_bound_has_the_prior_term_and_the_literatures_has_not():
    schedule, n = make_schedule("geometric:3"), 400
    process = Uniform.over(make("uniform").vocabulary, schedule)
    source = random_chain(SYMBOLS, seed=1)
    x0 = source.draw(n, 2, seed=0)
    u = torch.full((n,), 0.9, dtype=F64)  # a time within what papers integrate over
    nats = nelbo(
        process, Oracle(process, source), x0, torch.ones_like(x0, dtype=torch.bool), u, OneStream(n, 1)
    )
    torch.testing.assert_close(nats.strict - nats.literature, prior_term(process, x0))
    assert nats.strict.min() > 0


def test_times_below_the_published_ones_count_in_the_strict_bound_alone():
    process, source, n = make("uniform"), random_chain(SYMBOLS, seed=1), 4_000
    x0 = source.draw(n, 4, seed=0)
    u = torch.linspace(0, 1, n + 1, dtype=F64)[:-1]
    nats = nelbo(
        process, Oracle(process, source), x0, torch.ones_like(x0, dtype=torch.bool), u, OneStream(n, 1)
    )
    late = u >= 0.05 + 0.95 * (PUBLISHED_FROM**0.5 - 0.01) / 0.99 + 1e-9
    assert (nats.literature[~late] == 0).all()
    assert (nats.strict[late] == nats.literature[late]).all()
    assert nats.strict[~late].sum() > 0


@continuous
def test_bounds_and_their_gradients_are_numbers_at_both_ends_of_time(process):
    rng = torch.Generator().manual_seed(0)
    x0 = torch.arange(SYMBOLS).repeat(2)
    for t in (1e-12, 1e-5, 0.5, 1 - 1e-12, 1.0):
        clock = torch.full(x0.shape, t, dtype=F64)
        xt = process.noise(x0[None], clock[None], OneStream(1, 1))[0]
        for s in (0.0, t * (1 - 1e-9)):
            logits = random_belief(process, len(x0), rng).requires_grad_()
            cost = elbo_step(process, logits.log_softmax(-1), x0, xt, torch.full_like(clock, s), clock)
            if t < 1:
                cost = cost + elbo(process, logits.log_softmax(-1), x0, xt, clock)
            cost.sum().backward()
            assert torch.isfinite(cost).all()
            assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_float32_beliefs_cost_what_float64_ones_do_down_to_the_clean_end(name):
    """alpha and its like are float64 whatever a belief is: 1 - alpha has no digits left in float32."""
    process = make(name)
    rng = torch.Generator().manual_seed(3)
    for t in (1e-6, 1e-4, 1e-2, 0.5, 0.999):
        clock = torch.full((60,), t, dtype=F64)
        x0 = torch.randint(0, SYMBOLS, (60,), generator=rng)
        last = process.marginal(one_hot(torch.tensor(0), process.vocabulary.size), clock[0]).argmin()
        xt = torch.where(torch.arange(60) % 2 == 0, x0, (x0 + 1) % SYMBOLS)
        xt = (
            process.noise(xt[None], clock[None], OneStream(1, 4))[0]
            if process.needs_clock
            else last.expand(60)
        )
        log_p0 = random_belief(process, 60, rng)
        exact = elbo(process, log_p0, x0, xt, clock)
        rounded = elbo(process, log_p0.float(), x0, xt, clock).double()
        torch.testing.assert_close(rounded, exact, rtol=2e-3, atol=2e-3)


# -- heads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_belief_is_normalised_after_what_is_no_text_is_taken_out_and_spares_its_logits(dtype):
    process = make("absorbing")
    logits = torch.randn(6, process.vocabulary.size, generator=torch.Generator().manual_seed(0))
    logits[:, process.mask_id] = 50.0  # a mask the network is sure of
    logits = logits.to(dtype).requires_grad_()
    before = logits.detach().clone()
    xt, t = torch.full((6,), process.mask_id), torch.full((6,), 0.5, dtype=F64)
    log_p0 = HEADS["leave-one-out"].belief(process, logits.float(), xt, t)
    torch.testing.assert_close(log_p0.exp().sum(-1), torch.ones(6))
    assert (log_p0[:, ~process.vocabulary.is_text].exp() == 0).all()
    log_p0[:, 0].sum().backward()
    assert (logits == before).all()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, ~process.vocabulary.is_text] == 0).all()
    assert (logits.grad[:, process.vocabulary.is_text] != 0).any(-1).all()


def test_what_stands_for_impossible_stays_finite_in_low_precision():
    """-inf less -inf is no number; the stand-in for log 0 is finite in bf16, which has float32's range."""
    row = torch.full((4,), LOG_ZERO).to(torch.bfloat16)
    assert torch.isfinite(row).all()
    assert torch.isfinite(row.log_softmax(-1)).all()


@pytest.mark.parametrize("name", ["uniform", "hybrid", "stationary"])
def test_a_posterior_in_the_place_of_a_belief_counts_the_own_token_twice(name):
    """The law of one position after 50 steps, enumerated: exact by the belief, far off by the posterior."""
    process, states = make(name), torch.tensor(chain_states(make(name)))
    source = torch.tensor([0.6, 0.3, 0.1, 0.0, 0.0], dtype=F64)

    def drawn(plugged_in):
        law = prior(process).exp()
        for clocks in pairwise(time_grid(50)):
            t, s = (clock.expand(len(states)) for clock in clocks)
            belief = source.log().clamp(min=LOG_ZERO).expand(len(states), -1)
            law = law[states] @ posterior(process, plugged_in(belief, states, t), states, s, t).exp()
        return law

    exact = drawn(lambda belief, xt, t: belief)
    twice = drawn(lambda belief, xt, t: clean_posterior(process, belief, xt, t))
    torch.testing.assert_close(exact, source, rtol=0, atol=1e-9)
    assert (twice - source).abs().sum() > 0.1


# -- states ------------------------------------------------------------------------------------------------


def padded(name, extra):
    """A process whose vocabulary ends in ids that nobody uses, as where V is rounded up for speed."""
    size = SYMBOLS + 2 + extra
    special = tuple(range(SYMBOLS, size))
    counts = torch.tensor([5, 3, 1] + [9] * (size - SYMBOLS)).numpy()
    tables = {"generator": {"matrix": normalised(RING)}, "steps": {"matrix": STEPS}}.get(name)
    return PROCESSES[name].over(
        Vocabulary(size, SYMBOLS + 1, special, counts=counts), Linear(), tables=tables
    )


def widened(log_p, extra):
    return torch.cat([log_p, torch.full((len(log_p), extra), LOG_ZERO, dtype=F64)], -1)


@pytest.mark.parametrize("name", PER_POSITION)
def test_ids_that_pad_a_vocabulary_are_no_states_of_the_chain(name):
    """They change no bound and no law, and are never drawn."""
    plain, wide, extra = padded(name, 0), padded(name, 11), 11
    n, v = 600, plain.vocabulary.size
    rng = torch.Generator().manual_seed(5)
    x0 = torch.randint(0, SYMBOLS, (1, n), generator=rng)
    t, s = torch.full((n,), 0.6, dtype=F64), torch.full((n,), 0.3, dtype=F64)
    xt = wide.noise(x0, t[None], OneStream(1, 6))[0]
    assert (xt == plain.noise(x0, t[None], OneStream(1, 6))[0]).all()
    log_p0 = random_belief(plain, n, rng)
    law, wide_law = posterior(plain, log_p0, xt, s, t), posterior(wide, widened(log_p0, extra), xt, s, t)
    torch.testing.assert_close(wide_law[:, :v].exp(), law.exp(), rtol=1e-12, atol=1e-12)
    assert (wide_law[:, v:].exp() == 0).all()
    assert prior(wide)[v:].exp().sum() == 0
    steps = DiscreteElbo(10)
    torch.testing.assert_close(
        steps(wide, widened(log_p0, extra), x0[0], xt, t), steps(plain, log_p0, x0[0], xt, t)
    )
    if plain.timesteps is None:
        continuous = ContinuousElbo()
        torch.testing.assert_close(
            continuous(wide, widened(log_p0, extra), x0[0], xt, t), continuous(plain, log_p0, x0[0], xt, t)
        )


@pytest.mark.parametrize("name", PER_POSITION)
def test_the_last_step_leaves_nothing_but_text_and_no_evaluation_is_made_after_it(name):
    process, source = make(name), random_chain(SYMBOLS, seed=1)
    for steps in (1, 2, 5):
        x, nfe = sample(process, Ancestral(), Oracle(process, source), (200, 6), steps)
        assert (x < SYMBOLS).all()
        assert nfe.max() <= steps


# -- training ----------------------------------------------------------------------------------------------


def noised(text_file, step=0, **changes):
    """The batch of a step, as training would draw it but for what is changed."""
    plan = make_plan(tiny_config(text_file, train__times="even", train__batch_size=16), None, Silent())
    task = replace(plan.task, **changes)
    return task.noised(plan.data.train.batch(step, 16, seed=0), step, plan.device)


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("parts", [1, 8])
def test_the_times_of_a_step_fall_one_in_each_stratum_of_the_whole_batch(parts, blocks, text_file):
    """However it is split into micro-batches, and also where a sequence has several clocks."""
    for step in range(3):
        whole = noised(text_file, step, blocks=blocks)
        clocks = torch.cat([part.clock for part in whole.split(parts)])
        times = clocks.view(-1, clocks.shape[1] // blocks).amax(-1)
        strata = (times * len(times)).long()
        assert strata.sort().values.tolist() == list(range(16 * blocks))


def test_sequences_and_steps_draw_noise_of_their_own(text_file):
    first, second = (noised(text_file, step, times=lambda u: u * 0 + 0.5) for step in range(2))
    assert len({tuple(row) for x in (first, second) for row in (x.xt != x.x0).tolist()}) == 32


@pytest.mark.parametrize("spec", ["char", "byte", "bpe:300"])
def test_packing_does_not_depend_on_the_number_of_cores(spec, monkeypatch):
    documents = [f"document {i} says {'so ' * (i % 7)}" for i in range(700)]
    found = []
    for cores, parallel in ((1, "false"), (64, "true")):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        tokenizer = make_tokenizer(spec, documents, lambda line: None)
        found.append(pack(documents, tokenizer, 32, training=True).tokens)
    assert found[0].shape == found[1].shape
    assert (found[0] == found[1]).all()
