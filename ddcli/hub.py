"""The Hugging Face hub: asked once, quietly, and what it does not give is told in one line."""

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from .errors import DdcliError, first_line
from .files import CONFIG, check_regular, meant, read_small

PATIENCE = 10.0  # seconds to wait for the hub
NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
ENDINGS = (".json", ".txt", ".model", ".jinja")  # of what a model says of itself, its tokenizer included
DESCRIPTION = tuple(f"*{ending}" for ending in ENDINGS)
WEIGHTS = ("*.safetensors",)
POINTER = b"version https://git-lfs"
ADAPTERS = "adapter_config.json"
SHARD = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)


def is_name(text: str) -> bool:
    """Whether the hub could have something of this name."""
    return bool(NAME.fullmatch(text))


def fetch(name: str, patterns: Sequence[str] = DESCRIPTION) -> Path:
    """The folder that holds a model's files which match, downloaded where they are not there yet.

    Without a network those of earlier times are taken. Raises DdcliError where there are none, where the hub
    has no such model, and where it is not for everybody.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    trouble = unreachable(name)
    try:
        with quiet():
            return Path(
                snapshot_download(
                    name,
                    allow_patterns=list(patterns),
                    ignore_patterns=["*/*"],
                    local_files_only=trouble is not None,
                    etag_timeout=PATIENCE,
                )
            )
    except Exception as error:  # of the network, of the hub, of the disk
        cause = trouble or error
    if isinstance(cause, GatedRepoError):
        raise DdcliError(
            f"{name} is gated: ask for access on its page, and log in with `hf auth login`"
        ) from None
    here = f"{name} is no run folder: there is no such folder here, and"
    owner, hint = Path(name).parent, f"train one with `ddcli train -o {quote(name)}`"
    could_be_own = owner.name in ("", "runs") or owner.is_dir()  # or else it is a name of the hub
    if isinstance(cause, RepositoryNotFoundError):
        raise DdcliError(
            f"{here} no such model on the hub (or it is private: `hf auth login`)"
            f"{f'; {hint}' if could_be_own else ''}{meant(name, CONFIG)}"
        ) from None
    raise DdcliError(
        f"{here} the hub cannot be asked for it ({first_line(cause)}); give a folder with its config.json, "
        f"tokenizer.json and model.safetensors{f', or {hint}' if could_be_own else ''}{meant(name, CONFIG)}"
    ) from None


def refuse_adapters(folder: Path, name: str) -> None:
    """DdcliError for adapters: in their place transformers would read the model that they name, wherever that
    lies."""
    if (folder / ADAPTERS).exists():
        if _is_adapted(run := folder.parent):
            raise DdcliError(
                f"{name} holds the adapters of {run} alone; {run} itself has them merged: give that"
            )
        raise DdcliError(
            f"{name} holds adapters for another model ({ADAPTERS}), not a model; merge them first "
            "(peft: merge_and_unload, then save_pretrained)"
        )


def _is_adapted(run: Path) -> bool:
    """Whether a folder is that of a run with adapters, which are merged there."""
    try:
        return bool(json.loads(read_small(run / CONFIG))["diffusion"]["beside"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def safe_weights(folder: Path, name: str) -> list[Path]:
    """The files that a model's weights are read from, safetensors in its own folder; [] where there are none.

    Raises DdcliError for an index that names anything else, and for what is no file.
    """
    index, files = folder / "model.safetensors.index.json", [folder / "model.safetensors"]
    try:
        if not os.path.lexists(files[0]):
            if not os.path.lexists(index):
                return []
            named = sorted({str(file) for file in json.loads(read_small(index))["weight_map"].values()})
            if strange := [file for file in named if not SHARD.fullmatch(file)]:
                raise DdcliError(
                    f"{name}: {index.name} names {strange[0]!r}, which is no safetensors file in the folder "
                    "itself; nothing else is read"
                )
            files = [folder / file for file in named]
        for file in files:
            check_regular(file)
            with file.open("rb") as content:
                if content.read(len(POINTER)) == POINTER:
                    raise ValueError(f"{file.name} is a pointer of Git LFS; get the file: git lfs pull")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DdcliError(f"{name}: its weights cannot be read: {first_line(error)}") from None
    return files


def unreachable(name: str, *, dataset: bool = False) -> Exception | None:
    """Why the hub does not give a model or dataset, asked once: loaders would try again and again."""
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        with quiet():
            if dataset:
                hub.dataset_info(name, timeout=PATIENCE)
            else:
                hub.model_info(name, timeout=PATIENCE)
    except Exception as error:  # of the network, of the hub, or of a name that is none
        return error
    return None


@contextmanager
def offline() -> Iterator[None]:
    """Without the hub, which `datasets` asks many times before it takes what it fetched before."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and reports of transformers, and what the hub's client logs of its troubles."""
    from transformers.utils import logging as theirs

    shown, hub = theirs.is_progress_bar_enabled(), logging.getLogger("huggingface_hub")
    level, verbosity = hub.level, theirs.get_verbosity()
    theirs.disable_progress_bar()
    theirs.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)
        theirs.set_verbosity(verbosity)
        if shown:
            theirs.enable_progress_bar()
