"""A page that needs nothing else: style and scripts are inside, and its policy lets nothing be fetched."""

import base64
import hashlib
from importlib import resources


def part(name: str) -> str:
    """A file of `web/`."""
    return (resources.files(__package__) / "web" / name).read_text("utf-8")


def policy(style: str, script: str | None = None) -> str:
    """The content security policy of a page with one style and at most one script, and nothing else."""
    scripts = f"script-src {_hash(script)}; " if script is not None else ""
    return f"default-src 'none'; {scripts}style-src {_hash(style)}"


def _hash(content: str) -> str:
    """The source expression of a content security policy for an element that holds this."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
