"""A trace on its way to a file, whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import DdcliError, shorten
from ..files import whole_file
from ..generate import Frame
from ..model import Model
from .lines import LARGEST, LONGEST, End, Header, Line, Pieces, ids_of
from .recording import Recorder


class Trace:
    """A trace that is being written: an `on_frame` for sampling and infilling."""

    def __init__(self, file: BinaryIO, model: Model, command: str, sampling: str) -> None:
        self._file, self._tokenizer = file, model.tokenizer
        self._recorder = Recorder(model.process, model.tokenizer)
        self._spelled = set[int]()
        self._bytes = self._lines = 0
        noise, mask = type(model.process).__name__.lower(), model.tokenizer.mask_id
        unit = model.tokenizer.unit
        self._write(Header(command=command, noise=noise, sampling=sampling, unit=unit, mask=mask))

    def __call__(self, frame: Frame) -> None:
        for line in self._recorder(frame):
            if new := sorted(ids_of(line) - self._spelled):
                spelled = zip(new, map(_spelled, self._tokenizer.pieces(new)), strict=True)
                self._write(Pieces(pieces=dict(spelled)))
                self._spelled.update(new)
            self._write(line)

    def end(self) -> None:
        """Say that it is whole."""
        self._write(End(lines=self._lines + 1))

    def _write(self, line: Line) -> None:
        content = line.model_dump_json().encode() + b"\n"
        self._bytes, self._lines = self._bytes + len(content), self._lines + 1
        if self._bytes > LARGEST:
            raise DdcliError(
                f"the trace passes {LARGEST // 2**20} MiB; trace fewer or shorter texts, or fewer steps"
            )
        self._file.write(content)


@contextmanager
def traced(path: str | Path, model: Model, command: str, sampling: str = "") -> Iterator[Trace]:
    """An `on_frame` that writes a trace, which is put in its place when the block is left without an error.

    command: sample or infill. sampling: the settings, for people. Raises DdcliError where the file cannot be
    written, or passes LARGEST bytes.

    >>> with traced("trace.jsonl", model, "sample") as trace:
    ...     model.sample(on_frame=trace)
    """
    ours = True  # the error, should there be one
    try:
        with whole_file(Path(path)) as beside, beside.open("wb") as file:
            trace = Trace(file, model, command, shorten(sampling, LONGEST))
            ours = False
            yield trace
            ours = True
            trace.end()
    except OSError as error:
        if not ours:
            raise
        raise DdcliError(f"{path} cannot be written: {error.strerror}") from None


def _spelled(piece: str) -> str:
    piece = piece.encode(errors="replace").decode()
    return piece if len(piece) <= LONGEST else piece[: LONGEST - 1] + "…"
