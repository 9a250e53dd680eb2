"""What adapters are to be trained, as `--lora` says it."""

from dataclasses import dataclass, fields
from typing import Any, Self

from .errors import DdcliError, unknown

EVERYWHERE = "all-linear"  # every linear layer but the one that logits are made with


@dataclass(frozen=True)
class Lora:
    """Adapters of low rank: a matrix W becomes W + alpha / r B A (arXiv:2106.09685)."""

    r: int  # rank
    alpha: float
    dropout: float = 0.0  # of what goes into them
    targets: str = EVERYWHERE  # or names of layers, joined by +

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `r=16,alpha=32,dropout=0.05,targets=q_proj+v_proj`; alpha is 2 r if it is not given.

        Raises DdcliError.
        """
        said: dict[str, str] = {}
        for part in text.split(","):
            key, _, value = (side.strip() for side in part.partition("="))
            if key not in (known := [field.name for field in fields(cls)]):
                raise unknown("part of --lora", key, known)
            if key in said or not value:
                raise DdcliError(f"--lora {text}: {key} is to be given once, as {key}=VALUE")
            said[key] = value
        if "r" not in said:
            raise DdcliError(f"--lora {text}: the rank is missing; begin with r=16")
        r = _number("r", said["r"], int, 1, 65_536)
        return cls(
            r,
            _number("alpha", said.get("alpha", 2 * r), float, 1e-6, 1e6),
            _number("dropout", said.get("dropout", 0), float, 0, 0.99),
            said.get("targets", EVERYWHERE),
        )

    def __str__(self) -> str:
        return f"r={self.r},alpha={self.alpha:g},dropout={self.dropout:g},targets={self.targets}"


def _number(key: str, text: Any, kind: Any, low: float, high: float) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        what = "a whole number" if kind is int else "a number"
        raise DdcliError(f"--lora: {key} is {what} from {low:g} to {high:,g}, not {text!r}")
    return number
