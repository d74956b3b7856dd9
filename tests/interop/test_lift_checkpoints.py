"""Settings are read from the authors' checkpoints, and files of something else are refused."""

from typing import Any

import pytest
import torch
from fixtures import CLASS_NAMES, Files

import fastlift
from fastlift.interop import lift_checkpoints as compat
from fastlift.models.lift import LiftModel


def build(tiny_clip: Files, **settings: Any) -> LiftModel:
    return fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, **settings)


@pytest.mark.parametrize(
    ("tuner", "settings"),
    [
        ("adaptformer", {"rank": 5, "layers": (1, 2)}),
        ("lora_mlp", {"rank": 2}),
        ("vpt_shallow", {"prompt_length": 3}),
        (("ssf_ln", "layernorm"), {}),
        ("full", {"layers": (2,)}),
        ("bias", {}),
        ("bias", {"layers": (0, 2)}),
        ("layernorm", {"layers": (1,)}),
        (("vpt_shallow", "layernorm"), {}),
        (("vpt_shallow", "adaptformer"), {"rank": 2, "layers": (1, 2)}),
        (("lora", "adaptformer"), {"rank": 2, "lora_rank": 3}),
        (("mask", "ssf_ln"), {"mask_ratio": 0.001, "layers": (1,)}),
    ],
)
@pytest.mark.parametrize("classifier", ["cosine", "linear"])
def test_settings_are_read_from_lift_files(tiny_clip: Files, tuner: Any, settings: Any, classifier: Any) -> None:
    model = build(tiny_clip, tuner=tuner, classifier=classifier, init="random", **settings)
    found = compat.settings_of(compat.lift_state(model))
    untold = {"mask_ratio": settings["mask_ratio"]} if "mask_ratio" in settings else {}
    again = build(tiny_clip, init="random", seed=3, **found, **untold)
    compat.load_lift_checkpoint(again, compat.lift_state(model))
    images = torch.randn(2, 3, 32, 32)
    if classifier == "linear":
        assert torch.equal(again(images), model(images))
    assert torch.equal(again.features(images), model.features(images))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"tuner": {}, "head": {}}, "holds no tensor"),
        ({"tuner": None, "head": None}, "holds no tensor"),
        ({"tuner": {"a": 3}, "head": {}}, "tuner.a is no tensor"),
        ({"tuner": {1: torch.ones(1)}}, "tuner.1 is no tensor"),
        ({"tuner": torch.ones(2), "head": {}}, "'tuner' is no dictionary"),
        ({"tuner": {}, "head": {"weight": torch.full((2, 2), torch.nan)}}, "not finite"),
        ({"epoch": 3}, "expected the keys"),
        (
            {"tuner": {"image_encoder.blocks.0.aft.mlp_in.masked_bias.optimized_params": torch.ones(1)}},
            "masks are missing",
        ),
    ],
)
def test_files_of_something_else(state: Any, message: str) -> None:
    with pytest.raises(fastlift.UserError, match=message):
        compat.as_lift_state(state)


@pytest.mark.parametrize(
    ("part", "name", "shape"),
    [
        ("tuner", "bias_tuned.x", (3,)),
        ("tuner", "bias_tuned", (3,)),
        ("tuner", f"bias_tuned.{10**30}", (3,)),
        ("tuner", "bias_tuned.1", ()),
        ("tuner", "adaptformer_list.0.down_proj.weight", ()),
        ("tuner", "lora_list.0.q.lora_A", (3,)),
        ("tuner", "vpt_list.0.prompt", ()),
        ("tuner", "masked_linear_list.0.attn_in.optimized_weight.mask", (0, 3)),
        ("head", "weight", ()),
        ("head", "context", ()),
    ],
)
def test_names_and_shapes_that_no_program_writes(part: str, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(fastlift.UserError, match="not a LIFT checkpoint that can be read"):
        compat.as_lift_state({"tuner": {}, "head": {}} | {part: {name: torch.zeros(shape)}})


@pytest.mark.parametrize("names", [("bias_tuned.1",), ("ln_tuned.\u00b2", f"ln_tuned.{'9' * 5000}", "bias_tuned.3")])
def test_odd_numbers_of_blocks_are_no_traceback(names: tuple[str, ...]) -> None:
    state = compat.as_lift_state({"tuner": {name: torch.zeros(3) for name in names}, "head": {}})
    assert compat.settings_of(state)["tuner"]
