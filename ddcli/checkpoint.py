"""The run folder: written whole or not at all, verified when read, and never a pickle in it.

runs/x/
  config.json  model.safetensors  tokenizer files  generation_config.json   a Hugging Face model folder
  config.toml  metrics.jsonl  samples/  README.md                           what was run, and how it went
  checkpoints/step-00000500/  weights, ema and optimizer as safetensors, state.json, manifest.json
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from filelock import FileLock, Timeout
from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .about import About, Beside, Excerpt, excerpt
from .adapted import about_adapted, check_adapted
from .backbones.network import Network
from .backbones.transformer import DiffusionTransformer, DiffusionTransformerConfig
from .config import MOST_LAYERS, MOST_TOKENS, MOST_WIDTH, Config, Section, build_config, read_toml
from .denoiser import Batched, Cached, Denoiser, NetworkDenoiser, OneByOne, find_head
from .errors import DdcliError, RunFailed, unknown
from .files import (
    MANIFEST,
    clear_partial,
    links_out,
    read_small,
    sha256,
    whole_file,
    whole_folder,
    write_text,
)
from .foreign import Pretrained, Source, open_foreign, open_start
from .lora import Lora
from .model import SamplerSettings
from .process import Vocabulary, make_process
from .schedule import CLIPS
from .textmodel import TextModel
from .tokenizer import Tokenizer
from .weights import fill, weights_of

MODEL = "model.safetensors"
TABLES = "process.safetensors"
MOST_TABLES = 8 * 2**30  # bytes of a process
ROLES = ("mask", "pad", "eos", "bos")  # of tokens
FLOATS = ("F64", "F32", "F16", "BF16")
BUDGETS = "budgets"  # the key in generation_config.json
STEP = re.compile(r"step-(\d{1,12})$", re.ASCII)
STATE = "state.json"  # of a checkpoint
LOCK = ".lock"  # held by the process that trains in a run folder


# -- the model, as Hugging Face knows it ------------------------------------------------------------------


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
    source, weights = located(run)
    where = pick_device(device)
    dtype = pick_precision(precision, where, for_training=False)
    described = _read_json(source.folder / "config.json")
    is_own = described.get("model_type") == DiffusionTransformerConfig.model_type
    if not is_own and "diffusion" not in described:
        return open_foreign(replace(source, allow_pickle=allow_pickle), where, dtype)
    if source.is_remote:
        source.weights()
    found = (_own if is_own else _adapted)(source, weights, described, where)
    folder, about, tokenizer = source.folder, found.about, found.tokenizer
    excluded = tokenizer.excluded_ids(has_end_of_text=about["end_of_text"])
    vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, excluded)
    try:
        process = make_process(about["process"], about["schedule"], vocabulary, load_tables(folder) or {})
        head = find_head(about["predicts"], process)
    except KeyError as missing:
        raise DdcliError(f"{folder / TABLES} is missing or damaged: it holds no {missing}") from None
    sampling = _read_json(folder / "generation_config.json")
    plain = NetworkDenoiser(found.network, process, head, dtype)
    own = found.network if isinstance(found.network, DiffusionTransformer) else None
    denoiser: Denoiser = Cached(plain, own) if own is not None and own.config.block else plain
    return TextModel(
        denoiser=OneByOne(denoiser)
        if dtype == torch.float32 or not found.heeds_padding
        else Batched(denoiser),
        process=process,
        tokenizer=tokenizer,
        length=about["length"],
        device=where,
        record_lengths=about["record_lengths"] or None,
        labels=about["labels"],
        network=own,
        plain=plain,
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
    with torch.device("meta"):  # so that no memory is taken before the file is known to hold as much
        check_weights(DiffusionTransformer(network_config), weights)
    network = DiffusionTransformer(network_config)
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
) -> Pretrained:
    """A network that others made, with the weights of its folder, or those of a run's checkpoint.

    source, weights: as `located` has them. ends: as for a `Starter`. above: what it is opened for, where
    adapters stand beside it. Raises DdcliError.
    """
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
        ranks = {file.get_slice(name).get_shape()[0] for name in file.keys() if ".lora_A." in name}  # noqa: SIM118
    if ranks != {lora.r}:
        raise DdcliError(f"{weights} does not fit config.json: it holds no adapters of rank {lora.r:,}")
    parts = open_beside(beside, device, ends=ends, above=(*above, weights.resolve()))
    parts.network.adapt(lora, 0)
    load_weights(parts.network, weights)
    parts.network.merge()
    return parts


def open_beside(
    beside: Beside, device: torch.device, *, ends: bool, above: tuple[Path, ...] = ()
) -> Pretrained:
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


def save_defaults(run: Path, settings: SamplerSettings, budgets: Mapping[str, Mapping[str, Any]]) -> None:
    """Write how a run samples if nobody says, and budgets, by name, into generation_config.json; everything
    else in it stays."""
    path = run / "generation_config.json"
    refuse_links(run)
    measured = {BUDGETS: {name: dict(found) for name, found in budgets.items()}}
    content = _read_json(path) | settings.model_dump() | measured
    try:
        write_text(path, json.dumps(content, indent=2) + "\n")
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


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file: every weight, and nothing else. Raises DdcliError."""
    check_weights(network, path)
    weights = read_tensors(path)
    if odd := next((name for name, weight in weights.items() if not weight.isfinite().all()), None):
        raise DdcliError(f"{path} is damaged: not all of {odd} are finite numbers")
    fill(network, weights)


def check_weights(network: nn.Module, path: Path) -> None:
    """DdcliError where the header of a safetensors file tells of other weights than a network has."""
    wanted = {name: [*tensor.shape] for name, tensor in weights_of(network).items()}
    with opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        found = {name: part.get_shape() for name, part in parts.items()}
        strange = {name for name, part in parts.items() if part.get_dtype() not in FLOATS}
    wrong = {k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)} | strange
    if wrong:
        raise DdcliError(
            f"{path} does not fit config.json: {len(wrong)} weights differ, the first is {min(wrong)}"
        )


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


def read_tensors(path: Path) -> dict[str, Tensor]:
    with opened(path):
        return load_file(path)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, of which nothing but its header is read yet. Raises DdcliError where it is none."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file, but a folder, a pipe or a device")
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise DdcliError(f"{path.parent} is no finished run: {path.name} is missing") from None
    except (SafetensorError, OSError, RecursionError) as error:
        raise DdcliError(f"{path} is damaged: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_small(path))
    except FileNotFoundError:
        raise DdcliError(f"{path.parent} is no run folder: {path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DdcliError(f"{path} cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise DdcliError(f"{path} is damaged: a JSON object was expected")
    return content


# -- where to compute, and how finely ---------------------------------------------------------------------


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where there is one. Raises DdcliError for a device that is not there or will not do."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):  # mps knows no float64, which clocks and draws need
            raise RuntimeError("ddcli computes on cpu or cuda")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DdcliError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
PRECISION_NAMES = {dtype: name for name, dtype in PRECISIONS.items()}


def pick_precision(name: str, device: torch.device, *, for_training: bool) -> torch.dtype:
    """`auto` is bf16 where the machine computes in it; but float32 for inference on a CPU.

    There a sequence is computed on its own, so its text depends, to the last bit, on its seed alone.
    """
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and for_training and torch.cpu._is_avx512_bf16_supported()
        name = "bf16" if fast else "float32"
    if name not in PRECISIONS:
        raise unknown("precision", name, ["auto", *PRECISIONS])
    return PRECISIONS[name]


# -- checkpoints ------------------------------------------------------------------------------------------


def save_checkpoint(
    run: Path,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
) -> None:
    """Write checkpoints/step-N, a safetensors file for each group, then drop all but the newest `keep`.

    The one with the lowest bound is kept as well: `state["bound"]`, nats per token, None where there is none.
    """
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    with whole_folder(folder / f"step-{step:08}") as beside:
        for name, group in groups.items():
            save_file(dict(group), beside / f"{name}.safetensors")
        (beside / STATE).write_text(json.dumps(dict(state), indent=1))
    known = [path for at, path in checkpoints(run) if at <= step]
    kept = {*known[-keep:], best_checkpoint(known)}
    for _, path in checkpoints(run):
        if path not in kept:  # old, or of a later step: damaged, and passed over when the run went on
            shutil.rmtree(path)


def best_checkpoint(folders: Sequence[Path]) -> Path | None:
    """Of some checkpoints, oldest first, the newest with the lowest bound; None where none was measured."""
    bounds = {}
    for folder in folders:
        with suppress(
            OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError
        ):  # not measured, or damaged
            bound = json.loads(read_small(folder / STATE))["bound"]
            if math.isfinite(bound):
                bounds[folder] = bound
    return min(reversed(bounds), key=bounds.__getitem__, default=None)


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, oldest first."""
    found = [(STEP.match(path.name), path) for path in (run / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def verified(folder: Path) -> bool:
    """Whether the files of a checkpoint are those that were written, and every one as it was."""
    try:
        sums = json.loads(read_small(folder / MANIFEST))
        there = {path.name for path in folder.iterdir()} - {MANIFEST}
        return sums.keys() == there and all(sha256(folder / name) == sums[name] for name in there)
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def intact_checkpoint(run: Path, log: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies, or None where there is none."""
    for step, folder in reversed(checkpoints(run)):
        if verified(folder) and _read_json(folder / STATE).get("step", step) == step:
            return folder
        log(f"checkpoint {step} is damaged and is passed over")
    return None


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by group, and state."""
    groups = {file.stem: read_tensors(file) for file in sorted(folder.glob("*.safetensors"))}
    return groups, _read_json(folder / STATE)


class _Bound(Section):
    """A `Bound`, as state.json has it."""

    nats_per_token: float
    bits_per_char: float
    literature_nats_per_token: float
    stderr: float
    clusters: int
    tokens: int
    bits_per_byte: float = math.nan

    model_config = ConfigDict(strict=True, allow_inf_nan=True)


class _Window(Section):
    """What happened since the last line of metrics."""

    losses: list[float]
    norms: list[float]
    tokens: int
    seconds: float
    skipped: int = 0

    model_config = ConfigDict(strict=True)


class _State(Excerpt):
    """What state.json has to say for a run to go on."""

    model_config = ConfigDict(strict=True, allow_inf_nan=True)  # as what was never measured is

    step: int = Field(ge=0)
    fingerprint: str
    seconds: float = Field(ge=0, lt=2**53)
    window: _Window
    bounds: list[_Bound]
    recent: list[float]
    lost: list[int]
    place: list[list[int]]
    gradients: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        min_length=len(CLIPS), max_length=len(CLIPS)
    )
    clip: int | None = Field(ge=0, lt=len(CLIPS))


def check_checkpoint(
    groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], network: nn.Module, run: Path
) -> None:
    """DdcliError where a checkpoint, though it is as it was written, cannot be one of this network."""
    try:
        _State.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DdcliError(f"a checkpoint of {run} is damaged: {key}: {first['msg'].lower()}") from None
    wanted = {name: weight.shape for name, weight in weights_of(network).items()}
    for name in ("weights", "ema"):
        if {key: weight.shape for key, weight in groups.get(name, {}).items()} != wanted:
            raise DdcliError(f"a checkpoint of {run} is damaged: its {name} are not those of this network")
    for name, group in groups.items():
        if not all(weight.is_floating_point() and bool(weight.isfinite().all()) for weight in group.values()):
            raise DdcliError(f"a checkpoint of {run} is damaged: its {name} are not all numbers")
    moments = groups.get("optimizer", {})
    known = {name: {weight.shape, torch.Size()} for name, weight in network.named_parameters()}
    if any(value.shape not in known.get(key.rpartition("/")[0], ()) for key, value in moments.items()):
        raise DdcliError(f"a checkpoint of {run} is damaged: its optimizer is not that of this network")


# -- the folder itself ------------------------------------------------------------------------------------


def find_run(run: Path, *, resume: bool) -> Config | None:
    """The config of the run that the folder holds; None where there is no folder yet, or an empty one.

    Raises DdcliError if it holds something else, or a run that was not to be resumed. Writes nothing.
    """
    if (run / "config.toml").is_file():
        if not resume:
            raise DdcliError(f"{run} already holds a run; go on with --resume, or choose another -o")
        refuse_links(run)
        return build_config(read_toml(run / "config.toml"), {}, str(run / "config.toml"))
    if files := [place for place in (run, *run.parents) if place.exists() and not place.is_dir()]:
        raise DdcliError(f"{files[0]} is a file; -o takes a folder")
    if run.is_dir() and any(path.name != LOCK for path in run.iterdir()):
        raise DdcliError(f"{run} is not empty and holds no run; choose another -o")
    return None


def refuse_links(run: Path) -> None:
    """DdcliError where writing into a run folder would change something elsewhere."""
    if link := links_out(run):
        raise DdcliError(
            f"{link} is a link to {link.resolve()}, outside of the run that is to be written; put the thing "
            "itself there, or link the whole folder"
        )


@contextmanager
def held(run: Path) -> Iterator[None]:
    """The run folder, made if it is not there, for this process alone; what was left half written is cleared.

    The lock is the operating system's: it ends with the process, however that ends. Raises DdcliError where
    another process trains there.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DdcliError(f"another process is training in {run}; wait for it, or choose another -o") from None
    try:
        for folder in (run, run / "checkpoints", run / "samples"):
            clear_partial(folder)
        yield
    finally:
        with suppress(OSError):  # of a folder that is gone, or cannot be written
            (run / LOCK).unlink(missing_ok=True)  # while it is held, so that nobody else's is taken away
            run.rmdir()  # where nothing was written
        lock.release()


def failed_write(run: Path, error: OSError | SafetensorError) -> RunFailed:
    reason = getattr(error, "strerror", None) or error
    return RunFailed(f"{run} cannot be written: {reason}; the last checkpoint is untouched")
