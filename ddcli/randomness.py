"""Random numbers: one stream per sequence, so that no sequence depends on its neighbours in a batch."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LOG_ZERO = -1e5  # log of an impossible thing: exp() is 0, yet sums and gradients stay finite


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class Streams:
    """One random stream per sequence of a batch.

    Numbers are drawn on the CPU in float64, so a seed means the same text on every device, and so that
    inverse-CDF draws see a vocabulary's whole tail.
    """

    def __init__(self, seeds: Sequence[int], lengths: Sequence[int] | None = None) -> None:
        # not torch's CPU generator, which keeps 32 bits of a seed: among 100,000 samples two would be alike
        self._generators = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
        self._lengths = lengths

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float64 in [0, 1), row b from stream b.

        Where the sequences have `lengths` of their own, stream b is asked for lengths[b] numbers in the last
        dimension, whatever the padding of the batch, and the rest of the row is 0.
        """
        drawn = np.zeros((len(self._generators), *shape))
        for b, generator in enumerate(self._generators):
            if self._lengths is None:
                drawn[b] = generator.random(shape)
            else:
                size = self._lengths[b]
                drawn[b, ..., :size] = generator.random((*shape[:-1], size))
        return torch.from_numpy(drawn)


def categorical(log_p: Tensor, u: Tensor) -> Tensor:
    """Draw one token per row by inverse CDF in float64: log_p (..., V) in nats, u (...) in [0, 1) -> (...).

    Rows need not be normalised. A token of probability 0 is never drawn.
    """
    return inverse_cdf(log_p.double().exp().cumsum(-1), u[..., None].to(log_p.device))[..., 0]


def inverse_cdf(cdf: Tensor, u: Tensor) -> Tensor:
    """The first state whose cumulative weight exceeds u times the total: cdf (V,) or (..., V), u (..., n).

    With a cdf of one dimension u may have any shape. A state of weight 0 is never drawn.
    """
    total = cdf[..., -1:]
    below_total = total * (1 - 2**-53)  # u * total may round up to the total itself
    target = torch.minimum(u.to(cdf) * total, below_total)
    return torch.searchsorted(cdf, target, right=True)
