"""What a diffusion model writes, and how fast, beside an autoregressive one of its shape, as Markdown tables.

Quality: the perplexity of samples before a causal model of transformers, at the temperature (interpolated) at
which they are as varied as real text. The autoregressive model may be given at several checkpoints, to see
how much of its training comes as far; ours is sampled by ancestral steps and, if asked, by other samplers, in
as many steps as they take, or as the model does. Speed: tokens a second of 1 and of 16 sequences, ours
compiled; of the other `generate` of transformers, a GPT-2 of the same shape, which keeps keys and values.
Medians of turns.

python benchmarks/beside.py runs/text8 runs/text8-autoregressive --scorer smollm2/ --data held-out.txt
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import Shape, by_turns, drawn_in_order, heading, refuse_a_busy_machine

import ddcli
from ddcli.device import pick_precision
from ddcli.report import Generative
from ddcli.textmodel import TextModel

Draw = Callable[[], object]
Way = dict[str, Any]  # of sampling: settings


def judged(model: TextModel, asked: argparse.Namespace, way: Way) -> Generative:
    found = ddcli.evaluate(
        model,
        asked.data,
        limit=1,
        draws=1,
        generative=asked.scorer,
        gguf=asked.gguf,
        samples=asked.samples,
        temperatures=asked.temperatures,
        **way,
    )
    assert found.generative is not None
    return found.generative


def cells(found: Generative) -> str:
    plain = min(found.samples, key=lambda each: abs(each.settings.temperature - 1))
    at = found.matched and f"{found.matched.perplexity:.0f} | {found.matched.temperature:.2f}"
    return f"{plain.cost.nfe:.0f} | {at or ' | '}"


def speeds(
    model: TextModel, asked: argparse.Namespace, ways: list[Way], dtype: torch.dtype
) -> Iterator[list[float]]:
    """Tokens a second of 1 and 16 sequences: the autoregressive network's, then ours in each way."""
    by_number: list[list[float]] = []
    assert model.network is not None  # or it could not be compiled
    of = model.network.config
    shape = Shape(of.vocab_size, of.width, of.layers, of.heads, model.length, 1)
    theirs = drawn_in_order(shape, model.device, dtype)
    for n in (1, 16):
        ours = [partial(model.sample, n, seed=0, batch_size=n, **way) for way in ways]
        draws: list[Draw] = [partial(theirs, n), *ours]
        taken = by_turns(draws, asked.turns, model.device)
        by_number.append([n * model.length / seconds for seconds in taken])
    yield from (list(pair) for pair in zip(*by_number, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="of a diffusion model")
    parser.add_argument("others", nargs="*", help="runs of autoregressive ones of its shape, or checkpoints")
    parser.add_argument("--data", required=True, help="held-out text, whose variety samples are to have")
    parser.add_argument("--scorer", required=True, help="a causal model of transformers")
    parser.add_argument("--gguf", help="a GGUF file in its folder")
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--samplers", nargs="*", default=[], help="beside ancestral ones in those steps")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--anyway", action="store_true", help="on a machine that others keep busy, too")
    asked = parser.parse_args()
    load: Any = partial(ddcli.load, device=asked.device, precision="bf16")
    model = load(asked.run)
    if model.device.type == "cpu" and not asked.anyway:
        refuse_a_busy_machine()
    dtype = pick_precision("bf16", model.device, for_training=False)
    print(f"{heading(model.device)}\n", flush=True)
    model.compile(lambda line: print(f"<!-- {line} -->"))
    ways: list[Way] = [{"sampler": "ancestral", "steps": steps} for steps in asked.steps]
    ways += [{"sampler": sampler} for sampler in asked.samplers]
    autoregressive, *each = speeds(model, asked, ways, dtype)
    print("| model, sampler | steps | evaluations | perplexity | temperature | tokens/s, 1 sequence | 16 |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for way, (one, many) in zip(ways, each, strict=True):
        found = judged(model, asked, way)
        name = f"{Path(asked.run).name}, {way['sampler']} | {way.get('steps', '')}"
        print(f"| {name} | {cells(found)} | {one:,.0f} | {many:,.0f} |", flush=True)
    for other in asked.others:
        found = judged(load(other), asked, {})
        print(f"| {Path(other).name} | | {cells(found)} | | |", flush=True)
    one, many = autoregressive
    print(f"| a GPT-2 of this shape, by `generate` | | | | | {one:,.0f} | {many:,.0f} |")
    print(f"| real text | | | {found.real.perplexity:.0f} | | | |\n\n{found.protocol}")


if __name__ == "__main__":
    main()
