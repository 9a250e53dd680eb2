"""Laws of guidance, on a world whose conditionals are known."""

from dataclasses import replace

import pytest
import torch
from chains import OneStream
from scipy.stats import chisquare
from tiny import train_tiny
from worlds import ExactDenoiser, make, world

from ddcli.errors import DdcliError
from ddcli.generate import generate
from ddcli.guidance import guided, without_prompt
from ddcli.process import posterior
from ddcli.sampler import Ancestral, Step
from ddcli.saved import load_model
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
    changes = {"process__name": "uniform", "train__optimizer": "adamw"}  # quicker in so few steps
    train_tiny(run, text_file, train__drop_prefix=0.2, train__steps=40, **changes)
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


class Minds:
    """Believes one law at masks while a prompt is given, and another where it is hidden."""

    def __init__(self, told, blind):
        self.laws = told, blind

    def __call__(self, xt, t, rows, valid=None, **told):
        law = self.laws[int(t[0, 0] > 0)]
        log_p = torch.full((int(rows.sum()), len(self.size)), -1e5)
        log_p[:, self.text] = torch.tensor(law).log()
        return log_p


@pytest.mark.parametrize("how", [{"temperature": 0}, {"top_p": 0.95}])
def test_it_is_the_mixture_that_is_sharpened_and_cut(absorbing_run, how):
    """Told .5, .4, .1 and blind .8, .1, .1, at strength 2: the likeliest token is neither law's."""
    model = load_model(absorbing_run)
    minds = Minds((0.5, 0.4, 0.1), (0.8, 0.1, 0.1))
    minds.size, minds.text = range(model.tokenizer.vocab_size), model.process.vocabulary.text_ids[:3]
    asked = replace(model, denoiser=minds)
    (sample,) = asked.sample(1, prompt="t", guidance=2, length=32, steps=1, seed=1, **how)
    counts = torch.bincount(torch.tensor(sample.tokens), minlength=model.tokenizer.vocab_size)[minds.text]
    mixed = torch.tensor([0.5**2 / 0.8, 0.4**2 / 0.1, 0.1])
    if how == {"temperature": 0}:
        assert counts.argmax() == mixed.argmax() == 1
        assert counts[1] == 31
    else:
        assert counts[2] == 0  # the last tenth of the mixture, though not of either law
        assert counts[1] > counts[0] > 0


def test_laws_that_are_mixed_cannot_be_cut(guided_run):
    for how in ({"top_p": 0.9}, {"top_k": 3}, {"temperature": 0}, {"greedy_tail": 1}):
        with pytest.raises(DdcliError, match="cannot be cut to likely tokens"):
            load_model(guided_run).sample(1, prompt="the", guidance=2, **how)
