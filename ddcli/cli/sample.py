"""`ddcli sample`."""

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DdcliError
from ..files import check_place
from .answers import (
    Answer,
    approximate,
    check_apart,
    check_output,
    check_utf8,
    close,
    deliver,
    tell,
    watched,
)
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
    from ..sampling import Sample


def sample(
    context: typer.Context,
    model: Model,
    n: Annotated[int, typer.Option("-n", "--count", min=1, help="How many texts.")] = 1,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens, the prompt included.")] = None,
    prompt: Annotated[str, typer.Option(help="Text to begin with, kept as it is.")] = "",
    steps: Steps = None,
    sampler: Sampler = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    greedy_tail: GreedyTail = None,
    block: Block = None,
    cache: Cache = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="POSITION:TEXT", help="Text that stands at a token's place, 0 the first."),
    ] = None,
    label: Label = None,
    guidance: Guidance = None,
    budget: Budget = None,
    explain: Explain = False,
    seed: Seed = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts at a time; in float32 it does not change them.")
    ] = 16,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A file, or a FOLDER/ for a file each.")
    ] = None,
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
    """Write new text.

    ddcli sample runs/novel -n 3 --prompt "It was" --seed 1
    """
    from ..model import fresh_seed
    from ..saved import load_writer
    from ..textmodel import TextModel
    from ..world import World

    world = context.with_resource(World.here().joined())
    with world.together():
        check_utf8("--prompt", prompt)
        fixed = dict(places := [_fixed(part) for part in fix or ()])
        if len(fixed) < len(places):
            raise DdcliError("--fix names a place twice; give each once")
        if world.size > 1 and (live or trace or explain):
            raise DdcliError("--live, --trace and --explain are of one process; leave them out")
        check_output(output)
        if trace is not None:
            check_place(trace)
        check_apart(output, model, trace)
        check_apart(trace, model)
        loaded = load_writer(model, device=device, precision=precision, allow_pickle=allow_pickle)
        if compiled:
            compile_first(context, loaded, tell)
        if trace and not isinstance(loaded, TextModel):
            raise DdcliError(f"{model} does not tell what it believes on its way; leave --trace out")
        how = loaded.choose(**settings_of(context))
        if world.leads and not quiet:
            say_unheeded(context, loaded, how, tell)
    seed = world.gather(fresh_seed() if seed is None else seed)[0]
    if explain:
        told = loaded.explanation(
            length=length, prompt=prompt, label=label, fixed=fixed, seed=seed, **settings_of(context)
        )
        tell(told)
    began = time.perf_counter()
    drawn: list[Sample] = []

    def answers(on_frame: Any) -> Iterator[Answer]:
        own = loaded.samples(
            world.share(n),
            length=length,
            prompt=prompt,
            seed=seed,
            batch_size=batch_size,
            on_frame=on_frame,
            label=label,
            fixed=fixed,
            **settings_of(context),
        )
        for one in world.collected(own if world.share(n) else ()):
            drawn.append(one)
            record = {"text": one.text, "tokens": one.tokens, "nfe": one.nfe}
            named = {} if one.label is None else {"label": one.label}
            yield one.content, record | {"seed": one.seed, "index": one.index} | named | approximate(how)

    told = loaded.described(how)
    shown = watched(answers, live, trace, loaded, "sample", told, quiet)
    if not world.leads:
        deque(shown, maxlen=0)  # the first process writes them
        return
    deliver(shown, output, as_json, null, line_end=b"\n")
    tokens = sum(len(one.tokens) - one.fixed for one in drawn)
    close(quiet, [one.nfe for one in drawn], tokens, time.perf_counter() - began, seed, how)


def _fixed(text: str) -> tuple[int, str]:
    place, colon, piece = text.partition(":")
    if not colon or not place.isdecimal() or not piece:
        raise DdcliError(f"--fix takes POSITION:TEXT, such as 12:therefore, not {text!r}")
    check_utf8("--fix", piece)
    return int(place), piece
