"""The model of a run, as Hugging Face knows it: its folder written, and opened again."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from .about import About, Beside, Excerpt, excerpt
from .adapted import about_adapted, check_adapted
from .backbones.network import Network
from .backbones.transformer import DiffusionTransformerConfig, Transformer
from .checkpoint import STEP, refuse_links
from .config import MOST_LAYERS, MOST_TOKENS, MOST_WIDTH
from .denoiser import Batched, NetworkDenoiser, OneByOne, find_head
from .device import engine_of, in_reach, pick_device, pick_precision
from .errors import DdcliError
from .files import MANIFEST, read_json, sha256, verified, whole_file, write_text
from .foreign.source import Source
from .lora import Lora
from .model import SamplerSettings
from .modelcard import with_sampling
from .process import Vocabulary, make_process
from .runlog import FRONTIER
from .sampling import Writer
from .tensors import Unfilled, check_weights, load_weights, opened, read_tensors
from .textmodel import TextModel
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .foreign.pretrained import Pretrained

T = TypeVar("T")

MODEL = "model.safetensors"
TABLES = "process.safetensors"
MOST_TABLES = 8 * 2**30  # bytes of a process
ROLES = ("mask", "pad", "eos", "bos")  # of tokens
BUDGETS = "budgets"  # the key in generation_config.json


def save_model(
    run: Path,
    network: Network,
    weights: Mapping[str, Tensor],
    tables: Mapping[str, Tensor],
    defaults: Mapping[str, Any],
) -> None:
    """Write config.json, generation_config.json, model.safetensors and, of noise that is made from numbers,
    process.safetensors. weights: by the names of `weights_of`; the network's own do not matter."""
    if not (run / "generation_config.json").exists():  # which people may have edited
        write_text(run / "generation_config.json", json.dumps(dict(defaults), indent=2) + "\n")
    if tables:
        with whole_file(run / TABLES) as beside:
            save_file(dict(tables), beside)
    network.save(run, weights)


def load_model(
    run: str | Path, *, device: str = "auto", precision: str = "auto", allow_pickle: bool = False
) -> TextModel:
    """A text model from a run folder, or from one of its checkpoints, on averaged weights; or one that others
    trained, by its folder or hub name, from a pickle too where that is allowed.

    Raises DdcliError where it is neither, or its parts do not fit together.
    """
    return _load(run, device, precision, allow_pickle, _open_foreign)


def load_writer(
    run: str | Path, *, device: str = "auto", precision: str = "auto", allow_pickle: bool = False
) -> Writer:
    """The same, or a model that does nothing but write."""
    return _load(run, device, precision, allow_pickle, _open_writer)


def _open_foreign(source: Source, device: torch.device, dtype: torch.dtype, asked: str) -> TextModel:
    from .foreign.openers import open_foreign  # models of transformers take seconds to import, here and below

    return open_foreign(source, device, dtype, asked)


def _open_writer(source: Source, device: torch.device, dtype: torch.dtype, asked: str) -> Writer:
    from .foreign.openers import open_writer

    return open_writer(source, device, dtype, asked)


def _load(
    run: str | Path,
    device: str,
    precision: str,
    allow_pickle: bool,
    open_other: Callable[[Source, torch.device, torch.dtype, str], T],
) -> T | TextModel:
    source, weights = located(run)
    where = pick_device(device)
    dtype = pick_precision(precision, where, for_training=False)
    described = read_json(source.folder / "config.json")
    is_own = described.get("model_type") == DiffusionTransformerConfig.model_type
    if not is_own and "diffusion" not in described:
        return open_other(replace(source, allow_pickle=allow_pickle), where, dtype, precision)
    if source.is_remote:
        source.weights()
    found = (_own if is_own else _adapted)(source, weights, described, where)
    dtype = in_reach(dtype, precision, found.network.computes_in, source.name)
    folder, about, tokenizer = source.folder, found.about, found.tokenizer
    excluded = tokenizer.excluded_ids(has_end_of_text=about["end_of_text"])
    vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, excluded)
    try:
        process = make_process(about["process"], about["schedule"], vocabulary, load_tables(folder) or {})
        head = find_head(about["predicts"], process)
    except KeyError as missing:
        raise DdcliError(f"{folder / TABLES} is missing or damaged: it holds no {missing}") from None
    process = process.in_steps(about["timesteps"])
    sampling = read_json(folder / "generation_config.json")
    plain = NetworkDenoiser(found.network, process, head, dtype)
    plain.round_layers()
    own = found.network if isinstance(found.network, Transformer) else None
    return TextModel(
        denoiser=OneByOne(plain) if dtype == torch.float32 or not found.heeds_padding else Batched(plain),
        process=process,
        tokenizer=tokenizer,
        length=about["length"],
        device=engine_of(where),
        record_lengths=about["record_lengths"] or None,
        labels=about["labels"],
        network=own,
        plain=plain,
        block=own.config.block if own is not None else 0,
        settings=_settings(sampling, folder / "generation_config.json"),
        budgets=_budgets(sampling, folder / "generation_config.json"),
        folder=folder,
        weights=weights,
        about=about,
    )


def located(run: str | Path) -> tuple[Source, Path]:
    """A model's folder, and the file of its weights: of a checkpoint's folder, the run's folder, and the
    checkpoint's averaged weights. Raises DdcliError where there is none, or it is damaged."""
    name, run = str(run), Path(run)
    real = Path(os.path.realpath(run))
    if STEP.match(real.name) and (run / MANIFEST).is_file():
        if not verified(run):
            raise DdcliError(f"the checkpoint {run} is damaged; take another, or the run itself")
        return Source(name, real.parents[1]), run / "ema.safetensors"
    source = Source(name, run) if run.is_dir() else Source.find(name)
    return source, source.folder / MODEL


@dataclass(frozen=True)
class _Opened:
    """What a run's folder holds."""

    network: Network
    tokenizer: Tokenizer
    about: Mapping[str, Any]
    heeds_padding: bool = True


def _own(source: Source, weights: Path, described: Mapping[str, Any], device: torch.device) -> _Opened:
    """A run of our own network. Raises DdcliError."""
    run = source.folder
    if not described.get("diffusion"):
        raise DdcliError(
            f"{run} holds a model, but none that ddcli trained (config.json has no diffusion section)"
        )
    network_config = network_config_of(described, run / "config.json")
    tokenizer = tokenizer_of(run, network_config)
    with Unfilled():
        with torch.device("meta"):  # so that no memory is taken before the file is known to hold as much
            check_weights(Transformer(network_config), weights)
        network = Transformer(network_config)
    load_weights(network, weights)
    torch.nn.Module.to(network, device)
    return _Opened(network.eval(), tokenizer, network_config.diffusion)


def tokenizer_of(run: Path, network_config: DiffusionTransformerConfig) -> Tokenizer:
    """The tokenizer of a run of our own network. Raises DdcliError where it is another than the network's."""
    added: list[str] = []
    tokenizer = Tokenizer.load(run, added.append)
    if added:  # a model knows no token that its tokenizer has to be given first
        raise DdcliError(f"{run}: the tokenizer is not the one the model was trained with: {added[0]}")
    if tokenizer.vocab_size != network_config.vocab_size:
        raise DdcliError(
            f"{run}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"but the network was made for {network_config.vocab_size}"
        )
    for role in ROLES:
        own, said = getattr(tokenizer, f"{role}_id"), getattr(network_config, f"{role}_token_id")
        if own != said:
            raise DdcliError(f"{run}: the tokenizer's {role} token is {own}, but config.json says {said}")
    if strangers := network_config.diffusion["labels"].keys() - tokenizer.label_ids:
        raise DdcliError(f"{run}: the tokenizer has no token for the label {min(strangers)!r}")
    return tokenizer


def _adapted(source: Source, weights: Path, described: Mapping[str, Any], device: torch.device) -> _Opened:
    """A run of a network that others made. Raises DdcliError."""
    about = about_adapted(source)
    parts = open_filled(source, weights, device, ends=not about.record_lengths)
    check_adapted(parts, about, source)
    return _Opened(parts.network, parts.tokenizer, about.model_dump(), parts.heeds_padding)


def open_filled(
    source: Source, weights: Path, device: torch.device, *, ends: bool, above: tuple[Path, ...] = ()
) -> "Pretrained":
    """A network that others made, with the weights of its folder, or those of a run's checkpoint.

    source, weights: as `located` has them. ends: as for a `Starter`. above: what it is opened for, where
    adapters stand beside it. Raises DdcliError.
    """
    from .foreign.openers import open_start

    if weights.resolve() in above:
        raise DdcliError(f"the adapters of {source.name} lead back to themselves")
    if weights.name == MODEL:
        return open_start(source, device, ends=ends)
    beside = about_adapted(source).beside
    if beside is None:
        parts = open_start(source, device, ends=ends, filled=False)
        load_weights(parts.network, weights)
        return parts
    lora = Lora.parse(beside.lora)
    with opened(weights) as file:  # better looked at than memory taken for what is not there
        first = [name for name in file.keys() if ".lora_A." in name or ".lora_embedding_A." in name]  # noqa: SIM118
        ranks = {file.get_slice(name).get_shape()[0] for name in first}
    if lora.r not in ranks:  # of experts in one tensor they are others
        raise DdcliError(f"{weights} does not fit config.json: it holds no adapters of rank {lora.r:,}")
    parts = open_beside(beside, device, ends=ends, above=(*above, weights.resolve()))
    parts.network.adapt(lora, 0)
    load_weights(parts.network, weights)
    parts.network.merge()
    return parts


def open_beside(
    beside: Beside, device: torch.device, *, ends: bool, above: tuple[Path, ...] = ()
) -> "Pretrained":
    """The network that the adapters of a run stand beside. Raises DdcliError where it is gone, or another."""
    try:
        source, weights = located(beside.model)
        parts = open_filled(source, weights, device, ends=ends, above=above)
    except DdcliError as error:
        what = f"adapters were trained beside {beside.model}, which is needed again"
        raise DdcliError(f"{what}: {error}") from None
    if sum_of(source, weights) != beside.sha256:
        raise DdcliError(
            f"adapters were trained beside {beside.model}, whose weights have changed since; put back those "
            f"of sha256 {beside.sha256[:16]}..., or use the run itself, in which they are merged"
        )
    return parts


def sum_of(source: Source, weights: Path) -> str:
    """The sha256 of the file of a model's weights; of several files, that of their sums."""
    sums = [sha256(file) for file in (source.weights() if weights.name == MODEL else [weights])]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _settings(saved: Mapping[str, Any], path: Path) -> SamplerSettings:
    try:
        return SamplerSettings().but(**{k: v for k, v in saved.items() if k in SamplerSettings.model_fields})
    except DdcliError as error:
        raise DdcliError(f"{path}: {error}") from None


def _budgets(saved: Mapping[str, Any], path: Path) -> dict[str, SamplerSettings]:
    """Settings by the name of a budget; what one does not say is as in the settings without any."""
    budgets = saved.get(BUDGETS, {})
    if not isinstance(budgets, dict) or not all(isinstance(found, dict) for found in budgets.values()):
        raise DdcliError(f"{path} is damaged: {BUDGETS} is not a JSON object of objects")
    return {name: _settings({**saved, **found}, path) for name, found in budgets.items()}


def save_defaults(
    run: Path,
    settings: SamplerSettings,
    budgets: Mapping[str, Mapping[str, Any]],
    swept: Sequence[Mapping[str, Any]],
) -> None:
    """Write how a run samples if nobody says, and budgets, by name, into generation_config.json; everything
    else in it stays. swept: the points they were chosen from, into frontier.json."""
    path = run / "generation_config.json"
    refuse_links(run)
    measured = {BUDGETS: {name: dict(found) for name, found in budgets.items()}}
    content = read_json(path) | settings.model_dump() | measured
    try:
        write_text(path, json.dumps(content, indent=2) + "\n")
        path = run / FRONTIER
        write_text(path, json.dumps(list(swept), indent=1) + "\n")
        path = run / "README.md"
        with suppress(UnicodeDecodeError):  # then it is somebody's own, and stays as it is
            card = path.read_bytes().decode() if path.is_file() else ""
            if (told := with_sampling(card, settings)) != card:
                write_text(path, told)
    except OSError as error:
        raise DdcliError(f"{path} cannot be written: {error.strerror}") from None


class _Described(Excerpt):
    """What config.json has to say for a model to be made from it."""

    vocab_size: int = Field(ge=1)
    width: int = Field(ge=2, le=MOST_WIDTH)
    layers: int = Field(ge=1, le=MOST_LAYERS)
    heads: int = Field(ge=1, le=MOST_WIDTH)
    mlp_ratio: int = Field(ge=1, le=64)
    clock: Literal["none", "given", "time"]
    causal: bool
    block: int = Field(ge=0, le=MOST_TOKENS)
    window: int = Field(ge=0, le=MOST_TOKENS)
    self_conditioned: bool
    tie_word_embeddings: bool = False  # the oldest runs do not say
    mask_token_id: int = Field(ge=0)
    pad_token_id: int = Field(ge=0)
    eos_token_id: int = Field(ge=0)
    bos_token_id: int = Field(ge=0)
    diffusion: About


def network_config_of(described: Mapping[str, Any], path: Path) -> DiffusionTransformerConfig:
    """The part of config.json that a model is made from, checked. Raises DdcliError."""
    found = excerpt(_Described, described, path)
    if found.width % (2 * found.heads):
        raise DdcliError(f"{path} is damaged: width {found.width} does not fit {found.heads} heads")
    ids = {role: getattr(found, f"{role}_token_id") for role in ROLES}
    if max(ids.values()) >= found.vocab_size or len(set(ids.values())) < len(ids):
        said = ", ".join(f"{role} {id}" for role, id in ids.items())
        raise DdcliError(f"{path} is damaged: {said} are not {len(ids)} tokens of {found.vocab_size:,}")
    about = found.diffusion
    if max(found.block, found.window * found.block) > about.length:
        raise DdcliError(f"{path} is damaged: blocks of {found.block} do not fit {about.length} tokens")
    about.check(path)
    return DiffusionTransformerConfig(**found.model_dump())


def load_tables(run: Path) -> dict[str, Tensor] | None:
    """What the process of a run is made from, where it is made from numbers."""
    path = run / TABLES
    if not path.exists():
        return None
    if (size := path.stat().st_size) > MOST_TABLES:
        raise DdcliError(f"{path} is damaged: no process takes {size:,} bytes")
    tables = read_tensors(path)
    for name, table in tables.items():
        if not (table.is_floating_point() and bool(table.isfinite().all())):
            raise DdcliError(f"{path} is damaged: its {name} is not made of numbers")
    return tables
