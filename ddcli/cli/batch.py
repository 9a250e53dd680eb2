"""JSON Lines in, JSON Lines out: one document to fill on each line, and one bad line harms no other."""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import DdcliError
from .answers import Answer, record_of, tell
from .gaps import Gaps

if TYPE_CHECKING:
    from ..filling import Infilling
    from ..infilling import Document

Fill = Callable[["Document", int, Any], "list[Infilling]"]  # a document, a seed, who watches


class Batch:
    """The lines of a file, filled one after the other, each with a seed one more than that of the last."""

    def __init__(self, text: bytes, gaps: Gaps, fill: Fill, seed: int) -> None:
        self.lines = [(i, line) for i, line in enumerate(text.split(b"\n"), 1) if line.strip()]
        self.gaps = gaps
        self.fill = fill
        self.seed = seed
        self.failed = 0

    def answers(self, on_frame: Any) -> Iterator[Answer]:
        """For each line its fields, with those of the best way over them: `text`, `fills` and so on.

        Of several ways all are in `alternatives`. A line that cannot be filled gets an `error`.
        """
        for place, (number, line) in enumerate(self.lines):
            record: dict[str, Any] = {}
            try:
                record = _fields(line)
                document = self._document(record)
                ways = [record_of(way) for way in self.fill(document, self.seed + place, on_frame)]
                others = {"alternatives": ways} if len(ways) > 1 else {}
                record |= ways[0] | others
            except (DdcliError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                self.failed += 1
                tell(f"ddcli: line {number}: {reason}")
                record["error"] = reason
            yield b"", record

    def close(self) -> None:
        """DdcliError where lines could not be filled."""
        if self.failed:
            raise DdcliError(f"{self.failed} of {len(self.lines)} lines could not be filled")

    def _document(self, record: dict[str, Any]) -> "Document":
        texts = {name: record[name] for name in ("text", "prefix", "suffix", "gap") if name in record}
        gap = texts.pop("gap", None)
        if not isinstance(gap, str | int | None) or isinstance(gap, bool):
            raise DdcliError(f"`gap` is a whole number, or a string such as 12, 3-20 or *, not {gap!r}")
        gap = None if gap is None else str(gap)
        for name, text in texts.items():
            if not isinstance(text, str):
                raise DdcliError(f"`{name}` is not a string")
        found = {name: _bytes(name, text) for name, text in texts.items()}
        if "text" in found and len(found) == 1:
            return self.gaps.of_text(found["text"], gap)
        if "text" in found or not found:
            raise DdcliError("a line has either a `text` with gaps in it, or a `prefix` and a `suffix`")
        return self.gaps.of_two(found.get("prefix", b""), found.get("suffix", b""), gap)


def _bytes(name: str, text: str) -> bytes:
    """Of a text as `record_of` writes it: an escape such as \\udce9 is a byte that is no UTF-8."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise DdcliError(f"`{name}` is not UTF-8 text") from None


def _fields(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DdcliError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DdcliError("not a JSON object")
    return record
