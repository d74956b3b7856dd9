"""The bottleneck's weights as the fused kernels of a GPU read them: folded, rounded and padded once a call.

Every program of those kernels reads both weights. Rounded beforehand they are half as long, need no conversion where they
are multiplied, and hold LN_a's weight and the scale already. The maths are in README.md.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import launch
from .arguments import AdapterArguments, padded

# D width, r rank, R padded rank; BD columns of a step

BLOCKS = {"BD": 1024, "num_warps": 4}


@triton.jit
def adapter_fold_kernel(
    ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale, weights, sums,
    fixed_scale, D: tl.constexpr, r: tl.constexpr, R: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One unit of the bottleneck: its row of ``weights``, gamma W_down and s W_up turned over, and two of the ``sums``.

    Those are of its row of the first as rounded, and W_down beta + b_down. Behind both, the first program writes s b_up. What
    lies beyond the rank is zero.
    """
    unit = tl.program_id(0)
    s = fixed_scale
    if scale is not None:
        s = tl.load(scale).to(tl.float32)
    row_sum = tl.zeros([BD], tl.float32)
    base = tl.zeros([BD], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        whole = cols < D
        known = whole & (unit < r)
        w = tl.load(down_weight + unit * D + cols, mask=known, other=0.0).to(tl.float32)
        gamma = tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)
        beta = tl.load(ln_bias + cols, mask=whole, other=0.0).to(tl.float32)
        up = tl.load(up_weight + cols * r + unit, mask=known, other=0.0).to(tl.float32)
        down = (w * gamma).to(weights.dtype.element_ty)
        tl.store(weights + unit * D + cols, down, mask=whole)
        tl.store(weights + R * D + unit * D + cols, tl.where(known, s * up, 0.0).to(down.dtype), mask=whole)
        row_sum += down.to(tl.float32)
        base += w * beta
        if unit == 0:
            bias = tl.load(up_bias + cols, mask=whole, other=0.0).to(tl.float32)
            tl.store(sums + 2 * R + cols, s * bias, mask=whole)
    tl.store(sums + unit, tl.sum(row_sum, 0))
    tl.store(sums + R + unit, tl.sum(base, 0) + tl.load(down_bias + unit, mask=unit < r, other=0.0).to(tl.float32))


def fold(a: AdapterArguments, weights: torch.Tensor, sums: torch.Tensor, key: Any) -> None:
    """Fill ``weights`` and ``sums`` by one launch; ``key`` is :func:`launch`'s."""
    _, D, r = a.sizes
    R = padded(r)
    parameters = (a.ln_weight, a.ln_bias, a.down_weight, a.down_bias, a.up_weight, a.up_bias, a.scale)
    launch(adapter_fold_kernel, (R, 1, 1), key, (*parameters, weights, sums, a.fixed_scale), D=D, r=r, R=R, **BLOCKS)
