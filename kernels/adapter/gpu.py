"""The adapter op on a GPU: fused kernels up to the rank where library products are faster, and those above it."""

from typing import Any

import torch

from ..triton_launch import device_of
from . import fused, wide

# N tokens, D width, r rank


def forward(
    t: torch.Tensor,  # [.., D] contiguous
    ln2_weight: torch.Tensor | None,
    ln2_bias: torch.Tensor | None,
    ln_weight: torch.Tensor,
    ln_bias: torch.Tensor,
    down_weight: torch.Tensor,
    down_bias: torch.Tensor,
    up_weight: torch.Tensor,
    up_bias: torch.Tensor,
    scale: torch.Tensor | None,
    fixed_scale: float,
    eps: float,
    ln_eps: float,
    products: torch.dtype,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ln2 as t or empty, residual as t, statistics [2, N], hidden [N, r]); the last two empty without ``keep``."""
    r = down_weight.shape[0]
    N = t.numel() // t.shape[-1]
    ln2 = torch.empty_like(t) if ln2_weight is not None else None
    residual = torch.empty_like(t)
    kept = N if keep else 0
    statistics = t.new_empty((2, kept), dtype=torch.float32)
    hidden = t.new_empty((kept, r)) if products == t.dtype else t.new_empty((kept, r), dtype=products)
    if N:
        parameters = _contiguous(
            ln2_weight, ln2_bias, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale
        )
        outputs = (ln2, residual, *((statistics, hidden) if keep else (None, None)))
        way = fused if r <= fused.MOST_RANK else wide
        with device_of(t):
            way.forward(t, parameters, fixed_scale, eps, ln_eps, products, outputs)
    return t.new_empty(0) if ln2 is None else ln2, residual, statistics, hidden


def backward(
    d_ln2: torch.Tensor | None,  # as t, contiguous
    d_residual: torch.Tensor,  # as t, contiguous
    t: torch.Tensor,  # [.., D] contiguous
    statistics: torch.Tensor,  # [2, N] mean and variance
    hidden: torch.Tensor,  # [N, r]
    ln2_weight: torch.Tensor | None,
    ln_weight: torch.Tensor,
    ln_bias: torch.Tensor,
    down_weight: torch.Tensor,
    down_bias: torch.Tensor,
    up_weight: torch.Tensor,
    up_bias: torch.Tensor,
    scale: torch.Tensor | None,
    fixed_scale: float,
    eps: float,
    ln_eps: float,
    products: torch.dtype,
    need_t: bool,
) -> tuple[torch.Tensor, ...]:
    """d_t (empty unless ``need_t``), then the float32 gradients of LN_a, down, up and scale in that order."""
    N, r = hidden.shape
    d_t = torch.empty_like(t) if need_t else None
    learned = (ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias)
    gradients = tuple([p.new_empty(p.shape, dtype=torch.float32) for p in learned])
    if N:
        parameters = _contiguous(ln2_weight, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale)
        way = fused if r <= fused.MOST_RANK else wide
        with device_of(t):
            d_scale = way.backward(
                d_ln2, d_residual, t, statistics, hidden, parameters, fixed_scale, eps, ln_eps, d_t, gradients
            )
    else:
        gradients = tuple([gradient.zero_() for gradient in gradients])
        d_scale = gradients[0].new_zeros(1)
    return (t.new_empty(0) if d_t is None else d_t, *gradients, d_scale)


def _contiguous(*tensors: torch.Tensor | None) -> tuple[Any, ...]:
    return tuple([None if x is None else x.contiguous() for x in tensors])
