"""What turns gradients into updates: AdamW, or Muon for the matrices of layers and AdamW for all else."""

from collections import defaultdict
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from .backbones.network import Network
from .config import Train
from .device import works_apart
from .errors import unknown
from .world import shared_like, whole

BETAS = (0.9, 0.98)  # of AdamW
MOMENTUM = 0.95  # of Muon
SIZE = 0.2  # root mean square of its update, at a learning rate of 1: about that of AdamW's
AT_ONCE = 2**24  # numbers of matrices that are turned together
ROOM = 1.02  # for what bf16 rounds: beyond 1, where the polynomials below are steep, values would grow
# Coefficients of a x + b x^3 + c x^5, one after the other: each maps what the one before leaves of [0.02, 1]
# as close to 1 as such a polynomial can, all of them to within a tenth (Polar Express, arXiv:2505.16932,
# theorem 3.1).
TOWARDS_1 = ((7.711, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.594, 0.4107))


class Muon(Optimizer):
    """Steps of momentum whose singular values are all made 1 (Muon: Jordan et al. 2024), for matrices alone.

    Such a step moves what few examples speak of as far as what all of them do. Its size is that of AdamW's
    (arXiv:2502.16982, equation 4), so one learning rate and one weight decay do for both. A group may say of
    how many matrices each of its weights is `stacked`; they are turned one by one, in `dtype`.

    Where a device works apart, and nobody waits to know, it does nothing in a step in which `found_inf`, a
    tensor (), is 1. Elsewhere such a step is left out by who calls it (`Together`).
    """

    found_inf: Tensor

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "stacked": 1})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        shape = attrgetter("shape")
        for group in self.param_groups:
            weights: list[Tensor] = [weight for weight in group["params"] if weight.grad is not None]
            for size, alike in groupby(sorted(weights, key=shape), shape):
                some, at_once = list(alike), max(1, AT_ONCE // size.numel())
                for i in range(0, len(some), at_once):
                    self._update(some[i : i + at_once], group)

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Weights of one shape (N, M), which have gradients."""
        momenta = [self._momentum(weight) for weight in weights]
        gradients = [
            self._found(w.grad, m) for w, m in zip(weights, momenta, strict=True) if w.grad is not None
        ]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = [  # Nesterov's
            gradient.mul(1 - MOMENTUM).add_(momentum, alpha=MOMENTUM).to(self.dtype)
            for gradient, momentum in zip(gradients, momenta, strict=True)
        ]
        matrices = torch.stack([whole(step) for step in ahead]).unflatten(1, (group["stacked"], -1))
        rate = group["lr"] * (1 - self.found_inf)
        turned = orthogonal(matrices.flatten(0, 1)).mul_(rate * SIZE * max(matrices.shape[-2:]) ** 0.5)
        steps = turned.reshape(len(weights), *weights[0].shape).unbind()
        for weight, step in zip(weights, steps, strict=True):
            weight.mul_(1 - rate * group["weight_decay"]).sub_(shared_like(step, weight))

    def _momentum(self, weight: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]

    def _found(self, gradient: Tensor, momentum: Tensor) -> Tensor:
        """The gradient, or what leaves the momentum as it is."""
        apart = works_apart(gradient.device)
        return torch.where(self.found_inf > 0, momentum, gradient) if apart else gradient


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (K, N, M) with their singular values made 1, in their own dtype.

    To within a tenth, and what bf16 rounds, from 0.02 of the fourth root of the sum of their fourth powers
    on; proportionally less below. That root is never below the largest of them, and closer to it than the
    norm is. What is 0 stays 0.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / _norm(matrices).to(matrices)  # so that no square of it is lost
    square = x @ x.mT
    most = ROOM * _norm(square).sqrt()
    x, square = x / most.to(x), square / most.square().to(x)
    for i, (a, b, c) in enumerate(TOWARDS_1):
        square = x @ x.mT if i else square
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def _norm(x: Tensor) -> Tensor:
    """Of matrices (K, N, M), (K, 1, 1) float32, never 0."""
    found = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)
    return found.clamp(min=torch.finfo(torch.float32).tiny)


class Together(Optimizer):
    """Optimisers of different weights as one, whose state and groups are theirs.

    Where nothing works apart it is here that a step is left out whose `found_inf` is 1: of torch's fused ones
    not all would (on mps).
    """

    found_inf: Tensor

    def __init__(self, *parts: Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            part.state = self.state

    def step(self) -> None:  # type: ignore[override]
        if not works_apart(self.found_inf.device) and self.found_inf:
            return
        for part in self.parts:
            part.found_inf = self.found_inf  # type: ignore[attr-defined]
            part.step()


def adamw(network: Network, train: Train, dtype: torch.dtype) -> Optimizer:
    """AdamW; weight decay for the matrices of the trunk's layers alone."""
    matrices, rest = _sorted(network)
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return Together(AdamW(groups, lr=train.peak, betas=BETAS, fused=True))


def muon(network: Network, train: Train, dtype: torch.dtype) -> Optimizer:
    """Muon, with weight decay, for the matrices of the trunk's layers; AdamW without for all else."""
    matrices, rest = _sorted(network)
    stacked = {network.get_parameter(name): n for name, n in network.stacked().items()}
    groups: dict[int, list[nn.Parameter]] = defaultdict(list)
    for weight in matrices:
        groups[stacked.get(weight, 1)].append(weight)
    found: list[Optimizer] = []  # there may be no weights of one kind
    if groups:
        stacks = [{"params": weights, "stacked": n} for n, weights in groups.items()]
        found.append(Muon(stacks, train.peak, train.weight_decay, dtype))
    if rest:
        found.append(AdamW(rest, lr=train.peak, betas=BETAS, weight_decay=0.0, fused=True))
    return Together(*found)


Maker = Callable[[Network, Train, torch.dtype], Optimizer]
OPTIMIZERS: dict[str, Maker] = {"adamw": adamw, "muon": muon}


def make_optimizer(network: Network, train: Train, dtype: torch.dtype) -> Optimizer:
    """What updates the weights of a network that are trained, in a settled config. dtype: of its products.

    It does nothing in a step in which its `found_inf`, a tensor (), is 1; and keeps of a weight tensors of
    its shape, or (). Raises DdcliError for an unknown optimiser.
    """
    return find_optimizer(train.optimizer)(network, train, dtype)


def find_optimizer(name: str) -> Maker:
    """Raises DdcliError for a name that is none."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, ["auto", *OPTIMIZERS])
    return OPTIMIZERS[name]


def _sorted(network: Network) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of the trunk's layers, and all else that is trained."""
    inside = {id(weight) for layer in network.layers for weight in layer.parameters()}
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for weight in network.parameters():
        if weight.requires_grad:
            (matrices if weight.ndim == 2 and id(weight) in inside else rest).append(weight)
    return matrices, rest
