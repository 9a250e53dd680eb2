"""Training finds what there is to find: bounds come down to the entropy of sources that are known.

Blocks are drawn one by one from the source's start, so the bound is that of a *block*: of a chain started
from its stationary law pi, H_L / L = h + (H(pi) - h) / L, above the rate h that a long text would cost.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from chains import Listed, Oracle, block_entropy, entropy, random_chain, stationary
from tiny import Heard, tiny_config, train_tiny

from ddcli.dataset import read_training_data
from ddcli.evaluation import estimates
from ddcli.heldout import text_from
from ddcli.process import make_process
from ddcli.saved import load_model

F64 = torch.float64
BITS = math.log(2)

# -- sources -----------------------------------------------------------------------------------------------

LENGTH = 16  # of a block of the chain
CHAIN = random_chain(symbols=8, seed=3)
PAIRS = 4  # of brackets in a record
ROUND = 0.7  # of them are round


def chain_text(n: int, seed: int, length: int = LENGTH) -> str:
    """n blocks one after the other, each from the stationary law on."""
    return "".join("abcdefgh"[i] for i in CHAIN.draw(n, length, seed).flatten().tolist())


@cache
def catalan(n: int) -> int:
    return math.comb(2 * n, n) // (n + 1)


def brackets(n: int, u) -> str:
    """A string of the grammar S -> ( S ) S | [ S ] S | nothing, given that it has n pairs.

    u() gives a uniform number. A shape is as likely as any other, so k pairs stand within the first one with
    the chance C_k C_{n-1-k} / C_n.
    """
    if not n:
        return ""
    target, within = u() * catalan(n), 0
    while target >= (ways := catalan(within) * catalan(n - 1 - within)):
        target, within = target - ways, within + 1
    opening, closing = "()" if u() < ROUND else "[]"
    return opening + brackets(within, u) + closing + brackets(n - 1 - within, u)


def bracket_records(n: int, seed: int) -> str:
    """n records, one a line."""
    numbers = iter(
        torch.rand(2 * PAIRS * n, generator=torch.Generator().manual_seed(seed), dtype=F64).tolist()
    )
    return "".join(brackets(PAIRS, numbers.__next__) + "\n" for _ in range(n))


def bracket_entropy(pairs: int) -> float:
    """Of a record, nats: its shape, and the kind of each pair."""
    return math.log(catalan(pairs)) + pairs * entropy(torch.tensor([ROUND, 1 - ROUND], dtype=F64)).item()


def every_record(pairs: int) -> dict[str, float]:
    """Every string of the grammar and its chance."""
    if not pairs:
        return {"": 1.0}
    found: dict[str, float] = {}
    for within, (kind, chance) in itertools.product(range(pairs), (("()", ROUND), ("[]", 1 - ROUND))):
        share = catalan(within) * catalan(pairs - 1 - within) / catalan(pairs) * chance
        inside, after = every_record(within), every_record(pairs - 1 - within)
        for (a, p), (b, q) in itertools.product(inside.items(), after.items()):
            found[kind[0] + a + kind[1] + b] = share * p * q
    return found


def test_the_entropy_of_bracket_records_is_that_of_their_enumeration():
    records = every_record(4)
    law = torch.tensor(list(records.values()), dtype=F64)
    assert law.sum().item() == pytest.approx(1)
    assert entropy(law).item() == pytest.approx(bracket_entropy(4))
    seen = set(bracket_records(500, seed=1).split())
    assert seen <= set(every_record(PAIRS))


def test_a_block_costs_more_than_the_rate_by_more_than_training_may_miss():
    """So a bound compared with the rate in place of the block's entropy would fail here."""
    rate = (stationary(CHAIN.move) * entropy(CHAIN.move)).sum().item()
    assert (block_entropy(CHAIN, LENGTH) / LENGTH - rate) / BITS > 0.02


# -- training ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    write: Callable[[int, int], str]  # so many blocks, by a seed
    bits: float  # a symbol, of a block
    settings: dict[str, Any]
    knowing: Callable[..., Any]  # the exact belief, for a model's process and tokenizer
    blocks: int = 4_096  # on which a network is measured


def knows_the_chain(process, tokenizer):
    assert tokenizer.encode("abcdefgh").tolist() == list(range(8))
    return Oracle(process, CHAIN)


def knows_the_grammar(process, tokenizer):
    texts = every_record(PAIRS)
    ids = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    return Listed(process, torch.tensor(ids), torch.tensor(list(texts.values()), dtype=F64))


SOURCES = {
    "chain": Source(
        chain_text, block_entropy(CHAIN, LENGTH) / LENGTH / BITS, {"data__length": LENGTH}, knows_the_chain
    ),
    "short chain": Source(
        partial(chain_text, length=8),
        block_entropy(CHAIN, 8) / 8 / BITS,
        {"data__length": 8},
        knows_the_chain,
        1_024,
    ),
    "brackets": Source(
        bracket_records, bracket_entropy(PAIRS) / (2 * PAIRS) / BITS, {"data__lines": True}, knows_the_grammar
    ),
}


@pytest.mark.parametrize(("source", "noise"), [("chain", "absorbing"), ("brackets", "hybrid:0.1")])
def test_one_who_knows_a_source_pays_the_entropy_of_its_blocks(source, noise, tmp_path):
    known = SOURCES[source]
    (tmp_path / "text.txt").write_text(known.write(1_000, 5))
    settings = tiny_config(tmp_path / "text.txt", **{"data__length": None, **known.settings}).data
    data = read_training_data(settings, None, Heard().say)
    process = make_process(noise, "auto", data.vocabulary)
    found = estimates(known.knowing(process, data.tokenizer), process, data.train, draws=2)
    nats, error = found.clusters().mean()
    assert error / BITS < 0.05
    assert nats / BITS == pytest.approx(known.bits, abs=4 * error / BITS)


# layers, steps, sequences of a step, and the largest norm of a gradient: brackets are matched by counting,
# which takes more depth than a chain; and of a bound with a heavy tail, clipped gradients are biased
SHAPES = {
    ("short chain", "absorbing"): (2, 1500, 64, 1.0),
    ("chain", "absorbing"): (2, 1800, 64, 1.0),
    ("chain", "uniform"): (2, 7000, 128, 50.0),
    ("chain", "hybrid:0.1"): (2, 7000, 128, 50.0),
    ("brackets", "absorbing"): (4, 4000, 128, 1.0),
    ("brackets", "uniform"): (4, 8000, 128, 1.0),
    ("brackets", "hybrid:0.1"): (4, 8000, 128, 1.0),
}
DRAWS = 4  # noisings of each block
MORE = 16_384, 16  # blocks and noisings on which the exact belief, which costs little, is measured alone
NOISES = ("absorbing", "uniform", "hybrid:0.1")
TIMES = {"continuous": ("elbo", None), "discrete": ("discrete-elbo", 256)}  # objective and T
FAST = ("short chain", "absorbing", "continuous")
SLOW = itertools.product(("chain", "brackets"), NOISES, TIMES)
CELLS = [FAST, *(pytest.param(*cell, id="-".join(cell), marks=pytest.mark.slow) for cell in SLOW)]


def trained(folder: Path, source: str, process: str, time: str):
    """A network trained on a source."""
    layers, steps, sequences, clip = SHAPES[source, process]
    (folder / "train.txt").write_text(SOURCES[source].write(min(200_000, steps * sequences), 1))
    (folder / "valid.txt").write_text(SOURCES[source].write(64, 2))
    objective, timesteps = TIMES[time]
    train_tiny(
        folder / "run",
        folder / "train.txt",
        **{"data__length": None, **SOURCES[source].settings},
        data__valid=str(folder / "valid.txt"),
        process__name=process,
        objective__name=objective,
        objective__timesteps=timesteps,
        model__width=64,
        model__layers=layers,
        model__heads=4,
        train__batch_size=sequences,
        train__steps=steps,
        train__lr=4e-3,
        train__clip=clip,
        train__given=0.0,
        train__times="bell:0.5" if process == "absorbing" else "bell:0.3",
        validation__every=0,
        checkpoint__every=steps,
        metrics__every=steps,
    )
    return load_model(folder / "run")


def measured(model, source: Source, folder: Path) -> tuple[float, float]:
    """The model's bound, bits a symbol, and its standard error: what it costs more than the exact belief on
    the same blocks under the same noise, where chance is mostly shared, plus what the exact belief costs.

    In continuous time that is the entropy (see the test above); in T steps it is a little more, by as much as
    the two differ on many more blocks, again under the same noise (the levels of multilevel Monte Carlo,
    Giles, Oper. Res. 56, 2008).
    """
    exact = source.knowing(model.process, model.tokenizer)

    def costs(denoiser, count, draws, seed, timesteps=model.timesteps):
        (folder / "text.txt").write_text(source.write(count, seed))
        blocks = text_from(model, str(folder / "text.txt")).blocks
        found = estimates(denoiser, model.process, blocks, draws=draws, seed=seed, timesteps=timesteps)
        return found.clusters()

    more, error = costs(model.denoiser, source.blocks, DRAWS, 3).less(costs(exact, source.blocks, DRAWS, 3))
    steps, its_error = 0.0, 0.0
    if model.timesteps:
        steps, its_error = costs(exact, *MORE, 4).less(costs(exact, *MORE, 4, timesteps=None))
    return source.bits + (more + steps) / BITS, math.hypot(error, its_error) / BITS


@pytest.mark.parametrize(("source", "process", "time"), CELLS)
def test_the_bound_of_a_trained_network_comes_down_to_the_entropy_of_a_block(source, process, time, tmp_path):
    model = trained(tmp_path, source, process, time)
    bits, error = measured(model, SOURCES[source], tmp_path)
    print(f"excess {bits - SOURCES[source].bits:.4f} ± {error:.4f} bits a symbol")
    assert error <= 0.004
    assert -3 * error < bits - SOURCES[source].bits < 0.02
