"""Texts in, answers out: stdin and files, stdout, and what is said on stderr."""

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import DdcliError, escaped, printable
from ..files import check_folder, check_place, meant

if TYPE_CHECKING:
    from ..filling import Infilling
    from ..generate import Frame
    from ..model import OnFrame, SamplerSettings
    from ..sampling import Writer
    from ..textmodel import TextModel

SEPARATOR = "-" * 40


def read(file: str, otherwise: str = "") -> bytes:
    """otherwise: what else to do where there is no such file, nor one of a name like it."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except FileNotFoundError as error:
        hint = meant(file) or otherwise
        raise DdcliError(f"{file} cannot be read: {error.strerror}{hint}") from None
    except OSError as error:
        raise DdcliError(f"{file} cannot be read: {error.strerror}") from None


def check_utf8(option: str, text: str) -> None:
    """DdcliError for an argument of bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DdcliError(f"{option} is not UTF-8 text") from None


STDOUT = "/dev/stdout"  # which, written to by its name, would be emptied first
Answer = tuple[bytes, dict[str, Any]]  # a text, and what is known of it


# what a model is read from, and goes on from, in its folder
OWN = {
    *("config.json", "config.toml", "run.json", "generation_config.json", "manifest.json", "metrics.jsonl"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "vocab.txt"),
}
OWN_FOLDERS = {"checkpoints", "adapter"}
NUMBERED = re.compile(r"\d{4,}\.(txt|json)")  # what is written into a folder


def check_output(output: str | None) -> None:
    """DdcliError, before any work is done, for an output that could not be written."""
    if output == "":
        raise DdcliError("-o is empty; give a file, or a folder with a / at its end")
    if output is None or output == STDOUT:
        return
    if not _is_folder(output):
        check_place(output)
        return
    there = next(filter(os.path.exists, (output, *map(str, Path(output).parents))), ".")
    if os.path.isfile(there):
        raise DdcliError(f"{output} cannot be made: {there} is a file")
    check_folder(there, output)


def _is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or os.path.isdir(output)


def check_apart(written: str | Path | None, model: str | None, *read: str | Path | None) -> None:
    """DdcliError, before any work is done, where what is written would take the place of what is read: of one
    of some files (- is stdin), or of what a model is in its folder."""
    if written is None or str(written) == STDOUT:
        return
    for file in read:
        if file is not None and _replaces(str(written), str(file)):
            raise DdcliError(f"{file} is read, and {written} would replace it; give another place")
    if model is None or not os.path.isdir(model):
        return
    folder = Path(os.path.abspath(model))
    folder = folder.parent.parent if folder.parent.name in OWN_FOLDERS else folder
    for place, of in (os.path.abspath(written), folder), (os.path.realpath(written), folder.resolve()):
        parts = Path(place).relative_to(of).parts if Path(place).is_relative_to(of) else ()
        own = len(parts) == 1 and (parts[0] in OWN or parts[0].endswith(".safetensors"))
        if own or (parts and parts[0] in OWN_FOLDERS):
            raise DdcliError(f"{written} is a file of the model {model}; give another place")


def _replaces(written: str, file: str) -> bool:
    """Whether a file that is read is where something is written, or among what is written into a folder."""
    try:
        if _is_folder(written):
            inside = os.path.samefile(os.path.dirname(os.path.abspath(file)), written)
            return file != "-" and inside and NUMBERED.fullmatch(os.path.basename(file)) is not None
        there = os.fstat(sys.stdin.fileno()) if file == "-" else os.stat(file)
        return stat.S_ISREG(there.st_mode) and os.path.samestat(there, os.stat(written))
    except (OSError, ValueError):  # one of them is not there
        return False


Answers = Callable[["OnFrame | None"], Iterator[Answer]]  # given who watches


def watched(
    answers: Answers,
    live: bool,
    trace: Path | None,
    model: "Writer",
    command: str,
    sampling: str,
    quiet: bool,
) -> Iterable[Answer]:
    """The answers as they come; or, with the live view in the terminal's way, once all are there.

    trace: where all that happens on the way is written, if anywhere. sampling: how, for people. quiet: a view
    that would be lines of a log is none.
    """
    if trace is not None:
        answers = _traced(answers, trace, model, command, sampling)  # type: ignore[arg-type] # asked before
    if not live:
        return answers(None)
    from ..live import LiveCanvas

    screen = console()
    if quiet and not screen.is_terminal:
        return answers(None)
    with LiveCanvas(screen, model) as canvas:
        return list(answers(canvas))


def _traced(answers: Answers, path: Path, model: "TextModel", command: str, sampling: str) -> Answers:
    from ..trace import traced

    def followed(watcher: "OnFrame | None") -> Iterator[Answer]:
        with traced(path, model, command, sampling) as trace:

            def both(frame: "Frame") -> None:
                trace(frame)
                if watcher:
                    watcher(frame)

            yield from answers(both)

    return followed


def deliver(
    answers: Iterable[Answer], output: str | None, as_json: bool, null: bool, *, line_end: bytes
) -> None:
    """Texts to stdout as they come, to a file, or to a file each; a file is replaced whole or not at all."""

    def shown(content: bytes, record: dict[str, Any]) -> bytes:
        if as_json:
            return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        return content + (b"\0" if null else line_end)

    if output == STDOUT:
        output = None
    between = b"" if as_json or null else (b"" if line_end else b"\n") + SEPARATOR.encode() + b"\n"
    if output is not None and _is_folder(output):
        folder, suffix = Path(output), ".json" if as_json else ".txt"
        for number, answer in enumerate(answers):
            try:
                folder.mkdir(parents=True, exist_ok=True)  # not before there is something to put into it
            except OSError as error:
                raise DdcliError(f"{output} cannot be made: {error.strerror}") from None
            replace_whole(folder / f"{number:04}{suffix}", shown(*answer))
        return
    parts = (between * (number > 0) + shown(*answer) for number, answer in enumerate(answers))
    if output is not None:
        replace_whole(Path(output), b"".join(parts))
        return
    harmless = escaped if as_json else partial(printable, keep="\n\t")
    for part in parts:
        if sys.stdout.isatty():  # a text is anybody's, and a terminal does what it says
            part = harmless(part.decode(errors="replace")).encode()
        sys.stdout.buffer.write(part)
        sys.stdout.flush()


def replace_whole(path: Path, content: bytes) -> None:
    """Put a file in the place of another. DdcliError where it cannot be written."""
    from ..files import whole_file

    try:
        with whole_file(path) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise DdcliError(f"{path} cannot be written: {error.strerror}") from None


def check_backup(file: str | None, suffix: str | None) -> Path | None:
    """Where a file is kept when it is replaced. DdcliError, before any work is done, where something is."""
    if suffix is None:
        return None
    kept = Path(f"{file}{suffix}")
    if not suffix or os.sep in suffix or os.path.lexists(kept):
        problem = f"{kept} is there already" if suffix and os.sep not in suffix else "no suffix"
        raise DdcliError(f"--backup {suffix}: {problem}; give another suffix, such as .old")
    return kept


@contextmanager
def backed_up(file: Path, kept: Path | None) -> Iterator[None]:
    """Keep a file under another name before it is replaced in the block; should that fail, only the file."""
    if kept is None:
        yield
        return
    try:
        _keep(file.resolve(), kept)
    except OSError as error:
        raise DdcliError(f"{kept} cannot be written: {error.strerror}") from None
    try:
        yield
    except BaseException:
        kept.unlink()
        raise


def _keep(file: Path, kept: Path) -> None:
    """Under a second name, never over another file and with all it has; a copy where a disk has no links."""
    from ..files import whole_file

    try:
        os.link(file, kept)
    except FileExistsError:
        raise
    except OSError:
        with whole_file(kept) as beside:
            shutil.copyfile(file, beside)
        shutil.copystat(file, kept)


def record_of(way: "Infilling") -> dict[str, Any]:
    """What is known of an infilling, as JSON; places in the filled text, columns in characters.

    Texts are byte exact: a byte that is no UTF-8, as \xe9, is an escape, \udce9 (surrogateescape).
    """
    from ..infilling import line_and_column, line_starts

    spans, lines = [], line_starts(way.content)
    for gap in way.gaps:
        ends = gap.start, gap.start + len(gap.content)
        start, end = (
            dict(zip(("byte", "line", "column"), (at, *line_and_column(way.content, at, lines)), strict=True))
            for at in ends
        )
        measured = {"tokens": gap.tokens, "log_probs": gap.log_probs, "log_length": gap.log_length}
        spans.append({"start": start, "end": end, **measured})
    text, *fills = (x.decode(errors="surrogateescape") for x in (way.content, *(g.content for g in way.gaps)))
    known = {"text": text, "fills": fills, "spans": spans, "score": way.score, "ways": way.ways}
    return known | {"nfe": way.nfe, "seed": way.seed, "index": way.index}


def console(stream: TextIO | None = None) -> Any:
    """Of stderr, or what stands for it. What moves in place is for a screen, whatever FORCE_COLOR says."""
    from rich.console import Console

    stream = stream or sys.stderr  # None where there is none
    moves = stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Console(file=stream, stderr=True, force_terminal=moves)


def tell(line: str) -> None:
    with suppress(OSError):  # where nobody listens any more, exit codes tell
        print(printable(line, keep="\n"), file=sys.stderr)


def answer(text: str) -> None:
    """A line or more for stdout, of JSON or TOML or for people."""
    text = text.encode(errors="backslashreplace").decode()  # of names that are no UTF-8
    print(escaped(text) if sys.stdout.isatty() else text)


def approximate(settings: "SamplerSettings") -> dict[str, str]:
    """What of some settings is approximate, as JSON says it beside each text; nothing where all is exact."""
    return {} if settings.cache == "none" else {"approximate": f"{settings.cache} cache"}


def end_line() -> None:
    """On a terminal, a new line for what is said after a text that did not end its own."""
    if sys.stdout.isatty():
        tell("")


def close(
    quiet: bool, nfe: list[int], tokens: int, seconds: float, seed: int, settings: "SamplerSettings"
) -> None:
    """What is approximate, if anything, and the closing line: network evaluations, tokens for each, speed,
    and the seed to do it again."""
    if quiet:
        return
    for what in approximate(settings).values():
        tell(f"approximate: written with the {what}")
    calls = sum(nfe)
    mean, each = calls / len(nfe), tokens / max(1, calls)
    tell(f"NFE {mean:.0f}, {each:.1f} tokens per call, {tokens / seconds:,.0f} tokens/s, seed {seed}")
