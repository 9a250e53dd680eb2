"""Where the gaps of a text are, as the options of a command say it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DdcliError
from .answers import read

if TYPE_CHECKING:
    from ..infilling import Document, Lengths


@dataclass(frozen=True)
class Gaps:
    """The options, and the one document they make of a text."""

    mask_token: str
    spans: Sequence[str]
    regex: str | None
    prefix: str | None  # a file; so is the suffix
    suffix: str | None
    gap: str | None  # how long those are that do not say it
    max_gap: int

    @property
    def around(self) -> bool:
        """Whether there is no text with gaps, but one before and one after the only gap."""
        return self.prefix is not None or self.suffix is not None

    def check(self, file: str | None) -> None:
        """DdcliError for options that contradict each other or the FILE, or a length that is none."""
        ways = {"--span": self.spans, "--regex": self.regex is not None, "--prefix and --suffix": self.around}
        said = [name for name, given in ways.items() if given]
        if len(said) > 1:
            raise DdcliError(f"say in one way where the gaps are, not by {' and by '.join(said)}")
        if file is not None and self.around:
            raise DdcliError("--prefix and --suffix stand in the place of FILE; leave it, or them, out")
        if file is None and not self.around:
            raise DdcliError(
                "Missing argument 'FILE|-': the text comes after the model; or give --prefix and --suffix"
            )
        self.lengths(self.gap)

    def lengths(self, gap: str | None) -> "Lengths | None":
        """The lengths that `--gap` allows. DdcliError where it says none."""
        from ..infilling import read_lengths

        if gap is None:
            return None
        lengths = read_lengths(gap, self.max_gap)
        if lengths is None:
            raise DdcliError(f"--gap {gap}: a gap has a length such as 12, a rising range such as 3-20, or *")
        return lengths

    def document(self, text: bytes) -> "Document":
        """Of a text with gaps, or of the two files around one."""
        if not self.around:
            return self.of_text(text)
        before, after = (b"" if name is None else read(name) for name in (self.prefix, self.suffix))
        return self.of_two(before, after)

    def of_text(self, text: bytes, gap: str | None = None) -> "Document":
        """Gaps in a text; `gap` wins over the option."""
        from ..infilling import cut_matches, cut_spans, parse

        lengths = self.lengths(gap or self.gap)
        if self.spans:
            return cut_spans(text, self.spans, lengths, self.max_gap)
        if self.regex is not None:
            return cut_matches(text, self.regex, lengths)
        return parse(text, self.mask_token, lengths, self.max_gap)

    def of_two(self, before: bytes, after: bytes, gap: str | None = None) -> "Document":
        """One gap between two texts."""
        from ..infilling import between

        return between(before, after, self.lengths(gap or self.gap or "*"))
