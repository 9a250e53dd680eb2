"""Options that several commands take."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DdcliError
from .completion import names_in, one_of

if TYPE_CHECKING:
    from ..model import SamplerSettings

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A run folder, or a model that others trained: a folder or hub name."
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read weights that others trained from pytorch_model.bin, where there are no safetensors.",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the network first: pays where there are minutes of work. The last digits of what it "
        "believes may then differ from run to run.",
    ),
]
DEVICES, PRECISIONS = one_of("auto", "cpu", "cuda", "mps"), one_of("auto", "float32", "bf16")
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", autocompletion=DEVICES)]
Precision = Annotated[
    str,
    typer.Option(help="auto, float32 or bf16. Auto is float32 on a CPU.", autocompletion=PRECISIONS),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Random if not given; printed on stderr.")]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="ancestral, first-hitting, confidence, margin, entropy, random, left-to-right, greedy, "
        "threshold[:P], entropy-bounded[:NATS], remask[:cap|rescale|confidence|loop[:STRENGTH]], "
        "corrector[:SHARE], euler, tau-leaping or edit[:SHARE].",
        autocompletion=names_in("sampler", "SAMPLERS"),
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Steps from noise to text, shared out over blocks; of a text longer than those a network of "
        "blocks was trained on, for each such length.",
    ),
]
Temperature = Annotated[float | None, typer.Option(min=0, help="Below 1: safer; above: more varied.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Keep so many of the likeliest tokens.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Keep the likeliest tokens up to this share.")]
Guidance = Annotated[
    float | None, typer.Option(min=0, help="Strength of guidance by the prompt or the label; 1 is none.")
]
GreedyTail = Annotated[
    int | None, typer.Option(min=0, help="Take the likeliest token in so many steps at the end.")
]
Block = Annotated[
    int | None, typer.Option(min=1, help="Write block after block of so many tokens, from left to right.")
]
Cache = Annotated[
    str | None,
    typer.Option(
        help="With --block: prefix computes what stands before a block once. Approximate.",
        autocompletion=one_of("none", "prefix"),
    ),
]
Explain = Annotated[bool, typer.Option("--explain", help="Say which sampler it is, and what it will cost.")]
Budget = Annotated[
    str | None,
    typer.Option(
        help="quality, balanced or fast, as `ddcli eval --sweep --save` measured them.",
        autocompletion=one_of("quality", "balanced", "fast"),
    ),
]
Label = Annotated[str | None, typer.Option(help="What to write, by a label of the training records.")]
Json = Annotated[bool, typer.Option("--json", help="JSON Lines.")]
Null = Annotated[bool, typer.Option("-0", "--null", help="Separate texts by NUL instead of dashes.")]
LiveView = Annotated[bool, typer.Option("--live", help="Show the canvas as it denoises, on stderr.")]
Trace = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write each step as JSON Lines, for `ddcli noise-viz --trace FILE`."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]


def compile_first(context: typer.Context, model: Any, log: Callable[[str], None]) -> None:
    """What --compile asks for. Raises DdcliError where there is nothing to compile."""
    from ..device import deterministic
    from ..textmodel import TextModel

    if context.params.get("cache"):
        raise DdcliError("--cache reads a text by parts, which are not compiled; leave it or --compile out")
    if not isinstance(model, TextModel):
        raise DdcliError("this model writes by code of its own; leave --compile out")
    model.compile(log)
    context.with_resource(deterministic(model.device))


def say_unheeded(
    context: typer.Context, model: Any, settings: "SamplerSettings", say: Callable[[str], None]
) -> None:
    """Say that --steps was given, where it has no say in how the model samples by these settings."""
    from ..textmodel import TextModel

    if context.params.get("steps") is not None and isinstance(model, TextModel) and not model.paced(settings):
        say(f"{settings.sampler} goes at a pace of its own here, which --steps does not change")


def settings_of(context: typer.Context) -> dict[str, Any]:
    """How to sample, as far as a command was told."""
    from ..model import Asked

    return {name: context.params[name] for name in Asked.__annotations__ if name in context.params}
