"""Noise as a still picture (PNG, SVG): the text over t, its curves, and the matrices of the chain."""

from collections.abc import Iterator
from io import BytesIO

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .curves import Curves
from .heat import Strip
from .panels import Panel
from .paper import EDGE, PAPER, STYLE, WIDTH, Page, Section
from .parts import Story
from .twin import Twin
from .writing import Writing


def png(story: Story) -> bytes:
    """The picture as a PNG, 150 dots an inch."""
    return _save(story, "png", {"Software": None})


def svg(story: Story) -> bytes:
    """The picture as an SVG, whose text can be searched."""
    return _save(story, "svg", {"Date": None})


def _save(story: Story, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = BytesIO()
    with matplotlib.rc_context(STYLE):
        _draw(story).savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _draw(story: Story) -> Figure:
    sections = list(_sections(story))
    height = 2 * EDGE + sum(section.height for section in sections)
    figure = Figure(figsize=(WIDTH, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    page, top = Page(figure, height), EDGE
    for section in sections:
        section.draw(page, top)
        top += section.height
    return figure


def _sections(story: Story) -> Iterator[Section]:
    for chapter in story.chapters:
        for track in chapter.tracks:
            yield Panel.of(story, track)
            if track.events:
                yield Writing(track)
    measured = [chapter for chapter in story.chapters if chapter.curves]
    if measured:
        yield Curves(measured)
    yield from Twin.of(story)
    for chapter in measured:
        if chapter.chain and chapter.chain.times:
            yield Strip(story, chapter.name, chapter.chain)
