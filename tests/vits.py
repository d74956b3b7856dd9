"""Small vision transformers of other libraries, with values at which mistakes show."""

from typing import Any

import timm
import torch
from torch import nn


def lively(model: nn.Module) -> nn.Module:
    """Random values everywhere: zeros and ones at the start would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def dinov3(**options: Any) -> Any:
    """timm's Eva with DINOv3's settings, small: registers, rotary positions, layer scales, no absolute positions."""
    settings: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 3,
        "num_classes": 0,
        "global_pool": "token",
        "qkv_bias": False,
        "init_values": 0.3,
        "rope_type": "dinov3",
        "rope_temperature": 100,
        "rope_rotate_half": True,
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "num_reg_tokens": 4,
        "use_fc_norm": False,
        "dynamic_img_size": True,
    }
    return lively(timm.models.eva.Eva(**settings | options))
