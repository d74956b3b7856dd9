"""A ViT of two blocks, of the same kind as CLIP's ViT-B/16, for rehearsals: known to timm once this file is loaded."""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, build_model_with_cfg

NAME = "fastlift_toy_vit"
default_cfgs = generate_default_cfgs({f"{NAME}.untrained": {"input_size": (3, 32, 32)}})  # where timm looks for them


@register_model
def fastlift_toy_vit(pretrained: bool = False, **settings: Any) -> VisionTransformer:
    """32 pixels, patches of 16, width 64, two heads, QuickGELU; there are no weights of it."""
    shape = {"img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 3}
    clip = {"pre_norm": True, "act_layer": "quick_gelu"}
    return build_model_with_cfg(VisionTransformer, NAME, pretrained, **{**shape, **clip, **settings})
