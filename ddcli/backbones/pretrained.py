"""Any masked language model of transformers as the network of a denoiser.

Legend: B batch, L length, D width, N positions asked for, V vocabulary. Such models were trained on texts
that stand between two special tokens, mostly [CLS] and [SEP]; these are put around every sequence here, and
taken off again, so that nobody else need know of them.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from ..device import out_of_memory
from ..errors import DdcliError
from ..files import PARTIAL, whole_file
from ..hub import quiet
from ..lora import Lora
from ..weights import with_weights
from .adapters import Adapters
from .ends import Ends
from .network import Network, Shape

ONE_FILE = 10**6  # gigabytes that a file of weights may have
CLOSE = 1e-4  # by which two ways to the same logits may differ, of the largest of them


class Reached(NamedTuple):
    """The names of the weights that logits are made with from hidden states, and of all they depend on."""

    by_head: list[str]
    used: frozenset[str]


class PretrainedMaskedLM(Network):
    """A masked language model in two halves: the trunk is its base model, the head all that comes behind.

    Where a model does not come apart like that, hidden states are the logits of all positions.
    """

    shift = 0  # by how many places what is said of a position stands before it
    loader = "transformers.AutoModelForMaskedLM"
    adapters: Adapters | None = None

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
        self.probe = list(probe)

    def trunk(
        self, input_ids: Tensor, clock: Tensor | None = None, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        """Hidden states (B, L, D) of tokens (B, L). The clock is not told: masks show how far noise has run.

        `valid` (B, L) bool: False at padding, which nobody attends to.
        """
        ids, is_text = self.ends.around(input_ids, valid)
        seen = self.attention(is_text, **told)
        if self.in_halves:
            found = self.network.base_model(input_ids=ids, attention_mask=seen)[0]
        else:
            found = self.network(input_ids=ids, attention_mask=seen).logits[..., : self.vocab_size]
        if self.shift:  # nothing is said of the first one, which is given then
            found = torch.cat([found[:, : self.shift], found[:, : -self.shift]], 1)
        return self.ends.taken_off(found)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) of hidden states (N, D)."""
        if not self.in_halves:
            return hidden
        with self._answering(hidden[None]):
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            return self.network(input_ids=ids).logits[0, :, : self.vocab_size]

    # -- to be trained and saved -----------------------------------------------------------------------

    @property
    def config(self) -> Any:
        return self.network.config

    @property
    def shape(self) -> Shape:
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        return Shape(*(getattr(self.config, name, 1) for name in names))

    @property
    def layers(self) -> Sequence[nn.Module]:
        return [module for module in self.network.modules() if isinstance(module, GradientCheckpointingLayer)]

    def head_weights(self) -> list[Tensor]:
        by_name = dict(self.named_parameters())  # asked anew, since sharing weights out replaces them
        return [by_name[name] for name in self._reached.by_head if by_name[name].requires_grad]

    def recompute(self) -> None:
        if not self.layers:
            kind = type(self.network).__name__
            raise DdcliError(f"a {kind} has no layers to compute again; leave train.recompute out")
        for layer in self.layers:
            layer.forward = partial(
                checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=self.adapters is not None
            )

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        own = {name.removeprefix("network."): weight for name, weight in weights.items()}
        whole = self.adapters.merged(own) if self.adapters else with_weights(self.network, own)
        if self.adapters:
            self.adapters.save(folder, self.config.diffusion["beside"]["model"], own)
        with TemporaryDirectory(prefix=".model.", suffix=PARTIAL, dir=folder) as beside, quiet():
            whole.save_pretrained(beside, max_shard_size=f"{ONE_FILE}GB")
            for name in ("config.json", "model.safetensors"):
                with whole_file(folder / name) as path:
                    os.replace(Path(beside, name), path)

    def freeze_unused(self) -> None:
        """Keep weights as they are that no logits depend on, and that would never have a gradient."""
        for name, weight in self.named_parameters():
            weight.requires_grad_(weight.requires_grad and name in self._reached.used)

    def adapt(self, lora: Lora, seed: int) -> None:
        """Train adapters in place of the weights. Raises DdcliError as `Adapters`."""
        before = {id(weight) for weight in (*self.parameters(), *self.buffers())}
        self.adapters = Adapters(self.network, lora, seed)
        named = (*self.named_parameters(), *self.named_buffers())
        self.given = frozenset(name for name, weight in named if id(weight) in before)

    def merge(self) -> None:
        """Add adapters to the weights, as which they then are."""
        assert self.adapters is not None
        self.network, self.adapters, self.given = self.adapters.merge(), None, frozenset()

    def dropping(self, seed: int) -> AbstractContextManager[object]:
        return self.adapters.dropping(seed) if self.adapters else nullcontext()

    # -- how it is asked -------------------------------------------------------------------------------

    @cached_property
    def _reached(self) -> "Reached":
        by_name = {name: weight for name, weight in self.named_parameters() if weight.requires_grad}
        ids = torch.tensor([self.probe], device=self.network.device)

        def found_by(logits: Tensor) -> list[str]:
            if not logits.requires_grad:
                return []
            slopes = torch.autograd.grad(logits.square().sum(), list(by_name.values()), allow_unused=True)
            return [name for name, slope in zip(by_name, slopes, strict=True) if slope is not None]

        with torch.enable_grad():
            hidden = self.trunk(ids)[0]
            used = found_by(self.head(hidden))
            by_head = found_by(self.head(hidden.detach())) if self.in_halves else []
        return Reached(by_head, frozenset(used))

    def attention(self, is_text: Tensor, **told: Tensor) -> Tensor:
        """The attention mask, as the network takes it, where `is_text` (B, L + ends) bool is no padding."""
        return is_text.long()

    def can_anneal(self, length: int) -> bool:
        """Whether texts of `length` can be looked at by a mask that is opened step by step."""
        return False

    @torch.no_grad()
    def heeds_padding(self, probe: Sequence[int]) -> bool:
        """Whether hidden states of text are the same beside padding, which not every model leaves out."""
        ids = torch.tensor([list(probe)], device=self.network.device)
        valid = torch.ones_like(ids, dtype=torch.bool)
        valid[:, -2:] = False
        padded, alone = self.trunk(ids, valid=valid)[:, :-2], self.trunk(ids[:, :-2])
        return bool((padded - alone).abs().max() <= CLOSE * alone.abs().max())

    @torch.no_grad()
    def computes_in(self, dtype: torch.dtype) -> bool:
        ids = torch.tensor([self.probe], device=self.network.device)
        valid = torch.ones_like(ids, dtype=torch.bool)
        valid[:, -2:] = False  # what hides padding may be a number that is too large
        try:
            with quiet(), torch.autocast(ids.device.type, dtype, enabled=dtype != torch.float32):
                return not self.head(self.trunk(ids, valid=valid)[0, :-2]).isnan().any()
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            return False

    @contextmanager
    def _answering(self, hidden: Tensor) -> Iterator[None]:
        """The base model answers with these hidden states (1, N, D), whatever it is asked."""
        base = self.network.base_model
        answer = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden)
        base.forward = lambda *_, **__: answer
        try:
            yield
        finally:
            del base.forward

    @torch.no_grad()
    def _comes_apart(self, probe: Sequence[int]) -> bool:
        """Whether the halves, one after the other, on every second row, give what the whole model gives."""
        ids, is_text = self.ends.around(torch.tensor([list(probe)], device=self.network.device), None)
        seen = self.attention(is_text)
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
