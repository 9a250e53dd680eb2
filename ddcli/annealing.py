"""The causal mask of a decoder, opened step by step while it is trained.

Attention annealing of DiffuLLaMA (arXiv:2410.17891): each token sees all before it, and of those behind it
as many as are drawn, more from step to step, until the mask is gone. Legend: L length.
"""

from dataclasses import dataclass

from torch import Tensor

from .randomness import Streams, derive_seed


@dataclass(frozen=True)
class Annealing:
    """A function of the step and the seed alone."""

    steps: int  # after which everything is seen; 0: from the first step on
    seed: int

    def ahead(self, step: int, length: int) -> Tensor | None:
        """Which places are seen from which ones before them, (L, L) bool, row i from place i, each with the
        probability (step + 1) / steps; None where all are. Entries on and below the diagonal mean nothing."""
        share = (step + 1) / max(1, self.steps)
        if share >= 1:
            return None
        return Streams([derive_seed(self.seed, "annealing", step)]).uniform(length, length)[0] < share
