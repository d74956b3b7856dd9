"""The adapter's backward pass on a GPU in fused kernels. The maths and what was tried are in README.md.

A kernel over tokens (d_t and d_pre), a kernel over the width (sums over tokens, a partial result a split, so that no
atomics are needed and results repeat bit by bit), and one that forms the parameters' gradients of the sums. No kernel is
compiled for a number of tokens: a partial batch runs what a full one has compiled.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import ceil_div, dot_precision, kinds, launch, multiprocessors, next_power_of_two
from .arguments import AdapterArguments, AdapterIncoming

# N tokens, D width, r rank; BN, BD, BR their blocks (BR covers the whole rank), S splits of the tokens


@triton.jit
def adapter_bottleneck_sums_kernel(
    ln_weight, ln_bias, down_weight, down_bias, row_sum, base, D, r, BD: tl.constexpr, BR: tl.constexpr
):
    """Of BR units of the bottleneck: row_sum = sum_d gamma W_down, base = sum_d beta W_down + b_down."""
    ranks = tl.program_id(0) * BR + tl.arange(0, BR)
    known = ranks < r
    weights = tl.zeros([BR], tl.float32)
    biases = tl.zeros([BR], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        whole = cols < D
        at = ranks[:, None] * D + cols[None, :]
        w = tl.load(down_weight + at, mask=known[:, None] & whole[None, :], other=0.0).to(tl.float32)
        weights += tl.sum(w * tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)[None, :], 1)
        biases += tl.sum(w * tl.load(ln_bias + cols, mask=whole, other=0.0).to(tl.float32)[None, :], 1)
    tl.store(row_sum + ranks, weights, mask=known)
    tl.store(base + ranks, biases + tl.load(down_bias + ranks, mask=known, other=0.0).to(tl.float32), mask=known)


@triton.jit(do_not_specialize=["N"])
def adapter_tokens_backward_kernel(
    t, d_ln2, d_residual, statistics, hidden, ln2_weight, ln_weight, down_weight, up_weight, scale,
    row_sum, base, d_t, d_pre,
    N, D, r, fixed_scale, eps, ln_eps,
    PRECISION: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """d_pre = relu'(hidden) (d_residual s W_up), and d_t where it is wanted, for BN tokens."""
    first = tl.program_id(0).to(tl.int64) * BN
    rows = tl.arange(0, BN)
    ranks = tl.arange(0, BR)
    live = rows < N - first
    known = ranks < r
    d_residual += first * D
    s = fixed_scale
    if scale is not None:
        s = tl.load(scale).to(tl.float32)
    if d_t is not None:
        t += first * D
        d_t += first * D
        mean = tl.load(statistics + first + rows, mask=live, other=0.0)
        variance = tl.load(statistics + N + first + rows, mask=live, other=1.0)
        rstd = tl.rsqrt(variance + ln_eps)
        mean_e = tl.zeros([BN], tl.float32)
        mean_ex = tl.zeros([BN], tl.float32)
        if d_ln2 is not None:
            d_ln2 += first * D
            ratio = tl.sqrt((variance + ln_eps) / (variance + eps))
    d_hidden = tl.zeros([BN, BR], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        whole = cols < D
        inside = live[:, None] & whole[None, :]
        at = rows[:, None] * D + cols[None, :]
        g = tl.load(d_residual + at, mask=inside, other=0.0)
        w = tl.load(
            up_weight + cols[:, None] * r + ranks[None, :], mask=known[None, :] & whole[:, None], other=0.0
        )  # [BD, BR]
        kind = hidden.dtype.element_ty
        d_hidden = tl.dot(g.to(kind), w.to(kind), d_hidden, input_precision=PRECISION)
        if d_t is not None and d_ln2 is not None:
            gamma2 = tl.load(ln2_weight + cols, mask=whole, other=0.0).to(tl.float32)
            e = tl.load(d_ln2 + at, mask=inside, other=0.0).to(tl.float32) * gamma2[None, :]
            x = (tl.load(t + at, mask=inside, other=0.0).to(tl.float32) - mean[:, None]) * rstd[:, None]
            mean_e += tl.sum(e, 1)
            mean_ex += tl.sum(e * x, 1)
    within = live[:, None] & known[None, :]
    bottleneck = first * r + rows[:, None] * r + ranks[None, :]
    h = tl.load(hidden + bottleneck, mask=within, other=0.0).to(tl.float32)
    pre = tl.where(h <= 0.0, 0.0, d_hidden * s)  # a NaN passes, as in PyTorch
    rounded = pre.to(hidden.dtype.element_ty)
    tl.store(d_pre + bottleneck, rounded, mask=within)
    if d_t is not None:
        # x W + base is `hidden` wherever d_pre is not zero: the bottleneck's share of the means without another pass.
        if d_ln2 is not None:
            mean_e *= ratio
            mean_ex *= ratio * ratio * ratio
        total = tl.load(row_sum + ranks, mask=known, other=0.0)
        offset = tl.load(base + ranks, mask=known, other=0.0)
        mean_e = (mean_e + tl.sum(pre * total[None, :], 1)) / D
        mean_ex = (mean_ex + tl.sum(pre * (h - offset[None, :]), 1)) / D
        for d in range(0, D, BD):
            cols = d + tl.arange(0, BD)
            whole = cols < D
            inside = live[:, None] & whole[None, :]
            at = rows[:, None] * D + cols[None, :]
            w = tl.load(
                down_weight + ranks[:, None] * D + cols[None, :], mask=known[:, None] & whole[None, :], other=0.0
            )  # [BR, BD]
            gamma = tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)
            e = tl.dot(rounded, w.to(rounded.dtype), input_precision=PRECISION) * gamma[None, :]
            if d_ln2 is not None:
                gamma2 = tl.load(ln2_weight + cols, mask=whole, other=0.0).to(tl.float32)
                e += tl.load(d_ln2 + at, mask=inside, other=0.0).to(tl.float32) * gamma2[None, :] * ratio[:, None]
            x = (tl.load(t + at, mask=inside, other=0.0).to(tl.float32) - mean[:, None]) * rstd[:, None]
            g = tl.load(d_residual + at, mask=inside, other=0.0).to(tl.float32)
            out = g + rstd[:, None] * (e - mean_e[:, None] - x * mean_ex[:, None])
            tl.store(d_t + at, out.to(d_t.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["N", "span"])
def adapter_width_backward_kernel(
    t, d_residual, statistics, hidden, d_pre, sums,
    N, D, r, span, ln_eps,
    PRECISION: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Of `span` tokens, BD columns and BR units: hidden^T d_residual, d_pre^T x, and the sums of d_residual and d_pre.

    ``sums``: these four one behind the other, [r, D], [r, D], [D] and [r], of each split.
    """
    column, unit, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    cols = column * BD + tl.arange(0, BD)
    ranks = unit * BR + tl.arange(0, BR)
    whole, known = cols < D, ranks < r
    first = split.to(tl.int64) * span
    t += first * D
    d_residual += first * D
    hidden += first * r
    d_pre += first * r
    products = tl.zeros([BR, BD], tl.float32)
    normed = tl.zeros([BR, BD], tl.float32)
    column_sum = tl.zeros([BD], tl.float32)
    unit_sum = tl.zeros([BR], tl.float32)
    for n in range(0, span, BN):
        rows = n + tl.arange(0, BN)
        live = (rows < span) & (rows < N - first)
        inside = live[:, None] & whole[None, :]
        within = known[:, None] & live[None, :]
        at = rows[:, None] * D + cols[None, :]
        g = tl.load(d_residual + at, mask=inside, other=0.0)
        mean = tl.load(statistics + first + rows, mask=live, other=0.0)
        rstd = tl.rsqrt(tl.load(statistics + N + first + rows, mask=live, other=1.0) + ln_eps)
        x = (tl.load(t + at, mask=inside, other=0.0).to(tl.float32) - mean[:, None]) * rstd[:, None]
        h = tl.load(hidden + rows[None, :] * r + ranks[:, None], mask=within, other=0.0)  # [BR, BN]
        pre = tl.load(d_pre + rows[None, :] * r + ranks[:, None], mask=within, other=0.0)
        products = tl.dot(h, g.to(h.dtype), products, input_precision=PRECISION)
        normed = tl.dot(pre, x.to(pre.dtype), normed, input_precision=PRECISION)
        column_sum += tl.sum(g.to(tl.float32), 0)
        unit_sum += tl.sum(pre.to(tl.float32), 1)
    sums += split.to(tl.int64) * (2 * r * D + D + r)
    at = ranks[:, None] * D + cols[None, :]
    wanted = known[:, None] & whole[None, :]
    tl.store(sums + at, products, mask=wanted)
    tl.store(sums + r * D + at, normed, mask=wanted)
    if unit == 0:
        tl.store(sums + 2 * r * D + cols, column_sum, mask=whole)
    if column == 0:
        tl.store(sums + 2 * r * D + D + ranks, unit_sum, mask=known)


@triton.jit
def adapter_parameters_backward_kernel(
    sums, ln_weight, ln_bias, down_weight, up_weight, up_bias, scale,
    d_ln_weight, d_ln_bias, d_down_weight, d_down_bias, d_up_weight, d_up_bias, d_scale,
    D, r, fixed_scale,
    BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """The parameters' gradients of BD columns from the sums over all tokens."""
    column = tl.program_id(0)
    cols = column * BD + tl.arange(0, BD)
    whole = cols < D
    s = fixed_scale
    if scale is not None:
        s = tl.load(scale).to(tl.float32)
    gamma = tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)
    beta = tl.load(ln_bias + cols, mask=whole, other=0.0).to(tl.float32)
    total = tl.load(sums + 2 * r * D + cols, mask=whole, other=0.0)
    tl.store(d_up_bias + cols, s * total, mask=whole)
    along = total * tl.load(up_bias + cols, mask=whole, other=0.0).to(tl.float32)  # [BD] of d_scale
    d_gamma = tl.zeros([BD], tl.float32)
    d_beta = tl.zeros([BD], tl.float32)
    for j in range(0, r, BR):
        ranks = j + tl.arange(0, BR)
        known = ranks < r
        wanted = known[:, None] & whole[None, :]
        at = ranks[:, None] * D + cols[None, :]
        products = tl.load(sums + at, mask=wanted, other=0.0)
        normed = tl.load(sums + r * D + at, mask=wanted, other=0.0)
        pre = tl.load(sums + 2 * r * D + D + ranks, mask=known, other=0.0)
        down = tl.load(down_weight + at, mask=wanted, other=0.0).to(tl.float32)
        up_at = cols[None, :] * r + ranks[:, None]
        up = tl.load(up_weight + up_at, mask=wanted, other=0.0).to(tl.float32)
        tl.store(d_down_weight + at, normed * gamma[None, :] + pre[:, None] * beta[None, :], mask=wanted)
        tl.store(d_up_weight + up_at, s * products, mask=wanted)
        d_gamma += tl.sum(normed * down, 0)
        d_beta += tl.sum(pre[:, None] * down, 0)
        along += tl.sum(products * up, 0)
        if column == 0:
            tl.store(d_down_bias + ranks, pre, mask=known)
    tl.store(d_ln_weight + cols, d_gamma, mask=whole)
    tl.store(d_ln_bias + cols, d_beta, mask=whole)
    tl.store(d_scale + column, tl.sum(along, 0))


TOKENS, WIDTH = "tokens", "width"
PARAMETERS_BLOCKS = {"BD": 32, "BR": 32}
SUMS_BLOCKS = {"BD": 128, "BR": 8}
SPLIT_TOKENS = 256  # at least; fewer are not worth a partial sum
PROGRAMS_A_MULTIPROCESSOR = 2


@cache
def configuration(kernel: str, rank: int, dtype: torch.dtype, products: torch.dtype) -> dict[str, int]:
    """Blocks, warps and stages of a kernel with products, by the dtypes of t and of the products' operands.

    benchmarks/ops/resources.py shows that none spills.
    """
    ranks = max(16, next_power_of_two(rank))
    single = products == torch.float32
    if kernel == TOKENS:
        width = 32 if ranks == 64 and not single else 64
        return {"BN": 16, "BD": width, "BR": ranks, "num_warps": 4, "num_stages": 2}
    if single:
        return {"BN": 16, "BD": 32, "BR": ranks, "num_warps": 4, "num_stages": 2}
    mixed = dtype != products  # float32 tokens take twice the room until they are rounded
    tokens, warps = (32 if ranks == 64 else 64, 8) if mixed else (64, 8 if ranks == 64 else 4)
    return {"BN": tokens, "BD": 64, "BR": ranks, "num_warps": warps, "num_stages": 2}


def splits_of(tokens: int, programs: int, multiprocessors: int) -> tuple[int, int]:
    """(number of splits, tokens of each) of the sums over tokens, where a split is the work of ``programs`` programs.

    As many as the GPU has room for at once: one program more would be a second wave for all.
    """
    room = max(1, PROGRAMS_A_MULTIPROCESSOR * multiprocessors // programs)
    splits = min(room, max(1, -(-tokens // SPLIT_TOKENS)))
    span = -(-tokens // splits)
    span = -(-span // 64) * 64
    return -(-tokens // span), span


def backward(a: AdapterArguments, incoming: AdapterIncoming, gradients: tuple[Any, ...]) -> None:
    """Fill ``gradients`` (of AdapterGradients, None where not wanted), for at least one token."""
    *tensors, fixed_scale, eps, ln_eps = a
    d_residual, d_ln2, statistics, hidden = incoming
    d_t, *d_parameters, d_scale = gradients
    N, D, r = a.sizes
    precision = dot_precision(hidden.dtype)
    key = kinds((*tensors, d_ln2, d_residual, hidden), d_t is None, D, r, precision)
    d_pre = torch.empty_like(hidden)
    row_sum = base = None
    if d_t is not None:
        row_sum, base = (hidden.new_empty(r, dtype=torch.float32) for _ in range(2))
        launch(
            adapter_bottleneck_sums_kernel, (ceil_div(r, SUMS_BLOCKS["BR"]), 1, 1), key,
            (a.ln_weight, a.ln_bias, a.down_weight, a.down_bias, row_sum, base, D, r), **SUMS_BLOCKS,
        )  # fmt: skip
    blocks = configuration(TOKENS, r, a.t.dtype, hidden.dtype)
    launch(
        adapter_tokens_backward_kernel, (ceil_div(N, blocks["BN"]), 1, 1), key,
        (a.t, d_ln2, d_residual, statistics, hidden, a.ln2_weight, a.ln_weight, a.down_weight, a.up_weight, a.scale,
         row_sum, base, d_t, d_pre, N, D, r, fixed_scale, eps, ln_eps),
        PRECISION=precision, **blocks,
    )  # fmt: skip
    blocks = configuration(WIDTH, r, a.t.dtype, hidden.dtype)
    columns, units = ceil_div(D, blocks["BD"]), ceil_div(r, blocks["BR"])
    splits, span = splits_of(N, columns * units, multiprocessors(a.t))
    sums = hidden.new_empty(splits, 2 * r * D + D + r, dtype=torch.float32)
    launch(
        adapter_width_backward_kernel, (columns, units, splits), key,
        (a.t, d_residual, statistics, hidden, d_pre, sums, N, D, r, span, ln_eps), PRECISION=precision, **blocks,
    )  # fmt: skip
    total = sums if splits == 1 else sums.sum(0)
    along = hidden.new_empty(ceil_div(D, PARAMETERS_BLOCKS["BD"]), dtype=torch.float32)
    launch(
        adapter_parameters_backward_kernel, (along.numel(), 1, 1), key,
        (total, a.ln_weight, a.ln_bias, a.down_weight, a.up_weight, a.up_bias, a.scale, *d_parameters, along, D, r,
         fixed_scale),
        **PARAMETERS_BLOCKS,
    )  # fmt: skip
    torch.sum(along, 0, keepdim=True, out=d_scale)
