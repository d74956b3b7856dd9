"""Tuners that are linear, folded into the weights they act on: the served model is the backbone's size and speed.

Exact: LoRA (W + (A B)^T / r), SSF on products and norms (scale and shift of their output), masks (their values in place).
Not linear, so they stay: AdaptFormer, Adapter, prompts, and whatever stands after something that stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastlift.models.tuners.adapter import AdaptFormerBranch
from fastlift.models.tuners.lora import LoRA, LoRALinear, LoRAQKV
from fastlift.models.tuners.mask import Scatter
from fastlift.models.tuners.ssf import SSF, SSFQKV, SSFAfter, SSFBranch
from fastlift.models.vit import QKV, LayerNorm, Linear, NormBranch


@torch.no_grad()
def merge_tuners(module: nn.Module) -> nn.Module:
    """Fold what can be folded, from the inside out, in place.

    Returns:
        ``module``, or what stands for it now.
    """
    for name, child in list(module.named_children()):
        setattr(module, name, merge_tuners(child))
    module = _without_mask(module)
    rule = _RULES.get(type(module))
    return module if rule is None else rule(module)


def _without_mask(module: Any) -> nn.Module:
    """A masked product as a plain one. Made anew: removing a parametrisation would change the class of the original."""
    if not parametrize.is_parametrized(module) or not isinstance(module, Linear):
        return module
    lists = cast(nn.ModuleDict, module.parametrizations).values()
    if not all(isinstance(part, Scatter) for parts in lists for part in cast(nn.ModuleList, parts)):
        return module
    kind = QKV if isinstance(module, QKV) else Linear
    plain = kind(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
    for name in ("weight", "bias"):
        value = getattr(module, name)
        if value is not None:
            setattr(plain, name, nn.Parameter(value.detach().clone(), requires_grad=False))
    return plain


def _update(lora: LoRA) -> Tensor:
    """What LoRA adds to a weight [out, in]."""
    return (lora.lora_A @ lora.lora_B / lora.lora_A.shape[1]).T


def _lora_linear(site: Any) -> nn.Module:
    if type(site.inner) is not Linear:
        return site
    site.inner.weight += _update(site.lora).to(site.inner.weight)
    return site.inner


def _lora_qkv(site: Any) -> nn.Module:
    if type(site.inner) is not QKV:
        return site
    weight = site.inner.weight  # [3D, D]
    width = weight.shape[1]
    weight[:width] += _update(site.q).to(weight)
    weight[2 * width :] += _update(site.v).to(weight)
    return site.inner


def _scale_and_shift(inner: Any, ssf: SSF) -> None:
    """y = W x + b or a norm's affine part -> y * scale + shift."""
    scale, shift = ssf.scale.to(inner.weight), ssf.shift.to(inner.weight)
    inner.weight.mul_(scale if inner.weight.dim() == 1 else scale[:, None])
    bias = shift if inner.bias is None else inner.bias * scale + shift
    inner.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)


def _ssf_after(site: Any) -> nn.Module:
    if type(site.inner) not in (Linear, LayerNorm):
        return site
    _scale_and_shift(site.inner, site.ssf)
    return site.inner


def _ssf_qkv(site: Any) -> nn.Module:
    if type(site.inner) is not QKV:
        return site
    _scale_and_shift(site.inner, site.ssf)
    return site.inner


def _ssf_branch(site: Any) -> nn.Module:
    if type(site.inner) not in (NormBranch, AdaptFormerBranch):
        return site
    _scale_and_shift(site.inner.norm, site.ssf)  # the MLP's input alone; an adapter beside it has a norm of its own
    return site.inner


_RULES: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    LoRALinear: _lora_linear,
    LoRAQKV: _lora_qkv,
    SSFAfter: _ssf_after,
    SSFQKV: _ssf_qkv,
    SSFBranch: _ssf_branch,
}
