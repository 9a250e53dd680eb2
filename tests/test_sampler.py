"""Laws of the samplers on worlds that can be enumerated, with an exact belief in place of a network."""

import pytest
import torch
from scipy.stats import chisquare
from worlds import SYMBOLS, VOCABULARY, ExactDenoiser, OneStream, law_of, processes, world

from ddcli.errors import DdcliError
from ddcli.generate import generate
from ddcli.process import Absorbing, Uniform
from ddcli.randomness import LOG_ZERO, Streams
from ddcli.sampler import SAMPLERS, Ancestral, Surest, make_sampler
from ddcli.schedule import Linear, time_grid

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


@processes
def test_many_ancestral_steps_draw_from_the_joint(process):
    strings, log_p = world(2)
    n = 8_000
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


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 16, 64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_no_mask_is_left_at_the_end(name, steps):
    strings, log_p = world(3)
    frames = run(ABSORBING, ExactDenoiser(ABSORBING, strings, log_p), make_sampler(name), 50, 3, steps)
    assert (frames[-1].x < SYMBOLS).all()


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


@pytest.mark.parametrize("name", SAMPLERS)
@processes
def test_given_positions_are_never_touched_and_running_ones_see_them(process, name):
    if name != "ancestral" and not isinstance(process, Absorbing):
        return
    strings, log_p = world(2)
    n = 12_000
    canvas = torch.tensor([[2, 0]]).expand(n, -1)
    frozen = torch.tensor([[True, False]]).expand(n, -1)
    denoiser = ExactDenoiser(process, strings, log_p)
    frames = run(process, denoiser, make_sampler(name), n, 2, 8, canvas=canvas, frozen=frozen)
    assert all((frame.x[:, 0] == 2).all() and (frame.clock[:, 0] == 0).all() for frame in frames)
    conditional = log_p[strings[:, 0] == 2].softmax(0)
    assert chisquare(torch.bincount(frames[-1].x[:, 1], minlength=3), n * conditional).pvalue > 1e-3


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


@processes
def test_a_seed_is_a_text_and_neighbours_do_not_matter(process):
    strings, log_p = world(3)
    times = time_grid(16)[:, None, None]
    denoiser = ExactDenoiser(process, strings, log_p)

    def draw(seeds):
        canvas = torch.zeros(len(seeds), 3, dtype=torch.long)
        frozen = torch.zeros(canvas.shape, dtype=torch.bool)
        rng = Streams(seeds)
        *_, last = generate(
            denoiser, process, Ancestral(), canvas, frozen, times.expand(-1, len(seeds), -1), rng
        )
        return last.x

    together = draw([11, 12, 13, 14])
    assert (draw([13])[0] == together[2]).all()
    assert (draw([14, 11])[1] == together[0]).all()
    assert len({tuple(row) for row in draw(range(40)).tolist()}) > 3


def test_confidence_is_refused_by_name_where_there_are_no_masks():
    with pytest.raises(DdcliError, match="--sampler ancestral"):
        Surest().check(UNIFORM)
