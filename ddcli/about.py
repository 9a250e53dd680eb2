"""What config.json says of a model beside its network: the `diffusion` section, written by training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from .config import MOST_TOKENS, Section
from .errors import DdcliError

NOISE = 2  # which meaning the names of noise have; of runs that do not say, the first
Size = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
Counts = dict[Size, Annotated[int, Field(strict=True, ge=0, lt=2**53)]]  # how many records have each length


class Excerpt(Section):
    """What is read from a file that holds more."""

    model_config = ConfigDict(extra="ignore")


class Beside(Excerpt):
    """What the adapters of a run were trained beside."""

    model: str  # a folder or hub name
    sha256: str  # of its weights
    lora: str


class About(Excerpt):
    """The `diffusion` section of config.json, as far as a model is made from it."""

    noise: int = Field(1, ge=1, le=NOISE)
    process: str
    schedule: str
    predicts: str
    timesteps: int | None = Field(ge=1, le=1_000_000)  # of the objective
    data: dict[str, str]  # source and sha256
    length: int = Field(ge=2, le=MOST_TOKENS)
    end_of_text: bool
    record_lengths: Counts
    beside: Beside | None = None  # of a run of adapters
    labels: dict[str, Counts] = Field(default_factory=dict)  # which runs of older versions do not have

    @model_validator(mode="after")
    def _by_names_of_today(self) -> Self:
        """So that a model goes on computing the noise it was trained with."""
        object.__setattr__(self, "schedule", schedule_of(self.process, self.schedule, self.noise))
        object.__setattr__(self, "noise", NOISE)
        return self

    def check(self, path: Path) -> None:
        """Raises DdcliError, naming the file, where lengths of records do not fit."""
        for counts in filter(None, (self.record_lengths, *self.labels.values())):
            if max(counts) + 2 > self.length or not sum(counts.values()):
                raise DdcliError(f"{path} is damaged: record lengths do not fit {self.length} tokens")


class _Meaning(Excerpt):
    noise: int = Field(1, ge=1, le=NOISE)


class _Meant(Excerpt):
    diffusion: _Meaning = _Meaning()


def meaning_of_noise(described: Mapping[str, Any], path: Path) -> int:
    """Which meaning the names of noise have in a config.json. Raises DdcliError where it is damaged."""
    return excerpt(_Meant, described, path).diffusion.noise


def schedule_of(process: str, schedule: str, noise: int) -> str:
    """The name of a schedule today, where both names have the meaning `noise`.

    In the first one a schedule was the time of hybrid noise, not what is left of the text.
    """
    name, _, share = process.partition(":")
    if noise > 1 or name != "hybrid":
        return schedule
    return f"gidd:{share or 0.1}" + f":{schedule}" * (schedule != "linear")


T = TypeVar("T", bound=Excerpt)


def excerpt(kind: type[T], content: Mapping[str, Any], path: Path) -> T:
    """A part of a file's content, checked. Raises DdcliError, naming the file and the key."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            other = "missing, as it is in runs of other versions of ddcli"
            raise DdcliError(f"{path} is damaged: {key} is {other}") from None
        raise DdcliError(f"{path} is damaged: {key}: {first['msg'].lower()}") from None
