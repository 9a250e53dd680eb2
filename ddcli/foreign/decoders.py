"""Decoders that others trained, turned into networks that fill masks, for training to start from.

They see all positions (`is_causal = False`, which the masks of transformers 5 heed), get a mask token whose
embedding is the mean of all others, and end a text by the token that ended it before.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from ..backbones.decoder import PretrainedDecoder
from ..errors import DdcliError
from ..hub import quiet
from ..spelling import WriterTokenizer, check_mask
from ..tokenizer import read_pretrained
from .pretrained import Pretrained, assembled, loaded, read_config
from .source import Source

MASK = "<|mask|>"
KINDS = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()


class DecoderTokenizer(WriterTokenizer):
    """A decoder's tokenizer. Its end of text is written where texts are parted, as it was before."""

    @property
    def bos_id(self) -> int:
        """What opens a record."""
        return self.ends[0][0]

    def _find_ends(self) -> tuple[list[int], list[int]]:
        """Before a text what the tokenizer puts there, or else the end of another text, since the first token
        is foretold by something too; and behind it nothing."""
        opening, _ = super()._find_ends()
        return opening or [self.eos_id], []


def decoder(
    source: Source,
    described: Mapping[str, Any],
    device: torch.device,
    *,
    ends: bool = True,
    filled: bool = True,
) -> Pretrained:
    """Anything that transformers opens as AutoModelForCausalLM, and that can be made to look ahead.

    A `Starter`.
    """
    config = read_config(source, described)
    hf = read_pretrained(source.folder, source.name)
    has_mask = bool(hf.mask_token)
    if not has_mask:
        hf.add_special_tokens({"mask_token": MASK})
    check_mask(hf, source.name)
    tokenizer = DecoderTokenizer(hf)
    tokenizer.check(source.name)
    for part in (config, config.get_text_config()):  # of which models with several parts read the second
        part.is_causal = False
        part.use_cache = False
    network = loaded(AutoModelForCausalLM, source, config, filled=filled)
    if not has_mask:
        _give_mask(network, tokenizer.mask_id)
    parts = assembled(PretrainedDecoder, source, network.to(device), tokenizer, ends=ends, filled=filled)
    halves = parts.network
    assert isinstance(halves, PretrainedDecoder)
    with quiet():
        looks_ahead = halves.looks_ahead()
    if not looks_ahead:
        raise DdcliError(
            f"{source.name} is a {parts.architecture}, which stays causal, at least as transformers has it: "
            "what it says of a token does not depend on the text behind it, so it cannot fill masks; start "
            "from one that can look ahead, such as Llama or Qwen"
        )
    return parts


@torch.no_grad()
def _give_mask(network: Any, mask_id: int) -> None:
    """An embedding for the mask: the mean of all others, about which the network knows least to do wrong."""
    known = len(network.get_input_embeddings().weight)
    if mask_id >= known:
        network.resize_token_embeddings(mask_id + 1, mean_resizing=False)
    for part in (network.get_input_embeddings(), network.get_output_embeddings()):
        if part is not None:
            part.weight[mask_id] = part.weight[: min(known, mask_id)].mean(0)
