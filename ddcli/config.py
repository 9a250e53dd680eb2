"""The typed tree of settings that recipes, flags and run folders share."""

import importlib.resources
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .errors import DdcliError, shorten, unknown
from .files import read_small
from .lora import Lora

# sizes people ask for by name; any of the three numbers can still be set on its own
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 128, "layers": 4, "heads": 4},
    "mini": {"width": 192, "layers": 4, "heads": 3},
    "small": {"width": 256, "layers": 6, "heads": 4},
    "base": {"width": 768, "layers": 12, "heads": 12},
}


HEAD_WIDTH = 64  # numbers that a head of attention is, if nobody says
PLATEAU = 1000  # steps at the full learning rate in a long run, if nobody says (docs/log.md)
MOST_TOKENS = 1_000_000  # of a sequence
MOST_WIDTH = 65_536
MOST_TIMESTEPS = 100_000  # beyond, a step is shorter than float32 tells; that is continuous time
MOST_LAYERS = 1024
LARGEST = 2**63  # what a whole number of a file has to be below, as TOML has it


class Section(BaseModel):
    """Settings, checked. A number is a number: neither true nor false is one, nor is one without an end."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise PydanticCustomError("boolean", "Input should not be true or false")
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise PydanticCustomError("too_large", "Input should be a number of at most 18 digits")
        return value


class Data(Section):
    source: str = "python-stdlib"  # file, folder, glob, dataset name, or the embedded python-stdlib
    valid: str | None = None  # a source of its own; otherwise the tail of `source`
    valid_split: str = "validation"  # of `valid`, where it is a dataset
    valid_fraction: float = Field(0.05, gt=0, lt=1)  # of the documents, or of a single text
    text_column: str = "text"  # of tables and datasets
    bad_rows: Literal["refuse", "skip"] = "refuse"  # that are no text; skipped ones are told
    label_column: str | None = None  # of records: what each is to be conditioned on
    split: str = "train"  # of a dataset
    streaming: bool = False  # read as it comes, not whole
    lanes: int = Field(8, ge=1)  # of a stream: read apart, so that as many processes need not read the same
    lines: bool = False  # one record per line, of varying length
    tokenizer: str | None = None  # char, byte, bpe:N or a Hugging Face name; chosen by the data if not set
    length: int | None = Field(
        None, ge=2, le=MOST_TOKENS
    )  # tokens in a block; 256, or what the longest record needs


class ProcessSettings(Section):
    name: str = "absorbing"  # or uniform, hybrid:0.1, stationary:unigram, band:1, generator:FILE, ...
    schedule: str = "auto"  # linear, cosine, polynomial:3, geometric, gidd:0.1; information, of generators

    @model_validator(mode="after")
    def _without_auto(self) -> Self:
        """So that what is saved, compared and shown is what is used."""
        if self.schedule == "auto":
            from .process import default_schedule  # which loads torch

            object.__setattr__(self, "schedule", default_schedule(self.name))
        return self


class ObjectiveSettings(Section):
    name: str = "auto"  # elbo, discrete-elbo, d3pm-hybrid:0.01, score-entropy, cross-entropy
    # T of discrete-elbo and d3pm-hybrid: 256, or the noise's own; and of cross-entropy, which else has none
    timesteps: int | None = Field(None, ge=1, le=MOST_TIMESTEPS)


class Model(Section):
    start: str | None = None  # what training starts from: a folder or hub name of a model, or a run folder
    size: str = "mini"  # tiny, mini, small or base: width, layers and heads
    width: int | None = Field(None, ge=2, le=MOST_WIDTH)  # numbers that a position is
    layers: int | None = Field(None, ge=1, le=MOST_LAYERS)
    # of attention, in each layer; where only width is given, of some 64
    heads: int | None = Field(None, ge=1)
    block: int | None = Field(None, ge=1)  # block diffusion: positions denoised at once, after those before
    # what is told of each position; given: whether it is
    clock: Literal["auto", "none", "given", "time"] = "auto"
    self_condition: bool = False  # the network reads what it last believed
    predicts: str = "auto"  # leave-one-out, posterior or score; auto is what the objective teaches
    lora: str | None = None  # r=16[,alpha=32][,dropout=0.05][,targets=q_proj+v_proj], beside a model.start

    @field_validator("lora")
    @classmethod
    def _whole(cls, text: str | None) -> str | None:
        return None if text is None else str(Lora.parse(text))


class Train(Section):
    steps: int = Field(4000, ge=1)
    minutes: float | None = Field(None, gt=0)  # if set, decides the number of steps
    batch_size: int = Field(8, ge=1)  # sequences per update, over all devices and micro-batches
    accumulate: int = Field(1, ge=1)  # micro-batches per update
    lr: float | None = Field(None, gt=0)  # peak, after warm-up; 2e-3, and less where there is a model.start
    optimizer: str = "auto"  # muon, for the matrices of layers, or adamw; auto: networks of our own by muon
    warmup: int = Field(100, ge=0)  # steps, at most a tenth of the run
    anneal: int = Field(0, ge=0)  # steps over which the causal mask of a decoder is opened
    # share of the run over which lr falls linearly to 0: half, or all that follows 1,000 steps at its peak
    decay: float | None = Field(None, ge=0, le=1)
    weight_decay: float = Field(0.1, ge=0)  # of matrices
    clip: float = Field(1.0, gt=0)  # largest norm of the gradient
    ema: float = Field(0.02, gt=0, le=0.5)  # horizon of the weight average, as a share of the run
    times: str = "bell"  # bell[:CENTRE], even, clipped[:LOW:HIGH]; all but even reweight the bound
    given: float = Field(0.3, ge=0, le=1)  # share of sequences with given spans, where noise needs a clock
    drop_prefix: float = Field(0.0, ge=0, le=1)  # share of sequences with a hidden beginning, for --guidance
    drop_label: float = Field(0.1, ge=0, le=1)  # share of labelled records that are shown without their label
    seed: int = Field(0, ge=0, lt=2**63)  # of weights, data order and noise
    device: str = "auto"  # cpu, cuda or mps
    precision: str = "auto"  # float32 or bf16; auto is bf16 where the machine is fast at it
    threads: int | None = Field(None, ge=1)  # on a CPU
    compile: bool | Literal["auto"] = "auto"  # where a C++ compiler is found; auto: networks of our own are
    # of several processes, each holds a share of the weights (FSDP2), not all of them (DDP)
    shard: bool = Field(default_factory=lambda: os.environ.get("ACCELERATE_USE_FSDP") == "true")
    recompute: bool = (
        False  # what layers keep for the way back is computed again: less memory, a third slower
    )

    @property
    def peak(self) -> float:
        """The learning rate after warm-up, of a plan, in which it is settled."""
        assert self.lr is not None, "make_plan settles what it starts with"
        return self.lr

    @property
    def rising_steps(self) -> int:
        """Steps over which the learning rate rises."""
        return min(self.warmup, self.steps // 10)

    @property
    def falling_share(self) -> float:
        """Share of the run over which the learning rate falls."""
        if self.decay is not None:
            return self.decay
        return max(0.5, 1 - (self.rising_steps + PLATEAU) / self.steps)


class Validation(Section):
    every: int = Field(500, ge=0)  # steps; 0 turns validation off
    sequences: int = Field(64, ge=1)  # blocks of the validation text, evenly spread, always the same
    draws: int = Field(4, ge=1)  # noisings of each block
    final_draws: int = Field(16, ge=1)  # at the end of the run


class Checkpoint(Section):
    every: int = Field(500, ge=1)  # steps
    keep: int = Field(2, ge=1)  # so many of the newest, beside the best


class Samples(Section):
    every: int = Field(500, ge=0)  # steps; 0 turns samples during training off
    count: int = Field(2, ge=1)
    steps: int = Field(64, ge=1)


class Metrics(Section):
    every: int = Field(20, ge=1)  # steps between lines of metrics.jsonl
    track: str | None = None  # tensorboard, trackio or wandb, which are told them as well


class Config(Section):
    """All settings of a run."""

    data: Data = Data()
    process: ProcessSettings = Field(default_factory=ProcessSettings)
    objective: ObjectiveSettings = ObjectiveSettings()
    model: Model = Model()
    train: Train = Train()
    validation: Validation = Validation()
    checkpoint: Checkpoint = Checkpoint()
    samples: Samples = Samples()
    metrics: Metrics = Metrics()

    def shape(self) -> dict[str, int]:
        """width, layers and heads of the network. Raises DdcliError where they do not fit together."""
        if self.model.size not in SIZES:
            raise unknown("model size", self.model.size, SIZES)
        chosen = {k: getattr(self.model, k) for k in ("width", "layers", "heads")}
        shape = SIZES[self.model.size] | {k: v for k, v in chosen.items() if v is not None}
        if self.model.heads is None and (width := shape["width"]) != SIZES[self.model.size]["width"]:
            wanted = range(max(1, round(width / HEAD_WIDTH)), 0, -1)
            shape["heads"] = next((n for n in wanted if width % (2 * n) == 0), 1)
        if shape["width"] % (2 * shape["heads"]):
            raise DdcliError(
                f"model.width ({shape['width']}) must be an even multiple of model.heads ({shape['heads']})"
            )
        return shape

    def told(self) -> dict[str, Any]:
        """As a recipe says it. Minutes that are asked for decide the number of steps, which is left out."""
        told = self.model_dump(exclude_none=True)
        if self.train.minutes is not None:
            del told["train"]["steps"]
        return told

    def to_toml(self) -> str:
        """What is `told`, as a file."""
        return tomli_w.dumps(self.told())


# what a run may go on with in another way, keys and sections; `train.steps` gives it a new plan from there
FREE_TO_CHANGE = (
    "data.source",  # where it lies; what it is has a fingerprint
    "data.valid",
    "data.bad_rows",  # none of which was met where they are refused
    "train.steps",
    "train.minutes",
    "train.threads",
    "train.device",
    "train.accumulate",  # sums are then rounded otherwise; memory decides it in any case
    "train.shard",
    "train.recompute",
    "validation.",
    "checkpoint.",
    "samples.",
    "metrics.",
)


def may_change(key: str) -> bool:
    """Whether a run may go on with another value of a setting."""
    section, dot, _ = key.partition(".")
    return key in FREE_TO_CHANGE or section + dot in FREE_TO_CHANGE


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train': {'lr': 1}} -> {'train.lr': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """['train.lr=1e-3'] -> {'train.lr': 0.001}. A value is read as TOML, or else as plain text."""
    given: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise DdcliError(f"--set takes section.key=value, not {assignment!r}")
        if key in given:
            raise DdcliError(f"{key} is set twice; set it once")
        try:
            given[key] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            given[key] = text.strip()
    return given


def settings_like(name: str) -> list[str]:
    """The keys of settings called so, or by its words' initials: `learning_rate` for `train.lr`."""
    initials = "".join(word[:1] for word in name.split("_"))
    called = [key for key in flatten_fields() if name in (key, key.rpartition(".")[2])]
    return called or [key for key in flatten_fields() if key.rpartition(".")[2] == initials]


def build_config(base: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> Config:
    """A config from flat keys; `overrides` win over `base`. `where` names the source in errors."""
    if "train.steps" in overrides and "train.minutes" in overrides:
        raise DdcliError("train.steps and train.minutes both decide how long to train; give one")
    if "train.steps" in overrides:
        base = {k: v for k, v in base.items() if k != "train.minutes"}
    known = flatten_fields()
    tree: dict[str, dict[str, Any]] = {}
    for key, value in {**base, **overrides}.items():
        if key not in known:
            likely = settings_like(key.rpartition(".")[2]) or known
            raise unknown(f"setting in {where}" if key in base else "setting", key, likely)
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    try:
        return Config(**tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = first["msg"][0].lower() + first["msg"][1:]
        raise DdcliError(f"{key} = {shorten(repr(first['input']), 60)}: {problem}") from None


def flatten_fields() -> list[str]:
    """Every key of the tree, 'section.key'."""
    return [
        f"{section}.{key}"
        for section, field in Config.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    ]


def read_toml(path: Path) -> dict[str, Any]:
    """The flat keys of a TOML file."""
    try:
        return flatten(tomllib.loads(read_small(path).decode()))
    except (ValueError, RecursionError) as error:
        raise DdcliError(f"{path} is no valid TOML: {error}") from None
    except OSError as error:
        raise DdcliError(f"{path} cannot be read: {error.strerror}") from None


BEFORE_THERE_WAS_A_CHOICE = {"train.optimizer": "adamw"}


def config_of(run: Path) -> Config:
    """The settings of a run, of an older version too."""
    path = run / "config.toml"
    return build_config(BEFORE_THERE_WAS_A_CHOICE | read_toml(path), {}, str(path))


def load_config(
    recipe: str | Path | None = None,
    assignments: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults, then a recipe (a TOML file, or the name of one that ships with ddcli), then flags and --set.

    Raises DdcliError for an unknown recipe or key, a value of the wrong kind, or a key given twice.
    """
    return build_config(*read_settings(recipe, assignments, flags))


def read_settings(
    recipe: str | Path | None, assignments: Iterable[str], flags: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What the recipe says, what flags and --set say (both flat), and the recipe's name for errors."""
    given = parse_assignments(assignments)
    flags = {k: v for k, v in (flags or {}).items() if v is not None}
    for key in given.keys() & flags.keys():
        raise DdcliError(f"{key} is given by a flag and by --set; give it once")
    base: dict[str, Any] = {}
    if recipe is not None:
        if Path(recipe).is_dir() and str(recipe) not in recipe_names():
            raise DdcliError(
                f"{recipe} is a folder, not a recipe; to start from a run in it, give --from {recipe}; to "
                f"train on its files, --data {recipe}"
            )
        try:
            base = read_toml(find_recipe(recipe))
        except DdcliError as error:
            if Path(recipe).suffix == ".toml" or not Path(recipe).is_file():
                raise
            raise DdcliError(f"{error}; to train on it, give --data {recipe}") from None
    return base, {**flags, **given}, str(recipe or "the defaults")


def check_data_of(recipe: str | Path | None, source: str) -> None:
    """Raises DdcliError where a recipe that ships with ddcli reads a file which is not here."""
    is_file = bool(Path(source).suffix)  # and no dataset of a hub
    if str(recipe) in recipe_names() and is_file and not Path(source).exists():
        raise DdcliError(
            f"{recipe} reads {source}, which is not here: `ddcli recipes {recipe}` says what it is; or give "
            "other --data"
        )


def recipe_folder() -> Path:
    """Where the shipped recipes lie: inside the installed package, or at the top of the source tree."""
    package = Path(str(importlib.resources.files(__package__)))
    shipped = package / "recipes"
    return shipped if shipped.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    return sorted(path.stem for path in recipe_folder().glob("*.toml"))


def find_recipe(recipe: str | Path) -> Path:
    """A file that exists, or a shipped recipe by name."""
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = recipe_folder() / f"{recipe}.toml"
    if path.name == str(recipe) and shipped.is_file():
        return shipped
    raise unknown("recipe", str(recipe), recipe_names())
