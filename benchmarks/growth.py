"""Print how the cost of a training step and of sampling grows with each size, beside the arithmetic floor.

One size is changed at a time. The floor of the matrices is their operations over the rate that a product of
large matrices reaches in the same run; that of memory is what has to be read and written of weights,
gradients and moments over the bandwidth of a large copy. A slope is that of the logarithm of time over that
of the size: 1 is in proportion. Eager, since each shape would be compiled anew. Last, what one more block of
a text costs where the keys and values of those before it are kept.

python benchmarks/growth.py
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import bench
import numpy as np
import torch
from torch import nn

from ddcli.denoiser import Batched, BlockNetwork, Cached
from ddcli.device import PRECISION_NAMES, memory_kept, pick_device, pick_precision

STEP = bench.Shape(symbols=4096, width=256, layers=6, heads=4, length=256, sequences=8)
DRAWN = bench.Shape(symbols=4096, width=256, layers=6, heads=4, length=256, sequences=2)
STEPS = 16  # of sampling
BLOCK = 16  # positions
FINISHED = [256, 1024, 4096]  # positions before a block
SIZES: dict[str, list[int]] = {
    "symbols": [256, 4096, 50_257],
    "length": [128, 256, 512, 1024, 4096],
    "width": [128, 256, 512],
    "sequences": [2, 4, 8, 16],
}


@dataclass(frozen=True)
class Machine:
    device: torch.device
    dtype: torch.dtype
    flops: float  # a second, of matrix products
    bandwidth: float  # bytes a second, read and written

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> "Machine":
        here = torch.zeros(2**26, device=device)
        there = torch.empty_like(here)
        (taken,) = bench.by_turns([lambda: there.copy_(here)], 5, device)
        return cls(device, dtype, bench.matrix_rate(device, dtype), 2 * here.numel() * 4 / taken)


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    taken: float
    matrices: float
    memory: float


def size_in_bytes(module: nn.Module) -> int:
    """Of its weights."""
    return sum(map(bench.size_of, module.parameters()))


def of_a_step(machine: Machine, shape: bench.Shape, turns: int) -> Cost:
    """Forward, back, AdamW and the weight average, where half of all positions are predicted."""
    ours = bench.Ours(shape, machine.device, machine.dtype, compiled=False, optimizer="adamw")
    (taken,) = bench.by_turns([ours.step], turns, machine.device)
    weights = size_in_bytes(ours.state.network)
    passes = 2 + 1 + 7 + 3  # read twice, their gradient written, what AdamW touches, what the average does
    flops = shape.flops(0.5) * shape.sequences * shape.length
    return Cost(taken, flops / machine.flops, passes * weights / machine.bandwidth)


def of_a_sample(machine: Machine, shape: bench.Shape, turns: int, steps: int = STEPS) -> Cost:
    """All sequences from masks to text: one evaluation for each step that opens anything."""
    ours = bench.Ours(shape, machine.device, machine.dtype, compiled=False, draws=True)
    asked: list[float] = []
    work = partial(ours.sample, shape.sequences, shape.length, steps, asked)
    (taken,) = bench.by_turns([work], turns, machine.device)
    trunk = (shape.flops(0.0) / 3) * shape.length * asked[-1]
    head = 2 * shape.symbols * shape.width * shape.length  # once for each token
    layers = sum(map(size_in_bytes, ours.state.network.layers))
    return Cost(
        taken, (trunk + head) * shape.sequences / machine.flops, layers * asked[-1] / machine.bandwidth
    )


@torch.no_grad()
def of_a_block(machine: Machine, finished: int, turns: int) -> Cost:
    """One evaluation of the block behind so many positions, whose keys and values are there."""
    shape = replace(DRAWN, length=finished + BLOCK, sequences=1)
    ours = bench.Ours(shape, machine.device, machine.dtype, compiled=False, draws=True, block=BLOCK)
    xt = torch.zeros(1, shape.length, dtype=torch.long, device=machine.device)
    rows = torch.arange(shape.length, device=machine.device)[None] >= finished
    cached = Cached(Batched(ours.denoiser), ours.denoiser, cast(BlockNetwork, ours.state.network))
    work = partial(cached, xt, rows.double() / 2, rows)
    (taken,) = bench.by_turns([lambda: [work() for _ in range(8)]], turns, machine.device)
    weights = size_in_bytes(ours.state.network)
    kept = 2 * machine.dtype.itemsize * shape.layers * finished * shape.width  # keys and values
    flops = shape.flops(1.0) / 3 * BLOCK
    return Cost(taken / 8, flops / machine.flops, (weights + kept) / machine.bandwidth)


def slope(sizes: list[int], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def rows(what: str, name: str, sizes: list[int], measure: Callable[[int], Cost]) -> Iterator[str]:
    found = [measure(size) for size in sizes]
    for size, cost in zip(sizes, found, strict=True):
        floor = max(cost.matrices, cost.memory)
        yield (
            f"| {what} | {name} {size:,} | {1000 * cost.taken:,.1f} | {1000 * cost.matrices:,.1f} | "
            f"{1000 * cost.memory:,.1f} | {cost.taken / floor:.1f} |"
        )
    floors = [max(cost.matrices, cost.memory) for cost in found]
    yield (
        f"| {what} | **slope** by {name} | **{slope(sizes, [cost.taken for cost in found]):.2f}** | "
        f"{slope(sizes, floors):.2f} (the floor's) | | |"
    )


@memory_kept(torch.device("cpu"))  # as where it is trained and sampled
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--turns", type=int, default=3, help="of which a figure is the median (default: 3)")
    parser.add_argument("--only", choices=[*SIZES, "steps", "finished"], help="one of the sizes")
    parser.add_argument("--anyway", action="store_true", help="on a machine that others keep busy, too")
    asked = parser.parse_args()
    device = pick_device(asked.device)
    dtype = pick_precision(asked.precision, device, for_training=True)
    if device.type == "cpu" and not asked.anyway:
        bench.refuse_a_busy_machine()
    print(bench.heading(device))
    machine = Machine.measured(device, dtype)
    print(
        f"\nmatrices: {machine.flops / 1e12:.3f} TFLOP/s in {PRECISION_NAMES[dtype]}; memory: "
        f"{machine.bandwidth / 1e9:.1f} GB/s; a step: {STEP.name}; sampling: "
        f"{DRAWN.sequences} x {DRAWN.length} tokens in {STEPS} steps\n"
    )
    print("| what | size | ms | matrices, ms | memory, ms | times the larger of both |")
    print("|---|---|---|---|---|---|")
    for name, sizes in SIZES.items():
        if asked.only not in (None, name):
            continue
        for what, shape, of in (("a step", STEP, of_a_step), ("a sample", DRAWN, of_a_sample)):

            def measure(size: int, shape=shape, of=of, name=name) -> Cost:
                return of(machine, replace(shape, **{name: size}), asked.turns)

            for line in rows(what, name, sizes, measure):
                print(line, flush=True)
    if asked.only in (None, "steps"):
        for line in rows(
            "a sample",
            "steps",
            [8, 32, 128],
            lambda steps: of_a_sample(machine, DRAWN, asked.turns, steps),
        ):
            print(line, flush=True)
    if asked.only in (None, "finished"):
        for line in rows("a block", "finished", FINISHED, lambda n: of_a_block(machine, n, asked.turns)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
