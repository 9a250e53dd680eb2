"""`ddcli noise-viz`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DdcliError, counted
from .answers import answer, check_apart, check_utf8, read, tell
from .completion import names_in
from .options import AllowPickle, Quiet


def noise_viz(
    file: Annotated[str | None, typer.Argument(metavar="[FILE|-]", help="Your text, or - for stdin.")] = None,
    text: Annotated[str | None, typer.Option(help="The text itself.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replay what `ddcli sample` or `infill` wrote with --trace."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="As of `ddcli sample`: adds the way back from noise.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .png or .svg picture, .gif or .html page.")
    ] = None,
    process: Annotated[
        str | None,
        typer.Option(
            "--process",
            "--compare",
            help="absorbing, uniform, both, or a list such as absorbing,hybrid:0.2,band:1.",
            autocompletion=names_in("process", "PROCESSES"),
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="linear, cosine, polynomial[:POWER], geometric[:SIGMA], gidd[:P] or, of band, gaussian and "
            "generator, information; or a list to compare. Auto is information for these, linear for all "
            "other noise.",
            autocompletion=names_in("schedule", "SCHEDULES"),
        ),
    ] = None,
    times: Annotated[str | None, typer.Option(help="Times from 0 to 1, such as 0.1,0.5,0.9.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="char, byte, or a Hugging Face one.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the noise, and of the model's sample; 0 if not given.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object: tokens and figures, as the .html page has them.")
    ] = False,
    allow_pickle: AllowPickle = False,
    quiet: Quiet = False,
) -> None:
    """Show what noise does to your text, in the terminal or as a picture; or how a model wrote one.

    ddcli noise-viz --text "To be, or not to be" -o noise.html

    ddcli noise-viz --text "To be, or not to be" --compare absorbing,uniform,hybrid:0.1 -o noise.png

    ddcli sample runs/novel --trace trace.jsonl && ddcli noise-viz --trace trace.jsonl -o trace.html
    """
    from .. import api
    from ..viz import default_times, format_of, show, to_json, write

    told: dict[str, Any] = {"--model": model, "--process": process, "--schedule": schedule, "--times": times}
    told |= {"--tokenizer": tokenizer, "--seed": seed, "--text": text, "FILE": file}
    others = [name for name, value in told.items() if value is not None]
    if trace is not None and others:
        raise DdcliError(f"--trace replays what happened, and that alone; leave {', '.join(others)} out")
    if trace is None:
        text = _text(file, text)
    if output is not None:
        format_of(output)  # what cannot be drawn is refused before a model runs
        check_apart(output, model, file, trace)
    loaded = None if model is None else api.load(model, allow_pickle=allow_pickle)
    story = api.noise_viz(
        text,
        trace=trace,
        model=loaded,
        processes=_names(process),
        schedule=None if schedule is None else _parts(schedule),
        times=_numbers(times) if times else default_times(output),
        tokenizer=tokenizer,
        seed=seed or 0,
    )
    if loaded and text and not quiet:
        lacking = int((loaded.tokenizer.encode(text) == loaded.tokenizer.unk_id).sum())
        if lacking:
            tell(f"{counted(lacking, 'symbol')} that the model's vocabulary lacks: drawn as unknown")
    if output is not None:
        write(story, output)
        if not quiet:
            tell(f"{output} is written")
    if as_json:
        answer(to_json(story))
    elif output is None:
        from rich.console import Console

        show(story, Console())


def _text(file: str | None, text: str | None) -> str:
    if (file is None) == (text is None):
        raise DdcliError("give one text: a FILE, - for stdin, or --text; or a --trace to replay")
    if text is None:
        assert file is not None
        if Path(file).is_dir():
            raise DdcliError(f"{file} is a folder, not a text; a model is given by -m {file}")
        try:
            text = read(file, "; a text itself is given by --text").decode()
        except UnicodeDecodeError as error:
            raise DdcliError(f"{file} is not UTF-8 text (byte {error.start})") from None
    check_utf8("--text", text)
    from ..trace import is_trace

    if file is not None and is_trace(text[:80].encode()):
        tell(f"{file} is drawn as a text; it holds a trace: to replay it, give --trace {file}")
    return text


def _names(process: str | None) -> list[str] | None:
    if process is None:
        return None
    return ["absorbing", "uniform"] if process == "both" else _parts(process)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _numbers(text: str) -> list[float]:
    try:
        return sorted(float(part) for part in text.split(","))
    except ValueError:
        raise DdcliError(f"--times takes numbers with commas between, not {text!r}") from None
