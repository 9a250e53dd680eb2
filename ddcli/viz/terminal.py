"""Noise in the terminal: the text at each time, with its figures beside it, and what the noise is made of."""

import textwrap
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from ..errors import printable
from .layout import cell, cell_widths, left_out, wrap
from .parts import MEANINGS, Chain, Figured, Noised, State, Story, Track, Values, spread

LINES = 4  # of text at each time
ROWS = 24  # times
NARROW = 40  # columns of text; with fewer left, figures stand above the text instead of beside it
TWINS = 5  # times of the Gaussian twin
MAPS = 3  # times of the matrices
FIGURES = {
    "α": "what is left of the signal",
    "noise": "the share of tokens that is noise here",
    "exp.": "that which is expected",
    "masks": "the expected share of masks",
    "w": "the weight in the loss",
    "I": "bits of a token that are left, I(x₀; xₜ)",
    "H": "bits of what is seen, H(xₜ)",
}
LABEL = 6  # columns of a symbol beside a matrix
SHADES, FROM = " ·▒▓█", (0.005, 0.05, 0.2, 0.5)  # the least probability of each shade behind the first
LEVELS, REACH = "▁▂▃▄▅▆▇█", 2.0  # standard deviations from the middle to where bars end

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
    first = [chapter.tracks[0].rows[0] for chapter in story.chapters]
    if named := {name for row in first if isinstance(row, Noised) for name in row.figures()}:
        told = "; ".join(f"{name}: {what}" for name, what in FIGURES.items() if name in named)
        for line in _told(told, console.width):
            console.print(line, soft_wrap=True, highlight=False)
    twins = list[Values]()  # that are shown: processes of one signal share them
    for chapter in story.chapters:
        for track in chapter.tracks:
            values = track.values if track.values not in twins else None
            if values:
                twins.append(values)
            for line in _drawn(story, replace(track, values=values), console):
                console.print(line, soft_wrap=True, highlight=False)
        for line in _noise(story, chapter.chain, console.width) if chapter.chain else ():
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
        body = list(_lines(story, row, widths, wrap(widths, columns), plain))
        if beside:
            indents = [label, *([Text(" " * margin)] * (len(body) - 1))]
            yield from (Text.assemble(indent, line) for indent, line in zip(indents, body, strict=True))
        else:
            yield from (label, *body)
    indent = margin * beside
    first = next(wrap(widths, columns))
    if track.events:
        yield from _order(story, track, widths, first, indent, console.width)
    if track.values:
        yield from _twin(story, track, track.values, widths, first, indent, console.width, plain)
    yield Text()


def _told(text: str, width: int) -> Iterator[Text]:
    """A sentence, broken between words."""
    for line in textwrap.wrap(text, max(width, 20)):
        yield Text(line, style="dim")


def _order(
    story: Story, track: Track, widths: list[int], first: range, indent: int, width: int
) -> Iterator[Text]:
    """The first line as it ends, and below each token when it took its last form."""
    last = {event.at: event.step for event in track.events}
    steps = sorted(last.values())
    ranks = {at: bisect(steps, step) / len(steps) for at, step in last.items()}
    bars = "".join((_bar(ranks[i]) if i in ranks else " ") * widths[i] for i in first).rstrip()
    yield from _told("When each token took its last form: low bars early, high ones late", width)
    yield from _indented(_lines(story, track.rows[-1], widths, [first], plain=False), indent)
    yield from _indented([Text(bars, style="cyan")], indent)


def _twin(
    story: Story,
    track: Track,
    values: Values,
    widths: list[int],
    first: range,
    indent: int,
    width: int,
    plain: bool,
) -> Iterator[Text]:
    """The first line of tokens, and below them the same noise of numbers, at the same times."""
    told = "The same noise of numbers, zₜ = √αₜ x + √(1−αₜ) ε, as bars around 0"
    yield from _told(told, width)
    shown = first[: len(values.clean)]
    for k in spread(range(len(track.rows)), TWINS):
        row = track.rows[k]
        body = [*_lines(story, row, widths, [shown], plain)]
        yield from _indented(body, indent, f"t = {row.t:.2f}")
        bars = zip(shown, values.rows[k], strict=False)
        line = Text("".join(_bar((z / REACH + 1) / 2) * widths[i] for i, z in bars), style="cyan")
        yield from _indented([line], indent, "z")


def _indented(lines: Iterable[Text], indent: int, label: str = "") -> Iterator[Text]:
    """With a label where the figures of rows stand: beside the first of the lines, or above it."""
    if not indent and label:
        yield Text(label, style="dim")
    for k, line in enumerate(lines):
        yield Text.assemble((f"{label if not k else '':>{indent - 2}}  " if indent else "", "dim"), line)


def _bar(share: float) -> str:
    return LEVELS[max(0, min(len(LEVELS) - 1, int(share * len(LEVELS))))]


def _noise(story: Story, chain: Chain, width: int) -> Iterator[Text]:
    """All steps so far as matrices, as many as there is room for, and what their columns go to."""
    names = [story.pieces[id].replace(" ", "␣") for id in chain.states] + ["others"] * bool(chain.lumped)
    label = min(LABEL, max(map(cell_len, names)))
    head = "t = 0.00"
    side = max(2 * len(names), len(head))  # two cells an entry, so that it is about as wide as it is high
    fitting = min(MAPS, (width - label - 5) // (side + 2))
    if fitting < 1 or not chain.times:
        return
    picked = spread(range(len(chain.times)), fitting) if fitting > 1 else [len(chain.times) - 1]
    heads = [f"t = {chain.times[k]:.2f}".ljust(side) for k in picked]
    told = "The noise as matrices Q₁:ₜ, from symbol (column) to symbol (row); π: pure noise"
    yield from _told(told, width)
    yield Text("  ".join([" " * (label + 1), *heads, "π"]), style="dim")
    maps = [chain.products[k] for k in picked]
    for i, name in enumerate(names):
        cells = ["".join(2 * _shade(p) for p in matrix[i]).ljust(side) for matrix in maps]
        yield Text("  ".join([f"{set_cell_size(name, label)} ", *cells, 2 * _shade(chain.limit[i])]))
    yield Text()


def _shade(p: float) -> str:
    return SHADES[bisect(FROM, p)]


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


def _lines(
    story: Story, row: Figured, widths: list[int], lines: Iterable[range], plain: bool
) -> Iterator[Text]:
    for positions in lines:
        line, marks = Text(), ""
        for i in positions:
            style, mark = LOOKS[row.states[i]]
            line.append(cell(story.pieces[row.tokens[i]], row.states[i], widths[i]), style)
            marks += mark * widths[i]
        yield line
        if plain and marks.strip():
            yield Text(marks.rstrip())
