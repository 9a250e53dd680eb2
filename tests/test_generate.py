"""Laws of sampling and infilling with trained networks."""

import random

import numpy as np
import pytest
from tiny import train_tiny

import ddcli
from ddcli.errors import DdcliError


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
        ways = runs_of_letters.infill(document, n=20, seed=1, steps=32)
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
    many = model.infill("ab[MASK:3]cd[MASK]e", n=4, seed=5, steps=9)
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
        ({"top_p": 0}, "top_p"),
        ({"sampler": "ancestrel"}, "did you mean 'ancestral'"),
        ({"n": 0}, "at least one"),
        ({"batch_size": 0}, "at least one"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(absorbing_run, options, message):
    with pytest.raises(DdcliError, match=message):
        ddcli.load(absorbing_run).sample(**options)
