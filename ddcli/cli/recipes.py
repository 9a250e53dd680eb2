"""`ddcli recipes`."""

import json
import re
import shutil
import textwrap
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from ..errors import DdcliError, unknown
from .answers import replace_whole, tell
from .completion import names_in
from .options import Json


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A recipe that ships with ddcli, to show.",
            autocompletion=names_in("config", "recipe_names"),
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Copy it into this file, to make it your own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the recipes that ship with ddcli, show one, or copy it.

    Each says the command, the hardware and minutes it takes, and what to expect, where that was measured.

    ddcli recipes tinyshakespeare -o mine.toml
    """
    from ..config import find_recipe, recipe_names

    if name is None:
        if output is not None:
            raise DdcliError("which recipe? `ddcli recipes` lists them")
        width = max(map(len, recipe_names()))
        for known in recipe_names():
            about = _about(find_recipe(known))
            if as_json:
                print(json.dumps({"name": known, **about}, ensure_ascii=False))
            else:
                minutes = f", {about['minutes']} minutes" if about["minutes"][0].isdigit() else ""
                told = f"{known:<{width}}  {about['about']} ({about['hardware']}{minutes})"
                room = max(40, shutil.get_terminal_size().columns)
                print(textwrap.fill(told, room, subsequent_indent=" " * (width + 2), break_on_hyphens=False))
        return
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    content = find_recipe(name).read_bytes()
    if output is None:
        text = content.decode()
        if as_json:
            print(json.dumps({"name": name, "recipe": text}, ensure_ascii=False))
        else:
            print(text, end="")
        return
    if output.is_file():
        raise DdcliError(f"{output} is there already; give another -o")
    replace_whole(output, content)
    if as_json:
        print(json.dumps({"name": name, "written": str(output)}, ensure_ascii=False))
    tell(
        f"{output} is written; train with: ddcli train {quote(str(output))} -o {quote(f'runs/{output.stem}')}"
    )


def _about(recipe: Path) -> dict[str, str]:
    """What its header says: the first line, and what is named behind it."""
    first, *lines = recipe.read_text(encoding="utf-8").partition("\n[")[0].splitlines()
    told = re.search(
        r"# Hardware: (.*)\. Minutes: (.*)\. (?:Bound|Likelihood): (.*)\.$", "\n".join(lines), re.M
    )
    named = zip(("hardware", "minutes", "expected"), told.groups() if told else (), strict=False)
    return {"about": first.lstrip("# ").removesuffix("."), **dict(named)}
