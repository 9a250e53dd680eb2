"""Runs whose network others made: a model folder of theirs, with a `diffusion` section in its config.json.

Plain transformers opens such a folder by its class, and so does this; the section says the rest.
"""

from typing import Any

import torch

from .about import About, Excerpt, excerpt
from .decoders import TRAINABLE
from .errors import DdcliError
from .foreign import Parts, Source, described, open_network


class _Described(Excerpt):
    diffusion: About


def open_adapted(
    source: Source, device: torch.device, *, filled: bool = True
) -> tuple[Parts, dict[str, Any]]:
    """What the model of a run is made of, and its `diffusion` section.

    filled: as for an `Opener`. Raises DdcliError where the parts do not fit together.
    """
    path = source.folder / "config.json"
    about = excerpt(_Described, described(source), path).diffusion
    about.check(path)
    parts = open_network(source, device, TRAINABLE, ends=not about.record_lengths, filled=filled)
    if about.process != parts.process:
        raise DdcliError(f"{path} is damaged: a {parts.architecture} serves {parts.process} noise alone")
    if about.length > parts.most:
        raise DdcliError(
            f"{path} is damaged: a text of {about.length:,} tokens, of which the network reads {parts.most:,}"
        )
    if strangers := about.labels.keys() - parts.tokenizer.label_ids:
        raise DdcliError(f"{source.name}: the tokenizer has no token for the label {min(strangers)!r}")
    return parts, about.model_dump()
