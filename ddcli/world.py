"""The processes that train one run together: who they are, what each does, and what they tell each other.

`torchrun` and `accelerate launch` start them, and say in the environment who is who. Training itself is
torch's: every process holds all weights (DDP), or a share of them (FSDP2).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeGuard, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .errors import DdcliError, RunFailed

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T")


class Followed(DdcliError):  # noqa: N818 - another process says what was wrong
    """This process stops because another one did, which says why. Has no message."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class Lost(RunFailed):
    """Another process is gone, without a word."""


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine

    @classmethod
    def here(cls) -> Self:
        """As the environment has it."""
        return cls(*(int(os.environ.get(*known)) for known in _VARIABLES))

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes files and speaks."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank + 1} of {self.size}"

    def share(self, count: int) -> range:
        """Which of so many things are its own; shares differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    @contextmanager
    def joined(self) -> Iterator[Self]:
        """Together with the others, from here to the end of the block. Raises Lost where one of them ends."""
        if self.size == 1:
            yield self
            return
        begun = dist.is_initialized()  # by whoever calls
        if not begun:
            if torch.cuda.is_available():
                torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield self
        except BaseException as error:
            if lost_another(error):  # the group would wait for the one that is gone
                raise Lost(f"{self} has lost another one") from error
            if not begun:
                dist.destroy_process_group()
            raise
        if not begun:
            dist.destroy_process_group()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one process cannot do, none does: all of them stop, and the first that failed says why."""
        error = None
        try:
            yield
        except DdcliError as found:
            error = found
        failed = {
            rank: code
            for rank, code in enumerate(self.gather(None if error is None else error.exit_code))
            if code is not None
        }
        if error is not None and min(failed) == self.rank:
            raise self.signed(error)
        if failed:
            raise Followed(failed[min(failed)])

    def once(self, error: DdcliError) -> DdcliError:
        """An error that all of them come to alike, as each is to raise it, that one may tell it."""
        return error if self.leads else Followed(error.exit_code)

    def signed(self, error: DdcliError) -> DdcliError:
        """An error of this process alone, by its name unless it is the first."""
        if self.rank and str(error):
            error.args = (f"{self}: {error}",)
        return error

    # -- what they tell each other ---------------------------------------------------------------------

    def gather(self, thing: T) -> list[T]:
        """What each of them has to say, by rank."""
        if self.size == 1:
            return [thing]
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, thing)
        return told

    def collected(self, things: Iterable[T]) -> Iterator[T]:
        """What all of them make, by rank, once all of it is there; of one alone, as it comes."""
        if self.size == 1:
            yield from things
            return
        with self.together():
            own = list(things)
        for part in self.gather(own):
            yield from part

    def all(self, *numbers: float) -> np.ndarray:
        """Some numbers of each process, (size, n) float64."""
        own = torch.tensor(numbers, dtype=torch.float64)
        if self.size == 1:
            return own[None].numpy()
        told = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(told, own)
        return torch.stack(told).numpy()

    def total(self, array: np.ndarray) -> np.ndarray:
        """The sum over all processes of an array of one shape."""
        if self.size == 1:
            return array
        summed = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))
        dist.all_reduce(summed)
        return summed.numpy()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)


ALONE = World()
_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def lost_another(error: BaseException) -> bool:
    """Whether a collective call failed because another process is gone."""
    cause = error.__cause__ or error  # gloo raises a plain RuntimeError that names its source file
    return isinstance(cause, dist.DistError) or (isinstance(cause, RuntimeError) and "/gloo/" in str(cause))


# -- weights that several processes hold -------------------------------------------------------------------


def replicated(module: nn.Module) -> nn.Module:
    """A module all of whose weights every process holds; gradients are averaged over them."""
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def sharded(module: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> nn.Module:
    """A module of whose weights every process holds a share, but for the layer that is at work. In place."""
    from torch.distributed.device_mesh import init_device_mesh  # a second to import, here and below
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in (*layers, module):
        fully_shard(part, mesh=mesh)
    return module


def without_exchange(module: nn.Module) -> AbstractContextManager[None]:
    """Gradients stay with the process that computed them; shares of weights are exchanged in any case."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which this process may hold but a share. All processes have to ask for it."""
    return tensor.full_tensor() if _is_share(tensor) else tensor


def shared_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor, what this process holds of one like it."""
    if not _is_share(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _is_share(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is the share of a process, of which there are none where one trains alone."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
