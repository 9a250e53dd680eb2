"""A device that knows no float64, made up: its tensors are a CPU's, and refuse what Apple's GPUs would.

It stands beside the CPU as a GPU does: what meets a tensor of it has to be there too, but for single
numbers, and indices. A process in which torch knows it can pin no memory for a GPU, and torch has to be told
before anything is differentiated: so it is where there is no GPU alone.
"""

from typing import Any

import torch
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "far"
# which may be asked about tensors of several devices
CROSSING = {"aten::_to_copy", "aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::copy_"}


class Module:
    """What torch asks of a device by its name."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


class Far(torch.Tensor):
    held: torch.Tensor  # on a CPU

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Far":
        if held.dtype == torch.float64:
            raise TypeError(f"{NAME} knows no float64")
        made: Far = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
        )
        return made

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.held})"

    def new_tensor(self, data: Any, **how: Any) -> torch.Tensor:
        return self.held.new_tensor(data, **how).to(self.device)

    def storage(self) -> Any:  # what saves tensors asks whether they share theirs
        return self.held.storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, *args, **(kwargs or {}))


def computed(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """What an operator makes of tensors, where one of them is far, or is to be."""
    name = operator._schema.name
    if name == "aten::copy_":
        onto, source = (x.held if isinstance(x, Far) else x for x in args[:2])
        onto.copy_(source)
        return args[0]
    met: dict[int, Far] = {}

    def near(x: Any) -> Any:
        if isinstance(x, Far):
            met[id(x.held)] = x
            return x.held
        if isinstance(x, torch.Tensor) and x.ndim and name not in CROSSING:
            raise RuntimeError(f"{operator}: tensors on {NAME} and on {x.device}")
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x

    asked = kwargs.get("device")
    found = operator(*tree_map(near, args), **tree_map(near, kwargs))
    if isinstance(asked, torch.device) and asked.type != NAME:
        return found

    def far(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return met[id(x)] if id(x) in met else Far(x)

    return tree_map(far, found)


made = torch.tensor
library = torch.library.Library("_", "IMPL")
KNOWN = not torch.cuda.is_available()
if KNOWN:
    _setup_privateuseone_for_python_backend(NAME, Module)
    _device_constructors()  # which knows torch.tensor by itself, if asked before another takes its place
    library.fallback(computed, "PrivateUse1")


def tensor(data: Any, *, device: Any = None, **how: Any) -> torch.Tensor:
    """torch.tensor, which knows no devices that are made of Python."""
    found: torch.Tensor = made(data, **how)
    return found if device is None else found.to(device)
