"""Our denoising transformer: bidirectional, RoPE, RMS norm, QK norm, squared-ReLU, one clock per position.

Legend: B batch, L length, D width, H heads, V vocabulary. It is split into a trunk (hidden states of all
positions) and a head (logits of chosen rows), so that vocabulary-sized work is done only where it counts.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

SHORT = 512  # up to here plain matmul-softmax attention beats SDPA on a CPU


class DiffusionTransformerConfig(PreTrainedConfig):
    """Shape of the network, and under `diffusion` everything else a run folder says about its model."""

    model_type = "ddcli"

    def __init__(
        self,
        vocab_size: int = 256,
        width: int = 256,
        layers: int = 6,
        heads: int = 4,
        mlp_ratio: int = 4,
        clock: Literal["none", "given", "time"] = "none",
        causal: bool = False,
        diffusion: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.width = width
        self.layers = layers
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.clock = clock  # what is told of each position: nothing, whether it is given, or its time
        self.causal = causal  # position i sees the tokens before i alone
        self.diffusion = diffusion or {}
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


class Last(nn.Linear):
    """Where a branch or the head ends; starts at zero."""


class Attention(nn.Module):
    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = Last(config.width, config.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(rms_norm(q), rotation), rotate(rms_norm(k), rotation)
        if x.device.type == "cpu" and n <= SHORT:
            scores = q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5
            mixed = (scores if bias is None else scores + bias).softmax(-1).to(v.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class Layer(nn.Module):
    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.attention = Attention(config)
        self.up = nn.Linear(config.width, hidden, bias=False)
        self.down = Last(hidden, config.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        x = x + self.attention(rms_norm(x), rotation, bias)
        return x + self.down(F.relu(self.up(rms_norm(x))).square())


class Clock(nn.Module):
    """Embeds the clock of each position: Fourier features of t, and a flag for given (t = 0) positions.

    A network that is told no time reads 1 for every position that is not given.
    """

    def __init__(self, width: int, timed: bool, frequencies: int = 32) -> None:
        super().__init__()
        self.timed = timed
        self.frequencies = frequencies
        self.mlp = nn.Sequential(
            nn.Linear(2 * frequencies + 2, width), nn.SiLU(), nn.Linear(width, width, bias=False)
        )

    def forward(self, t: Tensor) -> Tensor:
        t = t if self.timed else (t > 0).to(t)
        octaves = torch.linspace(0, 6, self.frequencies, device=t.device)
        angle = t[..., None] * torch.pi * 2**octaves
        flag = torch.stack([t, (t == 0).to(t)], -1)
        return self.mlp(torch.cat([angle.sin(), angle.cos(), flag], -1))


class DiffusionTransformer(PreTrainedModel):
    """The denoiser's network. `forward` gives logits everywhere, as any masked language model does."""

    config_class = DiffusionTransformerConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.clock = None if config.clock == "none" else Clock(config.width, timed=config.clock == "time")
        self.blocks = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.head = Last(config.width, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Unit embeddings, fan-in scaled matrices, and zero where a branch or the head ends.

        So at the start every layer is the identity and every belief uniform: the loss begins at ln V.
        """
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, Last):
            nn.init.zeros_(module.weight)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def trunk(self, input_ids: Tensor, clock: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D) of tokens (B, L) at clocks (B, L).

        `valid` (B, L) bool: False at padding, which nobody attends to.
        """
        if self.config.causal:  # what position i is asked about is its own token
            input_ids = F.pad(input_ids[:, :-1], (1, 0), value=self.config.bos_token_id)
        x = self.embedding(input_ids)
        if self.clock is not None:
            at_noise = torch.ones(input_ids.shape, device=x.device) if clock is None else clock
            x = x + self.clock(at_noise.to(x.dtype).expand(input_ids.shape))
        x = rms_norm(x)
        rotation = rotary(input_ids.shape[1], self.config.width // self.config.heads, x.device)
        bias = None
        if valid is not None:
            bias = torch.zeros(valid.shape, device=x.device).masked_fill(~valid, -1e4)[:, None, None, :]
        if self.config.causal:
            n = input_ids.shape[1]
            later = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
            ahead = torch.zeros(n, n, device=x.device).masked_fill(later, -1e4)
            bias = ahead[None, None] if bias is None else bias + ahead
        for block in self.blocks:
            x = block(x, rotation, bias)
        return rms_norm(x)

    def forward(
        self,
        input_ids: Tensor,
        clock: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        valid = None if attention_mask is None else attention_mask.bool()
        return MaskedLMOutput(logits=self.head(self.trunk(input_ids, clock, valid)))


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


def rotary(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding, (L, size / 2) each (RoFormer, arXiv:2104.09864)."""
    frequency = 10_000.0 ** -torch.linspace(0, 1, size // 2 + 1, device=device)[:-1]
    angle = torch.arange(length, device=device)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (r.to(x.dtype) for r in rotation)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


AutoConfig.register("ddcli", DiffusionTransformerConfig)
AutoModel.register(DiffusionTransformerConfig, DiffusionTransformer)
AutoModelForMaskedLM.register(DiffusionTransformerConfig, DiffusionTransformer)
