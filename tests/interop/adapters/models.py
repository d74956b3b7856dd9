"""Tiny randomly initialised vision transformers of other libraries, and the same with plain adapter modules."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastlift

WIDTH, DEPTH, SIZE = 32, 3, 16


def open_clip_visual() -> nn.Module:
    from open_clip.model import CLIP

    vision = {"image_size": SIZE, "layers": DEPTH, "width": WIDTH, "head_width": 8, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 2}
    return CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True)


def open_clip_scaled() -> nn.Module:
    from open_clip.transformer import VisionTransformer

    options = {"ls_init_value": 0.5, "output_dim": 24, "mlp_ratio": 2.0}
    return VisionTransformer(image_size=SIZE, patch_size=8, width=WIDTH, layers=DEPTH, heads=4, **options)


def timm_vit(**options: Any) -> nn.Module:
    import timm

    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 4, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **(sizes | options))


def timm_scaled() -> nn.Module:
    return timm_vit(init_values=0.5, drop_path_rate=0.0, class_token=False, global_pool="avg")


def _transformers_sizes(**more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 64}
    return sizes | {"image_size": SIZE, "patch_size": 8} | more


def _of_transformers(model: str, config: str, **more: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, model)(getattr(transformers, config)(**_transformers_sizes(**more)))


def clip_vision() -> nn.Module:
    return _of_transformers("CLIPVisionModel", "CLIPVisionConfig")


def clip_both() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    text = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text |= {"vocab_size": 64, "max_position_embeddings": 8, "eos_token_id": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=_transformers_sizes(), projection_dim=24)
    return transformers.CLIPModel(config)


def vit() -> nn.Module:
    return _of_transformers("ViTModel", "ViTConfig")


def vit_classifier() -> nn.Module:
    return _of_transformers("ViTForImageClassification", "ViTConfig", num_labels=5)


def siglip() -> nn.Module:
    return _of_transformers("SiglipVisionModel", "SiglipVisionConfig")


def dinov2() -> nn.Module:
    return _of_transformers("Dinov2Model", "Dinov2Config", mlp_ratio=2, layerscale_value=0.5)


def dinov2_registers() -> nn.Module:
    names = "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"
    return _of_transformers(*names, mlp_ratio=2, layerscale_value=0.5, num_register_tokens=3)


def dinov3() -> nn.Module:
    return _of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", layerscale_value=0.5, num_register_tokens=3)


def siglip2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = _transformers_sizes(num_patches=4)
    sizes.pop("image_size")
    return transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**sizes))


def deit() -> nn.Module:
    return _of_transformers("DeiTForImageClassification", "DeiTConfig", num_labels=5)


def beit(**options: Any) -> nn.Module:
    sizes = {"num_labels": 5, "layer_scale_init_value": 0.5, **options}
    return _of_transformers("BeitForImageClassification", "BeitConfig", **sizes)


def beit_relative() -> nn.Module:
    return beit(use_relative_position_bias=True)


def _timm_eva(name: str, **options: Any) -> nn.Module:
    import timm

    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 4, "num_classes": 5}
    return timm.create_model(name, **(sizes | options))


def eva02() -> nn.Module:
    return _timm_eva("eva02_base_patch14_224", ref_feat_shape=(2, 2))


def perception_encoder() -> nn.Module:
    return _timm_eva("vit_pe_core_tiny_patch16_384", ref_feat_shape=(2, 2))


def timm_dinov3() -> nn.Module:
    return _timm_eva("vit_small_patch16_dinov3")


# maker, path of the blocks, norm before the MLP
MODELS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "open_clip": (open_clip_visual, "visual.transformer.resblocks", "ln_2"),
    "open_clip_scaled": (open_clip_scaled, "transformer.resblocks", "ln_2"),
    "timm": (timm_vit, "blocks", "norm2"),
    "timm_scaled": (timm_scaled, "blocks", "norm2"),
    "clip_vision": (clip_vision, "encoder.layers", "layer_norm2"),
    "clip_both": (clip_both, "vision_model.encoder.layers", "layer_norm2"),
    "vit": (vit, "layers", "layernorm_after"),
    "vit_classifier": (vit_classifier, "vit.layers", "layernorm_after"),
    "siglip": (siglip, "encoder.layers", "layer_norm2"),
    "dinov2": (dinov2, "encoder.layer", "norm2"),
    "dinov2_registers": (dinov2_registers, "encoder.layer", "norm2"),
    "dinov3": (dinov3, "model.layer", "norm2"),
    "siglip2": (siglip2, "encoder.layers", "layer_norm2"),
    "deit": (deit, "deit.layers", "layernorm_after"),
    "beit": (beit, "beit.layers", "layernorm_after"),
    "beit_relative": (beit_relative, "beit.layers", "layernorm_after"),
    "eva02": (eva02, "blocks", "norm2"),
    "perception_encoder": (perception_encoder, "blocks", "norm2"),
    "timm_dinov3": (timm_dinov3, "blocks", "norm2"),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """A model of the table in eval mode, every weight lively (some libraries start with zeros)."""
    torch.manual_seed(seed)
    model = MODELS[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(batch: int = 2, seed: int = 1) -> Tensor:
    """Random normalised images [B, 3, S, S]."""
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def output(model: Any, x: Tensor) -> Tensor:
    """The image features or logits of any of the models."""
    if type(model).__name__ == "Siglip2VisionModel":  # which takes patches of images of any shape
        patches = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        mask, shapes = torch.ones(patches.shape[:2], dtype=torch.long), torch.full((len(x), 2), 2)
        found = model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
    elif hasattr(model, "get_image_features"):
        found = model.get_image_features(pixel_values=x)
    elif hasattr(model, "encode_image"):
        found = model.encode_image(x)
    else:
        found = model(x)
    for name in ("logits", "pooler_output", "last_hidden_state"):
        if getattr(found, name, None) is not None:
            return getattr(found, name)
    return found


class PlainAdaptFormer(nn.Module):
    """A(t) of the paper in plain modules, written down anew."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.down_proj = nn.Linear(width, rank)
        self.up_proj = nn.Linear(rank, width)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, t: Tensor) -> Tensor:
        return self.scale * self.up_proj(F.relu(self.down_proj(self.ln(t))))


def add_plain(model: nn.Module, name: str, rank: int, layers: list[int]) -> dict[str, nn.Parameter]:
    """Plain adapters by hooks: one sees what enters the norm before the MLP, one adds A of it to the block's output."""
    model.requires_grad_(False)
    _, path, norm = MODELS[name]
    trained = {}
    for i in layers:
        block, plain = model.get_submodule(f"{path}.{i}"), PlainAdaptFormer(WIDTH, rank)
        block.plain = plain
        seen: list[Tensor] = []

        def see(module: nn.Module, args: tuple[Tensor, ...], seen: list[Tensor] = seen) -> None:
            seen[:] = args

        def add(
            module: nn.Module, args: Any, out: Tensor, seen: list[Tensor] = seen, plain: nn.Module = plain
        ) -> Tensor:
            return out + plain(seen[0])

        block.get_submodule(norm).register_forward_pre_hook(see)
        block.register_forward_hook(add)
        trained |= {f"adaptformer_list.{i}.{key}": parameter for key, parameter in plain.named_parameters()}
    return trained


def randomise(trained: dict[str, nn.Parameter], seed: int = 2) -> None:
    """Lively values: an adapter that has learned something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(trained):
            noise = 0.3 * torch.randn(trained[name].shape, generator=generator)
            trained[name].copy_(1 + noise if "ln.weight" in name or "scale" in name else noise)


def assert_copies_stand_alone(model: nn.Module) -> None:
    """Copies and pickles of a model with lively adapters compute the same, on parameters of their own."""
    wanted = output(model, images()).detach()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)):
        assert torch.equal(output(other, images()), wanted)
        with torch.no_grad():
            for parameter in fastlift.tuner_parameters(other).values():
                parameter.zero_()
        assert not torch.equal(output(other, images()), wanted), "the copy runs on another's parameters"
        assert torch.equal(output(model, images()), wanted)
        fastlift.remove_adapters(other)
