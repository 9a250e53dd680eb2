"""The mask of a pass over a noisy and a clean copy, as FlexAttention wants it on a GPU."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


@torch.compiler.disable  # made once for each shape, outside of what is compiled
@lru_cache(maxsize=8)
def noisy_and_clean_tiles(n: int, block: int, window: int, device: torch.device) -> BlockMask:
    """`transformer.noisy_and_clean` as tiles, of which those that are empty are never computed."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        behind = query % n // block - key % n // block
        noisy, noise_seen = query < n, key < n
        before = (behind >= (noisy & ~noise_seen).int()) & (behind < window)
        return torch.where(noise_seen, noisy & (behind == 0), before)

    return create_block_mask(sees, None, None, 2 * n, 2 * n, device=device)
