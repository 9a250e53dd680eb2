"""Any masked language model of transformers as the network of a denoiser.

Legend: B batch, L length, D width, N positions asked for, V vocabulary. Such models were trained on texts
that stand between two special tokens, mostly [CLS] and [SEP]; these are put around every sequence here, and
taken off again, so that nobody else need know of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .ends import Ends

CLOSE = 1e-4  # by which two ways to the same logits may differ, of the largest of them


class PretrainedMaskedLM(nn.Module):
    """A masked language model in two halves: the trunk is its base model, the head all that comes behind.

    Where a model does not come apart like that, hidden states are the logits of all positions.
    """

    def __init__(
        self,
        network: Any,
        opening: Sequence[int],
        closing: Sequence[int],
        pad_id: int,
        probe: Sequence[int],
        vocab_size: int,
    ) -> None:
        """opening, closing: what stands around every text. probe: some tokens of text to try the halves on.

        vocab_size: V; logits of ids beyond it, with which vocabularies are padded, are left out.
        """
        super().__init__()
        self.network = network
        self.ends = Ends(opening, closing, pad_id)
        self.vocab_size = vocab_size
        self.in_halves = network.base_model is not network and self._comes_apart(probe)

    def trunk(
        self, input_ids: Tensor, clock: Tensor | None = None, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        """Hidden states (B, L, D) of tokens (B, L). The clock is not told: masks show how far noise has run.

        `valid` (B, L) bool: False at padding, which nobody attends to.
        """
        ids, seen = self._between_ends(input_ids, valid)
        if self.in_halves:
            found = self.network.base_model(input_ids=ids, attention_mask=seen)[0]
        else:
            found = self.network(input_ids=ids, attention_mask=seen).logits[..., : self.vocab_size]
        return self.ends.taken_off(found)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) of hidden states (N, D)."""
        if not self.in_halves:
            return hidden
        with self._answering(hidden[None]):
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            return self.network(input_ids=ids).logits[0, :, : self.vocab_size]

    def _between_ends(self, input_ids: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ids and attention mask, (B, L + ends) int64: each sequence with what opens and closes a text."""
        ids, seen = self.ends.around(input_ids, valid)
        return ids, seen.long()

    @torch.no_grad()
    def heeds_padding(self, probe: Sequence[int]) -> bool:
        """Whether hidden states of text are the same beside padding, which not every model leaves out."""
        ids = torch.tensor([list(probe)], device=self.network.device)
        valid = torch.ones_like(ids, dtype=torch.bool)
        valid[:, -2:] = False
        padded, alone = self.trunk(ids, valid=valid)[:, :-2], self.trunk(ids[:, :-2])
        return bool((padded - alone).abs().max() <= CLOSE * alone.abs().max())

    @contextmanager
    def _answering(self, hidden: Tensor) -> Iterator[None]:
        """The base model answers with these hidden states (1, N, D), whatever it is asked."""
        base = self.network.base_model
        answer = BaseModelOutputWithPooling(last_hidden_state=hidden)
        base.forward = lambda *_, **__: answer
        try:
            yield
        finally:
            del base.forward

    @torch.no_grad()
    def _comes_apart(self, probe: Sequence[int]) -> bool:
        """Whether the halves, one after the other, on every second row, give what the whole model gives."""
        ids, seen = self._between_ends(torch.tensor([list(probe)], device=self.network.device), None)
        self.in_halves = True
        try:
            whole = self.network(input_ids=ids, attention_mask=seen).logits[0, ::2, : self.vocab_size]
            halves = self.head(self.network.base_model(input_ids=ids, attention_mask=seen)[0][0, ::2])
        except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError):
            return False  # what comes behind asks for more than hidden states
        if halves.shape != whole.shape:
            return False
        return bool((halves - whole).abs().max() <= CLOSE * whole.abs().max())


def positions(network: nn.Module, most: int | None) -> int | None:
    """How many tokens a network reads at once; None where nothing limits them.

    most: what its config says. Tables of positions may begin behind a padding index, as RoBERTa's does: of
    514 positions 512 are of use.
    """
    limits = [most] if most is not None and most > 0 else []
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - first)
    return min(limits, default=None)
