"""The gradients of the adapter's parameters on a GPU, from the sums over tokens that backward's kernels leave.

One kernel adds up the splits, in parallel over columns and units of the bottleneck, and writes what belongs to one unit; a
second adds up over the units. Both in a fixed order, so that results repeat bit by bit.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import ceil_div, launch, next_power_of_two
from .arguments import AdapterArguments

# D width, r rank, S splits, U groups of BR units; BD, BR, BS blocks of columns, units and splits

BLOCKS = {"BD": 32, "BR": 8, "BS": 8, "num_warps": 4}
UNITS_BLOCKS = {"BD": 256, "num_warps": 4}


@triton.jit(do_not_specialize=["S"])
def adapter_parameters_backward_kernel(
    sums, ln_weight, ln_bias, down_weight, up_weight, up_bias, scale,
    d_down_weight, d_down_bias, d_up_weight, d_up_bias, over_units,
    S, fixed_scale, D: tl.constexpr, r: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """Of BD columns and BR units: d_W_down, d_W_up, and their share of d_gamma, d_beta and d_s in ``over_units``.

    That is [U, 2 D + columns / BD] float32: d_gamma, d_beta, then a number a program. One group of units writes d_b_up, one of
    columns d_b_down.
    """
    column, group = tl.program_id(0), tl.program_id(1)
    LENGTH: tl.constexpr = 2 * r * D + D + r  # of a split's sums
    cols = column * BD + tl.arange(0, BD)
    ranks = group * BR + tl.arange(0, BR)
    whole, known = cols < D, ranks < r
    wanted = known[:, None] & whole[None, :]
    at = ranks[:, None] * D + cols[None, :]
    s = fixed_scale
    if scale is not None:
        s = tl.load(scale).to(tl.float32)
    products = tl.zeros([BR, BD], tl.float32)
    normed = tl.zeros([BR, BD], tl.float32)
    pre = tl.zeros([BR], tl.float32)
    total = tl.zeros([BD], tl.float32)
    for first in range(0, S, BS):
        splits = first + tl.arange(0, BS)
        there = splits < S
        of = sums + splits[:, None, None] * LENGTH + at[None, :, :]
        each = there[:, None, None] & wanted[None, :, :]
        products += tl.sum(tl.load(of, mask=each, other=0.0), 0)
        normed += tl.sum(tl.load(of + r * D, mask=each, other=0.0), 0)
        of = sums + splits[:, None] * LENGTH + 2 * r * D
        pre += tl.sum(tl.load(of + D + ranks[None, :], mask=there[:, None] & known[None, :], other=0.0), 0)
        if group == 0:
            total += tl.sum(tl.load(of + cols[None, :], mask=there[:, None] & whole[None, :], other=0.0), 0)
    gamma = tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)
    beta = tl.load(ln_bias + cols, mask=whole, other=0.0).to(tl.float32)
    down = tl.load(down_weight + at, mask=wanted, other=0.0).to(tl.float32)
    up_at = cols[None, :] * r + ranks[:, None]
    up = tl.load(up_weight + up_at, mask=wanted, other=0.0).to(tl.float32)
    tl.store(d_down_weight + at, normed * gamma[None, :] + pre[:, None] * beta[None, :], mask=wanted)
    tl.store(d_up_weight + up_at, s * products, mask=wanted)
    along = tl.sum(products * up, 0)  # [BD] of d_s
    if group == 0:
        tl.store(d_up_bias + cols, s * total, mask=whole)
        along += total * tl.load(up_bias + cols, mask=whole, other=0.0).to(tl.float32)
    if column == 0:
        tl.store(d_down_bias + ranks, pre, mask=known)
    over_units += group * (2 * D + tl.num_programs(0))
    tl.store(over_units + cols, tl.sum(normed * down, 0), mask=whole)
    tl.store(over_units + D + cols, tl.sum(pre[:, None] * down, 0), mask=whole)
    tl.store(over_units + 2 * D + column, tl.sum(along, 0))


@triton.jit
def adapter_over_units_kernel(
    over_units, d_ln_weight, d_ln_bias, d_scale,
    D: tl.constexpr, U: tl.constexpr, COLUMNS: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The sums over units of BD columns of d_gamma and d_beta; the first program adds up d_s."""
    LENGTH: tl.constexpr = 2 * D + COLUMNS
    cols = tl.program_id(0) * BD + tl.arange(0, BD)
    whole = cols < D
    d_gamma = tl.zeros([BD], tl.float32)
    d_beta = tl.zeros([BD], tl.float32)
    along = tl.zeros([BC], tl.float32)
    parts = tl.arange(0, BC)
    for unit in range(U):
        d_gamma += tl.load(over_units + unit * LENGTH + cols, mask=whole, other=0.0)
        d_beta += tl.load(over_units + unit * LENGTH + D + cols, mask=whole, other=0.0)
        along += tl.load(over_units + unit * LENGTH + 2 * D + parts, mask=parts < COLUMNS, other=0.0)
    tl.store(d_ln_weight + cols, d_gamma, mask=whole)
    tl.store(d_ln_bias + cols, d_beta, mask=whole)
    if tl.program_id(0) == 0:
        tl.store(d_scale, tl.sum(along, 0))


def backward(a: AdapterArguments, sums: torch.Tensor, gradients: tuple[Any, ...], key: Any) -> None:
    """Fill ``gradients`` (of AdapterGradients without that of t) from ``sums`` [S, 2 r D + D + r]; ``key`` is :func:`launch`'s."""
    _, D, r = a.sizes
    d_ln_weight, d_ln_bias, d_down_weight, d_down_bias, d_up_weight, d_up_bias, d_scale = gradients
    columns, groups = ceil_div(D, BLOCKS["BD"]), ceil_div(r, BLOCKS["BR"])
    over_units = sums.new_empty(groups, 2 * D + columns)
    launch(
        adapter_parameters_backward_kernel, (columns, groups, 1), key,
        (sums, a.ln_weight, a.ln_bias, a.down_weight, a.up_weight, a.up_bias, a.scale,
         d_down_weight, d_down_bias, d_up_weight, d_up_bias, over_units, len(sums), a.fixed_scale),
        D=D, r=r, **BLOCKS,
    )  # fmt: skip
    launch(
        adapter_over_units_kernel, (ceil_div(D, UNITS_BLOCKS["BD"]), 1, 1), key,
        (over_units, d_ln_weight, d_ln_bias, d_scale),
        D=D, U=groups, COLUMNS=columns, BD=UNITS_BLOCKS["BD"], BC=next_power_of_two(columns), num_warps=4,
    )  # fmt: skip
