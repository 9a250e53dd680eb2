"""Models that others trained, opened as text models, as writers alone, or for training to start from.

How models of a kind are opened is a line in `OPENERS`, in `WRITERS`, or for training in `STARTERS`, by the
`model_type` of their config.json, or where there is none by the kind that `LAYOUTS` gives to what the file
holds.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch

from ..backbones.network import Network
from ..denoiser import Batched, NetworkDenoiser, OneByOne, find_head
from ..device import engine_of, in_reach
from ..errors import DdcliError
from ..model import Origin
from ..process import Vocabulary, make_process
from ..sampling import Writer
from ..textmodel import TextModel
from . import decoders
from .ddit import no_start, opener
from .diffusion_gemma import diffusion_gemma
from .families import FAMILIES
from .masked import masked_lm
from .pretrained import Pretrained, Starter
from .source import Parts, Source

Opener = Callable[[Source, Mapping[str, Any], torch.device], Parts]


def only_writes(source: Source, *_: Any, **__: Any) -> NoReturn:
    raise DdcliError(
        f"{source.name} writes text by a program of its own, and tells nobody what it believes; only "
        "`ddcli sample` takes it"
    )


# what does nothing else, by kind
WRITERS: dict[str, Callable[[Source, Mapping[str, Any], torch.device, torch.dtype], Writer]] = {
    "diffusion_gemma": diffusion_gemma
}

# by kind; any other is a masked language model, or refused as none
OPENERS: dict[str, Opener] = {kind: opener(family) for kind, family in FAMILIES.items()}
OPENERS |= dict.fromkeys(WRITERS, only_writes)
STARTERS: dict[str, Starter] = {
    **dict.fromkeys(WRITERS, only_writes),
    **{kind: no_start(family) for kind, family in FAMILIES.items()},
    **dict.fromkeys(decoders.KINDS, decoders.decoder),
}

DECODERS = decoders.KINDS  # by model_type

# sections of a config.json that says no model_type
LAYOUTS: dict[frozenset[str], str] = {frozenset({"graph", "noise", "model", "tokens"}): "sedd"}


def open_foreign(source: Source, device: torch.device, dtype: torch.dtype, asked: str) -> TextModel:
    """A text model from a folder or hub name of a model that ddcli did not train.

    dtype: of its matrix products, as picked by what was `asked` for.

    Raises DdcliError for a model of a kind that is no denoiser, and one that cannot be read without running
    code of its own.
    """
    described = _flat(source.described())
    parts = OPENERS.get(_kind(described), masked_lm)(source, described, device)
    if isinstance(parts.network, Network):
        dtype = in_reach(dtype, asked, parts.network.computes_in, source.name)
    tokenizer = parts.tokenizer
    vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, parts.excluded)
    process = make_process(parts.process, parts.schedule, vocabulary)
    plain = NetworkDenoiser(parts.network, process, find_head(parts.predicts, process), dtype)
    return TextModel(
        denoiser=OneByOne(plain) if dtype == torch.float32 or not parts.heeds_padding else Batched(plain),
        process=process,
        tokenizer=tokenizer,
        length=parts.length,
        device=engine_of(device),
        plain=plain,
        block=parts.block,
        opened=parts.block > 0,
        origin=Origin(
            source.name,
            parts.architecture,
            parts.parameters,
            parts.process,
            parts.schedule,
            (source.folder / "config.json", *parts.weights),
        ),
    )


def open_writer(source: Source, device: torch.device, dtype: torch.dtype, asked: str) -> Writer:
    """The same, or a model that does nothing but write."""
    described = _flat(source.described())
    if writer := WRITERS.get(_kind(described)):
        return writer(source, described, device, dtype)
    return open_foreign(source, device, dtype, asked)


def open_start(source: Source, device: torch.device, *, ends: bool = True, filled: bool = True) -> Pretrained:
    """A network that can be trained, and what belongs to it. Arguments: those of a `Starter`.

    Raises DdcliError as `open_foreign`, and for a model that can be sampled but not trained.
    """
    described = _flat(source.described())
    return STARTERS.get(_kind(described), masked_lm)(source, described, device, ends=ends, filled=filled)


def _flat(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """What newer versions of the hub's client put one deeper, for models that are none of transformers'."""
    nested = described.get("config")
    return nested if isinstance(nested, dict) and "model_type" not in described else described


def _kind(described: Mapping[str, Any]) -> str:
    """The `model_type`, or what takes its place; "" where nothing does."""
    if isinstance(kind := described.get("model_type"), str):
        return kind.lower()
    return next((kind for sections, kind in LAYOUTS.items() if sections <= described.keys()), "")
