"""Denoisers: what the network believes about x_0, asked for chosen positions only.

Legend: B batch, L length, N positions asked for, V states. Whatever a network predicts, a denoiser answers
with the *leave-one-out* belief, what the other positions say about x_0; processes and samplers build on that.
A head's meaning is declared, and converted here, in log space.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from .backbones.transformer import KeysValues, Transformer
from .compiled import Compiled, CompiledForMany
from .device import engine_of, sent
from .errors import DdcliError, unknown
from .objective import Objective
from .process import (
    Masking,
    Matrices,
    Process,
    clean_posterior,
    flat_text,
    leave_one_out,
    log_ratios,
    refuse_order,
)

# training pads rows to a multiple: a CPU keeps a kernel, and megabytes, for each size it meets
ROW_COUNT = 128
MANY = 8192  # entries of a vocabulary
AT_ONCE = {"cpu": 2**24, "cuda": 2**28, "mps": 2**24}  # logits that training holds at once, if it can

# of what layers make, on a CPU and where logits are many: a quarter less memory at least, for 2 % of a step's
# time. Where they are few it would be 4 %.
KEPT = 0.5
SLICE = 2**20  # numbers that are added up at once

FAINTEST = 0.03  # alpha, as which a score of less is read


class Denoiser(Protocol):
    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        """log p0, (N, V) float32, at the N positions of `rows` (B, L) bool, in the order of nonzero().

        xt (B, L) tokens, t (B, L) clocks, valid (B, L) bool: False at padding, None where there is none.
        told: what only some networks are told, a row for each sequence: `clean` (B, L), what stands in the
        blocks before each one, where xt is noisy in all of them at once.
        """


class Backbone(Protocol):
    """A network in two halves."""

    @property
    def trunk(self) -> Callable[..., Tensor]:
        """Hidden states (B, L, D) of tokens (B, L), clocks (B, L) float32, `valid`, and what else is told; of
        our own network, where it is told them, at the `chosen` positions alone, (N, D)."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) of hidden states (N, D); or of more entries, of which those behind V mean nothing."""

    def head_weights(self) -> list[Tensor]:
        """The weights to be trained that the head makes logits with."""


# -- what the numbers of a head stand for -----------------------------------------------------------------


class Head(Protocol):
    """The meaning of a head's logits (N, V or more), and its conversions, float32: all of them, only here."""

    def check(self, process: Process) -> None:
        """Raise DdcliError where a head of this meaning cannot serve the process."""

    def belief(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """log p0 (N, V): what the other positions say of x_0, for tokens xt (N,) at clocks t (N,)."""

    def posterior(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """log p(x_0 | x_t), (N, V): the belief times the own token's say."""

    def score(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """ln p_t(y) - ln p_t(xt) for every y, (N, V), p_t by the other positions; 0 at xt."""


class LeaveOneOut:
    """The softmax is what the *other* positions say of x_0.

    At masks that is the posterior too, since a mask says nothing of its own. Elsewhere a network learns it
    where its belief is plugged into the bound, or where the own token's say is added outside of it.
    """

    def check(self, process: Process) -> None:
        pass

    def belief(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        barred = process.vocabulary.barred_on(logits.device).to(logits)
        # added: a compiler for CPUs is three times slower to choose by a table of bools (docs/log.md)
        return (logits[..., : len(barred)] + barred).log_softmax(-1)

    def posterior(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        return clean_posterior(process, self.belief(process, logits, xt, t), xt, t)

    def score(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        return log_ratios(process, self.belief(process, logits, xt, t), xt, t)


class Posterior(LeaveOneOut):
    """The softmax is p(x_0 | x_t), the own token's say included, as plain cross-entropy teaches it."""

    def check(self, process: Process) -> None:
        if isinstance(process, Matrices):
            raise DdcliError(
                "a posterior head cannot serve noise by matrices: what the own token rules out early on "
                "cannot be divided out again; use --set model.predicts=leave-one-out"
            )
        refuse_order(process, "leave model.predicts out")

    def belief(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        return leave_one_out(process, self.posterior(process, logits, xt, t), xt, t)

    def posterior(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        return super().belief(process, logits, xt, t)


class Score:
    """The logits are the log score, less that of one who knows nothing of the text (SEDD, arXiv:2310.16834).

    For absorbing noise this is SEDD's scaling by sigma, up to a constant. A score need not be any belief's;
    the nearest belief is what samplers and bounds are given.
    """

    def check(self, process: Process) -> None:
        refuse_order(process, "leave model.predicts out")
        if process.timesteps is not None:
            raise DdcliError("noise given as steps has no scores; use --set model.predicts=leave-one-out")

    def score(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        ignorant = flat_text(process, logits.device).to(logits)
        logits = logits[..., : len(ignorant)]
        ignorant = ignorant.expand_as(logits)
        return (logits + log_ratios(process, ignorant, xt, t)).scatter(-1, xt[..., None], 0.0)

    def belief(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """The belief is the score's contrast over alpha, and its error the network's over alpha.

        Below FAINTEST, where there is next to nothing to know, contrasts are read as if alpha were that:
        beliefs go flat instead of wild. So little hangs on them that a sampler's law differs by the order of
        its square.
        """
        latest = process.schedule.when(torch.tensor(1 - FAINTEST, dtype=torch.float64))
        now = t.minimum(latest.to(t))
        return process.unmix(self.score(process, logits.double(), xt, now).log_softmax(-1), now).to(logits)

    def posterior(self, process: Process, logits: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        return clean_posterior(process, self.belief(process, logits, xt, t), xt, t)


HEADS: dict[str, Head] = {"leave-one-out": LeaveOneOut(), "posterior": Posterior(), "score": Score()}


def find_head(name: str, process: Process) -> Head:
    """A head by what it predicts. Raises DdcliError for an unknown one, or one the process has no use for."""
    if name not in HEADS:
        raise unknown("head", name, HEADS)
    HEADS[name].check(process)
    return HEADS[name]


def check_taught(name: str, objective: Objective, process: Process) -> None:
    """Raises DdcliError for a head, by its name, that an objective cannot teach under this noise.

    A belief read off a score is its contrast, cut off at 0: where a network is wrong its gradient ends.
    """
    if isinstance(HEADS[name], Score) and objective.teaches != name and not isinstance(process, Masking):
        raise DdcliError(
            "model.predicts=score learns by score entropy alone where noise leaves tokens visible; use "
            "--objective score-entropy, or leave model.predicts out"
        )


def default_head(objective: Objective, process: Process) -> str:
    """What a head comes to mean by an objective; the belief itself where the process cannot use that."""
    try:
        find_head(objective.teaches, process)
    except DdcliError:
        return "leave-one-out"
    return objective.teaches


# -- networks ---------------------------------------------------------------------------------------------


class SumInParts(torch.autograd.Function):
    """The sum of a function over parts of some rows (N, D), whose gradient is found part by part on the way.

    What a part needs in between is gone before the next, and nothing is computed twice. Matrices that are
    trained are rounded to the precision that is computed in once, not for each part; sums over parts are as
    fine as the weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        of: Callable[[Tensor, int, list[Tensor]], Tensor],
        size: int,
        dtype: torch.dtype,
        rows: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """of(part (n, D), where it starts, `weights`, rounded) -> a scalar."""
        total: Tensor | float = 0.0
        slope = torch.empty_like(rows)
        rounded = [w.detach().to(dtype if w.ndim == 2 else w.dtype).requires_grad_() for w in weights]
        slopes: list[Tensor] = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size].detach().requires_grad_()
            with torch.enable_grad():
                found = of(part, start, rounded)
            slope[start : start + size], *some = torch.autograd.grad(found, [part, *rounded])
            if slopes:
                for sum_of, more in zip(slopes, some, strict=True):
                    add_up(sum_of, more)
            else:
                slopes = [more.to(weight.dtype) for more, weight in zip(some, weights, strict=True)]
            total = total + found.detach()
        ctx.save_for_backward(slope, *slopes)
        assert isinstance(total, Tensor)  # there are rows
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        # in place: what is saved is read once, and a second reading would be refused
        return None, None, None, *(slope.mul_(upstream[0].to(slope)) for slope in ctx.saved_tensors)


def add_up(total: Tensor, more: Tensor) -> None:
    """total += more; of rounded numbers on a CPU in slices, since it makes a copy of what it adds first."""
    if total.ndim < 2 or not total.numel() or total.dtype == more.dtype or total.device.type != "cpu":
        total += more
        return
    rows = max(1, SLICE // total[0].numel())
    for some, others in zip(total.split(rows), more.split(rows), strict=True):
        some += others


class HeadOf(nn.Module):
    """The head of a network as a module, such that it can be lent other weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(Backbone, self.network).head(hidden)

    def names(self, weights: Sequence[Tensor]) -> list[str]:
        """Those of some of its weights."""
        by_weight = {id(weight): name for name, weight in self.named_parameters()}
        return [by_weight[id(weight)] for weight in weights]

    def with_lent(self, weights: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Logits (N, V) of hidden states (N, D), with other weights in place of some of its own."""
        return cast(Tensor, functional_call(self, dict(weights), (hidden,)))


def price(cost: Callable[..., Tensor], logits: Tensor, counts: Tensor, *of: Tensor) -> Tensor:
    """The sum of cost(logits (n, V), *of (n,)) -> (n,) over the rows that `counts` (n,)."""
    return torch.where(counts, cost(logits.float(), *of), 0.0).sum()


class NetworkDenoiser:
    """A network with a trunk and a head.

    It may be on a device that knows no float64. What it is asked, and what becomes of its answers, is then on
    the processor (`device.engine_of`), and is sent from here, one way and the other.
    """

    def __init__(self, network: Backbone, process: Process, head: Head, dtype: torch.dtype) -> None:
        self.network = network
        self.process = process
        self.head = head
        self.dtype = dtype
        self.trunk: Callable[..., Tensor] = network.trunk
        self._price: Callable[..., Tensor] = price
        self._head = HeadOf(cast(nn.Module, network))

    def compile(self, log: Callable[[str], None], *, varies: bool = False) -> None:
        """Compile the trunk at its first use; where that cannot be done, say so and stay eager. varies:
        whether the number of sequences does, from call to call.

        So too what training makes of logits, if noise only masks: other costs are long to compile, and so is
        any on a CPU, which pays where there are many logits.
        """
        network = self.network
        on_cpu = isinstance(network, Transformer) and network.embedding.weight.device.type == "cpu"
        spares = on_cpu and self.process.vocabulary.size >= MANY
        made = CompiledForMany if varies else Compiled
        self.trunk = made(network.trunk, log, kept=KEPT if spares else 1.0, any_length=("chosen",))
        if isinstance(self.process, Masking):
            self._price = Compiled(price, log)

    def round_layers(self) -> None:
        """Round the matrices of our own network's layers to the precision in which they are multiplied, once
        and for all: for a network that is neither trained any more nor saved. It is answered as before."""
        if isinstance(self.network, Transformer):
            for weight in self.network.blocks.parameters():
                if weight.ndim == 2:
                    weight.data = weight.data.to(self.dtype)

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return next(self._head.parameters()).device

    @property
    def _chooses(self) -> bool:
        """Whether the trunk is told which positions are asked about: on a CPU. A GPU, for which it may be
        recorded as CUDA graphs, would need one for each number of them."""
        return isinstance(self.network, Transformer) and self.device.type == "cpu"

    def precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def hidden(
        self, xt: Tensor, t: Tensor, chosen: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        """Hidden states (N, D) of the `chosen` (N,) of B * L positions, where the network is."""
        device = self.device
        chosen = sent(chosen, device)
        if self._chooses:
            told = {"chosen": chosen, **told}
        some = {name: sent(value, device) for name, value in told.items()}
        shown = None if valid is None else sent(valid, device)
        with self.precision():
            found = self.trunk(sent(xt, device), sent(t.float(), device), shown, **some)
        return found[: len(chosen)] if self._chooses else found.flatten(0, 1).index_select(0, chosen)

    def go_on(
        self, xt: Tensor, t: Tensor, start: int, past: Sequence[KeysValues] | None
    ) -> tuple[Tensor, list[KeysValues]]:
        """Of a network of blocks, hidden states (B, n, D), keys and values, where it is; see there."""
        network = cast(BlockNetwork, self.network)
        with self.precision():
            return network.go_on(sent(xt, self.device), sent(t.float(), self.device), start, past)

    def answer(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) float32 of hidden states (N, D), by a head that computes as finely: in bf16 a logit
        between 16 and 32 is off by up to 1/16, and its probability by 6 %."""
        return sent(self.network.head(hidden.float()), engine_of(hidden.device))

    def expected(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        """The mean embedding (N, D) of what is believed at each of the N positions of `rows`, by a network of
        ours; arguments, and memory, as those of `total`."""
        chosen = sent(rows.flatten().nonzero()[:, 0], xt.device)
        hidden = self.hidden(xt, t, chosen, valid, **told)
        parts = zip(hidden.split(self._at_once), chosen.split(self._at_once), strict=True)
        beliefs = (self.belief(part, xt, t, some) for part, some in parts)
        return torch.cat([cast(Transformer, self.network).expected(log_p0) for log_p0 in beliefs])

    @property
    def _at_once(self) -> int:
        """Positions whose logits there are at once in training; a multiple of ROW_COUNT."""
        logits = AT_ONCE[self.device.type]
        return max(ROW_COUNT, logits // self.process.vocabulary.size // ROW_COUNT * ROW_COUNT)

    def total(
        self,
        cost: Callable[..., Tensor],
        of: Sequence[Tensor],
        xt: Tensor,
        t: Tensor,
        rows: Tensor,
        valid: Tensor | None = None,
        **told: Tensor,
    ) -> Tensor:
        """The sum over the N positions of `rows` of cost(logits (n, V), *what it is `of` (n,)) -> (n,).

        of: tensors (B, L). rows (B, L) bool is best on the CPU: then nobody waits for a device that works
        apart. Where the vocabulary is large, logits and all that is made of them are those of a few rows at a
        time, and gone before the next: memory does not grow with N V.
        """
        chosen = rows.flatten().nonzero()[:, 0]
        spare = -len(chosen) % ROW_COUNT
        counts = F.pad(torch.ones_like(chosen, dtype=torch.bool), (0, spare))
        chosen = sent(torch.cat([chosen, chosen[:1].expand(spare)]), xt.device)
        counts = sent(counts, xt.device)
        hidden = self.hidden(xt, t, chosen, valid, **told)
        of = [x.flatten()[chosen] for x in of]
        size = self._at_once

        self.process.vocabulary.barred_on(xt.device)  # which no compiler has to look for, then
        few = xt.device.type == "cpu" and self.process.vocabulary.size < MANY
        pricing = price if few else self._price

        def priced(part: Tensor, start: int, head: Callable[[Tensor], Tensor] = self.network.head) -> Tensor:
            here = slice(start, start + len(part))
            with self.precision():
                logits = sent(head(part), xt.device)
            return pricing(cost, logits, counts[here], *(x[here] for x in of))

        if len(hidden) <= size or not torch.is_grad_enabled():
            parts = enumerate(hidden.split(size))
            return sum((priced(part, i * size) for i, part in parts), torch.zeros((), device=xt.device))
        weights = self.network.head_weights()
        names = self._head.names(weights)

        def with_lent(part: Tensor, start: int, lent: Sequence[Tensor]) -> Tensor:
            return priced(part, start, partial(self._head.with_lent, dict(zip(names, lent, strict=True))))

        return SumInParts.apply(with_lent, size, self.dtype, hidden, *weights)

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        chosen = rows.flatten().nonzero()[:, 0]
        return self.belief(self.hidden(xt, t, chosen, valid, **told), xt, t, chosen)

    def belief(self, hidden: Tensor, xt: Tensor, t: Tensor, chosen: Tensor) -> Tensor:
        """log p0 (N, V) of hidden states (N, D) of the `chosen` (N,) of B * L positions of xt and t (B, L).

        By numbers, where nobody waits for a device to count how many there are.
        """
        at_chosen = (x.flatten().index_select(0, chosen) for x in (xt, t))
        return self.head.belief(self.process, self.answer(hidden), *at_chosen)

    def belief_at(self, hidden: Tensor, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """log p0 (N, V) at the N positions of `rows` (B, L) bool, of hidden states (B, L, D) of all."""
        chosen = rows.flatten().nonzero()[:, 0]
        return self.belief(hidden.flatten(0, 1).index_select(0, sent(chosen, hidden.device)), xt, t, chosen)


class SelfConditioned:
    """Tells the network what it last believed (Analog Bits, arXiv:2208.04202), over the steps of one run.

    For that it is asked about all positions that are unknown, not only those that a step needs.
    """

    def __init__(self, denoiser: Denoiser, network: Transformer, process: Process) -> None:
        self.denoiser = denoiser
        self.network = network
        self.process = process
        self.guess: Tensor | None = None  # (B, L, D), what is expected of each position

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        if self.guess is None:
            self.guess = torch.zeros(*xt.shape, self.network.config.width, device=xt.device)
        asked = (self.process.unknown(xt, t) & (t > 0)) | rows
        asked &= rows.any(-1, keepdim=True)  # a sequence that needs nothing is not computed
        log_p0 = self.denoiser(xt, t, asked, valid, guess=self.guess, **told)
        computed = rows.any(-1)[:, None, None]  # the others keep theirs; a position that is known has none
        expected = self.network.expected(log_p0).to(self.guess)
        self.guess = self.guess.masked_fill(computed, 0.0).masked_scatter(asked[..., None], expected)
        return log_p0[rows[asked]]


class BlockNetwork(Backbone, Protocol):
    """A network of blocks, each of which sees itself and those before it. Also told of what is `clean`."""

    @property
    def block(self) -> int:
        """Positions of each."""

    @property
    def window(self) -> int:
        """Blocks that are seen, its own included."""

    def go_on(
        self, input_ids: Tensor, clock: Tensor | None, start: int, past: Sequence[KeysValues] | None
    ) -> tuple[Tensor, list[KeysValues]]:
        """Hidden states of the whole blocks (B, n) that begin at position `start`, after what is in `past`.

        past: keys and values of each layer, of the positions just before `start`. Returns those of the new
        positions, which are of use once these are clean.
        """


class Cached:
    """A network of blocks, asked about one block at a time: what stands before it is computed only once.

    Exact: finished blocks never look at later ones, so their keys and values stay what they were. One run's.
    Kept for each sequence under its text, as far as it is finished, so that a call may ask about any of them,
    each in a block of its own if they are asked about one by one. Of those that are asked about together in
    several blocks, the whole network is. A text that skips a block is read from its beginning again.
    """

    def __init__(self, how: "OneByOne | Batched", denoiser: NetworkDenoiser, network: BlockNetwork) -> None:
        """how: sequences are asked about one by one, or together; whom it asks otherwise does not matter."""
        self.how = how
        self.denoiser = denoiser
        self.network = network
        self._run: Tensor  # all sequences, (B, L)
        self._held: dict[bytes, list[KeysValues]] = {}  # of one sequence each, by its text
        self._joined: tuple[list[bytes], list[KeysValues]] = [], []  # put together last, and of which texts

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        self._run = xt
        return replace(self.how, denoiser=self._belief)(xt, t, rows, valid, **told)

    def _belief(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        block = self.network.block
        asked = rows.any(0).nonzero()[:, 0] // block
        start, end = int(asked.min()) * block, (int(asked.max()) + 1) * block
        if valid is not None or told or end - start > block or bool((t[:, :start] > 0).any()):
            return self.denoiser(xt, t, rows, valid, **told)
        now = slice(start, end)
        past = self._past(xt[:, :start])
        hidden, _ = self.denoiser.go_on(xt[:, now], t[:, now], start, past)
        return self.denoiser.belief_at(hidden, xt[:, now], t[:, now], rows[:, now])

    def _past(self, ids: Tensor) -> list[KeysValues] | None:
        """Keys and values of finished blocks, (B, n), as far back as the next one looks."""
        if not ids.shape[1] or self.network.window == 1:
            return None
        texts = [one.tobytes() for one in ids.cpu().numpy()]
        new = {text: row for row, text in enumerate(texts) if text not in self._held}
        if new:
            self._read(ids, new)
        return self._together(texts)

    def _read(self, ids: Tensor, new: Mapping[bytes, int]) -> None:
        """Compute and keep those of new texts, each in a row of ids (B, n): of the last block alone, where
        those of all before it are kept."""
        block, (_, n) = self.network.block, ids.shape
        before = {text: text[: -block * ids.element_size()] for text in new}
        gone_on = [text for text in new if before[text] in self._held]
        for texts in (gone_on, [text for text in new if text not in gone_on]):
            if not texts:
                continue
            past = self._together([before[text] for text in texts]) if texts is gone_on else None
            first = n - block if past else 0
            some = ids[[new[text] for text in texts], first:]
            _, present = self.denoiser.go_on(some, torch.zeros(some.shape, device=ids.device), first, past)
            if past is not None:
                present = [followed(*pair) for pair in zip(past, present, strict=True)]
            found = [laid_out(layer, slice(-(self.network.window - 1) * block, None)) for layer in present]
            for i, text in enumerate(texts):
                self._held[text] = [(keys[i : i + 1], values[i : i + 1]) for keys, values in found]
            self._joined = texts, found
        self._leave({before[text] for text in gone_on})

    def _leave(self, texts: Collection[bytes]) -> None:
        """Forget texts behind which others went on, unless a sequence of the run is there still."""
        rows = [row.tobytes() for row in self._run.cpu().numpy()]
        for text in texts:
            longer = tuple(one for one in self._held if len(one) > len(text))
            if all(row.startswith(longer) for row in rows if row.startswith(text)):
                del self._held[text]

    def _together(self, texts: list[bytes]) -> list[KeysValues]:
        """Those of some texts as of a batch; copied, unless it is the batch that was put together last."""
        if texts != self._joined[0]:
            self._joined = [], []  # so that there is room
            layers = zip(*(self._held[text] for text in texts), strict=True)
            self._joined = texts, [as_batch(layer) for layer in layers]
        return self._joined[1]


def as_batch(some: Sequence[KeysValues]) -> KeysValues:
    """Keys and values of one sequence each, as those of all of them."""
    if len(some) == 1:
        return some[0]
    keys, values = (torch.cat(parts) for parts in zip(*some, strict=True))
    return keys, values


def laid_out(layer: KeysValues, some: slice) -> KeysValues:
    """Keys and values of some positions, as they lie best to be read again and again."""
    keys, values = (x[:, :, some].contiguous() for x in layer)
    return keys, values


def followed(past: KeysValues, new: KeysValues) -> KeysValues:
    """Keys and values of both, one behind the other."""
    keys, values = (torch.cat(both, 2) for both in zip(past, new, strict=True))
    return keys, values


class PrefixCached:
    """A network that sees all positions, asked block after block: keys and values of what stands before the
    block that is being written stay as they were when it was begun. *Approximate*.

    What is before a block no longer changes, but would look at what is written after it; that is what is
    left out (the prefix cache of Fast-dLLM, arXiv:2505.22618). One run's, one sequence at a time.
    """

    def __init__(self, denoiser: NetworkDenoiser, network: Transformer, block: int) -> None:
        self.denoiser = denoiser
        self.network = network
        self.block = block
        self._held: dict[int, tuple[int, list[KeysValues]]] = {}  # of each sequence: of how many positions

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        beliefs = []
        for i in rows.any(-1).nonzero()[:, 0].tolist():
            n = xt.shape[1] if valid is None else int(valid[i].sum())
            beliefs.append(self._belief(i, xt[i : i + 1, :n], t[i : i + 1, :n], rows[i : i + 1, :n]))
        return torch.cat(beliefs)

    def _belief(self, sequence: int, xt: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        start = int(rows[0].nonzero()[0]) // self.block * self.block
        length, past = self._held.get(sequence, (-1, None))
        if past is None or length != start:
            hidden, present = self.denoiser.go_on(xt, t, 0, None)
            self._held[sequence] = start, [laid_out(layer, slice(start)) for layer in present]
            hidden = hidden[:, start:]
        else:
            hidden, _ = self.denoiser.go_on(xt[:, start:], t[:, start:], start, past)
        return self.denoiser.belief_at(hidden, xt[:, start:], t[:, start:], rows[:, start:])


@dataclass(frozen=True)
class OneByOne:
    """Asks for one sequence at a time, without its padding, and not at all where no position is asked for.

    Matrix kernels round differently for another batch size; so a sequence's beliefs, to the last bit, do not
    depend on its neighbours.
    """

    denoiser: Denoiser

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        beliefs = []
        for i in rows.any(-1).nonzero()[:, 0].tolist():
            n = xt.shape[1] if valid is None else int(valid[i].sum())
            one = {name: value[i : i + 1, :n] for name, value in told.items()}
            beliefs.append(self.denoiser(xt[i : i + 1, :n], t[i : i + 1, :n], rows[i : i + 1, :n], **one))
        return torch.cat(beliefs)


@dataclass(frozen=True)
class Batched:
    """Asks for all sequences that need it in one call."""

    denoiser: Denoiser

    def __call__(
        self, xt: Tensor, t: Tensor, rows: Tensor, valid: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        asked = rows.any(-1).nonzero()[:, 0]
        some = {name: value[asked] for name, value in told.items()}
        return self.denoiser(
            xt[asked], t[asked], rows[asked], None if valid is None else valid[asked], **some
        )
