"""Checkpoints of the research that trained `backbones.ddit`, opened by what `families` says of them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import torch
from pydantic import ValidationError
from torch import Tensor

from ..backbones.ddit import BlockDDiT, DDiT
from ..backbones.ends import Ends
from ..backbones.transformer import rotary
from ..errors import DdcliError, shorten
from ..weights import count
from .families import Described, Family
from .pretrained import EXAMPLE
from .reading import Agrees, read_weights
from .researched import research_tokenizer
from .source import Parts, Source

CLOSE = 1e-3  # by which a saved table of rotations may differ from ours: they were computed in other orders


def opener(family: Family) -> Callable[[Source, Mapping[str, Any], torch.device], Parts]:
    """How a checkpoint of a codebase is opened; see `open_ddit`."""
    return partial(open_ddit, family)


def open_ddit(family: Family, source: Source, described: Mapping[str, Any], device: torch.device) -> Parts:
    """A checkpoint of a codebase, by its config.json. Raises DdcliError where it is not whole, or not as that
    codebase writes it."""
    config = _read(family, described, source.name)
    meaning, shape = config.meaning, config.shape
    tokenizer = research_tokenizer(source, shape.vocab_size)
    ends = Ends(*meaning.ends(tokenizer), tokenizer.pad_id)
    block, files = config.block, source.weights()
    with torch.device("meta"):  # so that no memory is taken before the files are known to hold as much
        empty = (
            BlockDDiT(shape, block, config.length // block, tokenizer.pad_id)
            if block
            else DDiT(shape, meaning.told, ends)
        )
    known = {family.prefix + name: agrees for name, agrees in _tables(empty.size).items()}
    known |= dict.fromkeys(family.beside, _one_number)
    network = read_weights(empty, files, source.name, prefix=family.prefix, known=known)
    return Parts(
        network=network.to(device),
        tokenizer=tokenizer,
        process=meaning.process,
        schedule=meaning.schedule,
        predicts=meaning.predicts,
        excluded=(tokenizer.mask_id,) if meaning.masks else (),
        length=config.length - (0 if block else len(ends)),
        architecture=f"{family.name} ({type(network).__name__})",
        parameters=count(network),
        weights=files,
        heeds_padding=True,
        block=block,
    )


def no_start(family: Family) -> Callable[..., NoReturn]:
    """How training starts from a checkpoint of a codebase: it does not."""

    def refuse(source: Source, *_: Any, **__: Any) -> NoReturn:
        raise DdcliError(
            f"{source.name} is a checkpoint of {family.name}, which can be sampled, but training cannot "
            f"start from it; start from a masked language model such as {EXAMPLE}, or a decoder"
        )

    return refuse


def _read(family: Family, described: Mapping[str, Any], name: str) -> Described:
    try:
        found = family.config.model_validate(described)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        said = "" if first["type"] == "missing" else f" {shorten(str(first['input']), 40)}"
        raise DdcliError(
            f"{name}: config.json is not as {family.name} checkpoints have it: {key}{said}: "
            f"{first['msg'].lower()}"
        ) from None
    shape = found.shape
    if shape.width % (2 * shape.heads):
        raise DdcliError(
            f"{name}: config.json is damaged: width {shape.width} does not fit {shape.heads} heads"
        )
    if found.block and found.length % found.block:
        raise DdcliError(
            f"{name}: config.json is damaged: blocks of {found.block} do not fill {found.length} tokens"
        )
    return found


def _tables(size: int) -> dict[str, Agrees]:
    """The rotations of D / H = `size` numbers, which some codebases keep beside the weights."""

    def cosines(kept: Tensor) -> bool:  # (1, L, 3, 1, size)
        cos, _ = rotary(torch.arange(kept.shape[1]), size)
        return _close(kept[0, :, 0, 0, : size // 2], cos[:, 0, : size // 2])

    def sines(kept: Tensor) -> bool:
        _, sin = rotary(torch.arange(kept.shape[1]), size)
        return _close(kept[0, :, 0, 0, : size // 2], sin[:, 0, size // 2 :])

    def frequencies(kept: Tensor) -> bool:
        _, sin = rotary(torch.ones(1), size)
        return _close(kept.sin(), sin[0, 0, size // 2 :])

    return {
        "rotary_emb.inv_freq": frequencies,
        "rotary_emb.cos_cached": cosines,
        "rotary_emb.sin_cached": sines,
    }


def _one_number(kept: Tensor) -> bool:
    return kept.numel() == 1


def _close(kept: Tensor, ours: Tensor) -> bool:
    return kept.shape == ours.shape and bool((kept.float() - ours).abs().max() < CLOSE)
