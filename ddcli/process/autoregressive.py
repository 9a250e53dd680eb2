"""The autoregressive baseline, as noise that hides a text from its end: token by token, right to left."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..errors import DdcliError, no_parameter
from ..randomness import Streams
from ..schedule import Linear, Schedule
from .base import Process, Tables, Vocabulary
from .interpolating import Masking


@dataclass(frozen=True)
class Autoregressive(Masking):
    """Undone from left to right, by a network that sees at each position what stands before it.

    Such a network answers for all positions at once. So in training nothing is hidden: every position is
    asked about, and costs -ln p(x_i | x_1 ... x_{i-1}), whatever the clock. In sampling, what is not written
    yet is masked.
    """

    @classmethod
    def over(
        cls, vocabulary: Vocabulary, schedule: Schedule, parameter: str = "", tables: Tables | None = None
    ) -> Self:
        if schedule != Linear():
            raise DdcliError("autoregressive noise has no schedule; leave --schedule out")
        no_parameter("autoregressive noise", parameter)
        return cls(vocabulary, schedule)

    def noise(self, x0: Tensor, t: Tensor, rng: Streams) -> Tensor:
        rng.uniform(2, x0.shape[1])  # as many numbers as any process draws
        return torch.where(t < 1, x0, self.mask_id)

    def unknown(self, xt: Tensor, t: Tensor) -> Tensor:
        return (t > 0).expand(xt.shape)


def refuse_order(process: Process, hint: str) -> None:
    """Raises DdcliError where something is asked of the baseline that only noise has."""
    if isinstance(process, Autoregressive):
        raise DdcliError(f"an autoregressive model predicts the next token, and has no noise; {hint}")
