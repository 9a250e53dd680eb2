"""The lines of a trace, told apart by their `kind`.

The first line says whose trace it is, the last how many lines there are. In between `canvas` begins a
sequence with its noise, `step` tells what changed in it, and `pieces` spells ids before they are met.

Legend: L positions. Log-probabilities and entropies are nats, and those of what the network believed, before
temperature and cuts.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ..config import MOST_TOKENS

LARGEST = 64 * 2**20  # bytes of a trace
TOP = 10  # tokens of a belief that are kept
LONGEST = 1000  # characters of a piece

Id = Annotated[int, Field(ge=0, lt=2**31)]
Position = Annotated[int, Field(ge=0, lt=MOST_TOKENS)]
Nats = Annotated[float, Field(ge=-1e4, le=1e4)]
Run = tuple[Annotated[int, Field(ge=1, le=MOST_TOKENS)], Annotated[float, Field(ge=0, le=1)]]
Text = Annotated[str, Field(max_length=LONGEST)]
Change = tuple[Position, Id, Nats | None]  # a position, its new token, and its ln p where it was asked about


class Line(BaseModel):
    """A line of a trace, told apart by its `kind`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Header(Line):
    """Whose trace it is."""

    kind: Literal["trace"] = "trace"
    version: Literal[1] = 1
    command: Text  # sample or infill
    noise: Text  # the process, by its name
    sampling: Text  # the settings, for people
    unit: Text  # what one token is
    mask: Id


class Pieces(Line):
    """How ids are spelled."""

    kind: Literal["pieces"] = "pieces"
    pieces: dict[Id, Text]


class Begin(Line):
    """A canvas before its first step: noise, and what is given."""

    kind: Literal["canvas"] = "canvas"
    canvas: Position
    name: Text = ""  # what it is, for people: the place of a gap, and which way to fill it
    steps: Annotated[int, Field(ge=0)]  # that are planned; a text may be at its end earlier
    nfe: Annotated[int, Field(ge=0)] = 0  # evaluations before: to weigh the length of a gap
    tokens: Annotated[list[Id], Field(min_length=1, max_length=MOST_TOKENS)]  # (L,)
    clock: list[Run]  # t of each position, as runs: how many, and their t; 0 is given
    tentative: list[tuple[Position, Position]]  # spans of what is visible and may change: start, and one past


class Belief(Line):
    """What was believed of a position before a step."""

    at: Position
    entropy: Nats
    top: Annotated[list[tuple[Id, Nats]], Field(max_length=TOP)]  # the likeliest tokens, and their ln p


class Moment(Line):
    """What a step changed."""

    kind: Literal["step"] = "step"
    canvas: Position
    step: Annotated[int, Field(ge=1)]
    t: Annotated[float, Field(ge=0, le=1)]  # the latest of the clocks
    nfe: Annotated[int, Field(ge=0)]  # network evaluations so far
    clock: list[Run]
    tentative: list[tuple[Position, Position]]
    opened: list[Change]  # masks that became text
    replaced: list[Change]  # text that became another
    remasked: list[Position]  # text that became a mask
    beliefs: list[Belief]


class End(Line):
    """The last line. Where it is missing, so is more."""

    kind: Literal["end"] = "end"
    lines: Annotated[int, Field(ge=1)]  # with this one


AnyLine = Annotated[Header | Pieces | Begin | Moment | End, Field(discriminator="kind")]
LINES: TypeAdapter[Header | Pieces | Begin | Moment | End] = TypeAdapter(AnyLine)


def ids_of(line: Begin | Moment) -> set[int]:
    """The ids that a line speaks of."""
    if isinstance(line, Begin):
        return set(line.tokens)
    changed = {id for _, id, _ in (*line.opened, *line.replaced)}
    return changed.union(id for belief in line.beliefs for id, _ in belief.top)
