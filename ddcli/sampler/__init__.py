"""Samplers by name: a new one is a class, and a line here."""

from collections.abc import Callable

from ..errors import YOUR_OWN, DdcliError, alone, unknown
from .ancestral import Ancestral, Edit, Euler, FirstHitting, TauLeaping
from .base import Draw, Sampler, Shape, Step, as_believed, by_chance, default_sampler
from .ordered import (
    EntropyBounded,
    Greedy,
    LeftToRight,
    Ordered,
    RandomOrder,
    Surest,
    Threshold,
    largest_probability,
    margin,
    negentropy,
)
from .revising import REMASKS, Corrector

__all__ = [
    "SAMPLERS",
    "Ancestral",
    "Corrector",
    "Draw",
    "Edit",
    "EntropyBounded",
    "Euler",
    "FirstHitting",
    "Greedy",
    "LeftToRight",
    "Ordered",
    "RandomOrder",
    "Sampler",
    "Shape",
    "Step",
    "Surest",
    "TauLeaping",
    "Threshold",
    "as_believed",
    "by_chance",
    "default_sampler",
    "make_sampler",
]

Maker = Callable[[str], Sampler]


def _number(make: Callable[..., Sampler], meaning: str, low: float, high: float) -> Maker:
    """A sampler that may be given one number in (low, high] after its name."""

    def with_number(parameter: str) -> Sampler:
        if not parameter:
            return make()
        try:
            number = float(parameter)
        except ValueError:
            number = float("nan")
        if not low < number <= high:
            raise DdcliError(
                f"this sampler takes {meaning}, above {low:g} and at most {high:g}, not {parameter!r}"
            )
        return make(number)

    return with_number


def _remask(parameter: str) -> Sampler:
    kind, _, strength = (parameter or "cap").partition(":")
    if kind not in REMASKS:
        raise unknown("way to remask", kind, REMASKS)
    return _number(REMASKS[kind], "a strength", 0, 1)(strength)


# each from what follows its name after a colon
SAMPLERS: dict[str, Maker] = {
    "ancestral": alone("the sampler ancestral", Ancestral),
    "first-hitting": alone("the sampler first-hitting", FirstHitting),
    "euler": alone("the sampler euler", Euler),
    "tau-leaping": alone("the sampler tau-leaping", TauLeaping),
    "confidence": alone("the sampler confidence", lambda: Surest(largest_probability)),
    "margin": alone("the sampler margin", lambda: Surest(margin)),
    "entropy": alone("the sampler entropy", lambda: Surest(negentropy)),
    "left-to-right": alone("the sampler left-to-right", LeftToRight),
    "random": alone("the sampler random", RandomOrder),
    "greedy": alone("the sampler greedy", Greedy),
    "threshold": _number(lambda least=0.9: Threshold(least=least), "the least probability of a token", 0, 1),
    "entropy-bounded": _number(lambda bound=0.1: EntropyBounded(bound=bound), "a bound in nats", 0, 1e6),
    "remask": _remask,
    "corrector": _number(Corrector, "the share of plain steps", 0, 1),
    "edit": _number(Edit, "the share below which a token is unlikely", 0, 1),
}


def make_sampler(spec: str) -> Sampler:
    """A sampler by its name, with a parameter or not: `ancestral`, `threshold:0.9`, `remask:loop:0.02`.

    Some remember what they drew: each run needs one of its own. Raises DdcliError for what is none.
    """
    name, _, parameter = spec.partition(":")
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS, YOUR_OWN)
    return SAMPLERS[name](parameter)
