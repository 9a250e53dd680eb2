"""Noise and writing as a moving picture (GIF): of each track one time after the other."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .panels import Panel
from .paper import EDGE, PAPER, STYLE, WIDTH, Page
from .parts import Story

ROWS, LINES = 64, 16  # frames, and lines of text in each
DOTS = 80  # an inch
PLAYS, LAST = 6000, 3000  # milliseconds of all frames, and more of the last
LONGEST = 600  # milliseconds of a frame
COLOURS = 32


def gif(story: Story) -> bytes:
    """The picture as a GIF that plays again and again. Tracks of fewer times wait for the others."""
    tracks = [track for chapter in story.chapters for track in chapter.tracks]
    panels = [Panel.moving(story, track, ROWS, LINES) for track in tracks]
    count = max(len(panel.rows) for panel in panels)
    with matplotlib.rc_context(STYLE):
        drawn = [_frame(panels, i / max(1, count - 1)) for i in range(count)]
    own = drawn[count // 2].quantize(COLOURS)  # one palette for all, or unchanged parts would flicker
    frames = [frame.quantize(palette=own, dither=Image.Dither.NONE) for frame in drawn]
    buffer = BytesIO()
    pause = min(LONGEST, PLAYS // count)
    pauses = [*[pause] * (count - 1), pause + LAST]
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=pauses, loop=0, disposal=1
    )
    return buffer.getvalue()


def _frame(panels: Sequence[Panel], share: float) -> Image.Image:
    """All tracks, each after that share of its times."""
    now = [replace(panel, rows=[panel.rows[round(share * (len(panel.rows) - 1))]]) for panel in panels]
    height = 2 * EDGE + sum(panel.height for panel in now)
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    page, top = Page(figure, height), EDGE
    for panel in now:
        panel.draw(page, top)
        top += panel.height
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
