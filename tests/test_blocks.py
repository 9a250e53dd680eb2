"""Laws of block diffusion: each block given the clean ones before it."""

import math
import re
import warnings

import pytest
import torch
from chains import OneStream
from tiny import metrics, train_tiny
from worlds import ExactBlocks, make, world

from ddcli.backbones import transformer
from ddcli.backbones.transformer import DiffusionTransformerConfig, Transformer
from ddcli.cli import main
from ddcli.denoiser import HEADS, Batched, Cached, NetworkDenoiser, OneByOne
from ddcli.errors import DdcliError
from ddcli.likelihood import nelbo
from ddcli.process import Uniform, Vocabulary
from ddcli.saved import load_model
from ddcli.schedule import Linear

F64 = torch.float64
V, L, BLOCK = 11, 24, 6


@pytest.mark.parametrize(
    "name", ["absorbing", *(pytest.param(name, marks=pytest.mark.slow) for name in ("uniform", "hybrid"))]
)
@pytest.mark.parametrize("block", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_the_bound_of_blocks_of_an_exact_belief_is_the_entropy_whatever_their_length(name, block):
    process, (strings, log_p) = make(name), world(4)
    n = 20_000
    chosen = torch.multinomial(log_p.exp(), n, True, generator=torch.Generator().manual_seed(0))
    rng = OneStream(n, 1)
    denoiser = ExactBlocks(process, strings, log_p, block)
    running = torch.ones(n, 4, dtype=torch.bool)
    total = nelbo(process, denoiser, strings[chosen], running, rng.uniform(4 // block), rng).strict.sum(-1)
    error = total.std().item() / math.sqrt(n)
    assert total.mean().item() == pytest.approx(-(log_p.exp() * log_p).sum().item(), abs=4 * error)


def test_blocks_of_one_masked_position_cost_the_autoregressive_likelihood_exactly():
    process, (strings, log_p) = make("absorbing"), world(4)
    rng = OneStream(len(strings), 2)
    denoiser = ExactBlocks(process, strings, log_p, 1)
    running = torch.ones(strings.shape, dtype=torch.bool)
    nats = nelbo(process, denoiser, strings, running, rng.uniform(4), rng).strict.sum(-1)
    torch.testing.assert_close(nats, -log_p)


def network(block=BLOCK, window=L // BLOCK, clock="time"):
    torch.manual_seed(0)
    config = DiffusionTransformerConfig(
        vocab_size=V, width=32, layers=3, heads=2, clock=clock, block=block, window=window
    )
    made = Transformer(config).eval()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made


def texts(b=3, length=L, seed=1):
    rng = torch.Generator().manual_seed(seed)
    clean, noisy = torch.randint(0, V, (2, b, length), generator=rng)
    return clean, noisy, torch.rand(b, length, generator=rng, dtype=F64) * 0.9 + 0.05


@torch.no_grad()
def test_one_pass_over_a_noisy_and_a_clean_copy_is_a_pass_for_each_block():
    net, (clean, noisy, t) = network(), texts()
    together = net.trunk(noisy, t.float(), clean=clean)
    for start in range(0, L, BLOCK):
        own = slice(start, start + BLOCK)
        x = torch.cat([clean[:, :start], noisy[:, own], noisy[:, start + BLOCK :]], 1)
        clock = torch.cat([torch.zeros_like(t[:, :start]), t[:, start:]], 1)
        alone = net.trunk(x, clock.float())
        torch.testing.assert_close(together[:, own], alone[:, own], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_block_as_long_as_the_text_is_the_plain_network():
    net, (clean, noisy, t) = network(L, 1), texts()
    plain = network(0, 0)
    torch.testing.assert_close(net.trunk(noisy, t.float(), clean=clean), plain.trunk(noisy, t.float()))


@torch.no_grad()
def test_no_block_sees_what_stands_behind_it():
    net, (_, noisy, t) = network(), texts()
    changed = noisy.clone()
    changed[:, 2 * BLOCK :] = (changed[:, 2 * BLOCK :] + 1) % V
    before, after = net.trunk(noisy, t.float()), net.trunk(changed, t.float())
    assert torch.equal(before[:, : 2 * BLOCK], after[:, : 2 * BLOCK])
    assert not torch.equal(before[:, 2 * BLOCK :], after[:, 2 * BLOCK :])


@torch.no_grad()
@pytest.mark.parametrize("clock", ["time", "none"])
@pytest.mark.parametrize("length", [L, 2 * L])
def test_the_cache_is_exact_for_texts_of_any_length_that_take_turns(length, clock):
    process = Uniform(Vocabulary(V), Linear())
    net = network(clock=clock)
    plain = NetworkDenoiser(net, process, HEADS["leave-one-out"], torch.float32)
    cached = Cached(Batched(plain), plain, net)
    clean, noisy, t = texts(2, length)
    calls = []
    net.go_on, computed = lambda ids, *rest: calls.append(ids.shape[1]) or computed(ids, *rest), net.go_on
    for start in range(0, length, BLOCK):
        for row in (0, 1, 0, 1):
            own = torch.zeros(1, length, dtype=torch.bool)
            own[:, start : start + BLOCK] = True
            x = torch.cat([clean[row : row + 1, :start], noisy[row : row + 1, start:]], 1)
            clock = torch.cat([torch.zeros(1, start, dtype=F64), t[row : row + 1, start:]], 1)
            expected = plain(x, clock, own)
            torch.testing.assert_close(cached(x, clock, own), expected, rtol=1e-4, atol=1e-5)
    assert max(calls) == BLOCK  # never more than a block at a time
    kept = [x for layers in cached._held.values() for layer in layers for x in layer]
    assert all(x.is_contiguous() for x in kept)  # else each evaluation would lay them out anew


def asked_in_blocks(clean, noisy, t, start, rows):
    """What is asked about the block from `start` on of some texts, all blocks before it being finished."""
    chosen = torch.zeros(clean.shape, dtype=torch.bool)
    chosen[rows, start : start + BLOCK] = True
    x = torch.cat([clean[:, :start], noisy[:, start:]], 1)
    return x, torch.cat([torch.zeros(len(clean), start, dtype=F64), t[:, start:]], 1), chosen


@torch.no_grad()
@pytest.mark.parametrize("window", [L // BLOCK, 2])
def test_the_cache_reads_each_block_once_whoever_else_is_asked_about(window):
    """In most steps nothing opens in some of the texts, which are left out then."""
    process = Uniform(Vocabulary(V), Linear())
    net = network(window=window)
    plain = NetworkDenoiser(net, process, HEADS["leave-one-out"], torch.float32)
    cached = Cached(Batched(plain), plain, net)
    clean, noisy, t = texts(4)
    clean[1, :BLOCK] = clean[0, :BLOCK]
    read = []
    net.go_on, computed = lambda ids, *rest: read.append(ids.shape) or computed(ids, *rest), net.go_on
    evaluations = 0
    for start in range(0, L, BLOCK):
        for rows in ([0, 2], [3], [0, 1, 2, 3], [2, 1, 0], [1, 3]):
            question = asked_in_blocks(clean, noisy, t, start, rows)
            torch.testing.assert_close(cached(*question), plain(*question), rtol=1e-4, atol=1e-5)
            evaluations += len(rows) * BLOCK
    # where two texts are the same so far, as behind a prompt, it is read once for both
    assert sum(rows * positions for rows, positions in read) == evaluations + 4 * (L - BLOCK) - BLOCK
    assert max(positions for _, positions in read) == BLOCK
    assert len(cached._held) == 4  # of each the longest beginning alone


@torch.no_grad()
def test_texts_of_which_one_lags_behind_the_others_are_each_read_once():
    """As a short one does, of whose steps fewer fall to a block."""
    net = network()
    plain = NetworkDenoiser(net, Uniform(Vocabulary(V), Linear()), HEADS["leave-one-out"], torch.float32)
    cached = Cached(OneByOne(plain), plain, net)
    clean, noisy, t = texts(3)
    read = []
    net.go_on, computed = lambda ids, *rest: read.append(ids.shape[1]) or computed(ids, *rest), net.go_on
    evaluations = 0
    for start in range(0, L, BLOCK):
        starts = torch.tensor([start, start, max(0, start - 2 * BLOCK)])
        x, clock = (torch.zeros_like(both) for both in (clean, t))
        rows = torch.zeros_like(clean, dtype=torch.bool)
        for i, begin in enumerate(starts.tolist()):
            x[i], clock[i, begin:] = torch.cat([clean[i, :begin], noisy[i, begin:]]), t[i, begin:]
            rows[i, begin : begin + BLOCK] = True
        for _ in range(2):
            torch.testing.assert_close(cached(x, clock, rows), plain(x, clock, rows), rtol=1e-4, atol=1e-5)
            evaluations += len(starts)
    assert set(read) == {BLOCK}
    assert len(read) == evaluations + 2 * (L // BLOCK - 1) + L // BLOCK - 3


@torch.no_grad()
def test_what_is_believed_of_a_text_is_the_same_to_the_last_bit_beside_one_of_the_same_beginning():
    process = Uniform(Vocabulary(V), Linear())
    net = network()
    plain = NetworkDenoiser(net, process, HEADS["leave-one-out"], torch.float32)
    beside, alone = (Cached(OneByOne(plain), plain, net) for _ in range(2))
    clean, noisy, t = texts(2)
    clean[1, : 2 * BLOCK] = clean[0, : 2 * BLOCK]
    for start in range(2 * BLOCK, L, BLOCK):
        of_both = beside(*asked_in_blocks(clean, noisy, t, start, [0, 1]))
        assert torch.equal(of_both[BLOCK:], alone(*asked_in_blocks(clean, noisy, t, start, [1])))


@pytest.fixture(scope="module")
def block_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    text = folder / "text.txt"
    text.write_text("".join(f"{'ab' * (3 + i % 5)}\n" for i in range(600)))
    train_tiny(folder / "run", text, model__block=8, train__steps=150, train__lr=5e-3)
    return folder / "run"


def test_a_model_of_blocks_learns_and_writes_texts_longer_than_it_was_trained_on(block_run):
    bounds = [line["bound_nats_per_token"] for line in metrics(block_run) if "bound_stderr" in line]
    assert bounds[-1] < bounds[0] - 0.2
    model = load_model(block_run)
    (long,) = model.sample(1, seed=1, steps=32, length=80)
    assert len(long.text) == 80
    assert set(long.text) <= set("ab\n")
    assert model.sample(1, seed=2, prompt="abab")[0].text.startswith("abab")


def test_text_is_fixed_where_a_model_of_blocks_sees_it_and_nowhere_else(block_run):
    model = load_model(block_run)
    for fixed in ({0: "bb"}, {5: "bb"}, {0: "abababab", 10: "bb"}):
        (sample,) = model.sample(1, fixed=fixed, length=24, seed=1, steps=8)
        assert all(sample.text[place:].startswith(text) for place, text in fixed.items())
    for fixed in ({8: "bb"}, {20: "bb"}, {0: "ab", 8: "bb"}):
        with pytest.raises(DdcliError, match=r"would be met by chance: the model does not see it from [02]"):
            model.sample(1, fixed=fixed, length=24)


def test_a_single_block_is_a_plain_model_and_writes_no_longer(text_file, tmp_path):
    train_tiny(tmp_path / "run", text_file, model__block=32, train__steps=10)
    model = load_model(tmp_path / "run")
    assert len(model.sample(1, seed=1, steps=4)[0].text) == 32
    with pytest.raises(DdcliError, match="1 to 32"):
        model.sample(1, length=64)


def test_a_batch_of_blocks_is_the_same_as_one_after_the_other(block_run):
    model = load_model(block_run)
    together = model.sample(3, seed=5, steps=16)
    apart = model.sample(3, seed=5, steps=16, batch_size=1)
    assert [one.text for one in together] == [one.text for one in apart]


def test_a_model_of_blocks_is_not_compiled_and_says_so(block_run, capsys):
    assert main(["sample", str(block_run), "--compile"]) == 2
    assert re.fullmatch(
        "ddcli: only a network of ddcli's own, without blocks, .*--compile.*\n", capsys.readouterr().err
    )


def test_a_model_of_blocks_cannot_fill_gaps_and_says_so(block_run, tmp_path, capsys):
    with pytest.raises(DdcliError, match="a block model sees only what stands before"):
        load_model(block_run).infill("ab[MASK]b")
    (tmp_path / "gaps.jsonl").write_text('{"text": "ab[MASK]"}\n' * 2)
    assert main(["infill", str(block_run), str(tmp_path / "gaps.jsonl"), "--jsonl"]) == 2
    assert re.fullmatch("ddcli: a block model sees only .*\n", capsys.readouterr().err)


def test_writing_stops_with_the_block_that_ends_every_text(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(200):
        (folder / f"{i}.txt").write_text("ab")
    train_tiny(tmp_path / "run", folder, model__block=8, train__steps=120, train__lr=5e-3)
    model = load_model(tmp_path / "run")
    frames = []
    (sample,) = model.sample(1, seed=1, length=320, steps=32, on_frame=frames.append)
    assert len(sample.text) < 32
    assert frames[-1].step < frames[-1].steps / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__block": 7}, "--block 7 must divide"),
        ({"model__block": 8, "process__name": "autoregressive"}, "knows no blocks"),
    ],
)
def test_blocks_that_cannot_be_are_refused(changes, message, text_file, tmp_path):
    with pytest.raises(DdcliError, match=message):
        train_tiny(tmp_path / "run", text_file, **changes)
    assert not (tmp_path / "run").exists()


@torch.no_grad()
@pytest.mark.parametrize("window", [2, 4])
def test_attention_by_tiles_sees_what_the_mask_sees(window, monkeypatch):
    """The way it goes on a GPU, here without one."""
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "width": 32, "layers": 2, "heads": 2, "clock": "time"}
    net = Transformer(DiffusionTransformerConfig(**shape, block=4, window=window)).eval()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    xt, clean = torch.randint(0, 11, (2, 3, 16))
    clock = torch.rand(3, 4).repeat_interleave(4, 1)
    expected = net.trunk(xt, clock, clean=clean)
    monkeypatch.setattr(transformer, "by_tiles", lambda device: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is slow when not compiled
        found = net.trunk(xt, clock, clean=clean)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # as in test_devices.py
def test_blocks_train_and_sample_on_a_gpu(tmp_path, text_file):
    """Compiled, with attention by tiles: the losses of a few steps are those of the mask on a CPU."""
    losses = []
    for device, compiled in (("cuda", True), ("cpu", False)):
        run = tmp_path / device
        train_tiny(run, text_file, model__block=8, train__device=device, train__compile=compiled)
        losses.append([row["loss"] for row in metrics(run) if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert load_model(tmp_path / "cuda", device="cuda").sample(1, steps=8, seed=1)[0].text
