"""The network of MDLM, SEDD, UDLM, Duo, GIDD and BD3-LM by its definition, position by position: slow, and
written apart from ddcli's, which is compared with it. And checkpoints in the layouts of these codebases.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """LayerNorm without a bias: mean 0, variance 1 (1e-5 is added), times a weight."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def affine(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def turned(x: Tensor, position: int) -> Tensor:
    """Rotary embedding of one head's vector: pair (i, i + half) turns by position / 10000^(2i / size)."""
    half = len(x) // 2
    out = x.clone()
    for i in range(half):
        angle = position / 10_000 ** (2 * i / len(x))
        a, b = x[i], x[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def conditioning(number: float, weights: Weights) -> Tensor:
    """128 cosines and 128 sines of the number, an MLP, and a SiLU."""
    frequency = [10_000 ** (-i / 128) for i in range(128)]
    features = torch.tensor(
        [math.cos(number * f) for f in frequency] + [math.sin(number * f) for f in frequency]
    )
    hidden = silu(affine(features, weights, "sigma_map.mlp.0"))
    return silu(affine(hidden, weights, "sigma_map.mlp.2"))


def logits_of(weights: Weights, heads: int, ids: list[int], number: float, block: int = 0) -> Tensor:
    """What the backbone says of one sequence, (L, V), told one number. block: tokens that see each other and
    all before them; 0: all see all."""
    x = weights["vocab_embed.embedding"][ids]
    length, width = x.shape
    size = width // heads
    told = conditioning(number, weights)
    layer = 0
    while f"blocks.{layer}.norm1.weight" in weights:
        own = {k.removeprefix(f"blocks.{layer}."): v for k, v in weights.items()}
        shift, scale, gate, shift2, scale2, gate2 = affine(told, own, "adaLN_modulation").split(width)
        read = norm(x, own["norm1.weight"]) * (1 + scale) + shift
        qkv = (read @ own["attn_qkv.weight"].T).view(length, 3, heads, size)
        mixed = torch.zeros(length, heads, size)
        for h in range(heads):
            q = torch.stack([turned(qkv[i, 0, h], i) for i in range(length)])
            k = torch.stack([turned(qkv[i, 1, h], i) for i in range(length)])
            scores = q @ k.T / math.sqrt(size)
            for i in range(length):
                end = (i // block + 1) * block if block else length
                mixed[i, h] = scores[i, :end].softmax(-1) @ qkv[:end, 2, h]
        x = x + gate * (mixed.reshape(length, width) @ own["attn_out.weight"].T)
        read = norm(x, own["norm2.weight"]) * (1 + scale2) + shift2
        x = x + gate2 * affine(gelu(affine(read, own, "mlp.0")), own, "mlp.2")
        layer += 1
    shift, scale = affine(told, weights, "output_layer.adaLN_modulation").split(width)
    x = norm(x, weights["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return affine(x, weights, "output_layer.linear")


def block_logits(weights: Weights, heads: int, noisy: list[int], clean: list[int], block: int) -> Tensor:
    """What BD3-LM says of every noisy token, (L, V): of each block by itself and the clean ones before it."""
    found = []
    for start in range(0, len(noisy), block):
        ids = clean[:start] + noisy[start : start + block]
        found.append(logits_of(weights, heads, ids, 0.0, block)[start:])
    return torch.cat(found)


# -- what their parametrisations make of logits (V,) at one position ----------------------------------------


def subs(logits: Tensor, mask: int) -> Tensor:
    """log p(x_0) at a mask (MDLM, section 3.2.3): the mask has none."""
    logits = logits.clone()
    logits[mask] = -math.inf
    return logits - logits.logsumexp(-1)


def sedd_log_score(logits: Tensor, xt: int, sigma: float) -> Tensor:
    """ln p_t(y) / p_t(xt) (SEDD, appendix C.2): 0 at xt itself."""
    score = logits - math.log(math.expm1(sigma)) - math.log(len(logits) - 1)
    score[xt] = 0.0
    return score


def uniform_step(belief: Tensor, xt: int, alpha_s: float, alpha_t: float) -> Tensor:
    """q(x_s | x_t, x_0 = belief) (UDLM, eq. 15)."""
    count, kept = len(belief), alpha_t / alpha_s
    z = torch.zeros(count, dtype=belief.dtype)
    z[xt] = 1.0
    above = (
        count * alpha_t * belief * z
        + (kept - alpha_t) * z
        + (alpha_s - alpha_t) * belief
        + (1 - kept) * (1 - alpha_s) / count
    )
    return above / (count * alpha_t * belief[xt] + 1 - alpha_t)


def gidd_mix(t: float, p_uniform: float) -> tuple[float, float, float]:
    """alpha_t, the share of masks, and that of random tokens (GIDD, section 3.2, gamma = 1)."""
    c = 2 * p_uniform / (1 - p_uniform) * math.sqrt(t * (1 - t))
    return (1 - t) / (1 + c), t / (1 + c), c / (1 + c)


# -- checkpoints ------------------------------------------------------------------------------------------

WIDTH, LAYERS, HEADS, TOLD = 16, 2, 2, 12


def random_weights(vocab_size: int, seed: int = 0) -> Weights:
    """Nowhere zero, where such networks begin with zeros."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {"vocab_embed.embedding": (vocab_size, WIDTH)}
    for name, sizes in {
        "sigma_map.mlp.0": (TOLD, 256),
        "sigma_map.mlp.2": (TOLD, TOLD),
        "output_layer.linear": (vocab_size, WIDTH),
        "output_layer.adaLN_modulation": (2 * WIDTH, TOLD),
    }.items():
        shapes |= {f"{name}.weight": sizes, f"{name}.bias": sizes[:1]}
    shapes["output_layer.norm_final.weight"] = (WIDTH,)
    for i in range(LAYERS):
        block = f"blocks.{i}"
        shapes |= {f"{block}.norm1.weight": (WIDTH,), f"{block}.norm2.weight": (WIDTH,)}
        shapes |= {f"{block}.attn_qkv.weight": (3 * WIDTH, WIDTH), f"{block}.attn_out.weight": (WIDTH, WIDTH)}
        for name, sizes in {
            "mlp.0": (4 * WIDTH, WIDTH),
            "mlp.2": (WIDTH, 4 * WIDTH),
            "adaLN_modulation": (6 * WIDTH, TOLD),
        }.items():
            shapes |= {f"{block}.{name}.weight": sizes, f"{block}.{name}.bias": sizes[:1]}
    return {name: 0.5 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def hub_config(kind: str, vocab_size: int, **more: Any) -> dict[str, Any]:
    """As `configuration_mdlm.py` and those of UDLM, Duo and BD3-LM have it."""
    return {
        "model_type": kind,
        "architectures": [kind.upper()],
        "auto_map": {"AutoModelForMaskedLM": f"modeling_{kind}.{kind.upper()}"},
        "vocab_size": vocab_size,
        "model_length": 32,
        "hidden_dim": WIDTH,
        "cond_dim": TOLD,
        "n_blocks": LAYERS,
        "n_heads": HEADS,
        "dropout": 0.1,
        **more,
    }


def sedd_config(vocab_size: int, **noise: Any) -> dict[str, Any]:
    """The hydra content that SEDD's hub repositories have for a config.json."""
    return {
        "ngpus": 8,
        "tokens": vocab_size - 1,
        "training": {"batch_size": 512, "ema": 0.9999},
        "data": {"train": "openwebtext", "valid": "wikitext103"},
        "graph": {"type": "absorb", "file": "data", "report_all": False},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20, **noise},
        "model": {
            "name": "small",
            "type": "ddit",
            "hidden_size": WIDTH,
            "cond_dim": TOLD,
            "length": 32,
            "n_blocks": LAYERS,
            "n_heads": HEADS,
            "scale_by_sigma": True,
            "dropout": 0.1,
        },
    }


def gidd_config(vocab_size: int, p_uniform: float) -> dict[str, Any]:
    return {
        "model_type": "dit",
        "architectures": ["DIT"],
        "auto_map": {"AutoModelForMaskedLM": "modeling_dit.DIT"},
        "vocab_size": vocab_size,
        "max_seq_len": 32,
        "hidden_size": WIDTH,
        "timestep_cond_dim": TOLD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "attention_dropout": 0.0,
        "p_uniform": p_uniform,
        "t_eps": 1e-4,
    }


def loglinear(t: float) -> float:
    """sigma of a clock at which a share t of the text is lost."""
    return -math.log(max(1 - t, 1e-3))


def geometric(t: float) -> float:
    return 1e-4 ** (1 - t) * 20**t


@dataclass(frozen=True)
class Original:
    """A codebase's checkpoint, and what its network is told at a clock."""

    config: Callable[[int], dict[str, Any]]
    prefix: str
    told: Callable[[float], float]
    has_ends: bool
    buffers: Weights = field(default_factory=dict)
    block: int = 0
    beside: Weights = field(default_factory=dict)  # under these names, without the prefix


def frequencies() -> Weights:
    size = WIDTH // HEADS
    return {"rotary_emb.inv_freq": 1.0 / (10_000 ** (torch.arange(0, size, 2).float() / size))}


def tables() -> Weights:
    """(1, L, 3, 1, size), of which the third, for values, does nothing."""
    angle = torch.arange(32).float()[:, None] * frequencies()["rotary_emb.inv_freq"]
    angle = torch.cat([angle, angle], -1)[None, :, None, None].repeat(1, 1, 3, 1, 1)
    cos, sin = angle.cos(), angle.sin()
    cos[:, :, 2], sin[:, :, 2] = 1.0, 0.0
    return {"rotary_emb.cos_cached": cos, "rotary_emb.sin_cached": sin}


def hub(kind: str, told: Callable[[float], float], **more: Any) -> Original:
    return Original(lambda v: hub_config(kind, v, **more), "backbone.", told, True, frequencies())


OF_BLOCKS = {
    "adaln": True,
    "attn_backend": "flex",
    "causal": False,
    "cross_attn": True,
    "return_dict": False,
    "sampling_eps_max": 0.999,
    "sampling_eps_min": 1e-3,
    "time_conditioning": False,
    "var_min": True,
}

ORIGINALS: dict[str, Original] = {
    "mdlm": hub("mdlm", lambda t: 0.0, time_conditioning=False),
    "mdlm-told": hub("mdlm", loglinear, time_conditioning=True),
    "sedd": Original(sedd_config, "", loglinear, False, frequencies()),
    "sedd-geometric": Original(
        lambda v: sedd_config(v, type="geometric"), "", geometric, False, frequencies()
    ),
    "sedd-nested": Original(lambda v: {"config": sedd_config(v)}, "", loglinear, False),
    "udlm": hub("udlm", loglinear, time_conditioning=True, cfg=False, cfg_num_classes=-1),
    "duo": hub("duo", loglinear, causal=False, var_min=True),
    "bd3lm": Original(
        lambda v: hub_config("bd3lm", v, block_size=4, **OF_BLOCKS),
        "backbone.",
        lambda t: 0.0,
        False,
        frequencies(),
        4,
        {"sampling_eps_min": torch.tensor(0.45), "sampling_eps_max": torch.tensor(0.95)},
    ),
    "gidd": Original(
        lambda v: gidd_config(v, 0.2), "", lambda t: min(max(t, 1e-4), 1 - 1e-4), True, tables()
    ),
    "gidd-masks": Original(
        lambda v: gidd_config(v, 0.0), "", lambda t: min(max(t, 1e-4), 1 - 1e-4), True, tables()
    ),
}


def save(kind: str, folder: Path, tokenizer: Any, *, as_pickle: bool = False) -> Weights:
    """A checkpoint with its tokenizer beside it, as people find one; returns its weights."""
    vocab_size = len(tokenizer) + (tokenizer.mask_token is None)
    weights, original = random_weights(vocab_size), ORIGINALS[kind]
    kept = {original.prefix + name: value for name, value in (weights | original.buffers).items()}
    kept |= original.beside
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original.config(vocab_size)))
    tokenizer.save_pretrained(folder)
    if as_pickle:
        torch.save(kept, folder / "pytorch_model.bin")
    else:
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return weights
