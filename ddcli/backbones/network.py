"""What training asks of a network, whoever made it. Legend: L length, D width, N positions, V vocabulary."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Shape(NamedTuple):
    """How large a network is, as far as memory depends on it."""

    width: int
    layers: int
    heads: int


class Network(nn.Module, ABC):
    """A backbone that can be trained: a trunk, a head, and what is known of their weights."""

    config: Any  # of transformers, with a `diffusion` section
    trunk: Any  # as a `denoiser.Backbone` has it
    head: Any
    loader: str  # the class that reads its folder
    in_halves: bool = True  # whether logits are made apart from hidden states, and so of some rows at a time
    given: frozenset[str] = frozenset()  # the names of weights beside which adapters are trained

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """As memory is reckoned by."""

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The layers of the trunk: what several processes share out, and whose matrices decay."""

    @abstractmethod
    def head_weights(self) -> list[Tensor]:
        """The weights to be trained that logits are made with from hidden states."""

    @abstractmethod
    def recompute(self) -> None:
        """Compute what is inside of layers again on the way back: less memory, a third slower.

        Raises DdcliError where that cannot be done.
        """

    def stacked(self) -> Mapping[str, int]:
        """Of how many matrices a weight is made, one on top of the other, by name; of one if not here."""
        return {}

    def dropping(self, seed: int) -> AbstractContextManager[object]:
        """With dropout where a network has any, which follows from the seed."""
        return nullcontext()

    def computes_in(self, dtype: torch.dtype) -> bool:
        """Whether it can, as fine as its matrix products are to be."""
        return True

    @abstractmethod
    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write config.json and model.safetensors, of weights by the names of `weights_of`, such that plain
        transformers reads them. Each file is whole or not there."""
