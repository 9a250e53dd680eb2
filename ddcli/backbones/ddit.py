"""The network that most research on text diffusion trained: a transformer that is told how noisy its text is.

SEDD (arXiv:2310.16834) made it from DiT (arXiv:2212.09748), and MDLM (arXiv:2406.07524), UDLM
(arXiv:2412.10193), Duo (arXiv:2506.10892), GIDD (arXiv:2503.04482) and BD3-LM (arXiv:2503.09573) kept it:
rotary positions, norms with no bias, a GELU, and scales, shifts and gates of each layer from one number for
the sequence. Modules bear the names that the weights have in files, so that nothing is renamed. Legend: B
batch, L length, D width, H heads, C numbers that a layer is told by, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import engine_of
from .ends import Ends
from .transformer import (
    Bias,
    KeysValues,
    Rotation,
    attend,
    bias_of,
    in_blocks,
    noisy_and_clean,
    rotate,
    seen_with_past,
    table_of_turns,
)

FREQUENCIES = 256  # sines and cosines by which the network is told its number
SLOWEST = 10_000.0
HIDDEN = 4  # times the width, between the two halves of an MLP

Told = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DDiTShape:
    """Its sizes. width: D, a multiple of twice the heads. told: C."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    told: int


def untold(clock: Tensor) -> Tensor:
    """What a network is told that was trained without time conditioning: 0, at any clock (B,)."""
    return torch.zeros_like(clock)


class DDiT(nn.Module):
    """A trunk, which ends with the last norm and its modulation, and a head, which is one matrix."""

    def __init__(self, shape: DDiTShape, told: Told, ends: Ends) -> None:
        """told: from clocks (B,) float64, in [0, 1], to the numbers (B,) that the network is told."""
        super().__init__()
        self.told = told
        self.ends = ends
        self.size = shape.width // shape.heads
        self.vocab_embed = Embedding(shape.vocab_size, shape.width)
        self.sigma_map = NumberMap(shape.told)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_layer = OutputLayer(shape)

    def trunk(self, input_ids: Tensor, clock: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D) of tokens (B, L) at clocks (B, L), by default pure noise.

        `valid` (B, L) bool: False at padding, which nobody attends to. The network knows one clock for a
        sequence; that is the latest, as its own authors sample: what is given stands at a running time.
        """
        time = torch.ones(len(input_ids), device=input_ids.device)
        if clock is not None:
            time = clock.amax(-1) if valid is None else clock.masked_fill(~valid, 0.0).amax(-1)
        number = self.told(time.to(engine_of(time.device)).double()).float().to(time.device)
        ids, seen = self.ends.around(input_ids, valid)
        bias = None if valid is None else bias_of(seen)[:, None, None]
        position = torch.arange(ids.shape[1], device=ids.device)
        return self.ends.taken_off(self._layers(ids, number, position, bias))

    def _layers(
        self,
        ids: Tensor,
        number: Tensor,
        position: Tensor,
        bias: Bias | None,
        past: Sequence[KeysValues | None] | None = None,
        present: list[KeysValues] | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) of ids (B, L) at positions (L,), told numbers (B,). Keys and values of each
        layer are added to what is `present`, where that is kept."""
        with torch.autocast(ids.device.type, enabled=False):  # few numbers, which all else hangs on
            told = self.sigma_map(number.float())
        x = self.vocab_embed(ids)
        rotation = table_of_turns(position, self.size)
        for block, before in zip(self.blocks, past or [None] * len(self.blocks), strict=True):
            x, keys_values = block(x, rotation, bias, told, before)
            if present is not None:
                present.append(keys_values)
        return self.output_layer.steered(x, told)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) of hidden states (N, D)."""
        return self.output_layer.linear(hidden)

    def head_weights(self) -> list[Tensor]:
        return [weight for weight in self.output_layer.linear.parameters() if weight.requires_grad]


class BlockDDiT(DDiT):
    """One that writes block after block: a position sees its own block and those before it, within a window
    of blocks, and no time is told (BD3-LM). Nothing stands around a text: blocks are counted from its start.
    """

    def __init__(self, shape: DDiTShape, block: int, window: int, pad_id: int) -> None:
        super().__init__(shape, untold, Ends([], [], pad_id))
        self.block = block
        self.window = window

    def trunk(
        self,
        input_ids: Tensor,
        clock: Tensor | None = None,
        valid: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> Tensor:
        """As of any such network. `clean` (B, L): what stands in the blocks before each one, of which
        input_ids holds a noisy copy."""
        n = input_ids.shape[1]
        position = torch.arange(n, device=input_ids.device)
        if clean is None:
            seen = in_blocks(position, position, self.block, self.window)
        else:
            seen = noisy_and_clean(n, self.block, self.window, input_ids.device)
            input_ids, position = torch.cat([input_ids, clean], 1), torch.cat([position, position])
            valid = None if valid is None else torch.cat([valid, valid], 1)
        if valid is not None:
            seen = seen & valid[:, None, None, :]
        return self._layers(input_ids, self._untold(input_ids), position, bias_of(seen))[:, :n]

    def go_on(
        self, input_ids: Tensor, clock: Tensor | None, start: int, past: Sequence[KeysValues] | None
    ) -> tuple[Tensor, list[KeysValues]]:
        """As of a `denoiser.BlockNetwork`."""
        n, device = input_ids.shape[1], input_ids.device
        position = torch.arange(start, start + n, device=device)
        seen = seen_with_past(start, n, past, self.block, self.window, device)
        bias = None if seen is None else bias_of(seen)
        present: list[KeysValues] = []
        hidden = self._layers(input_ids, self._untold(input_ids), position, bias, past, present)
        return hidden, present

    def _untold(self, ids: Tensor) -> Tensor:
        return self.told(torch.zeros(len(ids), device=ids.device))


class Embedding(nn.Module):
    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding)


class NumberMap(nn.Module):
    """From a number for each sequence (B,) float32 to what its layers are told by, (B, C)."""

    def __init__(self, told: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, told), nn.SiLU(), nn.Linear(told, told))

    def forward(self, number: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        frequency = torch.exp(-math.log(SLOWEST) / half * torch.arange(half, device=number.device))
        angle = number[:, None] * frequency
        return F.silu(self.mlp(torch.cat([angle.cos(), angle.sin()], -1)))


class Block(nn.Module):
    """Attention and an MLP, each with a scale, a shift and a gate from what is told."""

    def __init__(self, shape: DDiTShape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, HIDDEN * width), nn.GELU("tanh"), nn.Linear(HIDDEN * width, width)
        )
        self.adaLN_modulation = nn.Linear(shape.told, 6 * width)

    def forward(
        self, x: Tensor, rotation: Rotation, bias: Bias | None, told: Tensor, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """x (B, L, D), told (B, C). Returns keys and values too, without those that are past."""
        b, n, d = x.shape
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(told)[:, None].chunk(6, -1)
        parts = self.attn_qkv(self.norm1(x) * (1 + scale) + shift)
        q, k, v = parts.view(b, n, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = (y.transpose(1, 2) for y in (rotate(q, rotation), rotate(k, rotation), v))
        mixed = attend(q, k, v, bias, past)
        x = x + gate * self.attn_out(mixed.transpose(1, 2).reshape(b, n, d))
        return x + mlp_gate * self.mlp(self.norm2(x) * (1 + mlp_scale) + mlp_shift), (k, v)


class OutputLayer(nn.Module):
    def __init__(self, shape: DDiTShape) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(shape.width, bias=False)
        self.linear = nn.Linear(shape.width, shape.vocab_size)
        self.adaLN_modulation = nn.Linear(shape.told, 2 * shape.width)

    def steered(self, x: Tensor, told: Tensor) -> Tensor:
        """What the matrix reads, (B, L, D)."""
        shift, scale = self.adaLN_modulation(told)[:, None].chunk(2, -1)
        return self.norm_final(x) * (1 + scale) + shift
