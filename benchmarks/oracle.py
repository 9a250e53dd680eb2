"""Print how wrong each sampler is after so many evaluations, with no network in between.

The belief is that of one who knows the source, drawn from the seed: a Markov chain or, with --states, a
hidden Markov model. Surplus: mean of -ln p(x) under the source less its entropy, nats a symbol, with its
standard error; 0 in the mean for exact draws. Distance: total variation between the pairs of neighbours drawn
and the source's own; the first line, draws of the source itself, is as near as this many samples come. The
entropy and the pairs of a hidden model are those of many draws of its own.

python benchmarks/oracle.py --length 256 --samples 128 --seed 0
python benchmarks/oracle.py --states 4 --length 256 --wide
python benchmarks/oracle.py --symbols 27 --length 64 --noise band:1 --schedule linear,auto --sampler euler
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # sources and oracle live there

import torch
from chains import Oracle, Source, block_entropy, pair_law, random_chain, random_hmm, sample
from torch import Tensor

from ddcli.errors import DdcliError
from ddcli.process import make_process
from ddcli.sampler import SAMPLERS, make_sampler

NOISES = "absorbing,hybrid:0.1,uniform,band:1"
COLUMNS = ("noise", "sampler", "steps", "evaluations", "surplus", "distance")
Row = tuple[str, ...]


def doublings(length: int) -> list[int]:
    """1, 2, 4, ... and the length itself."""
    return [*(2**i for i in range(length.bit_length()) if 2**i < length), length]


REFERENCE = 20_000  # draws of a hidden model, which stand for its law


@dataclass(frozen=True)
class Truth:
    """What draws of a source are held against."""

    source: Source
    entropy: float  # of a text, nats
    pairs: Tensor  # (K, K), how often b follows a

    @classmethod
    def of_chain(cls, source: Source, length: int) -> "Truth":
        return cls(source, block_entropy(source, length), source.start[:, None] * source.move)

    @classmethod
    def of_hidden(cls, source: Source, length: int, seed: int) -> "Truth":
        x = source.draw(REFERENCE, length, seed)
        pairs = pair_law(x, source.symbols)
        return cls(source, -source.log_prob(x).mean().item(), pairs / pairs.sum())

    def measured(self, x: Tensor) -> tuple[str, str]:
        """Surplus and distance of draws (B, L), as they are printed."""
        each = (-self.source.log_prob(x) - self.entropy) / x.shape[1]
        pairs = pair_law(x, self.source.symbols)
        distance = (pairs / pairs.sum() - self.pairs).abs().sum().item() / 2
        return f"{each.mean().item():.4f} ± {each.std().item() / len(x) ** 0.5:.4f}", f"{distance:.4f}"


def rows(truth: Truth, asked: argparse.Namespace) -> Iterator[Row]:
    source, samples, length, seed = truth.source, asked.samples, asked.length, asked.seed
    yield "none", "the source itself", "", "", *truth.measured(source.draw(samples, length, seed + 1))
    for noise, schedule in itertools.product(asked.noise.split(","), asked.schedule.split(",")):
        process = make_process(noise, schedule, source.vocabulary)
        told = noise if schedule == "auto" else f"{noise}, {schedule}"
        for name in asked.sampler.split(","):
            sampler = make_sampler(name)
            try:
                sampler.check(process)
            except DdcliError:
                continue
            for steps in doublings(length) if sampler.even else [length]:
                x, nfe = sample(process, sampler, Oracle(process, source), (samples, length), steps, seed)
                yield told, name, str(steps), f"{nfe.double().mean().item():.1f}", *truth.measured(x)


def wide(found: Iterator[Row], length: int) -> Iterator[Row]:
    """One row for each noise and sampler: the surplus by steps; of a sampler at a pace of its own, at L."""
    for (noise, sampler), group in itertools.groupby(found, key=lambda row: row[:2]):
        by_steps = {row[2]: row[4].split(" ")[0] for row in group}
        yield noise, sampler, *(by_steps.get(str(n), "") for n in doublings(length)[1:])


def printed(row: Row) -> None:
    print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=256, help="positions (default: 256)")
    parser.add_argument("--samples", type=int, default=128, help="draws of each sampler (default: 128)")
    parser.add_argument("--symbols", type=int, default=4, help="of the source (default: 4)")
    parser.add_argument(
        "--states", type=int, metavar="N", help="hidden ones (default: a chain, which has none)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the source and the draws (default: 0)")
    parser.add_argument("--noise", default=NOISES, metavar="LIST", help=f"(default: {NOISES})")
    parser.add_argument("--schedule", default="auto", metavar="LIST", help="of each (default: auto)")
    parser.add_argument(
        "--sampler",
        default=",".join(SAMPLERS),
        metavar="LIST",
        help="those that the noise allows (default: all)",
    )
    parser.add_argument(
        "--wide", action="store_true", help="a column for each number of steps: surplus alone"
    )
    asked = parser.parse_args()
    if asked.length < 2 or asked.samples < 2 or asked.symbols < 2:
        parser.error("--length, --samples and --symbols must be at least 2")
    if asked.states is not None and asked.states < 2:
        parser.error("--states must be at least 2")
    torch.set_num_threads(1)
    if asked.states:
        hidden = random_hmm(asked.states, asked.symbols, asked.seed)
        truth = Truth.of_hidden(hidden, asked.length, asked.seed + 2)
    else:
        truth = Truth.of_chain(random_chain(asked.symbols, asked.seed), asked.length)
    columns: tuple[str, ...] = COLUMNS
    found = rows(truth, asked)
    if asked.wide:
        next(found)
        columns = ("noise", "sampler", *map(str, doublings(asked.length)[1:]))
        found = wide(found, asked.length)
    printed(columns)
    printed(("---",) * len(columns))
    for row in found:
        printed(row)


if __name__ == "__main__":
    main()
