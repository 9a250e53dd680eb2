"""Laws of sampling and infilling with trained networks."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import train_tiny

import ddcli
from ddcli import device
from ddcli.denoiser import PrefixCached
from ddcli.errors import DdcliError
from ddcli.model import Canvas
from ddcli.process import Absorbing, flat_text
from ddcli.schedule import make_schedule


@pytest.fixture(scope="module", params=["absorbing", "uniform"])
def runs_of_letters(request, tmp_path_factory):
    """A model of text in which a letter is the one beside it, most of the time."""
    folder = tmp_path_factory.mktemp("letters")
    rng = random.Random(0)
    letters = "".join(rng.choice("abcdef") * rng.randint(10, 20) for _ in range(1500))
    (folder / "letters.txt").write_text(letters)
    run = folder / request.param
    settings = {"process__name": request.param, "train__steps": 250, "train__lr": 4e-3}
    train_tiny(run, folder / "letters.txt", **settings)
    return ddcli.load(run)


def test_the_right_context_fills_a_gap_better_than_a_wrong_one(runs_of_letters):
    """For uniform noise too: its network is told what is given, and has learnt to look at it."""

    def share_of_b(document):
        ways = runs_of_letters.infill(document, n=20, seed=1, steps=32, score=False)
        return np.mean([way.fills[0].count("b") / 4 for way in ways])

    right, wrong = share_of_b("bbbbbbbb[MASK:4]bbbbbbbb"), share_of_b("ffffffff[MASK:4]ffffffff")
    assert right > 0.7
    assert wrong < 0.2


def test_the_best_way_by_score_is_the_one_that_fits(runs_of_letters):
    ways = runs_of_letters.infill(
        "bbbbbbbb[MASK:4]bbbbbbbb", n=12, seed=2, steps=2, temperature=3, score=True
    )
    scores = [way.score for way in ways]
    assert scores == sorted(scores, reverse=True)
    assert ways[0].fills[0].count("b") > ways[-1].fills[0].count("b")


@pytest.mark.parametrize("kind", ["absorbing_run", "uniform_run", "records_run"])
def test_a_sample_depends_on_its_seed_and_place_alone_to_the_last_bit(kind, request):
    model = ddcli.load(request.getfixturevalue(kind))
    together = model.sample(5, seed=3, steps=12, batch_size=5)
    for size in (1, 2, 3):
        assert model.sample(5, seed=3, steps=12, batch_size=size) == together
    assert model.sample(2, seed=3, steps=12) == together[:2]
    assert model.sample(5, seed=4, steps=12) != together


@pytest.mark.parametrize("kind", ["absorbing_run", "uniform_run", "records_run"])
def test_ways_to_infill_do_not_depend_on_each_other(kind, request):
    model = ddcli.load(request.getfixturevalue(kind))
    many = model.infill("ab[MASK:3]cd[MASK]e", n=4, seed=5, steps=9, score=False)
    assert model.infill("ab[MASK:3]cd[MASK]e", n=1, seed=5, steps=9)[0] == many[0]


@pytest.mark.parametrize("kind", ["absorbing_run", "uniform_run", "records_run"])
def test_nothing_but_text_is_ever_written(kind, request):
    model = ddcli.load(request.getfixturevalue(kind))
    for sample in model.sample(8, seed=6, steps=5, temperature=5):
        assert not set(sample.tokens) & set(model.tokenizer.special_ids)
        assert "<" not in sample.text
    for way in model.infill("ab[MASK:9]", n=4, seed=6, steps=5, temperature=5):
        assert len(way.fills[0]) == 9


def test_every_window_of_a_document_draws_its_own_numbers(absorbing_run, monkeypatch):
    """Those near the start of a document all begin there."""
    model = ddcli.load(absorbing_run)
    seen = []
    denoise = type(model).denoise
    monkeypatch.setattr(
        type(model),
        "denoise",
        lambda self, canvas, *rest: seen.append(canvas.seeds) or denoise(self, canvas, *rest),
    )
    model.infill("[MASK:2]" + "the cat sat o" + "[MASK:2]" + "the dog ran far. " * 4, n=3, seed=1, steps=4)
    assert len(seen) == 2
    assert len({seed for seeds in seen for seed in seeds}) == 6


def test_frames_end_with_the_sample(absorbing_run):
    model = ddcli.load(absorbing_run)
    *_, last = model.frames(length=20, seed=7, steps=10)
    (sample,) = model.sample(1, length=20, seed=7, steps=10)
    assert last.x[0].tolist() == sample.tokens
    assert int(last.nfe[0]) == sample.nfe


def test_frames_open_every_position_once_under_absorbing_noise(absorbing_run):
    model = ddcli.load(absorbing_run)
    frames = list(model.frames(length=20, seed=8, steps=10))
    opened = sum(frame.opened.int() for frame in frames[1:])
    assert (opened == 1).all()
    assert [frame.step for frame in frames] == list(range(11))


def test_records_have_the_lengths_of_the_training_records(records_run):
    model = ddcli.load(records_run)
    lengths = {len(sample.tokens) for sample in model.sample(40, seed=9, steps=3)}
    assert lengths <= set(model.record_lengths)
    assert len(lengths) > 1
    prompted = model.sample(10, seed=9, steps=3, prompt="Ann")
    assert all(sample.text.startswith("Ann") and len(sample.text) > 3 for sample in prompted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 10_000}, "at once"),
        ({"length": 0}, "at once"),
        ({"prompt": "x" * 500}, "leave nothing to write"),
        ({"steps": 0}, "steps"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "--top-p 0"),
        ({"sampler": "ancestrel"}, "did you mean 'ancestral'"),
        ({"n": 0}, "at least one"),
        ({"batch_size": 0}, "at least one"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(absorbing_run, options, message):
    with pytest.raises(DdcliError, match=message):
        ddcli.load(absorbing_run).sample(**options)


# -- how the loop is asked --------------------------------------------------------------------------------


def test_text_can_be_fixed_anywhere(absorbing_run):
    model = ddcli.load(absorbing_run)
    (sample,) = model.sample(1, prompt="the ", fixed={8: "cat", 15: "dog"}, length=20, seed=3, steps=10)
    assert sample.text[:4] == "the "
    assert (sample.text[8:11], sample.text[15:18]) == ("cat", "dog")
    assert len(sample.tokens) == 16
    for fixed in ({3: "x"}, {8: "cat", 10: "dog"}, {18: "long"}):
        with pytest.raises(DdcliError, match="the text fixed at"):
            model.sample(1, prompt="the ", fixed=fixed, length=20)


def test_a_model_without_blocks_writes_block_after_block_if_asked(absorbing_run):
    model = ddcli.load(absorbing_run)
    for frame in model.frames(length=20, block=8, steps=10, seed=1):
        clock = frame.clock[0]
        running = [i for i in range(3) if 0 < clock[i * 8 : i * 8 + 8].max() < 1]
        assert len(running) <= 1
        for i in running:
            assert (clock[: i * 8] == 0).all()
            assert (clock[(i + 1) * 8 :] == 1).all()
    assert (frame.clock == 0).all()
    assert frame.steps == 10  # of which the blocks take 4, 4 and 2


@pytest.mark.parametrize("sampler", ["ancestral", "first-hitting", "threshold", "remask:loop", "corrector"])
@pytest.mark.parametrize("block", [None, 8])
def test_samples_do_not_depend_on_their_neighbours_whatever_the_sampler(absorbing_run, sampler, block):
    model = ddcli.load(absorbing_run)
    how = {"length": 20, "seed": 5, "steps": 16, "sampler": sampler, "block": block}
    together = model.sample(5, **how)
    apart = model.sample(5, batch_size=2, **how)
    assert [one.text for one in together] == [one.text for one in apart]
    assert [one.nfe for one in together] == [one.nfe for one in apart]


def test_the_one_likeliest_token_is_what_top_1_temperature_0_and_a_greedy_tail_draw(
    absorbing_run, uniform_run
):
    for run in (absorbing_run, uniform_run):
        model = ddcli.load(run)
        how = {"length": 20, "seed": 5, "steps": 8}
        if run == absorbing_run:
            assert model.sample(1, top_k=1, **how)[0].text == model.sample(1, temperature=0, **how)[0].text
            assert (
                model.sample(1, greedy_tail=8, **how)[0].text == model.sample(1, temperature=0, **how)[0].text
            )
        assert model.sample(1, greedy_tail=1, **how)[0].text != model.sample(1, **how)[0].text


@pytest.mark.parametrize("settings", [{}, {"sampler": "confidence"}, {"block": 8}, {"sampler": "remask"}])
def test_what_sampling_costs_is_foretold(absorbing_run, settings):
    model = ddcli.load(absorbing_run)
    chosen = model.choose(steps=10, **settings)
    least, most = model.calls(chosen, [True] * 20)
    nfe = [one.nfe for one in model.sample(40, length=20, seed=2, steps=10, **settings)]
    assert least == most
    assert sum(nfe) / 40 == pytest.approx(least, abs=0.6)
    said = model.explain(chosen, [True] * 20)
    assert f"NFE {least:.1f} expected for 20 characters" in said
    assert all(str(value) in said for value in settings.values())
    said = model.explain(model.choose(sampler="threshold"), [True] * 20)
    assert said == "sampler threshold, temperature 1.0; NFE 1 to 20 for 20 characters, as the text turns out"


def test_the_prefix_cache_is_exact_until_a_second_block_and_says_that_it_is_not_then(absorbing_run):
    model = ddcli.load(absorbing_run)
    how = {"length": 24, "seed": 5, "steps": 12}
    whole = [model.sample(2, block=24, cache=cache, **how) for cache in ("none", "prefix")]
    assert [one.text for one in whole[0]] == [one.text for one in whole[1]]
    exact, cached = (list(model.frames(block=8, cache=cache, **how)) for cache in ("none", "prefix"))
    begun = next(i for i, frame in enumerate(exact) if (frame.clock[0, :8] == 0).all())
    assert all((a.x == b.x).all() for a, b in zip(exact[:begun], cached[:begun], strict=True))
    assert (cached[-1].clock == 0).all()
    assert exact[-1].nfe.tolist() == cached[-1].nfe.tolist()
    together, apart = (model.sample(3, block=8, cache="prefix", batch_size=b, **how) for b in (3, 1))
    assert [one.text for one in together] == [one.text for one in apart]
    assert "approximate" in model.explain(model.choose(block=8, cache="prefix"), [True] * 24)


@torch.no_grad()
def test_what_the_prefix_cache_computes_is_the_network_with_an_older_prefix(absorbing_run):
    """While nothing behind the prefix changes, that is the network itself."""
    model = ddcli.load(absorbing_run)
    for weight in model.network.parameters():  # so short a training leaves them all but deaf to each other
        weight.add_(torch.randn_like(weight), alpha=0.1)
    cached = PrefixCached(model.plain, model.network, 8)
    xt = torch.randint(0, 5, (2, 24))
    xt[:, 8:] = model.tokenizer.mask_id
    t = (xt == model.tokenizer.mask_id).double()
    rows = torch.zeros_like(xt, dtype=torch.bool).index_fill(1, torch.arange(8, 16), True)
    exact = model.plain(xt, t, rows)
    for _ in range(2):  # computed, then held
        torch.testing.assert_close(cached(xt, t, rows), exact, rtol=1e-4, atol=1e-4)
    changed = xt.clone()
    changed[:, 12] = 1
    t[:, 12], rows[:, 12] = 0, False
    assert not torch.allclose(cached(changed, t, rows), model.plain(changed, t, rows), atol=1e-6)


def test_memory_is_kept_while_a_model_is_asked_and_no_longer(absorbing_run):
    model, seen = ddcli.load(absorbing_run), []
    model.sample(1, steps=2, on_frame=lambda frame: seen.append(device._keeping))
    asked = model.denoiser

    def noted(*question, **told):
        seen.append(device._keeping)
        return asked(*question, **told)

    listening = replace(model, denoiser=noted, plain=None)
    listening.score("abc")
    listening.infill("ab[MASK:1-2]c")
    assert seen[0] == 0  # pure noise
    assert all(seen[1:])
    assert device._keeping == 0
    canvas = Canvas(np.zeros((1, 24), int), np.zeros((1, 24), bool), [24], [5])
    frames = model.denoise(canvas, model.choose(steps=4))
    assert [next(frames).step, next(frames).step, device._keeping] == [0, 1, 1]
    frames.close()  # as where a live view is left
    assert device._keeping == 0


def test_the_prefix_cache_is_refused_where_it_has_no_use(absorbing_run):
    model = ddcli.load(absorbing_run)
    for how in ({"cache": "prefix"}, {"cache": "some", "block": 8}):
        with pytest.raises(DdcliError, match="cache"):
            model.sample(1, **how)


def test_the_prefix_cache_goes_with_what_is_known_of_a_text(absorbing_run):
    model = ddcli.load(absorbing_run)
    how = {"seed": 2, "steps": 12, "cache": "prefix"}
    (fixed,) = model.sample(1, length=24, block=8, fixed={3: "the", 17: "o"}, **how)
    assert (fixed.text[3:6], fixed.text[17]) == ("the", "o")
    text = "the t[MASK:6]n the[MASK:4]ea"
    (whole,), (cached,) = (model.infill(text, block=64, **how | {"cache": c}) for c in ("none", "prefix"))
    assert whole.text == cached.text
    (cached,) = model.infill(text, block=4, **how)
    assert (cached.text[:5], cached.text[11:16], cached.text[20:]) == ("the t", "n the", "ea")


# -- what a reader of the options would expect ------------------------------------------------------------


def test_records_do_not_depend_on_their_neighbours_with_blocks_either(records_run):
    model = ddcli.load(records_run)
    how = {"seed": 3, "steps": 12, "block": 4}
    together, apart = (model.sample(6, batch_size=size, **how) for size in (6, 1))
    assert len({len(one.tokens) for one in together}) > 1
    assert [one.text for one in together] == [one.text for one in apart]


def test_a_record_is_long_enough_for_what_is_fixed_in_it(records_run):
    for sample in ddcli.load(records_run).sample(12, fixed={5: "a"}, seed=1, steps=4):
        assert sample.text[5] == "a"


def test_what_is_fixed_must_be_writable(absorbing_run):
    with pytest.raises(DdcliError, match="a symbol that the vocabulary lacks"):
        ddcli.load(absorbing_run).sample(1, fixed={3: "é"})


@torch.no_grad()
def test_no_text_ends_before_what_is_fixed(absorbing_run):
    model = ddcli.load(absorbing_run)
    eager = replace(model, denoiser=OnlyEnds(model))
    (sample,) = eager.sample(1, fixed={8: "cat"}, length=20, seed=1)
    assert sample.text[8:11] == "cat"
    assert len(sample.tokens) == 11


class OnlyEnds:
    """Believes that every text is over."""

    def __init__(self, model):
        self.log_p = torch.full((model.tokenizer.vocab_size,), -1e5)
        self.log_p[model.process.vocabulary.text_ids] = -50.0
        self.log_p[model.tokenizer.eos_id] = 0.0

    def __call__(self, xt, t, rows, valid=None, **told):
        return self.log_p.expand(int(rows.sum()), -1)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sampler": "first-hitting", "greedy_tail": 2}, "greedy tail"),
        ({"sampler": "threshold", "greedy_tail": 2}, "greedy tail"),
        ({"steps": 4, "greedy_tail": 5}, "--greedy-tail 5: there are only 4 steps"),
        ({"top_q": 0.9}, "unknown setting 'top_q'; did you mean 'top_p'"),
        ({"top_p": 1.5}, "--top-p 1.5: "),
        ({"sampler": "remask:loop", "steps": 8, "block": 4}, "at least 4 steps"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(absorbing_run, settings, problem):
    with pytest.raises(DdcliError, match=problem):
        ddcli.load(absorbing_run).sample(1, **settings)


def test_the_cost_of_blocks_is_that_of_what_they_hold(absorbing_run):
    """A prompt that fills blocks costs nothing."""
    model = ddcli.load(absorbing_run)
    how = {"steps": 16, "block": 8, "sampler": "confidence", "seed": 1, "prompt": "the cat sat "}
    said = model.explanation(**how)
    (sample,) = model.sample(1, **how)
    assert f"NFE {sample.nfe:.1f} expected for 20 characters" in said


@pytest.mark.parametrize(("length", "block"), [(32, 8), (16, 4), (20, 20), (8, 32)])
def test_steps_are_those_from_noise_to_text_however_it_is_cut(absorbing_run, length, block):
    model = ddcli.load(absorbing_run)
    how = {"steps": 8, "block": block, "sampler": "confidence"}
    assert {one.nfe for one in model.sample(2, length=length, seed=1, **how)} == {8}
    assert "NFE 8.0 expected" in model.explanation(length=length, **how)


def test_an_explanation_tells_the_steps_of_each_block(absorbing_run):
    model = ddcli.load(absorbing_run)
    assert "steps 8 (2 a block)" in model.explanation(steps=8, block=8)
    assert "steps 16 (4 to 7 a block)" in model.explanation(steps=16, block=8, prompt="the cat sat ")


def test_a_loop_of_remasking_is_refused_only_where_full_blocks_are_too_short_for_it(absorbing_run):
    model = ddcli.load(absorbing_run)
    for length in (8, 17):  # one block that takes all steps; a last one of a single position
        (one,) = model.sample(1, length=length, sampler="remask:loop", steps=16, block=8, seed=1)
        assert len(one.tokens) == length


def test_a_threshold_at_temperature_0_waits_until_it_is_sure(absorbing_run):
    """A model that has hardly learnt is sure of nothing."""
    (one,) = ddcli.load(absorbing_run).sample(1, length=20, sampler="threshold", temperature=0, seed=1)
    assert one.nfe > 10


def test_sequences_of_a_batch_go_through_blocks_of_their_own(absorbing_run):
    """Some are given text that others are not: their draws stay what they are alone."""
    model = ddcli.load(absorbing_run)
    tokens = np.zeros((2, 24), dtype=np.int64)
    frozen = np.zeros_like(tokens, dtype=bool)
    frozen[0, :12] = True
    how = model.choose(sampler="first-hitting", block=8)
    *_, both = model.denoise(Canvas(tokens, frozen, [24, 24], [5, 6]), how)
    for i in range(2):
        here = slice(i, i + 1)
        *_, alone = model.denoise(Canvas(tokens[here], frozen[here], [24], [5 + i]), how)
        assert (alone.x[0] == both.x[i]).all()


def test_first_hitting_waits_for_those_alone_that_are_masked_at_the_start(absorbing_run):
    """A schedule that ends above 0 leaves some visible; a single mask opens at any share of what is lost."""
    model, n = ddcli.load(absorbing_run), 2_000
    process = Absorbing.over(model.process.vocabulary, make_schedule("geometric:0.7"))
    canvas = Canvas(np.zeros((n, 2)), np.zeros((n, 2), dtype=bool), [2] * n, range(n))

    def flat(xt, t, rows, valid=None):
        return flat_text(process).expand(int(rows.sum()), -1)

    how = model.choose(sampler="first-hitting")
    first, *others = replace(model, process=process, denoiser=flat).denoise(canvas, how)
    masked = (first.x == process.mask_id).sum(-1)
    assert (others[-1].nfe == masked).all()
    opened = [frame.clock[frame.rows.any(-1) & (masked == 1), 0] for frame in others]
    lost = process.schedule.lost(torch.cat(opened)) / process.schedule.lost(torch.ones(()).double())
    assert 900 < len(lost) < 1_100
    assert lost.mean().item() == pytest.approx(1 / 2, abs=4 / (12 * len(lost)) ** 0.5)


def test_an_explanation_refuses_what_sampling_would(absorbing_run, uniform_run):
    with pytest.raises(DdcliError, match="cannot be cut to likely tokens"):
        ddcli.load(uniform_run).explanation(guidance=2, temperature=0, prompt="the")
    with pytest.raises(DdcliError, match="give --prompt"):
        ddcli.load(absorbing_run).explanation(guidance=2)


def test_a_model_is_shown_in_a_line_and_its_frames_as_text(absorbing_run):
    model = ddcli.load(absorbing_run)
    assert repr(model).startswith(f"<TextModel from {absorbing_run}: absorbing, 32 characters at once, ")
    assert len(repr(model).splitlines()) == 1
    first, *_, last = model.frames(length=5, seed=1, steps=3)
    assert model.text_of(first) == ["<mask>" * 5]
    assert model.text_of(last) == [model.sample(1, length=5, seed=1, steps=3)[0].text]


def test_bytes_are_scored_as_the_text_they_are_and_nothing_is_not(absorbing_run):
    model = ddcli.load(absorbing_run)
    assert model.score(b"the cat") == model.score("the cat")
    with pytest.raises(DdcliError, match="there is no text to score"):
        model.score("")
