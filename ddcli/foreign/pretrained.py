"""Networks of transformers, read from a folder, tried with their tokenizer, and taken apart in two halves."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ..backbones.pretrained import PretrainedMaskedLM, positions
from ..config import MOST_LAYERS, MOST_TOKENS, MOST_WIDTH
from ..errors import DdcliError, counted, first_line
from ..hub import quiet
from ..spelling import ForeignTokenizer, check_size
from .source import Parts, Source

LONGEST = (
    512  # tokens read at once, ends included, if a model reads more: text further on tells next to nothing
)
SANE = 10**6  # a tokenizer whose model_max_length is more knows none
PROBE = 7  # tokens
SIZES = {"num_hidden_layers": MOST_LAYERS, "hidden_size": MOST_WIDTH, "vocab_size": MOST_TOKENS}
LAYER = re.compile(r"\.\d+\.")  # in the names of weights
REACHING = ("attn_implementation", "_attn_implementation", "experts_implementation")
EXAMPLE = "answerdotai/ModernBERT-base"


@dataclass(frozen=True)
class Pretrained(Parts):
    """Parts whose network can be trained."""

    network: PretrainedMaskedLM
    most: int  # tokens of text that can be read at once, where `length` is if nobody says


class Starter(Protocol):
    """How models of a kind are opened to be trained."""

    def __call__(
        self,
        source: Source,
        described: Mapping[str, Any],
        device: torch.device,
        *,
        ends: bool = True,
        filled: bool = True,
    ) -> Pretrained:
        """described: the config.json. ends: whether the network puts around a text what its tokenizer does;
        records bring their own. filled: with its weights; else they are random, for others to take their
        place.

        Raises DdcliError, naming the source, for what cannot be read or used.
        """


def read_config(source: Source, described: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of a model that transformers knows, from its config.json. Raises DdcliError for any other,
    by what it is, and for an encoder-decoder."""
    kind = described.get("model_type")
    for key in REACHING:
        if "/" in str(described.get(key, "")):
            raise DdcliError(f"{source.name}: config.json sets {key}, which would read code from elsewhere")
    if described.get("transformers_weights") is not None:
        raise DdcliError(f"{source.name}: config.json sets transformers_weights; name it model.safetensors")
    if not isinstance(kind, str):
        raise DdcliError(
            f"{source.name} holds a model, but none that ddcli trained or transformers knows: config.json "
            "says no model_type"
        )
    if kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in described:
            raise DdcliError(
                f"{source.name} ({architecture(described)}) brings Python code of its own, which ddcli never "
                "runs; use a model of a kind that transformers has built in"
            )
        raise DdcliError(
            f"{source.name} is a model of type {kind!r}, which this version of transformers does not know"
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of whatever its class makes of bad values
        raise DdcliError(f"{source.name}: config.json cannot be used: {first_line(error)}") from None
    for key, most in SIZES.items():
        size = getattr(config, key, 1)
        if isinstance(size, int) and not 1 <= size <= most:
            raise DdcliError(f"{source.name}: config.json cannot be used: {key} is {size:,}")
    if config.is_encoder_decoder:
        raise DdcliError(
            f"{what_it_is(source, described)}, an encoder-decoder: it writes from left to right what it read "
            f"elsewhere, and fills no masks in a text; use a masked language model such as {EXAMPLE}"
        )
    return config


def architecture(described: Mapping[str, Any]) -> str:
    """The class that a config.json names, or else its kind."""
    named = described.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else f"{described.get('model_type')} model"


def what_it_is(source: Source, described: Mapping[str, Any]) -> str:
    """How a sentence about a model begins."""
    name = architecture(described)
    return f"{source.name} is {'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def loaded(
    kind: Any,
    source: Source,
    config: PreTrainedConfig,
    *,
    filled: bool,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A network of transformers by its auto class, with its own head.

    filled: as for a `Starter`. Raises DdcliError where its weights are not all there and all numbers.
    """
    return (_filled if filled else _random)(kind, source, config, dtype).eval()


def _filled(kind: Any, source: Source, config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    files = source.weights()
    try:
        with quiet():
            network, report = kind.from_pretrained(
                source.folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=files[0].suffix == ".safetensors",
                weights_only=True,
                ignore_mismatched_sizes=True,  # or else they are told where nobody reads it
                output_loading_info=True,
            )
    except Exception as error:  # broken files raise whatever the parser of their class raises
        raise DdcliError(f"{source.name}: {files[0].name} cannot be loaded: {first_line(error)}") from None
    file = files[0].name
    if other := sorted(report["mismatched_keys"]):
        name, found, asked = other[0]
        raise DdcliError(
            f"{source.name}: {name} in {file} is of shape {[*found]}, but config.json asks for {[*asked]}"
        )
    if bad := next((name for name, weight in network.state_dict().items() if not _finite(weight)), None):
        raise DdcliError(f"{source.name}: the weights of {bad} are not all numbers; the file is damaged")
    if missing := sorted(report["missing_keys"]):
        raise DdcliError(
            f"{source.name} is no whole {type(network).__name__}: {counted(len(missing), 'weight')} missing "
            f"in {file}, the first is {missing[0]}; what it says of masks would be chance, so use a "
            "model that was saved with its head"
        )
    if more := _further_layers(network, report["unexpected_keys"]):
        raise DdcliError(
            f"{source.name}: {file} holds more layers than config.json says, {counted(len(more), 'weight')} "
            f"such as {more[0]}; it would not be the model that was trained"
        )
    return network


def _further_layers(network: Any, unexpected: Iterable[str]) -> list[str]:
    """Of the names of weights that a network has no place for, those of layers like its own. Others may be:
    heads of other uses lie in many a file."""
    own = {LAYER.sub(".N.", name) for name in network.state_dict()}
    return sorted(name for name in unexpected if LAYER.sub(".N.", name) in own)


def _random(kind: Any, source: Source, config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    try:
        with quiet():
            return kind.from_config(config, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # of whatever its class makes of bad values
        raise DdcliError(f"{source.name}: config.json cannot be used: {first_line(error)}") from None


def _finite(weight: torch.Tensor) -> bool:
    return not weight.is_floating_point() or bool(weight.isfinite().all())


def assembled(
    kind: type[PretrainedMaskedLM],
    source: Source,
    network: Any,
    tokenizer: ForeignTokenizer,
    *,
    ends: bool,
    filled: bool,
) -> Pretrained:
    """A network of transformers and its tokenizer, tried together on a few tokens.

    ends, filled: as for a `Starter`. Raises DdcliError where they do not fit each other, or text.
    """
    check_size(tokenizer.vocab_size, len(network.get_input_embeddings().weight), source.name)
    opening, closing = tokenizer.ends if ends else ([], [])
    around = len(opening) + len(closing)
    most = _positions(network, tokenizer) - around
    if most < 2:
        raise DdcliError(f"{source.name} reads no more than {most} tokens of text at once; that is too few")
    text = sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.special_ids))
    probe = [*text[: min(PROBE, most - 1)], tokenizer.mask_id]
    try:
        with quiet():
            halves = kind(network, opening, closing, tokenizer.pad_id, probe, tokenizer.vocab_size)
            heeds_padding = halves.heeds_padding(probe)
    except Exception as error:  # of networks that ask for more than text
        raise DdcliError(f"{source.name} cannot be asked about text alone: {first_line(error)}") from None
    return Pretrained(
        network=halves.eval(),
        tokenizer=tokenizer,
        process="absorbing",
        schedule="linear",
        predicts="posterior",
        excluded=tokenizer.special_ids,
        length=min(most, LONGEST - around),
        architecture=type(network).__name__,
        parameters=network.num_parameters(),
        weights=source.weights() if filled else [],
        heeds_padding=heeds_padding,
        block=0,
        most=most,
    )


def _positions(network: Any, tokenizer: ForeignTokenizer) -> int:
    """Tokens that can be read at once, ends included."""
    limits = [MOST_TOKENS, positions(network, getattr(network.config, "max_position_embeddings", None))]
    most = getattr(tokenizer.hf, "model_max_length", None)
    if most is not None and most < SANE:
        limits.append(int(most))
    return min(limit for limit in limits if limit is not None)
