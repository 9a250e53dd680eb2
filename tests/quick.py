"""Commands of the documentation, over in seconds; as a program, in the place of `ddcli` or `python`."""

import json
import os
import sys
from collections.abc import Sequence

TAKES_VALUE = {"--minutes", "--steps", "--size", "--length", "--threads"}


def quick(arguments: Sequence[str], settings: Sequence[str]) -> list[str]:
    """A command whose training of minutes is one of two steps; its data and the rest stay as written.

    settings: `section.key=value`, of a small network and few measurements.
    """
    if "train" not in arguments:
        return list(arguments)
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument in TAKES_VALUE:
            next(rest)
        else:
            kept.append(argument)
    if "--from" in arguments:  # whose network is what it is
        settings = [setting for setting in settings if not setting.startswith(("model.", "data."))]
    own = {argument.partition("=")[0] for argument in kept}
    settings = [setting for setting in settings if setting.partition("=")[0] not in own]
    return [*kept, *(part for setting in settings for part in ("--set", setting)), "--steps", "2"]


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    told = quick(given, json.loads(os.environ["DDCLI_QUICK"]))
    module = ["-m", "ddcli"] if name == "ddcli" else []
    os.execv(sys.executable, [sys.executable, *module, *told])
