"""Our denoising transformer: bidirectional, RoPE, RMS norm, QK norm, squared-ReLU, one clock per position.

Legend: B batch, L length, D width, H heads, V vocabulary. It is split into a trunk (hidden states of all
positions) and a head (logits of chosen rows), so that vocabulary-sized work is done only where it counts.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig  # and no more: models of transformers take seconds to import

from ..files import whole_file, write_text
from .network import Network, Shape

TOLD = 64  # numbers by which each layer is told the clock of a position
TILE = 64  # numbers
LITTLE = 512  # entries of a vocabulary, by each of which the first layer reads, if a text has as many tokens
BOUNDED = 1024  # numbers of a head whose scores, normed, may be taken to powers of e as they are
FEW = 8  # rows: with so many a CPU multiplies faster where the large matrix stands on the left (docs/log.md)
FAINT = 1e-30  # what weights of attention sum up to where nothing is seen: no quotient is beyond a float
SHORT = 1024  # up to here plain matmul-softmax attention beats SDPA where a CPU trains (docs/log.md)


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
        clock: str = "none",
        causal: bool = False,
        block: int = 0,
        window: int = 0,
        self_conditioned: bool = False,
        tie_word_embeddings: bool = False,
        diffusion: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.width = width
        self.layers = layers
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.clock = clock  # what is told of each position: none, given (whether it is), or time
        self.causal = causal  # position i sees the tokens before i alone
        self.block = block  # positions that see each other, and all before them; 0: all see all
        self.window = window  # of so many blocks, its own included
        self.self_conditioned = self_conditioned  # reads what it last believed of each position
        self.tie_word_embeddings = tie_word_embeddings  # one table for what tokens are read and written by
        self.diffusion = diffusion or {}
        super().__init__(**kwargs)


torch.library.define("ddcli::rotary", "(Tensor position, int size) -> (Tensor, Tensor)")
torch.library.define("ddcli::added_up", "(Tensor x, Tensor rows, SymInt entries) -> Tensor")

Rotation = tuple[Tensor, Tensor]
KeysValues = tuple[Tensor, Tensor]  # (B, H, n, D / H) each
Bias = Tensor | BlockMask  # what is added to scores, (..., n, m), or which tiles of them there are
Steer = Callable[[Tensor], Tensor]


class Last(nn.Linear):
    """Where a branch or the head ends; starts at zero."""


class Unembedding(Last):
    """The head: logits of every entry of a vocabulary, of whatever size, and on a GPU of a few that are none.

    Its fast kernels want rows whose length is a multiple of 8 numbers at least; with 50,258 entries others
    are taken, which reach a third of the rate (docs/benchmarks.md). Who reads logits cuts off what is spare.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.ndim == 2 and len(x) <= FEW:
            return (self.weight @ x.t()).t().contiguous()
        spare = -self.out_features % TILE
        if x.device.type == "cpu" or not spare:
            return super().forward(x)
        return F.linear(x, F.pad(self.weight, (0, 0, 0, spare)))


class Attention(nn.Module):
    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = Last(config.width, config.width, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        bias: Bias | None,
        past: KeysValues | None,
        chosen: Tensor | None,
        ids: Tensor | None,
    ) -> tuple[Tensor, KeysValues]:
        """What is read at positions (B, L), or at the `chosen` of them; and all keys and values but the past.
        x (B, L, D); or (V, D), of which positions have the rows `ids` (B, L)."""
        qkv = self.qkv(x) if ids is None else rows_of(self.qkv(x), ids)
        (b, n), d = qkv.shape[:2], x.shape[-1]
        qkv = qkv.view(b, n, 3, self.heads, d // self.heads)
        cos, sin = (r[:, None] for r in rotation)
        q, k = rotate(rms_norm(qkv[:, :, :2]), (cos, sin)).unbind(2)
        q, k, v = (y.transpose(1, 2) for y in (q, k, qkv[:, :, 2]))
        mixed = attend(q, k, v, bias, past, bounded=True)
        return self.out(_at_chosen(mixed.transpose(1, 2).reshape(b, n, d), chosen)), (k, v)


class Layer(nn.Module):
    recompute = False  # on the way back, what is inside of it, rather than keep it

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.attention = Attention(config)
        self.up = nn.Linear(config.width, hidden, bias=False)
        self.down = Last(hidden, config.width, bias=False)
        self.modulation = None if config.clock == "none" else Last(TOLD, 4 * config.width)

    def forward(self, *inputs: Any) -> Tensor:
        """Those of `_both`."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._both, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self._both(*inputs)

    def _both(
        self,
        x: Tensor,
        rotation: Rotation,
        bias: Bias | None,
        told: Tensor | None,
        past: KeysValues | None,
        present: list[KeysValues] | None,
        chosen: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Its two branches, (B, L, D); at the `chosen` of all positions alone, (N, D), though all are read.
        Keys and values are added to what is `present`, where that is kept. x (B, L, D); or (V, D), where no
        clock is told, of which positions have the rows `ids` (B, L)."""
        steer, steer_mlp = self._steering(told, chosen)
        mixed, keys_values = self.attention(steer(rms_norm(x)), rotation, bias, past, chosen, ids)
        if present is not None:
            present.append(keys_values)
        x = _at_chosen(x if ids is None else rows_of(x, ids), chosen) + mixed
        return x + self.down(F.relu(self.up(steer_mlp(rms_norm(x)))).square())

    def _steering(self, told: Tensor | None, chosen: Tensor | None) -> tuple[Steer, Steer]:
        """How the clock scales and shifts what goes into the two branches."""
        if self.modulation is None or told is None:
            return _as_it_is, _as_it_is
        gains_and_shifts = self.modulation(told)
        gain, shift, _, _ = gains_and_shifts.chunk(4, -1)
        _, _, mlp_gain, mlp_shift = _at_chosen(gains_and_shifts, chosen).chunk(4, -1)
        return lambda x: x * (1 + gain) + shift, lambda x: x * (1 + mlp_gain) + mlp_shift


def _at_chosen(x: Tensor, chosen: Tensor | None) -> Tensor:
    """x (B, L, D) at N of all positions, counted through, (N, D); all of it where none are chosen."""
    return x if chosen is None else rows_of(x.flatten(0, 1), chosen)


def _as_it_is(x: Tensor) -> Tensor:
    return x


class Clock(nn.Module):
    """What is told of the clock of each position, (B, L, TOLD): every layer scales and shifts its input by it
    (adaLN, as in DiT, arXiv:2212.09748, but by position and of low rank).

    Made from Fourier features of t, and a flag for given (t = 0) positions. A network that is told no time
    reads 1 for every position that is not given.
    """

    def __init__(self, width: int, timed: bool, frequencies: int = 32) -> None:
        super().__init__()
        self.timed = timed
        self.frequencies = frequencies
        self.mlp = nn.Sequential(
            nn.Linear(2 * frequencies + 2, width), nn.SiLU(), nn.Linear(width, TOLD), nn.SiLU()
        )

    def forward(self, t: Tensor) -> Tensor:
        t = t if self.timed else (t > 0).to(t)
        octaves = torch.linspace(0, 6, self.frequencies, device=t.device)
        angle = t[..., None] * torch.pi * 2**octaves
        flag = torch.stack([t, (t == 0).to(t)], -1)
        return self.mlp(torch.cat([angle.sin(), angle.cos(), flag], -1))


class Transformer(Network):
    """The denoiser's network."""

    loader = "ddcli.DiffusionTransformer"

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.build(config)
        self.apply(self.initialize)

    def build(self, config: DiffusionTransformerConfig) -> None:
        """Make the layers."""
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        timed = config.clock == "time"
        self.clock = None if config.clock == "none" else Clock(config.width, timed)
        self.told = None if config.clock == "none" else nn.Linear(TOLD, config.width, bias=False)
        self.recall = Last(config.width, config.width, bias=False) if config.self_conditioned else None
        self.blocks = nn.ModuleList(Layer(config) for _ in range(config.layers))
        with torch.device("meta") if config.tie_word_embeddings else nullcontext():
            self.head = Unembedding(config.width, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding.weight

    def initialize(self, module: nn.Module) -> None:
        """Unit embeddings, fan-in scaled matrices, and zero where a branch or the head ends.

        So at the start every layer is the identity and every belief uniform: the loss begins at ln V. One
        table for both begins small, its logits next to 0; each use of it is normed. Beside a clock it has to
        be seen, and is as large as a head: such a network begins by repeating what it reads.
        """
        tied = self.config.tie_word_embeddings
        if tied and isinstance(module, Unembedding):
            return  # it has no weight of its own
        if isinstance(module, nn.Embedding):
            small = self.config.width ** (-1.0 if self.clock is None else -0.5)
            nn.init.normal_(module.weight, std=small if tied else 1.0)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, Last):
            nn.init.zeros_(module.weight)

    @property
    def shape(self) -> Shape:
        return Shape(self.config.width, self.config.layers, self.config.heads)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    @property
    def block(self) -> int:
        return int(self.config.block)

    @property
    def window(self) -> int:
        return int(self.config.window)

    def stacked(self) -> Mapping[str, int]:
        parts = {"attention.qkv": 3 * self.config.heads}
        if self.config.clock != "none":
            parts["modulation"] = 4
        return {f"blocks.{i}.{name}.weight": n for i in range(len(self.blocks)) for name, n in parts.items()}

    def head_weights(self) -> list[Tensor]:
        return [self.head.weight]

    def recompute(self) -> None:
        for layer in self.blocks:
            cast(Layer, layer).recompute = True

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        write_text(folder / "config.json", self.config.to_json_string(use_diff=False))
        with whole_file(folder / "model.safetensors") as beside:
            save_file(dict(weights), beside, metadata={"format": "pt"})

    def trunk(
        self,
        input_ids: Tensor,
        clock: Tensor | None = None,
        valid: Tensor | None = None,
        clean: Tensor | None = None,
        guess: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) of tokens (B, L) at clocks (B, L).

        `valid` (B, L) bool: False at padding, which nobody attends to. `clean` (B, L), for a network of
        blocks: what stands in the blocks before each one, of which input_ids holds a noisy copy. `guess`
        (B, L, D), for a self-conditioned one, which has no blocks: `expected` of its last belief, 0 where
        there is none. `chosen` (N,) int64, of the B L positions, counted through: hidden states of these
        alone, (N, D); what stands behind the last layer's attention is then computed nowhere else.
        """
        n = input_ids.shape[1]
        position = torch.arange(n, device=input_ids.device)
        if self.config.causal:  # what position i is asked about is its own token
            input_ids = F.pad(input_ids[:, :-1], (1, 0), value=self.config.bos_token_id)
        seen, tiles = self._seen(position), None
        if clean is not None:
            assert seen is not None, "a network without blocks has no use for a clean copy"
            input_ids = torch.cat([input_ids, clean], 1)
            clock = None if clock is None else torch.cat([clock, torch.zeros_like(clock)], 1)
            valid = None if valid is None else torch.cat([valid, valid], 1)
            if valid is None and by_tiles(input_ids.device):
                from .tiles import noisy_and_clean_tiles  # imports what compiles, which takes seconds

                tiles = noisy_and_clean_tiles(n, self.config.block, self.config.window, input_ids.device)
            else:
                seen = noisy_and_clean(n, self.config.block, self.config.window, input_ids.device)
            position = torch.cat([position, position])
            chosen = None if chosen is None else chosen + chosen // n * n  # where noisy and clean ones stand
        if valid is not None:
            seen = valid[:, None, None, :] if seen is None else seen & valid[:, None, None, :]
        sights = seen if tiles is None else tiles
        nothing = [None] * len(self.blocks)
        hidden = self._layers(input_ids, clock, position, sights, nothing, guess=guess, chosen=chosen)
        return hidden[:, :n] if chosen is None else hidden

    def expected(self, log_p0: Tensor) -> Tensor:
        """The mean embedding of a belief log p0 (N, V), (N, D): what a self-conditioned network is told."""
        return log_p0.exp().to(self.embedding.weight) @ self.embedding.weight

    def go_on(
        self, input_ids: Tensor, clock: Tensor | None, start: int, past: Sequence[KeysValues] | None
    ) -> tuple[Tensor, list[KeysValues]]:
        """As of a `denoiser.BlockNetwork`; and of whole texts, where all see all."""
        assert not self.config.causal, "positions would see what is behind them"
        n, device = input_ids.shape[1], input_ids.device
        position = torch.arange(start, start + n, device=device)
        block, window = self.config.block, self.config.window
        seen = seen_with_past(start, n, past, block, window, device) if block else None
        present: list[KeysValues] = []
        hidden = self._layers(input_ids, clock, position, seen, past or [None] * len(self.blocks), present)
        return hidden, present

    def _seen(self, position: Tensor) -> Tensor | None:
        """Which positions (n,) see which, (n, n) bool; None where all see all."""
        if self.config.causal:
            return position <= position[:, None]
        block, window = self.config.block, self.config.window
        return in_blocks(position, position, block, window) if block else None

    def _layers(
        self,
        input_ids: Tensor,
        clock: Tensor | None,
        position: Tensor,
        seen: Tensor | BlockMask | None,
        past: Sequence[KeysValues | None],
        present: list[KeysValues] | None = None,
        guess: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> Tensor:
        told = rows = None
        few = input_ids.device.type == "cpu" and self.config.vocab_size <= min(LITTLE, input_ids.numel())
        if few and self.clock is None and guess is None:
            # the first layer reads one of few rows at each position, and its first product is made of those
            x, rows = self.embedding.weight, input_ids
        else:
            x = self.embedding(input_ids)
        if guess is not None and self.recall is not None:
            x = x + self.recall(guess)
        if self.clock is not None and self.told is not None:
            at_noise = torch.ones(input_ids.shape, device=x.device) if clock is None else clock
            told = self.clock(at_noise.to(x.dtype).expand(input_ids.shape))
            x = x + self.told(told)
        x = rms_norm(x)
        rotation = table_of_turns(position, self.config.width // self.config.heads)
        bias = bias_of(seen) if isinstance(seen, Tensor) else seen
        *others, last = self.blocks
        *earlier, latest = past
        for block, before in zip(others, earlier, strict=True):
            x, rows = block(x, rotation, bias, told, before, present, None, rows), None
        return rms_norm(last(x, rotation, bias, told, latest, present, chosen, rows))

    def logits(self, input_ids: Tensor, clock: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) everywhere; arguments as those of the trunk."""
        return self.head(self.trunk(input_ids, clock, valid))[..., : self.config.vocab_size]


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """Rows (..., D) of a table (N, D), by ids (...) int64.

    On a CPU their gradients are added up in float32, by an operator into which the compiler does not look: it
    would add number by number (docs/log.md).
    """
    if table.device.type == "cpu":
        return cast(Tensor, Rows.apply(table, ids))
    return F.embedding(ids, table)


class Rows(torch.autograd.Function):
    """What `rows_of` does on a CPU. Its gradient has none of its own."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.entries = len(table)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (ids,) = ctx.saved_tensors
        slope = upstream[0].flatten(0, -2)
        return torch.ops.ddcli.added_up(slope, ids.flatten(), ctx.entries).to(slope.dtype), None


def added_up(x: Tensor, rows: Tensor, entries: int) -> Tensor:
    """Sums of the rows of x (N, D) that belong to each entry, (entries, D) float32."""
    total = torch.zeros(entries, x.shape[-1], device=x.device)
    return total.index_add_(0, rows, x.float())


torch.library.impl("ddcli::added_up", "CompositeExplicitAutograd", added_up)


def in_blocks(query: Tensor, key: Tensor, block: int, window: int) -> Tensor:
    """Which of the positions `query` (n,) see which of `key` (m,), (n, m) bool: those of their own block, and
    of the blocks before it, within a window of blocks."""
    behind = query[:, None] // block - key // block
    return (behind >= 0) & (behind < window)


def seen_with_past(
    start: int, n: int, past: Sequence[KeysValues] | None, block: int, window: int, device: torch.device
) -> Tensor | None:
    """Which of n positions, in whole blocks from `start` on, see which of the past and of each other, (n, m)
    bool; None where all see all."""
    before = 0 if past is None else past[0][0].shape[2]
    if n == block and before <= (window - 1) * block:
        return None
    key = torch.arange(start - before, start + n, device=device)
    return in_blocks(key[before:], key, block, window)


def noisy_and_clean(n: int, block: int, window: int, device: torch.device) -> Tensor:
    """Which of n noisy and then n clean positions see which, (2 n, 2 n) bool: a noisy one its own block and
    the clean ones before it, a clean one the clean blocks up to its own (BD3-LM, arXiv:2503.09573)."""
    position = torch.arange(n, device=device)
    seen = in_blocks(position, position, block, window)
    own = in_blocks(position, position, block, 1)
    noisy, copy = torch.cat([own, seen & ~own], 1), torch.cat([torch.zeros_like(own), seen], 1)
    return torch.cat([noisy, copy])


def bias_of(seen: Tensor) -> Tensor:
    """What is added to scores where only some are `seen`, bool of any shape."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -1e4)


def by_tiles(device: torch.device) -> bool:
    """Whether FlexAttention pays for masks that are mostly empty: on a GPU, and compiled."""
    return device.type == "cuda" and torch.compiler.is_compiling()


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Bias | None, past: KeysValues | None, *, bounded: bool = False
) -> Tensor:
    """What each of n queries makes of m values, (B, H, n, D / H), by the fastest way there is for it.

    past: keys and values that stand before those, and count among the m of a bias (..., n, m); None is of all
    that see all. bounded: scores are at most the root of D / H, queries and keys being normed.
    """
    if isinstance(bias, BlockMask):
        assert past is None
        return cast(Tensor, flex_attention(q, k, v, block_mask=bias))
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    # on a CPU SDPA is faster forward and alone, slower back and beside what is compiled (docs/log.md)
    by_products = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if q.device.type != "cpu" or q.shape[2] > SHORT or not by_products:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    bounded = bounded and q.shape[-1] <= BOUNDED and q.dtype != torch.float16
    return cast(Tensor, Products.apply(q, k, v, bias, bounded))


class Products(torch.autograd.Function):
    """Attention by two products of matrices, all weights there at once: on a CPU, where texts are short.

    Weights are divided by their sum when they have been used, where there are fewer numbers to divide; and
    each gradient is made as it lies in memory, where that of a transposed factor would be copied. Gradients
    have none of their own.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, bounded: bool) -> Tensor:
        weights, total = weighed(scaled(q) @ k.mT, bias, bounded)
        weights = weights.to(v.dtype)
        mixed = ((weights @ v) / total).to(v.dtype)
        ctx.save_for_backward(q, k, v, weights, total, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        q, k, v, weights, total, mixed = ctx.saved_tensors
        slope = upstream[0] / total
        less = (slope * mixed).sum(-1, keepdim=True)
        slope = slope.to(v.dtype)
        of_scores = (weights * (slope @ v.mT - less)).to(k.dtype)
        return scaled(of_scores @ k), of_scores.mT @ scaled(q), weights.mT @ slope, None, None


def scaled(x: Tensor) -> Tensor:
    """x (..., D / H) over the root of the size of a head."""
    return x * x.shape[-1] ** -0.5


def weighed(scores: Tensor, bias: Tensor | None, bounded: bool) -> tuple[Tensor, Tensor]:
    """Weights (..., n, m) of scores, not divided by their sums (..., n, 1) yet; float32 or finer. The sum of
    none is FAINT, by which anything may be divided."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores if bias is None else scores + bias
    weights = (scores if bounded else scores - scores.amax(-1, keepdim=True)).exp()
    return weights, weights.sum(-1, keepdim=True).clamp(min=FAINT)


def rms_norm(x: Tensor) -> Tensor:
    """In the dtype of x, as queries, keys and values are to have one: under autocast for a GPU torch has made
    float32 of it since 2.12."""
    return F.rms_norm(x, (x.shape[-1],)).to(x.dtype)


def rotary(position: Tensor, size: int) -> Rotation:
    """Cosines and signed sines of rotary embedding, (L, 1, size) each (RoFormer, arXiv:2104.09864)."""
    frequency = 10_000.0 ** -torch.linspace(0, 1, size // 2 + 1, device=position.device)[:-1]
    angle = position[:, None, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


torch.library.impl("ddcli::rotary", "CompositeExplicitAutograd", rotary)


def table_of_turns(position: Tensor, size: int) -> Rotation:
    """The same; compiled for a CPU, by an operator into which the compiler does not look. It would compute
    cosines anew for every number that is turned (docs/log.md)."""
    if position.device.type == "cpu" and torch.compiler.is_compiling():
        return cast(Rotation, torch.ops.ddcli.rotary(position, size))
    return rotary(position, size)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn pairs of numbers of x (B, L, ..., size), each in one half of it, by the angles of their position.

    On a GPU halves are rolled, not cut and joined: so a compiler makes one kernel of it and the norm before
    it. On a CPU it makes one of vectors where they are cut, and of single numbers where they are rolled.
    """
    cos, sin = (r.to(x.dtype) for r in rotation)
    half = x.shape[-1] // 2
    if x.device.type != "cpu":
        return x * cos + x.roll(half, -1) * sin
    (low, high), (cos, sin) = x.chunk(2, -1), (cos[..., half:], sin[..., half:])
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
