"""The adapter's forward pass on a GPU in one fused kernel behind the folding. The maths and what was tried are in README.md.

The kernel is compiled for a width and a rank, but not for a number of tokens: a partial batch runs what a full one has
compiled.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import ceil_div, dot_precision, kinds, launch
from .arguments import AdapterArguments, padded
from .folded import fold

# N tokens, D width, r rank, BR padded rank; BN, BD blocks of tokens and columns

LEADING = tl.constexpr(32)  # columns whose mean stands in for a row's until that is known


@triton.jit(do_not_specialize=["N"])
def adapter_forward_kernel(
    t, ln2_weight, ln2_bias, weights, sums, ln2, residual, statistics, hidden_out,
    N, eps, ln_eps,
    D: tl.constexpr, r: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """ln2, residual and what backward needs for BN tokens; t is read from memory once, and once more from the caches."""
    EVEN: tl.constexpr = D % BD == 0
    first = tl.program_id(0).to(tl.int64) * BN  # int64 once; all offsets inside the block are int32
    rows = tl.arange(0, BN)
    ranks = tl.arange(0, BR)
    live = rows < N - first
    t += first * D
    residual += first * D
    kind = weights.dtype.element_ty
    # x = (t - mean) rstd is not known before the whole row is: meanwhile (t - near) scale is multiplied, which is close to it.
    few = tl.arange(0, LEADING)
    leading = live[:, None] & (few < D)[None, :]
    head = tl.load(t + rows[:, None] * D + few[None, :], mask=leading, other=0.0).to(tl.float32)
    near = tl.sum(head, 1) / min(LEADING, D)
    head = tl.where(leading, head - near[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(head * head, 1) / min(LEADING, D) + ln_eps)
    product = tl.zeros([BN, BR], tl.float32)
    mean = tl.zeros([BN], tl.float32)  # less `near`
    squares = tl.zeros([BN], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        whole = (cols < D) | EVEN
        x = tl.load(t + rows[:, None] * D + cols[None, :], mask=live[:, None] & whole[None, :], other=0.0)
        x = tl.where(whole[None, :], x.to(tl.float32) - near[:, None], 0.0)
        w = tl.load(weights + ranks[None, :] * D + cols[:, None], mask=whole[:, None], other=0.0)  # [BD, BR]
        product = tl.dot((x * scale[:, None]).to(kind), w, product, input_precision=PRECISION)
        # Chan's merge: no difference of large sums
        width = tl.minimum(BD, D - d).to(tl.float32)
        part = tl.sum(x, 1) / width
        centred = tl.where(whole[None, :], x - part[:, None], 0.0)
        delta = part - mean
        share = width / (d + width)
        mean += delta * share
        squares += tl.sum(centred * centred, 1) + delta * delta * (d * share)
    variance = squares / D
    rstd = tl.rsqrt(variance + ln_eps)
    row_sum = tl.load(sums + ranks)
    base = tl.load(sums + BR + ranks)
    hidden = product * (rstd / scale)[:, None] - (mean * rstd)[:, None] * row_sum[None, :] + base[None, :]
    hidden = tl.where(hidden < 0.0, 0.0, hidden)  # a NaN stays
    activated = hidden.to(kind)
    mean += near
    if hidden_out is not None:
        hidden_out += first * r
        known = (ranks < r) | (r == BR)
        tl.store(hidden_out + rows[:, None] * r + ranks[None, :], activated, mask=live[:, None] & known[None, :])
        tl.store(statistics + first + rows, mean, mask=live)
        tl.store(statistics + N + first + rows, variance, mask=live)
    if ln2 is not None:
        ln2 += first * D
        rstd2 = tl.rsqrt(variance + eps)
    weights += BR * D
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        whole = (cols < D) | EVEN
        inside = live[:, None] & whole[None, :]
        at = rows[:, None] * D + cols[None, :]
        w = tl.load(weights + ranks[:, None] * D + cols[None, :], mask=whole[None, :], other=0.0)  # [BR, BD]
        branch = tl.dot(activated, w, input_precision=PRECISION)
        branch += tl.load(sums + 2 * BR + cols, mask=whole, other=0.0)[None, :]
        x = tl.load(t + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + at, (x + branch).to(residual.dtype.element_ty), mask=inside)
        if ln2 is not None:
            gamma2 = tl.load(ln2_weight + cols, mask=whole, other=0.0).to(tl.float32)
            beta2 = tl.load(ln2_bias + cols, mask=whole, other=0.0).to(tl.float32)
            y = (x - mean[:, None]) * rstd2[:, None] * gamma2[None, :] + beta2[None, :]
            tl.store(ln2 + at, y.to(ln2.dtype.element_ty), mask=inside)


@cache
def configuration(rank: int, dtype: torch.dtype, products: torch.dtype) -> dict[str, int]:
    """Blocks, warps and stages, by the dtypes of t and of the products' operands.

    benchmarks/ops/resources.py shows that none spills.
    """
    tokens = 32 if products == torch.float32 else 64
    width = 32 if dtype == torch.float32 else 64
    return {"BN": tokens, "BD": width, "BR": padded(rank), "num_warps": 8, "num_stages": 2}


def forward(a: AdapterArguments, outputs: tuple[Any, ...], products: torch.dtype) -> None:
    """Fill ``outputs`` (of AdapterOutputs, None where not wanted) for at least one token; ``products``: dtype of operands."""
    *tensors, _, eps, ln_eps = a
    N, D, r = a.sizes
    blocks, precision = configuration(r, a.t.dtype, products), dot_precision(products)
    *results, weights, sums = outputs
    key = kinds(tensors, products, results[-1] is None, D, r, precision)  # what else is passed is of our own making
    fold(a, weights, sums, key)
    launch(
        adapter_forward_kernel, (ceil_div(N, blocks["BN"]), 1, 1), key,
        (a.t, a.ln2_weight, a.ln2_bias, weights, sums, *results, N, eps, ln_eps),
        D=D, r=r, PRECISION=precision, **blocks,
    )  # fmt: skip
