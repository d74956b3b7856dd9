"""The adapter's forward pass on a GPU in one fused kernel. The maths and what was tried are in README.md.

The kernel is not compiled for a number of tokens: a partial batch runs what a full one has compiled.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import TRITON_TYPES, ceil_div, dot_precision, kinds, launch, next_power_of_two
from .arguments import AdapterArguments

# N tokens, D width, r rank; BN, BD, BR their blocks (BR covers the whole rank)


@triton.jit
def _row_statistics(t, rows, live, D, BN: tl.constexpr, BD: tl.constexpr):
    """Mean and variance of the rows of a block, chunk by chunk (Chan's merge: no difference of large sums)."""
    mean = tl.zeros([BN], tl.float32)
    squares = tl.zeros([BN], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        inside = live[:, None] & (cols < D)[None, :]
        x = tl.load(t + rows[:, None] * D + cols[None, :], mask=inside, other=0.0).to(tl.float32)
        width = tl.minimum(BD, D - d).to(tl.float32)
        part = tl.sum(x, 1) / width
        centred = tl.where((cols < D)[None, :], x - part[:, None], 0.0)
        delta = part - mean
        share = width / (d + width)
        mean += delta * share
        squares += tl.sum(centred * centred, 1) + delta * delta * (d * share)
    return mean, squares / D


@triton.jit(do_not_specialize=["N"])
def adapter_forward_kernel(
    t, ln2_weight, ln2_bias, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale,
    ln2, residual, statistics, hidden_out,
    N, D, r, fixed_scale, eps, ln_eps,
    KIND: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """ln2, residual and what backward needs for BN tokens; t is read from memory once, then from the caches."""
    first = tl.program_id(0).to(tl.int64) * BN  # int64 once; all offsets inside the block are int32
    rows = tl.arange(0, BN)
    ranks = tl.arange(0, BR)
    live = rows < N - first
    known = ranks < r
    t += first * D
    residual += first * D
    mean, variance = _row_statistics(t, rows, live, D, BN, BD)
    rstd = tl.rsqrt(variance + ln_eps)
    if ln2 is not None:
        ln2 += first * D
        rstd2 = tl.rsqrt(variance + eps)
    hidden = tl.zeros([BN, BR], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        whole = cols < D
        inside = live[:, None] & whole[None, :]
        at = rows[:, None] * D + cols[None, :]
        centred = tl.load(t + at, mask=inside, other=0.0).to(tl.float32) - mean[:, None]
        gamma = tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)
        beta = tl.load(ln_bias + cols, mask=whole, other=0.0).to(tl.float32)
        normed = centred * rstd[:, None] * gamma[None, :] + beta[None, :]
        w = tl.load(
            down_weight + ranks[None, :] * D + cols[:, None], mask=known[None, :] & whole[:, None], other=0.0
        )  # [BD, BR]
        hidden = tl.dot(normed.to(KIND), w.to(KIND), hidden, input_precision=PRECISION)
        if ln2 is not None:
            gamma2 = tl.load(ln2_weight + cols, mask=whole, other=0.0).to(tl.float32)
            beta2 = tl.load(ln2_bias + cols, mask=whole, other=0.0).to(tl.float32)
            y = centred * rstd2[:, None] * gamma2[None, :] + beta2[None, :]
            tl.store(ln2 + at, y.to(ln2.dtype.element_ty), mask=inside)
    hidden += tl.load(down_bias + ranks, mask=known, other=0.0).to(tl.float32)[None, :]
    hidden = tl.where(hidden < 0.0, 0.0, hidden)  # a NaN stays
    activated = hidden.to(KIND)
    if hidden_out is not None:
        hidden_out += first * r
        tl.store(hidden_out + rows[:, None] * r + ranks[None, :], activated, mask=live[:, None] & known[None, :])
        tl.store(statistics + first + rows, mean, mask=live)
        tl.store(statistics + N + first + rows, variance, mask=live)
    s = fixed_scale
    if scale is not None:
        s = tl.load(scale).to(tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        whole = cols < D
        inside = live[:, None] & whole[None, :]
        at = rows[:, None] * D + cols[None, :]
        w = tl.load(
            up_weight + cols[None, :] * r + ranks[:, None], mask=known[:, None] & whole[None, :], other=0.0
        )  # [BR, BD]
        branch = tl.dot(activated, w.to(KIND), input_precision=PRECISION)
        branch += tl.load(up_bias + cols, mask=whole, other=0.0).to(tl.float32)[None, :]
        x = tl.load(t + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + at, (x + s * branch).to(residual.dtype.element_ty), mask=inside)


@cache
def configuration(rank: int, products: torch.dtype) -> dict[str, int]:
    """Blocks, warps and stages, by the dtype of the products' operands.

    benchmarks/ops/resources.py shows that none spills.
    """
    tokens, width = (16, 32) if products == torch.float32 else (32, 64)
    return {"BN": tokens, "BD": width, "BR": max(16, next_power_of_two(rank)), "num_warps": 4, "num_stages": 2}


def forward(a: AdapterArguments, outputs: tuple[Any, ...], products: torch.dtype) -> None:
    """Fill ``outputs`` (of AdapterOutputs, None where not wanted) for at least one token; ``products``: dtype of operands."""
    *tensors, fixed_scale, eps, ln_eps = a
    N, D, r = a.sizes
    blocks, precision = configuration(r, products), dot_precision(products)
    key = kinds(tensors, products, outputs[-1] is None, D, r, precision)  # outputs are of our own making
    launch(
        adapter_forward_kernel, (ceil_div(N, blocks["BN"]), 1, 1), key,
        (*tensors, *outputs, N, D, r, fixed_scale, eps, ln_eps),
        KIND=TRITON_TYPES[products], PRECISION=precision, **blocks,
    )  # fmt: skip
