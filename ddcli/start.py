"""What training starts from: nothing, a model that others trained, or a run.

A start brings a network, and a tokenizer if it has one; and it says which settings are its own affair, so
that nobody else need ask what a run was started from.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from .about import Beside
from .adapted import about_adapted
from .backbones.network import Network
from .backbones.transformer import DiffusionTransformerConfig, Transformer
from .config import Config, Model, flatten
from .dataset import DEFAULT_LENGTH, TrainingData
from .errors import DdcliError, needed
from .foreign.source import Source
from .lora import Lora
from .process import Autoregressive, Process, Tables, default_schedule
from .saved import (
    load_tables,
    located,
    network_config_of,
    open_beside,
    open_filled,
    sum_of,
    tokenizer_of,
)
from .tensors import load_weights
from .tokenizer import Tokenizer

PEAK = 2e-3  # learning rate, of a network that knows nothing yet
GENTLE = 5e-4  # of one of ours that goes on
CAREFUL = 1e-4  # of large ones, whose makers mostly trained them with less
ADDED = 1e-3  # of adapters beside them
NOISE = "absorbing"  # all that a network which fills masks knows of
SHAPE = ("model.size", "model.width", "model.layers", "model.heads")


class Start(Protocol):
    """What training starts from."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where the data decides."""

    @property
    def tables(self) -> Tables | None:
        """What its noise is made from, where that is made from numbers."""

    def settled(self, config: Config) -> Config:
        """The config with what was left to the start.

        Raises DdcliError, by their names, for settings that do not go with it.
        """

    def network(
        self, config: Config, data: TrainingData, process: Process, about: Mapping[str, Any]
    ) -> Network:
        """The network, on the CPU or where it was opened. about: the `diffusion` section of its config.json.

        Raises DdcliError for what cannot be built.
        """


def find_start(config: Config, device: torch.device, begun: Path | None = None) -> Start:
    """What a config starts from. begun: the folder of a run that is to go on, which holds all that is needed.

    Raises DdcliError where there is no such model, or it cannot be trained.
    """
    if config.model.start is None:
        _refuse_theirs(config, "a network that knows nothing yet")
        return Afresh(None if begun is None else _network_of(located(begun)[0]))
    source, weights = located(begun or config.model.start)
    source = replace(source, mend="make safetensors of it by transformers (from_pretrained, save_pretrained)")
    is_own = source.described().get("model_type") == DiffusionTransformerConfig.model_type
    if is_own:
        return FromRun(config, source, None if begun else weights)
    return FromOthers(config, source, weights, device, goes_on=begun is not None)


def _refuse_theirs(config: Config, what: str) -> None:
    """DdcliError for settings that only models of others have a use for."""
    asked = {"--lora": config.model.lora, "train.anneal": config.train.anneal}
    if key := next((key for key, value in asked.items() if value), None):
        raise DdcliError(
            f"{key} does not go with {what}: start --from a model of transformers, or leave it out"
        )


def settle(config: Config, **found: Any) -> Config:
    """The config with values, by keys in which `__` stands for a dot."""
    for key, value in found.items():
        section, _, name = key.partition("__")
        changed = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: changed})
    return config


def _settled(config: Config, peak: float, *, ours: bool) -> Config:
    """The config with a start's own learning rate, optimiser and compiling, where nobody says."""
    train = config.train
    return settle(
        config,
        train__lr=peak if train.lr is None else train.lr,
        train__optimizer=("muon" if ours else "adamw") if train.optimizer == "auto" else train.optimizer,
        train__compile=ours if train.compile == "auto" else train.compile,
    )


# -- from nothing -----------------------------------------------------------------------------------------


class Afresh:
    """A network of ours with random weights, and a tokenizer by the data."""

    tokenizer = None
    tables = None

    def __init__(self, begun: DiffusionTransformerConfig | None) -> None:
        """begun: the network of a run that goes on, which may be of a time with other defaults."""
        self.begun = begun

    def settled(self, config: Config) -> Config:
        config.shape()  # better refused before a long text is read
        return _settled(config, PEAK, ours=True)

    def network(
        self, config: Config, data: TrainingData, process: Process, about: Mapping[str, Any]
    ) -> Network:
        shape = _shape_asked(config) if self.begun is None else _shape_of(self.begun)
        made = DiffusionTransformerConfig(**shape, **_of_data(config, data, process, about))
        _refuse_too_large(made)
        torch.manual_seed(config.train.seed)
        return Transformer(made)


def _shape_asked(config: Config) -> dict[str, Any]:
    """What a new network's config takes from settings."""
    return {
        **config.shape(),
        "clock": config.model.clock,
        "self_conditioned": config.model.self_condition,
        "tie_word_embeddings": _one_table(config.model),
    }


def _shape_of(own: DiffusionTransformerConfig) -> dict[str, Any]:
    """The same, of a network that there is."""
    keys = ("width", "layers", "heads", "mlp_ratio", "clock", "self_conditioned", "tie_word_embeddings")
    return {key: getattr(own, key) for key in keys}


def _network_of(source: Source) -> DiffusionTransformerConfig:
    return network_config_of(source.described(), source.folder / "config.json")


def _one_table(model: Model) -> bool:
    """Whether tokens are read and written by one table, which learns faster: not beside a clock, where a
    network begins by repeating what it reads, unless its head is to put that out as well."""
    return model.clock == "none" or model.predicts == "posterior"


def _of_data(
    config: Config, data: TrainingData, process: Process, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What our network's config takes from the data and the noise. Raises DdcliError for unfit blocks."""
    return {
        "vocab_size": data.tokenizer.vocab_size,
        "causal": isinstance(process, Autoregressive),
        **_block_shape(config.model.block, data.length, process),
        "mask_token_id": data.tokenizer.mask_id,
        "pad_token_id": data.tokenizer.pad_id,
        "eos_token_id": data.tokenizer.eos_id,
        "bos_token_id": data.tokenizer.bos_id,
        "diffusion": dict(about),
    }


def _refuse_too_large(made: DiffusionTransformerConfig) -> None:
    """DdcliError, before any memory is taken, for a network that the machine has no room for."""
    tables = (1 if made.tie_word_embeddings else 2) * made.vocab_size
    size = 4 * made.width * (12 * made.width * made.layers + tables)  # bytes; all else counts for little
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    if size > there:
        raise DdcliError(
            f"the weights alone take {size / 1e9:,.1f} GB, and this machine has {there / 1e9:,.1f} GB of "
            "memory; take a smaller --size, or lower model.width"
        )


def _block_shape(block: int | None, length: int, process: Process) -> dict[str, int]:
    """Raises DdcliError for a block length that does not divide the length of a sequence."""
    if block is None:
        return {"block": 0, "window": 0}
    if isinstance(process, Autoregressive):
        raise DdcliError("an autoregressive model knows no blocks; leave --block out")
    if length % block:
        raise DdcliError(f"--block {block} must divide the length of a sequence, {length}")
    return {"block": block, "window": length // block}


# -- from a model that others trained ---------------------------------------------------------------------


class FromOthers:
    """A network of transformers, with its own tokenizer; or a run that was started from one."""

    def __init__(
        self, config: Config, source: Source, weights: Path, device: torch.device, *, goes_on: bool
    ) -> None:
        """source, weights: as `located` has them. goes_on: weights of a checkpoint will take their place."""
        from .foreign.openers import DECODERS, open_start  # models of transformers take seconds to import
        from .foreign.pretrained import architecture

        described = source.described()
        self.name, self.kind = source.name, architecture(described)
        opened = described.get("is_causal") is False and not goes_on  # by a training before this one
        self.is_causal = described.get("model_type") in DECODERS and not opened
        self._refuse(config, goes_on)  # better than after gigabytes were read
        self.lora = None if config.model.lora is None else Lora.parse(config.model.lora)
        if self.lora:
            needed("peft", "--lora", "lora")
        ends = not config.data.lines
        self.beside = about_adapted(source).beside if goes_on and self.lora else None
        if self.beside:
            self.parts = open_beside(self.beside, device, ends=ends)
        elif goes_on:
            self.parts = open_start(source, device, ends=ends, filled=False)
        else:
            self.parts = open_filled(source, weights, device, ends=ends)
        if self.lora and not self.beside:
            self.beside = Beside(model=self.name, sha256=sum_of(source, weights), lora=str(self.lora))
        if not self.parts.heeds_padding:
            raise DdcliError(
                f"{self.name} is a {self.kind}, which reads padding as text, so texts of other "
                "lengths would change what it learns; start from another model"
            )

    tables = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.parts.tokenizer

    def _refuse(self, config: Config, goes_on: bool) -> None:
        """DdcliError for settings that are the model's own affair."""
        usual = flatten(Config().model_dump())
        asked = flatten(config.model_dump())
        kind = self.kind
        reasons = {
            **dict.fromkeys(SHAPE, f"the network is {self.name}'s"),
            "data.tokenizer": f"{self.name} has its own",
            "model.block": f"a {kind} reads a text whole",
            "model.clock": f"a {kind} is told no time",
            "model.self_condition": f"a {kind} is told no guess",
        }
        if goes_on:
            del reasons["model.size"]  # it may have been begun when another was usual
        if not self.is_causal:
            reasons["train.anneal"] = f"a {kind} is not causal"
        fine = {"model.clock": ("auto", "none")}
        for key, reason in reasons.items():
            if asked[key] not in fine.get(key, (usual[key],)):
                raise DdcliError(f"{key} does not go with --from: {reason}; leave it out")
        if config.process.name != NOISE:
            raise DdcliError(
                f"--process {config.process.name} does not go with --from: a {kind} fills masks, which is "
                f"{NOISE} noise; leave it out"
            )
        if config.model.predicts == "score" or config.objective.name == "score-entropy":
            key = "model.predicts=score" if config.model.predicts == "score" else "--objective score-entropy"
            raise DdcliError(f"{key} does not go with --from: a {kind} predicts tokens; leave it out")

    def settled(self, config: Config) -> Config:
        most, length = self.parts.most, config.data.length
        if (length or 0) > most:
            raise DdcliError(f"--length {length}: {self.name} reads {most:,} tokens at once; lower it")
        if length is None and not config.data.lines:
            config = settle(config, data__length=min(DEFAULT_LENGTH, most))
        peak = ADDED if self.lora else CAREFUL
        return settle(_settled(config, peak, ours=False), model__clock="none")

    def network(
        self, config: Config, data: TrainingData, process: Process, about: Mapping[str, Any]
    ) -> Network:
        if data.length > self.parts.most:
            raise DdcliError(
                f"the longest record takes {data.length} tokens, and {self.name} reads {self.parts.most:,} "
                "at once; give --length to leave longer ones out"
            )
        network = self.parts.network
        if config.train.anneal and not network.can_anneal(data.length):
            raise DdcliError(
                f"train.anneal does not go with --from: the attention of a {self.kind} has masks of its own; "
                "leave it out"
            )
        if self.lora:
            network.adapt(self.lora, config.train.seed)
        network.freeze_unused()
        beside = {"beside": self.beside.model_dump()} if self.beside else {}
        network.config.diffusion = {**about, **beside}
        return network


# -- from a run of ours -----------------------------------------------------------------------------------


class FromRun:
    """A network of ours that was trained before: its weights, its noise and its tokenizer."""

    def __init__(self, config: Config, source: Source, weights: Path | None) -> None:
        """weights: None where those of a checkpoint will take their place."""
        _refuse_theirs(config, f"{source.name}, a network of ddcli's own")
        if source.is_remote and weights is not None:
            source.weights()
        self.name, self.weights = source.name, weights
        self.config = _network_of(source)
        self.tokenizer = tokenizer_of(source.folder, self.config)
        self.tables = load_tables(source.folder)

    def settled(self, config: Config) -> Config:
        about, own = self.config.diffusion, self.config
        inherited = {
            "model.width": own.width,
            "model.layers": own.layers,
            "model.heads": own.heads,
            "model.block": own.block or None,
            "model.clock": own.clock,
            "model.self_condition": own.self_conditioned,
            "model.predicts": about["predicts"],
            "process.name": about["process"],
            "process.schedule": about["schedule"],
        }
        usual, asked = flatten(Config().model_dump()), flatten(config.model_dump())
        usual["process.schedule"] = default_schedule(asked["process.name"])
        for key, value in inherited.items():
            if asked[key] not in (usual[key], value):
                raise DdcliError(
                    f"{key} = {asked[key]} does not go with --from: {self.name} has {value}; leave it out"
                )
        # a run that goes on may have been begun when another size was usual
        for key in ("data.tokenizer", "model.size") if self.weights else ("data.tokenizer",):
            if asked[key] != usual[key]:
                raise DdcliError(f"{key} does not go with --from: {self.name} has its own; leave it out")
        length = config.data.length or (None if config.data.lines else about["length"])
        found = {key.replace(".", "__"): value for key, value in inherited.items()}
        return settle(_settled(config, GENTLE, ours=True), **found, data__length=length)

    def network(
        self, config: Config, data: TrainingData, process: Process, about: Mapping[str, Any]
    ) -> Network:
        made = DiffusionTransformerConfig(**_shape_of(self.config), **_of_data(config, data, process, about))
        network = Transformer(made)
        if self.weights is not None:
            load_weights(network, self.weights)
        return network
