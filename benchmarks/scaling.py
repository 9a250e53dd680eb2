"""Print what many processes cost and whether they compute the same, as Markdown tables.

Measured here, on processes that share this machine: differences of weights, memory by process. Reckoned: what
larger networks need on GPUs. Speed is not measured, since processes on the same cores gain none.

python benchmarks/scaling.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # tiny runs live there

import torch
from processes import together
from safetensors.torch import load_file
from tiny import Heard, metrics, tiny_config, words

from ddcli.backbones.transformer import DiffusionTransformerConfig, Transformer
from ddcli.checkpoint import checkpoints
from ddcli.config import Config
from ddcli.training import train

GB = 1e9
FLOPS = 4e14  # a second, that an H100 does of 989e12 in bf16: 40 %
LINKS = {"NVLink": 300e9, "InfiniBand of 400 Gbit, 90 %": 45e9}  # bytes a second that one GPU sends
SHAPES = {  # width, layers, heads, vocabulary
    "110M": (768, 12, 12, 50_258),
    "350M": (1024, 24, 16, 50_258),
    "1.3B": (2048, 24, 16, 50_258),
    "2.7B": (2560, 32, 32, 50_258),
    "8B": (4096, 32, 32, 128_256),
}
LENGTH = 1024  # tokens of a sequence


# -- measured ---------------------------------------------------------------------------------------------


class Weighed(Heard):
    """Remembers how much memory the process holds after each step, bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.held = resident(), 0

    def progress(self, step: int) -> None:
        self.held = max(self.held, resident())


def resident() -> int:
    """Bytes of this process's own memory that are in use; what it shares with others is not in it."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def trained(config: Config, run: Path) -> int:
    """Train, and return how much memory that took, bytes; 0 of a process that is told nothing."""
    weighed = Weighed()
    train(config, run, reporter=weighed)
    return weighed.held - weighed.before


def differences(source: Path, folder: Path) -> None:
    print("| processes | weights | parts | largest difference of a weight | of the loss |")
    print("|---|---|---|---|---|")
    same = {"train__batch_size": 16, "train__steps": 40, "checkpoint__every": 40, "metrics__every": 40}
    alone = folder / "alone"
    train(tiny_config(source, **same), alone)
    for size, parts, shard in [(2, 1, False), (2, 1, True), (4, 1, False), (4, 1, True), (3, 5, False)]:
        run = folder / f"{size}-{parts}-{shard}"
        config = tiny_config(source, **same, train__accumulate=parts, train__shard=shard)
        together(size, trained, config, run)
        weights, theirs = (load_file(checkpoints(r)[-1][1] / "weights.safetensors") for r in (alone, run))
        weight = max((weights[name] - theirs[name]).abs().max().item() for name in weights)
        loss = abs(metrics(alone)[-1]["loss"] - metrics(run)[-1]["loss"])
        print(f"| {size} | {'shared' if shard else 'replicated'} | {parts} | {weight:.1e} | {loss:.1e} |")


def memory(source: Path, folder: Path, width: int, layers: int) -> None:
    shape = {"model__width": width, "model__layers": layers, "model__heads": 8}
    short = {"train__steps": 4, "checkpoint__every": 100, "validation__every": 0, "train__batch_size": 4}
    parameters = count(width, layers, 8, 64)
    print(
        f"| processes | weights | GB held by the first, {parameters / 1e6:.0f}M parameters | 20 bytes each |"
    )
    print("|---|---|---|---|")
    for size, shard in [(1, False), (2, False), (2, True), (4, True)]:
        config = tiny_config(source, **shape, **short, train__shard=shard)
        held, *_ = together(size, trained, config, folder / f"memory-{size}-{shard}", timeout=600)
        share = size if shard else 1
        how = "shared" if shard else "replicated"
        print(f"| {size} | {how} | {held / GB:.2f} | {20 * parameters / share / GB:.2f} |")


# -- reckoned ---------------------------------------------------------------------------------------------


def count(width: int, layers: int, heads: int, vocabulary: int) -> int:
    """Parameters of an absorbing network."""
    config = DiffusionTransformerConfig(
        vocab_size=vocabulary, width=width, layers=layers, heads=heads, tie_word_embeddings=True
    )
    with torch.device("meta"):
        network = Transformer(config)
    return sum(weight.numel() for weight in network.parameters())


def reckoned() -> None:
    print(
        "| network | weights | replicated | shared by 8 | by 64 | a sequence | recomputed | flops a token |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (width, layers, heads, vocabulary) in SHAPES.items():
        n = count(width, layers, heads, vocabulary)
        layer = (n - vocabulary * width) / layers
        shared = [20 * n / size + 2 * 4 * (layer + vocabulary * width) for size in (8, 64)]
        kept = [LENGTH * layers * 20 * width * 2, LENGTH * (layers * 4 * width + 20 * width * 2)]
        flops = 6 * n + 12 * layers * LENGTH * width
        figures = [f"{x / GB:.1f} GB" for x in (20 * n, *shared)] + [f"{x / GB:.2f} GB" for x in kept]
        print(f"| {name} | {n / 1e6:,.0f}M | {' | '.join(figures)} | {flops / GB:.1f}e9 |")
    print()
    print("| link | bytes a second | tokens a GPU and step that hide what is sent |")
    print("|---|---|---|")
    for name, speed in LINKS.items():
        print(f"| {name} | {speed:.1e} | {2 * FLOPS / speed:,.0f} |")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--width", type=int, default=1024, help="of the network whose memory is measured")
    asked.add_argument("--layers", type=int, default=8)
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = folder / "words.txt"
        source.write_text(words(300))
        differences(source, folder)
        print()
        memory(source, folder, options.width, options.layers)
    print()
    reckoned()


if __name__ == "__main__":
    main()
