"""Weights from files that others wrote: every one that a network has, of its size, and nothing else."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import DdcliError, counted, first_line

FLOATS = ("F64", "F32", "F16", "BF16")


class Kept(Protocol):
    """A tensor in a file, of which nothing but its header need be read yet."""

    def shape(self) -> list[int] | None:
        """None where it is no tensor of floating-point numbers."""

    def read(self) -> Tensor: ...


Agrees = Callable[[Tensor], bool]
N = TypeVar("N", bound=nn.Module)


def read_weights(
    empty: N,
    files: Sequence[Path],
    name: str,
    *,
    prefix: str = "",
    known: Mapping[str, Agrees] | None = None,
) -> N:
    """A network on the device meta, filled with float32 weights from files, on the CPU.

    prefix: what stands before the names of weights in the files. known: tensors that may be there beside
    them, by their names there, each with whether it says what the network computes. No memory is taken before
    all names and sizes are known to fit.
    Raises DdcliError, by the name of the model, where one is missing, or strange, or not all numbers.
    """
    known = known or {}
    wanted = {prefix + own: [*weight.shape] for own, weight in empty.state_dict().items()}
    with _reading(files, name) as kept:
        _check(wanted, {n: k.shape() for n, k in kept.items() if n not in known}, files[0].name, name)
        for own in known.keys() & kept.keys():
            if not known[own](kept[own].read()):
                raise DdcliError(
                    f"{name}: {own} in {files[0].name} is not that of such a network; it cannot be read"
                )
        network = empty.to_empty(device="cpu")
        for own, weight in network.state_dict().items():
            weight.copy_(kept[prefix + own].read())
            if not weight.isfinite().all():
                raise DdcliError(
                    f"{name}: the weights of {prefix + own} are not all numbers; {files[0].name} is damaged"
                )
    return network.requires_grad_(False).eval()


def _check(
    wanted: Mapping[str, list[int]], found: Mapping[str, list[int] | None], file: str, name: str
) -> None:
    """DdcliError where two sets of names and sizes are not the same."""
    if missing := sorted(wanted.keys() - found.keys()):
        raise DdcliError(
            f"{name}: {file} lacks {len(missing)} of {len(wanted)} weights that config.json asks for, the "
            f"first is {missing[0]}; what the network says would be chance"
        )
    if strange := sorted(found.keys() - wanted.keys()):
        raise DdcliError(
            f"{name}: {file} holds {counted(len(strange), 'weight')} that such a network has not, the "
            f"first is {strange[0]}; it is of another kind than config.json says"
        )
    if other := sorted(own for own, shape in wanted.items() if found[own] != shape):
        said = "no floating-point numbers" if found[other[0]] is None else f"of shape {found[other[0]]}"
        raise DdcliError(
            f"{name}: {other[0]} in {file} is {said}, but config.json asks for {wanted[other[0]]}"
        )


@contextmanager
def _reading(files: Sequence[Path], name: str) -> Iterator[dict[str, Kept]]:
    """What some files hold, by name, while they are open."""
    with ExitStack() as stack:
        kept: dict[str, Kept] = {}
        try:
            for path in files:
                kept |= READERS[path.suffix](path, stack)
            yield kept
        except DdcliError:
            raise
        except Exception as error:  # broken files raise whatever their parser raises
            raise DdcliError(f"{name}: its weights cannot be read: {first_line(error)}") from None


class _Slice:
    def __init__(self, file: Any, own: str) -> None:
        self.file, self.own = file, own

    def shape(self) -> list[int] | None:
        part = self.file.get_slice(self.own)
        return part.get_shape() if part.get_dtype() in FLOATS else None

    def read(self) -> Tensor:
        return self.file.get_tensor(self.own)


class _Mapped:
    """Of a pickle that is mapped into memory, not read."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def shape(self) -> list[int] | None:
        is_weight = isinstance(self.value, Tensor) and self.value.is_floating_point()
        return [*self.value.shape] if is_weight else None

    def read(self) -> Tensor:
        return self.value


def _safetensors(path: Path, stack: ExitStack) -> dict[str, Kept]:
    file = stack.enter_context(safe_open(path, "pt"))
    return {own: _Slice(file, own) for own in file.keys()}  # noqa: SIM118 - it is no mapping


def _pickle(path: Path, stack: ExitStack) -> dict[str, Kept]:
    """Tensors and plain containers alone: what else a pickle asks for is refused by torch."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict) or not all(isinstance(own, str) for own in content):
        raise DdcliError(f"{path} holds no weights by their names")
    return {own: _Mapped(value) for own, value in content.items()}


READERS: dict[str, Callable[[Path, ExitStack], dict[str, Kept]]] = {
    ".safetensors": _safetensors,
    ".bin": _pickle,
}
