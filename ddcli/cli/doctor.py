"""`ddcli doctor`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import printable
from .completion import names_in
from .options import AllowPickle, Json

MARKS = {"fine": "ok", "slow": "slow", "wrong": "WRONG"}


def doctor(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|RECIPE]",
            help="A run, a model that others trained, or a recipe.",
            autocompletion=names_in("config", "recipe_names"),
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="What the recipe is to train on.")] = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Say what this machine, a run or a recipe is fit for: what is slow and why, what is wrong.

    Exits with 1 where something is wrong.

    ddcli doctor runs/novel
    """
    from ..doctor import examine

    findings = examine(subject, data, allow_pickle=allow_pickle)
    for finding in findings:
        if as_json:
            print(json.dumps(asdict(finding)))
            continue
        mend = f"; {finding.mend}" if finding.mend else ""
        print(printable(f"{MARKS[finding.kind]:<6}{finding.about:<11}{finding.found}{mend}"))
    if any(finding.kind == "wrong" for finding in findings):
        raise typer.Exit(1)
