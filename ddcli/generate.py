"""The one loop that turns noise into text.

Legend: B sequences, L positions, N positions asked for, V states. A canvas is (B, L) tokens; frozen
positions are given and stand at clock 0, the others run from clock 1 down to 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .device import memory_kept
from .process import Process, pure_noise
from .randomness import Streams
from .sampler import Draw, Sampler, Shape, Step, as_believed, by_chance


@dataclass(frozen=True)
class Frame:
    """The canvas after a step: what progress bars, the live view, traces and pictures read."""

    x: Tensor  # (B, L) tokens
    clock: Tensor  # (B, L) float64
    opened: Tensor  # (B, L) bool, positions whose token changed in this step
    nfe: Tensor  # (B,) network evaluations of each sequence so far
    step: int  # 0 is the pure noise the loop starts from
    steps: int
    rows: Tensor  # (B, L) bool, positions whose belief this step asked for
    log_p0: Tensor  # (N, V) what was believed there, nats, before temperature and cuts; (N, 2, V) where two
    # laws are mixed: of one who is told, and of one who is not
    names: Sequence[str] = ()  # of the sequences, (B,), for people; () where they have none


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    process: Process,
    sampler: Sampler,
    canvas: Tensor,
    frozen: Tensor,
    times: Tensor,
    rng: Streams,
    valid: Tensor | None = None,
    evaluations: int = 1,
    mix: Callable[[Tensor], Tensor] | None = None,
    shape: Shape = as_believed,
    pen: Draw = by_chance,
) -> Iterator[Frame]:
    """Fill the positions of `canvas` (B, L) that are not `frozen` (B, L), and yield every state on the way.

    times (steps + 1, B, 1 or L) float64 fall from 1 to 0. valid (B, L) is False at padding, which is frozen.
    evaluations: of the network, for each time the denoiser is asked about a sequence. mix, shape, pen: see
    `Step`.
    """
    times = times.to(canvas.device)
    clock = torch.where(frozen, 0.0, times[0])
    x = pure_noise(process, canvas, clock, rng)
    nfe = torch.zeros(len(canvas), dtype=torch.long)
    steps = len(times) - 1
    nobody, nothing = torch.zeros_like(frozen), torch.empty(0, process.vocabulary.size, device=canvas.device)
    yield Frame(x, clock, ~frozen, nfe, 0, steps, nobody, nothing)
    with memory_kept(canvas.device):
        for number, s in enumerate(times[1:], 1):
            whether, what = rng.uniform(2, canvas.shape[1]).to(canvas.device).unbind(1)
            step = Step(process, x, torch.where(frozen, 0.0, s), clock, whether, what, mix, shape, pen)
            rows = sampler.rows(step)
            log_p0 = nothing
            if rows.any():
                log_p0 = denoiser(x, sampler.clock(step), rows, valid)
                nfe = nfe + evaluations * rows.any(-1).cpu()
            previous, x, clock = x, sampler.move(step, log_p0, rows), step.s
            yield Frame(x, clock, x != previous, nfe, number, steps, rows, log_p0)
