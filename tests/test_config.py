"""Settings: who wins, what is refused, and that every shipped recipe trains."""

import tomllib

import pytest
from pydantic import ValidationError
from tiny import SETTINGS, metrics, names, tiny_config, words

from ddcli.cli.train import TRAIN_FLAGS
from ddcli.config import (
    FREE_TO_CHANGE,
    SIZES,
    Config,
    build_config,
    find_recipe,
    flatten,
    flatten_fields,
    load_config,
    parse_assignments,
    read_toml,
    recipe_folder,
    recipe_names,
)
from ddcli.errors import DdcliError
from ddcli.process import PROCESSES, Generator
from ddcli.training import train


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("# a recipe\n[train]\nlr = 0.5\nsteps = 7\n\n[data]\nsource = 'a.txt'\n")
    return path


def refusal(*arguments, **keywords) -> str:
    with pytest.raises(DdcliError) as raised:
        load_config(*arguments, **keywords)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# -- who wins ---------------------------------------------------------------------------------------------


def test_flags_and_assignments_win_over_the_recipe_and_the_recipe_over_the_defaults(recipe):
    config = load_config(recipe, ["train.lr=0.25"], {"train.batch_size": 3})
    assert (config.train.lr, config.train.batch_size) == (0.25, 3)  # given
    assert (config.train.steps, config.data.source) == (7, "a.txt")  # of the recipe
    assert config.train.warmup == Config().train.warmup  # of nobody
    assert load_config(recipe, [], {"train.lr": 0.125}).train.lr == 0.125


def test_a_flag_that_was_not_given_says_nothing(recipe):
    assert load_config(recipe, [], {"train.lr": None}).train.lr == 0.5


def test_nothing_given_is_the_defaults():
    assert load_config() == Config()


@pytest.mark.parametrize("value", [0.1, 0.2])
def test_a_key_given_by_a_flag_and_by_an_assignment_is_refused(value):
    """Even where they agree: one of them is not what the user thinks it is."""
    message = refusal(None, [f"train.lr={value}"], {"train.lr": 0.1})
    assert message == "train.lr is given by a flag and by --set; give it once"


def test_a_key_assigned_twice_is_refused():
    assert refusal(None, ["train.lr=1", "train.lr = 1"]) == "train.lr is set twice; set it once"


def test_steps_asked_for_win_over_the_minutes_of_a_recipe(tmp_path):
    path = tmp_path / "timed.toml"
    path.write_text("[train]\nminutes = 3\nsteps = 5\n")
    assert load_config(path).train.minutes == 3
    assert load_config(path, ["train.lr=1"]).train.minutes == 3
    for given in ({"assignments": ["train.steps=9"]}, {"flags": {"train.steps": 9}}):
        config = load_config(path, **given)
        assert (config.train.steps, config.train.minutes) == (9, None)


def test_steps_and_minutes_at_once_are_refused():
    message = refusal(None, ["train.steps=9"], {"train.minutes": 3})
    assert message == "train.steps and train.minutes both decide how long to train; give one"


# -- what an assignment says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("12", 12),
        ("true", True),
        ('"12"', "12"),
        ("polynomial:3", "polynomial:3"),
        (" a b ", "a b"),
        ("x=y", "x=y"),
        ("", ""),
    ],
)
def test_a_value_is_read_as_toml_or_else_as_text(text, value):
    assert parse_assignments([f"a.b={text}"]) == {"a.b": value}


@pytest.mark.parametrize("assignment", ["train.lr", "=3", "", " = "])
def test_an_assignment_needs_a_key_and_a_value(assignment):
    assert "--set takes section.key=value" in refusal(None, [assignment])


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("trian.lr", "train.lr"),
        ("train.learning_rat", "train.lr"),
        ("model.widht", "model.width"),
        ("train.batchsize", "train.batch_size"),
        ("samples.evry", "samples.every"),
        ("length", "data.length"),
        ("data.tokeniser", "data.tokenizer"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(wrong, right):
    message = refusal(None, [f"{wrong}=1"])
    assert message.startswith(f"unknown setting {wrong!r}; did you mean {right!r}?")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "; did you mean 'train.lr'?"),
        ("learning_rate", "; did you mean 'train.lr'?"),
        ("train.learning_rate", "; did you mean 'train.lr'?"),
        ("steps", " (known: samples.steps, train.steps)"),
    ],
)
def test_a_key_without_its_section_is_refused_and_its_sections_named(key, meant):
    message = refusal(None, [f"{key}=1"])
    assert message.startswith(f"unknown setting {key!r}")
    assert message.endswith(meant)


def test_an_unknown_key_of_a_recipe_is_refused_and_the_recipe_named(tmp_path):
    path = tmp_path / "typo.toml"
    path.write_text("[model]\nwidht = 3\n")
    message = refusal(path)
    assert str(path) in message
    assert "did you mean 'model.width'" in message


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("train.lr=fast", "train.lr = 'fast'"),
        ("train.lr=0", "train.lr = 0"),
        ("train.lr=nan", "train.lr = nan"),
        ("train.lr=inf", "train.lr = inf"),
        ("train.minutes=inf", "train.minutes = inf"),
        ("train.steps=1.5", "train.steps = 1.5"),
        ("train.steps=0", "train.steps = 0"),
        ("train.batch_size=[8]", "train.batch_size = [8]"),
        ("train.ema=0.9", "train.ema = 0.9"),
        ("data.length=1", "data.length = 1"),
        ("data.lines=maybe", "data.lines = 'maybe'"),
        ("data.valid_fraction=1", "data.valid_fraction = 1"),
        ("data.source=12", "data.source = 12"),
        ("checkpoint.keep=0", "checkpoint.keep = 0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_in_one_line_that_names_it(assignment, key):
    assert refusal(None, [assignment]).startswith(f"{key}: input should be ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train.lr = = 3", "is no valid TOML"),
        (b"[train]\nlr = 1\nlr = 2\n", "is no valid TOML"),
        (b"\xff", "is no valid TOML"),
        (b"train = 3\n", "unknown setting"),
        (b"[train.lr]\npeak = 3\n", "'train.lr.peak'"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    said = refusal(path)
    assert message in said
    assert str(path) in said


@pytest.mark.parametrize("name", ["no-such-recipe", "no/such/recipe.toml"])
def test_an_unknown_recipe_is_refused_and_the_known_ones_named(name):
    message = refusal(name)
    assert message.startswith(f"unknown recipe {name!r}")
    assert all(known in message for known in recipe_names())


def test_a_folder_in_the_place_of_a_recipe_is_told_as_one():
    assert refusal(".").startswith(". is a folder, not a recipe; to start from a run in it, give --from .")


def test_a_folder_of_the_same_name_hides_no_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").mkdir()
    assert load_config("names").data.lines


def test_settings_do_not_change_once_made():
    with pytest.raises(ValidationError):
        Config().train.lr = 1


# -- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_a_shape_of_which_each_number_can_be_set(size):
    assert load_config(None, [f"model.size={size}"]).shape() == SIZES[size]
    wider = load_config(None, [f"model.size={size}", "model.width=96", "model.heads=4"]).shape()
    assert wider == {"width": 96, "layers": SIZES[size]["layers"], "heads": 4}


@pytest.mark.parametrize(
    ("width", "heads"), [(64, 1), (128, 2), (512, 8), (96, 2), (250, 1), (66, 1), (1000, 10)]
)
def test_a_width_has_heads_of_some_64_if_nobody_says(width, heads):
    assert load_config(None, [f"model.width={width}"]).shape()["heads"] == heads


def test_an_unknown_size_is_refused_and_the_nearest_named():
    with pytest.raises(DdcliError, match="unknown model size 'smal'; did you mean 'small'"):
        load_config(None, ["model.size=smal"]).shape()


@pytest.mark.parametrize(("width", "heads"), [(32, 3), (6, 2), (30, 4)])
def test_heads_that_do_not_fit_the_width_are_refused(width, heads):
    config = load_config(None, [f"model.width={width}", f"model.heads={heads}"])
    with pytest.raises(DdcliError, match=f"width .{width}. must be an even multiple of model.heads .{heads}"):
        config.shape()


# -- there and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [[], ["train.lr=1e-7", 'data.source=a "b" c:\\d é', "train.minutes=0.1", "data.length=99"]]
)
def test_a_config_written_as_toml_is_read_as_the_same(given, tmp_path):
    config = load_config(None, given)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert load_config(path) == config
    assert build_config(read_toml(path), {}, "there") == config


def test_every_key_is_reached_by_its_dotted_name():
    assert set(flatten(Config().model_dump())) == set(flatten_fields())


def test_every_flag_and_every_exemption_stands_for_a_key():
    assert set(TRAIN_FLAGS.values()) <= set(flatten_fields())
    assert all(any(key.startswith(free) for key in flatten_fields()) for free in FREE_TO_CHANGE)


# -- shipped recipes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_by_name_and_begins_with_a_comment(name):
    assert load_config(name) == load_config(find_recipe(name))
    text = (recipe_folder() / f"{name}.toml").read_text()
    assert text.startswith("#")
    assert "ddcli train" in text.partition("\n\n")[0] + text.split("[")[0]


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_trains_two_tiny_steps(name, tmp_path, folders):
    """On text, names or a table; a network, batches and a tokenizer of the hub become small ones of ours."""
    base = read_toml(find_recipe(name))
    base.pop("train.minutes", None)
    column, lines = base.get("data.text_column"), base.get("data.lines", False)
    source = tmp_path / ("data.csv" if column else "data.txt")
    source.write_text((f"{column}\n" if column else "") + (names(40) if lines else words(60)))
    small = {**SETTINGS, "data.source": str(source), "data.streaming": False, "validation.every": 0}
    small |= {"train.steps": 2, "train.batch_size": 4, "samples.every": 2, "samples.count": 1}
    small |= {"samples.steps": 2, "metrics.every": 1, "model.layers": 1}
    if "model.start" in base:
        small = {k: v for k, v in small.items() if not k.startswith("model.") and k != "data.tokenizer"}
        small["model.start"] = str(folders("llama"))
    else:
        own = base.get("data.tokenizer", "char")
        small["data.tokenizer"] = own if own.partition(":")[0] in ("char", "byte", "bpe") else "byte"
    run = train(build_config(base, small, name), tmp_path / "run")
    assert [line["step"] for line in metrics(run)] == [1, 2]
    assert (run / "samples/step-00000002.txt").read_text()


def test_a_resolved_config_says_what_was_left_to_the_data(text_file, tmp_path):
    config = tiny_config(text_file, data__tokenizer=None, train__steps=1, validation__every=0)
    assert config.data.tokenizer is None
    run = train(config, tmp_path / "run")
    saved = load_config(run / "config.toml")
    assert (saved.data.tokenizer, saved.data.length, saved.train.steps) == ("char", 32, 1)
    assert tomllib.loads((run / "config.toml").read_text())["train"]["lr"] == saved.train.lr == 2e-3


@pytest.mark.parametrize("noise", PROCESSES)
def test_the_schedule_that_suits_the_noise_is_chosen_and_saved_by_its_name(noise):
    by_generator = issubclass(PROCESSES[noise], Generator)
    chosen = "information" if by_generator else "linear"
    for asked in ({}, {"process.schedule": "auto"}):
        config = build_config({"process.name": f"{noise}:3", **asked}, {}, "x")
        assert config.process.schedule == chosen
        assert f'schedule = "{chosen}"' in config.to_toml()
    old = build_config({"process.name": noise, "process.schedule": "linear"}, {}, "x")
    assert old.process.schedule == "linear"


def test_more_steps_than_float32_can_tell_apart_are_refused_in_one_line():
    with pytest.raises(DdcliError, match=r"objective\.timesteps = 100000000: .* 100000") as refusal:
        build_config({}, {"objective.timesteps": 100_000_000}, "x")
    assert "\n" not in str(refusal.value)
