"""Laws of guidance, on a world whose conditionals are known."""

import pytest
import torch
from scipy.stats import chisquare
from tiny import train_tiny
from worlds import ExactDenoiser, OneStream, make, world

from ddcli.checkpoint import load_model
from ddcli.errors import DdcliError
from ddcli.generate import generate
from ddcli.guidance import guided, without_prompt
from ddcli.process import posterior
from ddcli.sampler import Ancestral, Step
from ddcli.schedule import time_grid
from ddcli.step import hidden_prefixes

F64 = torch.float64
N = 20_000


def drawn(name, strength, steps=1):
    """How often each symbol follows a prompt of one symbol, under guidance, and the two laws it mixes."""
    process, (strings, log_p) = make(name), world(2)
    canvas = torch.tensor([[2, 0]]).expand(N, -1)
    prompt = torch.tensor([[True, False]]).expand(N, -1)
    exact = ExactDenoiser(process, strings, log_p)
    blindfold = without_prompt(process, canvas, prompt, OneStream(N, 1))
    denoiser, mix = guided(exact, exact, process, strength, blindfold)
    times = time_grid(steps)[:, None, None].expand(-1, N, -1)
    *_, last = generate(denoiser, process, Ancestral(), canvas, prompt, times, OneStream(N, 2), mix=mix)
    assert (last.x[:, 0] == 2).all()
    joint = log_p.exp().view(3, 3)
    return torch.bincount(last.x[:, 1], minlength=3), joint[2] / joint[2].sum(), joint.sum(0)


@pytest.mark.parametrize("name", ["absorbing", "uniform", "hybrid", "band"])
@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_guidance_draws_from_the_product_of_powers_of_the_two_laws(name, strength):
    seen, prompted, blind = drawn(name, strength)
    law = prompted**strength * blind ** (1 - strength)
    assert chisquare(seen, N * law / law.sum()).pvalue > 1e-3


def test_with_noise_that_leaves_tokens_visible_it_is_the_posteriors_that_are_mixed():
    """In one step of several: p(x_s | x_t), not the beliefs about x_0."""
    process = make("uniform")
    beliefs = torch.randn(1, 2, 5, dtype=F64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    xt, s, t = torch.tensor([1]), torch.tensor([0.4], dtype=F64), torch.tensor([0.6], dtype=F64)
    _, mix = guided(None, None, process, 2.0, None)
    clocks = (x.view(1, 1) for x in (xt, s, t))
    step = Step(process, *clocks, torch.zeros(1, 1), torch.zeros(1, 1), mix)
    rows = torch.ones(1, 1, dtype=torch.bool)
    found = step.law(posterior, beliefs, rows).exp()
    p, q = (posterior(process, beliefs[:, i], xt, s, t).exp() for i in (0, 1))
    torch.testing.assert_close(found, (p**2 / q) / (p**2 / q).sum())


def test_prefixes_are_hidden_in_their_share_of_the_sequences_and_of_any_length():
    running = torch.ones(4000, 50, dtype=torch.bool)
    hidden = hidden_prefixes(running, 0.5, OneStream(4000))
    lengths = hidden.sum(-1)
    assert (hidden == (torch.arange(50) < lengths[:, None])).all()
    assert (lengths > 0).double().mean().item() == pytest.approx(0.5, abs=0.04)
    assert lengths[lengths > 0].double().mean().item() == pytest.approx(25, abs=2)
    assert not hidden_prefixes(running, 0.0, OneStream(4000)).any()


@pytest.fixture(scope="module")
def guided_run(tmp_path_factory, text_file):
    run = tmp_path_factory.mktemp("guided") / "run"
    train_tiny(run, text_file, train__drop_prefix=0.2, process__name="uniform", train__steps=40)
    return run


def test_a_prompt_is_kept_and_guidance_of_one_is_the_plain_model(guided_run):
    model = load_model(guided_run)
    plain = model.sample(2, prompt="the cat", seed=1, steps=8)
    assert [s.text for s in model.sample(2, prompt="the cat", seed=1, steps=8, guidance=1)] == [
        s.text for s in plain
    ]
    strong = model.sample(2, prompt="the cat", seed=1, steps=8, guidance=3)
    assert all(s.text.startswith("the cat") for s in strong)
    assert [s.nfe for s in strong] == [2 * s.nfe for s in plain]  # asked twice at each step
    assert [s.text for s in strong] != [s.text for s in plain]
    together = model.sample(3, prompt="the cat", seed=1, steps=8, guidance=3)
    assert [s.text for s in together[:2]] == [s.text for s in strong]
    assert model.infill("the [MASK:3] sat", seed=1, guidance=2)[0].text.endswith(" sat")


def test_guidance_without_a_prompt_is_refused(guided_run):
    with pytest.raises(DdcliError, match="give --prompt"):
        load_model(guided_run).sample(1, guidance=2)
