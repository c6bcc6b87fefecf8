"""Settings: checks, precedence, round trips and config files."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.config import RunConfig, list_settings, load_config
from cnnzoo.errors import ConfigError, suggest
from cnnzoo.recipes import DATASET_RECIPES, MODEL_RECIPES

MODELS = ("alexnet", "densenet121", "googlenet", "lenet5", "mobilenetv1", "resnet18", "vgg16", "vgg16_bn")
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def test_defaults_are_the_sources_settings():
    config = RunConfig(model="resnet18")
    assert (config.lr, config.momentum, config.weight_decay, config.batch_size) == (0.01, 0.9, 0.0, 128)
    assert (config.epochs, config.schedule, config.step_size, config.gamma) == (200, "step", 60, 0.2)
    assert config.momentum_form == "pytorch"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", 0, "expected a whole number of 1 or more, got 0"),
        ("batch_size", -4, "got -4"),
        ("batch_size", 1.5, "got 1.5"),
        ("batch_size", True, "got True"),
        ("lr", -0.1, "expected a number of 0 or more, got -0.1"),
        ("lr", float("nan"), "got nan"),
        ("lr", float("inf"), "got inf"),
        ("lr", "0.1", "got '0.1'"),
        ("lr", None, "got None"),
        ("momentum", 1.0, "expected a number of 0 or more and below 1, got 1.0"),
        ("weight_decay", -1e-4, "got -0.0001"),
        ("label_smoothing", 1, "got 1"),
        ("dropout", 1.0, "or None, got 1.0"),
        ("gamma", -0.2, "got -0.2"),
        ("epochs", 0, "got 0"),
        ("step_size", 0, "got 0"),
        ("limit_train", 0, "expected a whole number of 1 or more, or None, got 0"),
        ("limit_test", -1, "got -1"),
        ("crop_padding", -1, "got -1"),
        ("threads", 0, "got 0"),
        ("seed", -1, "got -1"),
        (
            "schedule",
            "cosin",
            "expected one of constant, step, multi-step, exponential, cosine, warm-restarts, one-cycle, got",
        ),
        ("milestones", "3,5", "expected a list, each a whole number of 1 or more, got '3,5'"),
        ("milestones", [3, 0], "got [3, 0]"),
        ("milestones", 3, "got 3"),
        ("clip_norm", 0, "or None, got 0"),
        ("ema_decay", 1.0, "got 1.0"),
        ("accumulation", 0, "got 0"),
        ("optimizer", "adam", "expected one of sgd, adamw, got 'adam'"),
        ("momentum_form", "heavy", "expected one of pytorch, sources, got 'heavy'"),
        ("dtype", "float16", "expected one of float32, float64, got 'float16'"),
        ("nesterov", 1, "expected True or False, got 1"),
        ("output_dir", "", "expected a text, got ''"),
        ("model", 3, "expected a text, got 3"),
        ("dataset", ["cifar10"], "got ['cifar10']"),
    ],
)
def test_value_out_of_range_is_one_line_that_names_it(name, value, expected):
    with pytest.raises(ConfigError) as raised:
        RunConfig(**{"model": "vgg16", name: value})
    message = str(raised.value)
    assert message.startswith(f"{name}: expected ")
    assert expected in message
    assert "\n" not in message


def test_nesterov_needs_momentum():
    with pytest.raises(ConfigError, match=r"^nesterov: expected a momentum above 0"):
        RunConfig(model="vgg16", nesterov=True, momentum=0)


def test_multi_step_needs_milestones():
    with pytest.raises(ConfigError, match=r"^milestones: expected one or more for the multi-step schedule, got none"):
        RunConfig(model="vgg16", schedule="multi-step")
    config = RunConfig(model="vgg16", schedule="multi-step", milestones=[60, 120])
    assert config.milestones == (60, 120)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_values_are_kept_as_plain_python():
    numpy = pytest.importorskip("numpy")
    config = RunConfig(model="vgg16", lr=1, batch_size=numpy.int64(64), momentum=numpy.float32(0.5), data_dir=Path("d"))
    assert [type(value) for value in (config.lr, config.batch_size, config.momentum, config.data_dir)] == [
        float,
        int,
        float,
        str,
    ]


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig(model="vgg16").lr = 1.0


def test_said_goes_before_data_set_goes_before_model_goes_before_default():
    assert MODEL_RECIPES["alexnet"]["epochs"] == 100
    short = DATASET_RECIPES["synthetic"]["epochs"]
    assert short not in (100, 200)
    assert RunConfig(model="vgg16").epochs == 200
    assert RunConfig(model="alexnet").epochs == 100
    assert RunConfig(model="alexnet", dataset="synthetic").epochs == short
    assert RunConfig(model="alexnet", dataset="synthetic", epochs=7).epochs == 7


def test_said_stays_when_the_recipe_changes():
    config = RunConfig(model="alexnet", gamma=0.5)
    assert config.said == {"model", "gamma"}
    other = config.replace(model="lenet5", dataset="mnist")
    assert (other.gamma, other.batch_size, other.flip) == (0.5, 32, False)
    assert other.said == {"model", "gamma", "dataset"}


def test_value_equal_to_the_default_counts_as_said():
    assert RunConfig(model="vgg16", epochs=200).replace(model="alexnet").epochs == 200


@given(
    model=st.sampled_from(["vgg16", "alexnet", "lenet5", "other"]),
    dataset=st.sampled_from([None, "cifar10", "synthetic", "mnist"]),
    lr=st.floats(0, 1e3),
    batch_size=st.integers(1, 4096),
    dropout=st.none() | st.floats(0, 0.99),
    augmentation=st.booleans(),
)
def test_json_round_trip(**values):
    config = RunConfig(**values)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_dict().keys() == list_settings().keys()


def test_unknown_setting_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^wieght_decay: no such setting \(did you mean weight_decay\?\)$"):
        RunConfig(model="vgg16").replace(wieght_decay=1)


def test_suggest_says_nothing_where_nothing_is_near():
    assert suggest("qqq", ["vgg16"]) == ""


@pytest.mark.parametrize("model", MODEL_RECIPES)
@pytest.mark.parametrize("dataset", [None, *DATASET_RECIPES])
def test_recipes_are_valid(model, dataset):
    config = RunConfig(model=model, dataset=dataset)
    for name, value in {**MODEL_RECIPES[model], **DATASET_RECIPES.get(dataset, {})}.items():
        assert getattr(config, name) == value


@pytest.mark.parametrize("model", MODEL_RECIPES)
def test_recipe_of_the_synthetic_set_leaves_nothing_of_a_models_own(model):
    settings, others = (RunConfig(model=name, dataset="synthetic").to_dict() for name in (model, "resnet18"))
    assert settings["schedule"] == "cosine"
    without_use = ("model", "step_size", "gamma")  # the last two are of another schedule
    assert [name for name, value in settings.items() if value != others[name] and name not in without_use] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_files_of_the_package(path):
    config = load_config(path)
    model = max((name for name in MODELS if path.stem.startswith(name)), key=len)
    kind = path.stem.removeprefix(model).removeprefix("_")
    assert config.model == model
    assert config.dataset == ("mnist" if model == "lenet5" else "cifar10")
    if kind == "short":
        assert (config.schedule, config.nesterov, config.decay_all) == ("one-cycle", True, False)
        assert config.epochs <= 30
        assert config.augmentation
    elif kind == "cosine":
        assert (config.lr, config.schedule, config.weight_decay) == (0.1, "cosine", 5e-4)
    else:
        assert kind == ""
        assert config == RunConfig(model=config.model, dataset=config.dataset)


def test_each_model_has_the_sources_recipe_and_a_short_one():
    assert {path.stem for path in CONFIGS} >= {f"{model}{kind}" for model in MODELS for kind in ("", "_short")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import os", "expected a RunConfig called config, got none"),
        ("config = {'lr': 1}", "expected a RunConfig called config, got a dict"),
        ("\nx = 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("def f(:", "line 1: invalid syntax"),
        ("import sys\nsys.exit(3)", "line 2: SystemExit: 3"),
        ("from cnnzoo import RunConfig\nconfig = RunConfig(model='vgg16', lr=-1)", "line 2: lr: expected a number"),
        ("from cnnzoo import RunConfig\nconfig = RunConfig(lr=1)", "line 2: TypeError: RunConfig.__init__() missing"),
        ("raise ValueError('a\\nb')", "line 1: ValueError: a b"),
    ],
)
def test_bad_config_file_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "recipe.py"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert str(raised.value).startswith(str(path))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_config_file(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.py: expected a config file, got no such file"):
        load_config(tmp_path / "absent.py")
    with pytest.raises(ConfigError, match="expected a config file, got a folder"):
        load_config(tmp_path)
