"""On another device everything is as on a CPU, to rounding: what trains, what is drawn, what is measured.

On a GPU with `make gpu`, on a machine that has one; and anywhere on one that is made up and knows no
float64, as Apple's (far.py): the network is there, and all else on the processor.
"""

import difflib

import ddit_reference
import far
import pytest
import torch
from test_ddit import TOKENIZERS, gpt2_like
from tiny import Heard, metrics, start_config, stop_at, tiny_config, train_tiny

from ddcli import device as devices
from ddcli import training
from ddcli.denoiser import AT_ONCE
from ddcli.errors import DdcliError
from ddcli.plan import Silent
from ddcli.report import evaluate
from ddcli.sampler import SAMPLERS, make_sampler
from ddcli.saved import load_model
from ddcli.training import train

# what libraries deprecate in each other is not what is asked here
pytestmark = pytest.mark.filterwarnings("default")
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), far.NAME]

KINDS = {  # settings of every process and objective, and of what else a network may be told
    "absorbing": {},
    "absorbing-cosine-256": {"process__schedule": "cosine", "objective__name": "discrete-elbo"},
    "absorbing-d3pm": {"objective__name": "d3pm-hybrid:0.1"},
    "absorbing-score": {"objective__name": "score-entropy"},
    "absorbing-cross-entropy": {"objective__name": "cross-entropy"},
    "absorbing-guessing": {"model__self_condition": True},
    "absorbing-recomputed": {"train__recompute": True},
    "absorbing-prefixes": {"train__drop_prefix": 0.5},
    "uniform": {"process__name": "uniform"},
    "uniform-elbo": {"process__name": "uniform", "objective__name": "elbo"},
    "uniform-score": {"process__name": "uniform", "objective__name": "score-entropy"},
    "uniform-untimed": {"process__name": "uniform", "model__clock": "given"},
    "hybrid": {"process__name": "hybrid:0.2", "process__schedule": "geometric", "objective__name": "elbo"},
    "unigram": {"process__name": "stationary:unigram", "objective__name": "discrete-elbo"},
    "band": {"process__name": "band:2", "objective__name": "elbo"},
    "gaussian": {"process__name": "gaussian:2", "objective__name": "discrete-elbo"},
    "blocks": {"model__block": 8},
    "autoregressive": {"process__name": "autoregressive"},
}
KEPT = {"block": 8, "cache": "prefix"}
# rounding in float32 matrix products, and in the sums of a GPU; training adds it up
CLOSE = 2e-3


@pytest.fixture(scope="module")
def made_up():
    """The device that is made up."""
    if not far.KNOWN:
        pytest.skip("a GPU is not to meet it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "KINDS", (*devices.KINDS, far.NAME))
        patch.setattr(devices, "WITHOUT_FLOAT64", frozenset({far.NAME}))
        patch.setitem(AT_ONCE, far.NAME, AT_ONCE["mps"])
        patch.setattr(torch, "tensor", far.tensor)
        torch.__future__.set_swap_module_params_on_conversion(True)  # such that tied weights stay tied
        try:
            yield far.NAME
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.getfixturevalue("made_up") if request.param == far.NAME else request.param


@pytest.fixture(scope="module", params=KINDS)
def pair(request, device, tmp_path_factory, text_file):
    """The same run, trained on the device and on a CPU."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, on in (("there", device), ("cpu", "cpu")):
        train_tiny(folder / name, text_file, train__device=on, **KINDS[request.param])
    return folder


def alike(one: str, other: str) -> bool:
    """Texts that differ in little: a number may lie so near a border that rounding moves it over."""
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() > 0.8


def test_a_run_learns_the_same(pair):
    there, on_cpu = (metrics(pair / name) for name in ("there", "cpu"))
    for key in ("loss", "gradient_norm", "bound_nats_per_token"):
        found, expected = ([row[key] for row in rows if key in row] for rows in (there, on_cpu))
        assert found == pytest.approx(expected, rel=CLOSE), key


def test_a_model_draws_and_scores_the_same(pair, device):
    """The same weights, on either."""
    there, on_cpu = (load_model(pair / "cpu", device=d, precision="float32") for d in (device, "cpu"))
    text = "the cat sat on a mat and saw my dog"[:30]
    found, expected = there.score(text, draws=8), on_cpu.score(text, draws=8)
    assert found.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-4)
    drawn = zip(there.sample(4, steps=16, seed=3), on_cpu.sample(4, steps=16, seed=3), strict=True)
    assert all(alike(one.text, other.text) for one, other in drawn)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_every_sampler_draws_the_same(name, noise, device, request):
    run = request.getfixturevalue(f"{noise}_run")
    there, on_cpu = (load_model(run, device=d, precision="float32") for d in (device, "cpu"))
    try:
        make_sampler(name).check(on_cpu.process)
    except DdcliError:
        pytest.skip("not for this noise")
    # a prompt, since of nothing but masks every position believes the same: rounding would choose the order
    options = {"sampler": name, "steps": 16, "seed": 5, "prompt": "the cat ", "temperature": 0.9}
    drawn = zip(there.sample(3, **options), on_cpu.sample(3, **options), strict=True)
    assert all(alike(one.text, other.text) for one, other in drawn)


@pytest.mark.gpu
@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_replayed_graphs_believe_what_kernels_do(noise, request):
    """Compiled for sampling; whatever the number of sequences, and again, once they are recorded."""
    run = request.getfixturevalue(f"{noise}_run")
    plain, compiled = (load_model(run, device="cuda", precision="float32") for _ in range(2))
    heard = []
    compiled.compile(heard.append)
    mask = plain.process.vocabulary.mask_id or 0
    for count in (3, 3, 3, 9, 1, 9, 9, 1, 1, 3):
        xt = torch.randint(5, mask or 20, (count, plain.length), device="cuda")
        rows = torch.rand(xt.shape, device="cuda") < 0.4
        asked = (xt.masked_fill(rows, mask), rows.double(), rows)
        with torch.no_grad():
            torch.testing.assert_close(compiled.plain(*asked), plain.plain(*asked), rtol=1e-3, atol=1e-3)
    drawn = ([s.text for s in model.sample(5, steps=16, seed=3)] for model in (compiled, plain))
    assert all(alike(one, other) for one, other in zip(*drawn, strict=True))
    assert not heard


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_gaps_are_filled_the_same(noise, device, request):
    run = request.getfixturevalue(f"{noise}_run")
    there, on_cpu = (load_model(run, device=d, precision="float32") for d in (device, "cpu"))
    text = "the cat [MASK:3] on a mat\nand saw [MASK:2-5] dog run\n"
    found, expected = (model.infill(text, 2, seed=2) for model in (there, on_cpu))
    assert all(alike(one.text, other.text) for one, other in zip(found, expected, strict=True))
    assert all(f.text.startswith("the cat ") and f.text.endswith(" dog run\n") for f in found)


def test_prefixes_and_blocks_are_kept_the_same(device, request, tmp_path, text_file):
    """What is computed once, of a text that is written block after block."""
    train_tiny(tmp_path / "blocks", text_file, model__block=8)
    for run, options in ((tmp_path / "blocks", {}), (request.getfixturevalue("absorbing_run"), KEPT)):
        there, on_cpu = (load_model(run, device=d, precision="float32") for d in (device, "cpu"))
        drawn = (model.sample(2, steps=16, seed=3, prompt="the cat ", **options) for model in (there, on_cpu))
        assert all(alike(one.text, other.text) for one, other in zip(*drawn, strict=True))


@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2"])
def test_what_others_made_believes_the_same(kind, device, folders):
    there, on_cpu = (load_model(folders(kind), device=d, precision="float32") for d in (device, "cpu"))
    found, expected = (model.score("the quick brown fox", draws=8) for model in (there, on_cpu))
    assert found.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-4)


@pytest.mark.parametrize("kind", ["mdlm", "sedd", "udlm", "duo", "gidd", "bd3lm"])
def test_networks_of_the_field_believe_the_same(kind, device, tmp_path):
    ddit_reference.save(kind, tmp_path / kind, TOKENIZERS.get(kind, gpt2_like)())
    there, on_cpu = (load_model(tmp_path / kind, device=d, precision="float32") for d in (device, "cpu"))
    found, expected = (model.score("the quick brown fox", draws=8) for model in (there, on_cpu))
    assert found.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-4)
    drawn = (model.sample(2, length=12, steps=6, seed=3) for model in (there, on_cpu))
    assert all(alike(one.text, other.text) for one, other in zip(*drawn, strict=True))


@pytest.mark.parametrize("settings", [{}, {"train__anneal": 6}, {"model__lora": "r=2"}])
def test_a_decoder_is_turned_the_same(settings, device, folders, text_file, tmp_path):
    for name in (device, "cpu"):
        config = start_config(folders("llama"), text_file, data__length=16, train__device=name, **settings)
        train(config, tmp_path / name, reporter=Silent())
    there, on_cpu = (metrics(tmp_path / name) for name in (device, "cpu"))
    for key in ("loss", "gradient_norm", "bound_nats_per_token"):
        found, expected = ([row[key] for row in rows if key in row] for rows in (there, on_cpu))
        assert found == pytest.approx(expected, rel=CLOSE), key


def test_labels_guide_the_same(device, tmp_path):
    (tmp_path / "named.csv").write_text("text,kind\n" + "aab,first\nbba,second\n" * 100)
    settings = {"data__text_column": "text", "data__label_column": "kind", "data__length": None}
    train_tiny(tmp_path / "run", tmp_path / "named.csv", data__lines=True, train__device=device, **settings)
    there, on_cpu = (load_model(tmp_path / "run", device=d, precision="float32") for d in (device, "cpu"))
    options = {"label": "first", "guidance": 2.0, "steps": 8, "seed": 1}
    drawn = zip(there.sample(4, **options), on_cpu.sample(4, **options), strict=True)
    assert all(alike(one.text, other.text) for one, other in drawn)


@pytest.mark.gpu
@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_compiled_in_bf16_a_run_learns_and_resumes(process, text_file, tmp_path):
    """A stop and a new start change the losses by no more than rounding; and a CPU can go on with it."""
    settings = {
        "process__name": process,
        "train__device": "cuda",
        "train__precision": "bf16",
        "train__compile": True,
        "train__steps": 60,
        "metrics__every": 20,
        "checkpoint__every": 20,
    }
    heard = train_tiny(tmp_path / "whole", text_file, **settings)
    assert "not compiled" not in heard.text
    stop_at(40, tmp_path / "parts", tiny_config(text_file, **settings))
    train_tiny(tmp_path / "parts", text_file, resume=True, **settings)
    losses = [[row["loss"] for row in metrics(tmp_path / run) if "loss" in row] for run in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0][-1] < losses[0][0]


def test_nothing_is_compiled_where_that_is_not_known(made_up, text_file, tmp_path):
    for asked in ("auto", True):
        heard = train_tiny(
            tmp_path / str(asked), text_file, train__device=made_up, train__compile=asked, train__steps=1
        )
        assert "compiler" not in heard.text
        assert "compile = true" in (tmp_path / str(asked) / "config.toml").read_text()  # elsewhere, that is
    model = load_model(tmp_path / "auto", device=made_up)
    with pytest.raises(DdcliError, match="compiled for cpu and cuda alone; leave --compile out"):
        model.compile()


def test_a_figure_names_the_device_of_the_network(made_up, text_file, tmp_path):
    train_tiny(tmp_path / "run", text_file, train__steps=1)
    model = load_model(tmp_path / "run", device=made_up)
    assert evaluate(model, limit=1, draws=1).record()["model"]["device"] == f"{made_up}:0"


def test_a_run_moves_from_device_to_device(device, text_file, tmp_path, monkeypatch):
    """Some of which know no compiler; here none is found on the others."""
    monkeypatch.setattr(training, "can_compile", lambda: False)
    for on, steps in ((device, 20), ("cpu", 40), (device, 60)):
        changed = {"train__device": on, "train__steps": steps, "train__compile": True}
        train_tiny(tmp_path / "run", text_file, resume=steps > 20, **changed)
    assert metrics(tmp_path / "run")[-1]["step"] == 60


@pytest.mark.gpu
def test_a_batch_too_large_for_the_memory_is_read_in_parts(text_file, tmp_path):
    """Memory that is really too small, of which the allocator is told."""
    config = tiny_config(
        text_file,
        data__length=256,
        model__width=256,
        model__layers=8,
        train__batch_size=1024,
        train__device="cuda",
        train__steps=2,
        validation__every=0,
    )
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 4e9 / total))
    heard = Heard()
    try:
        train(config, tmp_path / "run", reporter=heard)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory" in heard.text
    assert metrics(tmp_path / "run")[-1]["step"] == 2
