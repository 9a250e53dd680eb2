"""Draw the validation bounds of runs over the tokens they were trained on.

python benchmarks/curves.py runs/shakespeare runs/text8 -o docs/curves.png
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

from ddcli.config import load_config


def curve(run: Path) -> tuple[list[float], list[float], list[float]]:
    """Millions of tokens, bound in bits per character, and its standard error."""
    config = load_config(run / "config.toml")
    tokens_per_step = config.train.batch_size * (config.data.length or 0) / 1e6
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line.get("bound_stderr") and line["step"]]
    bits = [line["bound_bits_per_char"] for line in measured]
    error = [
        line["bound_stderr"] * line["bound_bits_per_char"] / line["bound_nats_per_token"] for line in measured
    ]
    return [line["step"] * tokens_per_step for line in measured], bits, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for run in arguments.runs:
        tokens, bits, error = curve(run)
        (line,) = axes.plot(tokens, bits, label=run.name)
        low = [b - e for b, e in zip(bits, error, strict=True)]
        high = [b + e for b, e in zip(bits, error, strict=True)]
        axes.fill_between(tokens, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="tokens trained on, millions", ylabel="bound, bits per character (± standard error)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(arguments.output, dpi=120)


if __name__ == "__main__":
    main()
