"""Samples judged from outside: by a causal language model, and by how varied they are.

A likely text may be likely because it repeats itself, so no perplexity stands alone here: beside it stand the
entropy of a text's tokens, the share of different n-grams and that of repeated ones, and the same figures of
real text, cut and decoded as the samples are (arXiv:2409.02908 shows what happens otherwise).
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .data import Blocks
from .errors import DdcliError, first_line
from .evaluation import ratio, spread_evenly
from .hub import quiet, refuse_adapters, safe_weights, unreachable
from .model import Model, SamplerSettings
from .sampling import samples

WINDOW = 1024  # tokens of the scorer, at most, of each text
TIMED = 4  # samples that are drawn to measure evaluations and seconds


@dataclass(frozen=True)
class Text:
    """A sample, or as much real text: the model's own tokens, and what they spell."""

    tokens: list[int]
    content: str
    label: str | None = None  # of a record


@dataclass(frozen=True)
class Scorer:
    """A causal language model that judges texts."""

    name: str
    network: Any  # transformers' own
    tokenizer: Any
    window: int  # tokens, at most, that are read of a text

    @property
    def protocol(self) -> str:
        return (
            f"each text retokenised by {self.name}, on its own; its first token unscored, no bos; "
            f"cut after {self.window:,} tokens; means over all scored tokens of all texts"
        )

    @torch.no_grad()
    def nats(self, text: str) -> tuple[float, int, int]:
        """-ln p of all tokens but the first, how many these are, and their characters."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"][: self.window]
        if len(ids) < 2:
            return 0.0, 0, 0
        asked = torch.tensor([ids], device=self.network.device)
        log_p = self.network(asked).logits[0, :-1].double().log_softmax(-1)
        nats = -log_p.gather(-1, asked[0, 1:, None]).sum().item()
        return nats, len(ids) - 1, len(self.tokenizer.decode(ids)) - len(self.tokenizer.decode(ids[:1]))


def load_scorer(source: str, *, gguf: str | None = None, device: torch.device | None = None) -> Scorer:
    """A causal model of transformers from a folder or by its name; `folder::file.gguf` is a GGUF file in it.

    Code that comes with a model is never run. Raises DdcliError for what is no such model.
    """
    name, _, file = source.partition("::")
    gguf = gguf or file or None
    is_folder = Path(name).is_dir()
    if not is_folder and (name.startswith((".", "/", "~")) or Path(name).exists()):
        raise DdcliError(f"{name} is no folder; --generative takes a folder of a causal model, or its name")

    files = sorted(file.name for file in Path(name).glob("*.gguf")) if is_folder else []
    if gguf is None and files and not (Path(name) / "config.json").is_file():
        raise DdcliError(f"{name} holds no model but {files[0]}; give --generative-gguf {files[0]}")
    if gguf is not None and is_folder and gguf not in files:
        raise DdcliError(f"{name} holds no {gguf}{f'; it holds {files[0]}' if files else ''}")

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.peft_utils import find_adapter_config_file

    if is_folder and gguf is None:
        safe_weights(Path(name), name)
    trouble = None if is_folder else unreachable(name)
    options: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": is_folder or trouble is not None,
    }
    if gguf is not None:
        options["gguf_file"] = gguf
    safe = {"use_safetensors": True} if gguf is None else {}  # of the rest, some are pickles
    try:
        with quiet():
            adapters = find_adapter_config_file(name, local_files_only=options["local_files_only"])
            if adapters and gguf is None:
                refuse_adapters(Path(adapters).parent, name)
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
            network: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **safe, **options)
    except DdcliError:
        raise
    except Exception as error:  # broken files raise whatever the parser of their class raises
        if is_folder:
            reason = first_line(error)
            raise DdcliError(
                f"{source} is no causal language model that transformers can load: {reason}"
            ) from None
        raise DdcliError(
            f"there is no folder {name} here; as a Hugging Face name it could not be loaded: "
            f"{first_line(trouble or error)}; give a folder that holds such a model"
        ) from None
    network.to(device or torch.device("cpu")).eval()
    window = getattr(network.config, "max_position_embeddings", None) or WINDOW
    return Scorer(source, network, tokenizer, min(window, WINDOW))


@dataclass(frozen=True)
class TextFigures:
    """What some texts are like. Entropies are of single tokens, nats; n-grams are of the model's tokens."""

    texts: int
    tokens: int  # the model's own
    nats_per_token: float  # of the scorer's tokens
    stderr: float  # of nats_per_token, clustered by text
    bits_per_char: float  # by the scorer
    scored_tokens: int
    entropy: float  # of the tokens within a text, the mean over texts
    distinct: tuple[float, float, float]  # different 1-, 2- and 3-grams over all of them
    repetition: float  # share of 4-grams that occurred before in the same text

    @property
    def perplexity(self) -> float:
        """Per token of the scorer."""
        return math.exp(min(self.nats_per_token, 700.0))


def figures(scorer: Scorer, texts: Sequence[Text]) -> TextFigures:
    """Raises DdcliError where no text has two tokens of the scorer."""
    scored = [scorer.nats(text.content) for text in texts]
    nats, counts, characters = (np.array(column) for column in zip(*scored, strict=True))
    if not counts.sum():
        raise DdcliError(
            "every text is empty or a single token to the scorer; there is nothing to score, "
            "try more samples or a longer --length"
        )
    mean, stderr = ratio(nats, counts)
    grams = [list(_grams(text.tokens, 4)) for text in texts]
    longest = sum(map(len, grams))
    return TextFigures(
        texts=len(texts),
        tokens=sum(len(text.tokens) for text in texts),
        nats_per_token=mean,
        stderr=stderr,
        bits_per_char=float(nats.sum() / math.log(2) / max(1, characters.sum())),
        scored_tokens=int(counts.sum()),
        entropy=float(np.mean([_entropy(text.tokens) for text in texts])),
        distinct=tuple(_distinct(texts, n) for n in (1, 2, 3)),  # type: ignore[arg-type]
        repetition=1 - sum(len(set(each)) for each in grams) / longest if longest else 0.0,
    )


def _grams(tokens: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def _distinct(texts: Sequence[Text], n: int) -> float:
    all_of_them = [gram for text in texts for gram in _grams(text.tokens, n)]
    return len(set(all_of_them)) / max(1, len(all_of_them))


def _entropy(tokens: Sequence[int]) -> float:
    counts = np.array(list(Counter(tokens).values()))
    share = counts / max(1, counts.sum())
    return float(-(share * np.log(share)).sum())


@dataclass(frozen=True)
class Cost:
    """What a sample takes, the mean over `TIMED` of a seed."""

    nfe: float  # network evaluations
    seconds: float  # of one drawn alone, on this machine; what a first call prepares is not counted


def cost_of(model: Model, settings: SamplerSettings, *, length: int | None, seed: int) -> Cost:
    """Raises DdcliError for a length or a sampler the model cannot do."""
    options: dict[str, Any] = {"length": length, "seed": seed, **settings.model_dump()}
    list(samples(model, 1, **options))
    began = time.perf_counter()
    drawn = list(samples(model, TIMED, batch_size=1, **options))
    seconds = time.perf_counter() - began
    return Cost(sum(sample.nfe for sample in drawn) / TIMED, seconds / TIMED)


@dataclass(frozen=True)
class Generation:
    """Samples of some settings, what they are like, and what they took."""

    settings: SamplerSettings
    figures: TextFigures
    cost: Cost


def figures_of_samples(
    model: Model,
    scorer: Scorer,
    settings: SamplerSettings,
    like: Sequence[Text],
    *,
    count: int,
    length: int | None,
    seed: int,
) -> TextFigures:
    """`count` samples, scored; they take the labels of the real texts they are `like` in turn.

    Raises DdcliError for a length or a sampler the model cannot do.
    """
    labels = [text.label for text in like]
    drawn = samples(model, count, length=length, label=labels, seed=seed, **settings.model_dump())
    return figures(scorer, [Text(sample.tokens, sample.text) for sample in drawn])


def real_texts(model: Model, blocks: Blocks, *, count: int, length: int | None) -> list[Text]:
    """As much real text, cut and decoded as samples are: of each block the tokens up to the first eos.

    At most `count` blocks, evenly spread, of at most `length` tokens each. One at the end of the text that
    is not as long is left out; a record is as long as it is.
    """
    front, back = model.edges
    sizes = blocks.sizes - (front + back)
    least = 0 if model.record_lengths else min(length or model.length, int(sizes.max()))
    able = np.flatnonzero(sizes >= least)
    batch = blocks.take(able[spread_evenly(len(able), count)])
    tokenizer = model.tokenizer
    names, texts = {id: name for name, id in tokenizer.label_ids.items()}, []
    for row, valid in zip(batch.tokens, batch.valid, strict=True):
        tokens = row[valid]
        tokens = tokens[front : len(tokens) - back]
        drawn = tokens[:length].tolist()
        if tokenizer.eos_id in drawn:
            drawn = drawn[: drawn.index(tokenizer.eos_id)]
        content = tokenizer.continuation([], drawn).decode(errors="replace")
        texts.append(Text(drawn, content, names.get(int(row[0]))))
    return texts


@dataclass(frozen=True)
class Matched:
    """Where a frontier over temperature has the entropy of real text."""

    temperature: float
    perplexity: float


def matched(frontier: Sequence[Generation], entropy: float) -> Matched | None:
    """Temperature and ln perplexity, interpolated in the entropy between neighbours; None out of range."""
    ordered = sorted(frontier, key=lambda point: point.settings.temperature)
    for low, high in pairwise(ordered):
        ends = low.figures.entropy, high.figures.entropy
        if min(ends) <= entropy <= max(ends) and ends[0] != ends[1]:
            share = (entropy - ends[0]) / (ends[1] - ends[0])

            def between(a: float, b: float, share: float = share) -> float:
                return a + share * (b - a)

            nats = between(low.figures.nats_per_token, high.figures.nats_per_token)
            return Matched(between(low.settings.temperature, high.settings.temperature), math.exp(nats))
    return None
