"""Print how fast ddcli trains and samples, beside the textbook loop in the same run, as Markdown tables.

Both do the same task at equal shapes, by turns, on this machine; a figure is the median of its turns. A share
of the machine's matrix rate is of what a product of large matrices reached in the same run.

python benchmarks/bench.py
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import textbook
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from ddcli import denoiser as engine
from ddcli.ahead import Ahead
from ddcli.annealing import Annealing
from ddcli.backbones import transformer
from ddcli.backbones.transformer import DiffusionTransformerConfig, Transformer
from ddcli.config import Config, build_config
from ddcli.data import Batch
from ddcli.denoiser import Batched, NetworkDenoiser, find_head
from ddcli.device import PRECISION_NAMES, can_compile, memory_kept, pick_device, pick_precision
from ddcli.generate import generate
from ddcli.objective import make_objective
from ddcli.optimizer import OPTIMIZERS
from ddcli.process import Absorbing, Vocabulary
from ddcli.randomness import Streams
from ddcli.sampler import Ancestral
from ddcli.schedule import Linear, make_times
from ddcli.start import PEAK
from ddcli.step import Noised, State, Task

BUSY = 0.5  # of a core at most may be in use by others


@dataclass(frozen=True)
class Shape:
    """Of a network and a batch; `symbols` is the vocabulary without the mask."""

    symbols: int
    width: int
    layers: int
    heads: int
    length: int
    sequences: int

    @property
    def name(self) -> str:
        return (
            f"{self.layers} layers of {self.width}, {self.symbols:,} symbols, "
            f"{self.sequences} x {self.length} tokens"
        )

    def flops(self, predicted: float) -> float:
        """Of the matrices of a training step a token, forward and back, the head at a share of positions."""
        layer = 12 * self.width**2 + 2 * self.length * self.width
        return 6 * (self.layers * layer + predicted * self.symbols * self.width)


ON_CPU = {
    "few symbols": Shape(27, 256, 6, 4, 256, 16),
    "many symbols": Shape(50_257, 256, 6, 4, 256, 8),
}
ON_GPU = {"110M": Shape(50_257, 768, 12, 12, 1024, 32)}
DRAWN = {  # sequences, length, steps
    "cpu": [(8, 256, 256), (8, 256, 1024)],
    "cuda": [(1, 1024, 256), (16, 1024, 256), (64, 1024, 256)],
}


# -- ours -------------------------------------------------------------------------------------------------


class Ours:
    """What `ddcli train` does in a step and `ddcli sample` in a run, on tokens that are made up."""

    def __init__(
        self,
        shape: Shape,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool = True,
        draws: bool = False,
        block: int = 0,
        optimizer: str = "muon",
    ) -> None:
        """draws: whether it samples and does not train: it is asked about any number of sequences."""
        vocabulary = Vocabulary(shape.symbols + 1, mask_id=shape.symbols, special_ids=(shape.symbols,))
        self.shape, self.device = shape, device
        self.process = Absorbing.over(vocabulary, Linear())
        network = Transformer(
            DiffusionTransformerConfig(
                vocab_size=vocabulary.size,
                width=shape.width,
                layers=shape.layers,
                heads=shape.heads,
                block=block,
                window=shape.length // block if block else 0,
                tie_word_embeddings=True,
            )
        )
        torch.nn.Module.to(network, device)
        self.denoiser = NetworkDenoiser(
            network, self.process, find_head("leave-one-out", self.process), dtype
        )
        if draws:
            self.denoiser.round_layers()
        if compiled and can_compile():
            self.denoiser.compile(lambda line: print(f"<!-- {line} -->"), varies=draws)
        settled = {"train.steps": 10_000, "train.lr": PEAK, "train.optimizer": optimizer}
        self.config: Config = build_config({}, settled, "the benchmark")
        self.state = State.fresh(self.denoiser, self.config)
        blocks = shape.length // block if block else 1
        objective = make_objective("elbo", None, self.process)
        whole = Annealing(steps=0, seed=0)
        self.task = Task(
            self.process, objective, make_times("bell"), 0.0, 0.0, 0.0, 0.0, 0, blocks, whole, seed=0
        )

        self.ahead = Ahead(self._noised)
        self.tokens = text(shape, 0)

    def _noised(self, step: int) -> Noised:
        everywhere = np.ones(self.tokens.shape, bool)
        batch = Batch(self.tokens, ~everywhere, everywhere, of=len(self.tokens))
        return self.task.noised(batch, step, self.device)

    def step(self, parts: int = 1) -> None:
        step = self.state.step
        noised = self.ahead.take(step, step + 1 if self.device.type == "cuda" else None)
        loss = self.state.descend(self.task, noised, noised.count, parts)
        self.state.update(loss, self.config)

    def sample(self, n: int, length: int, steps: int, asked: list[float]) -> None:
        """Draw n texts, and note how often the network was asked about one, on average."""
        canvas = torch.zeros(n, length, dtype=torch.long, device=self.device)
        frozen = torch.zeros_like(canvas, dtype=torch.bool)
        rng, sampler = Streams(list(range(n))), Ancestral()
        times = sampler.times(self.process, steps, ~frozen, Streams(list(range(n, 2 * n))))[..., None]
        for frame in generate(Batched(self.denoiser), self.process, sampler, canvas, frozen, times, rng):
            last = frame
        asked.append(last.nfe.double().mean().item())


def text(shape: Shape, seed: int) -> np.ndarray:
    """Tokens (B, L) by Zipf's law."""
    chance = 1 / np.arange(1, shape.symbols + 1)
    rng = np.random.default_rng(seed)
    return rng.choice(shape.symbols, (shape.sequences, shape.length), p=chance / chance.sum())


def theirs(shape: Shape, device: torch.device) -> textbook.Textbook:
    made = textbook.Textbook(shape.symbols + 1, shape.width, shape.layers, shape.heads, mask_id=shape.symbols)
    return made.to(device)


# -- clocks and scales ------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else int
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


def by_turns(works: Sequence[Callable[[], object]], turns: int, device: torch.device) -> list[float]:
    """Median seconds of each, after one turn that does not count."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(turns + 1):
        for work, some in zip(works, taken, strict=True):
            found = seconds(work, device)
            if turn:
                some.append(found)
    return [statistics.median(some) for some in taken]


def training_by_turns(
    book: Callable[[], object], ours: Sequence[Callable[[], object]], turns: int, device: torch.device
) -> list[float]:
    """Median seconds of a step of each: three at a time, of which the last two count, since only ours keep
    their memory from step to step."""
    taken: list[list[float]] = [[] for _ in (book, *ours)]
    for _ in range(turns):
        for step, some in zip((book, *ours), taken, strict=True):
            with nullcontext() if step is book else memory_kept(device):
                some += [seconds(step, device) for _ in range(3)][1:]
    return [statistics.median(some) for some in taken]


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of large matrices."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    (found,) = by_turns([lambda: [a @ b for _ in range(10)]], 5, device)
    return 10 * 2 * size**3 / found


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    return f"{told.get('model name	', platform.processor()).strip()}, {torch.get_num_threads()} threads"


def commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return told.stdout.strip() or "no commit"


def heading(device: torch.device) -> str:
    return f"{machine(device)}; torch {torch.__version__}; {commit()}; {time.strftime('%Y-%m-%d')}"


def refuse_a_busy_machine() -> None:
    if (load := os.getloadavg()[0]) > BUSY:
        sys.exit(f"other work keeps {load:.1f} cores busy: figures would be of that; wait, or give --anyway")


# -- tables -----------------------------------------------------------------------------------------------


def training(shapes: dict[str, Shape], device: torch.device, dtype: torch.dtype, turns: int) -> Iterator[str]:
    rate = matrix_rate(device, dtype)
    told = f"a product of large matrices: {rate / 1e12:.2f} TFLOP/s in {PRECISION_NAMES[dtype]}"
    yield f"### Training\n\n{told}\n"
    yield "| shape | textbook, tokens/s | ours by | tokens/s | ratio | share of the matrix rate |"
    yield "|---|---|---|---|---|---|"
    for name, shape in shapes.items():
        ours = {by: Ours(shape, device, dtype, optimizer=by) for by in OPTIMIZERS}
        book = theirs(shape, device)
        optimizer = textbook.make_optimizer(book, 3e-4)
        drawn = text(shape, 0)
        tokens = torch.tensor(drawn, device=device)
        parts = 4 if device.type == "cuda" else 1  # the textbook's logits would not fit

        def by_the_book(book=book, optimizer=optimizer, tokens=tokens, parts=parts):
            for some in tokens.chunk(parts):
                textbook.update(book, optimizer, some)

        for _ in range(3):
            for one in ours.values():
                one.step()
        slow, *taken = training_by_turns(by_the_book, [one.step for one in ours.values()], turns, device)
        count = shape.sequences * shape.length
        for by, fast in zip(ours, taken, strict=True):
            share = shape.flops(0.5) * count / fast / rate
            yield (
                f"| {name}: {shape.name} | {count / slow:,.0f} | {by} | {count / fast:,.0f} | "
                f"{slow / fast:.1f} | {share:.0%} |"
            )


def memory_of(which: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that a step needs at its peak, beside weights, gradients, moments and averages, and on a CPU
    beside what the interpreter holds with its imports, the compiler's among them."""
    work: Callable[[], object]
    if device.type == "cpu":
        if which == "ours" and can_compile():
            torch.compile(torch.sin)(torch.ones(1))
        before = resident("VmRSS")
    if which == "ours":
        ours = Ours(shape, device, dtype)
        parameters, copies = [*ours.state.network.parameters()], 3  # with their gradients and averages
        optimizer, work = ours.state.optimizer, ours.step
    else:
        network = theirs(shape, device)
        parameters, copies = [*network.parameters()], 2
        optimizer, tokens = (
            textbook.make_optimizer(network, 3e-4),
            torch.tensor(text(shape, 0), device=device),
        )
        work = partial(textbook.update, network, optimizer, tokens)

    def kept() -> int:
        moments = [x for state in optimizer.state.values() for x in state.values()]
        return copies * sum(map(size_of, parameters)) + sum(map(size_of, moments))

    if device.type == "cuda":
        work()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - kept()
    with memory_kept(device) if which == "ours" else nullcontext():
        for _ in range(3):
            work()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the steps to come
        for _ in range(3):
            work()
    return resident("VmHWM") - before - kept()


def size_of(x: Tensor) -> int:
    """Bytes."""
    return x.numel() * x.element_size()


def resident(which: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at their peak (VmHWM)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[which].split()[0])


def memory(shape: Shape, device: torch.device) -> Iterator[str]:
    yield "\n### Memory of a training step, beside weights, gradients and what the optimiser keeps\n"
    yield "| tokens of a step | textbook, MB | ours, MB | ratio |\n|---|---|---|---|"
    for sequences in (4, 8, 16):
        found = []
        for which in ("textbook", "ours"):  # in a process of its own: a peak is a process's
            arguments = [which, str(sequences), device.type]
            told = subprocess.run(
                [sys.executable, __file__, "--memory-of", *arguments], capture_output=True, text=True
            )
            found.append(float(told.stdout.split()[-1]) if told.returncode == 0 else float("nan"))
        size = f"{sequences} x {shape.length}"
        yield f"| {size} | {found[0] / 1e6:,.0f} | {found[1] / 1e6:,.0f} | 1/{found[0] / found[1]:.1f} |"


def sampling(shapes: dict[str, Shape], device: torch.device, dtype: torch.dtype, turns: int) -> Iterator[str]:
    yield "\n### Sampling, by ancestral steps, untrained networks; ours compiled, in batches\n"
    yield "| shape | sequences x length, steps | textbook, tokens/s | ours, tokens/s | ratio | evaluations |"
    yield "|---|---|---|---|---|---|"
    for name, shape in shapes.items():
        ours, book = Ours(shape, device, dtype, draws=True), theirs(shape, device)
        for n, length, steps in DRAWN[device.type]:
            few = max(1, steps // 32)  # the textbook's cost is the same in every step
            asked: list[float] = []
            fast = by_turns([partial(ours.sample, n, length, steps, asked)], turns, device)[0]
            slow = by_turns([partial(book.sample, n, length, few)], turns, device)[0] * steps / few
            yield (
                f"| {name} | {n} x {length}, {steps} | {n * length / slow:,.1f} | {n * length / fast:,.1f} | "
                f"{slow / fast:.1f} | {asked[-1]:.0f} |"
            )


def in_order(shape: Shape, device: torch.device, dtype: torch.dtype, turns: int) -> Iterator[str]:
    """Beside what a user would pick instead: an autoregressive network of the same shape, which keeps keys
    and values and draws one token after the other. Speed alone: both are untrained."""
    yield "\n### Sampling, compiled, beside an autoregressive network of this shape that caches keys\n"
    yield "| sequences x length | transformers, tokens/s | ours, steps: tokens/s |\n|---|---|---|"
    draw, ours = drawn_in_order(shape, device, dtype), Ours(shape, device, dtype, draws=True)
    for n in (1, 16):
        few = [shape.length // 16, shape.length // 4, shape.length]
        works = [partial(ours.sample, n, shape.length, steps, []) for steps in few]
        book, *taken = by_turns([partial(draw, n), *works], turns, device)
        rates = [f"{steps}: {n * shape.length / t:,.0f}" for steps, t in zip(few, taken, strict=True)]
        yield f"| {n} x {shape.length} | {n * shape.length / book:,.0f} | {'; '.join(rates)} |"


def drawn_in_order(shape: Shape, device: torch.device, dtype: torch.dtype) -> Callable[[int], None]:
    """What draws n sequences by `generate` of transformers: an untrained GPT-2 that keeps keys and values."""
    config = GPT2Config(
        vocab_size=shape.symbols,
        n_positions=shape.length,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        bos_token_id=0,
        eos_token_id=None,
    )
    network = GPT2LMHeadModel(config).eval().to(device)

    def draw(n: int) -> None:
        begun = torch.zeros(n, 1, dtype=torch.long, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            drawn = network.generate(
                begun, attention_mask=torch.ones_like(begun), max_new_tokens=shape.length - 1, do_sample=True
            )
        assert drawn.shape == (n, shape.length)

    return draw


def only_gpu(shape: Shape, device: torch.device, dtype: torch.dtype, turns: int) -> Iterator[str]:
    """What has no use on a CPU: attention by tiles, and what a loss in parts costs where memory is large."""
    yield "\n### A step of block diffusion, and the loss in parts\n"
    yield "| what | tokens/s | memory, GB |\n|---|---|---|"
    count = shape.sequences * shape.length

    def measured(what: str, ours: Ours, parts: int = 1) -> str:
        for _ in range(3):
            ours.step(parts)
        torch.cuda.reset_peak_memory_stats()
        (taken,) = by_turns([lambda: ours.step(parts)], turns, device)
        return f"| {what} | {count / taken:,.0f} | {torch.cuda.max_memory_allocated() / 1e9:.1f} |"

    yield measured("loss in parts", Ours(shape, device, dtype))
    at_once, engine.AT_ONCE = engine.AT_ONCE, {"cuda": 2**40}
    try:
        yield measured("loss at once", Ours(shape, device, dtype))
    finally:
        engine.AT_ONCE = at_once
    yield measured("blocks of 16, by tiles (FlexAttention)", Ours(shape, device, dtype, block=16), 2)
    by_tiles, transformer.by_tiles = transformer.by_tiles, lambda device: False
    torch.compiler.reset()
    try:
        yield measured("blocks of 16, by a mask (SDPA)", Ours(shape, device, dtype, block=16), 2)
    finally:
        transformer.by_tiles = by_tiles


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--turns", type=int, default=7, help="of which a figure is the median (default: 7)")
    parser.add_argument(
        "--only", choices=["training", "memory", "sampling", "order", "gpu"], help="one of the tables"
    )
    parser.add_argument("--anyway", action="store_true", help="on a machine that others keep busy, too")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    device = pick_device(asked.device)
    dtype = pick_precision(asked.precision, device, for_training=True)
    shapes = ON_GPU if device.type == "cuda" else ON_CPU
    largest = list(shapes.values())[-1]
    if asked.memory_of:
        which, sequences, _ = asked.memory_of
        shape = Shape(**{**vars(largest), "sequences": int(sequences)})
        print(memory_of(which, shape, device, dtype))
        return
    if device.type == "cpu" and not asked.anyway:
        refuse_a_busy_machine()
    print(f"{heading(device)}\n", flush=True)
    tables = {
        "training": lambda: training(shapes, device, dtype, asked.turns),
        "memory": lambda: memory(largest, device),
        "sampling": lambda: sampling(shapes, device, dtype, max(1, asked.turns // 3)),
        "order": lambda: in_order(largest, device, dtype, max(1, asked.turns // 3)),
        "gpu": lambda: only_gpu(largest, device, dtype, asked.turns),
    }
    if device.type == "cpu":
        del tables["gpu"]
    for name, table in tables.items():
        if asked.only in (None, name):
            for line in table():
                print(line, flush=True)
    if device.type == "cpu":
        print("\nno GPU is here: its table is left out")


if __name__ == "__main__":
    main()
