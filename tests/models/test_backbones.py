"""Loading: files of every kind, and messages that name what does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fixtures import TINY_CONFIG, Files
from safetensors.torch import load_file, save_file

from fastlift.errors import UserError
from fastlift.models import backbones
from fastlift.models.backbones import open_clip_models

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


def test_weights_that_are_not_finite_are_refused(tiny_clip: Files, tmp_path: Path) -> None:
    state = load_file(tiny_clip[1])
    name = "visual.conv1.weight"
    state[name][0, 0, 0, 0] = torch.inf
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=f"NaN or infinity in 1 tensors .first: {name}."):
        backbones.load(tiny_clip[0], tmp_path / "w.safetensors")


def test_pickled_objects_are_not_loaded(tiny_clip: Files, tmp_path: Path) -> None:
    torch.save({"state_dict": Path("code could hide here")}, tmp_path / "bad.pt")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    for name in ("bad.pt", "photo.jpg"):
        with pytest.raises(UserError, match=r"read safely.*other objects than tensors") as told:
            backbones.load(tiny_clip[0], tmp_path / name)
        assert "weights_only" not in str(told.value)  # torch advises to switch it off


def small_timm(monkeypatch: pytest.MonkeyPatch, **shape: Any) -> None:
    """A timm architecture by its own name, but with small numbers."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda found, **options: create(found, **options | shape))


TINY = {"embed_dim": 48, "depth": 2, "num_heads": 3}
TIMM = (
    "vit_base_patch16_224",
    "vit_base_patch16_384",
    "vit_large_patch16_224",
    "vit_base_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_dinov3_qkvb",
    "vit_base_patch16_siglip_224",
)


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_by_name_with_random_weights_offline(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Built small, from the names that users type, at another image size: the features are timm's own."""
    small_timm(monkeypatch, **TINY)
    size = 56 if "patch14" in name else 64
    torch.manual_seed(0)
    backbone = backbones.load(f"timm:{name}", "random", size)
    assert backbone.vit.image_size == (size, size)
    torch.manual_seed(0)
    pool = {"global_pool": "token"} if "dinov3" in name else {}
    plain = timm.create_model(name, num_classes=0, img_size=size, **pool).eval()
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(backbone.vit(images), plain(images), rtol=1e-4, atol=1e-5)


def test_timm_positions_are_interpolated_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of the model's own size, with timm's classifier in it, read for another size as timm does it."""
    name = "vit_base_patch16_224"
    small_timm(monkeypatch, **TINY)
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=7)
    save_file({key: tensor.contiguous() for key, tensor in whole.state_dict().items()}, tmp_path / "w.safetensors")
    vit = backbones.load(f"timm:{name}", tmp_path / "w.safetensors", 96).vit
    whole.set_input_size(96)
    whole.reset_classifier(0)
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(vit(images), whole.eval()(images), rtol=1e-4, atol=1e-5)
    state = whole.state_dict()
    del state["norm.weight"]
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"missing norm.weight"):
        backbones.load(f"timm:{name}", tmp_path / "w.safetensors", 96)


OPEN_CLIP = (
    "ViT-B-32-quickgelu",
    "ViT-B-16-quickgelu",
    "ViT-L-14-quickgelu",
    "ViT-L-14-336-quickgelu",
    "RN50",
    "RN101",
)


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_models_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The configurations behind the papers' names, with fewer layers and narrower: what is left is their structure."""
    import open_clip

    config = open_clip.get_model_config(name)
    assert config is not None
    config["text_cfg"] |= {"layers": 1, "width": 16, "heads": 2}
    resnet = isinstance(config["vision_cfg"]["layers"], list)
    config["vision_cfg"] |= {"layers": [1, 1, 1, 1], "width": 8} if resnet else {"layers": 2, "width": 128}
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: config)
    backbone = backbones.load(name, "random")
    side = 336 if "336" in name else 224
    assert backbone.vit.image_size == (side, side)
    assert (backbone.projection is None) == resnet
    assert backbone.text is not None
    images = torch.randn(1, 3, side, side)
    features = backbone.vit(images)
    joint = features if backbone.projection is None else features @ backbone.projection
    expected = backbone.text.model.encode_image(images)  # type: ignore[operator]
    torch.testing.assert_close(joint, expected, rtol=1e-4, atol=1e-5)


def test_siglip_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    assert config is not None
    config["embed_dim"] = 192
    config["vision_cfg"] = config["vision_cfg"] | {"timm_model_name": "vit_tiny_patch16_224"}
    config["text_cfg"] |= {"layers": 1, "width": 192, "heads": 3, "vocab_size": 64}
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: config)
    backbone = backbones.load("ViT-B-16-SigLIP", "random")
    assert backbone.text is not None
    images = torch.randn(1, 3, 224, 224)
    expected = backbone.text.model.encode_image(images)  # type: ignore[operator]
    features = backbone.vit(images)
    joint = features if backbone.projection is None else features @ backbone.projection
    torch.testing.assert_close(joint, expected, rtol=1e-4, atol=1e-5)


def test_untrained_weights_are_the_same_ones_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a run on them can be read again; and nobody else's random numbers move."""
    small_timm(monkeypatch, **TINY)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for name in ("timm:vit_base_patch16_224", "RN50"):
        one, other = (backbones.load(name, "random").vit.state_dict() for _ in range(2))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_tiny_r_s16_p8_224", None, "HybridEmbed are not supported"),
        ("vit_dpwee_patch16_reg1_gap_256", None, "DiffParallelScalingBlock"),
        ("test_vit", 1, "image_size: timm:test_vit needs 16 pixels or more, got 1"),
    ],
)
def test_timm_models_that_do_not_fit_are_refused_by_name(name: str, size: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbones.load(f"timm:{name}", "random", size)


def test_names_that_are_offered_can_be_loaded() -> None:
    """One of each kind of tower; what an unknown name is not answered with is refused."""
    offered = set(open_clip_models.loadable())
    for name in ("ViT-B-16", "RN50", "EVA01-g-14", "ViT-B-16-SigLIP", "ViT-gopt-16-SigLIP2-256", "shapes-clip"):
        assert name in offered
        assert backbones.outline(name) is not None
    for name in ("coca_base", "convnext_base", "ViTamin-S", "MobileCLIP2-B", "EVA02-B-16", "PE-Core-T-16-384"):
        assert name not in offered
        with pytest.raises(UserError, match="not supported"):
            backbones.outline(name)
    with pytest.raises(UserError, match="known: shapes-clip, EVA01-g-14,"):
        backbones.load("nope")


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-17", None, "did you mean ViT-B-16"),
        ("ViT-B-16", "openia", "tags of ViT-B-16: openai"),
        ("convnext_base", None, "ConvNeXt is not"),
        ("coca_ViT-B-32", None, "CoCa"),
        ("nowhere.json", None, "does not exist"),
        ("timm:vit_bse_patch16_224", None, "did you mean vit_base_patch16_224"),
        ({"embed_dim": 3}, None, "vision_cfg, text_cfg is missing"),
    ],
)
def test_unknown_names(name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbones.load(name, pretrained)
