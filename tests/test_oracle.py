"""Laws of the samplers with no network in between: the belief is that of one who knows the source.

Two statistics of draws of 256 positions, after arXiv:2602.19619, which measures samplers by an oracle. The
*surplus*: mean of -ln p(x) under the source, less its entropy; 0 in the mean for exact draws, and linear in
the law drawn from. And the likelihood ratio of the counted moves against the chain's own, which for exact
draws is chi-square with K (K - 1) degrees of freedom, however the moves depend on each other (Billingsley,
"Statistical methods in Markov chains", Ann. Math. Statist. 32, 1961).
"""

import itertools
from contextlib import suppress

import pytest
import torch
from chains import (
    OneStream,
    Oracle,
    block_entropy,
    entropy,
    pair_law,
    random_chain,
    random_hmm,
    sample,
    stationary,
    surplus,
)
from scipy.stats import chi2
from worlds import (
    CONTINUOUS,
    GENERATORS,
    PER_POSITION,
    SYMBOLS,
    ExactDenoiser,
    chain_states,
    exact_belief,
    law_of,
    make,
    pooled,
    reachable,
    world,
)

from ddcli.errors import DdcliError
from ddcli.process import make_process, posterior, prior
from ddcli.sampler import SAMPLERS, Ancestral, LeftToRight, Surest, make_sampler
from ddcli.sampler.base import even_times
from ddcli.schedule import INFORMATION

F64 = torch.float64
LENGTH = 256
CHAIN = random_chain(symbols=4, seed=3)
HIDDEN = random_hmm(states=4, symbols=SYMBOLS, seed=8)
NOISES = ["absorbing", "uniform", "hybrid:0.1"]


def likelihood_ratio(source, x):
    """P of moves as far from the chain's as those of draws (B, L), were they exact."""
    seen = pair_law(x, source.symbols)
    found = seen / seen.sum(-1, keepdim=True)
    statistic = 2 * torch.xlogy(seen, found / source.move).sum().item()
    return chi2.sf(statistic, source.symbols * (source.symbols - 1))


# -- the oracle itself -------------------------------------------------------------------------------------


def by_paths(source, x):
    """p of strings (n, L), summed over every path of hidden states."""
    total = torch.zeros(len(x), dtype=F64)
    for path in itertools.product(range(len(source.start)), repeat=x.shape[1]):
        moves = torch.stack([source.move[a, b] for a, b in itertools.pairwise(path)]).prod()
        total += source.start[path[0]] * moves * source.emit[list(path), x].prod(-1)
    return total


def test_the_law_of_a_source_is_a_sum_over_hidden_paths():
    strings, _ = world(4)
    found = HIDDEN.log_prob(strings).exp()
    torch.testing.assert_close(found, by_paths(HIDDEN, strings))
    assert found.sum().item() == pytest.approx(1)


def test_draws_of_a_source_follow_its_law():
    strings, _ = world(4)
    n = 50_000
    assert pooled(law_of(HIDDEN.draw(n, 4, seed=1), 4), n * HIDDEN.log_prob(strings).exp()) > 1e-3


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_block_of_a_chain_costs_the_rate_and_what_the_first_symbol_costs_more(length):
    source = random_chain(symbols=SYMBOLS, seed=2)
    strings, _ = world(length)
    log_p = source.log_prob(strings)
    found = block_entropy(source, length)
    assert found == pytest.approx(-(log_p.exp() * log_p).sum().item())
    rate = (stationary(source.move) * entropy(source.move)).sum().item()
    assert found / length == pytest.approx(rate + (entropy(source.start).item() - rate) / length)


@pytest.mark.parametrize("name", PER_POSITION)
def test_the_oracle_believes_what_enumeration_gives(name):
    process = make(name)
    strings, _ = world(4)
    states = reachable(process, 4)
    log_p = HIDDEN.log_prob(strings)
    clock = torch.full(states.shape, 0.6, dtype=F64)
    found = Oracle(process, HIDDEN)(states, clock, torch.ones_like(states, dtype=torch.bool))
    expected = exact_belief(process, strings, log_p, states, 0.6)
    torch.testing.assert_close(found.view_as(expected).exp(), expected.exp(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PER_POSITION)
def test_the_oracle_reads_the_clock_of_every_position(name):
    process = make(name)
    strings, _ = world(4)
    n = 300
    rng = torch.Generator().manual_seed(0)
    clock = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=F64)[torch.randint(0, 4, (n, 4), generator=rng)]
    xt = process.noise(HIDDEN.draw(n, 4, seed=2), clock, OneStream(n, 3))
    rows = torch.rand(n, 4, generator=rng) < 0.5
    expected = ExactDenoiser(process, strings, HIDDEN.log_prob(strings))(xt, clock, rows)
    found = Oracle(process, HIDDEN)(xt, clock, rows)
    torch.testing.assert_close(found.exp(), expected.exp(), rtol=1e-9, atol=1e-12)


# -- error against evaluations -----------------------------------------------------------------------------


def draw(noise, sampler, n, steps, source=CHAIN, length=LENGTH):
    process = make_process(noise, "linear", source.vocabulary)
    return sample(process, sampler, Oracle(process, source), (n, length), steps, seed=1)


@pytest.mark.parametrize("noise", NOISES)
def test_the_error_of_ancestral_steps_falls_about_as_one_over_evaluations(noise):
    errors = []
    for steps in (4, 8):
        x, nfe = draw(noise, Ancestral(), 400, steps)
        error, deviation = surplus(CHAIN, x)
        assert (nfe == steps).all()
        assert error > 4 * deviation
        errors.append(error)
    assert 1.4 < errors[0] / errors[1] < 4


@pytest.mark.parametrize(
    "noise", [NOISES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NOISES[1:])]
)
def test_as_many_ancestral_steps_as_positions_are_exact_within_sampling_error(noise):
    x, nfe = draw(noise, Ancestral(), 48, LENGTH)
    error, deviation = surplus(CHAIN, x)
    assert nfe.max() <= LENGTH
    assert abs(error) < 4 * deviation
    assert deviation < 0.02
    assert likelihood_ratio(CHAIN, x) > 1e-3


@pytest.mark.parametrize("noise", ["band:1", "gaussian:2"])
def test_sixty_four_steps_are_enough_over_the_letters_whatever_the_noise(noise):
    """On their own schedules. On the linear one a band's surplus is 0.86 nats a symbol, a Gaussian's 0.49."""
    letters = random_chain(symbols=27, seed=3)
    process = make_process(noise, "auto", letters.vocabulary)
    x, _ = sample(process, Ancestral(), Oracle(process, letters), (16, 64), 64, seed=1)
    error, deviation = surplus(letters, x)
    assert deviation < 0.05
    assert error < 0.1


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(Surest(), id="confidence"),
        pytest.param(LeftToRight(), id="left-to-right", marks=pytest.mark.slow),
    ],
)
def test_one_position_a_step_in_any_order_of_what_is_revealed_is_exact(sampler):
    x, nfe = draw("absorbing", sampler, 96, LENGTH)
    error, deviation = surplus(CHAIN, x)
    assert (nfe == LENGTH).all()
    assert abs(error) < 4 * deviation
    assert likelihood_ratio(CHAIN, x) > 1e-3


@pytest.mark.parametrize("sampler", [Surest(), LeftToRight()], ids=["confidence", "left-to-right"])
def test_several_positions_a_step_are_seen_to_be_wrong_and_fewer_are_better(sampler):
    few, some = (draw("absorbing", sampler, 96, steps)[0] for steps in (LENGTH // 16, LENGTH // 2))
    assert likelihood_ratio(CHAIN, some) < 1e-6
    assert surplus(CHAIN, few)[0] > surplus(CHAIN, some)[0] > 4 * surplus(CHAIN, some)[1]


def test_one_position_a_step_draws_a_source_whose_states_are_hidden():
    """No entropy in closed form here: the reference is the mean over draws of the source itself."""
    length, n = 64, 400
    x, _ = draw("absorbing", LeftToRight(), n, length, HIDDEN, length)
    found, expected = HIDDEN.log_prob(x), HIDDEN.log_prob(HIDDEN.draw(20 * n, length, seed=4))
    assert expected.mean().item() == pytest.approx(found.mean().item(), abs=4 * found.std().item() / n**0.5)
    one_step, _ = draw("absorbing", LeftToRight(), n, 1, HIDDEN, length)
    assert expected.mean() - HIDDEN.log_prob(one_step).mean() > 20 * found.std() / n**0.5


NEARLY_ONE_BY_ONE = ("first-hitting", "threshold", "entropy-bounded")


@pytest.fixture(scope="module")
def hidden_entropy():
    """Of a symbol of the hidden model, by the mean over draws of its own."""
    return -HIDDEN.log_prob(HIDDEN.draw(4_000, LENGTH, seed=4)).mean().item() / LENGTH


@pytest.fixture(scope="module")
def blind(hidden_entropy):
    """What it costs to draw all positions at once, nats a symbol."""
    x, _ = draw("absorbing", LeftToRight(), 16, 1, HIDDEN)
    return -HIDDEN.log_prob(x).mean().item() / LENGTH - hidden_entropy


def noises_of(name):
    """Those that a sampler serves, the first in the fast suite."""
    served = []
    for noise in NOISES:
        with suppress(DdcliError):
            make_sampler(name).check(make_process(noise, "linear", HIDDEN.vocabulary))
            served.append(pytest.param(name, noise, marks=[pytest.mark.slow] * bool(served)))
    return served


@pytest.mark.parametrize(("name", "noise"), [cell for name in SAMPLERS for cell in noises_of(name)])
def test_every_sampler_draws_a_long_hidden_source_better_than_all_at_once(name, noise, blind, hidden_entropy):
    """No error is mistaken for a gain: but by edits and by the likeliest tokens alone, no text comes out too
    likely."""
    x, _ = draw(noise, make_sampler(name), 16, 64, HIDDEN)
    each = -HIDDEN.log_prob(x) / LENGTH - hidden_entropy
    error, deviation = each.mean().item(), each.std().item() / len(x) ** 0.5
    assert error < blind - 3 * deviation
    if name == "greedy":
        assert error < -10 * deviation
    elif name != "edit":
        assert error > -4 * deviation
    if name in NEARLY_ONE_BY_ONE:
        assert error < 4 * deviation


# -- whole laws, by a hundred thousand draws ---------------------------------------------------------------

DRAWS = 100_000


class Looked:
    """An exact belief, looked up: canvases are all of a few strings, and share one clock."""

    def __init__(self, process, strings, log_p):
        self.process, self.strings, self.log_p = process, strings, log_p
        self.chain = torch.tensor(chain_states(process))
        self.states = reachable(process, strings.shape[1])
        self.place = torch.zeros(process.vocabulary.size, dtype=torch.long)
        self.place[self.chain] = torch.arange(len(self.chain))

    def __call__(self, xt, t, rows, valid=None):
        now = t.max() if self.process.needs_clock else 0.5  # masks tell all that a clock would
        belief = exact_belief(self.process, self.strings, self.log_p, self.states, now)
        sequence, position = rows.nonzero(as_tuple=True)
        weights = len(self.chain) ** torch.arange(xt.shape[1] - 1, -1, -1)
        return belief[(self.place[xt[sequence]] * weights).sum(-1), position]


def drawn(process, sampler, positions, steps):
    """How often each string of the world comes out, (S,)."""
    denoiser = Looked(process, *world(positions))
    x, _ = sample(process, sampler, denoiser, (DRAWS, positions), steps, seed=10 + positions)
    return law_of(x, positions)


def law_of_steps(process, positions, steps):
    """The law of few ancestral steps of an exact belief, (S,), passed on from string to string."""
    strings, log_p = world(positions)
    states = reachable(process, positions)
    law = prior(process)[states].sum(-1).exp()
    for t, s in itertools.pairwise(even_times(process, steps)):
        belief = exact_belief(process, strings, log_p, states, t)
        clocks = (x.expand(states.shape) for x in (s, t))
        step = posterior(process, belief, states, *clocks)  # (Z, positions, V)
        onward = [step[:, i, states[:, i]] for i in range(positions)]  # (Z, Z) each
        law = law @ torch.stack(onward).sum(0).exp()
    place = [(states == string).all(-1).nonzero()[0, 0] for string in strings]
    return law[torch.stack(place)]


@pytest.mark.parametrize("name", PER_POSITION)
def test_few_ancestral_steps_draw_from_the_law_that_enumeration_gives(name):
    process = make(name).in_steps(None if name == "steps" else 3)  # of whose times two are 2/3 and 1
    expected = law_of_steps(process, 2, 2)
    assert expected.sum().item() == pytest.approx(1)
    assert pooled(drawn(process, Ancestral(), 2, 2), DRAWS * expected) > 1e-3


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_law_of_ancestral_steps_comes_to_the_joint_as_one_over_their_number(name):
    """In total variation."""
    process = make(name)
    joint = world(2)[1].exp()
    distance = [(law_of_steps(process, 2, steps) - joint).abs().sum().item() / 2 for steps in (32, 64, 128)]
    assert distance[-1] < 0.01
    for coarse, fine in itertools.pairwise(distance):
        assert 1.7 < coarse / fine < 2.2


@pytest.mark.parametrize(
    "name", ["absorbing", *(pytest.param(name, marks=pytest.mark.slow) for name in ("uniform", "hybrid"))]
)
def test_a_hundred_thousand_draws_of_many_steps_are_those_of_the_joint(name):
    expected = DRAWS * world(2)[1].exp()
    assert pooled(drawn(make(name), Ancestral(), 2, 256), expected) > 1e-3


@pytest.mark.parametrize(
    "spec", ["confidence", "margin", "entropy", "random", "left-to-right", "first-hitting"]
)
def test_a_hundred_thousand_draws_at_one_position_a_step_are_those_of_the_joint(spec):
    expected = DRAWS * world(3)[1].exp()
    assert pooled(drawn(make("absorbing"), make_sampler(spec), 3, 3), expected) > 1e-3
    if make_sampler(spec).even:
        assert pooled(drawn(make("absorbing"), make_sampler(spec), 3, 1), expected) < 1e-6


# samplers whose law is the joint's: at one position a step, or in the limit of many steps
ONE_BY_ONE = ("confidence", "margin", "entropy", "random", "left-to-right", "first-hitting", "threshold:1")
ONE_BY_ONE += ("entropy-bounded:1e-6",)
IN_THE_LIMIT = ("ancestral", "euler", "tau-leaping")
# in each step they draw a share of the tokens again, several at once: exact as that share falls
IN_THE_LIMIT += ("remask:cap:0.001", "remask:rescale:0.001", "remask:loop:0.001", "corrector:0.999")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "spec", "steps"),
    [
        *(("absorbing", spec, 3) for spec in ONE_BY_ONE),
        *(("absorbing", spec, 1024) for spec in IN_THE_LIMIT),
        *(("uniform", spec, 1024) for spec in ("ancestral", "euler", "tau-leaping", "corrector:0.999")),
        *((noise, "ancestral", 1024) for noise in ("hybrid", "stationary", "generator", "band", "gaussian")),
    ],
)
def test_a_hundred_thousand_draws_of_every_exact_sampler_are_those_of_the_joint(noise, spec, steps):
    """Strings of three symbols, 27 of them, by chi-square; the rarest are taken together."""
    process = make(noise, INFORMATION if noise in GENERATORS else "linear")
    expected = DRAWS * world(3)[1].exp()
    assert pooled(drawn(process, make_sampler(spec), 3, steps), expected) > 1e-3


def test_chance_is_told_from_error_by_counts_of_which_five_are_due():
    """The test of the tests: rare strings are taken together, and a shift of one in a hundred is seen."""
    expected = torch.tensor([50_000, 49_990, 6, 3, 0.9, 0.1], dtype=F64)
    assert pooled(torch.tensor([50_050, 49_940, 5, 2, 2, 1]), expected) > 0.1
    assert pooled(torch.tensor([50_500, 49_490, 5, 2, 2, 1]), expected) < 0.01
    assert pooled(torch.tensor([50_000, 49_960, 6, 3, 21, 10]), expected) < 1e-6
