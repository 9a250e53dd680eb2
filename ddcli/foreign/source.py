"""Where a model that others trained lies, and what it is taken apart into."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ..denoiser import Backbone
from ..errors import DdcliError, first_line
from ..files import CONFIG, check_regular, meant, read_small
from ..hub import WEIGHTS, fetch, is_name, refuse_adapters, safe_weights
from ..spelling import ForeignTokenizer

PICKLE = "pytorch_model.bin"


@dataclass(frozen=True)
class Source:
    """A model's folder, by the name it was asked for; of a hub name, weights come when they are wanted."""

    name: str
    folder: Path
    is_remote: bool = False
    allow_pickle: bool = False  # read pytorch_model.bin, where there are no safetensors
    mend: str = "give --allow-pickle"  # what to do where there is nothing else

    def __post_init__(self) -> None:
        refuse_adapters(self.folder, self.name)

    @classmethod
    def find(cls, name: str) -> "Source":
        """Raises DdcliError where there is neither such a folder nor such a hub name."""
        if Path(name).is_dir():
            return cls(name, Path(name))
        if Path(name).exists():
            raise DdcliError(
                f"{name} is no run folder but a file; to train a model on it: "
                f"`ddcli train --data {quote(name)} -o RUN`"
            )
        if not is_name(name):
            raise DdcliError(
                f"{name} is no run folder: there is no such folder; train one with "
                f"`ddcli train -o {quote(name)}`{meant(name, CONFIG)}"
            )
        return cls(name, fetch(name), is_remote=True)

    def described(self) -> Mapping[str, Any]:
        """What its config.json says. Raises DdcliError where that cannot be read."""
        path = self.folder / "config.json"
        try:
            content = json.loads(read_small(path))
        except FileNotFoundError:
            raise DdcliError(f"{self.name} is no model: it has no config.json") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DdcliError(f"{path} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise DdcliError(f"{path} is damaged: a JSON object was expected")
        return content

    def weights(self) -> list[Path]:
        """Its safetensors files, or its pickle where that is allowed. Raises DdcliError for none."""
        if self.is_remote:
            fetch(self.name, WEIGHTS)
        if found := safe_weights(self.folder, self.name):
            return found
        if self.allow_pickle:
            return [self._pickle()]
        if (self.folder / PICKLE).exists():
            raise DdcliError(
                f"{self.name} has its weights only as {PICKLE}, a pickle, which can run code and is not read "
                f"unasked; if you trust it, {self.mend}"
            )
        hint = f"; where it has {PICKLE} and you trust it, {self.mend}" if self.is_remote else ""
        raise DdcliError(f"{self.name} holds no weights: model.safetensors is missing{hint}")

    def _pickle(self) -> Path:
        path = self.folder / PICKLE
        if self.is_remote:
            fetch(self.name, (PICKLE,))
        try:
            check_regular(path)
        except FileNotFoundError:
            raise DdcliError(
                f"{self.name} holds no weights: model.safetensors is missing, and {PICKLE} too"
            ) from None
        except OSError as error:
            raise DdcliError(f"{self.name}: its weights cannot be read: {first_line(error)}") from None
        return path


@dataclass(frozen=True)
class Parts:
    """What a text model is made of, beside what is the same for all."""

    network: Backbone
    tokenizer: ForeignTokenizer
    process: str
    schedule: str
    predicts: str
    excluded: tuple[int, ...]  # ids that are neither text nor random noise
    length: int  # tokens of text that are read at once
    architecture: str
    parameters: int
    weights: list[Path]  # files
    heeds_padding: bool  # or else no sequence is padded to be asked about beside another
    block: int  # tokens that the network writes at once, behind a first one that is given; 0: all
