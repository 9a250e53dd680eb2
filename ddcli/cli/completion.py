"""What a shell completes an argument or option with, by the registry of what there is."""

from collections.abc import Callable
from importlib import import_module


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Some names."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def names_in(module: str, registry: str, *more: str) -> Callable[[str], list[str]]:
    """Those in a registry of a module of ddcli, or that a function there returns, imported when asked for;
    and some more. Of names with commas between, the last is completed."""

    def complete(incomplete: str) -> list[str]:
        known = getattr(import_module(f"..{module}", __package__), registry)
        before, comma, last = incomplete.rpartition(",")
        names = (*more, *(known() if callable(known) else known))
        return [before + comma + name for name in one_of(*names)(last)]

    return complete
