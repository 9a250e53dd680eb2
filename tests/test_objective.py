"""Laws of the bounds, over every registered process and schedule, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from worlds import (
    COUNTS,
    PER_POSITION,
    SYMBOLS,
    TABLES,
    VOCABULARY,
    continuous,
    exact_belief,
    forward_states,
    gauss_legendre,
    make,
    missed,
    processes,
    random_belief,
    times_of,
    world,
)

from ddcli.errors import DdcliError
from ddcli.objective import (
    ContinuousElbo,
    DiscreteElbo,
    elbo,
    elbo_step,
    general_elbo,
    general_elbo_step,
    general_score_entropy,
    make_objective,
    score_entropy,
)
from ddcli.process import PROCESSES, Vocabulary, log_ratios, make_process, one_hot, prior_term
from ddcli.randomness import LOG_ZERO
from ddcli.schedule import Polynomial, with_slope

F64 = torch.float64


def rows_of(process, n=64, seed=0):
    """Random clean tokens, times, noisy tokens and beliefs on the data symbols."""
    rng = torch.Generator().manual_seed(seed)
    x0 = torch.randint(0, SYMBOLS, (n,), generator=rng)
    t = times_of(process, torch.rand(n, generator=rng, dtype=F64) * 0.96 + 0.02)
    marginal = process.marginal(one_hot(x0, process.vocabulary.size), t).exp()
    xt = torch.multinomial(marginal, 1, generator=rng)[:, 0]
    return random_belief(process, n, rng), x0, xt, t


@continuous
def test_the_fast_path_is_the_general_elbo(process):
    log_p0, x0, xt, t = rows_of(process)
    torch.testing.assert_close(
        elbo(process, log_p0, x0, xt, t), general_elbo(process, log_p0, x0, xt, t), rtol=1e-9, atol=1e-9
    )


@continuous
def test_the_fast_score_entropy_is_the_general_one_for_any_score(process):
    """Of a belief, or of none."""
    log_p0, x0, xt, t = rows_of(process)
    score = log_ratios(process, log_p0, xt, t)
    wild = torch.randn(score.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    wild = (score + wild).scatter(-1, xt[:, None], 0.0)
    for log_score in (score, wild):
        slopes, found = [], []
        for form in (score_entropy, general_score_entropy):
            logits = log_score.clone().requires_grad_()
            nats = form(process, logits, x0, xt, t)
            nats.sum().backward()
            slopes.append(logits.grad)
            found.append(nats)
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-9, atol=1e-9)


@processes
def test_the_fast_step_is_the_general_step(process):
    log_p0, x0, xt, t = rows_of(process)
    for s in (times_of(process, t * 0.7), torch.zeros_like(t)):
        fast = elbo_step(process, log_p0, x0, xt, s, t)
        torch.testing.assert_close(
            fast, general_elbo_step(process, log_p0, x0, xt, s, t), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("name", ["absorbing", "uniform", "hybrid", "stationary", "generator", "band"])
@pytest.mark.parametrize("t", [1e-12, 1e-4, 9e-3])
def test_a_steep_schedule_loses_no_digits_near_the_clean_end(name, t):
    """Where 1 - alpha is 1e-16 and less, weights are 0/0 unless it is computed as such."""
    vocabulary = replace(VOCABULARY, counts=COUNTS)
    process = PROCESSES[name].over(vocabulary, Polynomial(8.0), tables=TABLES.get(name))
    log_p0, x0, _, _ = rows_of(process, 3)
    log_p0.requires_grad_()
    clock = torch.full((3,), t, dtype=F64)
    if t == 9e-3 and name != "absorbing":  # 1e-16 is lost: a token may have been another
        assert elbo(process, log_p0.detach(), x0, (x0 + 1) % SYMBOLS, clock).isfinite().all()
    loss = elbo(process, log_p0, x0, x0, clock)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(log_p0.grad).all()


@pytest.mark.parametrize("name", PER_POSITION)
def test_cross_entropy_is_asked_at_the_times_of_a_chain_of_steps_or_at_all(name):
    process, t = make(name), torch.linspace(0.01, 1, 50, dtype=F64)
    steps = process.timesteps or 16
    places = make_objective("cross-entropy", steps, process).times(t) * steps
    torch.testing.assert_close(places, places.round())
    assert set(places.round().tolist()) == set(range(1, steps + 1))
    if process.timesteps is None:
        assert make_objective("cross-entropy", None, process).times(t) is t
    else:
        assert make_objective("cross-entropy", None, process).timesteps == process.timesteps
        with pytest.raises(DdcliError, match=f"--timesteps {process.timesteps}"):
            make_objective("cross-entropy", 7, process)


@continuous
def test_many_small_steps_become_continuous_time(process):
    log_p0, x0, xt, t = rows_of(process)
    dt = 1e-6
    step = elbo_step(process, log_p0, x0, xt, t - dt, t) / dt
    torch.testing.assert_close(step, elbo(process, log_p0, x0, xt, t), rtol=1e-3, atol=1e-3)


@continuous
def test_gradients_of_the_fast_path_are_those_of_the_general_elbo(process):
    log_p0, x0, xt, t = rows_of(process)
    grads = []
    for form in (elbo, general_elbo):
        logits = log_p0.clone().requires_grad_()
        form(process, logits.log_softmax(-1), x0, xt, t).sum().backward()
        grads.append(logits.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("noise", ["uniform", "hybrid"])
def test_float32_is_enough_for_a_large_vocabulary(noise):
    """At the late end, where nearly nothing is left of the text, and in very short steps."""
    v, n = 20_000, 24
    process = make_process(noise, "linear", Vocabulary(v, v - 1, (v - 1,)))
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, v, generator=rng)
    logits[:, -1] = LOG_ZERO
    x0 = logits[:, :-1].softmax(-1).multinomial(1, generator=rng)[:, 0]
    xt = torch.randint(v - 1, (n,), generator=rng)
    xt[::2] = x0[::2]
    for form, early in ((elbo, None), (elbo_step, 1e-3), (elbo_step, 1e-5)):
        for late in (0.3, 0.9, 1 - 1e-5) if early is None else (0.3, 0.9):
            t, slopes, found = torch.full((n,), late, dtype=F64), [], []
            clocks = (t,) if early is None else (t - early, t)
            for dtype in (torch.float32, F64):
                leaf = logits.to(dtype, copy=True).requires_grad_()
                nats = form(process, leaf.log_softmax(-1), x0, xt, *clocks) / (early or 1)
                nats.sum().backward()
                slopes.append(leaf.grad.double())
                found.append(nats.detach().double())
            torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=2e-3)
            assert (slopes[0] - slopes[1]).norm() < 1e-3 * slopes[1].norm()


def expected_loss(process, objective, positions, grid, belief_of=None):
    """Exact mean over x_0, x_t (every string) and the times `grid` of the loss of the exact belief."""
    strings, log_p = world(positions)
    total = torch.zeros((), dtype=F64)
    for t in grid:
        states, joint = forward_states(process, strings, log_p, t)
        clock = torch.full(states.shape, float(t), dtype=F64)
        believed = log_p if belief_of is None else belief_of
        belief = exact_belief(process, strings, believed, states, t)
        for i, x0 in enumerate(strings):
            loss = objective(process, belief, x0.expand_as(states), states, clock).sum(-1)
            total = total + (joint[i] * loss).sum()
    return total / len(grid)


def entropy(positions):
    _, log_p = world(positions)
    return -(log_p.exp() * log_p).sum()


def ends(process, positions):
    """Mean prior term, and mean reconstruction of what a schedule that jumps at 0 has lost by then."""
    strings, log_p = world(positions)
    begun = (log_p.exp() * prior_term(process, strings).sum(-1)).sum()
    jumps = process.schedule.alpha(torch.tensor(1e-15, dtype=F64)) < 1 - 1e-9
    return begun + (expected_loss(process, Reconstruction(), positions, [1e-15]) if jumps else 0.0)


class Reconstruction:
    def __call__(self, process, log_p0, x0, xt, t):
        return elbo_step(process, log_p0, x0, xt, torch.zeros_like(t), t)


def integral(process, positions, belief_of=None, count=64):
    """The ELBO of a belief over all time, by quadrature over what is lost, of which it is as smooth on every
    schedule; nodes crowd at both ends, where noise has roots."""
    nodes, weights = gauss_legendre(count)
    shares, slopes = nodes**2 * (3 - 2 * nodes), 6 * nodes * (1 - nodes)
    begun, end = process.schedule.lost(torch.tensor([1e-300, 1.0], dtype=F64))
    times = process.schedule.when(begun + (end - begun) * shares)
    pace = with_slope(process.schedule.lost, times)[1] / (end - begun)
    losses = torch.stack([expected_loss(process, ContinuousElbo(), positions, [t], belief_of) for t in times])
    return (losses / pace * slopes * weights).sum()


@continuous
def test_the_elbo_of_an_exact_belief_is_the_entropy(process):
    found = integral(process, 2) + ends(process, 2)
    torch.testing.assert_close(found, entropy(2), rtol=0, atol=2e-4)


@processes
@pytest.mark.parametrize("timesteps", [1, 4, 10])
def test_one_position_in_any_number_of_steps_costs_its_entropy(process, timesteps):
    grid = (torch.arange(timesteps, dtype=F64) + 1) / timesteps
    loss = expected_loss(process, DiscreteElbo(timesteps), 1, grid)
    strings, log_p = world(1)
    loss = loss + (log_p.exp() * prior_term(process, strings)[:, 0]).sum()
    torch.testing.assert_close(loss, entropy(1) + missed(process, strings, log_p), rtol=0, atol=1e-9)


@continuous
def test_a_wrong_belief_costs_more_than_the_entropy(process):
    _, log_p = world(2)
    flat = torch.full_like(log_p, -math.log(len(log_p)))
    assert integral(process, 2, flat, 24) > entropy(2) + 0.05


@pytest.mark.parametrize("noise", ["band:1", "gaussian:1"])
def test_a_belief_that_is_sure_and_far_off_has_a_price_under_noise_of_neighbours(noise):
    process = make_process(noise, "linear", Vocabulary(27))
    t = torch.full((3,), 1e-5, dtype=torch.float64)
    x0 = torch.tensor([0, 1, 26])
    logits = torch.zeros(3, 27).index_fill(-1, torch.tensor([13]), 120.0)
    costs = []
    for dtype in (torch.float32, torch.float64):
        log_p0 = logits.to(dtype).log_softmax(-1).requires_grad_()
        cost = elbo(process, log_p0, x0, x0, t)
        cost.sum().backward()
        assert torch.isfinite(log_p0.grad).all()
        costs.append(cost.detach().double())
    assert (costs[1] > 0).all()
    torch.testing.assert_close(*costs, rtol=1e-4, atol=1e-6)
