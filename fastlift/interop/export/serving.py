"""The model as it is served: tuners merged, plain PyTorch ops only, logits of one crop or the mean over five."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastlift.models.calibrated import CalibratedClassifier
from fastlift.models.layers import LayerNorm, Linear
from fastlift.models.lift import LiftModel
from fastlift.models.text.classifier import TextClassifier
from fastlift.models.tuners.adapter import AdaptFormerBranch
from fastlift.models.tuners.lora import LoRA, LoRALinear, LoRAQKV
from fastlift.models.tuners.mask import Scatter
from fastlift.models.tuners.ssf import SSFQKV, SSFAfter, SSFBranch
from fastlift.models.vit import QKV, NormBranch


class ServingModel(nn.Module):
    """images [B, 3, S, S], or [B, V, 3, S, S] for V crops of each -> logits [B, C], the mean over the crops."""

    def __init__(self, vit: nn.Module, classifier: nn.Module, crops: int) -> None:
        super().__init__()
        self.vit, self.classifier, self.crops = vit, classifier, crops

    def forward(self, images: Tensor) -> Tensor:
        if self.crops == 1:
            return self.classifier(self.vit(images))
        logits = self.classifier(self.vit(images.flatten(0, 1)))
        return logits.unflatten(0, (-1, self.crops)).mean(dim=1)


def serving_model(model: LiftModel, crops: int = 1) -> ServingModel:
    """A copy of ``model`` on the CPU in fp32 that computes the same; exporters see PyTorch's own ops alone."""
    copied = deepcopy(model).cpu().eval().requires_grad_(False)
    copied.set_compute_dtype(torch.float32)
    calibrated = copied.classifier if isinstance(copied.classifier, CalibratedClassifier) else None
    classifier: nn.Module = copied.classifier if calibrated is None else calibrated.inner
    if isinstance(classifier, TextClassifier):  # its class features no longer change
        classifier = classifier.constant()
    if calibrated is not None:
        classifier = calibrated.around(classifier)
    return ServingModel(merge_tuners(copied.vit), classifier, crops).float()


@torch.no_grad()
def merge_tuners(site: nn.Module) -> nn.Module:
    """Fold tuners that are linear into the weights they act on, from the inside out, in place.

    Exact: LoRA (W + (A B)^T / r), SSF on products and norms (scale and shift of their output), masks (their values in
    place). Not linear, so they stay: AdaptFormer, Adapter, prompts, and whatever stands after something that stays.

    Returns:
        ``site``, or what stands for it now.
    """
    for name, child in list(site.named_children()):
        setattr(site, name, merge_tuners(child))
    module: Any = _without_mask(site)
    if type(module) in _FOLDS:
        inner, fold = _FOLDS[type(module)]
        if type(module.inner) in inner:
            fold(module)
            return module.inner
    return module


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


def _fold_lora(site: Any) -> None:
    site.inner.weight += _update(site.lora).to(site.inner.weight)


def _fold_lora_qkv(site: Any) -> None:
    weight = site.inner.weight  # [3D, D]
    width = weight.shape[1]
    weight[:width] += _update(site.q).to(weight)
    weight[2 * width :] += _update(site.v).to(weight)


def _fold_ssf(site: Any) -> None:
    """y = W x + b or a norm's affine part -> y * scale + shift."""
    # Of the site before the MLP it is the MLP's input alone; an adapter beside the MLP has a norm of its own.
    inner: Any = site.inner.norm if isinstance(site, SSFBranch) else site.inner
    scale, shift = site.ssf.scale.to(inner.weight), site.ssf.shift.to(inner.weight)
    inner.weight.mul_(scale if inner.weight.dim() == 1 else scale[:, None])
    bias = shift if inner.bias is None else inner.bias * scale + shift
    inner.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)


# What a linear tuner put around a site -> what may stand inside, and how it is folded into that.
_FOLDS: dict[type[nn.Module], tuple[tuple[type[nn.Module], ...], Callable[[Any], None]]] = {
    LoRALinear: ((Linear,), _fold_lora),
    LoRAQKV: ((QKV,), _fold_lora_qkv),
    SSFAfter: ((Linear, LayerNorm), _fold_ssf),
    SSFQKV: ((QKV,), _fold_ssf),
    SSFBranch: ((NormBranch, AdaptFormerBranch), _fold_ssf),
}
