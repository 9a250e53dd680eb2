"""Every process and objective, from settings to text: trained a little, saved, loaded, sampled, infilled."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import edit_json, metrics, train_tiny
from worlds import RING

from ddcli.config import load_config
from ddcli.errors import DdcliError
from ddcli.model import Canvas
from ddcli.saved import load_model
from ddcli.training import train

LETTERS = "abc\n"
TEXT = "aabaaacaab\n" * 300

CELLS = {
    "absorbing": {},
    "absorbing in steps": {"objective__name": "discrete-elbo", "objective__timesteps": 16},
    "absorbing, flat weights": {"objective__name": "cross-entropy"},
    "absorbing, by its score": {"objective__name": "score-entropy"},
    "absorbing, geometric": {"process__schedule": "geometric"},
    "absorbing with a clock": {"model__clock": "time"},
    "uniform": {"process__name": "uniform"},
    "uniform in steps": {"process__name": "uniform", "objective__name": "discrete-elbo"},
    "uniform, d3pm-hybrid": {"process__name": "uniform", "objective__name": "d3pm-hybrid:0.1"},
    "uniform, flat weights": {"process__name": "uniform", "objective__name": "cross-entropy"},
    "uniform, flat weights in steps": {
        "process__name": "uniform",
        "objective__name": "cross-entropy",
        "objective__timesteps": 16,
    },
    "uniform, no time": {
        "process__name": "uniform",
        "objective__name": "cross-entropy",
        "model__clock": "given",
        "model__predicts": "posterior",
    },
    "uniform, no time, reads its own guess": {
        "process__name": "uniform",
        "train__steps": 400,  # it begins by repeating, which is not so bad
        "model__clock": "given",
        "model__self_condition": True,
    },
    "absorbing, reads its own guess": {"model__self_condition": True},
    "uniform, by its score": {"process__name": "uniform", "objective__name": "score-entropy"},
    "hybrid": {"process__name": "hybrid:0.2", "process__schedule": "cosine"},
    "unigram": {"process__name": "stationary:unigram"},
    "band": {"process__name": "band:1"},
    "gaussian, by its score": {"process__name": "gaussian", "objective__name": "score-entropy"},
    "autoregressive": {"process__name": "autoregressive"},
}


# much like others of them
LATER = (
    "absorbing, geometric",
    "absorbing with a clock",
    "uniform in steps",
    "uniform, flat weights",
    "uniform, no time",
    "gaussian, by its score",
)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    path = tmp_path_factory.mktemp("letters") / "letters.txt"
    path.write_text(TEXT)
    return path


def trained(run, letters, **changes):
    train_tiny(run, letters, **{"train__steps": 60, "validation__every": 60, "train__lr": 5e-3, **changes})
    return load_model(run)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LATER else ()) for name in CELLS]
)
def test_every_process_and_objective_learns_writes_and_fills(name, letters, tmp_path):
    model = trained(tmp_path / "run", letters, **CELLS[name])
    bounds = [line["bound_nats_per_token"] for line in metrics(tmp_path / "run") if "bound_stderr" in line]
    assert bounds[-1] < bounds[0] - 0.2
    (sample,) = model.sample(1, seed=1)
    assert set(sample.text) <= set(LETTERS)
    assert len(sample.text) == 32
    assert model.sample(1, seed=1, prompt="abc")[0].text.startswith("abc")
    if name != "autoregressive":
        filled = model.infill("abc[MASK:4]cb", seed=2, score=True)[0]
        assert filled.text.startswith("abc")
        assert filled.text.endswith("cb")
        assert len(filled.text) == 9
        assert np.isfinite(filled.score)


def test_a_model_trained_in_steps_samples_in_them_and_at_no_other_times(letters, tmp_path):
    """By itself in all T of them; in fewer, at some of their times; and more there are not."""
    settings = {"process__name": "uniform", "objective__name": "discrete-elbo", "objective__timesteps": 10}
    train_tiny(tmp_path / "run", letters, train__steps=2, validation__every=0, **settings)
    model = load_model(tmp_path / "run")
    assert model.settings.steps == 10
    for steps, called in ((None, 10), (4, 4), (25, 10)):
        chosen, told = model.choose(steps=steps), []

        def listening(xt, t, rows, valid=None, told=told):
            told.append(t.unique())
            return model.plain(xt, t, rows, valid)

        canvas = Canvas(np.zeros((1, 6), dtype=np.int64), np.zeros((1, 6), dtype=bool), [6], [1])
        *_, last = replace(model, denoiser=listening).denoise(canvas, chosen)
        at = 10 * torch.cat(told)
        torch.testing.assert_close(at, at.round())
        assert len(at.unique()) == last.nfe.item() == called
        assert ("of which there are 10" in model.described(chosen)) == (steps == 25)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_of_an_older_version_keeps_the_noise_it_was_trained_with(schedule, letters, tmp_path):
    """Where the schedule was GIDD's time, not what is left of the text."""
    run = tmp_path / "run"
    settings = {"process__name": "hybrid:0.1", "process__schedule": schedule, "train__steps": 2}
    train_tiny(run, letters, validation__every=0, **settings)
    today = load_model(run).process
    edit_json(run / "config.json", diffusion__noise=...)
    process = load_model(run).process
    t = torch.tensor([0.01, 0.5, 0.9], dtype=torch.float64)
    a, lost = today.schedule.alpha(t), today.schedule.lost(t)
    odds = 0.1 / 0.9 * 2 * (a * lost).sqrt()
    alpha, shares = process.shares(t)
    torch.testing.assert_close(alpha, a / (1 + odds))
    torch.testing.assert_close(shares, torch.stack([lost, odds], -1) / (1 + odds)[:, None])
    torch.testing.assert_close(process.schedule.when(process.schedule.lost(t)), t)
    assert today.shares(t)[0].tolist() == a.tolist()
    with pytest.raises(DdcliError, match=r"older version, .* --from"):
        train_tiny(run, letters, resume=True, validation__every=0, **settings)
    start = {"model.start": str(run), "data.source": str(letters), "train.steps": 1, "validation.every": 0}
    train(load_config(None, flags={**start, "samples.every": 0, "train.compile": False}), tmp_path / "next")
    assert load_model(tmp_path / "next").process == process


def test_a_chain_of_steps_from_a_file_trains_and_samples_and_outlives_the_file(letters, tmp_path):
    flat = 0.85 * np.eye(4) + 0.15 * np.full((4, 4), 0.25)
    shift = 0.9 * np.eye(4) + 0.1 * np.roll(np.eye(4), 1, 0)
    noise = tmp_path / "noise.json"
    steps = [(flat @ shift if k % 2 else shift @ flat).tolist() for k in range(16)]
    noise.write_text(json.dumps({"symbols": ["a", "b", "c", "\n"], "steps": steps}))
    settings = {"process__name": f"steps:{noise}"}
    run = tmp_path / "run"
    model = trained(run, letters, **settings)  # in as many steps as there are
    with pytest.raises(DdcliError, match="--timesteps 16"):
        trained(tmp_path / "other", letters, objective__timesteps=8, **settings)
    noise.unlink()
    again = load_model(run)
    assert again.sample(1, seed=3)[0].text == model.sample(1, seed=3)[0].text
    assert len(again.infill("ab[MASK:2]c", seed=1)[0].text) == 5


@pytest.mark.parametrize("objective", ["auto", "cross-entropy"])
def test_a_chain_of_steps_that_masks_trains_samples_and_fills(objective, letters, tmp_path):
    """Early in such a chain nothing of a batch may be masked, and no belief is asked for."""
    noise = tmp_path / "noise.npy"
    masked = np.array([0.001] * 4 + [0.25] * 12)
    steps = np.tile(np.eye(5), (16, 1, 1))
    steps[:, range(4), range(4)] = (1 - masked)[:, None]
    steps[:, 4, :4] = masked[:, None]
    np.save(noise, steps)
    one_by_one = {"train__batch_size": 8, "train__accumulate": 8, "train__times": "even"}
    changes = {"process__name": f"steps:{noise}", "objective__name": objective, **one_by_one}
    model = trained(tmp_path / "run", letters, **changes)
    bounds = [line["bound_nats_per_token"] for line in metrics(tmp_path / "run") if "bound_stderr" in line]
    assert bounds[-1] < bounds[0] - 0.2
    assert set(model.sample(1, seed=1)[0].text) <= set(LETTERS)
    assert len(model.infill("ab[MASK:2]c", seed=1, score=True)[0].text) == 5


@pytest.mark.parametrize("process", ["stationary:unigram", "band:1"])
def test_noise_that_is_made_from_numbers_needs_them(letters, tmp_path, process):
    run = tmp_path / "run"
    trained(run, letters, process__name=process, train__steps=5)
    (run / "process.safetensors").unlink()
    with pytest.raises(DdcliError, match=r"process.safetensors is missing or damaged"):
        load_model(run)


def test_noise_from_a_file_goes_on_after_the_file_is_gone(letters, tmp_path):
    noise = tmp_path / "noise.npy"
    np.save(noise, np.full((4, 4), 0.25) - np.eye(4))
    run = tmp_path / "run"
    trained(run, letters, process__name=f"generator:{noise}", train__steps=10, checkpoint__every=5)
    noise.unlink()
    changes = {"process__name": f"generator:{noise}", "train__steps": 12, "train__lr": 5e-3}
    train_tiny(run, letters, resume=True, validation__every=60, **changes)
    assert len(load_model(run).sample(1, seed=1)[0].text) == 32
    for shown in ("README.md", "config.json"):
        assert "generator:noise.npy" in (run / shown).read_text()
        assert str(tmp_path) not in (run / shown).read_text()


def test_the_autoregressive_bound_is_the_likelihood_itself_and_is_learnt(letters, tmp_path):
    trained(tmp_path / "run", letters, process__name="autoregressive", train__steps=150)
    last = metrics(tmp_path / "run")[-1]
    assert last["bound_nats_per_token"] == last["literature_nats_per_token"]
    assert last["bound_nats_per_token"] < 0.3  # the text repeats itself


def test_an_autoregressive_model_takes_one_evaluation_a_token_and_never_looks_ahead(letters, tmp_path):
    model = trained(tmp_path / "run", letters, process__name="autoregressive", train__steps=20)
    (sample,) = model.sample(1, prompt="ab", fixed={2: "c"}, length=8, seed=1)
    assert sample.text.startswith("abc")
    with pytest.raises(DdcliError, match=r"would be met by chance: .* \(--prompt\)"):
        model.sample(1, fixed={2: "c"}, length=8)
    assert model.sample(1, seed=1, length=12, prompt="ab")[0].nfe == 10
    with pytest.raises(DdcliError, match="cannot infill"):
        model.infill("a[MASK]b")
    for sampler in ("ancestral", "confidence"):
        with pytest.raises(DdcliError, match="left-to-right"):
            model.sample(1, sampler=sampler)
    xt = torch.randint(0, 4, (1, 16))
    t, rows = torch.ones(1, 16, dtype=torch.float64), torch.ones(1, 16, dtype=torch.bool)
    changed = xt.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 4
    with torch.no_grad():
        one, other = model.denoiser(xt, t, rows), model.denoiser(changed, t, rows)
    assert torch.equal(one[:10], other[:10])
    assert not torch.equal(one[10:], other[10:])


BAD = {
    "a number after absorbing": ("absorbing:3", "elbo", {}, "takes nothing after its name"),
    "a share of random tokens above one": ("hybrid:1.5", "elbo", {}, "hybrid:0.1"),
    "no share of random tokens": ("hybrid:0", "elbo", {}, "--process absorbing"),
    "nothing but random tokens": ("hybrid:1", "elbo", {}, "--process uniform"),
    "a network that cannot tell what is given": (
        "uniform",
        "cross-entropy",
        {"model__clock": "none"},
        "model.clock=given",
    ),
    "a guess of blocks": (
        "absorbing",
        "elbo",
        {"model__block": 8, "model__self_condition": True},
        "model.self_condition does not go with blocks",
    ),
    "one end of a range of times": ("absorbing", "elbo", {"train__times": "clipped:0.5"}, "not 0.5 alone"),
    "a share that is no number": ("hybrid:much", "elbo", {}, "'much'"),
    "a band of nothing": ("band:0", "elbo", {}, "such as band:1"),
    "a width that is no number": ("gaussian:wide", "elbo", {}, "'wide'"),
    "no such process": ("absorbin", "elbo", {}, "did you mean 'absorbing'"),
    "no such objective": ("absorbing", "elbow", {}, "did you mean 'elbo'"),
    "a number after elbo": ("absorbing", "elbo:2", {}, "takes nothing after its name"),
    "a negative weight": ("absorbing", "d3pm-hybrid:-1", {}, "'-1'"),
    "an autoregressive chain": ("autoregressive", "discrete-elbo", {}, "use --objective elbo"),
    "an autoregressive schedule": ("autoregressive", "elbo", {"process__schedule": "cosine"}, "--schedule"),
    "a file that is not there": ("generator:no.json", "elbo", {}, "no.json is not there"),
    "no file": ("steps", "discrete-elbo", {}, "which file?"),
    "a head there is none of": ("uniform", "elbo", {"model__predicts": "noise"}, "unknown head 'noise'"),
    "a posterior that matrices blow up": ("band", "elbo", {"model__predicts": "posterior"}, "leave-one-out"),
    "a score by the bound": (
        "uniform",
        "elbo",
        {"model__predicts": "score"},
        "use --objective score-entropy",
    ),
    "a score by its tokens": (
        "band",
        "cross-entropy",
        {"model__predicts": "score"},
        "use --objective score-entropy",
    ),
    "a score of an order": ("autoregressive", "score-entropy", {}, "use --objective elbo"),
    "a flat weight of an order": ("autoregressive", "cross-entropy", {}, "use --objective elbo"),
    "a posterior of an order": ("autoregressive", "elbo", {"model__predicts": "posterior"}, "next token"),
    "a clock of an order": ("autoregressive", "elbo", {"model__clock": "time"}, "no use for model.clock"),
    "a hidden prefix of blocks": (
        "absorbing",
        "elbo",
        {"model__block": 8, "train__drop_prefix": 0.1},
        "train.drop_prefix does not go with blocks",
    ),
    "steps in continuous time": ("absorbing", "elbo", {"objective__timesteps": 8}, "leave --timesteps out"),
    "a number after auto": ("absorbing", "auto:3", {}, "'auto:3'"),
    "clipped times nobody chooses": (
        "absorbing",
        "elbo",
        {"train__times": "clipped", "validation__every": 0},
        "set validation.every",
    ),
    "a schedule that rises": ("absorbing", "elbo", {"process__schedule": "polynomial:-1"}, "from 0.1 to 20"),
    "a geometric schedule without end": ("uniform", "elbo", {"process__schedule": "geometric:0"}, "sigma"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_by_name_before_anything_is_written(name, letters, tmp_path):
    process, objective, changes, message = BAD[name]
    run = tmp_path / "run"
    with pytest.raises(DdcliError) as refusal:
        trained(run, letters, process__name=process, objective__name=objective, **changes)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not run.exists()


BAD_FILES = {
    "steps that forget nothing": ({"steps": [[[1, 0], [0, 1]]]}, "steps", "100% of the text is left"),
    "columns that do not sum to 1": (
        {"steps": [[[0.5, 0.1], [0.4, 0.9]]]},
        "steps",
        "first at matrix 0, column 0 sums to 0.9",
    ),
    "a column of a later matrix": (
        {"steps": [[[0.5, 0.1], [0.5, 0.9]]] * 3 + [[[0.5, 0.1], [0.5, 0.8]]]},
        "steps",
        "first at matrix 3, column 1 sums to 0.9",
    ),
    "an entry of a later matrix": (
        {"steps": [[[0.5, 0.1], [0.5, 0.9]], [[0.5, 1.1], [0.5, -0.1]]]},
        "steps",
        "first at matrix 1, row 1, column 1",
    ),
    "rows that sum to 1": ({"steps": [[[0.5, 0.5], [0.1, 0.9]]]}, "steps", "transpose it"),
    "negative probabilities": ({"steps": [[[1.2, 0.0], [-0.2, 1.0]]]}, "steps", "negative"),
    "negative rates": ({"generator": [[0.2, 0.1], [-0.2, -0.1]]}, "generator", "negative"),
    "columns of a generator": (
        {"generator": [[-1.0, 1.0], [0.5, -1.0]]},
        "generator",
        "sum to 0, but first at column 0 sums to -0.5",
    ),
    "two parts that do not mix": ({"generator": [[0.0, 0.0], [0.0, 0.0]]}, "generator", "never forgets"),
    "no square": ({"steps": [[[1.0, 0.0]]]}, "steps", "square"),
    "one matrix where many belong": ({"steps": [[1.0, 0.0], [0.0, 1.0]]}, "steps", "list of matrices"),
    "no numbers": ({"generator": [["a", "b"], ["c", "d"]]}, "generator", "no matrices of numbers"),
    "infinite": ({"generator": [[float("inf"), 0.0], [0.0, 0.0]]}, "generator", "not every entry"),
    "another key": ({"matrix": [[0.0]]}, "generator", "no 'generator'"),
    "too few states": ({"steps": [[[1.0]]]}, "steps", "1 states, but the vocabulary has 2 symbols"),
    "other symbols": (
        {"symbols": ["a", "z"], "generator": [[-1.0, 1.0], [1.0, -1.0]]},
        "generator",
        "must be the vocabulary's",
    ),
    "a text": ("hello", "generator", "cannot be read"),
    "weights of strangers": ({"z": 1.0}, "stationary", "no symbol"),
    "weights below zero": ({"a": -1.0}, "stationary", "must be a number from 0"),
    "weights of nothing": ({"a": 0}, "stationary", "all weights are 0"),
    "weights of special tokens": ({"<mask>": 1.0}, "stationary", "no symbol"),
    "half a repeat": ({"steps": [[1.0, 0.0], [0.0, 1.0]], "repeat": 2.5}, "steps", "`repeat`"),
    "no weights": ([1.0], "stationary", "no table of weights"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_noise_is_refused_by_name(name, tmp_path):
    from ddcli.process import Vocabulary, make_process

    content, kind, message = BAD_FILES[name]
    path = tmp_path / "noise.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DdcliError) as refusal:
        make_process(f"{kind}:{path}", "linear", Vocabulary(3, 2, (2,), ("a", "b", "<mask>")))
    assert message in str(refusal.value)
    assert "noise.json" in str(refusal.value) or "never forgets" in message or "states" in message


def test_symbols_of_a_file_may_come_in_any_order_and_hold_a_mask(tmp_path):
    from ddcli.process import Vocabulary, make_process

    vocabulary = Vocabulary(5, 4, (3, 4), ("a", "b", "c", "<pad>", "<mask>"))
    path = tmp_path / "noise.json"
    order = [2, 0, 1]
    path.write_text(json.dumps({"symbols": ["c", "a", "b"], "generator": RING[order][:, order].tolist()}))
    shuffled = make_process(f"generator:{path}", "linear", vocabulary)
    np.save(tmp_path / "noise.npy", RING.numpy())
    plain = make_process(f"generator:{tmp_path / 'noise.npy'}", "linear", vocabulary)
    torch.testing.assert_close(shuffled.matrix, plain.matrix)
    absorbing = np.diag([-1.0, -1, -1, 0])
    absorbing[3, :3] = 1
    np.save(tmp_path / "mask.npy", absorbing)
    masked = make_process(f"generator:{tmp_path / 'mask.npy'}", "linear", vocabulary)
    assert masked.states.tolist() == [0, 1, 2, 4]
    assert not masked.needs_clock


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY junk", b"\x80\x04K\x01."])
def test_an_array_that_is_none_is_refused_by_name(tmp_path, content):
    from ddcli.process import Vocabulary, make_process

    (tmp_path / "noise.npy").write_bytes(content)
    with pytest.raises(DdcliError, match=r"noise\.npy holds no matrices of numbers"):
        make_process(f"generator:{tmp_path / 'noise.npy'}", "linear", Vocabulary(2))


@pytest.mark.parametrize("content", [np.eye(2) * 1j, np.array([["a", "b"], ["c", "d"]])])
def test_an_array_of_no_real_numbers_is_refused_by_its_kind(tmp_path, content):
    from ddcli.process import Vocabulary, make_process

    np.save(tmp_path / "noise.npy", content)
    with pytest.raises(DdcliError, match=rf"no real numbers, but {content.dtype}"):
        make_process(f"generator:{tmp_path / 'noise.npy'}", "linear", Vocabulary(2))


def test_steps_repeated_beyond_what_memory_holds_are_refused(tmp_path):
    from ddcli.process import Vocabulary, make_process

    path = tmp_path / "noise.json"
    path.write_text(json.dumps({"steps": np.full((300, 300), 1 / 300).tolist(), "repeat": 10_000}))
    with pytest.raises(DdcliError, match=r"noise\.json: repeated 10,000 times .* 6\.7 GB"):
        make_process(f"steps:{path}", "linear", Vocabulary(300))


def test_rates_of_any_size_are_brought_to_one_scale(tmp_path):
    from ddcli.process import Vocabulary, make_process

    rates = np.array([[-1.0, 0.5], [1.0, -0.5]])
    for scale in (1e-200, 1.0, 1e308):
        np.save(tmp_path / "noise.npy", rates * scale)
        found = make_process(f"generator:{tmp_path / 'noise.npy'}", "linear", Vocabulary(2)).matrix
        torch.testing.assert_close(found, torch.tensor(rates) / 1.5)


def test_symbols_may_be_written_as_numbers(tmp_path):
    from ddcli.process import Vocabulary, make_process

    path = tmp_path / "noise.json"
    path.write_text(json.dumps({"symbols": [1, 0], "generator": [[-1, 3], [1, -3]]}))
    found = make_process(f"generator:{path}", "linear", Vocabulary(2, None, (), ("0", "1")))
    assert found.matrix[1, 0] > found.matrix[0, 1]


def test_a_step_may_be_repeated(tmp_path):
    from ddcli.process import Vocabulary, make_process

    path = tmp_path / "noise.json"
    path.write_text(json.dumps({"steps": [[0.9, 0.1], [0.1, 0.9]], "repeat": 12}))
    assert make_process(f"steps:{path}", "linear", Vocabulary(2)).timesteps == 12


def test_matrices_with_a_mask_have_gradients_at_the_clean_end(tmp_path):
    """A probability of exactly 0 has a logarithm, and no slope."""
    from ddcli.objective import cross_entropy
    from ddcli.process import Vocabulary, make_process

    absorbing = np.diag([-1.0, -1, -1, 0])
    absorbing[3, :3] = 1
    np.save(tmp_path / "mask.npy", absorbing)
    process = make_process(f"generator:{tmp_path / 'mask.npy'}", "linear", Vocabulary(5, 4, (3, 4)))
    logits = torch.tensor([[0.0, 200.0, -200.0, -1e5, -1e5]], requires_grad=True)
    log_p0 = logits.log_softmax(-1)
    x0, xt, t = torch.tensor([0]), torch.tensor([4]), torch.tensor([0.5], dtype=torch.float64)
    loss = cross_entropy(process, log_p0, x0, xt, t).sum()
    loss.backward()
    assert loss.item() == pytest.approx(200, rel=1e-3)
    assert torch.isfinite(logits.grad).all()
