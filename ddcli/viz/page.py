"""Noise as one web page that needs nothing else: no network, no library, no trust in the text it shows."""

import base64
import hashlib
import json
import re
from importlib import resources

from .packing import packed
from .parts import Story

SCRIPTS = ("text.js", "belief.js", "charts.js", "matrices.js", "moving.js")  # in the order they are read


def html(story: Story) -> bytes:
    """The page: `web/page.html` with its style, scripts and story inside.

    Its policy lets nothing but its own script run, and nothing be fetched.
    """
    style = _part("page.css")
    script = '"use strict";\n' + "".join(map(_part, SCRIPTS))
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    parts = {"policy": policy, "style": style, "script": script, "story": _embedded(story)}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html")).encode()


def _part(name: str) -> str:
    return (resources.files(__package__) / "web" / name).read_text("utf-8")


def _embedded(story: Story) -> str:
    """JSON that cannot end the element it stands in: ASCII, and without the characters of markup."""
    text = json.dumps(packed(story), separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _hash(content: str) -> str:
    """The source expression of a content security policy for an element that holds this."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
