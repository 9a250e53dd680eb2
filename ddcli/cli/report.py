"""`ddcli report`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DdcliError
from .answers import answer, check_folder


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page to write; report.html in the run folder.")
    ] = None,
) -> None:
    """Make the page of a training anew: curves, samples, bounds, recipe, and the commands to go on.

    It needs nothing else, and no network. Its path is printed.

    ddcli report runs/novel
    """
    from ..viz.runpage import write_report

    check_folder(output)
    try:
        path = write_report(run, output)
    except OSError as error:
        raise DdcliError(f"{output or run} cannot be written: {error.strerror}") from None
    answer(str(path))
