"""Text to judge a model by: what its run was validated on, or any other."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .config import Data, build_config, read_toml
from .data import Blocks, pack, pack_records
from .dataset import Log, TrainingData, read_training_data, refuse_pipes
from .errors import DdcliError, counted
from .model import Model
from .sources import Document, read_corpus, refuse_files

USUAL_SPLIT = "train"


@dataclass(frozen=True)
class HeldOut:
    """A text, cut as the model reads it: in blocks, each on its own."""

    blocks: Blocks
    name: str
    sha256: str  # of the source it is of: of a single file, what sha256sum says
    unknown: int  # tokens that stand for symbols the vocabulary lacks: context, never predicted


def validation_text(model: Model, log: Log) -> HeldOut:
    """What the model's run was validated on, read again by its config.toml.

    Raises DdcliError where the model is of no run folder, or its data is gone or has changed.
    """
    if model.origin:
        raise DdcliError(
            f"{model.origin.name} is no run of ddcli, so no text is held out for it; give --data"
        )
    if model.folder is None or not model.about:
        raise DdcliError(
            "this model was not read from a run folder, and knows no text to judge it by; give data"
        )
    path = model.folder / "config.toml"
    settings = build_config(read_toml(path), {}, str(path)).data
    refuse_pipes(settings, path)
    data = _read_again(model, model.folder, settings, log)
    if settings.valid is not None:
        name = settings.valid
    elif settings.streaming:
        name = f"the first documents of {settings.source}"
    else:
        name = f"the last {settings.valid_fraction:.0%} of {settings.source}"
    own = data.fingerprint.rpartition("+")[2]  # of two sources, the one that is validated on
    return _held_out(model, data.valid, name, own)


def _read_again(model: Model, run: Path, settings: Data, log: Log) -> TrainingData:
    """The data of a run as training was told it; or, where that is not found or is another, by its place
    below a folder above the run, where training may have been begun.

    Raises DdcliError where none is the same.
    """
    refused: DdcliError | None = None
    for told in _places(settings, run):
        try:
            data = read_training_data(told, model.tokenizer, log)
        except DdcliError as error:
            refused = refused or DdcliError(
                f"what {run} was validated on cannot be read: {error}; or give a text with --data"
            )
            continue
        if data.fingerprint == model.about["data"]["sha256"]:
            return data
        refused = refused or DdcliError(
            f"{settings.source} is not what {run} was trained on any more; give a text with --data"
        )
    assert refused is not None
    raise refused from None


def _places(settings: Data, run: Path) -> Iterator[Data]:
    """Where the sources of a run may be, in the order in which they are looked for."""
    yield settings
    for folder in dict.fromkeys((*run.absolute().parents, *run.resolve().parents)):
        named = {"source": settings.source, "valid": settings.valid}
        there = {
            key: str(folder / source) for key, source in named.items() if source and _is_in(folder, source)
        }
        if there:
            yield settings.model_copy(update=there)


def _is_in(folder: Path, source: str) -> bool:
    """Whether a folder has a file, a folder or what a glob matches by a name."""
    return not os.path.isabs(source) and bool(glob.glob(source, root_dir=folder, recursive=True))


def text_from(
    model: Model,
    source: str,
    *,
    text_column: str = "text",
    label_column: str | None = None,
    split: str = USUAL_SPLIT,
) -> HeldOut:
    """Any source that training takes; a model of records reads one a line, with its label or without.

    Raises DdcliError where it cannot be read, or holds nothing that the model knows.
    """
    if label_column is not None and not model.labels:
        raise DdcliError("this model was trained without labels, and knows none; leave --label-column out")
    if split != USUAL_SPLIT:
        refuse_files(source, "--split")
    corpus = read_corpus(
        source,
        text_column=text_column,
        label_column=label_column,
        split=split,
        lines=bool(model.record_lengths),
        as_bytes=model.tokenizer.unit == "byte",
        trains=False,
    )
    blocks = blocks_of(model, corpus.documents, corpus.name, corpus.labels if label_column else ())
    return _held_out(model, blocks, corpus.name, corpus.sha256)


def blocks_of(model: Model, documents: Sequence[Document], name: str, labels: Sequence[str] = ()) -> Blocks:
    """Documents as the model reads them. Raises DdcliError, by their name, if there is nothing to predict."""
    if model.record_lengths:
        blocks = pack_records(list(documents), model.tokenizer, model.length, labels)
    else:
        eos = model.tokenizer.eos_id
        # what parts texts without being one is given, where there are several
        ends = None if eos in model.tokenizer.special_ids else bool(model.process.vocabulary.is_text[eos])
        length = model.length - sum(model.edges)
        blocks = pack(list(documents), model.tokenizer, length, end_of_text=ends)
        blocks = blocks.led_by(model.tokenizer.bos_id) if model.opened else blocks
    if blocks.left_out and not blocks.predicted:
        raise DdcliError(
            f"{counted(blocks.left_out, 'record')} of {name} are too long for the model, which reads "
            f"{model.length - 2} {model.tokenizer.unit}s at most, and no symbol of the rest is in its "
            "vocabulary; give another text"
        )
    if not blocks.predicted or not blocks.characters:
        raise DdcliError(f"no symbol of {name} is in the model's vocabulary; give another text")
    return blocks


def _held_out(model: Model, blocks: Blocks, name: str, sha256: str) -> HeldOut:
    unknown = (blocks.tokens == model.tokenizer.unk_id) & blocks.valid()
    return HeldOut(blocks, name, sha256, int(unknown.sum()))
