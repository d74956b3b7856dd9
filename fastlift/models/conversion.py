"""From other libraries' vision transformers to ours: the same weights, under one set of names.

What our block cannot hold is refused by name, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.errors import UserError
from fastlift.models.layers import LayerNorm, LayerScale, Linear
from fastlift.models.pooling import ClassTokenPool, LatentPool, MeanPool, Pool
from fastlift.models.resnet import ResNet
from fastlift.models.vit import QKV, Block, Rotary, VisionTransformer

# 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
GELU_TANH = partial(F.gelu, approximate="tanh")
NO_SUCH_ROTARY = "rotary positions that are learned, differ by block, or turn neighbouring channels are not supported"


def from_open_clip(visual: nn.Module) -> tuple[VisionTransformer | ResNet, Tensor | None]:
    """The vision tower of an open_clip model -> (our tower, projection to the joint space [D, E] or None)."""
    kind = type(visual).__name__
    tower: Any = visual
    if kind == "VisionTransformer":
        return _from_open_clip_vit(tower), None if tower.proj is None else tower.proj.detach()
    if kind == "TimmModel":
        head = tower.head
        weights = [module for module in head.modules() if isinstance(module, nn.Linear)]
        if len(weights) > 1 or (weights and weights[0].bias is not None):
            raise UserError(f"the image tower's head is a {type(head).__name__}: only a plain projection can be read")
        return from_timm(tower.trunk), weights[0].weight.detach().T if weights else None
    if kind == "ModifiedResNet":
        return ResNet(tower), None
    raise UserError(
        f"the image tower is a {kind}; ViTs and CLIP's ResNets are supported, such as ViT-B-16-quickgelu and RN50-quickgelu"
    )


def _from_open_clip_vit(tower: Any) -> VisionTransformer:
    if tower.attn_pool is not None:
        raise UserError("image towers with attentional pooling (CoCa) are not supported")
    if tower.pool_type not in ("tok", "avg"):
        raise UserError(f"image towers with pool_type={tower.pool_type!r} are not supported")
    norm_post = norm(tower.ln_post)
    pool: Pool = ClassTokenPool(norm_post)
    if tower.pool_type == "avg":
        before, after = (nn.Identity(), norm_post) if tower.final_ln_after_pool else (norm_post, nn.Identity())
        pool = MeanPool(before, after, first=1, count=tower.grid_size[0] * tower.grid_size[1])
    return VisionTransformer(
        patches=tower.conv1,
        prefix=tower.class_embedding.detach()[None],
        positions=tower.positional_embedding.detach(),
        norm_pre=norm(tower.ln_pre),
        blocks=[_open_clip_block(block) for block in tower.transformer.resblocks],
        pool=pool,
        image_size=tuple(tower.image_size),
    )


def text_blocks(transformer: Any) -> list[Block]:
    """The blocks of open_clip's causal text transformer, as copies: the frozen tower stays as it is."""
    return [deepcopy(_open_clip_block(block, causal=True)) for block in transformer.resblocks]


def _open_clip_block(block: Any, causal: bool = False) -> Block:
    if type(block).__name__ != "ResidualAttentionBlock":
        raise UserError(f"blocks of the kind {type(block).__name__} are not supported (only ResidualAttentionBlock)")
    mlp, heads = block.mlp, block.attn.num_heads
    qkv, out = _qkv(block.attn.in_proj_weight, block.attn.in_proj_bias), block.attn.out_proj
    scales = _layer_scale(block.ls_1), _layer_scale(block.ls_2)
    return _block(
        (block.ln_1, block.ln_2), qkv, out, (mlp.c_fc, mlp.gelu, mlp.c_proj), scales, heads=heads, causal=causal
    )


def _block(
    norms: tuple[Any, Any],
    qkv: QKV,
    out: Any,
    mlp: tuple[Any, Any, Any],
    scales: tuple[LayerScale | None, LayerScale | None],
    **options: Any,
) -> Block:
    """A block from another library's parts: its two norms, and of the MLP the products with the activation between them."""
    return Block(
        norm_1=_layer_norm(norms[0]),
        qkv=qkv,
        out=_linear(out),
        norm_2=_layer_norm(norms[1]),
        mlp_in=_linear(mlp[0]),
        mlp_out=_linear(mlp[2]),
        activation=_activation(mlp[1]),
        scale_1=scales[0],
        scale_2=scales[1],
        **options,
    )


def from_timm(trunk: nn.Module) -> VisionTransformer:
    """A timm ``VisionTransformer``, or ``Eva`` as DINOv3 uses it -> our ViT; its classifier is left out."""
    model: Any = trunk
    kind = type(trunk).__name__
    if kind not in ("VisionTransformer", "Eva"):
        raise UserError(f"{kind} is not timm's VisionTransformer or Eva (DINOv3); hybrid ViTs are not supported")
    if type(model.patch_embed).__name__ != "PatchEmbed":
        raise UserError(f"patches made by {type(model.patch_embed).__name__} are not supported (hybrid ViTs)")
    _refuse(model.patch_embed.norm, "a norm after the patch embedding")
    tokens = [token.detach()[0] for token in (model.cls_token, model.reg_token) if token is not None]
    prefix = sum(map(len, tokens))
    if kind == "Eva":
        rotary = _rotary(model, prefix)
        blocks = [_eva_block(block, rotary) for block in model.blocks]
    else:
        blocks = [_timm_block(block) for block in model.blocks]
    return VisionTransformer(
        patches=model.patch_embed.proj,
        prefix=torch.cat(tokens) if tokens else None,
        positions=None if model.pos_embed is None else model.pos_embed.detach()[0],
        norm_pre=norm(model.norm_pre),
        blocks=blocks,
        pool=_timm_pool(model, prefix),
        image_size=tuple(model.patch_embed.img_size),
    )


def _timm_pool(model: Any, prefix: int) -> Pool:
    norm_post, norm_after = norm(model.norm), norm(model.fc_norm)
    if model.attn_pool is None and model.global_pool == "token":
        _refuse(norm_after, "a norm after the class token is taken")
        return ClassTokenPool(norm_post)
    patches = model.patch_embed.num_patches
    whole = getattr(model, "pool_include_prefix", False)
    span = {"first": 0, "count": prefix + patches} if whole else {"first": prefix, "count": patches}
    if model.attn_pool is not None:
        return LatentPool(norm_post, model.attn_pool, norm_after, **span)
    if model.global_pool == "avg":
        return MeanPool(norm_post, norm_after, **span)
    raise UserError(f"timm models with global_pool={model.global_pool!r} are not supported")


def _timm_block(block: Any) -> Block:
    kinds = type(block).__name__, type(getattr(block, "mlp", None)).__name__
    if kinds != ("Block", "Mlp"):
        raise UserError("timm blocks of the kind {} with {} are not supported".format(*kinds))
    attention, mlp = block.attn, block.mlp
    _refuse(attention.q_norm, "normalised queries and keys")
    _refuse(getattr(attention, "norm", None), "a norm inside attention")
    _refuse(mlp.norm, "a norm inside the MLP")
    qkv, scales = _qkv(attention.qkv.weight, attention.qkv.bias), (_layer_scale(block.ls1), _layer_scale(block.ls2))
    norms, products = (block.norm1, block.norm2), (mlp.fc1, mlp.act, mlp.fc2)
    return _block(norms, qkv, attention.proj, products, scales, heads=attention.num_heads)


def _rotary(model: Any, prefix: int) -> Rotary | None:
    """The turning of queries and keys by a patch's place, for the model's own grid."""
    if model.rope is None:
        return None
    if model.rope_mixed or not getattr(model.rope, "rotate_half", False):
        raise UserError(NO_SUCH_ROTARY)
    return Rotary(partial(_angles, model.rope), model.patch_embed.grid_size, prefix)


def _angles(rope: Any, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(sin, cos) of a grid's patches, [patches, D/H] each, by timm's module."""
    sin, cos = rope.get_embed(shape=list(grid)).detach().float().chunk(2, dim=-1)
    return sin.contiguous(), cos.contiguous()


def _eva_block(block: Any, rotary: Rotary | None) -> Block:
    attention, mlp = block.attn, block.mlp
    kinds = [type(part).__name__ for part in (block, attention, mlp)]
    if kinds != ["EvaBlock", "EvaAttention", "Mlp"]:
        raise UserError(f"Eva blocks of the kind {kinds[0]} with {kinds[1]} and {kinds[2]} are not supported")
    if attention.qkv is None or getattr(attention, "gate", None) is not None:  # gates came with timm 1.0.28
        raise UserError("Eva blocks with separate or gated queries, keys and values are not supported")
    if rotary is not None and not getattr(attention, "rotate_half", True):  # what tells it up to timm 1.0.30
        raise UserError(NO_SUCH_ROTARY)
    _refuse(attention.q_norm, "normalised queries and keys")
    _refuse(attention.norm, "a norm inside attention")
    _refuse(mlp.norm, "a norm inside the MLP")
    bias = None
    if attention.q_bias is not None:
        bias = nn.Parameter(torch.cat([attention.q_bias, attention.k_bias, attention.v_bias]).detach())
    one, two = (None if gamma is None else LayerScale(gamma.detach()) for gamma in (block.gamma_1, block.gamma_2))
    norms, products, qkv = (block.norm1, block.norm2), (mlp.fc1, mlp.act, mlp.fc2), _qkv(attention.qkv.weight, bias)
    return _block(norms, qkv, attention.proj, products, (one, two), heads=attention.num_heads, rotary=rotary)


def _refuse(part: nn.Module | None, what: str) -> None:
    if part is not None and not isinstance(part, nn.Identity):
        raise UserError(f"this vision transformer has {what} ({type(part).__name__}), which is not supported")


def norm(module: nn.Module) -> nn.Module:
    """A LayerNorm as ours, or nothing as nothing."""
    return module if isinstance(module, nn.Identity) else _layer_norm(module)


def _layer_norm(module: Any) -> LayerNorm:
    if not isinstance(module, nn.LayerNorm):
        raise UserError(f"norms of the kind {type(module).__name__} are not supported (only LayerNorm)")
    ours = LayerNorm(module.normalized_shape[0], eps=module.eps)
    ours.weight, ours.bias = module.weight, module.bias
    return ours


def _linear(linear: Any) -> Linear:
    ours = Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    ours.weight, ours.bias = linear.weight, linear.bias
    return ours


def _qkv(weight: nn.Parameter, bias: nn.Parameter | None) -> QKV:
    ours = QKV(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    ours.weight, ours.bias = weight, bias  # type: ignore[assignment]
    return ours


def _layer_scale(scale: nn.Module) -> LayerScale | None:
    return None if isinstance(scale, nn.Identity) else LayerScale(scale.gamma.detach())  # type: ignore[operator]


def _activation(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """The op that computes an activation module: ours where it is one of CLIP's two, PyTorch's for the tanh form."""
    name = type(activation).__name__
    if name == "QuickGELU":
        return kernels.quick_gelu
    if name in ("GELU", "GELUTanh"):
        approximate = getattr(activation, "approximate", "tanh" if name == "GELUTanh" else "none")
        return GELU_TANH if approximate == "tanh" else kernels.gelu
    raise UserError(f"the activation {name} is not supported (QuickGELU, GELU and its tanh form are)")
