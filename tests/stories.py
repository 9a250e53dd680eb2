"""Texts under noise as pictures have them, made small."""

from types import SimpleNamespace

import numpy as np
import torch

from ddcli import viz
from ddcli.process import PROCESSES, Vocabulary
from ddcli.process.matrix import normalised
from ddcli.randomness import Streams
from ddcli.schedule import SCHEDULES
from ddcli.tokenizer import make_tokenizer
from ddcli.viz.paths import walk

TIMES = [i / 10 for i in range(11)]
TEXT = "to be, or not to be: that is the question\n"
LONG = TEXT * 60  # more than SHOWN tokens
HOSTILE = (
    "</script><script>document.title='owned'</script><!-- <b>&amp; \u2028 \x1b[31m \x07 \u202e {{policy}}"
)

BOTH = ("absorbing", "uniform")


def tables(name, size):
    """What a file would hold, drawn, over `size` states: 20 steps that leave a little of the text."""
    rates = (
        torch.rand(20, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64) ** 4
    )
    steps = 0.1 * rates / rates.sum(1, keepdim=True) + 0.9 * torch.eye(size, dtype=torch.float64)
    return {"generator": {"matrix": normalised(rates[0])}, "steps": {"matrix": steps}}.get(name)


def make(text, names=BOTH, schedule="linear", times=TIMES, seed=1, vocabulary="", frames=None):
    """A story, its tokenizer and its processes."""
    tokenizer = make_tokenizer("char", [text + vocabulary], print)
    size = tokenizer.vocab_size
    counts = np.bincount(tokenizer.encode(text), minlength=size)
    states = Vocabulary(size, tokenizer.mask_id, tokenizer.special_ids, counts=counts)
    given = {name: tables(name, len(states.text_ids)) for name in names}
    noises = {name: PROCESSES[name].over(states, SCHEDULES[schedule](), tables=given[name]) for name in names}
    runs = {name: frames(process, tokenizer, text) for name, process in noises.items()} if frames else None
    story = viz.tell(text, tokenizer, processes=noises, times=times, seed=seed, frames=runs)
    return story, tokenizer, noises


def perfect_run(process, tokenizer, text):
    """Frames of a model that knows the text: a noising path, backwards."""
    x0 = torch.from_numpy(tokenizer.encode(text)).long()
    path = [x0, *walk(process, x0, TIMES[1:], Streams([5]))][::-1]
    return [
        SimpleNamespace(
            names=(),
            x=x[None],
            clock=torch.full((1, len(x)), 1 - k / 10, dtype=torch.float64),
            opened=(x != path[k - 1])[None] if k else torch.ones(1, len(x), dtype=torch.bool),
            nfe=torch.tensor([k]),
            step=k,
            steps=10,
            rows=torch.zeros(1, len(x), dtype=torch.bool),
            log_p0=torch.empty(0, 1),
        )
        for k, x in enumerate(path)
    ]
