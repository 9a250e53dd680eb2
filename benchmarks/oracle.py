"""Print how wrong each sampler is after so many evaluations, with no network in between.

The belief is that of one who knows the source, a Markov chain drawn from the seed. Surplus: mean of -ln p(x)
under the chain less its entropy, nats a symbol, with its standard error; 0 in the mean for exact draws.
Distance: total variation between the pairs of neighbours drawn and the chain's own; the first line, draws of
the chain itself, is as near as this many samples come.

python benchmarks/oracle.py --length 256 --samples 128 --seed 0
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # sources and oracle live there

import torch
from chains import Oracle, Source, pair_law, random_chain, sample, surplus
from torch import Tensor

from ddcli.errors import DdcliError
from ddcli.process import make_process
from ddcli.sampler import SAMPLERS, make_sampler

NOISES = ("absorbing", "hybrid:0.1", "uniform", "band:1")
COLUMNS = ("noise", "sampler", "steps", "evaluations", "surplus", "distance")


def doublings(length: int) -> list[int]:
    """1, 2, 4, ... and the length itself."""
    return [*(2**i for i in range(length.bit_length()) if 2**i < length), length]


def measured(source: Source, x: Tensor) -> tuple[str, str]:
    """Surplus and distance of draws (B, L), as they are printed."""
    error, deviation = surplus(source, x)
    pairs = pair_law(x, source.symbols)
    own = source.start[:, None] * source.move
    return f"{error:.4f} ± {deviation:.4f}", f"{(pairs / pairs.sum() - own).abs().sum().item() / 2:.4f}"


def rows(source: Source, samples: int, length: int, seed: int) -> Iterator[tuple[str, ...]]:
    yield "none", "the chain itself", "", "", *measured(source, source.draw(samples, length, seed + 1))
    for noise in NOISES:
        process = make_process(noise, "linear", source.vocabulary)
        for name in SAMPLERS:
            sampler = make_sampler(name)
            try:
                sampler.check(process)
            except DdcliError:
                continue
            for steps in doublings(length) if sampler.even else [length]:
                x, nfe = sample(process, sampler, Oracle(process, source), (samples, length), steps, seed)
                yield noise, name, str(steps), f"{nfe.double().mean().item():.1f}", *measured(source, x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=256, help="positions (default: 256)")
    parser.add_argument("--samples", type=int, default=128, help="draws of each sampler (default: 128)")
    parser.add_argument("--symbols", type=int, default=4, help="of the chain (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the chain and the draws (default: 0)")
    asked = parser.parse_args()
    if asked.length < 2 or asked.samples < 2 or asked.symbols < 2:
        parser.error("--length, --samples and --symbols must be at least 2")
    torch.set_num_threads(1)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    source = random_chain(asked.symbols, asked.seed)
    for row in rows(source, asked.samples, asked.length, asked.seed):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
