"""Masked diffusion as research code has it, to compare with: the yardstick of `benchmarks/bench.py`.

A transformer with adaptive layer norms in float32, whose head reads every position; a log-softmax over the
whole vocabulary at all of them; AdamW. Sampling looks at the whole vocabulary of every position in every
step, with Gumbel noise. (DiT, arXiv:2212.09748; MDLM, arXiv:2406.07524, algorithms 1 and 2.)

Legend: B sequences, L length, D width, V vocabulary, mask included.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOLD = 128  # numbers by which each layer is told the time


class Times(nn.Module):
    """Sines and cosines of the time of a sequence, (B,), through two layers: (B, TOLD)."""

    def __init__(self, waves: int = 128) -> None:
        super().__init__()
        self.waves = waves
        self.layers = nn.Sequential(nn.Linear(2 * waves, TOLD), nn.SiLU(), nn.Linear(TOLD, TOLD), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        slow = 10_000.0 ** -(torch.arange(self.waves, device=t.device) / self.waves)
        angle = t[:, None] * slow
        return self.layers(torch.cat([angle.cos(), angle.sin()], -1))


class Steered(nn.Module):
    """Layer norm whose gain and shift are told by the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.told = nn.Linear(TOLD, 2 * width)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        gain, shift = self.told(told)[:, None].chunk(2, -1)
        return self.norm(x) * (1 + gain) + shift


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = Steered(width), Steered(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.gates = nn.Linear(TOLD, 2 * width)
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        b, n, d = x.shape
        gate, mlp_gate = self.gates(told)[:, None].chunk(2, -1)
        q, k, v = self.qkv(self.before(x, told)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(turned(q), turned(k), v)
        x = x + gate * self.out(mixed.transpose(1, 2).reshape(b, n, d))
        return x + mlp_gate * self.mlp(self.between(x, told))


def turned(x: Tensor) -> Tensor:
    """Rotary position embedding of (B, H, L, D / H)."""
    half = x.shape[-1] // 2
    slow = 10_000.0 ** -(torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[2], device=x.device)[:, None] * slow
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class Textbook(nn.Module):
    """The network, its loss, and its sampler."""

    def __init__(self, vocab_size: int, width: int, layers: int, heads: int, mask_id: int) -> None:
        super().__init__()
        self.mask_id = mask_id
        self.embedding = nn.Embedding(vocab_size, width)
        self.times = Times()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.last = Steered(width)
        self.head = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        """log p(x_0 | x_t), (B, L, V): no mask, and a visible token is what it is."""
        x, told = self.embedding(xt), self.times(t)
        for layer in self.layers:
            x = layer(x, told)
        logits = self.head(self.last(x, told))
        logits[..., self.mask_id] = -1e6
        log_p = logits - logits.logsumexp(-1, keepdim=True)
        visible = xt != self.mask_id
        log_p[visible] = -1e6
        log_p[visible, xt[visible]] = 0
        return log_p

    def loss(self, x0: Tensor) -> Tensor:
        """The negative ELBO under linear noise, nats per token, of (B, L) tokens."""
        even = (torch.rand(1, device=x0.device) + torch.arange(len(x0), device=x0.device)) / len(x0)
        t = (even % 1).clamp(min=1e-3)
        xt = torch.where(torch.rand(x0.shape, device=x0.device) < t[:, None], self.mask_id, x0)
        nll = -self(xt, t).gather(-1, x0[..., None])[..., 0]
        return (nll / t[:, None]).mean()

    @torch.no_grad()
    def sample(self, n: int, length: int, steps: int) -> Tensor:
        """Tokens (n, length), from masks to text in so many equal steps."""
        device = self.embedding.weight.device
        x = torch.full((n, length), self.mask_id, device=device)
        times = torch.linspace(1, 0, steps + 1).tolist()
        for t, s in pairwise(times):
            law = self(x, torch.full((n,), t, device=device)).exp() * (t - s)
            law[..., self.mask_id] = s
            gumbel = 1e-10 - (torch.rand_like(law) + 1e-10).log()
            x = torch.where(x == self.mask_id, (law / gumbel).argmax(-1), x)
        return x


def make_optimizer(network: Textbook, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=lr)


def update(network: Textbook, optimizer: torch.optim.Optimizer, x0: Tensor) -> float:
    """One step on (B, L) tokens; the loss, nats per token."""
    loss = network.loss(x0)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()
