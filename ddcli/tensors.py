"""Files of tensors, which may come from anybody: looked at before memory is taken, and refused by name."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import DdcliError
from .weights import fill, weights_of

FLOATS = ("F64", "F32", "F16", "BF16")


class Unfilled(TorchFunctionMode):
    """Inside of it networks are made without random numbers, for weights of a file to take their place.

    (To draw numbers for weights without memory, torch would import its compiler, for seconds.)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file: every weight, and nothing else. Raises DdcliError."""
    check_weights(network, path)
    weights = read_tensors(path)
    if odd := next((name for name, weight in weights.items() if not weight.isfinite().all()), None):
        raise DdcliError(f"{path} is damaged: not all of {odd} are finite numbers")
    fill(network, weights)


def check_weights(network: nn.Module, path: Path) -> None:
    """DdcliError where the header of a safetensors file tells of other weights than a network has."""
    wanted = {name: [*tensor.shape] for name, tensor in weights_of(network).items()}
    with opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        found = {name: part.get_shape() for name, part in parts.items()}
        strange = {name for name, part in parts.items() if part.get_dtype() not in FLOATS}
    wrong = {k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)} | strange
    if wrong:
        raise DdcliError(
            f"{path} does not fit config.json: {len(wrong)} weights differ, the first is {min(wrong)}"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    with opened(path):
        return load_file(path)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, of which nothing but its header is read yet. Raises DdcliError where it is none."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file, but a folder, a pipe or a device")
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise DdcliError(f"{path.parent} is no finished run: {path.name} is missing") from None
    except (SafetensorError, OSError, RecursionError) as error:
        raise DdcliError(f"{path} is damaged: {error}") from None
