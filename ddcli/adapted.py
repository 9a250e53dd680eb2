"""Runs whose network others made: a model folder of theirs, with a `diffusion` section in its config.json.

Plain transformers opens such a folder by its class, and so does this; the section says the rest.
"""

from typing import TYPE_CHECKING

from .about import About, Excerpt, excerpt
from .errors import DdcliError
from .foreign.source import Source

if TYPE_CHECKING:
    from .foreign.pretrained import Pretrained


class _Described(Excerpt):
    diffusion: About


def about_adapted(source: Source) -> About:
    """The `diffusion` section of such a run. Raises DdcliError where it is damaged."""
    path = source.folder / "config.json"
    about = excerpt(_Described, source.described(), path).diffusion
    about.check(path)
    return about


def check_adapted(parts: "Pretrained", about: About, source: Source) -> None:
    """DdcliError where what a run is made of does not fit together."""
    path = source.folder / "config.json"
    if about.process != parts.process:
        raise DdcliError(f"{path} is damaged: a {parts.architecture} serves {parts.process} noise alone")
    if about.length > parts.most:
        raise DdcliError(
            f"{path} is damaged: a text of {about.length:,} tokens, of which the network reads {parts.most:,}"
        )
    if strangers := about.labels.keys() - parts.tokenizer.label_ids:
        raise DdcliError(f"{source.name}: the tokenizer has no token for the label {min(strangers)!r}")
