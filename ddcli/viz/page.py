"""Noise as one web page that needs nothing else: no network, no library, no trust in the text it shows."""

import re

from .packing import to_json
from .parts import Story
from .sheet import part, policy

SCRIPTS = ("text.js", "belief.js", "charts.js", "matrices.js", "moving.js")  # in the order they are read


def html(story: Story) -> bytes:
    """The page: `web/page.html` with its style, scripts and story inside.

    Its policy lets nothing but its own script run, and nothing be fetched.
    """
    style = part("base.css") + part("page.css")
    script = '"use strict";\n' + "".join(map(part, SCRIPTS))
    parts = {
        "policy": policy(style, script), "style": style, "script": script, "story": _embedded(story)
    }  # fmt: skip
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], part("page.html")).encode()


def _embedded(story: Story) -> str:
    """JSON that cannot end the element it stands in: ASCII, and without the characters of markup."""
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", to_json(story))
