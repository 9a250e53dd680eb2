"""Noise as one web page that needs nothing else: no network, no library, no trust in the text it shows."""

import base64
import hashlib
import json
import re
from importlib import resources

from .story import Story


def html(story: Story) -> bytes:
    """The page: `page.html` with the story inside, and a policy that lets nothing but its own script run."""
    page = (resources.files(__package__) / "page.html").read_text("utf-8")
    policy = f"default-src 'none'; script-src {_hash('script', page)}; style-src {_hash('style', page)}"
    return page.replace("{{policy}}", policy).replace("{{story}}", _embedded(story)).encode()


def _embedded(story: Story) -> str:
    """JSON that cannot end the element it stands in: ASCII, and without the characters of markup."""
    rounded = json.loads(story.to_json(), parse_float=lambda number: round(float(number), 5))
    text = json.dumps(rounded, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _hash(element: str, page: str) -> str:
    """The source expression of a content security policy for the one such element of the page."""
    content = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    assert content is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()}'"
