"""The adapter's backward pass on a GPU in fused kernels. The maths and what was tried are in README.md.

On the weights that forward has folded: a kernel over tokens (d_t and d_pre), a kernel over the width (sums over tokens, a partial result
a split, so that no atomics are needed and results repeat bit by bit), and parameters_backward.py. No kernel is compiled for a
number of tokens: a partial batch runs what a full one has compiled.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import ceil_div, dot_precision, kinds, launch, multiprocessors
from . import parameters_backward
from .arguments import AdapterArguments, AdapterIncoming, padded

# N tokens, D width, r rank, BR padded rank; BN, BD blocks of tokens and columns, S splits of the tokens


@triton.jit(do_not_specialize=["N"])
def adapter_tokens_backward_kernel(
    t, d_ln2, d_residual, statistics, hidden, ln2_weight, weights, sums, d_t, d_pre,
    N, eps, ln_eps,
    D: tl.constexpr, r: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """d_pre = relu'(hidden) (d_residual s W_up), and d_t where it is wanted, for BN tokens."""
    EVEN: tl.constexpr = D % BD == 0
    first = tl.program_id(0).to(tl.int64) * BN
    rows = tl.arange(0, BN)
    ranks = tl.arange(0, BR)
    live = rows < N - first
    d_residual += first * D
    kind = hidden.dtype.element_ty
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
        whole = (cols < D) | EVEN
        inside = live[:, None] & whole[None, :]
        at = rows[:, None] * D + cols[None, :]
        g = tl.load(d_residual + at, mask=inside, other=0.0)
        up = tl.load(weights + BR * D + ranks[None, :] * D + cols[:, None], mask=whole[:, None], other=0.0)  # [BD, BR]
        d_hidden = tl.dot(g.to(kind), up, d_hidden, input_precision=PRECISION)
        if d_t is not None and d_ln2 is not None:
            gamma2 = tl.load(ln2_weight + cols, mask=whole, other=0.0).to(tl.float32)
            e = tl.load(d_ln2 + at, mask=inside, other=0.0).to(tl.float32) * gamma2[None, :]
            x = (tl.load(t + at, mask=inside, other=0.0).to(tl.float32) - mean[:, None]) * rstd[:, None]
            mean_e += tl.sum(e, 1)
            mean_ex += tl.sum(e * x, 1)
    within = live[:, None] & ((ranks < r) | (r == BR))[None, :]
    bottleneck = first * r + rows[:, None] * r + ranks[None, :]
    h = tl.load(hidden + bottleneck, mask=within, other=0.0).to(tl.float32)
    pre = tl.where(h <= 0.0, 0.0, d_hidden)  # a NaN passes, as in PyTorch
    rounded = pre.to(kind)
    tl.store(d_pre + bottleneck, rounded, mask=within)
    if d_t is not None:
        # x W + base is `hidden` wherever d_pre is not zero: the bottleneck's share of the means without another pass.
        if d_ln2 is not None:
            mean_e *= ratio
            mean_ex *= ratio * ratio * ratio
        row_sum = tl.load(sums + ranks)
        base = tl.load(sums + BR + ranks)
        mean_e = (mean_e + tl.sum(pre * row_sum[None, :], 1)) / D
        mean_ex = (mean_ex + tl.sum(pre * (h - base[None, :]), 1)) / D
        for d in range(0, D, BD):
            cols = d + tl.arange(0, BD)
            whole = (cols < D) | EVEN
            inside = live[:, None] & whole[None, :]
            at = rows[:, None] * D + cols[None, :]
            down = tl.load(weights + ranks[:, None] * D + cols[None, :], mask=whole[None, :], other=0.0)  # [BR, BD]
            e = tl.dot(rounded, down, input_precision=PRECISION)
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
    N, span, ln_eps,
    D: tl.constexpr, r: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Of `span` tokens and BD columns: d_residual^T hidden, x^T d_pre, and the sums of d_residual and d_pre.

    ``sums``: these four one behind the other, [r, D], [r, D], [D] and [r], of each split. The products stand with the width
    on the side of their rows, which are then as many as a Hopper's matrix unit takes from shared memory.
    """
    EVEN: tl.constexpr = D % BD == 0
    column, split = tl.program_id(0), tl.program_id(1)
    cols = column * BD + tl.arange(0, BD)
    ranks = tl.arange(0, BR)
    whole, known = (cols < D) | EVEN, (ranks < r) | (r == BR)
    first = split.to(tl.int64) * span
    t += first * D
    d_residual += first * D
    hidden += first * r
    d_pre += first * r
    products = tl.zeros([BD, BR], tl.float32)
    normed = tl.zeros([BD, BR], tl.float32)
    column_sum = tl.zeros([BD], tl.float32)
    unit_sum = tl.zeros([BR], tl.float32)
    for n in range(0, span, BN):
        rows = n + tl.arange(0, BN)
        live = rows < N - first  # `span` is a multiple of BN
        inside = live[:, None] & whole[None, :]
        at = rows[:, None] * D + cols[None, :]
        g = tl.load(d_residual + at, mask=inside, other=0.0)
        mean = tl.load(statistics + first + rows, mask=live, other=0.0)
        rstd = tl.rsqrt(tl.load(statistics + N + first + rows, mask=live, other=1.0) + ln_eps)
        x = (tl.load(t + at, mask=inside, other=0.0).to(tl.float32) - mean[:, None]) * rstd[:, None]
        within = live[:, None] & known[None, :]
        bottleneck = rows[:, None] * r + ranks[None, :]
        h = tl.load(hidden + bottleneck, mask=within, other=0.0)  # [BN, BR]
        pre = tl.load(d_pre + bottleneck, mask=within, other=0.0)
        products = tl.dot(tl.trans(g.to(h.dtype)), h, products, input_precision=PRECISION)
        normed = tl.dot(tl.trans(x.to(pre.dtype)), pre, normed, input_precision=PRECISION)
        column_sum += tl.sum(g.to(tl.float32), 0)
        unit_sum += tl.sum(pre.to(tl.float32), 0)
    sums += split.to(tl.int64) * (2 * r * D + D + r)
    at = ranks[None, :] * D + cols[:, None]
    wanted = known[None, :] & whole[:, None]
    tl.store(sums + at, products, mask=wanted)
    tl.store(sums + r * D + at, normed, mask=wanted)
    tl.store(sums + 2 * r * D + cols, column_sum, mask=whole)
    if column == 0:
        tl.store(sums + 2 * r * D + D + ranks, unit_sum, mask=known)


TOKENS, WIDTH = "tokens", "width"
SPLIT_TOKENS = 256  # at least; fewer are not worth a partial sum
PROGRAMS_A_MULTIPROCESSOR = 2


@cache
def configuration(kernel: str, rank: int, dtype: torch.dtype, products: torch.dtype) -> dict[str, int]:
    """Blocks, warps and stages of a kernel with products, by the dtypes of t and of the products' operands.

    benchmarks/ops/resources.py shows that none spills.
    """
    ranks = padded(rank)
    if products == torch.float32:
        tokens, warps = (32, 8 if ranks == 128 else 4) if kernel == TOKENS else (16, 4)
        return {"BN": tokens, "BD": 32, "BR": ranks, "num_warps": warps, "num_stages": 2}
    if kernel == TOKENS:
        return {"BN": 64, "BD": 64, "BR": ranks, "num_warps": 8, "num_stages": 2}
    stages = 3 if dtype == products and ranks < 128 else 2  # float32 tokens take twice the room until they are rounded
    tokens = min(64, 2048 // ranks) if rank % 8 else 64  # rows of the bottleneck that are not aligned are loaded singly
    warps = 4 if ranks < 64 else 8
    return {"BN": tokens, "BD": 64, "BR": ranks, "num_warps": warps, "num_stages": stages}


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
    *tensors, _, eps, ln_eps = a
    d_residual, d_ln2, statistics, hidden, weights, sums = incoming
    d_t, *d_parameters = gradients
    N, D, r = a.sizes
    precision = dot_precision(hidden.dtype)
    key = kinds((*tensors, d_ln2, d_residual, hidden, weights, sums), d_t is None, D, r, precision)
    d_pre = torch.empty_like(hidden)
    blocks = configuration(TOKENS, r, a.t.dtype, hidden.dtype)
    launch(
        adapter_tokens_backward_kernel, (ceil_div(N, blocks["BN"]), 1, 1), key,
        (a.t, d_ln2, d_residual, statistics, hidden, a.ln2_weight, weights, sums, d_t, d_pre, N, eps, ln_eps),
        D=D, r=r, PRECISION=precision, **blocks,
    )  # fmt: skip
    blocks = configuration(WIDTH, r, a.t.dtype, hidden.dtype)
    columns = ceil_div(D, blocks["BD"])
    splits, span = splits_of(N, columns, multiprocessors(a.t))
    totals = hidden.new_empty(splits, 2 * r * D + D + r, dtype=torch.float32)
    launch(
        adapter_width_backward_kernel, (columns, splits, 1), key,
        (a.t, d_residual, statistics, hidden, d_pre, totals, N, span, ln_eps), D=D, r=r, PRECISION=precision, **blocks,
    )  # fmt: skip
    parameters_backward.backward(a, totals, tuple(d_parameters), key)
