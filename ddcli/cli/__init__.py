"""The command line: parse, call the Python twin, print. torch is imported inside the commands.

stdout is the answer, stderr is the conversation. Exit codes are those of EXIT_CODES.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from .. import __version__
from ..errors import DdcliError, nearest, panicked, printable, shorten
from .answers import tell
from .doctor import doctor
from .evaluate import evaluate
from .infill import PIPED, infill
from .noise_viz import noise_viz
from .recipes import recipes
from .report import report
from .sample import sample
from .train import train

app = typer.Typer(
    name="ddcli",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"ddcli {__version__}")
        raise typer.Exit


EXIT_CODES = """\
Exit codes: 0; 2 for what you can mend, in one line; 1 for a run that failed, and for a doctor that finds
something wrong; 128 + the signal for what was stopped by one, 75 for a training whose time was up."""


@app.callback(epilog=EXIT_CODES)
def ddcli(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Train, sample, infill, measure and look at text diffusion models."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # as `torchrun` tells them
    if several and context.invoked_subcommand not in SHARED:
        if int(os.environ.get("RANK", "0")):
            raise typer.Exit(DdcliError.exit_code)  # the first of them says it for all
        raise DdcliError(
            f"ddcli {context.invoked_subcommand} is of one process, and several were started; call it "
            "without torchrun, or unset WORLD_SIZE"
        )


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "sample": sample,
    "infill": infill,
    "eval": evaluate,
    "noise-viz": noise_viz,
    "report": report,
    "recipes": recipes,
    "doctor": doctor,
}
SHARED = {"train", "sample", "eval"}  # what several processes do together, each a part of it
ASK_NOTHING = {"recipes", "doctor"}  # commands that have something to say without being told anything
MEANT = {  # what an argument too many may have been meant for
    "train": "what to train on is given by --data",
    "sample": "text to begin with is given by --prompt, in quotes",
    "infill": PIPED,
    "eval": "a text to judge by is given by --data FILE",
    "noise-viz": "a text itself is given by --text, in quotes",
}


def _setting(option: str) -> str:
    """How to give what is no option of a training, but a setting of one; '' where it is neither."""
    from ..config import settings_like

    found = settings_like(option.strip("-").replace("-", "_"))
    return " or ".join(f"give --set {key}=VALUE" for key in found)


class Command(TyperCommand):
    """A command that has a word to say of arguments it has no use for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        try:
            strays = super().parse_args(ctx, args)
        except TyperException as error:
            if hasattr(error, "possibilities"):  # of an option that there is not
                option: str = error.option_name  # type: ignore[attr-defined]
                known = [name for parameter in self.get_params(ctx) for name in parameter.opts]
                hint = _setting(option) if self.name == "train" else ""
                if not hint and (near := nearest(option, known, 0.75)):
                    hint = f"did you mean {near}?"
                hint = hint or f"`ddcli {self.name} -h` lists its options"
                raise DdcliError(f"ddcli {self.name} has no option {option}; {hint}") from None
            raise
        if strays and not ctx.resilient_parsing:
            hint = MEANT.get(str(self.name), f"`ddcli {self.name} -h` shows what it takes")
            raise DdcliError(f"ddcli {self.name} has no use for {' '.join(strays)!r}; {hint}")
        return strays


for name, command in COMMANDS.items():
    app.command(name, cls=Command, no_args_is_help=name not in ASK_NOTHING)(command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code. What goes wrong is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # texts are UTF-8, wherever they go: on Windows, a pipe's is not
            stream.reconfigure(encoding="utf-8", errors=stream.errors)
    debug = "--debug" in arguments
    try:
        outcome = app([a for a in arguments if a != "--debug"], prog_name="ddcli", standalone_mode=False)
        sys.stdout.flush()
        if outcome == 130:  # what typer makes of an interrupt
            raise KeyboardInterrupt
        return outcome if isinstance(outcome, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (TyperException, DdcliError) as error:
        if debug:
            raise
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        if message:
            asked = message.startswith("Usage: ")  # a command without arguments: the error is its help
            drawn = isinstance(error, DdcliError) and error.drawn
            said = printable(message, keep="\n" if asked or drawn else "")
            tell(said if asked else f"ddcli: {said}")
        return 2 if isinstance(error, TyperException) else error.exit_code
    except (BrokenPipeError, SystemExit) as error:
        cause = error.__context__ if isinstance(error, SystemExit) else error  # typer makes an exit of it
        if not isinstance(cause, OSError) or cause.errno != errno.EPIPE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has seen enough
        return 0
    except (KeyboardInterrupt, typer.Abort):
        tell("ddcli: interrupted")
        return 130
    except BaseException as error:
        if debug or not (isinstance(error, Exception) or panicked(error)):
            raise
        message, code = _unforeseen(error)
        tell(f"ddcli: {message}")
        return code


def _unforeseen(error: BaseException) -> tuple[str, int]:
    """What is said of an error that no command knows of, and the exit code."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # whatever it was to be the name of
        return f"{shorten(str(error.filename), 60)} is too long for the name of a file", 2
    reason = printable(str(error).strip().partition("\n")[0])
    code = 2 if panicked(error) else 1  # of a tokenizer's rules, which are the user's own
    return f"{type(error).__name__}: {reason} (--debug shows where)", code
