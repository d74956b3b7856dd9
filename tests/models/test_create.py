"""What ``create_model`` takes: keywords or settings, checked by the settings' declarations; what acts beside what."""

from typing import Any

import pytest
import torch
from fixtures import CLASS_NAMES, Files

import fastlift
from fastlift.errors import UserError
from fastlift.models.create import ModelSettings
from fastlift.settings import check_effects

BESIDE = {"loss": "LA", "epochs": 1}  # of other sections
# Setting -> a value, and the settings beside which it changes something; beside TEXTLESS it changes nothing.
TEXTLESS = {"tuner": ("none",), "classifier": "linear", "init": "random"}
ACTING: dict[str, tuple[Any, dict[str, Any]]] = {
    "rank": (8, {"tuner": ("bias", "lora")}),
    "lora_rank": (2, {"tuner": ("lora_mlp",)}),
    "layers": (2, {"tuner": ("layernorm",)}),
    "prompt_length": (3, {"tuner": ("vpt_deep",)}),
    "mask_ratio": (0.1, {"text_tuner": ("mask",)}),
    "mask_seed": (1, {"tuner": ("mask",)}),
    "scale": (30.0, {"loss": "LDAM"}),
    "init": ("class_mean", {"classifier": "l2"}),
    "prompt": ("a {}", {"init": "text"}),
    "text_rank": (2, {"text_tuner": ("adapter",)}),
    "text_layers": (1, {"text_tuner": ("bias",)}),
    "text_prompt_length": (3, {"text_tuner": ("vpt_shallow",)}),
    "coop_length": (8, {"text_tuner": ("coop",)}),
    "coop_position": ("front", {"text_tuner": ("coop",)}),
    "coop_init": ("prompt", {"text_tuner": ("coop",)}),
    "clip_adapter_rank": (2, {"text_tuner": ("clip_adapter",)}),
}


@pytest.mark.parametrize("name", ACTING)
def test_a_setting_acts_or_is_refused(name: str) -> None:
    value, beside = ACTING[name]
    defaults = ModelSettings().values() | BESIDE
    idle = defaults | TEXTLESS | ({"classifier": "zero_shot"} if name == "init" else {})
    with pytest.raises(UserError, match=f"^{name} {value} would change nothing here"):
        check_effects([ModelSettings], idle | {name: value}, defaults, [name])
    check_effects([ModelSettings], defaults | TEXTLESS | beside | {name: value}, defaults, [name])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"init": "class_mean", "classifier": "text"}, "no weight of its own"),
        ({"text_tuner": ("coop",)}, "use it with classifier text"),
        ({"text_tuner": ("coop", "coop"), "classifier": "text"}, "text_tuner: expected one or several different ones"),
        ({"text_tuner": ("bias", "full"), "classifier": "text"}, "tuners full and bias cannot be combined"),
        ({"classifier": "zero_shot"}, "does not train"),
        ({"coop_length": 1025}, "coop_length: expected a whole number from 1 to 1024"),
        ({"image_size": 0}, "image_size: expected a whole number from 1 to 65535"),
        ({"scale": 0.0}, "scale: expected more than 0"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSettings(**values)


def test_settings_and_keywords_make_the_same_model(tiny_clip: Files) -> None:
    chosen = {"tuner": ("lora", "adapter"), "rank": 3, "layers": 2, "init": "random"}
    settings = ModelSettings(model=str(tiny_clip[0]), pretrained=str(tiny_clip[1]), **chosen)
    made = fastlift.create_model(settings, class_names=CLASS_NAMES, seed=4)
    named = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, seed=4, **chosen)
    other = fastlift.create_model(settings, class_names=CLASS_NAMES, seed=4, rank=2)
    assert made.trained().keys() == named.trained().keys()
    assert all(torch.equal(parameter, named.trained()[name]) for name, parameter in made.trained().items())
    assert (made.tuner_settings.rank, other.tuner_settings.rank) == (3, 2)
    with pytest.raises(UserError, match="the model as its first argument"):
        fastlift.create_model("shapes-clip", model="ViT-B-16", class_names=CLASS_NAMES)
    with pytest.raises(UserError, match="unknown setting 'ranc'; did you mean rank"):
        fastlift.create_model(settings, class_names=CLASS_NAMES, ranc=2)
