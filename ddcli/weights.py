"""The weights of a network, each of them once, whatever it is tied to."""

from collections.abc import Mapping
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters, and the buffers of numbers that are saved, by name; of tied ones, by the first of theirs.

    So nothing is averaged or written twice, which safetensors would refuse. Of a network with adapters these
    alone: the weights beside them (`Network.given`) stay what they were.
    """
    given: frozenset[str] = getattr(network, "given", frozenset())
    saved = network.state_dict().keys()
    buffers = {name: value for name, value in network.named_buffers() if name in saved}
    found = dict(network.named_parameters()) | {k: v for k, v in buffers.items() if v.is_floating_point()}
    return {name: weight.detach() for name, weight in found.items() if name not in given}


@torch.no_grad()
def fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights, by the names of `weights_of`, into a network. Raises KeyError for one that is missing."""
    for name, weight in weights_of(network).items():
        weight.copy_(weights[name])


def with_weights(network: N, weights: Mapping[str, Tensor]) -> N:
    """A copy of a network that has other weights, by the names of `weights_of`, as they are, tied as its own.

    No memory is taken for its own ones.
    """
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    buffers = {name for name, _ in network.named_buffers()}
    new = {k: w if k in buffers else nn.Parameter(w, own[k].requires_grad) for k, w in weights.items()}
    return deepcopy(network, {id(own[name]): weight for name, weight in new.items()})


def count(network: nn.Module) -> int:
    """How many numbers its parameters are."""
    return sum(weight.numel() for weight in network.parameters())
