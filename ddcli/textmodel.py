"""A text model as people use it: `ddcli.load` makes one from a run folder."""

import warnings
from collections.abc import Callable, Iterator
from typing import Unpack

from . import filling, sampling
from .device import COMPILED
from .errors import DdcliError
from .evaluation import Bound, measure
from .filling import Infilling, OfGaps
from .generate import Frame
from .heldout import blocks_of
from .infilling import Document
from .model import Model
from .sampling import OfMany, OfOne, Sample


class TextModel(Model):
    """A denoiser with all it needs to read and write text, and to fill gaps in one."""

    def compile(self, log: Callable[[str], None] = warnings.warn) -> None:
        """Compile the network at its first use, which takes up to half a minute, and less once it is cached;
        docs/benchmarks.md has what is won. Whatever keeps it from being compiled is told to `log`.

        Lengths are compiled as they come, so the last bits of what is believed depend on those that came
        before. Raises DdcliError for a network that others made, or one of blocks, which keeps what it read.
        """
        if self.plain is None or self.network is None or self.block:
            raise DdcliError(
                "only a network of ddcli's own, without blocks, can be compiled; leave that out (--compile)"
            )
        if self.plain.device.type not in COMPILED:
            raise DdcliError(f"networks are compiled for {' and '.join(COMPILED)} alone; leave --compile out")
        self.plain.compile(log, varies=True)

    def sample(self, n: int | range = 1, **options: Unpack[OfMany]) -> list[Sample]:
        """Draw n texts. Options: those of `sampling.samples`.

        >>> model.sample(n=2, steps=64, prompt="ROMEO:", seed=1)[0].text
        """
        return list(self.samples(n, **options))

    def samples(self, n: int | range = 1, **options: Unpack[OfMany]) -> Iterator[Sample]:
        """Draw n texts, a batch at a time. Options: those of `sampling.samples`."""
        return sampling.samples(self, n, **options)

    def explanation(self, **options: Unpack[OfOne]) -> str:
        """Which sampler writes the first sample, and what it costs. Options as in `sampling.samples`."""
        return sampling.explain(self, **options)

    def frames(self, **options: Unpack[OfOne]) -> Iterator[Frame]:
        """Every state on the way to the first sample of a seed. Options as in `sampling.samples`."""
        return sampling.frames(self, **options)

    def score(self, text: str | bytes, *, draws: int = 4, seed: int = 0) -> Bound:
        """The bound on -ln p(text), cut in blocks of the model's length that know nothing of each other.

        draws: noisings of each block; of a short text few of them tell little, and its `stderr` is NaN where
        it is a single block. A model of records takes the text as one. Of bytes that are no UTF-8 a
        vocabulary that is not of bytes knows nothing.
        Raises DdcliError where the vocabulary knows nothing of the text.

        >>> model.score("To be, or not to be").bits_per_char
        """
        if not text:
            raise DdcliError("there is no text to score")
        if isinstance(text, bytes) and self.tokenizer.unit != "byte":
            text = text.decode(errors="replace")
        return measure(self, blocks_of(self, [text], "the text"), draws=draws, seed=seed).bound()

    def text_of(self, frame: Frame) -> list[str]:
        """The canvas of each sequence as text, (B,): masks by their name, other special tokens left out.

        >>> for frame in model.frames(seed=1): print(model.text_of(frame)[0])
        """
        silent = {*self.tokenizer.special_ids, self.tokenizer.eos_id} - {self.tokenizer.mask_id}
        shown = ([i for i in ids if i not in silent] for ids in frame.x.tolist())
        return ["".join(self.tokenizer.pieces_in_a_row(ids)) for ids in shown]

    def infill(
        self, document: str | bytes | Document, n: int = 1, **options: Unpack[OfGaps]
    ) -> list[Infilling]:
        """Fill the gaps of a document in n ways. Options: those of `filling.infill`.

        >>> model.infill("To be [MASK:5] the question", seed=1)[0].text
        """
        return filling.infill(self, document, n, **options)
