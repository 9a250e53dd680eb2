"""Laws of noise, over every registered process and schedule."""

import json
import math

import pytest
import torch
from chains import OneStream
from scipy.stats import chisquare
from worlds import (
    CONTINUOUS,
    PER_POSITION,
    SYMBOLS,
    VOCABULARY,
    chain_states,
    continuous,
    make,
    processes,
    random_belief,
)

from ddcli.errors import DdcliError
from ddcli.objective import elbo, elbo_step
from ddcli.process import (
    PROCESSES,
    Absorbing,
    Vocabulary,
    clean_posterior,
    leave_one_out,
    make_process,
    one_hot,
    posterior,
    prior,
    prior_term,
)
from ddcli.process.matrix import normalised
from ddcli.randomness import LOG_ZERO, Streams, categorical
from ddcli.schedule import SCHEDULES, Linear, make_schedule, make_times, time_grid, with_slope

F64 = torch.float64


def matrix(process, s, t):
    """Q_{s:t}, (V, V), columns from: q(x_t = i | x_s = j)."""
    v = process.vocabulary.size
    times = torch.full((v,), s, dtype=F64), torch.full((v,), t, dtype=F64)
    return process.likelihood(torch.arange(v), *times).exp()  # row i: q(x_t = i | x_s = every j)


@processes
def test_columns_of_every_transition_sum_to_one(process):
    q = matrix(process, 0.3, 0.8)
    chain = chain_states(process)
    torch.testing.assert_close(q[:, chain].sum(0), torch.ones(len(chain), dtype=F64))


@processes
def test_steps_compose_to_the_marginal(process):
    """Chapman-Kolmogorov, in the column convention: Q_{0:t} = Q_{s:t} Q_{0:s}."""
    q = matrix(process, 0.35, 0.8) @ matrix(process, 0.0, 0.35)
    torch.testing.assert_close(q, matrix(process, 0.0, 0.8), rtol=0, atol=1e-12)


@processes
def test_the_marginal_is_a_product_with_columns(process):
    rng = torch.Generator().manual_seed(0)
    log_p0, t = random_belief(process, 1, rng)[0], torch.tensor(0.6, dtype=F64)
    torch.testing.assert_close(process.marginal(log_p0, t).exp(), matrix(process, 0.0, 0.6) @ log_p0.exp())


def test_the_column_convention_on_a_matrix_that_is_not_symmetric():
    q = matrix(Absorbing.over(VOCABULARY, Linear()), 0.0, 0.25)
    assert q[VOCABULARY.mask_id, 0] == pytest.approx(0.25)  # from a symbol to the mask
    assert q[0, VOCABULARY.mask_id] == 0  # never back


@processes
def test_the_ends_of_time_are_the_clean_text_and_the_stationary_distribution(process):
    log_p0 = one_hot(torch.tensor(1), process.vocabulary.size)
    zero, one = torch.tensor(0.0, dtype=F64), torch.tensor(1.0, dtype=F64)
    torch.testing.assert_close(process.marginal(log_p0, zero).exp(), log_p0.exp())
    end = 1e-12 if process.forgets else 2e-6  # what the world's list of steps leaves of the text
    torch.testing.assert_close(process.marginal(log_p0, one).exp(), prior(process).exp(), rtol=0, atol=end)


@processes
def test_noise_follows_its_marginal(process):
    n, t = 20_000, 0.4
    x0 = torch.full((1, n), 2)
    xt = process.noise(x0, torch.full((1, n), t, dtype=F64), Streams([6]))
    expected = process.marginal(
        one_hot(torch.tensor(2), process.vocabulary.size), torch.tensor(t, dtype=F64)
    ).exp()
    seen = torch.bincount(xt[0], minlength=process.vocabulary.size)
    possible = expected > 0
    assert seen[~possible].sum() == 0
    assert chisquare(seen[possible], n * expected[possible]).pvalue > 1e-3


@processes
def test_a_position_at_clock_zero_is_never_touched(process):
    x0 = torch.arange(SYMBOLS).repeat(4, 100)
    clock = (torch.arange(x0.shape[1]) % 2).double().expand(x0.shape)
    xt = process.noise(x0, clock, Streams(range(4)))
    assert (xt == x0)[clock == 0].all()
    assert (xt != x0)[clock == 1].any()


@processes
def test_the_posterior_is_bayes_rule_by_enumeration(process):
    rng = torch.Generator().manual_seed(1)
    s, t = 0.3, 0.7
    log_p0 = random_belief(process, 1, rng)[0]
    for xt in chain_states(process):
        joint = torch.zeros(process.vocabulary.size, dtype=F64)
        for x0 in range(SYMBOLS):
            joint += log_p0[x0].exp() * matrix(process, 0.0, s)[:, x0] * matrix(process, s, t)[xt]
        found = posterior(process, log_p0, torch.tensor(xt), *torch.tensor([s, t], dtype=F64))
        torch.testing.assert_close(found.exp(), joint / joint.sum(), rtol=1e-9, atol=1e-12)


@processes
def test_a_position_that_does_not_move_keeps_its_token(process):
    t = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    xt = torch.tensor([1, 1, 1])
    log_p = posterior(process, random_belief(process, 3, torch.Generator().manual_seed(2)), xt, t, t)
    assert (log_p.argmax(-1) == xt).all()
    assert log_p.max(-1).values.abs().max() < 1e-9


@processes
def test_leave_one_out_undoes_the_own_token(process):
    rng = torch.Generator().manual_seed(3)
    log_p0, t = random_belief(process, 4, rng), torch.full((4,), 0.45, dtype=F64)
    chain = chain_states(process)
    xt = torch.tensor([0, 1, 2, chain[-1]])
    log_posterior = posterior(process, log_p0, xt, torch.zeros_like(t), t)
    seen = log_posterior > LOG_ZERO / 2  # a visible token of absorbing noise hides what the others think
    found = leave_one_out(process, log_posterior, xt, t)
    keep = seen.all(-1) if process.needs_clock else xt == VOCABULARY.mask_id
    torch.testing.assert_close(found[keep][:, :SYMBOLS], log_p0[keep][:, :SYMBOLS], rtol=1e-6, atol=1e-6)


@processes
def test_the_posterior_of_the_clean_token_is_bayes_rule_by_its_fast_path_too(process):
    rng = torch.Generator().manual_seed(6)
    log_p0, t = random_belief(process, 4, rng), torch.full((4,), 0.45, dtype=F64)
    xt = torch.tensor([0, 1, 2, chain_states(process)[-1]])
    expected = posterior(process, log_p0, xt, torch.zeros_like(t), t).exp()
    torch.testing.assert_close(clean_posterior(process, log_p0, xt, t).exp(), expected, rtol=1e-9, atol=1e-12)


@continuous
def test_rates_are_the_slope_of_the_likelihood(process):
    """R_t(y -> xt) = lim q(x_t = xt | x_{t - dt} = y) / dt for y != xt."""
    dt = 1e-7
    for xt in chain_states(process):
        t = torch.tensor(0.55, dtype=F64)
        rate = process.rate(torch.tensor(xt), t)
        near = process.likelihood(torch.tensor(xt), t - dt, t).exp() / dt
        other = torch.arange(process.vocabulary.size) != xt
        torch.testing.assert_close(rate[other], near[other], rtol=1e-5, atol=1e-6)
        assert rate[xt] == 0


@processes
def test_opening_and_opened_make_up_the_posterior(process):
    rng = torch.Generator().manual_seed(4)
    s, t = torch.full((3,), 0.2, dtype=F64), torch.full((3,), 0.9, dtype=F64)
    xt = torch.tensor([0, 2, chain_states(process)[-1]])
    log_p0 = random_belief(process, 3, rng)
    share = process.opening(xt, s, t)[:, None]
    both = (
        share * process.opened(log_p0, xt, s, t).exp()
        + (1 - share) * one_hot(xt, process.vocabulary.size).exp()
    )
    expected = posterior(process, log_p0, xt, s, t).exp()
    torch.testing.assert_close(both, expected, rtol=1e-9, atol=1e-12)


@processes
def test_nothing_is_nan_at_the_ends_of_time(process):
    rng = torch.Generator().manual_seed(5)
    for s, t in [(0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 1e-12), (1 - 1e-12, 1.0)]:
        clocks = [torch.full((SYMBOLS,), c, dtype=F64) for c in (s, t)]
        chain = chain_states(process)[-SYMBOLS:]
        log_p = posterior(process, random_belief(process, SYMBOLS, rng), torch.tensor(chain), *clocks)
        assert torch.isfinite(log_p).all()


@pytest.mark.parametrize("name", PER_POSITION)
def test_where_nothing_is_asked_nothing_is_answered(name):
    """A batch in which no position is unknown has rows of no belief."""
    process, v = make(name), VOCABULARY.size
    log_p, x, t = torch.zeros(0, v, dtype=F64), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=F64)
    assert process.marginal(log_p, t).shape == (0, v)
    assert process.unmix(log_p, t).shape == (0, v)
    assert process.likelihood(x, t, t).shape == (0, v)
    assert posterior(process, log_p, x, t, t).shape == (0, v)
    assert clean_posterior(process, log_p, x, t).shape == (0, v)
    assert leave_one_out(process, log_p, x, t).shape == (0, v)
    assert elbo_step(process, log_p, x, x, t, t).shape == (0,)
    assert prior_term(process, x).shape == (0,)
    assert process.noise(x[:, None], t[:, None], OneStream(0)).shape == (0, 1)
    if name in CONTINUOUS:
        assert elbo(process, log_p, x, x, t).shape == (0,)
        assert process.rate(x, t).shape == (0, v)


@pytest.mark.parametrize("share", [0.49, 0.51])
def test_steps_that_keep_more_than_half_of_the_text_are_refused_with_the_share(share, tmp_path):
    """Two symbols whose second eigenvalue is `share` after two steps: so far apart do their columns end."""
    keep = (1 + math.sqrt(share)) / 2
    path = tmp_path / "noise.json"
    path.write_text(json.dumps({"steps": [[keep, 1 - keep], [1 - keep, keep]], "repeat": 2}))
    if share < 0.5:
        assert make_process(f"steps:{path}", "linear", Vocabulary(2)).left == pytest.approx(share)
    else:
        with pytest.raises(DdcliError, match="after all 2 steps 51% of the text is left"):
            make_process(f"steps:{path}", "linear", Vocabulary(2))


def test_absorbing_noise_needs_a_mask():
    with pytest.raises(DdcliError, match="mask token"):
        Absorbing.over(Vocabulary(4), Linear())


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_falls_from_one_to_zero_with_the_slope_it_says(name):
    schedule = make_schedule(name)
    t = time_grid(1000).flip(0)
    alpha = schedule.alpha(t)
    assert alpha[0] == 1
    assert alpha[-1] == pytest.approx(math.exp(-20) if name == "geometric" else 0, abs=1e-12)
    assert (alpha.diff() < 0).all()
    middle = t[1:-1]
    _, slope = with_slope(schedule.alpha, middle)
    rise = (schedule.alpha(middle + 1e-6) - schedule.alpha(middle - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, rise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", ["band:1", "gaussian:2"])
@pytest.mark.parametrize("symbols", [3, 27])
def test_by_default_noise_of_generators_takes_as_much_of_the_text_in_every_instant(noise, symbols):
    """I(x_0; x_t) of flat text, by its definition. On the linear schedule most is gone after a hundredth."""
    process, clean = make_process(noise, "auto", Vocabulary(symbols)), one_hot(torch.arange(symbols), symbols)

    def told(process, t):
        log_q = process.marginal(clean, t.expand(symbols))
        return (log_q.exp() * (log_q - log_q.exp().mean(0).log())).sum(-1).mean() / math.log(symbols)

    for t in torch.linspace(0.02, 0.98, 25, dtype=F64):
        assert told(process, t).item() == pytest.approx(1 - t.item(), abs=0.01)
    linear = make_process(noise, "linear", Vocabulary(symbols))
    assert told(linear, torch.tensor(0.1, dtype=F64)) < (0.9 if symbols == 3 else 0.35)


@pytest.mark.parametrize("noise", ["band:1", "gaussian:2"])
def test_the_schedule_of_information_is_one_like_any_other(noise):
    schedule = make_process(noise, "information", Vocabulary(27)).schedule
    t = torch.cat([torch.tensor([0.0, 1e-9, 1e-5], dtype=F64), torch.linspace(0.001, 1, 1000, dtype=F64)])
    alpha, lost = schedule.alpha(t), schedule.lost(t)
    assert (alpha[0], alpha[-1]) == (1, 0)
    assert (alpha.diff() < 0).all()
    torch.testing.assert_close(alpha + lost, torch.ones_like(t))
    assert lost[2] / lost[1] == pytest.approx(1e4)  # all its digits near the clean end
    torch.testing.assert_close(schedule.when(lost), t)
    (_, falls), (_, rises) = (with_slope(f, t) for f in (schedule.alpha, schedule.lost))
    torch.testing.assert_close(falls, -rises)
    near = 1e-7 * torch.ones_like(t[3:-1])
    slope = (schedule.alpha(t[3:-1] + near) - schedule.alpha(t[3:-1] - near)) / (2 * near)
    assert (falls[3:-1] / slope - 1).abs().median() < 1e-5  # but at a knot


def test_a_step_makes_each_transition_once(monkeypatch):
    """Exponentials of matrices are what noise by matrices spends its time on."""
    process, asked = make("band"), []
    t = torch.tensor([[0.3], [0.7]], dtype=F64).expand(2, 4)
    x0 = torch.tensor([[0, 1, 2, 0], [1, 2, 1, 0]])
    between = type(process).between
    monkeypatch.setattr(type(process), "between", lambda *a: asked.append(a[1:]) or between(*a))
    xt = process.noise(x0, t, Streams([1, 2]))
    assert process.needs_clock  # which looks at a time of its own
    del asked[1:]
    belief = one_hot(x0, VOCABULARY.size).exp().add(0.1).log().log_softmax(-1)
    elbo(process, belief, x0, xt, t)
    assert len(asked) == 1
    elbo_step(process, belief, x0, xt, t / 2, t)
    assert len(asked) == 3


def test_masks_at_unequal_rates_tell_of_a_token_by_the_time_and_need_a_clock():
    """Two equal positions, both masked: the belief of one from the other goes from 1 : 4 to even."""
    process = make("generator:hiding")
    t = torch.tensor([0.1, 0.9], dtype=F64)
    told = process.likelihood(torch.full((2,), VOCABULARY.mask_id), torch.zeros_like(t), t)[:, :3].softmax(-1)
    assert (told[:, 0] / told[:, 2]).tolist() == pytest.approx([0.25, 1.0], rel=0.2)
    assert process.needs_clock
    alike = torch.zeros(4, 4, dtype=F64).index_fill(0, torch.tensor([3]), 1.0)
    absorbing = PROCESSES["generator"].over(VOCABULARY, Linear(), tables={"matrix": normalised(alike)})
    assert not absorbing.needs_clock


def test_information_is_the_schedule_of_generators_alone():
    rates = torch.ones(4, 4) * torch.tensor([0, 0, 0, 1.0])[:, None]
    masking = Vocabulary(4, 3, (3,))
    absorbing = PROCESSES["generator"].over(masking, Linear(), tables={"matrix": normalised(rates.double())})
    t = torch.linspace(0.01, 0.99, 50, dtype=F64)
    torch.testing.assert_close(absorbing.even.alpha(t), 1 - t, rtol=0, atol=3e-3)
    for noise in ("absorbing", "uniform", "hybrid:0.1"):
        assert make_process(noise, "auto", masking).schedule == Linear()
        with pytest.raises(DdcliError, match="information schedule is that of a generator"):
            make_process(noise, "information", masking)


def test_a_schedule_takes_its_number_after_a_colon():
    t = torch.tensor([0.5], dtype=F64)
    assert make_schedule("polynomial:3").alpha(t).item() == pytest.approx(1 - 0.125)
    for bad in ("polynomial:x", "linear:2", "polynomial:-1", "polynomial:nan", "geometrical"):
        with pytest.raises(DdcliError):
            make_schedule(bad)


def test_a_schedule_whose_noise_all_falls_into_an_instant_is_refused():
    for number in ("0.1", "20"):
        make_schedule(f"polynomial:{number}")
    for number in ("0.09", "21", "1e9", "inf"):
        with pytest.raises(DdcliError, match=r"from 0\.1 to 20"):
            make_schedule(f"polynomial:{number}")


@pytest.mark.parametrize("spec", ["clipped:0.5", "clipped:0.8:0.3", "bell:2", "bell:0.5:0"])
def test_times_that_cannot_be_are_refused_in_plain_words(spec):
    with pytest.raises(DdcliError, match=r"such as (clipped:0\.3:0\.8|bell:0\.5:0\.2:0\.15)") as refusal:
        make_times(spec)
    assert "Times(" not in str(refusal.value)


def test_clipped_times_are_even_between_their_ends():
    u = torch.linspace(0, 0.999, 9, dtype=F64)
    torch.testing.assert_close(make_times("clipped:0.2:0.6")(u), 0.2 + 0.4 * u)


def test_draws_reach_into_the_tail_of_a_zipf_vocabulary():
    """The last of 50,257 tokens get their share, which a race in float32 would deny them."""
    v, n = 50_257, 400
    p = 1 / torch.arange(1, v + 1, dtype=F64)
    p /= p.sum()
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    drawn = categorical(p.log().float().expand(n, v), u)
    for cut in (1, 100, 10_000, 40_000):
        expected = p[cut:].sum().item()
        assert (drawn >= cut).double().mean().item() == pytest.approx(expected, abs=1.5 / n)


def test_a_token_of_no_probability_is_never_drawn():
    log_p = torch.tensor([LOG_ZERO, 0.0, LOG_ZERO, 0.0, LOG_ZERO], dtype=F64).expand(4, 5)
    u = torch.tensor([0.0, 0.4999999, 0.5, 1 - 2**-53], dtype=F64)
    assert categorical(log_p, u).tolist() == [1, 1, 3, 3]
