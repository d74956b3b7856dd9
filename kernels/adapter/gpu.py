"""The adapter op on a GPU: Triton kernels and their launches. The maths and what was tried are in README.md beside this file.

Forward is one kernel. Backward is a kernel over tokens (d_t and d_pre), a kernel over the width (sums over tokens, a
partial result a split, so that no atomics are needed and results repeat bit by bit), and one that adds the splits up.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import device_of, dot_precision, next_power_of_two

# N tokens, D width, r rank; BN, BD, BR their blocks (BR covers the whole rank), S splits of the tokens


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


@triton.jit
def forward_kernel(
    t, ln2_weight, ln2_bias, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale,
    ln2, residual, mean_out, variance_out, hidden_out,
    N, D, r, fixed_scale, eps, ln_eps,
    PRECISION: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
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
        kind = t.dtype.element_ty
        hidden = tl.dot(normed.to(kind), w.to(kind), hidden, input_precision=PRECISION)
        if ln2 is not None:
            gamma2 = tl.load(ln2_weight + cols, mask=whole, other=0.0).to(tl.float32)
            beta2 = tl.load(ln2_bias + cols, mask=whole, other=0.0).to(tl.float32)
            y = centred * rstd2[:, None] * gamma2[None, :] + beta2[None, :]
            tl.store(ln2 + at, y.to(ln2.dtype.element_ty), mask=inside)
    hidden += tl.load(down_bias + ranks, mask=known, other=0.0).to(tl.float32)[None, :]
    hidden = tl.where(hidden < 0.0, 0.0, hidden)  # a NaN stays
    activated = hidden.to(t.dtype.element_ty)
    if hidden_out is not None:
        hidden_out += first * r
        tl.store(hidden_out + rows[:, None] * r + ranks[None, :], activated, mask=live[:, None] & known[None, :])
        tl.store(mean_out + first + rows, mean, mask=live)
        tl.store(variance_out + first + rows, variance, mask=live)
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
        branch = tl.dot(activated, w.to(activated.dtype), input_precision=PRECISION)
        branch += tl.load(up_bias + cols, mask=whole, other=0.0).to(tl.float32)[None, :]
        x = tl.load(t + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + at, (x + s * branch).to(residual.dtype.element_ty), mask=inside)


@triton.jit
def bottleneck_sums_kernel(
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


@triton.jit
def tokens_backward_kernel(
    t, d_ln2, d_residual, mean_in, variance_in, hidden, ln2_weight, ln_weight, down_weight, up_weight, scale,
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
        mean = tl.load(mean_in + first + rows, mask=live, other=0.0)
        variance = tl.load(variance_in + first + rows, mask=live, other=1.0)
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
        d_hidden = tl.dot(g, w.to(g.dtype), d_hidden, input_precision=PRECISION)
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
    rounded = pre.to(d_residual.dtype.element_ty)
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


@triton.jit
def width_backward_kernel(
    t, d_residual, mean_in, variance_in, hidden, d_pre,
    hidden_residual, pre_normed, residual_sum, pre_sum,
    N, D, r, span, ln_eps,
    PRECISION: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Of `span` tokens, BD columns and BR units: hidden^T d_residual, d_pre^T x, and the sums of d_residual and d_pre."""
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
        mean = tl.load(mean_in + first + rows, mask=live, other=0.0)
        rstd = tl.rsqrt(tl.load(variance_in + first + rows, mask=live, other=1.0) + ln_eps)
        x = (tl.load(t + at, mask=inside, other=0.0).to(tl.float32) - mean[:, None]) * rstd[:, None]
        h = tl.load(hidden + rows[None, :] * r + ranks[:, None], mask=within, other=0.0)  # [BR, BN]
        pre = tl.load(d_pre + rows[None, :] * r + ranks[:, None], mask=within, other=0.0)
        products = tl.dot(h, g, products, input_precision=PRECISION)
        normed = tl.dot(pre, x.to(pre.dtype), normed, input_precision=PRECISION)
        column_sum += tl.sum(g.to(tl.float32), 0)
        unit_sum += tl.sum(pre.to(tl.float32), 1)
    at = split * r * D + ranks[:, None] * D + cols[None, :]
    wanted = known[:, None] & whole[None, :]
    tl.store(hidden_residual + at, products, mask=wanted)
    tl.store(pre_normed + at, normed, mask=wanted)
    if unit == 0:
        tl.store(residual_sum + split * D + cols, column_sum, mask=whole)
    if column == 0:
        tl.store(pre_sum + split * r + ranks, unit_sum, mask=known)


@triton.jit
def parameters_backward_kernel(
    hidden_residual, pre_normed, residual_sum, pre_sum,
    ln_weight, ln_bias, down_weight, up_weight, up_bias, scale,
    d_ln_weight, d_ln_bias, d_down_weight, d_down_bias, d_up_weight, d_up_bias, d_scale,
    D, r, S, fixed_scale,
    BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Adds the splits up in order and turns the sums into the parameter gradients of BD columns."""
    column = tl.program_id(0)
    cols = column * BD + tl.arange(0, BD)
    whole = cols < D
    s = fixed_scale
    if scale is not None:
        s = tl.load(scale).to(tl.float32)
    gamma = tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)
    beta = tl.load(ln_bias + cols, mask=whole, other=0.0).to(tl.float32)
    total = tl.zeros([BD], tl.float32)
    for split in range(S):
        total += tl.load(residual_sum + split * D + cols, mask=whole, other=0.0)
    tl.store(d_up_bias + cols, s * total, mask=whole)
    along = total * tl.load(up_bias + cols, mask=whole, other=0.0).to(tl.float32)  # [BD] of d_scale
    d_gamma = tl.zeros([BD], tl.float32)
    d_beta = tl.zeros([BD], tl.float32)
    for j in range(0, r, BR):
        ranks = j + tl.arange(0, BR)
        known = ranks < r
        wanted = known[:, None] & whole[None, :]
        at = ranks[:, None] * D + cols[None, :]
        normed = tl.zeros([BR, BD], tl.float32)
        products = tl.zeros([BR, BD], tl.float32)
        pre = tl.zeros([BR], tl.float32)
        for split in range(S):
            normed += tl.load(pre_normed + split * r * D + at, mask=wanted, other=0.0)
            products += tl.load(hidden_residual + split * r * D + at, mask=wanted, other=0.0)
            pre += tl.load(pre_sum + split * r + ranks, mask=known, other=0.0)
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


FORWARD, TOKENS, WIDTH = "forward", "tokens", "width"
PARAMETERS_BLOCKS = {"BD": 32, "BR": 32}
SUMS_BLOCKS = {"BD": 128, "BR": 8}
MOST_SPLITS = 16
SPLIT_TOKENS = 256


def configuration(kernel: str, rank: int, dtype: torch.dtype) -> dict[str, int]:
    """Blocks, warps and stages of a kernel for a rank and dtype; benchmarks/ops/resources.py shows that none spills."""
    ranks = max(16, next_power_of_two(rank))
    single = dtype == torch.float32
    if kernel == WIDTH:
        units = min(ranks, 64)
        if single:
            return {"BN": 16, "BD": 32, "BR": units, "num_warps": 4, "num_stages": 2}
        return {"BN": 64, "BD": 64, "BR": units, "num_warps": 8 if units == 64 else 4, "num_stages": 2}
    if ranks <= 64:
        tokens, width = (16, 64) if kernel == TOKENS or single else (32, 64)
        return {"BN": tokens, "BD": width, "BR": ranks, "num_warps": 4, "num_stages": 2}
    tokens = 16 if kernel == TOKENS or single else 32
    if ranks < 512:
        return {"BN": tokens, "BD": 32 if single else 64, "BR": ranks, "num_warps": 8, "num_stages": 2}
    if single:
        return {"BN": 16, "BD": 16, "BR": ranks, "num_warps": 16, "num_stages": 3 if kernel == TOKENS else 2}
    return {"BN": tokens, "BD": 32, "BR": ranks, "num_warps": 8, "num_stages": 1}


def splits_of(tokens: int) -> tuple[int, int]:
    """(number of splits, tokens of each) of the sums over tokens."""
    splits = min(MOST_SPLITS, max(1, -(-tokens // SPLIT_TOKENS)))
    span = -(-tokens // splits)
    return splits, -(-span // 64) * 64


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
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ln2 as t or empty, residual as t, statistics [2, N], hidden [N, r]); the last two empty without ``keep``."""
    D, r = t.shape[-1], down_weight.shape[0]
    N = t.numel() // D
    ln2 = torch.empty_like(t) if ln2_weight is not None else t.new_empty(0)
    residual = torch.empty_like(t)
    statistics = t.new_empty((2, N if keep else 0), dtype=torch.float32)
    hidden = t.new_empty((N if keep else 0, r))
    if N:
        blocks = configuration(FORWARD, r, t.dtype)
        parameters = _contiguous(ln2_weight, ln2_bias, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias)
        kept = (statistics[0], statistics[1], hidden) if keep else (None, None, None)
        with device_of(t):
            forward_kernel[(triton.cdiv(N, blocks["BN"]),)](
                t, *parameters, scale, ln2 if ln2_weight is not None else None, residual, *kept,
                N, D, r, fixed_scale, eps, ln_eps, PRECISION=dot_precision(t.dtype), **blocks,
            )  # fmt: skip
    return ln2, residual, statistics, hidden


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
    need_t: bool,
) -> tuple[torch.Tensor, ...]:
    """d_t (empty unless ``need_t``), then the float32 gradients of LN_a, down, up and scale in that order."""
    D, r = t.shape[-1], down_weight.shape[0]
    N = t.numel() // D
    new: dict[str, Any] = {"device": t.device, "dtype": torch.float32}
    d_t = torch.empty_like(t) if need_t else t.new_empty(0)
    shapes = ((D,), (D,), (r, D), (r,), (D, r), (D,))
    if not N:
        return (d_t, *[torch.zeros(shape, **new) for shape in (*shapes, (1,))])
    parameters = _contiguous(ln2_weight, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias)
    ln2_weight, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias = parameters
    gradients = [torch.empty(shape, **new) for shape in shapes]
    splits, span = splits_of(N)
    d_pre = torch.empty_like(hidden)
    sums = [torch.empty((splits, *shape), **new) for shape in ((r, D), (r, D), (D,), (r,))]
    row_sum, base = (torch.empty((r,), **new) for _ in range(2))
    precision = dot_precision(t.dtype)
    d_scale = torch.empty((triton.cdiv(D, PARAMETERS_BLOCKS["BD"]),), **new)
    with device_of(t):
        if need_t:
            bottleneck_sums_kernel[(triton.cdiv(r, SUMS_BLOCKS["BR"]),)](
                ln_weight, ln_bias, down_weight, down_bias, row_sum, base, D, r, **SUMS_BLOCKS
            )
        blocks = configuration(TOKENS, r, t.dtype)
        tokens_backward_kernel[(triton.cdiv(N, blocks["BN"]),)](
            t, d_ln2, d_residual, statistics[0], statistics[1], hidden, ln2_weight, ln_weight, down_weight, up_weight,
            scale, row_sum, base, d_t if need_t else None, d_pre,
            N, D, r, fixed_scale, eps, ln_eps, PRECISION=precision, **blocks,
        )  # fmt: skip
        blocks = configuration(WIDTH, r, t.dtype)
        width_backward_kernel[(triton.cdiv(D, blocks["BD"]), triton.cdiv(r, blocks["BR"]), splits)](
            t, d_residual, statistics[0], statistics[1], hidden, d_pre, *sums,
            N, D, r, span, ln_eps, PRECISION=precision, **blocks,
        )  # fmt: skip
        parameters_backward_kernel[(d_scale.numel(),)](
            *sums, ln_weight, ln_bias, down_weight, up_weight, up_bias, scale, *gradients, d_scale,
            D, r, splits, fixed_scale, **PARAMETERS_BLOCKS,
        )  # fmt: skip
    return (d_t, *gradients, d_scale.sum(0, keepdim=True))


def _contiguous(*tensors: torch.Tensor | None) -> list[Any]:
    return [None if x is None else x.contiguous() for x in tensors]
