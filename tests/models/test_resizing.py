"""A backbone at another image size is the one that is loaded at that size, and is itself again afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fixtures import CLASS_NAMES, Files
from safetensors.torch import save_file
from vits import dinov3, lively

import fastlift
from fastlift.models import backbones
from fastlift.models.conversion import from_timm
from fastlift.models.resizing import Resizer
from fastlift.models.vit import VisionTransformer

TOWERS: dict[str, dict[str, Any]] = {
    "class_token": {},
    "dinov2": {"reg_tokens": 4, "init_values": 0.2},
    "positions_of_patches_alone": {"reg_tokens": 4, "no_embed_class": True},
    "mean": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "mean_of_patches": {"global_pool": "avg", "reg_tokens": 2},
    "siglip": {"global_pool": "map", "class_token": False},
}


def images(side: int) -> torch.Tensor:
    return torch.linspace(-1, 1, 2 * 3 * side * side).reshape(2, 3, side, side)


def expect_the_same(resized: VisionTransformer, loaded: VisionTransformer, side: int) -> None:
    assert resized.image_size == loaded.image_size == (side, side)
    assert resized.sequence_length == loaded.sequence_length
    torch.testing.assert_close(resized(images(side)), loaded(images(side)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [16, 24, 40])
@pytest.mark.parametrize("options", TOWERS.values(), ids=TOWERS.keys())
def test_timms_own_interpolation(options: dict[str, Any], side: int) -> None:
    """As ``checkpoint_filter_fn`` resizes a checkpoint's positions when a model is made for another size."""
    shape = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0, **options}
    own = lively(timm.models.VisionTransformer(img_size=32, **shape))
    other = timm.models.VisionTransformer(img_size=side, **shape)
    other.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(own.state_dict(), other))
    vit = from_timm(own)
    Resizer(vit).resize(side)
    expect_the_same(vit, from_timm(other.eval()), side)


@pytest.mark.parametrize("side", [16, 24, 48])
def test_rotary_angles_are_made_for_the_grid(side: int) -> None:
    own = dinov3(global_pool="avg")
    other = dinov3(img_size=side, global_pool="avg")
    other.load_state_dict(own.state_dict())
    vit = from_timm(own)
    Resizer(vit).resize(side)
    expect_the_same(vit, from_timm(other), side)


@pytest.mark.parametrize("side", [8, 24, 48])
def test_as_loaded_with_an_image_size_by_open_clip(tiny_clip: Files, side: int) -> None:
    vit = backbones.load(*tiny_clip).vit
    Resizer(vit).resize(side)
    assert isinstance(vit, VisionTransformer)
    loaded = backbones.load(*tiny_clip, image_size=side).vit
    assert isinstance(loaded, VisionTransformer)
    expect_the_same(vit, loaded, side)


def test_as_loaded_with_an_image_size_by_timm(tmp_path: Path) -> None:
    name, file = "timm:test_vit", tmp_path / "weights.safetensors"
    save_file(lively(timm.create_model("test_vit", num_classes=0)).state_dict(), file)
    vit = backbones.load(name, file).vit
    assert isinstance(vit, VisionTransformer)
    assert vit.image_size == (160, 160)
    Resizer(vit).resize(112)
    loaded = backbones.load(name, file, image_size=112).vit
    assert isinstance(loaded, VisionTransformer)
    expect_the_same(vit, loaded, 112)


def made(clip: Files, image_size: int | None = None, **settings: Any) -> fastlift.LiftModel:
    return fastlift.create_model(
        clip[0], pretrained=clip[1], class_names=CLASS_NAMES, init="random", image_size=image_size, **settings
    )


@pytest.mark.parametrize(
    "tuner", [("adaptformer",), ("vpt_shallow",), ("vpt_deep", "lora"), ("ssf_attn", "ssf_mlp", "ssf_ln"), ("bias",)]
)
def test_what_trains_has_no_size(tiny_clip: Files, tuner: tuple[str, ...]) -> None:
    """Features and gradients at another size are those of a model that was made for it, with the same trained tensors."""
    model, other = made(tiny_clip, tuner=tuner), made(tiny_clip, 24, tuner=tuner, seed=3)
    other.load_trained({name: parameter.detach().clone() for name, parameter in model.trained().items()})
    Resizer(model.vit).resize(24)
    found, expected = (some(images(24)) for some in (model, other))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for some in (found, expected):
        some.square().sum().backward()
    for (name, parameter), wanted in zip(model.trained().items(), other.trained().values(), strict=True):
        torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restored_to_the_bit_and_nothing_copied(tiny_clip: Files, device: torch.device, dtype: torch.dtype) -> None:
    model = made(tiny_clip, tuner="vpt_deep")
    model.set_compute_dtype(dtype)
    model.to(device)
    whole, some = images(32).to(device, dtype), images(24).to(device, dtype)
    before, where = model(whole), {name: weight.data_ptr() for name, weight in model.named_parameters()}
    resizer = Resizer(model.vit)
    for side in (16, 24):
        resizer.resize(side)
    assert model(some).dtype == torch.float32
    moved = {name for name, weight in model.named_parameters() if weight.data_ptr() != where[name]}
    assert moved == {"vit.positions"}
    positions: Any = model.vit.positions
    assert (positions.dtype, positions.device.type, positions.requires_grad) == (dtype, device.type, False)
    resizer.restore()
    assert torch.equal(model(whole), before)
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == where


def test_a_resnet_has_one_size() -> None:
    found = backbones.outline("RN50")
    assert found is not None
    resizer = Resizer(found.vit)
    resizer.resize(224)
    with pytest.raises(ValueError, match="its own size alone"):
        resizer.resize(192)
