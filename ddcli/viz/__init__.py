"""See the noise: `tell` the story of a text under noise, `show` it in a terminal, `write` it to a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DdcliError, unknown
from ..files import check_place, whole_file
from .packing import to_json
from .parts import Story
from .story import check_drawable, retell, tell
from .terminal import show

__all__ = [
    "FORMATS",
    "Format",
    "Story",
    "check_drawable",
    "default_times",
    "format_of",
    "retell",
    "show",
    "tell",
    "to_json",
    "write",
]


def _png(story: Story) -> bytes:
    from .figure import png  # matplotlib is slow to import

    return png(story)


def _svg(story: Story) -> bytes:
    from .figure import svg

    return svg(story)


def _gif(story: Story) -> bytes:
    from .film import gif

    return gif(story)


def _html(story: Story) -> bytes:
    from .page import html

    return html(story)


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    render: Callable[[Story], bytes]
    times: int  # as many as it shows well


FORMATS = {
    ".png": Format(_png, 11),
    ".svg": Format(_svg, 11),
    ".gif": Format(_gif, 41),
    ".html": Format(_html, 101),
}
TERMINAL_TIMES = 11


def default_times(path: str | Path | None = None) -> list[float]:
    """Evenly spread times from 0 to 1, as many as the file at `path` (or else the terminal) shows well."""
    count = format_of(path).times if path else TERMINAL_TIMES
    return [i / (count - 1) for i in range(count)]


def format_of(path: str | Path) -> Format:
    """The format that the suffix asks for. DdcliError where there is none, or no folder to write to."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise unknown("picture format", path.suffix or path.name, FORMATS)
    check_place(path)
    return FORMATS[path.suffix.lower()]


def write(story: Story, path: str | Path) -> None:
    """Draw the story to a file, whole or not at all, in the format of its suffix."""
    picture = format_of(path).render(story)
    try:
        with whole_file(Path(path)) as beside:
            beside.write_bytes(picture)
    except OSError as error:
        raise DdcliError(f"cannot write {path}: {error.strerror}") from None
