"""Whatever it is given, a command does as it was asked, or refuses in one line: never a traceback, never a
byte changed outside a gap. A short form of `make fuzz`, which tries far more.
"""

import copy
import json
import os
import re
from contextlib import suppress
from dataclasses import replace

import datasets
import huggingface_hub
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_filling import MODELS
from tiny import Outcome, command, copy_of, untried
from typer.main import get_command

import ddcli
from ddcli import api, cli
from ddcli.config import flatten_fields
from ddcli.device import pick_device, pick_precision
from ddcli.errors import DdcliError, printable
from ddcli.sampler import SAMPLERS
from ddcli.saved import load_model

WHOLE = bool(os.environ.get("DDCLI_FUZZ"))


def fuzzed(examples: int, short: int):
    """So many examples, new ones each time; or a few, always the same."""
    return settings(
        max_examples=examples if WHOLE else short,
        deadline=None,
        database=None,
        derandomize=not WHOLE,
        suppress_health_check=list(HealthCheck),
    )


def assert_in_words(found: Outcome, lines: tuple[int, ...] = (1,)) -> None:
    """It was refused: in one line, or in the three of a gap that is shown where it stands."""
    assert (found.code, found.out) == (2, b""), found
    assert found.err.startswith("ddcli: "), found
    assert found.err.count("\n") in lines, found
    assert found.err == printable(found.err, keep="\n"), found


# -- documents --------------------------------------------------------------------------------------------

FITS, TOO_MUCH = 16, 99  # tokens of a gap: any model here has room for the first, none for the second
MARKERS = [b"[MASK]", b"[MASK:2]", b"[MASK:%d]" % FITS, b"[MASK:1-3]", b"[MASK:*]"]
BROKEN = [
    b"[MASK:%d]" % TOO_MUCH,
    *(b"[MASK:", b"[MASK:]", b"[MASK:0]", b"[MASK:-1]", b"[MASK:3-2]", b"[MASK:1e3]", b"[MASK: 2]"),
    *(
        b"[MASK:9999999]",
        b"[MASK:\xd9\xa3]",
        b"[MASK:2\n]",
        b"[MASK:2\\]",
        b"[MASK:[MASK]]",
        b"[MASK:[MASK:2]",
    ),
    *(b"[MASK", b"[MASK[MASK]]", b"[MAS", b"MASK]", b"[mask]", b"[", b"]", b":"),
]
NASTY = [
    *(
        b"\\",
        b"\\\\",
        b"\0",
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\r",
        b"\x85",
        b"\xe2\x80\xa8",
        b"\x1b[2J",
        b"\x1b]0;x\x07",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xc3",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xe2\x80\xae",
        b"\xcc\x81",
        b" \t ",
    ),
]
parts = st.one_of(
    st.sampled_from(MARKERS),
    st.sampled_from(NASTY),
    st.text(max_size=6).map(lambda text: text.encode(errors="replace")),
    st.binary(max_size=6),
    st.sampled_from(BROKEN),
)
documents = st.lists(parts, max_size=9).map(b"".join)


def pieces_of(source: bytes) -> list[bytes] | None:
    """What a document says outside of its gaps, read letter by letter; None: one of its gaps is no gap."""
    pieces, piece, at, slashes = [], bytearray(), 0, 0
    while at < len(source):
        end = marker_end(source, at)
        if end is None:
            slashes = slashes + 1 if source[at] == ord("\\") else 0
            piece.append(source[at])
            at += 1
        elif slashes % 2:
            piece[-1:] = source[at:end]
            at, slashes = end, 0
        else:
            written = source[at:end].decode(errors="replace")
            count = re.fullmatch(r"\[MASK(?::(\*|[1-9][0-9]{0,5})(?:-([1-9][0-9]{0,5}))?)?\]", written)
            if not count or (count[1] == "*" and count[2]):
                return None
            if count[2] and int(count[1]) > int(count[2]):
                return None
            if count[1] and count[1] != "*" and int(count[1]) > FITS:
                return None
            pieces.append(bytes(piece))
            piece, at, slashes = bytearray(), end, 0
    return [*pieces, bytes(piece)] if pieces else None


def marker_end(source: bytes, at: int) -> int | None:
    """Where what begins here as a marker ends, closed or not; None: nothing does."""
    if source.startswith(b"[MASK]", at):
        return at + 6
    if not source.startswith(b"[MASK:", at):
        return None
    end = at + 6
    while end < len(source) and source[end] not in b"\\\r\n]" and not source.startswith(b"[MASK", end):
        end += 1
    return end + source.startswith(b"]", end)


def assert_kept(pieces: list[bytes], filled: bytes) -> None:
    assert re.fullmatch(b".*".join(map(re.escape, pieces)), filled, re.DOTALL), (pieces, filled)


@given(documents, st.sampled_from(sorted(MODELS)), st.sampled_from(["-", "file", "in place", "json", "-o"]))
@fuzzed(10_000, 150)
def test_of_any_document_the_gaps_are_filled_and_nothing_else_is_touched(
    tmp_path_factory, source, which, way
):
    folder = tmp_path_factory.getbasetemp()
    file, target = folder / "fuzz.txt", folder / "fuzz.out"
    file.write_bytes(source)
    target.unlink(missing_ok=True)
    how = {"-": ["-"], "in place": [file, "--in-place"], "json": [file, "--json"], "-o": [file, "-o", target]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "load", lambda *_, **__: MODELS[which])
        settings = ("--steps", "2", "--seed", "1", "--max-gap", "3", "-q")
        found = command("infill", "run", *how.get(way, [file]), *settings, stdin=source)
    pieces = pieces_of(source)
    if pieces is None:
        assert_in_words(found, lines=(1, 3))
        assert file.read_bytes() == source
        assert not target.exists()
        return
    assert (found.code, found.err) == (0, "")
    assert (file.read_bytes() == source) or way == "in place"
    if way == "json":
        record = json.loads(found.out)
        filled = record["text"].encode(errors="surrogateescape")
        places = [0, *(s[end]["byte"] for s in record["spans"] for end in ("start", "end")), len(filled)]
        assert [filled[a:b] for a, b in zip(places[::2], places[1::2], strict=True)] == pieces
    else:
        assert_kept(
            pieces,
            {"in place": file, "-o": target}[way].read_bytes() if way in ("in place", "-o") else found.out,
        )


# -- settings ---------------------------------------------------------------------------------------------

WORDS = [
    "",
    " ",
    "auto",
    "none",
    "nan",
    "inf",
    "-1",
    "1e400",
    "0x10",
    "true",
    "[]",
    "{}",
    "a:b",
    ":",
    "/",
    "..",
    "\0",
]
odd_texts = st.one_of(
    st.sampled_from([*WORDS, *SAMPLERS, "\x1b]0;x\x07", "\u202e", "a\nb", "9" * 400, "/dev/null", "x" * 999]),
    st.text(max_size=8),
)
odd_numbers = st.one_of(
    st.sampled_from([0, 1, 2, 3, -1, 2**31, 2**63 - 1, -(2**63), 0.5, -0.5, 1e308, 1e-308]),
    st.floats(),
    st.integers(-(2**63), 2**63 - 1),
)
odd_values = st.one_of(
    odd_numbers,
    st.booleans(),
    odd_texts,
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["a", "every"]), st.integers(0, 3), max_size=1),
)


@pytest.fixture(scope="module", autouse=True)
def _nobody_is_asked():
    """No name of a data set or a tokenizer leaves this machine."""

    def unreachable(*_, **__):
        raise ConnectionError("not asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", unreachable)
        patch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
        yield


def assert_answered(found: Outcome) -> None:
    if found.code:
        assert_in_words(found, lines=(1, 3))


SMALL = {"size": "tiny", "width": 8, "layers": 1, "heads": 1}
recipes = st.dictionaries(st.sampled_from(flatten_fields()), odd_values, max_size=4)


@given(recipes, st.sampled_from(["recipe", "--set"]), st.one_of(st.none(), st.binary(max_size=30)))
@fuzzed(2000, 60)
def test_any_recipe_is_understood_or_refused(text_file, tmp_path_factory, recipe, way, junk):
    tree: dict = {"data": {"source": str(text_file), "length": 16}, "model": dict(SMALL)}
    given = {
        f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()
    } | recipe
    if way == "--set":
        arguments = [part for key, value in given.items() for part in ("--set", f"{key}={spelt(value)}")]
    else:
        for key, value in recipe.items():
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
        file = tmp_path_factory.getbasetemp() / "fuzz.toml"
        file.write_bytes(tomli_w.dumps(tree).encode(errors="replace") + (junk or b""))
        arguments = [file]
    with untried():
        assert_answered(command("train", *arguments, "--dry-run", "-q"))


def spelt(value: object) -> str:
    return (
        tomli_w.dumps({"x": value}).removeprefix("x = ").strip()
        if not isinstance(value, dict)
        else str(value)
    )


# -- command lines ----------------------------------------------------------------------------------------

COMMANDS = {name: found.params for name, found in get_command(cli.app).commands.items()}
LONG_WORK = {
    "-n",
    "--count",
    "--samples",
    "--max-gap",
    "--draws",
    "--batch-size",
}  # which any number may ask for
OUTPUTS = {
    "--output",
    "-o",
    "--save",
    "--in-place",
    "--backup",
    "--sweep",
    "--generative",
    "--jsonl",
    "--help",
    "-h",
}
few = st.integers(-2, 3).map(str)
odd_words = st.one_of(odd_numbers.map(str), odd_texts).filter(lambda text: "\0" not in text)


@st.composite
def command_lines(draw):
    name = draw(st.sampled_from(sorted(COMMANDS)))
    options = [p for p in COMMANDS[name] if p.param_type_name == "option" and not set(p.opts) & OUTPUTS]
    line = []
    for option in draw(st.lists(st.sampled_from(options), max_size=3)):
        values = few if set(option.opts) & LONG_WORK else odd_words
        line += [draw(st.sampled_from(option.opts)), *([] if option.is_flag else [draw(values)])]
    return name, line + draw(st.lists(odd_words, max_size=1))


@pytest.fixture(scope="module")
def quick_model(absorbing_run):
    model = ddcli.load(absorbing_run)
    return replace(model, settings=model.settings.but(steps=2))


@given(command_lines())
@fuzzed(2000, 100)
def test_any_command_line_is_followed_or_refused(
    absorbing_run, quick_model, text_file, tmp_path_factory, given
):
    name, line = given
    whole = {
        "train": ["--data", text_file, "--length", "16", "--size", "tiny", "--dry-run", "-q"],
        "sample": [absorbing_run, "-q"],
        "infill": [absorbing_run, "-", "-q"],
        "eval": [absorbing_run, "--limit", "1", "--draws", "1", "-q"],
        "noise-viz": ["--text", "the cat"],
        "report": [absorbing_run],
        "doctor": [absorbing_run],
        "recipes": ["names"],
    }[name]

    def load(run, *, device="auto", precision="auto", allow_pickle=False):
        pick_precision(precision, pick_device(device), for_training=False)
        return quick_model

    with pytest.MonkeyPatch.context() as patch, untried():
        patch.chdir(tmp_path_factory.getbasetemp())  # where traces of any name are written
        patch.setattr(api, "load", load)
        assert_answered(command(name, *whole, *line, stdin=b"the [MASK:2] cat"))


# -- run folders ------------------------------------------------------------------------------------------

JSON = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def places_in(tree, path=()):
    """The path to each value of a JSON document."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places_in(value, (*path, key))


odd_json = st.one_of(odd_values, st.none(), st.just({}), st.just([]), st.sampled_from([10**30, -(10**30)]))


@given(st.data(), st.sampled_from(JSON), odd_json)
@fuzzed(2000, 60)
def test_a_run_folder_with_anything_in_it_is_read_or_refused(
    absorbing_run, tmp_path_factory, data, name, value
):
    run = tmp_path_factory.getbasetemp() / "fuzzed" / absorbing_run.name
    if not run.exists():
        run.parent.mkdir()
        copy_of(absorbing_run, run.parent)
    whole = (absorbing_run / name).read_bytes()
    tree = copy.deepcopy(json.loads(whole))
    *path, last = data.draw(st.sampled_from(list(places_in(tree))))
    target = tree
    for key in path:
        target = target[key]
    target[last] = value
    (run / name).write_text(json.dumps(tree))
    with suppress(DdcliError):
        load_model(run)
    (run / name).write_bytes(whole)
