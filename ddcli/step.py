"""One step of training: clocks, noise, loss, update and weight average.

Legend: B sequences of a step, L length. What a step computes is a function of its number, the seed and the
weights, so a resumed run is the run that was never stopped.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from .annealing import Annealing
from .backbones.network import Network
from .backbones.transformer import Transformer
from .config import Config
from .data import Batch
from .denoiser import Head, NetworkDenoiser
from .device import asked_for, engine_of, sent
from .objective import Objective
from .optimizer import make_optimizer
from .process import Process
from .randomness import Streams, derive_seed
from .schedule import Times, stratified
from .weights import fill, weights_of, with_weights
from .world import ALONE, World, replicated, sharded, shared_like, whole, without_exchange


@dataclass(frozen=True)
class Task:
    """What a step computes: everything but the weights and the data."""

    process: Process
    objective: Objective
    times: Times
    given: float  # share of sequences with given spans, where the network reads clocks
    self_conditioned: float  # share of the steps in which the network is told a first guess of its own
    drop_prefix: float  # share of sequences whose beginning, of any length, is hidden
    drop_label: float  # share of records, where they have labels, whose label is not told
    bos_id: int  # what opens a record without a label
    blocks: int  # of a sequence: each has a clock of its own, and is told the clean ones before it
    annealing: Annealing
    seed: int

    def noised(self, batch: Batch, step: int, device: torch.device) -> "Noised":
        """Draw clocks and noise for a step; of some rows of its batch, what they have in the whole batch."""
        x0 = torch.tensor(batch.tokens)
        valid = torch.tensor(batch.valid)
        running = valid & ~torch.tensor(batch.given)
        rows = range(batch.first, batch.first + len(x0))
        rng = Streams([derive_seed(self.seed, "noise", step, row) for row in rows])
        if self.drop_label:
            x0[:, 0] = torch.where(rng.uniform() < self.drop_label, self.bos_id, x0[:, 0])
        t = self.objective.times(self.times(self._strata(step, batch.of)[rows.start : rows.stop]))
        t = t.repeat_interleave(x0.shape[1] // self.blocks, 1)
        if self.given:
            running &= ~given_spans(running, self.given, rng)
        hidden = hidden_prefixes(running, self.drop_prefix, rng)
        running &= ~hidden
        clock = torch.where(running, t, hidden.double())
        xt = self.process.noise(x0, clock, rng)
        asked = self.process.unknown(xt, clock) & running
        count, padded = int(running.sum()), not bool(valid.all())
        x0, xt, clock, running, valid = (sent(x, device) for x in (x0, xt, clock, running, valid))
        ahead = self.annealing.ahead(step, x0.shape[1])
        ahead = None if ahead is None else sent(ahead, device)
        return Noised(x0, xt, clock, running, valid, asked, padded, count, self._guesses(step), ahead)

    def _guesses(self, step: int) -> bool:
        """Whether the network is told a guess in this step."""
        if not self.self_conditioned:
            return False
        return Streams([derive_seed(self.seed, "guess", step)]).uniform().item() < self.self_conditioned

    def _strata(self, step: int, rows: int) -> Tensor:
        """Uniform numbers, (rows, blocks), one in each of as many equal strata, dealt out at random."""
        u, order = Streams([derive_seed(self.seed, "times", step)]).uniform(2, rows * self.blocks)[0]
        return stratified(u)[order.argsort()].view(rows, self.blocks)

    def loss(self, denoiser: NetworkDenoiser, noised: "Noised") -> Tensor:
        """Sum of the objective over a (part of a) batch, in nats."""
        rows = noised.asked
        valid = noised.valid if noised.padded else None
        told = {"clean": noised.x0} if self.blocks > 1 else {}
        if noised.ahead is not None:
            told["ahead"] = noised.ahead
        if self.self_conditioned:
            told["guess"] = self._guess(denoiser, noised, valid)
        cost, of = partial(self.cost, denoiser.head), (noised.x0, noised.xt, noised.clock)
        return denoiser.total(cost, of, noised.xt, noised.clock, rows, valid, **told)

    def cost(self, head: Head, logits: Tensor, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """The objective, nats (n,), of what a head puts out (n, V), float32."""
        log_p = self.objective.reads(head)(self.process, logits, xt, t)
        return self.objective(self.process, log_p, x0, xt, t)

    @torch.no_grad()
    def _guess(self, denoiser: NetworkDenoiser, noised: "Noised", valid: Tensor | None) -> Tensor:
        """What the network expects before it is told any guess, (B, L, D); 0 in a share of the steps."""
        network = denoiser.network
        assert isinstance(network, Transformer)
        nothing = torch.zeros(*noised.xt.shape, network.config.width, device=noised.xt.device)
        if not noised.guessed:
            return nothing
        expected = denoiser.expected(noised.xt, noised.clock, noised.asked, valid, guess=nothing)
        rows = sent(noised.asked, nothing.device)
        return nothing.masked_scatter(rows[..., None], expected.to(nothing))


def gradient_noise(
    task: Task,
    denoiser: NetworkDenoiser,
    batches: Sequence[Batch],
    step: int,
    device: torch.device,
    micro_batches: int = 1,
    world: World = ALONE,
) -> tuple[float, float]:
    """How much the gradient varies from batch to batch, E|g - E g|^2, and its squared mean, |E g|^2.

    Both unbiased: of the squared mean of n gradients, the n-th part of their variance is chance, and taken
    off, so the estimate may fall below 0. Their quotient is what ranges of time are compared by, whose losses
    have different weights. step: by which noise is drawn, that of the first batch. Leaves no gradient behind.
    Of batches that are shared out, each process is given its own rows.
    """
    assert isinstance(denoiser.network, nn.Module)
    weights = [weight for weight in denoiser.network.parameters() if weight.requires_grad]
    total, squares = [torch.zeros_like(weight) for weight in weights], 0.0
    for i, batch in enumerate(batches):
        noised = task.noised(batch, step + i, device)
        gradient = [torch.zeros_like(weight) for weight in weights]
        count = max(1, int(world.all(noised.count).sum()))
        for part in noised.split(micro_batches):
            loss = task.loss(denoiser, part) / count
            found = torch.autograd.grad(loss, weights, materialize_grads=True)
            torch._foreach_add_(gradient, found)
        world.add_up(gradient)
        torch._foreach_add_(total, gradient)
        squares += sum(squared(g) for g in gradient)
    n = len(batches)
    mean = sum(squared(g) for g in total) / n**2
    variance = (squares / n - mean) * n / (n - 1)
    return variance, mean - variance / n


def squared(x: Tensor) -> float:
    """The sum of the squares of some numbers."""
    return x.to(engine_of(x.device)).double().square().sum().item()


@dataclass(frozen=True)
class Noised:
    """A batch on its way: x0, xt (B, L) tokens, clock (B, L), running and valid (B, L) bool, on a device.

    asked (B, L) bool, on the CPU: whose token is not known, so that it is predicted.
    """

    x0: Tensor
    xt: Tensor
    clock: Tensor
    running: Tensor
    valid: Tensor
    asked: Tensor
    padded: bool
    count: int  # running positions
    guessed: bool = False
    ahead: Tensor | None = None  # (L, L) bool: where a decoder looks ahead, if not everywhere

    def split(self, parts: int) -> Iterator["Noised"]:
        of_rows = ("x0", "xt", "clock", "running", "valid", "asked")
        chunks = (getattr(self, name).tensor_split(parts) for name in of_rows)
        for some in zip(*chunks, strict=True):
            yield replace(self, **dict(zip(of_rows, some, strict=True)))


def given_spans(running: Tensor, share: float, rng: Streams) -> Tensor:
    """Positions to give away clean, (B, L) bool: mixed clocks for networks that read them.

    In a `share` of the sequences, either a span or all but a span is given, with even ends. Without this, a
    network that only ever saw one clock per sequence learns to ignore its input near t = 1, context included.
    """
    mixed, inside, start, end = rng.uniform(4)[:, :, None].unbind(1)
    position = (running.cumsum(-1) - 0.5) / running.sum(-1, keepdim=True).clamp(min=1)
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    within = (position >= low) & (position < high)
    return (mixed < share) & (within ^ (inside < 0.5)) & running


def hidden_prefixes(running: Tensor, share: float, rng: Streams) -> Tensor:
    """Positions to hide altogether, (B, L) bool: so a network learns to do without a prompt."""
    if not share:
        return torch.zeros_like(running)
    whether, end = rng.uniform(2)[:, :, None].unbind(1)
    position = running.cumsum(-1) / running.sum(-1, keepdim=True).clamp(min=1)
    return running & (whether < share) & (position < end)


def learning_rate(step: int, config: Config) -> float:
    """Share of the peak at a step: linear warm-up, a plateau, a linear decay to 0 at the end."""
    train = config.train
    rising = (step + 1) / (train.rising_steps + 1)
    falling = (train.steps - step) / max(1.0, train.falling_share * train.steps)
    return min(1.0, rising, falling)


# -- everything that changes while training ---------------------------------------------------------------


class Loss(nn.Module):
    """The loss of a step as a module, which is what weights are spread over processes with."""

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        super().__init__()
        assert isinstance(denoiser.network, nn.Module)
        self.network = denoiser.network
        self._denoiser = denoiser

    def forward(self, task: Task, noised: Noised) -> Tensor:
        """Sum of the objective over a part of a batch, in nats."""
        return task.loss(self._denoiser, noised)


@dataclass
class State:
    """Network, optimiser and weight average, at a step. What a checkpoint holds.

    Of several processes each has all of it, or (`train.shard`) a share.
    """

    network: Network
    loss: nn.Module  # of the network, which may be spread over processes
    optimizer: torch.optim.Optimizer
    ema: dict[str, Tensor]  # float32
    world: World = ALONE
    plain: Network | None = None  # the network without weights, where processes share them
    step: int = 0

    @classmethod
    def fresh(cls, denoiser: NetworkDenoiser, config: Config, world: World = ALONE) -> "State":
        network, plain = cast(Network, denoiser.network), None
        loss: nn.Module = Loss(denoiser)
        if world.size > 1 and config.train.shard:
            device = next(network.parameters()).device
            plain = with_weights(network, {k: w.to("meta") for k, w in weights_of(network).items()})
            loss = sharded(loss, network.layers, device)
        elif world.size > 1:
            loss = replicated(loss)
        ema = {name: weight.float().clone() for name, weight in weights_of(network).items()}
        return cls(network, loss, make_optimizer(network, config.train, denoiser.dtype), ema, world, plain)

    def descend(self, task: Task, noised: Noised, count: int, parts: int) -> Tensor:
        """Find the gradient of the loss over a batch, or over this process's rows of it, in some parts.

        count: predicted positions of the whole batch. Returns the rows' share of the loss, nats per token,
        float64, which a device that works apart may still have to find.
        """
        total = torch.zeros((), dtype=torch.float64, device=noised.x0.device)
        for i, part in enumerate(noised.split(parts)):
            seed = derive_seed(task.seed, "dropout", self.step, self.world.rank, i)
            apart = nullcontext() if i + 1 == parts else without_exchange(self.loss)
            with apart, self.network.dropping(seed):
                loss = self.loss(task, part) / count
                summed = loss * self.world.size  # as gradients are averaged over processes
                summed.backward()
            total += loss.detach()
        return total

    @torch.no_grad()
    def update(self, loss: Tensor, config: Config) -> tuple[float, float]:
        """One update by the gradient that was found. Returns the loss and the gradient's norm.

        Where one of them is no number, the weights stay as they are, and so does all that follows them. They
        are waited for only when a device that works apart has been given its update to do.
        """
        norm = whole(nn.utils.clip_grad_norm_(self.network.parameters(), config.train.clip))
        found = torch.stack([loss, norm.to(loss.device).to(loss.dtype)])
        numbers = asked_for(found)
        for group in self.optimizer.param_groups:
            group["lr"] = config.train.peak * learning_rate(self.step, config)
        # at which a fused optimiser does nothing, as under a scaler of gradients
        self.optimizer.found_inf = (~found.isfinite().all()).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        newest = self._newest()
        loss_found, norm_found = numbers()
        if math.isfinite(loss_found) and math.isfinite(norm_found):
            self._average(newest, config)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss_found, norm_found

    def _newest(self) -> list[Tensor]:
        """The weights, as they are averaged."""
        weights = weights_of(self.network)
        return [weights[name].float() for name in self.ema]

    def _average(self, newest: list[Tensor], config: Config) -> None:
        """Weights averaged over the last `ema` share of the run, and over less while it is young."""
        horizon = max(1.0, config.train.ema * config.train.steps)
        keep = min(1 - 1 / horizon, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.values()), newest, 1 - keep)

    @contextmanager
    def averaged(self) -> Iterator[Network]:
        """The network on its averaged weights, all of them in this process."""
        if self.plain is not None:
            yield with_weights(self.plain, {name: whole(weight) for name, weight in self.ema.items()})
            return
        own = {name: weight.clone() for name, weight in weights_of(self.network).items()}
        fill(self.network, self.ema)
        try:
            yield self.network
        finally:
            fill(self.network, own)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Steps of a state that is fresh, which leave no trace."""
        weights = {name: weight.clone() for name, weight in weights_of(self.network).items()}
        try:
            yield
        finally:
            fill(self.network, weights)
            self.optimizer.state.clear()
            for name, average in self.ema.items():
                average.copy_(weights[name])
            self.step = 0

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What is to be saved, whole, for the process that leads; the others help, and get nothing."""
        by_parameter = dict(self.network.named_parameters())
        moments = {
            f"{name}/{key}": value
            for name, parameter in by_parameter.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        groups = {"weights": weights_of(self.network), "ema": self.ema, "optimizer": moments}
        saved: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                everything = whole(tensor)
                if self.world.leads:
                    saved[group][name] = everything if everything is tensor else everything.cpu()
        return saved

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Go on from what was saved, by however many processes."""
        own = weights_of(self.network)
        fill(self.network, {name: shared_like(groups["weights"][name], own[name]) for name in own})
        for name, weight in groups["ema"].items():
            self.ema[name].copy_(shared_like(weight, self.ema[name]))
        for name, weight in self.network.named_parameters():
            moments = groups["optimizer"]
            self.optimizer.state[weight] = {
                key.removeprefix(f"{name}/"): _as_state(value, weight)
                for key, value in moments.items()
                if key.startswith(f"{name}/")
            }
        self.step = step


def _as_state(value: Tensor, weight: Tensor) -> Tensor:
    """What an optimiser keeps of a weight: as large as it, or a number."""
    own = shared_like(value, weight) if value.shape == weight.shape else value
    return own.to(weight.device, copy=True)
