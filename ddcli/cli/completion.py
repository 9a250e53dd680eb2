"""What a shell completes an argument or option with, by the registry of what there is."""

from collections.abc import Callable
from importlib import import_module


def names_in(module: str, registry: str) -> Callable[[str], list[str]]:
    """Those in a registry of a module of ddcli, or that a function there returns; imported when asked for."""

    def complete(incomplete: str) -> list[str]:
        known = getattr(import_module(f"..{module}", __package__), registry)
        return [name for name in (known() if callable(known) else known) if name.startswith(incomplete)]

    return complete
