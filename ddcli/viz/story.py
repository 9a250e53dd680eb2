"""The story of a text under noise, or of one that a model wrote, computed once.

Legend: V states of the chain, times t from 0 (clean) to 1 (noise).
"""

from collections.abc import Iterable, Mapping, Sequence

import torch

from ..errors import DdcliError
from ..generate import Frame
from ..process import Autoregressive, Process
from ..tokenizer import Tokenizer
from ..trace import Traced, recorded
from .matrices import chain_of
from .measures import measure
from .parts import Chapter, Story, Track, visible
from .paths import SHOWN, backward, forward
from .transition import F64

CURVE = [i / 100 for i in range(101)]
TRACKS = 8  # texts of a trace that are drawn


def tell(
    text: str,
    tokenizer: Tokenizer,
    *,
    processes: Mapping[str, Process],
    times: Sequence[float],
    seed: int,
    frames: Mapping[str, Iterable[Frame]] | None = None,
) -> Story:
    """Noise `text` with each of the named processes, at each of the times, and measure what is left of it.

    The processes share their random numbers, so that with the same schedule they hit the same positions.
    One that exists at some times only is drawn at the nearest of them. `frames` are those of a model's run,
    under the name of the process it was trained with; the first sequence of their batch is drawn.
    """
    frames = frames or {}
    check_drawable(processes)
    if not times or not all(0 <= t <= 1 for t in times):
        raise DdcliError("times run from 0 (clean text) to 1 (pure noise); give at least one, none outside")
    if strangers := frames.keys() - processes.keys():
        raise DdcliError(f"the model was trained with {', '.join(strangers)} noise; draw that process too")
    ids = torch.from_numpy(tokenizer.encode(text)).long()
    if not len(ids):
        raise DdcliError("the text is empty, so there is nothing to draw")
    p0 = torch.bincount(ids, minlength=tokenizer.vocab_size).to(F64) / len(ids)

    chapters = []
    for name, process in processes.items():
        drawn, curve = existing(process, times), existing(process, CURVE)
        measured = measure(process, p0, ids[:SHOWN], {*drawn, *curve})
        tracks = [forward(name, process, ids, [measured[t] for t in drawn], seed, tokenizer.mask_id)]
        if name in frames:
            for recording in recorded(process, tokenizer, frames[name])[:1]:
                tracks.append(backward(f"a model undoes {name} noise", recording))
        curves = [measured[t] for t in curve]
        chapters.append(Chapter(name, tracks, curves, chain_of(process, p0, drawn)))

    used = sorted(_used(chapters))
    pieces = dict(zip(used, map(visible, tokenizer.pieces(used)), strict=True))
    return Story("Text under noise", "", tokenizer.unit, pieces, chapters)


def retell(trace: Traced) -> Story:
    """What a trace tells: the way from noise to each of its texts, the first of them at least."""
    header, count = trace.header, len(trace.canvases)
    command, noise, note = map(visible, (header.command, header.noise, header.sampling))
    tracks = []
    for number, recording in enumerate(trace.canvases[:TRACKS], 1):
        name = recording.begin.name or f"canvas {number} of {count}"
        tracks.append(backward(f"{command}: {visible(name)}, from {noise} noise", recording))
    chapters = [Chapter(noise, tracks, [], None)]
    pieces = {id: visible(trace.pieces[id]) for id in _used(chapters)}
    if count > TRACKS:
        note = f"{note}; the first {TRACKS} of {count} canvases"
    return Story("Noise becoming text", note, visible(header.unit), pieces, chapters)


def check_drawable(processes: Mapping[str, Process]) -> None:
    """Raises DdcliError where one of the named processes is no noise of single tokens."""
    for name, process in processes.items():
        if isinstance(process, Autoregressive):
            raise DdcliError(f"{name} is an order of writing, not noise of single tokens; it has no picture")


def existing(process: Process, times: Iterable[float]) -> list[float]:
    """The times of the process nearest to these, ascending, each once."""
    steps = process.timesteps
    return sorted({float(t) if steps is None else round(t * steps) / steps for t in times})


def _used(chapters: Sequence[Chapter]) -> set[int]:
    """The ids that appear anywhere."""
    used = {id for chapter in chapters if chapter.chain for id in chapter.chain.states}
    return used.union(*(_used_in(track) for chapter in chapters for track in chapter.tracks))


def _used_in(track: Track) -> set[int]:
    return set(track.clean).union(
        *(row.tokens for row in track.rows),
        (event.token for event in track.events),
        (id for belief in track.beliefs for id, _ in belief.top),
    )
