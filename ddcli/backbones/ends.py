"""The special tokens that stand around every text a network reads, which nobody else need know of.

Legend: B batch, L length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ends:
    """What opens and closes a text, as in the training of a network that others trained."""

    opening: Sequence[int]
    closing: Sequence[int]
    pad_id: int

    def __len__(self) -> int:
        return len(self.opening) + len(self.closing)

    def around(self, input_ids: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ids (B, L + ends) int64 of each sequence between its ends, and where they are, bool.

        input_ids: (B, L). valid: (B, L) bool, False at padding, which stands behind; None: there is none.
        """
        count, length = input_ids.shape
        start, more = len(self.opening), len(self.closing)
        ids = input_ids.new_full((count, start + length + more), self.pad_id)
        ids[:, :start] = input_ids.new_tensor(self.opening)
        sizes = valid.sum(-1) if valid is not None else input_ids.new_full((count,), length)
        ids[:, start : start + length] = (
            input_ids if valid is None else input_ids.masked_fill(~valid, self.pad_id)
        )
        end = start + sizes[:, None] + torch.arange(more, device=ids.device)
        ids.scatter_(1, end, input_ids.new_tensor(self.closing).expand(count, -1))
        seen = torch.arange(ids.shape[1], device=ids.device) < start + sizes[:, None] + more
        return ids, seen

    def taken_off(self, hidden: Tensor) -> Tensor:
        """(B, L, ...) of the text itself, of what was found for (B, L + ends, ...)."""
        return hidden[:, len(self.opening) : hidden.shape[1] - len(self.closing)]
