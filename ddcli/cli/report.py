"""`ddcli report`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DdcliError
from ..files import check_place
from .answers import answer, check_apart
from .options import Json


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page to write; report.html in the run folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the page of a training anew: curves, samples, bounds, recipe, and the commands to go on.

    It needs nothing else, and no network. Its path is printed, as JSON with the last figures of the training.

    ddcli report runs/novel
    """
    from ..runlog import read_run
    from ..viz.runpage import write_report

    if output is not None:
        check_place(output)
        check_apart(output, str(run))
    try:
        path = write_report(run, output)
    except OSError as error:
        raise DdcliError(f"{output or run} cannot be written: {error.strerror}") from None
    if as_json:
        answer(json.dumps({"report": str(path), **read_run(run).summary()}, ensure_ascii=False))
    else:
        answer(str(path))
