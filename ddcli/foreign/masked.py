"""Masked language models of transformers. Such a model *is* a denoiser.

Filling masks by what stands around them is all that absorbing noise asks of a network, whatever share of a
text is masked; so its softmax is the belief at masks, and no clock is told.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from ..backbones.pretrained import PretrainedMaskedLM, positions
from ..errors import DdcliError, counted
from ..hub import first_line, quiet
from ..spelling import ForeignTokenizer
from ..tokenizer import read_pretrained
from .source import Parts, Source

LONGEST = (
    512  # tokens read at once, ends included, if a model reads more: text further on tells next to nothing
)
SANE = 10**6  # a tokenizer whose model_max_length is more knows none
PROBE = 7  # tokens
REACHING = ("attn_implementation", "_attn_implementation", "experts_implementation")
EXAMPLE = "answerdotai/ModernBERT-base"


def _config(source: Source, described: Mapping[str, Any]) -> PreTrainedConfig:
    """Its config, of a kind that can be opened. Raises DdcliError for any other, by what it is."""
    kind, architecture = described.get("model_type"), _architecture(described)
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
                f"{source.name} ({architecture}) brings Python code of its own, which ddcli never runs; use "
                "a model of a kind that transformers has built in"
            )
        raise DdcliError(
            f"{source.name} is a model of type {kind!r}, which this version of transformers does not know"
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of whatever its class makes of bad values
        raise DdcliError(f"{source.name}: config.json cannot be used: {first_line(error)}") from None
    what = f"{source.name} is {_a(architecture)}"
    if config.is_encoder_decoder:
        raise DdcliError(
            f"{what}, an encoder-decoder: it writes from left to right what it read elsewhere, and fills no "
            f"masks in a text; use a masked language model such as {EXAMPLE}"
        )
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    is_causal = architecture == causal != MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind)
    is_decoder = getattr(config, "is_decoder", False) or is_causal
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or is_decoder:
        if is_decoder or causal:
            raise DdcliError(
                f"{what}, a causal decoder: it sees only what stands before a token, and cannot fill masks; "
                f"use a masked language model such as {EXAMPLE}, or this one to judge samples "
                "(`ddcli eval RUN --generative`)"
            )
        raise DdcliError(f"{what}, which is no masked language model of text; ddcli cannot sample from it")
    return config


def _architecture(described: Mapping[str, Any]) -> str:
    named = described.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else f"{described.get('model_type')} model"


def _a(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def masked_lm(source: Source, described: Mapping[str, Any], device: torch.device) -> Parts:
    """Anything that transformers opens as AutoModelForMaskedLM.

    described: its config.json. Raises DdcliError for any other model, and for one that is not whole.
    """
    config = _config(source, described)
    tokenizer = _tokenizer(source)
    files = source.weights()
    try:
        with quiet():
            network, report = AutoModelForMaskedLM.from_pretrained(
                source.folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=files[0].suffix == ".safetensors",
                weights_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # broken files raise whatever the parser of their class raises
        raise DdcliError(f"{source.name} cannot be loaded: {first_line(error)}") from None
    if bad := next((name for name, weight in network.state_dict().items() if not _finite(weight)), None):
        raise DdcliError(f"{source.name}: the weights of {bad} are not all numbers; the file is damaged")
    if missing := sorted(report["missing_keys"]):
        raise DdcliError(
            f"{source.name} is no whole {type(network).__name__}: {counted(len(missing), 'weight')} missing "
            f"in {files[0].name}, the first is {missing[0]}; what it says of masks would be chance, so use a "
            "model that was saved with its head"
        )
    network.to(device).eval()
    entries = len(network.get_input_embeddings().weight)
    if tokenizer.vocab_size > entries:
        raise DdcliError(
            f"{source.name}: the tokenizer has {tokenizer.vocab_size:,} tokens, but the network was made for "
            f"{entries:,}"
        )
    opening, closing = tokenizer.ends
    length = _positions(network, config, tokenizer) - len(opening) - len(closing)
    if length < 2:
        raise DdcliError(f"{source.name} reads no more than {length} tokens of text at once; that is too few")
    text = sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.special_ids))
    probe = [*text[: min(PROBE, length - 1)], tokenizer.mask_id]
    try:
        halves = PretrainedMaskedLM(network, opening, closing, tokenizer.pad_id, probe, tokenizer.vocab_size)
        heeds_padding = halves.heeds_padding(probe)
    except Exception as error:  # of networks that ask for more than text
        raise DdcliError(f"{source.name} cannot be asked about text alone: {first_line(error)}") from None
    return Parts(
        halves.eval(),
        tokenizer,
        "absorbing",
        "linear",
        "posterior",
        tokenizer.special_ids,
        length,
        type(network).__name__,
        network.num_parameters(),
        files,
        heeds_padding,
    )


def _finite(weight: torch.Tensor) -> bool:
    return not weight.is_floating_point() or bool(weight.isfinite().all())


def _positions(network: Any, config: PreTrainedConfig, tokenizer: ForeignTokenizer) -> int:
    """Tokens read at once, ends included."""
    limits = [LONGEST, positions(network, getattr(config, "max_position_embeddings", None))]
    most = getattr(tokenizer.hf, "model_max_length", None)
    if most is not None and most < SANE:
        limits.append(int(most))
    return min(limit for limit in limits if limit is not None)


def _tokenizer(source: Source) -> ForeignTokenizer:
    hf = read_pretrained(source.folder, source.name)
    if not hf.mask_token:
        raise DdcliError(f"the tokenizer of {source.name} has no mask token, so there is nothing to fill")
    if hf.mask_token == hf.pad_token:
        raise DdcliError(
            f"the tokenizer of {source.name} pads with its mask token {hf.mask_token}, so gaps and padding "
            "cannot be told apart; give it a pad token of its own"
        )
    tokenizer = ForeignTokenizer(hf)
    tokenizer.check(source.name)
    return tokenizer
