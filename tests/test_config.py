"""Settings: read back as they were written, changed by flag names, refused with a reason."""

import json
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import pytest

from fastlift import config, recipes
from fastlift.config import Config
from fastlift.errors import UserError

UNUSUAL: dict[str, Any] = {
    "dataset": "list",
    "data_root": "some/where",
    "tuner": ("adaptformer", "lora"),
    "layers": (0, 2),
    "rank": 7,
    "lr": 0.5,
    "micro_batch": 64,
    "tte": "fivecrop",
    "expand": 0,
    "prompt": "a {} of stone",
    "bad_images": "skip",
}


@pytest.mark.parametrize("section", config.SECTIONS.values())
def test_class_variables_of_settings_name_their_type(section: type) -> None:
    """tyro 1.0 makes a flag of a field that is annotated as a bare ``ClassVar``."""
    assert [name for name, hint in get_type_hints(section).items() if hint is ClassVar] == []


def test_json_round_trip(tmp_path: Path) -> None:
    unusual = Config().override(**UNUSUAL)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict(unusual)))
    assert config.load(path) == unusual
    assert {name: unusual.flat()[name] for name in UNUSUAL} == UNUSUAL


def test_what_a_file_leaves_out_takes_its_default() -> None:
    assert config.from_dict({"training": {"lr": 1}}) == Config().override(lr=1.0)


def test_differences() -> None:
    assert config.differences(Config(), Config().override(lr=0.2, seed=4)) == {"lr": (0.01, 0.2), "seed": (0, 4)}


@pytest.mark.parametrize("layers", [None, 2, [0, 1]])
def test_layers_keep_their_kind(layers: Any) -> None:
    changed = Config().override(layers=layers)
    assert changed.model.layers == (tuple(layers) if isinstance(layers, list) else layers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lrr": 1}, "did you mean lr"),
        ({"loss": "LAA"}, "did you mean LA"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 10, "micro_batch": 3}, "does not divide"),
        ({"epochs": -1}, "^epochs: must not be negative, got -1"),
        ({"weight_decay": -0.1}, "^weight_decay: must not be negative"),
        ({"momentum": 1.0}, "^momentum: expected a number in"),
        ({"epochs": 1.5}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"lr": "fast"}, "lr"),
        ({"min_scale": 0.0}, "share"),
        ({"tuner": 3}, "tuner"),
        ({"classifier": "zero_shot"}, "does not train"),
        ({"classifier": "text", "tuner": "none"}, "nothing that trains"),
        ({"loss": "CE", "tau": 2.0}, "loss CE has none"),
        ({"group_boundaries": (100, 20)}, "do not fall"),
        ({"checkpoint_steps": 0}, "checkpoint_steps"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config().override(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ('{"trainig": {}}', "did you mean training"), ('{"training": 3}', "expected an object")],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        config.load(path)
    with pytest.raises(UserError, match="does not exist"):
        config.load(tmp_path / "nowhere.json")


def test_recipes_follow_the_papers() -> None:
    lift, plus = recipes.lift("imagenet_lt"), recipes.lift_plus("imagenet_lt")
    assert (lift.training.lr, lift.training.epochs, lift.training.batch_size) == (0.01, 10, 128)
    assert (lift.training.momentum, lift.training.weight_decay, lift.training.loss) == (0.9, 5e-4, "LA")
    assert (lift.model.model, lift.model.pretrained, lift.model.scale) == ("ViT-B-16-quickgelu", "openai", 25.0)
    assert (plus.training.lr, plus.training.epochs, plus.data.augmentation) == (0.02, 5, "minimalist")
    assert recipes.lift("inat2018").training.epochs == 20
    assert recipes.lift_plus("inat2018").training.epochs == 15
    assert recipes.zero_shot().training.epochs == 0
    bicubic = {name for name, recipe in recipes.RECIPES.items() if recipe().data.interpolation == "bicubic"}
    assert bicubic == {"lift_plus", "coop", "zero_shot"}


def test_weights_follow_the_model() -> None:
    """Another model than the recipe's must not be paired with the recipe's weights."""
    assert recipes.lift("imagenet_lt", model="ViT-L-14").model.pretrained == "openai"
    assert recipes.lift("imagenet_lt", model="shapes-clip").model.pretrained is None
    assert recipes.lift("imagenet_lt", model="tiny.json", pretrained="tiny.pt").model.pretrained == "tiny.pt"
    assert config.default_weights("ViT-B-16-SigLIP") is None


def test_recipes_take_settings_and_names() -> None:
    assert recipes.build("lift", "shapes_lt", epochs=2).training.epochs == 2
    assert recipes.linear_probe().model.tuner == ("none",)
    with pytest.raises(UserError, match="did you mean lift_plus"):
        recipes.build("lift_pluss")
