"""Models that others trained, opened as text models. A masked language model *is* a denoiser.

Filling masks by what stands around them is all that absorbing noise asks of a network, whatever share of a
text is masked; so its softmax is the belief at masks, and no clock is told. How models of a kind are opened
is a line in `OPENERS`, by the `model_type` of their config.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from .backbones.pretrained import PretrainedMaskedLM, positions
from .config import MOST_TOKENS
from .denoiser import Batched, NetworkDenoiser, OneByOne, find_head
from .errors import DdcliError, counted
from .hub import WEIGHTS, fetch, first_line, is_name, quiet, safe_weights
from .model import Origin
from .process import Vocabulary, make_process
from .spelling import ForeignTokenizer
from .textmodel import TextModel
from .tokenizer import read_pretrained

LONGEST = (
    512  # tokens read at once, ends included, if a model reads more: text further on tells next to nothing
)
SANE = 10**6  # a tokenizer whose model_max_length is more knows none
PROBE = 7  # tokens
SCHEDULE = "linear"
REACHING = ("attn_implementation", "_attn_implementation", "experts_implementation")
EXAMPLE = "answerdotai/ModernBERT-base"


@dataclass(frozen=True)
class Source:
    """A model's folder, by the name it was asked for; of a hub name, weights come when they are wanted."""

    name: str
    folder: Path
    is_remote: bool = False

    @classmethod
    def find(cls, name: str) -> "Source":
        """Raises DdcliError where there is neither such a folder nor such a hub name."""
        if Path(name).is_dir():
            return cls(name, Path(name))
        if Path(name).exists() or not is_name(name):
            raise DdcliError(
                f"{name} is no run folder: there is no such folder; train one with `ddcli train -o {name}`"
            )
        return cls(name, fetch(name), is_remote=True)

    def weights(self) -> list[Path]:
        """Its safetensors files. Raises DdcliError where there are none."""
        if self.is_remote:
            fetch(self.name, WEIGHTS)
        if found := safe_weights(self.folder, self.name):
            return found
        if pickles := sorted(self.folder.glob("*.bin")):
            raise DdcliError(
                f"{self.name} has its weights only as {pickles[0].name}, a pickle, which can run code and is "
                "not read; if you trust it, save it again with transformers' save_pretrained, as safetensors"
            )
        raise DdcliError(f"{self.name} holds no weights: model.safetensors is missing")


@dataclass(frozen=True)
class Parts:
    """What a text model is made of, beside what is the same for all."""

    network: PretrainedMaskedLM
    tokenizer: ForeignTokenizer
    process: str
    predicts: str
    length: int  # tokens of text that are read at once, if nobody says
    most: int  # that can be
    architecture: str
    parameters: int
    weights: list[Path]  # files
    heeds_padding: bool  # or else no sequence is padded to be asked about beside another


class Opener(Protocol):
    """How models of a kind are opened."""

    def __call__(
        self,
        source: Source,
        config: PreTrainedConfig,
        device: torch.device,
        *,
        ends: bool = True,
        filled: bool = True,
    ) -> Parts:
        """ends: whether the network puts around a text what its tokenizer does; records bring their own.
        filled: with its weights; else they are random, for others to take their place.

        Raises DdcliError, naming the source, for what cannot be read or used.
        """


def open_foreign(source: Source, device: torch.device, dtype: torch.dtype) -> TextModel:
    """A text model from a folder or hub name of a model that ddcli did not train.

    Raises DdcliError for a model of a kind that is no denoiser, and one that cannot be read without running
    code of its own.
    """
    parts = open_network(source, device, OPENERS)
    tokenizer = parts.tokenizer
    vocabulary = Vocabulary(tokenizer.vocab_size, tokenizer.mask_id, tokenizer.special_ids)
    process = make_process(parts.process, SCHEDULE, vocabulary)
    plain = NetworkDenoiser(parts.network, process, find_head(parts.predicts, process), dtype)
    return TextModel(
        denoiser=OneByOne(plain) if dtype == torch.float32 or not parts.heeds_padding else Batched(plain),
        process=process,
        tokenizer=tokenizer,
        length=parts.length,
        device=device,
        plain=plain,
        origin=Origin(
            source.name,
            parts.architecture,
            parts.parameters,
            parts.process,
            SCHEDULE,
            (source.folder / "config.json", *parts.weights),
        ),
    )


def open_network(
    source: Source,
    device: torch.device,
    openers: Mapping[str, Opener],
    *,
    ends: bool = True,
    filled: bool = True,
) -> Parts:
    """What a model is made of, by the openers of kinds that will do. Arguments and errors: those of an
    `Opener`, and of `open_foreign`."""
    config = _config(source, openers)
    return openers[config.model_type](source, config, device, ends=ends, filled=filled)


def _config(source: Source, openers: Mapping[str, Opener]) -> PreTrainedConfig:
    """Its config, of a kind that there is an opener for. Raises DdcliError for any other."""
    content = described(source)
    kind, architecture = content.get("model_type"), _architecture(content)
    for key in REACHING:
        if "/" in str(content.get(key, "")):
            raise DdcliError(f"{source.name}: config.json sets {key}, which would read code from elsewhere")
    if content.get("transformers_weights") is not None:
        raise DdcliError(f"{source.name}: config.json sets transformers_weights; name it model.safetensors")
    if not isinstance(kind, str):
        raise DdcliError(
            f"{source.name} holds a model, but none that ddcli trained or transformers knows: config.json "
            "says no model_type"
        )
    if kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in content:
            raise DdcliError(
                f"{source.name} ({architecture}) brings Python code of its own, which ddcli never runs; use "
                "a model of a kind that transformers has built in"
            )
        raise DdcliError(
            f"{source.name} is a model of type {kind!r}, which this version of transformers does not know"
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of whatever its class makes of bad values
        raise DdcliError(f"{source.name}: config.json cannot be used: {first_line(error)}") from None
    what = f"{source.name} is {_a(architecture)}"
    if config.is_encoder_decoder:
        raise DdcliError(
            f"{what}, an encoder-decoder: it writes from left to right what it read elsewhere, and fills no "
            f"masks in a text; use a masked language model such as {EXAMPLE}"
        )
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    is_causal = architecture == causal != MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind)
    is_decoder = getattr(config, "is_decoder", False) or is_causal
    if kind not in openers or (is_decoder and kind in OPENERS):
        if is_decoder or causal:
            raise DdcliError(
                f"{what}, a causal decoder: it sees only what stands before a token, and cannot fill masks; "
                f"train it to (`ddcli train --from`), use a masked language model such as {EXAMPLE}, or this "
                "one to judge samples (`ddcli eval RUN --generative`)"
            )
        raise DdcliError(f"{what}, which is no masked language model of text; ddcli cannot sample from it")
    return config


def described(source: Source) -> Mapping[str, Any]:
    """The content of its config.json. Raises DdcliError."""
    path = source.folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DdcliError(f"{source.name} is no model: it has no config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DdcliError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise DdcliError(f"{path} is damaged: a JSON object was expected")
    return content


def _architecture(content: Mapping[str, Any]) -> str:
    named = content.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else f"{content.get('model_type')} model"


def _a(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


# -- kinds of models --------------------------------------------------------------------------------------


def masked_lm(
    source: Source,
    config: PreTrainedConfig,
    device: torch.device,
    *,
    ends: bool = True,
    filled: bool = True,
) -> Parts:
    """Anything that transformers opens as AutoModelForMaskedLM."""
    tokenizer = _tokenizer(source)
    network = loaded(AutoModelForMaskedLM, source, config, filled=filled).to(device)
    return assembled(PretrainedMaskedLM, source, network, tokenizer, ends=ends, filled=filled)


def assembled(
    kind: type[PretrainedMaskedLM],
    source: Source,
    network: Any,
    tokenizer: ForeignTokenizer,
    *,
    ends: bool,
    filled: bool,
) -> Parts:
    """A network of transformers and its tokenizer, tried together on a few tokens.

    Raises DdcliError where they do not fit each other, or text.
    """
    entries = len(network.get_input_embeddings().weight)
    if tokenizer.vocab_size > entries:
        raise DdcliError(
            f"{source.name}: the tokenizer has {tokenizer.vocab_size:,} tokens, but the network was made for "
            f"{entries:,}"
        )
    opening, closing = tokenizer.ends if ends else ([], [])
    around = len(opening) + len(closing)
    most = _positions(network, tokenizer) - around
    if most < 2:
        raise DdcliError(f"{source.name} reads no more than {most} tokens of text at once; that is too few")
    text = sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.special_ids))
    probe = [*text[: min(PROBE, most - 1)], tokenizer.mask_id]
    try:
        halves = kind(network, opening, closing, tokenizer.pad_id, probe, tokenizer.vocab_size)
        heeds_padding = halves.heeds_padding(probe)
    except Exception as error:  # of networks that ask for more than text
        raise DdcliError(f"{source.name} cannot be asked about text alone: {first_line(error)}") from None
    return Parts(
        halves.eval(),
        tokenizer,
        "absorbing",
        "posterior",
        min(most, LONGEST - around),
        most,
        type(network).__name__,
        network.num_parameters(),
        source.weights() if filled else [],
        heeds_padding,
    )


def loaded(kind: Any, source: Source, config: PreTrainedConfig, *, filled: bool) -> Any:
    """A network of transformers by its auto class, in float32 and with its own head.

    filled: as for an `Opener`. Raises DdcliError where its weights are not all there and all numbers.
    """
    return (_filled if filled else _random)(kind, source, config).eval()


def _filled(kind: Any, source: Source, config: PreTrainedConfig) -> Any:
    files = source.weights()
    try:
        with quiet():
            network, report = kind.from_pretrained(
                source.folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # broken files raise whatever the parser of their class raises
        raise DdcliError(f"{source.name} cannot be loaded: {first_line(error)}") from None
    if bad := next((name for name, weight in network.state_dict().items() if not _finite(weight)), None):
        raise DdcliError(f"{source.name}: the weights of {bad} are not all numbers; the file is damaged")
    if missing := sorted(report["missing_keys"]):
        raise DdcliError(
            f"{source.name} is no whole {type(network).__name__}: {counted(len(missing), 'weight')} missing "
            f"in {files[0].name}, the first is {missing[0]}; what it says of masks would be "
            "chance, so use a model that was saved with its head"
        )
    return network


def _random(kind: Any, source: Source, config: PreTrainedConfig) -> Any:
    try:
        with quiet():
            return kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # of whatever its class makes of bad values
        raise DdcliError(f"{source.name}: config.json cannot be used: {first_line(error)}") from None


def _finite(weight: torch.Tensor) -> bool:
    return not weight.is_floating_point() or bool(weight.isfinite().all())


def _positions(network: Any, tokenizer: ForeignTokenizer) -> int:
    """Tokens that can be read at once, ends included."""
    limits = [MOST_TOKENS, positions(network, getattr(network.config, "max_position_embeddings", None))]
    most = getattr(tokenizer.hf, "model_max_length", None)
    if most is not None and most < SANE:
        limits.append(int(most))
    return min(limit for limit in limits if limit is not None)


def _tokenizer(source: Source) -> ForeignTokenizer:
    hf = read_pretrained(source.folder, source.name)
    if not hf.mask_token:
        raise DdcliError(f"the tokenizer of {source.name} has no mask token, so there is nothing to fill")
    if hf.mask_token == hf.pad_token:
        raise DdcliError(
            f"the tokenizer of {source.name} pads with its mask token {hf.mask_token}, so gaps and padding "
            "cannot be told apart; give it a pad token of its own"
        )
    tokenizer = ForeignTokenizer(hf)
    tokenizer.check(source.name)
    return tokenizer


# by model_type; a model of another kind, with another meaning of its logits, is a function and a line here
OPENERS: dict[str, Opener] = dict.fromkeys(MODEL_FOR_MASKED_LM_MAPPING_NAMES, masked_lm)
