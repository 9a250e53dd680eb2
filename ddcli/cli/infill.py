"""`ddcli infill`."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DdcliError
from .answers import Answer, check_output, close, deliver, read, tell, watched
from .options import (
    Device,
    Guidance,
    Json,
    LiveView,
    Model,
    Null,
    Precision,
    Quiet,
    Sampler,
    Seed,
    Steps,
    Temperature,
    TopP,
)

if TYPE_CHECKING:
    from ..filling import Infilling


def infill(
    model: Model,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A text with gaps, or - for stdin.")],
    n: Annotated[int, typer.Option("-n", "--count", min=1, help="How many ways, best first.")] = 1,
    mask_token: Annotated[str, typer.Option(help="What marks a gap.")] = "[MASK]",
    steps: Steps = None,
    sampler: Sampler = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    seed: Seed = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A file, or a FOLDER/ for a file each.")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace FILE by its filled form.")] = False,
    as_json: Json = False,
    null: Null = False,
    live: LiveView = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Fill the gaps of a text: [MASK] is one token, [MASK:12] twelve, \\[MASK] the text itself.

    echo "To be, or [MASK:6] be" | ddcli infill runs/novel -
    """
    from ..api import load
    from ..infilling import parse
    from ..model import fresh_seed

    if in_place and (n > 1 or file == "-" or output is not None or as_json or null):
        raise DdcliError("--in-place takes one FILE and one way to fill it: no -n, -o, -0, --json or stdin")
    document = read(file)
    parsed = parse(document, mask_token)
    loaded = load(model, device=device, precision=precision)
    if not quiet:
        tell(parsed.describe(loaded.tokenizer.unit))
    seed = fresh_seed() if seed is None else seed
    check_output(output)
    began = time.perf_counter()
    ways: list[Infilling] = []

    def answers(on_frame: Any) -> Iterator[Answer]:
        ways.extend(
            loaded.infill(
                document,
                n,
                mask_token=mask_token,
                score=n > 1 or as_json,
                seed=seed,
                on_frame=on_frame,
                sampler=sampler,
                steps=steps,
                temperature=temperature,
                top_p=top_p,
                guidance=guidance,
            )
        )
        for way in ways:
            record = {"text": way.text, "fills": way.fills, "score": way.score, "nfe": way.nfe}
            yield way.content, record | {"seed": way.seed, "index": way.index}

    target = file if in_place else output
    deliver(watched(answers, live, loaded), target, as_json, null, line_end=b"")
    if n > 1 and not quiet:
        for place, way in enumerate(ways, 1):
            tell(f"{place}: ln p(gaps | text) at least {way.score:.2f} nats (estimate)")
    tokens = sum(len(gap.tokens) for way in ways for gap in way.gaps)
    close(quiet, [way.nfe for way in ways], tokens, time.perf_counter() - began, seed)
