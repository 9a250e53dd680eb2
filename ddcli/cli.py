"""The command line: parse, call the Python twin, print. torch is imported inside the commands.

stdout is the answer, stderr is the conversation. Exit codes: 0; 2 for what the user can mend; 1 for a run
that failed; 128 + the signal for one that was stopped.
"""

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from . import __version__
from .errors import DdcliError

if TYPE_CHECKING:
    from .generate import Infilling, Sample, TextModel

app = typer.Typer(
    name="ddcli",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SEPARATOR = "-" * 40


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code. What goes wrong is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        outcome = app([a for a in arguments if a != "--debug"], prog_name="ddcli", standalone_mode=False)
        sys.stdout.flush()
        if outcome == 130:  # what typer makes of an interrupt
            raise KeyboardInterrupt
        return outcome if isinstance(outcome, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (TyperException, DdcliError) as error:
        if debug:
            raise
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        if message:
            asked = message.startswith("Usage: ")  # a command without arguments: the error is its help
            print(message if asked else f"ddcli: {message}", file=sys.stderr)
        return 2 if isinstance(error, TyperException) else error.exit_code
    except (BrokenPipeError, SystemExit) as error:
        cause = error.__context__ if isinstance(error, SystemExit) else error  # typer makes an exit of it
        if not isinstance(cause, OSError) or cause.errno != errno.EPIPE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has seen enough
        return 0
    except (KeyboardInterrupt, typer.Abort):
        print("ddcli: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        reason = str(error).strip().partition("\n")[0]
        print(f"ddcli: {type(error).__name__}: {reason} (--debug shows where)", file=sys.stderr)
        return 1


def _version(asked: bool) -> None:
    if asked:
        print(f"ddcli {__version__}")
        raise typer.Exit


@app.callback()
def ddcli(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Train, sample, infill and look at text diffusion models."""


# -- options that several commands take -------------------------------------------------------------------

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto, float32 or bf16. Auto is float32 on a CPU.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Random if not given; printed on stderr.")]
Sampler = Annotated[str | None, typer.Option(help="ancestral, confidence or left-to-right.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps from noise to text.")]
Temperature = Annotated[float | None, typer.Option(min=0, help="Below 1: safer; above: more varied.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Keep the likeliest tokens up to this share.")]
Guidance = Annotated[
    float | None, typer.Option(min=0, help="How much to make of what is given; 1 is the plain model.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON Lines.")]
Null = Annotated[bool, typer.Option("-0", "--null", help="Separate texts by NUL instead of dashes.")]
LiveView = Annotated[bool, typer.Option("--live", help="Show the canvas as it denoises, on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]


# -- train ------------------------------------------------------------------------------------------------

# flags and the settings they stand for
TRAIN_FLAGS = {
    "data": "data.source",
    "tokenizer": "data.tokenizer",
    "text_column": "data.text_column",
    "split": "data.split",
    "streaming": "data.streaming",
    "lines": "data.lines",
    "valid_data": "data.valid",
    "valid_fraction": "data.valid_fraction",
    "length": "data.length",
    "process": "process.name",
    "schedule": "process.schedule",
    "objective": "objective.name",
    "timesteps": "objective.timesteps",
    "size": "model.size",
    "block": "model.block",
    "batch_size": "train.batch_size",
    "steps": "train.steps",
    "minutes": "train.minutes",
    "seed": "train.seed",
    "device": "train.device",
    "precision": "train.precision",
    "threads": "train.threads",
}


@app.command(no_args_is_help=True)
def train(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(help="A TOML file, or the name of a shipped recipe.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run folder to make.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Text file, folder, glob, .jsonl, .csv, .parquet, dataset name, or python-stdlib."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="char, byte, bpe:N, or a Hugging Face one.")] = None,
    process: Annotated[
        str | None,
        typer.Option(
            help="absorbing, uniform, hybrid[:P], stationary[:FILE], band[:PLACES], gaussian[:WIDTH], "
            "generator:FILE, steps:FILE, or autoregressive, the baseline."
        ),
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="linear, cosine, polynomial[:POWER] or geometric[:SIGMA].")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="auto, elbo, discrete-elbo, d3pm-hybrid[:WEIGHT], score-entropy or cross-entropy. Auto is "
            "elbo for masks, cross-entropy where tokens turn into others."
        ),
    ] = None,
    timesteps: Annotated[int | None, typer.Option(help="T of discrete-elbo and d3pm-hybrid.")] = None,
    size: Annotated[str | None, typer.Option(help="tiny, small or base.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a sequence.")] = None,
    block: Annotated[
        int | None, typer.Option(help="Block diffusion: so many tokens at once, after those before them.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per update, in all.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Measure the speed once, and do what fits.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order and noise.")] = None,
    valid_data: Annotated[str | None, typer.Option(help="Data to validate on.")] = None,
    valid_fraction: Annotated[
        float | None, typer.Option(help="Share of the data held out, from its end; 0.05 by default.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of .jsonl, .csv, .parquet.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a dataset.")] = None,
    streaming: Annotated[bool | None, typer.Option("--streaming", help="Read a dataset as it comes.")] = None,
    lines: Annotated[bool | None, typer.Option("--lines", help="One record per line: names, SMILES.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bf16.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other setting.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model into a run folder.

    ddcli train --data novel.txt --minutes 15 -o runs/novel
    """
    from .config import build_config, read_settings, read_toml
    from .plan import dry_run as plan_run
    from .training import train as train_run

    if output is None and not dry_run:
        raise DdcliError("where to? give the run folder with -o")
    flags = {key: context.params[flag] for flag, key in TRAIN_FLAGS.items()}
    base, overrides, where = read_settings(recipe, set_ or (), flags)
    if resume and output is not None and (output / "config.toml").is_file():
        base.pop("train.minutes", None)  # has become a number of steps
        base = {**read_toml(output / "config.toml"), **base}
    config = build_config(base, overrides, where)
    reporter = _reporter(quiet)
    if dry_run:
        plan = plan_run(config, reporter)
        print(plan.config.to_toml())
        settings = plan.config.train
        tokens = f"{settings.steps * settings.batch_size * plan.data.length:,} tokens to train on"
        print(f"# {plan.parameters:,} parameters, {plan.data.description}")
        amount = f"{settings.minutes:g} minutes to train" if settings.minutes else tokens
        print(f"# {amount}, about {plan.memory / 1e9:.1f} GB of memory")
        return
    assert output is not None
    train_run(config, output, resume=resume, reporter=reporter)
    if not quiet:
        _tell(f"{output} is trained; try: ddcli sample {output}")


def _reporter(quiet: bool) -> Any:
    from .display import PlainLines, TrainingDisplay
    from .plan import Silent

    if quiet:
        return Silent()
    console = _console()
    return TrainingDisplay(console) if console.is_terminal else PlainLines(console)


# -- sample -----------------------------------------------------------------------------------------------


@app.command(no_args_is_help=True)
def sample(
    model: Model,
    n: Annotated[int, typer.Option("-n", "--count", min=1, help="How many texts.")] = 1,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens, the prompt included.")] = None,
    prompt: Annotated[str, typer.Option(help="Text to begin with, kept as it is.")] = "",
    steps: Steps = None,
    sampler: Sampler = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    seed: Seed = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts at a time; in float32 it does not change them.")
    ] = 16,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A file, or a FOLDER/ for a file each.")
    ] = None,
    as_json: Json = False,
    null: Null = False,
    live: LiveView = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Write new text.

    ddcli sample runs/novel -n 3 --prompt "It was" --seed 1
    """
    from .api import load
    from .generate import fresh_seed

    _check_utf8("--prompt", prompt)
    loaded = load(model, device=device, precision=precision)
    _check_output(output)
    seed = fresh_seed() if seed is None else seed
    began = time.perf_counter()
    drawn: list[Sample] = []

    def answers(on_frame: Any) -> Iterator[Answer]:
        for one in loaded.samples(
            n,
            length=length,
            prompt=prompt,
            seed=seed,
            batch_size=batch_size,
            on_frame=on_frame,
            sampler=sampler,
            steps=steps,
            temperature=temperature,
            top_p=top_p,
            guidance=guidance,
        ):
            drawn.append(one)
            record = {"text": one.text, "tokens": one.tokens, "nfe": one.nfe}
            yield one.content, record | {"seed": one.seed, "index": one.index}

    _deliver(_watched(answers, live, loaded), output, as_json, null, line_end=b"\n")
    tokens = sum(len(one.tokens) for one in drawn)
    _close(quiet, [one.nfe for one in drawn], tokens, time.perf_counter() - began, seed)


# -- infill -----------------------------------------------------------------------------------------------


@app.command(no_args_is_help=True)
def infill(
    model: Model,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A text with gaps, or - for stdin.")],
    n: Annotated[int, typer.Option("-n", "--count", min=1, help="How many ways, best first.")] = 1,
    mask_token: Annotated[str, typer.Option(help="What marks a gap.")] = "[MASK]",
    steps: Steps = None,
    sampler: Sampler = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    seed: Seed = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A file, or a FOLDER/ for a file each.")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace FILE by its filled form.")] = False,
    as_json: Json = False,
    null: Null = False,
    live: LiveView = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Fill the gaps of a text: [MASK] is one token, [MASK:12] twelve, \\[MASK] the text itself.

    echo "To be, or [MASK:6] be" | ddcli infill runs/novel -
    """
    from .api import load
    from .generate import fresh_seed
    from .infilling import parse

    if in_place and (n > 1 or file == "-" or output is not None or as_json or null):
        raise DdcliError("--in-place takes one FILE and one way to fill it: no -n, -o, -0, --json or stdin")
    document = _read(file)
    parsed = parse(document, mask_token)
    loaded = load(model, device=device, precision=precision)
    if not quiet:
        _tell(parsed.describe(loaded.tokenizer.unit))
    seed = fresh_seed() if seed is None else seed
    _check_output(output)
    began = time.perf_counter()
    ways: list[Infilling] = []

    def answers(on_frame: Any) -> Iterator[Answer]:
        ways.extend(
            loaded.infill(
                document,
                n,
                mask_token=mask_token,
                score=n > 1 or as_json,
                seed=seed,
                on_frame=on_frame,
                sampler=sampler,
                steps=steps,
                temperature=temperature,
                top_p=top_p,
                guidance=guidance,
            )
        )
        for way in ways:
            record = {"text": way.text, "fills": way.fills, "score": way.score, "nfe": way.nfe}
            yield way.content, record | {"seed": way.seed, "index": way.index}

    target = file if in_place else output
    _deliver(_watched(answers, live, loaded), target, as_json, null, line_end=b"")
    if n > 1 and not quiet:
        for place, way in enumerate(ways, 1):
            _tell(f"{place}: ln p(gaps | text) at least {way.score:.2f} nats (estimate)")
    tokens = n * sum(gap.tokens for gap in parsed.gaps)
    _close(quiet, [way.nfe for way in ways], tokens, time.perf_counter() - began, seed)


# -- noise-viz --------------------------------------------------------------------------------------------


@app.command("noise-viz", no_args_is_help=True)
def noise_viz(
    file: Annotated[str | None, typer.Argument(metavar="[FILE|-]", help="Your text, or - for stdin.")] = None,
    text: Annotated[str | None, typer.Option(help="The text itself.")] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A run folder: adds the way back from noise.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .png or .svg picture or .html page.")
    ] = None,
    process: Annotated[
        str | None, typer.Option(help="absorbing, uniform, both, or a list such as hybrid:0.2,band:1.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="linear, cosine, polynomial[:POWER] or geometric[:SIGMA].")
    ] = None,
    times: Annotated[str | None, typer.Option(help="Times from 0 to 1, such as 0.1,0.5,0.9.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="char, byte, or a Hugging Face one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise, and of the model's sample.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Show what noise does to your text, in the terminal or as a picture.

    ddcli noise-viz --text "To be, or not to be" -o noise.html
    """
    from . import api
    from .viz import default_times, format_of, show, write

    if (file is None) == (text is None):
        raise DdcliError("give one text: a FILE, - for stdin, or --text")
    if text is None:
        assert file is not None
        try:
            text = _read(file).decode()
        except UnicodeDecodeError as error:
            raise DdcliError(f"{file} is not UTF-8 text (byte {error.start})") from None
    _check_utf8("--text", text)
    if output is not None:
        format_of(output)  # what cannot be drawn is refused before a model runs
    story = api.noise_viz(
        text,
        model=model,
        processes=_names(process),
        schedule=schedule,
        times=_numbers(times) if times else default_times(output),
        tokenizer=tokenizer,
        seed=seed,
    )
    if output is None:
        from rich.console import Console

        show(story, Console())
        return
    write(story, output)
    if not quiet:
        _tell(f"{output} is written")


def _names(process: str | None) -> list[str] | None:
    if process is None:
        return None
    return ["absorbing", "uniform"] if process == "both" else [name.strip() for name in process.split(",")]


def _numbers(text: str) -> list[float]:
    try:
        return sorted(float(part) for part in text.split(","))
    except ValueError:
        raise DdcliError(f"--times takes numbers with commas between, not {text!r}") from None


# -- in and out -------------------------------------------------------------------------------------------


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DdcliError(f"{file} cannot be read: {error.strerror}") from None


def _check_utf8(option: str, text: str) -> None:
    """DdcliError for an argument of bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DdcliError(f"{option} is not UTF-8 text") from None


Answer = tuple[bytes, dict[str, Any]]  # a text, and what is known of it


def _check_output(output: str | None) -> None:
    """DdcliError, before any work is done, for an output that could not be written."""
    if output == "":
        raise DdcliError("-o is empty; give a file, or a folder with a / at its end")
    if output is not None and not output.endswith(("/", os.sep)) and not Path(output).parent.is_dir():
        raise DdcliError(f"{output} cannot be written: there is no folder {Path(output).parent}")


def _watched(answers: Callable[[Any], Iterator[Answer]], live: bool, model: "TextModel") -> Iterable[Answer]:
    """The answers as they come; or, with the live view in the terminal's way, once all are there."""
    if not live:
        return answers(None)
    from .display import LiveCanvas

    with LiveCanvas(_console(), model) as canvas:
        return list(answers(canvas))


def _deliver(
    answers: Iterable[Answer], output: str | None, as_json: bool, null: bool, *, line_end: bytes
) -> None:
    """Texts to stdout as they come, to a file, or to a file each; a file is replaced whole or not at all."""

    def shown(content: bytes, record: dict[str, Any]) -> bytes:
        if as_json:
            return json.dumps(record, ensure_ascii=False).encode(errors="surrogateescape") + b"\n"
        return content + (b"\0" if null else line_end)

    between = b"" if as_json or null else (b"" if line_end else b"\n") + SEPARATOR.encode() + b"\n"
    if output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir()):
        folder, suffix = Path(output), ".json" if as_json else ".txt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DdcliError(f"{output} cannot be made: {error.strerror}") from None
        for number, answer in enumerate(answers):
            _replace(folder / f"{number:04}{suffix}", shown(*answer))
        return
    parts = (between * (number > 0) + shown(*answer) for number, answer in enumerate(answers))
    if output is not None:
        _replace(Path(output), b"".join(parts))
        return
    for part in parts:
        sys.stdout.buffer.write(part)
        sys.stdout.flush()


def _replace(path: Path, content: bytes) -> None:
    from .files import whole_file

    try:
        with whole_file(path) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise DdcliError(f"{path} cannot be written: {error.strerror}") from None


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _close(quiet: bool, nfe: list[int], tokens: int, seconds: float, seed: int) -> None:
    """The closing line: network evaluations, tokens for each, speed, and the seed to do it again."""
    if quiet:
        return
    calls = sum(nfe)
    mean, each = calls / len(nfe), tokens / max(1, calls)
    _tell(f"NFE {mean:.0f}, {each:.1f} tokens per call, {tokens / seconds:,.0f} tokens/s, seed {seed}")
