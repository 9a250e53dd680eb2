"""Where to compute, how finely, and what a machine can do."""

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .errors import DdcliError, unknown

KINDS = ("cpu", "cuda", "mps")
COMPILED = ("cpu", "cuda")  # torch's compiler is young for others
WITHOUT_FLOAT64 = frozenset({"mps"})


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where there is one. Raises DdcliError for a device that is not there or will not do."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in KINDS:
        hint = "; did you mean cuda?" if kind == "gpu" else ""
        raise DdcliError(f"device {name!r} cannot be used: ddcli computes on {', '.join(KINDS)}{hint}")
    try:
        if kind == "cuda" and not torch.backends.cuda.is_built():
            raise RuntimeError("this torch is a build for CPUs alone")
        if kind == "mps" and not torch.backends.mps.is_available():
            raise RuntimeError("torch finds no GPU of Apple's")
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DdcliError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
PRECISION_NAMES = {dtype: name for name, dtype in PRECISIONS.items()}


def pick_precision(name: str, device: torch.device, *, for_training: bool) -> torch.dtype:
    """`auto` is bf16 where the machine computes in it; but float32 for inference on a CPU.

    There a sequence is computed on its own, so its text depends, to the last bit, on its seed alone.
    """
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and for_training and torch.cpu._is_avx512_bf16_supported()
        name = "bf16" if fast else "float32"
    if name not in PRECISIONS:
        raise unknown("precision", name, ["auto", *PRECISIONS])
    return PRECISIONS[name]


def in_reach(
    dtype: torch.dtype, asked: str, computes_in: Callable[[torch.dtype], bool], name: str
) -> torch.dtype:
    """The precision that was picked, or float32 where a network makes no numbers in it.

    Raises DdcliError, by the name of the network, where it was asked for and not picked (`auto`).
    """
    if dtype == torch.float32 or computes_in(dtype):
        return dtype
    if asked == "auto":
        return torch.float32
    raise DdcliError(f"{name} cannot compute in {PRECISION_NAMES[dtype]}; give --precision float32")


def engine_of(device: torch.device) -> torch.device:
    """Where clocks, noise, draws and losses are computed for a network that is on a device: beside it, or on
    the processor, where its device knows no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def works_apart(device: torch.device) -> bool:
    """Whether a device is given work that nobody waits for, while the processor goes on."""
    return device.type == "cuda"


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, which nobody waits for where that works apart."""
    if x.device.type == "cpu" and works_apart(device):
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def asked_for(x: Tensor) -> Callable[[], list[float]]:
    """The numbers of a tensor (n,), once they are called for.

    What a device that works apart is given to do until then, nobody waits for.
    """
    if not works_apart(x.device):
        return x.tolist
    told, there = x.to("cpu", non_blocking=True), torch.cuda.Event()
    there.record()

    def numbers() -> list[float]:
        there.synchronize()
        return told.tolist()

    return numbers


def can_compile() -> bool:
    """Whether there is a C++ compiler, which generated code needs on a CPU, and its launcher on a GPU."""
    command = os.environ.get("CXX", "").split() or ["g++"]
    return shutil.which(command[-1]) is not None


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Compiled code on a CPU is reproducible from process to process only so; no speed is lost."""
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(device.type == "cpu")
    memory.fill_uninitialized_memory = False  # nothing here reads what it has not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]


TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of glibc's mallopt(3)
_keeping = 0  # how many ask for what `memory_kept` does, one within the other


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """What is freed on a CPU is kept for the next step, as on a GPU, where the C library can be told so.

    Given back and asked for anew it comes as pages that are cleared one by one, which takes up to a seventh
    of a training step, and a third of what sampling takes in bf16. So a process stays as large as it once
    was, until the outermost of several that ask for it is done.
    """
    global _keeping
    try:
        tell = ctypes.CDLL(None).mallopt if device.type == "cpu" else None
    except (AttributeError, OSError, TypeError):  # another C library, or system
        tell = None
    if tell is None:
        yield
        return
    if not _keeping:
        tell(MMAP_MAX, 0)
        tell(TRIM_THRESHOLD, -1)  # never
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        if not _keeping:  # what it comes to by itself where large tensors come and go, but not once told
            tell(MMAP_MAX, 65_536)
            tell(MMAP_THRESHOLD, 32 * 2**20)
            tell(TRIM_THRESHOLD, 64 * 2**20)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine itself, had no more memory to give."""
    # the allocators of a CPU, and of mps
    told = ("can't allocate memory", "not enough memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in str(error) for part in told)
