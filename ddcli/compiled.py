"""Functions of tensors that are compiled at their first use."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .device import out_of_memory

GRAPHS = 40  # that are kept: each holds memory, and is recorded at its second use


class Compiled:
    """Compiled at its first use; where that cannot be done, it says so and stays eager."""

    def __init__(
        self,
        plain: Callable[..., Tensor],
        log: Callable[[str], None],
        *,
        kept: float = 1.0,
        any_length: Sequence[str] = (),
    ) -> None:
        """kept: of what it makes, how much is kept for the way back; the rest is made again, what costs
        least first. any_length: the names of what it is told whose length changes, (N,) each; of what comes
        out for N = 1, only the first is asked for."""
        self._plain = plain
        self._kept = kept
        self._any_length = any_length
        self._log = log
        self._call = self.compiled(plain)

    def compiled(self, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.compile(plain)

    def __call__(self, *inputs: Any, **told: Any) -> Tensor:
        changing = {name: of_any_length(told[name]) for name in self._any_length if name in told}
        try:
            with self._budget():
                return self._call(*inputs, **{**told, **changing})
        except Exception as error:  # whatever a missing or broken C++ compiler makes of itself
            if self._call is self._plain or out_of_memory(error):
                raise
            reason = str(error).strip().partition("\n")[0][:100]
            self._log(f"not compiled, which is slower: {reason or type(error).__name__}")
            self._call = self._plain
            return self._plain(*inputs, **told)

    def _budget(self) -> AbstractContextManager[object]:
        if self._kept == 1 or not torch.is_grad_enabled():
            return nullcontext()
        return cast(
            AbstractContextManager[object],
            torch._functorch.config.patch(activation_memory_budget=self._kept),
        )


class CompiledForMany(Compiled):
    """Of tensors whose first size, that of all of them, changes from call to call, and without a way back.

    Compiled for one of them, and for any other number. On a GPU, where starting kernels takes longer than
    they do, they are recorded as CUDA graphs, one for each number that `room_for` has and each length; where
    there are more than GRAPHS of these, of texts of many lengths, kernels are started one by one.
    """

    def compiled(self, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        by_kernels, by_graphs = torch.compile(plain), torch.compile(plain, mode="reduce-overhead")
        recorded = set[tuple[object, ...]]()

        def call(*inputs: Any, **told: Any) -> Tensor:
            count, room = len(inputs[0]), room_for(len(inputs[0]))
            given = *(x is not None for x in inputs), *sorted(told)  # each with a graph of its own
            shape = room, *inputs[0].shape[1:], *given
            if inputs[0].device.type != "cuda" or (len(recorded) == GRAPHS and shape not in recorded):
                return by_kernels(*of_any_number(inputs), **of_any_number(told))
            recorded.add(shape)
            inputs, told = (of_any_number(padded(x, room - count)) for x in (inputs, told))
            torch.compiler.cudagraph_mark_step_begin()
            return by_graphs(*inputs, **told)[:count].clone()  # the next replay writes over it

        return call


def room_for(count: int) -> int:
    """The next of the numbers 1 to 8, 10, 12, 14, 16, 20, ...: four to each doubling, so that they are few,
    and less than a quarter more than `count`."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step


def padded(tensors: Any, spare: int) -> Any:
    """Tensors (n, ...) in a tuple or dict, with the last row so many times more."""
    if not spare:
        return tensors
    return tree_map_only(Tensor, lambda x: torch.cat([x, x[-1:].expand(spare, *x.shape[1:])]), tensors)


def of_any_length(x: Tensor) -> Tensor:
    """x (N,), told to be of a length that changes; its number twice where that is 1, which a compiler takes
    for a case of its own. (Written out: strides of 0 are another such case, and so are views.)"""
    return _marked(x.repeat(2 if len(x) == 1 else 1))


def of_any_number(tensors: Any) -> Any:
    """Tensors in a tuple or dict, marked as of a first size that changes."""
    return tree_map_only(Tensor, _marked, tensors)


def _marked(x: Tensor) -> Tensor:
    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x
