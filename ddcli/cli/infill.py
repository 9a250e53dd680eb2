"""`ddcli infill`."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DdcliError
from ..files import check_place
from .answers import (
    Answer,
    approximate,
    backed_up,
    check_apart,
    check_backup,
    check_output,
    close,
    deliver,
    end_line,
    read,
    record_of,
    replace_whole,
    tell,
    watched,
)
from .batch import Batch
from .difference import difference
from .gaps import Gaps
from .options import (
    AllowPickle,
    Block,
    Budget,
    Cache,
    Compile,
    Device,
    Explain,
    GreedyTail,
    Guidance,
    Json,
    Label,
    LiveView,
    Model,
    Null,
    Precision,
    Quiet,
    Sampler,
    Seed,
    Steps,
    Temperature,
    TopK,
    TopP,
    Trace,
    compile_first,
    say_unheeded,
    settings_of,
)

if TYPE_CHECKING:
    from ..filling import Infilling, Work
    from ..infilling import Document

PIPED = "a text itself is given on stdin: echo 'To be, [MASK:2] not' | ddcli infill MODEL -"


def infill(
    context: typer.Context,
    model: Model,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE|-", help="A text with gaps, or - for stdin.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--count", min=1, help="How many ways, best first.")] = 1,
    mask_token: Annotated[
        str, typer.Option(help="What marks a gap; ____ takes the whole of a longer run.")
    ] = "[MASK]",
    span: Annotated[
        list[str] | None,
        typer.Option(help="Make a gap of LINE:COLUMN-LINE:COLUMN, end not included; =3-20 says how long."),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(help="Make a gap of what this matches, or of its first group that took part."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="FILE", help="In the place of FILE: the text before a gap.")
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(metavar="FILE", help="In the place of FILE: the text after a gap.")
    ] = None,
    gap: Annotated[
        str | None,
        typer.Option(help="Tokens in gaps that do not say it: 12, 3-20, or * (the model chooses)."),
    ] = None,
    max_gap: Annotated[int, typer.Option(min=1, help="What * allows at most.")] = 32,
    steps: Steps = None,
    sampler: Sampler = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    greedy_tail: GreedyTail = None,
    block: Block = None,
    cache: Cache = None,
    label: Label = None,
    guidance: Guidance = None,
    budget: Budget = None,
    explain: Explain = False,
    seed: Seed = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A file, or a FOLDER/ for a file each.")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace FILE by its filled form.")] = False,
    backup: Annotated[
        str | None, typer.Option(metavar="SUFFIX", help="With --in-place: keep the old FILE as FILESUFFIX.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what changes, not the text; with --in-place, do both.")
    ] = False,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="FILE has a JSON object a line: text, or prefix and suffix; gap, as --gap. So has the "
            "answer, with the number of its line.",
        ),
    ] = False,
    as_json: Json = False,
    null: Null = False,
    live: LiveView = False,
    allow_pickle: AllowPickle = False,
    trace: Trace = None,
    device: Device = "auto",
    precision: Precision = "auto",
    compiled: Compile = False,
    quiet: Quiet = False,
) -> None:
    """Fill the gaps of a text: [MASK] is one token, [MASK:12] twelve, [MASK:3-20] or [MASK:*] as many as fit.

    For the letters [MASK] themselves, write \\[MASK].

    echo "To be, or [MASK:6] be" | ddcli infill runs/novel -
    """
    from ..api import load
    from ..filling import check, fill, prepare
    from ..filling import explain as explanation
    from ..model import fresh_seed

    gaps = Gaps(mask_token, span or [], regex, prefix, suffix, gap, max_gap)
    gaps.check(file)
    if in_place and (n > 1 or file in (None, "-") or output is not None or as_json or jsonl or null):
        raise DdcliError(
            "--in-place takes one FILE and one way to fill it: no -n, -o, -0, --json, --jsonl or stdin"
        )
    if backup is not None and not in_place:
        raise DdcliError("--backup keeps what --in-place replaces; give both, or neither")
    if diff and (as_json or jsonl or file is None):
        raise DdcliError("--diff shows what changes in one FILE: no --json, --jsonl, --prefix or --suffix")
    if jsonl and file is None:
        raise DdcliError("--jsonl takes a FILE whose lines may hold a prefix and a suffix")
    if jsonl and explain:
        raise DdcliError("--explain tells how one FILE is filled: no --jsonl")
    if file is not None and Path(file).is_dir():
        raise DdcliError(f"{file} is a folder; the model comes first, then a text: ddcli infill MODEL FILE")
    text = b"" if file is None else read(file, f"; {PIPED}")
    document = None if jsonl else gaps.document(text)
    kept = check_backup(file, backup)
    check_output(output)
    for written in (trace, file if in_place else None):
        if written is not None:
            check_place(written)
    check_apart(output, model, file, prefix, suffix, trace)
    check_apart(trace, model, file, prefix, suffix)
    loaded = load(model, device=device, precision=precision, allow_pickle=allow_pickle)
    if compiled:
        compile_first(context, loaded, tell)
    settings = check(loaded, label, **settings_of(context))
    log = None if quiet or jsonl else tell
    if not quiet:
        say_unheeded(context, loaded, settings, tell)
    scored = n > 1 or as_json or jsonl  # of JSON, of one way too
    if document and not quiet:
        if str(file).endswith(".jsonl"):
            tell(f"{file} is filled as one text; where each of its lines is one, give --jsonl")
        tell(document.measured(loaded.tokenizer).describe(loaded.tokenizer.unit))
    if explain and document:
        tell(explanation(loaded, document, score=scored, label=label, **settings_of(context)))
    seed = fresh_seed() if seed is None else seed
    began = time.perf_counter()
    ways: list[Infilling] = []

    def begin(document: "Document", seed: int, name: str = "") -> "Work":
        return prepare(loaded, document, n, seed, settings, label=label, log=log, name=name)

    def finish(works: "Sequence[Work]", on_frame: Any) -> "list[list[Infilling]]":
        found = fill(loaded, works, settings, score=scored, on_frame=on_frame)
        ways.extend(way for of_one in found for way in of_one)
        return found

    batch = Batch(text if jsonl else b"", gaps, begin, finish, seed)

    def of_one(document: "Document", on_frame: Any) -> Iterator[Answer]:
        for way in finish([begin(document, seed)], on_frame)[0]:
            yield difference(document, way, str(file)) if diff else way.content, record_of(way)

    def answers(on_frame: Any) -> Iterator[Answer]:
        found = batch.answers(on_frame) if document is None else of_one(document, on_frame)
        for content, record in found:
            yield content, record if "error" in record else record | approximate(settings)

    shown = watched(answers, live, trace, loaded, "infill", loaded.described(settings), quiet)
    if in_place:
        shown = list(shown)
        with backed_up(Path(str(file)), kept):
            replace_whole(Path(str(file)), ways[0].content)
    if diff or not in_place:
        deliver(shown, output, as_json or jsonl, null, line_end=b"")
    plain = output is None and not (as_json or jsonl or in_place or diff or quiet)
    if plain and not ways[-1].content.endswith(b"\n"):
        end_line()
    if n > 1 and not jsonl and not quiet:
        for place, way in enumerate(ways, 1):
            several = f" ({way.ways} of {n} ways)" if way.ways > 1 else ""
            tell(f"{place}: ln p(gaps | text) at least {way.score:.2f} nats (estimate){several}")
        if len(ways) == 1 and settings.temperature == 0:
            tell("at temperature 0 there is a single way; raise --temperature for others")
    tokens = sum(len(gap.tokens) for way in ways for gap in way.gaps)
    if ways:
        close(quiet, [way.nfe for way in ways], tokens, time.perf_counter() - began, seed, settings)
    batch.close()
