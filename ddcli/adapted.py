"""Runs whose network others made: a model folder of theirs, with a `diffusion` section in its config.json.

Plain transformers opens such a folder by its class, and so does this; the section says the rest.
"""

from typing import Any

import torch

from .about import About, Excerpt, excerpt
from .errors import DdcliError
from .foreign import Pretrained, Source, open_start


class _Described(Excerpt):
    diffusion: About


def open_adapted(
    source: Source, device: torch.device, *, filled: bool = True
) -> tuple[Pretrained, dict[str, Any]]:
    """What the model of a run is made of, and its `diffusion` section.

    filled: as for a `Starter`. Raises DdcliError where the parts do not fit together.
    """
    path = source.folder / "config.json"
    about = excerpt(_Described, source.described(), path).diffusion
    about.check(path)
    parts = open_start(source, device, ends=not about.record_lengths, filled=filled)
    if about.process != parts.process:
        raise DdcliError(f"{path} is damaged: a {parts.architecture} serves {parts.process} noise alone")
    if about.length > parts.most:
        raise DdcliError(
            f"{path} is damaged: a text of {about.length:,} tokens, of which the network reads {parts.most:,}"
        )
    if strangers := about.labels.keys() - parts.tokenizer.label_ids:
        raise DdcliError(f"{source.name}: the tokenizer has no token for the label {min(strangers)!r}")
    return parts, about.model_dump()
