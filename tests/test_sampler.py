"""Laws of the samplers on worlds that can be enumerated, with an exact belief in place of a network."""

import math
from itertools import pairwise

import pytest
import torch
from chains import OneStream
from scipy.stats import chisquare
from worlds import (
    SPARING,
    SYMBOLS,
    VOCABULARY,
    ExactDenoiser,
    continuous,
    law_of,
    make,
    pooled,
    processes,
    world,
)

from ddcli.errors import DdcliError
from ddcli.generate import generate
from ddcli.process import Absorbing, Uniform
from ddcli.randomness import LOG_ZERO, Streams
from ddcli.sampler import SAMPLERS, Ancestral, Step, Surest, as_believed, make_sampler
from ddcli.schedule import SCHEDULES, Linear, make_schedule, with_slope
from ddcli.shaping import Temperature, TopK, TopP

F64 = torch.float64
ABSORBING = Absorbing.over(VOCABULARY, Linear())
UNIFORM = Uniform.over(VOCABULARY, Linear())


def run(process, denoiser, sampler, n, positions, steps, *, seed=0, canvas=None, frozen=None):
    canvas = torch.zeros(n, positions, dtype=torch.long) if canvas is None else canvas
    frozen = torch.zeros(canvas.shape, dtype=torch.bool) if frozen is None else frozen
    times = sampler.times(process, steps, ~frozen, OneStream(n, seed + 1))[..., None]
    return list(generate(denoiser, process, sampler, canvas, frozen, times, OneStream(n, seed)))


@processes
def test_ancestral_steps_draw_one_position_exactly_whatever_their_number(process):
    strings, log_p = world(1)
    n = 30_000
    for steps in (1, 3):
        frames = run(process, ExactDenoiser(process, strings, log_p), Ancestral(), n, 1, steps)
        assert chisquare(law_of(frames[-1].x, 1), n * log_p.exp()).pvalue > 1e-3


@continuous
def test_many_ancestral_steps_draw_from_the_joint(process):
    strings, log_p = world(2)
    n = 4_000
    frames = run(process, ExactDenoiser(process, strings, log_p), Ancestral(), n, 2, 128)
    assert chisquare(law_of(frames[-1].x, 2), n * log_p.exp()).pvalue > 1e-3


def test_one_ancestral_step_forgets_that_positions_are_correlated():
    strings, log_p = world(2)
    n = 8_000
    frames = run(ABSORBING, ExactDenoiser(ABSORBING, strings, log_p), Ancestral(), n, 2, 1)
    assert chisquare(law_of(frames[-1].x, 2), n * log_p.exp()).pvalue < 1e-6


def test_confidence_at_one_position_a_step_draws_from_the_joint():
    strings, log_p = world(3)
    n = 20_000
    frames = run(ABSORBING, ExactDenoiser(ABSORBING, strings, log_p), Surest(), n, 3, 3)
    assert all((frame.opened.sum(-1) == 1).all() for frame in frames[1:])
    assert chisquare(law_of(frames[-1].x, 3), n * log_p.exp()).pvalue > 1e-3


def test_confidence_keeps_the_share_of_rare_tokens_that_ranking_by_the_drawn_token_would_lose():
    """P(minor) = 0.1, independent: ranked by the token drawn, it comes out near 0.03 at four positions."""
    belief = torch.full((VOCABULARY.size,), LOG_ZERO, dtype=F64)
    belief[:2] = torch.tensor([0.9, 0.1], dtype=F64).log()
    n = 20_000

    def denoise(xt, t, rows, valid=None):
        return belief.expand(int(rows.sum()), -1)

    frames = run(ABSORBING, denoise, Surest(), n, 4, 4)
    assert (frames[-1].x == 1).double().mean().item() == pytest.approx(0.1, abs=0.005)


def test_each_sequence_opens_its_own_share():
    """Sequences with different numbers of masks never share a count."""
    strings, log_p = world(3)
    canvas = torch.tensor([[0, 1, 2], [0, 1, 0], [0, 0, 0]])
    frozen = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    denoiser = ExactDenoiser(ABSORBING, strings, log_p)
    frames = run(ABSORBING, denoiser, Surest(), 3, 3, 3, canvas=canvas, frozen=frozen)
    opened = torch.stack([frame.opened.sum(-1) for frame in frames[1:]])
    assert opened.sum(0).tolist() == [1, 2, 3]
    assert opened.max() == 1


def test_the_network_is_called_only_when_a_position_opens():
    """T (1 - (1 - 1/T)^L) evaluations of a sequence are to be expected, and no more than L are possible."""
    strings, log_p = world(3)
    n, steps = 4_000, 20
    frames = run(ABSORBING, ExactDenoiser(ABSORBING, strings, log_p), Ancestral(), n, 3, steps)
    nfe = frames[-1].nfe.double()
    expected = steps * (1 - (1 - 1 / steps) ** 3)
    assert nfe.mean().item() == pytest.approx(expected, abs=4 * nfe.std().item() / n**0.5)
    assert nfe.max() <= 3


def test_a_canvas_with_nothing_to_fill_needs_no_evaluation():
    canvas = torch.tensor([[0, 1]])
    for process in (ABSORBING, UNIFORM):
        denoiser = ExactDenoiser(process, *world(2))
        frozen = torch.ones(1, 2, dtype=torch.bool)
        frames = run(process, denoiser, Ancestral(), 1, 2, 8, canvas=canvas, frozen=frozen)
        assert denoiser.calls == 0
        assert (frames[-1].x == canvas).all()


def test_confidence_is_refused_by_name_where_there_are_no_masks():
    with pytest.raises(DdcliError, match="--sampler ancestral"):
        Surest().check(UNIFORM)


# -- every sampler ----------------------------------------------------------------------------------------

SPECS = [*SAMPLERS, "remask:rescale:0.3", "remask:confidence", "remask:loop:0.2", "threshold:0.5"]
BY_THE_TEXT = ("threshold", "entropy-bounded", "remask:confidence")  # whose calls no theory foretells


def fits(spec, process):
    try:
        make_sampler(spec).check(process)
    except DdcliError:
        return False
    return True


FITTING = [
    pytest.param(spec, make(name), id=f"{spec}-{name}")
    for spec in SPECS
    for name in ("absorbing", "uniform", "hybrid", "band")
    if fits(spec, make(name))
]
everywhere = pytest.mark.parametrize(("spec", "process"), FITTING)
masks = pytest.mark.parametrize("spec", [spec for spec in SPECS if fits(spec, ABSORBING)])


def test_every_sampler_serves_some_noise():
    assert {param.values[0] for param in FITTING} == set(SPECS)


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 16, 64])
@masks
def test_no_mask_is_left_at_the_end(spec, steps):
    strings, log_p = world(3)
    if spec.startswith("remask:loop") and steps < 4:
        with pytest.raises(DdcliError, match="at least 4 steps"):
            run(ABSORBING, None, make_sampler(spec), 2, 3, steps)
        return
    frames = run(ABSORBING, ExactDenoiser(ABSORBING, strings, log_p), make_sampler(spec), 50, 3, steps)
    assert (frames[-1].x < SYMBOLS).all()
    assert (frames[-1].clock == 0).all()


@everywhere
def test_given_positions_are_never_touched_and_running_ones_see_them(process, spec):
    strings, log_p = world(2)
    n = 3_000
    canvas = torch.tensor([[2, 0]]).expand(n, -1)
    frozen = torch.tensor([[True, False]]).expand(n, -1)
    denoiser = ExactDenoiser(process, strings, log_p)
    frames = run(process, denoiser, make_sampler(spec), n, 2, 16, canvas=canvas, frozen=frozen)
    assert all((frame.x[:, 0] == 2).all() and (frame.clock[:, 0] == 0).all() for frame in frames)
    if spec in ("euler", "tau-leaping", "edit"):  # of which one position is no exact draw either
        return
    conditional = log_p[strings[:, 0] == 2].softmax(0)
    assert chisquare(torch.bincount(frames[-1].x[:, 1], minlength=3), n * conditional).pvalue > 1e-3


@everywhere
def test_a_seed_is_a_text_and_neighbours_do_not_matter(process, spec):
    strings, log_p = world(3)
    denoiser = ExactDenoiser(process, strings, log_p)

    def draw(seeds):
        canvas = torch.zeros(len(seeds), 3, dtype=torch.long)
        frozen = torch.zeros(canvas.shape, dtype=torch.bool)
        sampler = make_sampler(spec)
        times = sampler.times(process, 8, ~frozen, Streams([seed + 1000 for seed in seeds]))[..., None]
        *_, last = generate(denoiser, process, sampler, canvas, frozen, times, Streams(seeds))
        return last.x

    together = draw([11, 12, 13, 14])
    assert (draw([13])[0] == together[2]).all()
    assert (draw([14, 11])[1] == together[0]).all()
    assert len({tuple(row) for row in draw(range(40)).tolist()}) > 3


@pytest.mark.parametrize("steps", [4, 20])
@everywhere
def test_the_network_is_called_as_often_as_theory_says(process, spec, steps):
    strings, log_p = world(3)
    n = 3_000
    sampler = make_sampler(spec)
    frames = run(process, ExactDenoiser(process, strings, log_p), sampler, n, 3, steps)
    nfe = frames[-1].nfe.double()
    least, most = sampler.calls(process, steps, 3)
    if least == most:
        error = 4 * nfe.std().item() / n**0.5
        assert nfe.mean().item() == pytest.approx(least, abs=error + 1e-9)
    else:
        assert spec.startswith(BY_THE_TEXT)
        assert least <= nfe.min() <= nfe.max() <= most


@pytest.mark.parametrize("spec", ["euler", "tau-leaping"])
def test_rates_are_numbers_where_a_schedule_begins_as_a_root(spec):
    """Of gidd's the slope is infinite at t = 0; at t = 1, where sampling begins, it is 1."""
    process, n = Absorbing.over(VOCABULARY, make_schedule("gidd:0.5")), 2_000
    one = torch.ones(2, 3, dtype=F64)[:, :1].expand(2, 3)
    assert (with_slope(process.schedule.alpha, one)[1] == -1).all()
    assert (with_slope(process.schedule.lost, one)[1] == 1).all()
    frames = run(process, ExactDenoiser(process, *world(2)), make_sampler(spec), n, 2, 4)
    nfe = frames[-1].nfe.double()
    least, most = make_sampler(spec).calls(process, 4, 2)
    assert least == most == pytest.approx(nfe.mean().item(), abs=4 * nfe.std().item() / n**0.5)
    assert frames[1].opened.any()


# of a world of correlated positions: exact where one position opens at a time, or in many steps
EXACT = {
    "first-hitting": 1,
    "left-to-right": 3,
    "random": 3,
    "margin": 3,
    "entropy": 3,
    "confidence": 3,
    "threshold:1": 1,
    "remask:rescale:0.1": 128,
    "corrector:0.95": 128,
    "euler": 256,
    "tau-leaping": 256,
}


@pytest.mark.parametrize(
    "spec", [pytest.param(x, marks=[pytest.mark.slow] * (steps > 64)) for x, steps in EXACT.items()]
)
def test_samplers_that_claim_to_be_exact_draw_from_the_joint(spec):
    strings, log_p = world(3)
    n = 2_500
    denoiser = ExactDenoiser(ABSORBING, strings, log_p)
    frames = run(ABSORBING, denoiser, make_sampler(spec), n, 3, EXACT[spec])
    assert pooled(law_of(frames[-1].x, 3), n * log_p.exp()) > 1e-3


@pytest.mark.parametrize("spec", ["corrector:0.9", "euler", "tau-leaping"])
@pytest.mark.parametrize("name", ["uniform", "hybrid", "band"])
def test_they_do_under_noise_that_leaves_tokens_visible_too(spec, name):
    process = make(name)
    strings, log_p = world(2)
    n = 1_500
    frames = run(process, ExactDenoiser(process, strings, log_p), make_sampler(spec), n, 2, 128)
    assert pooled(law_of(frames[-1].x, 2), n * log_p.exp()) > 1e-3


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_block_after_block_draws_from_the_joint(name):
    """One position given none, then two given it: each with clocks of its own."""
    process, n, steps = make(name), 2_000, 64
    strings, log_p = world(3)
    fall = Ancestral().times(process, steps, torch.ones(1, 1, dtype=torch.bool), None)
    first, rest = (torch.cat(part)[:, None] for part in ((fall, 0 * fall[1:]), (0 * fall[1:] + 1, fall)))
    times = torch.cat([first, rest, rest], -1).expand(-1, n, -1)
    canvas = torch.zeros(n, 3, dtype=torch.long)
    denoiser = ExactDenoiser(process, strings, log_p)
    *_, last = generate(denoiser, process, Ancestral(), canvas, canvas > 0, times, OneStream(n, 3))
    assert pooled(law_of(last.x, 3), n * log_p.exp()) > 1e-3


@pytest.mark.parametrize("spec", ["threshold:0.01", "entropy-bounded:1000", "random", "confidence", "greedy"])
def test_all_positions_at_once_are_the_product_of_the_marginals(spec):
    strings, log_p = world(2)
    n = 10_000
    frames = run(ABSORBING, ExactDenoiser(ABSORBING, strings, log_p), make_sampler(spec), n, 2, 1)
    joint = log_p.exp().view(3, 3)
    product = (joint.sum(1)[:, None] * joint.sum(0)).flatten()
    assert (frames[-1].nfe == 1).all()
    assert pooled(law_of(frames[-1].x, 2), n * product) > 1e-3
    assert pooled(law_of(frames[-1].x, 2), n * log_p.exp()) < 1e-6


@pytest.mark.parametrize("spec", ["remask:rescale:0.5", "remask:cap:0.2", "corrector:0.7", "remask:loop:0.5"])
def test_taking_tokens_back_keeps_the_share_of_masks(spec):
    strings, log_p = world(3)
    n = 4_000
    frames = run(ABSORBING, ExactDenoiser(ABSORBING, strings, log_p), make_sampler(spec), n, 3, 16)
    taken_back = 0
    for before, after in pairwise(frames):
        share = (after.x == ABSORBING.mask_id).double().mean().item()
        due = after.clock[0, 0].item()  # linear: the share that is lost
        assert share == pytest.approx(due, abs=4 * (due * (1 - due) / (3 * n)) ** 0.5 + 1e-9)
        taken_back += ((before.x != ABSORBING.mask_id) & (after.x == ABSORBING.mask_id)).sum().item()
    assert taken_back > n / 10


@pytest.mark.parametrize("name", ["hybrid", *SPARING])
def test_a_corrector_keeps_the_marginals_also_where_some_tokens_are_known(name):
    process, n = make(name), 4_000
    strings, log_p = world(1)
    for frame in run(process, ExactDenoiser(process, strings, log_p), make_sampler("corrector:0.5"), n, 1, 8):
        due = process.marginal(
            log_p.new_full((5,), LOG_ZERO).index_copy(0, torch.arange(3), log_p), frame.clock[0, 0]
        )
        possible = due > LOG_ZERO / 2
        seen = torch.bincount(frame.x[:, 0], minlength=len(due))
        assert not seen[~possible].any()
        if possible.sum() > 1:
            assert chisquare(seen[possible], n * due[possible].softmax(0)).pvalue > 1e-4


def test_remasking_by_confidence_takes_back_what_was_unsure():
    """One position is certain, the other a coin: of those masked again, most are the coin's."""
    coin = torch.full((2, VOCABULARY.size), LOG_ZERO, dtype=F64)
    coin[0, 0], coin[1, :2] = 0.0, math.log(0.5)
    n = 4_000

    def denoise(xt, t, rows, valid=None):
        return coin.expand(len(xt), -1, -1)[rows]

    frames = run(ABSORBING, denoise, make_sampler("remask:confidence"), n, 2, 16)
    back = torch.zeros(2)
    for before, after in pairwise(frames):
        both = (before.x != ABSORBING.mask_id).all(-1, keepdim=True)
        back += (both & (after.x == ABSORBING.mask_id)).sum(0)
    assert back[1].item() == pytest.approx(math.exp(0.5) * back[0].item(), rel=0.2)


@pytest.mark.parametrize(("positions", "share"), [(2, 0.056), (4, 0.028), (16, 0.007)])
def test_ranking_by_the_drawn_token_loses_rare_ones(positions, share):
    """Why that order is called greedy: independent tokens with P = 0.1 for the rarer."""
    belief = torch.full((VOCABULARY.size,), LOG_ZERO, dtype=F64)
    belief[:2] = torch.tensor([0.9, 0.1], dtype=F64).log()
    n = 40_000 // positions

    def denoise(xt, t, rows, valid=None):
        return belief.expand(int(rows.sum()), -1)

    for spec, due in (("greedy", share), ("confidence", 0.1), ("margin", 0.1), ("entropy", 0.1)):
        frames = run(ABSORBING, denoise, make_sampler(spec), n, positions, positions)
        found = (frames[-1].x == 1).double().mean().item()
        assert found == pytest.approx(due, abs=4 * (due / (n * positions)) ** 0.5 + 0.0015)


def test_edit_replaces_what_became_unlikely():
    """The others all but exclude symbol 2 at a position that drew it at pure noise."""
    belief = torch.full((VOCABULARY.size,), LOG_ZERO, dtype=F64)
    belief[:3] = torch.tensor([0.9, 0.0989, 0.0011], dtype=F64).log()

    def denoise(xt, t, rows, valid=None):
        return belief.expand(int(rows.sum()), -1)

    shares = {
        spec: (run(UNIFORM, denoise, make_sampler(spec), 5_000, 2, 16)[-1].x == 2).double().mean().item()
        for spec in ("ancestral", "edit:0.01", "edit:0.0001")
    }
    assert shares["edit:0.01"] == 0
    assert shares["ancestral"] == pytest.approx(0.0011, abs=0.0015)
    assert shares["edit:0.0001"] == pytest.approx(0.0011, abs=0.0015)


def test_thresholds_open_what_is_sure_and_at_least_one():
    belief = torch.full((3, VOCABULARY.size), LOG_ZERO, dtype=F64)
    belief[0, :2] = torch.tensor([0.95, 0.05], dtype=F64).log()
    belief[1, :2] = torch.tensor([0.93, 0.07], dtype=F64).log()
    belief[2, :2] = torch.tensor([0.5, 0.5], dtype=F64).log()

    def denoise(xt, t, rows, valid=None):
        return belief.expand(len(xt), -1, -1)[rows]

    def opened(spec):
        return [
            frame.opened[0].tolist() for frame in run(ABSORBING, denoise, make_sampler(spec), 1, 3, 9)[1:]
        ]

    assert opened("threshold:0.9")[:2] == [[True, True, False], [False, False, True]]
    assert opened("threshold:0.94")[:3] == [[True, False, False], [False, True, False], [False, False, True]]
    # entropies 0.199, 0.254 and 0.693: what is summed is all but the last
    assert opened("entropy-bounded:0.15")[:1] == [[True, False, False]]
    assert opened("entropy-bounded:0.25")[:2] == [[True, True, False], [False, False, True]]
    assert opened("entropy-bounded:0.5")[:1] == [[True, True, True]]


@pytest.mark.parametrize("spec", ["confidence", "margin", "entropy", "threshold:0.5", "entropy-bounded:0.5"])
def test_positions_are_chosen_by_what_is_believed_whatever_tokens_are_drawn_from(spec):
    n, length = 40, 6
    rng = torch.Generator().manual_seed(3)
    belief = torch.full((n * length, VOCABULARY.size), LOG_ZERO, dtype=F64)
    belief[:, :SYMBOLS] = (2 * torch.randn(n * length, SYMBOLS, generator=rng, dtype=F64)).log_softmax(-1)
    xt = torch.full((n, length), ABSORBING.mask_id)
    s, t = (torch.full(xt.shape, clock, dtype=F64) for clock in (0.6, 1.0))
    chance = torch.rand(2, n, length, generator=rng, dtype=F64)
    found = []
    for shape in (as_believed, Temperature(0), Temperature(3), TopK(1), TopP(0.5)):
        step = Step(ABSORBING, xt, s, t, *chance, None, shape)
        sampler = make_sampler(spec)
        found.append(sampler.move(step, belief, sampler.rows(step)))
    opened = [x != ABSORBING.mask_id for x in found]
    assert all((other == opened[0]).all() for other in opened[1:])
    assert (opened[0][:, 1:] & ~opened[0][:, :-1]).any(-1).double().mean() > 0.3  # not from left to right
    greedy = belief.view(n, length, -1).argmax(-1)
    for sharp in (found[1], found[3]):
        assert (sharp[opened[0]] == greedy[opened[0]]).all()
    assert (found[2][opened[0]] != greedy[opened[0]]).any()


@pytest.mark.parametrize(("spec", "steps"), [("ancestral", 64), ("first-hitting", 1)])
def test_a_belief_that_reads_time_is_told_when_a_mask_opens(spec, steps):
    """One that believes in symbol 1 with the chance t: a mask opens at any time alike, so half of them do."""

    def believe(xt, t, rows, valid=None):
        now = t[rows]
        never = torch.full_like(now, LOG_ZERO)
        return torch.stack([(1 - now).clamp(min=1e-30).log(), now.log(), never, never, never], -1)

    n = 8_000
    x = run(ABSORBING, believe, make_sampler(spec), n, 1, steps)[-1].x
    due = 0.5 + 0.5 / steps * (spec == "ancestral")  # steps are told the time they begin at
    assert (x == 1).double().mean().item() == pytest.approx(due, abs=4 * 0.5 / n**0.5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_hitting_times_are_those_of_a_position_that_opens_by_itself(schedule):
    """1 - alpha at the first of n hits is the greatest of n uniform numbers: n / (n + 1) in the mean."""
    process, n = make("absorbing", schedule), 20_000
    unknown = torch.tensor([[True, True, False, True]]).expand(n, -1)
    times = make_sampler("first-hitting").times(process, 1, unknown, OneStream(n, 5))
    assert times.shape == (5, n)
    assert (times[:-1] >= times[1:]).all()
    lost = process.schedule.lost(times) / process.schedule.lost(torch.ones((), dtype=F64))
    assert lost.mean(1)[1:4].tolist() == pytest.approx([3 / 4, 2 / 4, 1 / 4], abs=0.006)


def test_hits_that_a_schedule_cannot_tell_apart_open_one_mask_each():
    """A geometric schedule jumps after 0, and the last of many hits may fall into the jump."""
    process, n = make("absorbing", "geometric"), 300
    unknown = torch.ones(n, 2000, dtype=torch.bool)
    times = make_sampler("first-hitting").times(process, 1, unknown, OneStream(n, 5))
    assert (process.schedule.lost(times[-2]) <= 1.1e-4).any()
    assert (times[:-1] > times[1:]).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_knows_when_as_much_was_lost(schedule):
    t = torch.linspace(0.01, 1, 50, dtype=F64)
    chosen = SCHEDULES[schedule]()
    torch.testing.assert_close(chosen.when(chosen.lost(t)), t, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("threshold:2", "least probability"),
        ("threshold:x", "not 'x'"),
        ("confidence:0.5", "takes nothing after its name"),
        ("remask:sometimes", "way to remask 'sometimes'"),
        ("remask:cap:nan", "strength"),
        ("remaks", "did you mean 'remask'"),
    ],
)
def test_a_sampler_that_makes_no_sense_is_refused(spec, problem):
    with pytest.raises(DdcliError, match=problem):
        make_sampler(spec)
