"""The README.md of a run folder: what the model is, how good, and how to use it."""

import math
from collections.abc import Sequence
from pathlib import Path

from .backbones.network import Network
from .config import Config
from .dataset import TrainingData
from .errors import printable
from .evaluation import Bound
from .files import without_place
from .hub import is_name
from .model import SamplerSettings
from .weights import count, weights_of


def _error(found: Bound) -> str:
    known = math.isfinite(found.stderr)  # one cluster tells nothing of the spread
    return f" (standard error {found.stderr:.4f} over {found.clusters} clusters)" if known else ""


def _code(name: str) -> str:
    """A name as it stands, whatever is in it: neither markup nor the end of a line."""
    return "`" + printable(name).replace("`", "'") + "`"


def _base_model(start: str | None) -> list[str]:
    """Front matter that names what a model was made from, where the hub may know it."""
    return [f"base_model: {start}"] if start and is_name(start) and not Path(start).exists() else []


def model_card(
    config: Config,
    data: TrainingData,
    network: Network,
    step: int,
    bounds: Sequence[Bound],
    defaults: SamplerSettings,
    *,
    fills: bool,
) -> str:
    """Markdown with the front matter that model hubs read. fills: whether it can fill gaps."""
    unit = data.tokenizer.unit
    adapted = sum(weight.numel() for weight in weights_of(network).values()) if network.given else 0
    lines = [
        "---",
        f"library_name: {network.loader.partition('.')[0]}",
        *_base_model(config.model.start),
        "pipeline_tag: fill-mask",
        "tags: [text-diffusion, discrete-diffusion]",
        "---",
        "",
        "# A text diffusion model",
        "",
        f"- Noise: {_code(config.process.name)}, {_code(config.process.schedule)} schedule; "
        f"objective {_code(config.objective.name)}",
        f"- Network: {count(network) - adapted:,} parameters, {data.length} {unit}s at a time, "
        f"vocabulary {data.tokenizer.vocab_size:,}",
        f"- Data: {_code(without_place(config.data.source))} (sha256 {data.fingerprint[:16]}...)",
        f"- Trained for {step:,} of {config.train.steps:,} steps of {config.train.batch_size} sequences",
    ]
    if config.model.start is not None:
        lines.append(f"- Started from {_code(without_place(config.model.start))}")
    if network.given:
        lora = _code(str(config.model.lora))
        lines.append(
            f"- Trained by adapters of {adapted:,} numbers ({lora}): merged here, and apart in `adapter/`"
        )
    if data.labels:
        shown = ", ".join(_code(name) for name in list(data.labels)[:12])
        lines.append(f"- {len(data.labels):,} labels (`ddcli sample . --label NAME`): {shown}")
    lines += [
        f"- Bound on held-out text: {b.bits_per_char:.3f} bits per character, "
        f"{b.nats_per_token:.4f} nats per token{_error(b)}, "
        f"perplexity {b.perplexity:.2f}"
        for b in bounds
    ]
    lines += [
        f"- The same as papers on continuous time report it, without prior and reconstruction, over times "
        f"from 0.001: {b.literature_nats_per_token:.4f} nats per token"
        for b in bounds
    ]
    lines += [
        f"- Sampler, if nobody says: {_code(defaults.sampler)}, {defaults.steps:,} steps "
        "(`generation_config.json`)",
        "",
        "```",
        "ddcli sample .          # write text",
        *(["ddcli infill . FILE     # fill the [MASK:12] gaps of a file"] if fills else []),
        "```",
        "",
        "`AutoTokenizer.from_pretrained` reads this folder as it is, and so does",
        f"`{network.loader}.from_pretrained`.",
        "",
    ]
    return "\n".join(lines)
