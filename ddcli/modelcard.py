"""The README.md of a run folder: what the model is, how good, and how to use it."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from .backbones.network import Network
from .config import Config
from .dataset import TrainingData
from .errors import printable
from .evaluation import Bound
from .files import without_place
from .hub import is_name
from .model import SamplerSettings
from .process import PROCESSES, Autoregressive
from .weights import count, weights_of

SHOWN = 600  # characters of a sample


def _error(found: Bound) -> str:
    known = math.isfinite(found.stderr)  # one cluster tells nothing of the spread
    return f" (standard error {found.stderr:.4f} over {found.clusters} clusters)" if known else ""


def _code(name: str) -> str:
    """A name as it stands, whatever is in it: neither markup nor the end of a line."""
    return "`" + printable(name).replace("`", "'") + "`"


def _base_model(start: str | None) -> list[str]:
    """Front matter that names what a model was made from, where the hub may know it."""
    return [f"base_model: {start}"] if start and is_name(start) and not Path(start).exists() else []


SAMPLING = "- Sampler, if nobody says: "


def _sampling(defaults: SamplerSettings) -> str:
    return f"{SAMPLING}{_code(defaults.sampler)}, {defaults.steps:,} steps (`generation_config.json`)"


def with_sampling(card: str, defaults: SamplerSettings) -> str:
    """A card as it is, but for the sampler that it names."""
    told = _sampling(defaults)
    return re.sub(rf"^{re.escape(SAMPLING)}[^\r\n]*", lambda _: told, card, flags=re.M)


def fills(config: Config) -> bool:
    """Whether such a model fills gaps: not where it writes in order, be it token by token or in blocks."""
    return not (writes_in_order(config) or config.model.block)


def writes_in_order(config: Config) -> bool:
    return PROCESSES.get(config.process.name) is Autoregressive


def _known(about: Mapping[str, Any]) -> str:
    """What a bound is to be compared with."""
    bits = about.get("by_frequency_bits_per_char")
    return "" if bits is None else f" ({bits:.2f} by how frequent tokens are alone)"


def _fenced(text: str) -> list[str]:
    """Any text as a block that nothing in it ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence, *printable(text, keep="\n").split("\n"), fence]


# settings of train
OF_THE_MACHINE = {"device", "precision", "threads", "compile", "accumulate", "shard", "recompute"}


def _recipe(config: Config) -> list[str]:
    """The settings that are not what they are by default, as a recipe that speaks of no machine."""

    def told(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: told(value) for key, value in part.items()}
        return without_place(part) if isinstance(part, str) else part

    chosen = told(
        config.model_dump(exclude_none=True, exclude_defaults=True, exclude={"train": OF_THE_MACHINE})
    )
    return _fenced(tomli_w.dumps(chosen).rstrip())


def model_card(
    config: Config,
    data: TrainingData,
    network: Network,
    step: int,
    bounds: Sequence[Bound],
    defaults: SamplerSettings,
    about: Mapping[str, Any],
    sample: str,
) -> str:
    """Markdown with the front matter that model hubs read.

    about: what run.json says of machine and versions. sample: one of its texts, "" where there is none.
    """
    unit = data.tokenizer.unit
    adapted = sum(weight.numel() for weight in weights_of(network).values()) if network.given else 0
    lines = [
        "---",
        f"library_name: {network.loader.partition('.')[0]}",
        *_base_model(config.model.start),
        f"pipeline_tag: {'fill-mask' if fills(config) else 'text-generation'}",
        "tags: [text-diffusion, discrete-diffusion]",
        "---",
        "",
        "# A text diffusion model",
        "",
        f"- Noise: {_code(without_place(config.process.name))}, {_code(config.process.schedule)} schedule; "
        f"objective {_code(config.objective.name)}",
        f"- Network: {count(network) - adapted:,} parameters, {data.length} {unit}s at a time, "
        f"vocabulary {data.tokenizer.vocab_size:,}",
        f"- Data: {_code(without_place(config.data.source))} (sha256 {data.fingerprint[:16]}...)",
        f"- Trained for {step:,} of {config.train.steps:,} steps of {config.train.batch_size} sequences, by "
        f"{config.train.optimizer}, in {about['precision']}, last on {about['machine']} "
        f"({about['versions']})",
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
        f"- Bound on held-out text: {b.bits_per_char:.3f} bits per character{_known(about)}, "
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
        _sampling(defaults),
        "- Curves, samples on the way, and where the bound comes from: `report.html`",
        "",
        *(["One of its texts, or the start of it:", "", *_fenced(sample[:SHOWN]), ""] if sample else []),
        "The settings it was trained with, but for those by default, as a recipe of `ddcli train`:",
        "",
        *_recipe(config),
        "",
        "```",
        "ddcli sample .          # write text",
        *(["ddcli infill . FILE     # fill the [MASK:12] gaps of a file"] if fills(config) else []),
        "```",
        "",
        "`AutoTokenizer.from_pretrained` reads this folder as it is, and so does",
        f"`{network.loader}.from_pretrained`.",
        "",
    ]
    return "\n".join(lines)
