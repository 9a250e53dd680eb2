"""A trace: all that happened to a canvas on the way from noise to text, a step a line, as JSON Lines."""

from .lines import Begin, Belief, Moment
from .reading import Traced, is_trace, read_trace
from .recording import Recording, recorded
from .writing import Trace, traced

__all__ = [
    "Begin",
    "Belief",
    "Moment",
    "Recording",
    "Trace",
    "Traced",
    "is_trace",
    "read_trace",
    "recorded",
    "traced",
]
