"""Masked language models of transformers. Such a model *is* a denoiser.

Filling masks by what stands around them is all that absorbing noise asks of a network, whatever share of a
text is masked; so its softmax is the belief at masks, and no clock is told.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from ..backbones.pretrained import PretrainedMaskedLM
from ..errors import DdcliError
from ..spelling import ForeignTokenizer, check_mask
from ..tokenizer import read_pretrained
from .pretrained import EXAMPLE, Pretrained, architecture, assembled, loaded, read_config, what_it_is
from .source import Source


def masked_lm(
    source: Source,
    described: Mapping[str, Any],
    device: torch.device,
    *,
    ends: bool = True,
    filled: bool = True,
) -> Pretrained:
    """Anything that transformers opens as AutoModelForMaskedLM.

    described: its config.json. ends, filled: as for a `Starter`. Raises DdcliError for any other model, and
    for one that is not whole.
    """
    config = read_config(source, described)
    _refuse_others(source, described, config)
    tokenizer = _tokenizer(source)
    network = loaded(AutoModelForMaskedLM, source, config, filled=filled).to(device)
    return assembled(PretrainedMaskedLM, source, network, tokenizer, ends=ends, filled=filled)


def _refuse_others(source: Source, described: Mapping[str, Any], config: PreTrainedConfig) -> None:
    """DdcliError for a model that is no masked language model, by what it is."""
    kind, what = described["model_type"], what_it_is(source, described)
    masked = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind)
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    is_decoder = getattr(config, "is_decoder", False) or architecture(described) == causal != masked
    if is_decoder or (causal and not masked):
        train = "train it to (`ddcli train --from`), " if causal and not masked else ""
        raise DdcliError(
            f"{what}, a causal decoder: it sees only what stands before a token, and cannot fill masks; "
            f"{train}use a masked language model such as {EXAMPLE}, or this one to judge samples "
            "(`ddcli eval RUN --generative`)"
        )
    if not masked:
        raise DdcliError(f"{what}, which is no masked language model of text; ddcli cannot sample from it")


def _tokenizer(source: Source) -> ForeignTokenizer:
    hf = read_pretrained(source.folder, source.name)
    check_mask(hf, source.name)
    tokenizer = ForeignTokenizer(hf)
    tokenizer.check(source.name)
    return tokenizer
