"""How the transformer blocks of open_clip, timm and transformers are put together.

Legend: D width. t is the residual stream after attention, [B, L, D] or [L, B, D].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastlift.interop.adapters.sites import Sites

# (tokens, further arguments) that a block can be called with on its own
Probe = tuple[int, dict[str, Any]]


def _four_tokens(block: Any) -> Probe:
    return 4, {}


@dataclass(frozen=True)
class Family:
    """How the blocks of one class work."""

    norm: str  # name of the norm before the MLP
    activation: str  # path of the MLP's activation module
    attention: Callable[..., Tensor]  # (block, x, ...) -> t, all that happens before the norm
    mlp: Callable[[Any, Tensor], Tensor]  # (block, normed) -> what is added to the residual stream
    sites: Sites
    probe: Callable[[Any], Probe] = _four_tokens


def _attention_open_clip(block: Any, q_x: Tensor, k_x: Any = None, v_x: Any = None, attn_mask: Any = None) -> Tensor:
    return q_x + block.ls_1(block.attention(q_x=block.ln_1(q_x), k_x=k_x, v_x=v_x, attn_mask=attn_mask))


def _attention_timm(block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x + block.drop_path1(block.ls1(block.attn(block.norm1(x), *args, **kwargs)))


def _attention_eva(block: Any, x: Tensor, rope: Any = None, attn_mask: Any = None, **kwargs: Any) -> Tensor:
    mixed = block.attn(block.norm1(x), rope=rope, attn_mask=attn_mask, **kwargs)
    return x + block.drop_path1(mixed if block.gamma_1 is None else block.gamma_1 * mixed)


def _mlp_eva(block: Any, normed: Tensor) -> Tensor:
    hidden = block.mlp(normed)
    return block.drop_path2(hidden if getattr(block, "gamma_2", None) is None else block.gamma_2 * hidden)


def _attention_clip(block: Any, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Tensor:
    normed = block.layer_norm1(hidden_states)
    return hidden_states + block.self_attn(hidden_states=normed, attention_mask=attention_mask, **kwargs)[0]


def _attention_vit(block: Any, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Tensor:
    mixed, _ = block.attention(block.layernorm_before(hidden_states), attention_mask, **kwargs)
    return block.dropout(mixed) + hidden_states


def _attention_beit(
    block: Any,
    hidden_states: Tensor,
    attention_mask: Any = None,
    interpolate_pos_encoding: bool = False,
    resolution: Any = None,
    **kwargs: Any,
) -> Tensor:
    if block.relative_position_bias is not None:
        window = tuple(side // block.patch_size for side in resolution)
        bias = block.relative_position_bias(window, interpolate_pos_encoding, dim_size=hidden_states.shape[1])
        attention_mask = bias if attention_mask is None else bias + attention_mask
    mixed, _ = block.attention(block.layernorm_before(hidden_states), attention_mask=attention_mask, **kwargs)
    return block.drop_path(block.lambda_1 * block.dropout(mixed)) + hidden_states


def _window_of_beit(block: Any) -> Probe:
    """Its positions are those of an image: the block is called with as many tokens, and the image's size."""
    if block.relative_position_bias is None:
        return 4, {}
    rows, columns = block.relative_position_bias.window_size
    return rows * columns + 1, {"resolution": (rows * block.patch_size, columns * block.patch_size)}


def _attention_dinov2(block: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    mixed = block.attention(block.norm1(hidden_states), *args, **kwargs)
    if isinstance(mixed, tuple):  # with the attention weights, and a mask among the arguments, since transformers 5.18
        mixed = mixed[0]
    return block.drop_path(block.layer_scale1(mixed)) + hidden_states


def _mlp_dinov2(block: Any, normed: Tensor) -> Tensor:
    return block.drop_path(block.layer_scale2(block.mlp(normed)))


def _unturned(block: Any) -> Probe:
    """Rotary angles of zero."""
    angles = torch.ones(4, block.attention.head_dim).to(block.norm1.weight)
    return 4, {"position_embeddings": (angles, torch.zeros_like(angles))}


def _apart(attention: str, out: str, mlp: tuple[str, str], norms: tuple[str, str]) -> Sites:
    """Queries, keys and values as three products."""
    queries, keys, values = (f"{attention}.{part}_proj" for part in "qkv")
    return Sites((queries, keys, values), f"{attention}.{out}", mlp, norms)


_FC = ("mlp.fc1", "mlp.fc2")
_ACTIVATION = "mlp.activation_fn"  # in all of transformers
_CLIP = Family(
    "layer_norm2",
    _ACTIVATION,
    _attention_clip,
    lambda block, normed: block.mlp(normed),
    _apart("self_attn", "out_proj", _FC, ("layer_norm1", "layer_norm2")),
)
_VIT_SITES = _apart("attention", "o_proj", _FC, ("layernorm_before", "layernorm_after"))
_VIT = Family(
    "layernorm_after",
    _ACTIVATION,
    _attention_vit,
    lambda block, normed: block.dropout(block.mlp(normed)),
    _VIT_SITES,
)
_BEIT = Family(
    "layernorm_after",
    _ACTIVATION,
    _attention_beit,
    lambda block, normed: block.drop_path(block.lambda_2 * block.dropout(block.mlp(normed))),
    _VIT_SITES,
    _window_of_beit,
)
_DINO_SITES = _apart("attention", "o_proj", _FC, ("norm1", "norm2"))
_DINOV2 = Family("norm2", _ACTIVATION, _attention_dinov2, _mlp_dinov2, _DINO_SITES)
_DINOV3 = Family(
    "norm2",
    "mlp.act_fn",
    _attention_dinov2,
    _mlp_dinov2,
    _apart("attention", "o_proj", ("mlp.up_proj", "mlp.down_proj"), ("norm1", "norm2")),
    _unturned,
)
_OPEN_CLIP = Family(
    "ln_2",
    "mlp.gelu",
    _attention_open_clip,
    lambda block, normed: block.ls_2(block.mlp(normed)),
    Sites(("attn",), "attn.out_proj", ("mlp.c_fc", "mlp.c_proj"), ("ln_1", "ln_2")),
)
_TIMM_SITES = Sites(("attn.qkv",), "attn.proj", _FC, ("norm1", "norm2"))
_TIMM = Family(
    "norm2",
    "mlp.act",
    _attention_timm,
    lambda block, normed: block.drop_path2(block.ls2(block.mlp(normed))),
    _TIMM_SITES,
)
_EVA = Family("norm2", "mlp.act", _attention_eva, _mlp_eva, _TIMM_SITES)

# (the class of the block, the package it is defined in) -> how it works
FAMILIES: dict[tuple[str, str], Family] = {
    ("ResidualAttentionBlock", "open_clip"): _OPEN_CLIP,
    ("Block", "timm"): _TIMM,
    ("EvaBlock", "timm"): _EVA,
    ("CLIPEncoderLayer", "transformers"): _CLIP,
    ("SiglipEncoderLayer", "transformers"): _CLIP,
    ("Siglip2EncoderLayer", "transformers"): _CLIP,
    ("ViTLayer", "transformers"): _VIT,
    ("DeiTLayer", "transformers"): _VIT,
    ("BeitLayer", "transformers"): _BEIT,
    ("Dinov2Layer", "transformers"): _DINOV2,
    ("Dinov2WithRegistersLayer", "transformers"): _DINOV2,
    ("DINOv3ViTLayer", "transformers"): _DINOV3,
}

_POST_NORM = "norms come after attention and MLP, and adapters need x + MLP(LayerNorm(x))"
_PARALLEL = "attention and MLP stand side by side, so there is no residual stream between them"
# Blocks that are known, and cannot have adapters.
REFUSED: dict[tuple[str, str], str] = {
    ("EvaBlockPostNorm", "timm"): _POST_NORM,
    ("ResPostBlock", "timm"): _POST_NORM,
    ("SwinTransformerV2Block", "timm"): _POST_NORM,
    ("ParallelScalingBlock", "timm"): _PARALLEL,
    ("DiffParallelScalingBlock", "timm"): _PARALLEL,
    ("ParallelThingsBlock", "timm"): "several attentions and MLPs stand side by side",
    ("BertLayer", "transformers"): _POST_NORM,
}


def key_of(kind: type[nn.Module]) -> tuple[str, str]:
    """The name of a class, and the package that it is from."""
    return kind.__name__, kind.__module__.split(".")[0]


def family_of(kind: type[nn.Module]) -> Family | None:
    """What is known about a block's class; None where nothing is. Subclasses of a known class are others' inventions."""
    return FAMILIES.get(key_of(kind))
