"""Print how long training takes to a bound on held-out text, beside the textbook loop, as a Markdown table.

Both learn the same blocks of characters and are asked the same questions about the same held-out ones. Ours
is `ddcli train` with nothing set but the time it is given, and a size if one is asked for; its clock runs
from its first import, and counts compiling and validation. The textbook's network has the same layers; its
clock runs only while it takes steps, at a constant learning rate after a warm-up, for each of the batch sizes
and rates that are given. One after the other, on a machine at rest.

What takes the textbook hours can be looked at sooner (--hasten): of each stretch between two looks the first
steps are its own and timed, and the others are computed in bf16, compiled, and counted as taking as long.

python benchmarks/time_to_loss.py text8.txt
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import bench
import textbook
import torch
from torch import Tensor, nn

from ddcli.config import Config, Model, build_config
from ddcli.device import pick_device
from ddcli.evaluation import bound
from ddcli.plan import Plan, Silent, make_plan

Curve = list[tuple[float, float]]  # seconds, and the bound in bits/char then
WARMUP = 200  # steps of the textbook loop
TIMED = 20  # of its steps between two looks, where the others are hastened


def settings(text: Path, arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "data.source": str(text),
        "data.tokenizer": "char",
        "data.length": arguments.length,
        "model.size": arguments.size,
        "validation.sequences": arguments.sequences,
    }


def ours(text: Path, arguments: argparse.Namespace, run: Path) -> Curve:
    """What `ddcli train` wrote down of itself, of a process of its own."""
    own = {
        **settings(text, arguments),
        "train.minutes": arguments.minutes,
        "validation.every": arguments.every,
        "validation.final_draws": 1,
        "samples.every": 0,
    }
    told = [part for name, value in own.items() for part in ("--set", f"{name}={value}")]
    begun = time.time()
    subprocess.run([sys.executable, "-m", "ddcli", "train", *told, "-o", str(run)], check=True)
    metrics = run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    imports = metrics.stat().st_mtime - begun - lines[-1]["seconds"]
    return [(line["seconds"] + imports, line["bound_bits_per_char"]) for line in lines if _measured(line)]


def _measured(line: dict[str, float]) -> bool:
    return line["step"] > 0 and "bound_bits_per_char" in line


class ByTheBook:
    """The textbook's network as a denoiser: who is asked by the same estimator as ours."""

    def __init__(self, network: textbook.Textbook) -> None:
        self.network = network

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        # it knows no padding, of which there is some in the last block alone
        return self.network(xt, t.amax(-1).float())[rows]


class Hastened(nn.Module):
    """A layer of the textbook in bf16, compiled, which hands on float32: sooner, and rounded."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.compile()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.layer(x, told).float()


def by_the_book(
    plan: Plan, arguments: argparse.Namespace, batch: int, rate: float
) -> Iterator[tuple[float, float]]:
    """Seconds of training and the bound then, again and again, for as long as it is given."""
    torch.manual_seed(0)
    vocabulary, shape, device = plan.process.vocabulary, plan.network.shape, plan.device
    assert vocabulary.mask_id is not None
    network = textbook.Textbook(vocabulary.size, shape.width, shape.layers, shape.heads, vocabulary.mask_id)
    network.to(device)
    optimizer = textbook.make_optimizer(network, rate)
    own = network.layers
    hastened = nn.ModuleList(map(Hastened, own)) if arguments.hasten else own
    taken, step = 0.0, 0
    while taken < 60 * arguments.book_minutes:
        until = taken + 60 * arguments.book_minutes / arguments.looks
        timed: list[float] = []
        while taken < until:
            begun = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARMUP)
            blocks = plan.data.train.batch(step, batch, seed=0)
            textbook.update(network, optimizer, torch.tensor(blocks.tokens, device=device))
            spent = time.perf_counter() - begun
            if len(timed) < TIMED or not arguments.hasten:
                timed.append(spent)
            else:
                network.layers, spent = hastened, statistics.median(timed)
            taken += spent
            step += 1
        network.layers = own
        found = bound(
            ByTheBook(network),
            plan.process,
            plan.data.valid,
            sequences=arguments.sequences,
            draws=plan.config.validation.draws,
            device=device,
        )
        yield taken, found.bits_per_char


def first_below(target: float, curve: Curve) -> float | None:
    """Seconds."""
    return next((seconds for seconds, bits in curve if bits <= target), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--targets", type=float, nargs="+", default=[2.8, 2.5], help="bits/char")
    parser.add_argument("--minutes", type=float, default=10, help="that ours is given (default: 10)")
    parser.add_argument("--book-minutes", type=float, default=30, help="of steps of each textbook loop")
    parser.add_argument(
        "--book",
        nargs="*",
        default=["8:1e-3", "16:1e-3", "16:3e-4"],
        help="batch sizes and learning rates of the textbook loop",
    )
    parser.add_argument(
        "--hasten", action="store_true", help="reckon the textbook's seconds by those of some of its steps"
    )
    parser.add_argument(
        "--size", default=Model().size, help=f"of both networks (default: {Model().size}, as of training)"
    )
    parser.add_argument("--length", type=int, default=256, help="characters of a block")
    parser.add_argument("--every", type=int, default=50, help="steps between ours's validations")
    parser.add_argument("--looks", type=int, default=40, help="validations of each textbook loop")
    parser.add_argument("--sequences", type=int, default=64, help="held-out blocks that both are asked about")
    parser.add_argument("--anyway", action="store_true", help="on a machine that others keep busy, too")
    arguments = parser.parse_args()
    if not arguments.anyway:
        bench.refuse_a_busy_machine()
    device = pick_device("auto")
    print(bench.heading(device))
    curves: dict[str, Curve] = {}
    with tempfile.TemporaryDirectory() as folder:
        curves["ours"] = ours(arguments.text, arguments, Path(folder) / "run")
    config: Config = build_config({}, settings(arguments.text, arguments), "the benchmark")
    plan = make_plan(config, None, Silent())
    for name in arguments.book:
        batch, rate = name.split(":")
        told = ", hastened" if arguments.hasten else ""
        curve = curves[f"textbook, {batch} sequences, rate {rate}{told}"] = []
        for point in by_the_book(plan, arguments, int(batch), float(rate)):
            curve.append(point)
            print(f"<!-- {name}: {point[0]:.0f} s {point[1]:.3f} bits/char -->", flush=True)
            if point[1] <= min(arguments.targets):
                break
    print(f"\n| loop | {' | '.join(f'to {t:g} bits/char, s' for t in arguments.targets)} | at its end |")
    print(f"|---|{'---|' * len(arguments.targets)}---|")
    for name, curve in curves.items():
        to = [first_below(target, curve) for target in arguments.targets]
        shown = [f"{seconds:,.0f}" if seconds else f"not in {curve[-1][0]:,.0f}" for seconds in to]
        print(f"| {name} | {' | '.join(shown)} | {curve[-1][1]:.3f} after {curve[-1][0]:,.0f} s |")


if __name__ == "__main__":
    main()
