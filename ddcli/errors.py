"""Errors for people: what is wrong, where, and what to do, in one line each."""

import difflib
import importlib
import json
import unicodedata
from collections.abc import Callable, Iterable
from pickle import UnpicklingError
from typing import Any, TypeVar


class DdcliError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with 2."""

    exit_code = 2
    drawn = False  # whether it has lines of its own, to be kept: a picture of the place


class RunFailed(DdcliError):  # noqa: N818 - it is what happened, not what was wrong
    """The run itself broke down (numbers that are not finite, a full disk). Exit code 1."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line. A line that ends in a colon has said nothing yet."""
    if isinstance(error, KeyError):
        return f"there is no {error}"
    if isinstance(error, UnpicklingError):  # which recommends to read it all the same
        return "the pickle holds more than numbers by their names, or is damaged"
    first, *others = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [""]
    said = f"{first} {others[0]}" if first.endswith(":") and others else first
    return said.rstrip(".:,") or type(error).__name__


def panicked(error: BaseException) -> bool:
    """Whether a library written in Rust gave up, which Python is told as no Exception."""
    return type(error).__name__ == "PanicException"


# what changes the order in which a line is shown
TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _acts(character: str) -> bool:
    """Whether it does something to a terminal, where others are shown: controls, line ends, surrogates."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in TURNS


def printable(text: str, keep: str = "") -> str:
    """Text that does nothing to a terminal: control characters as their pictures, but for those to `keep`."""
    return "".join(_picture(c) if _acts(c) and c not in keep else c for c in text)


def escaped(text: str) -> str:
    """The same of JSON and TOML: control characters are escapes, which both can read."""
    return "".join(json.dumps(c)[1:-1] if _acts(c) and c != "\n" else c for c in text)


def _picture(character: str) -> str:
    return chr(0x2400 + ord(character)) if character < " " else "\N{REPLACEMENT CHARACTER}"


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, fit for a terminal: control characters as pictures, no escape sequences."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return printable(text)


def counted(count: int, noun: str) -> str:
    """`1 block`, `2,000 blocks`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def no_parameter(what: str, parameter: str) -> None:
    """Raises DdcliError where something that takes nothing after its name was given something."""
    if parameter:
        raise DdcliError(f"{what} takes nothing after its name, but was given {parameter!r}")


def needed(package: str, what: str, extra: str) -> Any:
    """A package that only some have a use for. Raises DdcliError where it is missing, or broken."""
    try:
        found = importlib.import_module(package)
        if getattr(found, "__file__", "") is None:
            raise ImportError(f"the folder {next(iter(found.__path__))} only bears its name")
        return found
    except Exception as error:  # a broken one raises whatever it runs into
        reason = str(error).partition("\n")[0]
        raise DdcliError(
            f"{what} needs the package {package} ({reason}); install it: pip install 'ddcli[{extra}]'"
        ) from None


T = TypeVar("T")


def alone(what: str, make: Callable[..., T]) -> Callable[..., T]:
    """For a registry: `make` with one argument more, what follows its name after a colon: nothing."""

    def made(*arguments: Any) -> T:
        *others, parameter = arguments
        no_parameter(what, parameter)
        return make(*others)

    return made


def unknown(what: str, name: str, known: Iterable[str], otherwise: str = "") -> DdcliError:
    """An error for a name that is not in a registry, with the nearest known one.

    otherwise: what to do where no known one is near.
    """
    known = sorted(known)
    near = known[0] if len(known) == 1 else nearest(name, known)
    hint = f"; did you mean {near!r}?" if near else ""
    listed = f" (known: {', '.join(known)})" if 1 < len(known) <= 12 or not near else ""
    return DdcliError(f"unknown {what} {name!r}{hint}{listed}{otherwise if not near else ''}")


# what to do about a name that the registry had when a run was trained, and has no more
YOUR_OWN = "; if it is your own, start the file that adds it, `python FILE.py ...`, in place of `ddcli ...`"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The known name that was meant, or '' where none is near. cutoff: how alike, of 1, it has to be."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)), "")
