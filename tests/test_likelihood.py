"""Laws of the bound's estimates, with an exact belief: their mean is the entropy."""

import math

import pytest
import torch
from chains import OneStream
from test_objective import expected_loss
from worlds import VOCABULARY, ExactDenoiser, continuous, make, missed, processes, world

from ddcli.likelihood import PUBLISHED_FROM, nelbo
from ddcli.objective import DiscreteElbo
from ddcli.process import Absorbing, Uniform, make_process, prior_term
from ddcli.schedule import SCHEDULES, Linear, make_schedule, stratified

F64 = torch.float64


def estimates(process, n=40_000, positions=2, seed=0, timesteps=None):
    """Nats of n strings drawn from the world, (n, positions), and the entropy of the world."""
    strings, log_p = world(positions)
    chosen = torch.multinomial(log_p.exp(), n, True, generator=torch.Generator().manual_seed(seed))
    rng = OneStream(n, seed)
    u = stratified(rng.uniform())[torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1))]
    running = torch.ones(n, positions, dtype=torch.bool)
    denoiser = ExactDenoiser(process, strings, log_p)
    nats = nelbo(process, denoiser, strings[chosen], running, u, rng, timesteps=timesteps).strict
    return nats, -(log_p.exp() * log_p).sum()


@continuous
def test_the_mean_estimate_of_an_exact_belief_is_the_entropy(process):
    nats, entropy = estimates(process)
    total = nats.sum(-1)
    error = total.std().item() / math.sqrt(len(total))
    assert error < 0.05
    assert total.mean().item() == pytest.approx(entropy.item(), abs=4 * error)


@processes
def test_given_positions_cost_nothing_and_inform_the_others(process):
    strings, log_p = world(2)
    n = 20_000
    chosen = torch.multinomial(log_p.exp(), n, True, generator=torch.Generator().manual_seed(2))
    running = torch.tensor([False, True]).expand(n, -1)
    rng = OneStream(n, 3)
    denoiser = ExactDenoiser(process, strings, log_p)
    nats = nelbo(process, denoiser, strings[chosen], running, stratified(rng.uniform()), rng).strict
    assert (nats[:, 0] == 0).all()
    first = torch.stack([log_p[strings[:, 0] == a].logsumexp(0) for a in range(3)])
    second = torch.stack([log_p[strings[:, 1] == a].logsumexp(0) for a in range(3)])
    conditional_entropy = -(log_p.exp() * (log_p - first[strings[:, 0]])).sum()
    error = nats.sum(-1).std().item() / math.sqrt(n)
    expected = conditional_entropy + missed(process, strings[:3, 1:], second)
    assert nats.sum(-1).mean().item() == pytest.approx(expected.item(), abs=4 * error)


@pytest.mark.parametrize("timesteps", [None, 16])
@pytest.mark.parametrize("name", ["absorbing", "stationary:sparing"])
def test_nobody_is_asked_about_a_token_that_is_known(name, timesteps):
    """A head that was never trained there may say anything."""
    process, n = make(name), 200
    exact, rng = ExactDenoiser(process, *world(2)), OneStream(n, 3)
    asked = []

    def believing(xt, t, rows, valid=None):
        assert process.unknown(xt, t)[rows].all()
        asked.append(rows)
        return exact(xt, t, rows)

    x0, running = torch.tensor([[2, 0]]).expand(n, -1), torch.ones(n, 2, dtype=torch.bool)
    nats = nelbo(process, believing, x0, running, stratified(rng.uniform()), rng, timesteps=timesteps)
    assert ((nats.strict - nats.prior)[~asked[0]] == 0).all()
    clean = torch.zeros(n, 2, dtype=torch.bool)
    assert not nelbo(process, believing, x0, clean, rng.uniform(), rng, timesteps=timesteps).strict.any()


def flat(xt, t, rows, valid=None):
    return torch.full((int(rows.sum()), VOCABULARY.size), -math.log(3), dtype=F64)


@pytest.mark.parametrize("schedule", [*SCHEDULES, "geometric:1", "geometric:0.001"])
def test_a_flat_belief_costs_the_logarithm_of_the_alphabet_on_every_schedule(schedule):
    """Stratified counts fall on each number of masks equally often: of each, what lies before t = 1."""
    process, n = Absorbing.over(VOCABULARY, make_schedule(schedule)), 12
    x0, running = torch.zeros(n, n, dtype=torch.long), torch.ones(n, n, dtype=torch.bool)
    nats = nelbo(process, flat, x0, running, (torch.arange(n) + 0.5) / n, OneStream(n))
    assert nats.strict.mean().item() == pytest.approx(math.log(3), rel=1e-12)
    lost = process.schedule.lost(torch.tensor([1e-3, 1.0], dtype=F64)).diff().item()
    assert nats.literature.mean().item() == pytest.approx(lost * math.log(3))
    paid = (nats.strict - nats.prior).sum(-1, keepdim=True)
    torch.testing.assert_close(paid * nats.when.sum(-1), paid)


@pytest.mark.parametrize("schedule", [*SCHEDULES, "polynomial:0.5", "polynomial:20"])
def test_a_network_is_told_the_time_at_which_as_many_are_masked(schedule):
    """Where noise is counted, not drawn: else a network that reads time is asked about texts it never saw."""
    process, n, told = Absorbing.over(VOCABULARY, make_schedule(schedule)), 12, []

    def listening(xt, t, rows, valid=None):
        told.append(((xt == VOCABULARY.mask_id).double().mean(-1), t))
        return flat(xt, t, rows)

    x0, running = torch.zeros(n, n, dtype=torch.long), torch.ones(n, n, dtype=torch.bool)
    nelbo(process, listening, x0, running, (torch.arange(n) + 0.5) / n, OneStream(n))
    masked, clock = told[0]
    torch.testing.assert_close(process.schedule.lost(clock), masked[:, None].expand(n, n))


SPEEDS = ["cosine", "polynomial:0.1", "polynomial:3", "polynomial:20", "geometric:20"]


@pytest.mark.parametrize("schedule", SPEEDS)
@pytest.mark.parametrize("noise", ["uniform", "hybrid:0.2"])
def test_what_an_estimate_varies_by_does_not_depend_on_the_schedule(noise, schedule):
    """What is lost is drawn, not the time: so the same draws lose the same, however fast or late it goes.

    Steep schedules have lost less than 1e-4 when the published integral begins, and draw a little further.
    """
    linear, found = (
        estimates(make_process(noise, spec, VOCABULARY), 8_000)[0].sum(-1) for spec in ("linear", schedule)
    )
    if schedule in ("polynomial:3", "polynomial:20"):
        error = linear.std().item() / math.sqrt(len(linear))
        assert found.mean().item() == pytest.approx(linear.mean().item(), abs=3 * error)
        assert 0.6 < found.std() / linear.std() < 1.6
    else:
        torch.testing.assert_close(found, linear, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", [*SPEEDS, "own steps"])
def test_the_estimate_in_steps_has_the_mean_of_all_steps_and_spares_its_variance(schedule):
    own = schedule == "own steps"
    process = make("steps") if own else make_process("uniform", schedule, VOCABULARY)
    steps = process.timesteps or 32
    grid = (torch.arange(steps, dtype=F64) + 1) / steps
    strings, log_p = world(2)
    expected = expected_loss(process, DiscreteElbo(steps), 2, grid)
    expected = expected + (log_p.exp() * prior_term(process, strings).sum(-1)).sum()
    total = estimates(process, 20_000, timesteps=steps)[0].sum(-1)
    error = total.std().item() / math.sqrt(len(total))
    assert total.mean().item() == pytest.approx(expected.item(), abs=4 * error)
    assert total.std().item() < 6


def test_the_published_integral_begins_at_its_time_on_every_schedule():
    """What is left out of it is what is lost before, however little that is."""
    for schedule in SPEEDS:
        process = make_process("uniform", schedule, VOCABULARY)
        u = torch.tensor([0.0, 0.05, 0.5], dtype=F64)  # reconstruction, and times from the first on
        x0, running = torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1, dtype=torch.bool)
        told = []

        def listening(xt, t, rows, valid=None, told=told):
            told.append(t)
            return flat(xt, t, rows)

        nelbo(process, listening, x0, running, u, OneStream(3))
        assert told[0][1] <= PUBLISHED_FROM * (1 + 1e-9)
        assert told[0][0] == pytest.approx(told[0][1].item())


def test_on_a_schedule_that_ends_above_0_an_exact_belief_costs_the_entropy_and_the_prior():
    """By enumeration: what is visible at t = 1 was taken to be flat, and is not."""
    process = Absorbing.over(VOCABULARY, make_schedule("geometric:1"))
    strings, log_p = world(2)
    paid = missed(process, strings, log_p)
    nats, entropy = estimates(process)
    total = nats.sum(-1)
    error = total.std().item() / math.sqrt(len(total))
    assert 0.05 < paid < 0.5
    assert error < 0.01
    assert total.mean().item() == pytest.approx((entropy + paid).item(), abs=4 * error)


def test_a_flat_belief_costs_the_logarithm_of_the_alphabet_in_every_single_draw():
    """So a fresh network's bound is ln V to the last digit: the per-count form wastes no variance."""
    process = Absorbing.over(VOCABULARY, Linear())
    rng = OneStream(50, 4)
    x0 = torch.zeros(50, 6, dtype=torch.long)
    nats = nelbo(process, flat, x0, torch.ones(50, 6, dtype=torch.bool), rng.uniform(), rng).strict
    torch.testing.assert_close(nats.sum(-1), torch.full((50,), 6 * math.log(3), dtype=F64))


def test_a_missed_token_near_the_clean_end_has_a_bounded_price():
    """Times are drawn with density 1/(2 sqrt t), since even ones would have no finite variance."""
    process = Uniform.over(VOCABULARY, Linear())

    def sure_and_wrong(xt, t, rows, valid=None):
        return torch.tensor([-20.0, math.log1p(-2 * math.exp(-20)), -20.0, -1e5, -1e5], dtype=F64).expand(
            int(rows.sum()), -1
        )

    n = 20_000
    rng = OneStream(n, 5)
    x0 = torch.zeros(n, 1, dtype=torch.long)
    running = torch.ones(n, 1, dtype=torch.bool)
    nats = nelbo(process, sure_and_wrong, x0, running, stratified(rng.uniform()), rng).strict.sum(-1)
    assert nats.mean().item() == pytest.approx(20, rel=0.1)
    assert nats.std().item() < 5 * nats.mean().item()


def test_a_sequence_with_nothing_running_costs_nothing():
    for process in (Absorbing.over(VOCABULARY, Linear()), Uniform.over(VOCABULARY, Linear())):
        strings, log_p = world(2)
        running = torch.tensor([[False, False], [True, True]])
        rng = OneStream(2, 6)
        denoiser = ExactDenoiser(process, strings, log_p)
        nats = nelbo(process, denoiser, strings[[0, 4]], running, rng.uniform(), rng).strict
        assert torch.isfinite(nats).all()
        assert (nats[0] == 0).all()
