"""Forward noise processes on single tokens. A new one is a class, and a line in `PROCESSES`."""

from ..errors import YOUR_OWN, DdcliError, unknown
from ..schedule import INFORMATION, OWN, Linear, make_schedule
from .autoregressive import Autoregressive, refuse_order
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

    schedule: `auto` is `default_schedule`. tables: what `Process.tables()` of a trained model's process gave.
    Raises DdcliError.
    """
    check_names(spec, schedule)
    name, _, parameter = spec.partition(":")
    kind = PROCESSES[name]
    schedule = default_schedule(spec) if schedule == OWN else schedule
    if schedule == INFORMATION and issubclass(kind, Generator):
        return kind.over(vocabulary, Linear(), parameter, tables).informed()
    return kind.over(vocabulary, make_schedule(schedule), parameter, tables)


def check_names(spec: str, schedule: str) -> None:
    """Raises DdcliError for a process or schedule there is none of, whatever the vocabulary."""
    name = spec.partition(":")[0]
    if name not in PROCESSES:
        raise unknown("process", name, PROCESSES, YOUR_OWN)
    if schedule == INFORMATION and not issubclass(PROCESSES[name], Generator):
        raise DdcliError(
            f"the information schedule is that of a generator (band, gaussian, generator), and {name} noise "
            "is none; leave --schedule out"
        )
    if schedule not in (OWN, INFORMATION):
        make_schedule(schedule)


def default_schedule(spec: str) -> str:
    """The schedule of a process by its name, if nobody says.

    One mode of a generator may decay a hundred times faster than another, and no pace that is set by a single
    mode is one at which the text goes evenly. Of all other noise alpha is the share of the text that is left.
    """
    kind = PROCESSES.get(spec.partition(":")[0])
    return INFORMATION if kind and issubclass(kind, Generator) else "linear"


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
    "default_schedule",
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
    "refuse_order",
]
