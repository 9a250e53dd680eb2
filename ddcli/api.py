"""The Python twins of the commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from .errors import DdcliError
from .filling import Infilling, OfGaps
from .infilling import Document
from .process import PROCESSES, Process, Vocabulary, make_process
from .sampling import OfMany, Sample, Writer
from .schedule import OWN
from .textmodel import TextModel
from .tokenizer import make_tokenizer
from .trace import read_trace
from .viz import Story, check_drawable, default_times, retell, tell


def load(
    run: str | Path, *, device: str = "auto", precision: str = "auto", allow_pickle: bool = False
) -> TextModel:
    """A text model from a run folder, on its averaged weights, or one that others trained, by its folder or
    hub name: any masked language model of transformers, and checkpoints of MDLM, SEDD, UDLM, Duo and GIDD.

    allow_pickle: read pytorch_model.bin where a model that others trained has no safetensors; nothing but
    tensors and plain containers is taken from it (`torch.load(weights_only=True)`).
    Raises DdcliError where it is neither, or its parts do not fit together.

    >>> model = ddcli.load("runs/x")
    >>> model = ddcli.load("answerdotai/ModernBERT-base")
    >>> model = ddcli.load("kuleshov-group/mdlm-owt")
    """
    from .saved import load_model  # imports transformers, which pictures without a model do not need

    return load_model(run, device=device, precision=precision, allow_pickle=allow_pickle)


def sample(model: str | Path | Writer, n: int = 1, **options: Unpack[OfMany]) -> list[Sample]:
    """Draw n texts from a run folder, a model that others trained, or a loaded one. Options: those of
    `sampling.samples`.

    >>> ddcli.sample("runs/x", n=2, seed=1)[0].text
    """
    from .saved import load_writer  # as in `load`

    return (load_writer(model) if isinstance(model, str | Path) else model).sample(n, **options)


def infill(
    model: str | Path | TextModel, document: str | bytes | Document, n: int = 1, **options: Unpack[OfGaps]
) -> list[Infilling]:
    """Fill the gaps of a document. Options: those of `filling.infill`.

    >>> ddcli.infill("runs/x", "def add(a, b):\\n    return [MASK:5]\\n")[0].text
    """
    return _model(model).infill(document, n, **options)


def noise_viz(
    text: str | None = None,
    *,
    trace: str | Path | None = None,
    model: str | Path | TextModel | None = None,
    processes: Sequence[str] | None = None,
    schedule: str | Sequence[str] | None = None,
    times: Sequence[float] | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
) -> Story:
    """The text under noise, and with a model its way back from pure noise, ready to be drawn. Or a trace.

    trace: a file that `sample` or `infill` wrote; it replays what happened, and takes nothing else.
    processes: names, some with a parameter such as hybrid:0.2, by default absorbing and uniform; a model's
    own is drawn in any case, on its schedule. stationary:unigram counts this very text.
    schedule: a name, or several, on each of which every process is drawn.
    tokenizer: char (the default), byte or a Hugging Face name or folder; a model brings its own.
    Raises DdcliError for unknown names, a process that is no noise of single tokens, times out of [0, 1],
    a tokenizer beside a model's, and a trace that is damaged.

    >>> ddcli.viz.write(ddcli.noise_viz("To be or not to be"), "noise.html")
    """
    if trace is not None:
        return retell(read_trace(trace))
    if text is None:
        raise DdcliError("give a text, or the trace of one")
    if model is not None and tokenizer is not None:
        raise DdcliError("a model brings its own tokenizer; leave --tokenizer out")
    loaded = None if model is None else _model(model)
    tokens = loaded.tokenizer if loaded else make_tokenizer(tokenizer or "char", [text], lambda line: None)
    times = default_times() if times is None else times
    if not all(0 <= t <= 1 for t in times):
        raise DdcliError("times lie between 0 (clean) and 1 (noise)")
    own = {kind: loaded.process for kind in PROCESSES if loaded and type(loaded.process) is PROCESSES[kind]}
    names = processes or list(own) or ["absorbing", "uniform"]
    schedules = [schedule or OWN] if isinstance(schedule, str | None) else schedule
    excluded = tokens.excluded_ids(has_end_of_text=False)  # your text has no end to turn into
    size = tokens.vocab_size
    counts = np.bincount(tokens.encode(text), minlength=size)
    vocabulary = Vocabulary(size, tokens.mask_id, excluded, tokens.pieces(range(size)), counts)
    chosen = dict[str, Process]()
    for name in names:
        for kind in schedules:
            label = f"{name}, {kind}" if len(schedules) > 1 else name
            chosen[label] = own.get(label) or make_process(name, kind, vocabulary)
    chosen |= own
    check_drawable(chosen)
    frames = {}
    if loaded:
        frames = {name: loaded.frames(length=_length(loaded, text), seed=seed) for name in own}
    return tell(text, tokens, processes=chosen, times=times, seed=seed, frames=frames)


def _length(model: TextModel, text: str) -> int:
    """As many tokens as the text has, as far as the model can write them."""
    longest = model.length - sum(model.edges)
    return max(1, min(len(model.tokenizer.encode(text)), longest))


def _model(model: str | Path | TextModel) -> TextModel:
    return model if isinstance(model, TextModel) else load(model)
