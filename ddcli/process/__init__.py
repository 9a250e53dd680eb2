"""Forward noise processes on single tokens. A new one is a class, and a line in `PROCESSES`."""

from ..errors import unknown
from ..schedule import make_schedule
from .autoregressive import Autoregressive
from .base import (
    ByKind,
    Process,
    Tables,
    Vocabulary,
    at,
    clean_posterior,
    flat_text,
    leave_one_out,
    log,
    log_ratios,
    one_hot,
    posterior,
    prior,
    prior_term,
    pure_noise,
)
from .interpolating import Absorbing, Hybrid, Interpolating, Masking, Stationary, Uniform
from .matrix import Band, Gaussian, Generator, Matrices, Steps, UserGenerator

PROCESSES: dict[str, type[Process]] = {
    "absorbing": Absorbing,
    "uniform": Uniform,
    "hybrid": Hybrid,
    "stationary": Stationary,
    "band": Band,
    "gaussian": Gaussian,
    "generator": UserGenerator,
    "steps": Steps,
    "autoregressive": Autoregressive,
}


def make_process(spec: str, schedule: str, vocabulary: Vocabulary, tables: Tables | None = None) -> Process:
    """A process by its name, what it takes after a colon, and its schedule: `hybrid:0.1`, `band:2`.

    tables: what `Process.tables()` of a trained model's process gave. Raises DdcliError.
    """
    check_names(spec, schedule)
    name, _, parameter = spec.partition(":")
    return PROCESSES[name].over(vocabulary, make_schedule(schedule), parameter, tables)


def check_names(spec: str, schedule: str) -> None:
    """Raises DdcliError for a process or schedule there is none of, whatever the vocabulary."""
    name = spec.partition(":")[0]
    if name not in PROCESSES:
        raise unknown("process", name, PROCESSES)
    make_schedule(schedule)


__all__ = [
    "PROCESSES",
    "Absorbing",
    "Autoregressive",
    "Band",
    "ByKind",
    "Gaussian",
    "Generator",
    "Hybrid",
    "Interpolating",
    "Masking",
    "Matrices",
    "Process",
    "Stationary",
    "Steps",
    "Tables",
    "Uniform",
    "UserGenerator",
    "Vocabulary",
    "at",
    "check_names",
    "clean_posterior",
    "flat_text",
    "leave_one_out",
    "log",
    "log_ratios",
    "make_process",
    "one_hot",
    "posterior",
    "prior",
    "prior_term",
    "pure_noise",
]
