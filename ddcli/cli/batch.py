"""JSON Lines in, JSON Lines out: one document to fill on each line, and one bad line harms no other."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DdcliError
from .answers import Answer, record_of, tell
from .gaps import Gaps

if TYPE_CHECKING:
    from ..filling import Infilling, Work
    from ..infilling import Document

AT_ONCE = 16  # lines
Prepare = Callable[["Document", int, str], "Work"]  # a document, a seed, a name
Fill = Callable[[Sequence["Work"], Any], "list[list[Infilling]]"]  # what is prepared, who watches


class Batch:
    """The lines of a file, filled some at a time, each with a seed one more than that of the last."""

    def __init__(self, text: bytes, gaps: Gaps, prepare: Prepare, fill: Fill, seed: int) -> None:
        self.lines = [(i, line) for i, line in enumerate(text.split(b"\n"), 1) if line.strip()]
        self.gaps = gaps
        self.prepare = prepare
        self.fill = fill
        self.seed = seed
        self.failed = 0

    def answers(self, on_frame: Any) -> Iterator[Answer]:
        """For each line its number (`line`), its fields, and those of the best way over them, such as `text`.

        Of several ways all are in `alternatives`. A line that cannot be filled gets an `error`.
        """
        for first in range(0, len(self.lines), AT_ONCE):
            places = range(len(self.lines))[first : first + AT_ONCE]
            found = [self._prepared(place) for place in places]
            works = [work for _, work in found if work]
            filled = iter(self.fill(works, on_frame) if works else ())
            for record, work in found:
                if work:
                    ways = [record_of(way) for way in next(filled)]
                    others = {"alternatives": ways} if len(ways) > 1 else {}
                    record |= ways[0] | others
                yield b"", record

    def _prepared(self, place: int) -> "tuple[dict[str, Any], Work | None]":
        """The fields of a line, and what is to be filled in it; or None, and an `error` among the fields."""
        number, line = self.lines[place]
        record: dict[str, Any] = {"line": number}
        try:
            record |= _fields(line) | {"line": number}
            return record, self.prepare(self._document(record), self.seed + place, f"line {number}")
        except (DdcliError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            self.failed += 1
            tell(f"ddcli: line {number}: {reason}")
            return record | {"error": reason}, None

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
