"""Print how wrong each sampler is after so many evaluations, with no network in between.

The belief is that of one who knows the source, drawn from the seed: a Markov chain or, with --states, a
hidden Markov model. Surplus: mean of -ln p(x) under the source less its entropy, nats a symbol, with its
standard error; 0 in the mean for exact draws. Distance: total variation between the pairs of neighbours drawn
and the source's own; the first line, draws of the source itself, is as near as this many samples come. The
entropy and the pairs of a hidden model are those of many draws of its own.

python benchmarks/oracle.py --length 256 --samples 128 --seed 0
python benchmarks/oracle.py --states 4 --length 256
"""

import argparse
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

NOISES = ("absorbing", "hybrid:0.1", "uniform", "band:1")
COLUMNS = ("noise", "sampler", "steps", "evaluations", "surplus", "distance")


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


def rows(truth: Truth, samples: int, length: int, seed: int) -> Iterator[tuple[str, ...]]:
    source = truth.source
    yield "none", "the source itself", "", "", *truth.measured(source.draw(samples, length, seed + 1))
    for noise in NOISES:
        process = make_process(noise, "auto", source.vocabulary)
        for name in SAMPLERS:
            sampler = make_sampler(name)
            try:
                sampler.check(process)
            except DdcliError:
                continue
            for steps in doublings(length) if sampler.even else [length]:
                x, nfe = sample(process, sampler, Oracle(process, source), (samples, length), steps, seed)
                yield noise, name, str(steps), f"{nfe.double().mean().item():.1f}", *truth.measured(x)


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
    asked = parser.parse_args()
    if asked.length < 2 or asked.samples < 2 or asked.symbols < 2:
        parser.error("--length, --samples and --symbols must be at least 2")
    if asked.states is not None and asked.states < 2:
        parser.error("--states must be at least 2")
    torch.set_num_threads(1)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    if asked.states:
        hidden = random_hmm(asked.states, asked.symbols, asked.seed)
        truth = Truth.of_hidden(hidden, asked.length, asked.seed + 2)
    else:
        truth = Truth.of_chain(random_chain(asked.symbols, asked.seed), asked.length)
    for row in rows(truth, asked.samples, asked.length, asked.seed):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
