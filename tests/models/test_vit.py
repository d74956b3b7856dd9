"""Our one ViT computes what the library computes that trained it."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from fixtures import TINY_CONFIG
from open_clip.model import CLIP
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from vits import dinov3, lively

from fastlift.errors import UserError
from fastlift.models.conversion import from_open_clip, from_timm
from fastlift.models.pooling import ClassTokenPool
from fastlift.models.tuners import TunerSettings
from fastlift.models.vit import Block


def clip(**vision: Any) -> Any:
    settings = TINY_CONFIG | {"vision_cfg": TINY_CONFIG["vision_cfg"] | vision}
    return lively(CLIP(**settings))


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"no_ln_pre": True},
        {"ls_init_value": 0.3},
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
    ],
    ids=["openai", "no_ln_pre", "layer_scale", "mean", "mean_then_norm"],
)
def test_open_clip(vision: dict[str, Any]) -> None:
    model = clip(**vision)
    images = torch.randn(3, 3, 32, 32)
    vit, projection = from_open_clip(model.visual)
    assert projection is not None
    torch.testing.assert_close(vit(images) @ projection, model.encode_image(images), rtol=1e-4, atol=1e-5)


def test_open_clip_gelu() -> None:
    model: Any = lively(CLIP(**TINY_CONFIG | {"quick_gelu": False}))
    images = torch.randn(2, 3, 32, 32)
    vit, projection = from_open_clip(model.visual)
    torch.testing.assert_close(vit(images) @ projection, model.encode_image(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 4, "init_values": 0.2},
        {"reg_tokens": 4, "no_embed_class": True, "pre_norm": True},
        {"global_pool": "avg", "class_token": False, "fc_norm": False},
        {"global_pool": "avg", "reg_tokens": 2},
        {"global_pool": "map", "class_token": False, "act_layer": "gelu_tanh"},
        {"act_layer": "quick_gelu", "qkv_bias": False},
    ],
    ids=["plain", "dinov2", "registers", "mean", "mean_of_patches", "siglip", "no_qkv_bias"],
)
def test_timm(options: dict[str, Any]) -> None:
    model: Any = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0, **options
    )
    model = lively(model)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(from_timm(model)(images), model(images), rtol=1e-4, atol=1e-5)


def test_siglip_through_open_clip() -> None:
    """open_clip's SigLIP wraps a timm trunk whose pooled output is already in the joint space."""
    from open_clip.timm_model import TimmModel

    tower: Any = lively(
        TimmModel("vit_tiny_patch16_224", embed_dim=192, image_size=224, pool="map", proj="none", pretrained=False)
    )
    vit, projection = from_open_clip(tower)
    images = torch.randn(1, 3, 224, 224)
    assert projection is None
    torch.testing.assert_close(vit(images), tower(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mlp_layer": timm.layers.SwiGLU}, "SwiGLU"),
        ({"scale_attn_norm": True}, "inside attention"),
        ({"norm_layer": "rmsnorm"}, "RmsNorm"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(options: dict[str, Any], reason: str) -> None:
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=3, **options)
    with pytest.raises(UserError, match=reason):
        from_timm(model)


@pytest.mark.parametrize("options", [{}, {"qkv_bias": True}, {"global_pool": "avg"}], ids=["plain", "bias", "mean"])
def test_dinov3(options: dict[str, Any]) -> None:
    model = dinov3(**options)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(from_timm(model)(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"swiglu_mlp": True}, "GluMlp|SwiGLU"),
        ({"rope_rotate_half": False}, "neighbouring"),
    ],
)
def test_what_of_eva_cannot_be_held_is_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        from_timm(dinov3(**options))


def test_normalised_queries_and_keys_are_refused() -> None:
    model = dinov3()
    model.blocks[1].attn.q_norm = nn.LayerNorm(8)  # an option of Eva itself in timm's later versions alone
    with pytest.raises(UserError, match="queries and keys"):
        from_timm(model)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(UserError, match="not timm's VisionTransformer or Eva"):
        from_timm(timm.create_model("resnet18"))
    with pytest.raises(UserError, match="Linear"):
        from_open_clip(nn.Linear(2, 2))


@pytest.mark.parametrize("size", [32, 35])
def test_patches_in_fp32_are_fp32(device: torch.device, size: int) -> None:
    """As the convolution in float64 has them, where PyTorch lets cuDNN round fp32 to ten bits; a rest makes no patch."""
    vit, _ = from_open_clip(clip().visual)
    images = torch.randn(3, 3, size, size)
    exact = F.conv2d(images.double(), vit.patches.weight.double(), stride=8).flatten(2).transpose(1, 2)
    with Convolutions() as seen:
        found = vit.to(device)._patches(images.to(device))
    torch.testing.assert_close(found.cpu().double(), exact, rtol=1e-5, atol=1e-5)
    assert not seen.ops


class Convolutions(TorchDispatchMode):
    """Which convolutions run."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "conv" in str(function):
            self.ops.append(str(function))
        return function(*args, **kwargs or {})


def test_last_block_for_the_class_token_alone_is_exact() -> None:
    vit, _ = from_open_clip(clip().visual)
    tokens = torch.randn(3, vit.sequence_length, vit.width, dtype=torch.float64)
    block = vit.block(2).double()
    assert isinstance(vit.pool, ClassTokenPool)
    torch.testing.assert_close(block(tokens, 1), block(tokens)[:, :1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recompute", ["mlp", "block"])
def test_checkpointing_changes_neither_features_nor_gradients(device: torch.device, recompute: Any) -> None:
    vit, _ = from_open_clip(clip().visual)
    tuners = TunerSettings(layers=2)
    trained = tuners.attach(vit, tuners.context(vit, classes=10))
    vit.to(device)
    images = torch.randn(2, 3, 32, 32).to(device)

    def run() -> tuple[torch.Tensor, ...]:
        features = vit(images)
        return (features.detach(), *torch.autograd.grad(features.square().sum(), list(trained.values())))

    expected = run()
    vit.activation_checkpointing = recompute
    for found, wanted in zip(run(), expected, strict=True):
        assert torch.equal(found, wanted)


def test_last_block_computes_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    vit, _ = from_open_clip(clip().visual)
    seen: list[int | None] = []
    forward = Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda self, x, queries=None: (seen.append(queries), forward(self, x, queries))[1]
    )
    vit(torch.randn(1, 3, 32, 32))
    assert seen == [None, None, 1]


def test_everything_is_frozen_and_held_in_the_compute_dtype() -> None:
    vit, _ = from_open_clip(clip().visual)
    assert not any(parameter.requires_grad for parameter in vit.parameters())
    images = torch.randn(2, 3, 32, 32)
    exact = vit(images)
    vit.set_compute_dtype(torch.bfloat16)
    assert {parameter.dtype for parameter in vit.parameters()} == {torch.bfloat16}
    rounded = vit(images)
    assert rounded.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(rounded.float(), exact).min() > 0.999
