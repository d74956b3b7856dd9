"""Loading: files of every kind, and messages that name what does not fit."""

import json
from pathlib import Path

import pytest
import torch
from fixtures import TINY_CONFIG
from safetensors.torch import load_file, save_file

from fastlift.errors import UserError
from fastlift.models import backbones

Files = tuple[Path, Path]
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


@pytest.mark.parametrize("form", ["torch", "wrapped", "data_parallel", "half"])
def test_weights_files_of_every_form(tiny_clip: Files, tmp_path: Path, form: str) -> None:
    state = load_file(tiny_clip[1])
    path = tmp_path / ("weights.safetensors" if form == "half" else "weights.pt")
    if form == "torch":
        torch.save(state, path)
    elif form == "wrapped":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif form == "data_parallel":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        save_file({name: tensor.half() for name, tensor in state.items()}, path)
    expected = backbones.load(*tiny_clip).vit(IMAGES)
    tolerance = 0.02 if form == "half" else 0.0
    torch.testing.assert_close(backbones.load(tiny_clip[0], path).vit(IMAGES), expected, rtol=tolerance, atol=tolerance)


def test_configurations_as_dict_and_as_file(tiny_clip: Files, tmp_path: Path) -> None:
    nested = tmp_path / "open_clip_config.json"
    nested.write_text(json.dumps({"model_cfg": TINY_CONFIG, "preprocess_cfg": {}}))
    expected = backbones.load(*tiny_clip).vit(IMAGES)
    for name in (TINY_CONFIG, nested):
        torch.testing.assert_close(backbones.load(name, tiny_clip[1]).vit(IMAGES), expected, rtol=0, atol=0)


def test_another_image_size_interpolates_positions(tiny_clip: Files) -> None:
    vit = backbones.load(*tiny_clip, image_size=48).vit
    assert vit.sequence_length == 37
    assert vit(torch.zeros(1, 3, 48, 48)).shape == (1, 48)


def test_the_tag_decides_quick_gelu(monkeypatch: pytest.MonkeyPatch, tiny_clip: Files) -> None:
    """OpenAI's weights need QuickGELU; asking for 'ViT-B-16' with them must not silently use GELU."""
    import open_clip

    import fastlift_kernels

    monkeypatch.setattr(open_clip, "get_model_config", lambda name: TINY_CONFIG | {"quick_gelu": False})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tag: str(tiny_clip[1]))
    vit = backbones.load("ViT-B-16", "openai").vit
    assert vit.block(0).activation is fastlift_kernels.quick_gelu


def test_weights_that_do_not_fit_name_the_tensors(tiny_clip: Files, tmp_path: Path) -> None:
    state = load_file(tiny_clip[1])
    del state["visual.ln_post.weight"]
    state["visual.proj"] = torch.zeros(48, 7)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(
        UserError, match=r"(?s)2 tensors differ.*missing visual.ln_post.weight.*visual.proj: \[48, 7\] in the file"
    ):
        backbones.load(tiny_clip[0], tmp_path / "wrong.safetensors")


def test_pickled_objects_are_not_loaded(tiny_clip: Files, tmp_path: Path) -> None:
    torch.save({"state_dict": Path("code could hide here")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="read safely"):
        backbones.load(tiny_clip[0], tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-17", None, "did you mean ViT-B-16"),
        ("ViT-B-16", "openia", "tags of ViT-B-16: openai"),
        ("RN50", None, "only vision transformers"),
        ("coca_ViT-B-32", None, "CoCa"),
        ("nowhere.json", None, "does not exist"),
        ("timm:vit_bse_patch16_224", None, "did you mean vit_base_patch16_224"),
        ({"embed_dim": 3}, None, "vision_cfg, text_cfg is missing"),
    ],
)
def test_unknown_names(name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbones.load(name, pretrained)
