"""Traces: what they hold is what happened, they are whole or refused, and a replay is the run itself."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from ddcli import TextModel, noise_viz, viz
from ddcli.errors import DdcliError
from ddcli.generate import Frame
from ddcli.process import PROCESSES, Vocabulary
from ddcli.schedule import SCHEDULES
from ddcli.tokenizer import make_tokenizer
from ddcli.trace import lines, read_trace, recorded, traced, writing
from ddcli.trace.recording import Recorder
from ddcli.viz.parts import State
from ddcli.viz.paths import BEFORE

TEXT = "to be, or not to be: that is the question\n"
LENGTH = 24


def model_of(name="absorbing", text=TEXT):
    """A network that believes more or less the same of all positions, a little by what stands around."""
    tokenizer = make_tokenizer("char", [text], print)
    states = Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, tokenizer.special_ids)
    process = PROCESSES[name].over(states, SCHEDULES["linear"]())
    bias = torch.randn(tokenizer.vocab_size, generator=torch.Generator().manual_seed(1))
    bias[list(tokenizer.special_ids)] = -1e9

    def believe(xt, t, rows, valid=None):
        shift = xt.sum(-1, keepdim=True).expand(xt.shape)[rows].float().sin()
        return (bias * (1 + shift[:, None] / 2)).log_softmax(-1)

    cpu = torch.device("cpu")
    return TextModel(denoiser=believe, process=process, tokenizer=tokenizer, length=LENGTH, device=cpu)


def trace_of(path, model, n=1, **options):
    """The frames of a sampling, and the trace that was written of it."""
    frames, options = [], {"steps": 6, "seed": 3} | options
    with traced(path, model, "sample", "how it was done") as trace:

        def watch(frame):
            frames.append(frame)
            trace(frame)

        model.sample(n, on_frame=watch, **options)
    return frames, read_trace(path)


RUNS = [
    ("absorbing", "ancestral"),
    ("absorbing", "confidence"),
    ("absorbing", "remask:loop:0.3"),
    ("absorbing", "first-hitting"),
    ("uniform", "ancestral"),
    ("uniform", "corrector"),
    ("hybrid", "ancestral"),
    ("band", "ancestral"),
]


@pytest.mark.parametrize(("noise", "sampler"), RUNS)
def test_a_trace_holds_every_frame(tmp_path, noise, sampler):
    model = model_of(noise)
    frames, found = trace_of(tmp_path / "t.jsonl", model, 2, sampler=sampler, prompt="to ")
    assert (found.header.command, found.header.noise, found.header.mask) == (
        *("sample", noise),
        model.tokenizer.mask_id,
    )
    assert len(found.canvases) == 2
    for b, canvas in enumerate(found.canvases):
        assert len(canvas.moments) == len(frames) - 1
        for frame, tokens in zip(frames, canvas.canvases(), strict=True):
            assert tokens.tolist() == frame.x[b].tolist()
        for frame, moment in zip(frames[1:], canvas.moments, strict=True):
            clock = np.repeat([t for _, t in moment.clock], [n for n, _ in moment.clock])
            assert clock == pytest.approx(frame.clock[b].numpy(), abs=1e-6)
            assert (moment.step, moment.nfe) == (frame.step, int(frame.nfe[b]))
            assert moment.t == frame.clock[b].max()
        assert {id: found.pieces[id] for id in canvas.begin.tokens} == {
            id: model.tokenizer.pieces([id])[0] for id in canvas.begin.tokens
        }


@pytest.mark.parametrize(("noise", "sampler"), RUNS)
def test_events_are_the_differences_of_frames_with_their_probability(tmp_path, noise, sampler):
    model = model_of(noise)
    frames, found = trace_of(tmp_path / "t.jsonl", model, sampler=sampler)
    (canvas,) = found.canvases
    mask, kinds = model.tokenizer.mask_id, set()
    for before, frame, moment in zip(frames[:-1], frames[1:], canvas.moments, strict=True):
        old, new = before.x[0].tolist(), frame.x[0].tolist()
        law = frame.log_p0.double().log_softmax(-1)
        row = {i: k for k, (_, i) in enumerate(frame.rows.nonzero().tolist())}
        opened = {i for i in range(LENGTH) if old[i] == mask != new[i]}
        masked = {i for i in range(LENGTH) if old[i] != mask == new[i]}
        replaced = {i for i in range(LENGTH) if old[i] != new[i]} - opened - masked
        assert {i for i, _, _ in moment.opened} == opened
        assert {i for i, _, _ in moment.replaced} == replaced
        assert set(moment.remasked) == masked
        for i, token, log_p in (*moment.opened, *moment.replaced):
            assert token == new[i]
            assert log_p == pytest.approx(law[row[i], token].item(), abs=1e-3)
        assert [belief.at for belief in moment.beliefs] == sorted(row)
        for belief in moment.beliefs:
            p = law[row[belief.at]].exp()
            assert belief.entropy == pytest.approx(-sum(x * np.log(x) for x in p.tolist() if x > 0), abs=1e-3)
            best = sorted(p.tolist(), reverse=True)[: lines.TOP]
            assert [np.exp(v) for _, v in belief.top] == pytest.approx(best, abs=1e-3)
            assert all(p[id] == pytest.approx(np.exp(v), abs=1e-3) for id, v in belief.top)
        kinds |= {kind for kind, found in (("o", opened), ("r", replaced), ("x", masked)) if found}
    assert kinds >= {"absorbing": {"o"}, "uniform": {"r"}, "hybrid": {"o"}, "band": {"r"}}[noise]
    assert ("x" in kinds) == sampler.startswith("remask")


def test_sequences_of_different_length_are_told_without_padding():
    model, pad = model_of(), 0
    tokenizer = model.tokenizer
    pad, mask = tokenizer.pad_id, tokenizer.mask_id
    x = torch.tensor([[mask, mask, pad, pad], [mask] * 4])
    clock = (x == mask).double()
    nobody, nothing = torch.zeros(2, 4, dtype=torch.bool), torch.empty(0, tokenizer.vocab_size)
    first = Frame(x, clock, x == mask, torch.zeros(2).long(), 0, 1, nobody, nothing)
    last = replace(first, x=torch.where(x == mask, 9, x), clock=clock * 0, step=1, nfe=torch.ones(2).long())
    short, long = recorded(model.process, tokenizer, [first, last])
    assert [list(map(int, x)) for x in short.canvases()] == [[mask, mask], [9, 9]]
    assert len(long.begin.tokens) == 4


def test_of_long_runs_beliefs_are_kept_for_what_changes_alone():
    model = model_of()
    frames = list(model.frames(steps=6, seed=1, sampler="confidence"))

    def kept(limit):
        recorder = Recorder(model.process, model.tokenizer, limit)
        return [line for frame in frames for line in recorder(frame)][1:]

    every, few, none = kept(LENGTH * 6), kept(LENGTH * 6 - 1), kept(0)
    assert sum(len(m.beliefs) for m in every) > LENGTH
    for moment in few:
        assert [belief.at for belief in moment.beliefs] == [i for i, _, _ in moment.opened]
    assert not any(m.beliefs for m in none)
    assert all(log_p is not None for m in none for _, _, log_p in m.opened)


# -- replays ----------------------------------------------------------------------------------------------


def test_a_replay_is_the_run(tmp_path):
    model = model_of()
    frames, _ = trace_of(tmp_path / "t.jsonl", model, sampler="remask:loop:0.3", prompt="to ")
    story = noise_viz(trace=tmp_path / "t.jsonl")
    (track,) = story.chapters[0].tracks
    assert (track.start, track.length, story.note) == (0, LENGTH, "how it was done")
    mask = model.tokenizer.mask_id
    for frame, row in zip(frames, track.rows, strict=True):
        assert row.tokens == frame.x[0].tolist()
        assert row.masks == int((frame.x == mask).sum())
        assert (row.step, row.nfe) == (frame.step, int(frame.nfe[0]))
        assert row.states.startswith("kkk")  # what is given
    for before, row in zip(track.rows, track.rows[1:], strict=False):
        for a, b, state in zip(before.tokens, row.tokens, row.states, strict=True):
            changed = {(True, False): State.OPENED, (False, True): State.REMASKED}
            if a != b:
                assert state == changed[a == mask, b == mask]
            else:
                assert state in ((State.MASKED,) if a == mask else (State.KEPT, State.TENTATIVE))
    assert set(track.rows[3].states[3:]) & {State.TENTATIVE}  # which remasking may still take back
    assert set(track.rows[-1].states) <= {State.KEPT, State.OPENED}
    assert track.rows[-1].revised == sum(event.state == State.REMASKED for event in track.events) > 0
    bits = [b.bits for b in track.beliefs]
    assert 0 < min(bits) <= max(bits) <= np.log2(len(set(TEXT)))
    for belief in track.beliefs:
        assert sum(p for _, p in belief.top) <= 1 + 1e-3


def test_a_replay_begins_a_little_before_what_was_written(tmp_path):
    document = (TEXT * 3)[:100] + "[MASK:4]" + TEXT
    model = replace(model_of(), length=200)
    with traced(tmp_path / "t.jsonl", model, "infill") as trace:
        (filled,) = model.infill(document, seed=1, steps=4, on_frame=trace)
    (track,) = noise_viz(trace=tmp_path / "t.jsonl").chapters[0].tracks
    assert track.start == 100 - BEFORE
    assert model.tokenizer.decode(track.clean) == filled.text[track.start : track.start + len(track.clean)]
    assert {event.at for event in track.events} == set(range(BEFORE, BEFORE + 4))


def test_a_replay_is_drawn_everywhere(tmp_path):
    trace_of(tmp_path / "t.jsonl", model_of(), 2, sampler="remask:loop:0.3", length=8)
    story = noise_viz(trace=tmp_path / "t.jsonl")
    svg = viz.FORMATS[".svg"].render(story).decode()
    assert "sample: canvas 2 of 2, from absorbing noise" in svg
    assert "masked again" in svg
    page = viz.FORMATS[".html"].render(story).decode()
    data = json.loads(re.search(r'id="story">(.*?)</script>', page, re.DOTALL)[1])
    track = data["chapters"][0]["tracks"][0]
    assert (data["chapters"][0]["chain"], track["values"]) == (None, None)
    assert len(track["beliefs"]) == len(story.chapters[0].tracks[0].beliefs) > 0


@pytest.mark.parametrize("options", [{}, {"force_terminal": True, "color_system": "standard"}], ids=str)
def test_a_hostile_trace_is_only_shown(tmp_path, capsys, options):
    path = tmp_path / "t.jsonl"
    trace_of(path, model_of(text="</script><script>alert(1)</script>&"))
    evil = "\\u001b[2J\\u202e</script><script>owned()"
    text = path.read_text().replace('"how it was done"', f'"{evil}"')
    text = re.sub(r'"pieces":\{"(\d+)":"[^"]*"', lambda m: f'"pieces":{{"{m[1]}":"{evil}"', text, count=1)
    path.write_text(re.sub(r'("(?:unit|command|noise)"):"\w+"', lambda m: f'{m[1]}:"{evil}"', text))
    story = noise_viz(trace=path)
    viz.show(story, Console(**options))
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    page = viz.FORMATS[".html"].render(story).decode()
    assert page.count("<script") == 2
    assert "owned()" in page
    assert "<script>owned" not in page


# -- damage -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    trace_of(path, model_of(), sampler="remask:loop:0.3")
    return path.read_bytes().splitlines()


def refusal(path, content):
    path.write_bytes(content)
    with pytest.raises(DdcliError) as raised:
        read_trace(path)
    assert "\n" not in str(raised.value)
    number = re.match(rf"{re.escape(str(path))}, line (\d+): (.+)", str(raised.value))
    return int(number[1]), number[2]


def test_a_trace_that_breaks_off_anywhere_is_refused(written, tmp_path):
    for count in range(1, len(written)):
        whole = b"\n".join(written[:count]) + b"\n"
        assert refusal(tmp_path / "t", whole) == (count, "the trace breaks off here, without its end")
        assert refusal(tmp_path / "t", whole + written[count][:-1])[0] == count + 1
    assert refusal(tmp_path / "t", b"\n".join([*written, written[3]]))[1] == "there is more behind the end"


@pytest.mark.parametrize("content", [b"", b"\n", b"to be\n", b"\x89PNG", b'{"text": "a"}\n', b"[1]"], ids=str)
def test_what_is_no_trace_is_refused(tmp_path, content):
    number, reason = refusal(tmp_path / "t", content)
    assert number == 1
    assert "this is no trace" in reason


def changed(lines, kind, fields):
    """The trace with fields of its first line of a kind replaced, and the number of that line."""
    number = next(n for n, line in enumerate(lines, 1) if json.loads(line)["kind"] == kind)
    new = json.dumps(json.loads(lines[number - 1]) | fields, separators=(",", ":")).encode()
    return b"\n".join([*lines[: number - 1], new, *lines[number:]]), number


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        ("trace", {"version": 2}, "version"),
        ("canvas", {"canvas": 1}, "canvas 0 was to begin, not 1"),
        ("canvas", {"tokens": [1, 2]}, "spelled"),
        ("canvas", {"tokens": []}, "tokens"),
        ("canvas", {"tokens": ["1"]}, "valid integer"),
        ("canvas", {"clock": [[3, 1.0]]}, "clocks"),
        ("canvas", {"clock": [[24, 2.0]]}, "less than or equal to 1"),
        ("canvas", {"tentative": [[3, 99]]}, "spans"),
        ("canvas", {"tentative": [[9, 3]]}, "spans"),
        ("canvas", {"colour": "red"}, "Extra inputs"),
        ("step", {"step": 2}, "step 2 of 6 follows step 0"),
        ("step", {"canvas": 4}, "canvas 4 has not begun"),
        ("step", {"nfe": -1}, "greater than or equal to 0"),
        ("step", {"t": "NaN"}, "t: "),
        ("step", {"opened": [], "remasked": [0]}, "what opens was no mask"),
        ("step", {"opened": [[24, 5, None]]}, "past the 24"),
        ("step", {"opened": [], "beliefs": [{"at": 24, "entropy": 0.0, "top": []}]}, "past the 24"),
        ("step", {"kind": "leap"}, "tag"),
        ("pieces", {"pieces": {"1": "a" * 1001}}, "at most 1000"),
        ("end", {"lines": 3}, "breaks off"),
    ],
    ids=str,
)
def test_damage_is_named_with_its_line(written, tmp_path, kind, fields, reason):
    content, number = changed(written, kind, fields)
    where, why = refusal(tmp_path / "t", content)
    assert (where, reason in why) == (number, True), why


def test_evaluations_only_grow(written, tmp_path):
    *before, last, end = written
    fewer = json.dumps(json.loads(last) | {"nfe": 0}, separators=(",", ":")).encode()
    assert refusal(tmp_path / "t", b"\n".join([*before, fewer, end])) == (
        len(written) - 1,
        "network evaluations are fewer than before",
    )


def test_any_line_may_be_missing_or_come_twice(written, tmp_path):
    for n in range(1, len(written)):
        for content in (written[:n] + written[n + 1 :], written[: n + 1] + written[n:]):
            refusal(tmp_path / "t", b"\n".join(content))


def test_a_trace_that_grows_too_large_is_refused_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "LARGEST", 2000)
    (tmp_path / "t").write_text("old")
    with pytest.raises(DdcliError, match="the trace passes"):
        trace_of(tmp_path / "t", model_of())
    assert [file.name for file in tmp_path.iterdir()] == ["t"]
    assert (tmp_path / "t").read_text() == "old"


def test_what_fails_in_the_middle_leaves_no_trace(tmp_path):
    with pytest.raises(FileNotFoundError, match="mine"), traced(tmp_path / "t", model_of(), "sample"):
        raise FileNotFoundError("mine")
    with pytest.raises(DdcliError, match="cannot be written: No such file"):
        trace_of(tmp_path / "no" / "t", model_of())
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(DdcliError, match="cannot be read"):
            read_trace(path)
