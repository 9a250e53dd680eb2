"""Noise in the terminal: the text at each time, with its figures beside it."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from ..errors import printable
from .layout import cell, cell_widths, left_out, wrap
from .parts import MEANINGS, Figured, State, Story, Track

LINES = 4  # of text at each time
ROWS = 24  # times
NARROW = 40  # columns of text; with fewer left, figures stand above the text instead of beside it

LOOKS: dict[str, tuple[str, str]] = {  # state: style, mark where there is no colour
    State.KEPT: ("", " "),
    State.MASKED: ("dim", " "),
    State.REPLACED: ("bold red underline", "^"),
    State.OPENED: ("bold green underline", "+"),
    State.REMASKED: ("bold magenta", "-"),
    State.TENTATIVE: ("yellow", "~"),
}


def show(story: Story, console: Console) -> None:
    """Print every track, as wide as the console. Where that has no colour, marks stand below the tokens."""
    if story.note:
        console.print(Text(story.note, style="dim"), soft_wrap=True, highlight=False)
    for chapter in story.chapters:
        for track in chapter.tracks:
            for line in _drawn(story, track, console):
                console.print(line, soft_wrap=True, highlight=False)


def _drawn(story: Story, track: Track, console: Console) -> Iterator[Text]:
    plain = console.no_color or console.color_system is None
    figures = [row.figures() for row in track.rows]
    heads = {name: max(len(name), *(len(figure[name]) for figure in figures)) for name in figures[0]}
    margin = sum(heads.values()) + len(heads) + 1
    beside = console.width - margin >= NARROW
    columns = max(2, console.width - margin * beside)
    widths = cell_widths(story, track, columns, LINES)
    rows = track.told(len(widths), ROWS)

    yield Text(printable(track.title), style="bold")
    yield _legend(rows, plain)
    if note := left_out(story, track, len(widths), len(rows)):
        yield Text(note, style="dim")
    yield Text(_figures({name: name for name in heads}, heads), style="dim")
    for row in rows:
        label = Text(_figures(row.figures(), heads), style="dim")
        body = list(_lines(story, row, widths, columns, plain))
        if beside:
            indents = [label, *([Text(" " * margin)] * (len(body) - 1))]
            yield from (Text.assemble(indent, line) for indent, line in zip(indents, body, strict=True))
        else:
            yield from (label, *body)
    yield Text()


def _figures(figures: dict[str, str], heads: dict[str, int]) -> str:
    return " ".join(f"{figures[name]:>{width}}" for name, width in heads.items()) + "  "


def _legend(rows: Sequence[Figured], plain: bool) -> Text:
    """The meaning of every state that occurs, in its own look."""
    occurring = set().union(*(row.states for row in rows))
    entries = []
    for state, (style, mark) in LOOKS.items():
        if state in occurring:
            sign = f"{cell(' ', state, 1)}{mark if plain else ''}".strip()
            entries.append(Text(f"{sign} {MEANINGS[State(state)]}".strip(), style=style))
    return Text(" · ").join([*entries, Text("↵ line break")])


def _lines(story: Story, row: Figured, widths: list[int], columns: int, plain: bool) -> Iterator[Text]:
    for positions in wrap(widths, columns):
        line, marks = Text(), ""
        for i in positions:
            style, mark = LOOKS[row.states[i]]
            line.append(cell(story.pieces[row.tokens[i]], row.states[i], widths[i]), style)
            marks += mark * widths[i]
        yield line
        if plain and marks.strip():
            yield Text(marks.rstrip())
