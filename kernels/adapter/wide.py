"""The adapter op on a GPU by library products, for ranks above ``fused.MOST_RANK``.

There a fused program would read both weights again for every few tokens. So the norms are one pass over the tokens each
way (a Triton kernel), the bottleneck is four products, and as much is kept for backward as by the fused way.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from ..products import product
from ..triton_launch import ceil_div, kinds, launch, next_power_of_two

# N tokens, D width, r rank; BN rows of a program, BD at least D


@triton.jit(do_not_specialize=["N"])
def adapter_norms_kernel(
    t, ln2_weight, ln2_bias, ln_weight, ln_bias, up_bias, scale, ln2, normed, residual, statistics,
    N, D, fixed_scale, eps, ln_eps, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """LN_2(t), LN_a(t), t + s b_up, and mean and variance, of BN rows."""
    first = tl.program_id(0).to(tl.int64) * BN
    rows = tl.arange(0, BN)
    cols = tl.arange(0, BD)
    live, whole = rows < N - first, cols < D
    inside = live[:, None] & whole[None, :]
    at = first * D + rows[:, None] * D + cols[None, :]
    x = tl.load(t + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / D
    centred = tl.where(whole[None, :], x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / D
    gamma = tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)
    beta = tl.load(ln_bias + cols, mask=whole, other=0.0).to(tl.float32)
    y = centred * tl.rsqrt(variance + ln_eps)[:, None] * gamma[None, :] + beta[None, :]
    tl.store(normed + at, y.to(normed.dtype.element_ty), mask=inside)
    if ln2 is not None:
        gamma2 = tl.load(ln2_weight + cols, mask=whole, other=0.0).to(tl.float32)
        beta2 = tl.load(ln2_bias + cols, mask=whole, other=0.0).to(tl.float32)
        y = centred * tl.rsqrt(variance + eps)[:, None] * gamma2[None, :] + beta2[None, :]
        tl.store(ln2 + at, y.to(ln2.dtype.element_ty), mask=inside)
    s = fixed_scale
    if scale is not None:
        s = tl.load(scale).to(tl.float32)
    bias = s * tl.load(up_bias + cols, mask=whole, other=0.0).to(tl.float32)
    tl.store(residual + at, (x + bias[None, :]).to(residual.dtype.element_ty), mask=inside)
    if statistics is not None:
        tl.store(statistics + first + rows, mean, mask=live)
        tl.store(statistics + N + first + rows, variance, mask=live)


@triton.jit(do_not_specialize=["N"])
def adapter_norms_backward_kernel(
    t, statistics, d_residual, d_normed, d_ln2, ln_weight, ln2_weight, normed, d_t,
    N, D, eps, ln_eps, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """x = (t - mean) rstd of BN rows into ``normed``, and d_t where it is wanted: through both norms and the residual."""
    first = tl.program_id(0).to(tl.int64) * BN
    rows = tl.arange(0, BN)
    cols = tl.arange(0, BD)
    live, whole = rows < N - first, cols < D
    inside = live[:, None] & whole[None, :]
    at = first * D + rows[:, None] * D + cols[None, :]
    mean = tl.load(statistics + first + rows, mask=live, other=0.0)
    variance = tl.load(statistics + N + first + rows, mask=live, other=1.0)
    rstd = tl.rsqrt(variance + ln_eps)
    x = (tl.load(t + at, mask=inside, other=0.0).to(tl.float32) - mean[:, None]) * rstd[:, None]
    x = tl.where(whole[None, :], x, 0.0)
    tl.store(normed + at, x.to(normed.dtype.element_ty), mask=inside)
    if d_t is not None:
        gamma = tl.load(ln_weight + cols, mask=whole, other=0.0).to(tl.float32)
        e = tl.load(d_normed + at, mask=inside, other=0.0).to(tl.float32) * gamma[None, :]
        mean_e = tl.sum(e, 1)
        mean_ex = tl.sum(e * x, 1)
        if d_ln2 is not None:
            # LN_2 divides by another standard deviation: its x is ours times the ratio.
            ratio = tl.sqrt((variance + ln_eps) / (variance + eps))
            gamma2 = tl.load(ln2_weight + cols, mask=whole, other=0.0).to(tl.float32)
            through = tl.load(d_ln2 + at, mask=inside, other=0.0).to(tl.float32) * gamma2[None, :] * ratio[:, None]
            mean_e += tl.sum(through, 1)
            mean_ex += tl.sum(through * x, 1) * ratio * ratio
            e += through
        g = tl.load(d_residual + at, mask=inside, other=0.0).to(tl.float32)
        out = g + rstd[:, None] * (e - (mean_e / D)[:, None] - x * (mean_ex / D)[:, None])
        tl.store(d_t + at, out.to(d_t.dtype.element_ty), mask=inside)


PROGRAM_FLOATS = 2048  # of one tensor: four of them fit into the registers of four warps


@cache
def configuration(width: int) -> dict[str, int]:
    """Blocks and warps for rows of ``width``."""
    columns = next_power_of_two(width)
    return {
        "BN": max(1, PROGRAM_FLOATS // columns),
        "BD": columns,
        "num_warps": 4 if columns <= PROGRAM_FLOATS else 16,
    }


def forward(
    t: torch.Tensor,  # [.., D] contiguous
    parameters: tuple[Any, ...],  # contiguous: LN_2's two, LN_a's two, down's two, up's two, scale
    fixed_scale: float,
    eps: float,
    ln_eps: float,
    products: torch.dtype,
    outputs: tuple[Any, ...],  # ln2 or None, residual, statistics [2, N] and hidden [N, r], or None
) -> None:
    """Fill ``outputs``, for at least one token."""
    *norms, down_weight, down_bias, up_weight, up_bias, scale = parameters
    ln2, residual, statistics, hidden_out = outputs
    D = t.shape[-1]
    N = t.numel() // D
    normed = torch.empty((N, D), device=t.device, dtype=products)
    blocks = configuration(D)
    launch(
        adapter_norms_kernel, (ceil_div(N, blocks["BN"]), 1, 1),
        kinds((t, *norms, up_bias, scale), products, statistics is None, D),
        (t, *norms, up_bias, scale, ln2, normed, residual, statistics, N, D, fixed_scale, eps, ln_eps), **blocks,
    )  # fmt: skip
    # the bias and relu are in the epilogue of the product
    hidden = torch.empty((N, len(down_bias)), device=t.device, dtype=products) if hidden_out is None else hidden_out
    torch._addmm_activation(down_bias.to(products), normed, down_weight.to(products).T, out=hidden)
    up = (up_weight.float() * (fixed_scale if scale is None else scale.float().view(1))).to(products)
    if products == residual.dtype:
        residual.view(N, D).addmm_(hidden, up.T)
    else:
        residual.view(N, D).add_(product(hidden, up.T))


def backward(
    d_ln2: torch.Tensor | None,  # as t, contiguous
    d_residual: torch.Tensor,  # as t, contiguous
    t: torch.Tensor,  # [.., D] contiguous
    statistics: torch.Tensor,  # [2, N] mean and variance
    hidden: torch.Tensor,  # [N, r]
    parameters: tuple[Any, ...],  # contiguous: LN_2's weight, LN_a's two, down's two, up's two, scale
    fixed_scale: float,
    eps: float,
    ln_eps: float,
    d_t: torch.Tensor | None,
    gradients: tuple[torch.Tensor, ...],  # float32, of LN_a's two, down's two, up's two
) -> torch.Tensor:
    """Fill ``d_t`` and ``gradients``, for at least one token; returns that of the scale, float32 [1]."""
    ln2_weight, ln_weight, ln_bias, down_weight, _, up_weight, up_bias, scale = parameters
    d_ln_weight, d_ln_bias, d_down_weight, d_down_bias, d_up_weight, d_up_bias = gradients
    (N, D), products = (hidden.shape[0], t.shape[-1]), hidden.dtype
    s = t.new_full((1,), fixed_scale, dtype=torch.float32) if scale is None else scale.float().view(1)
    down, up = down_weight.float(), up_weight.float()
    g = d_residual.view(N, D).to(products)
    d_pre = torch.ops.aten.threshold_backward(g @ (up * s).to(products), hidden, 0.0)  # a NaN passes
    d_normed = None if d_t is None else d_pre @ down.to(products)
    normed = torch.empty((N, D), device=t.device, dtype=products)
    blocks = configuration(D)
    launch(
        adapter_norms_backward_kernel, (ceil_div(N, blocks["BN"]), 1, 1),
        kinds((t, statistics, d_residual, d_ln2, ln_weight, ln2_weight), products, d_t is None, D),
        (t, statistics, d_residual, d_normed, d_ln2, ln_weight, ln2_weight, normed, d_t, N, D, eps, ln_eps), **blocks,
    )  # fmt: skip
    normed_sum, hidden_sum = product(d_pre.T, normed), product(hidden.T, g)  # [r, D]
    torch.sum(d_pre, 0, dtype=torch.float32, out=d_down_bias)
    total = d_residual.view(N, D).sum(0, dtype=torch.float32)
    torch.sum(normed_sum * down, 0, out=d_ln_weight)
    torch.mv(down.T, d_down_bias, out=d_ln_bias)
    torch.addcmul(normed_sum * ln_weight, d_down_bias[:, None], ln_bias.float(), out=d_down_weight)
    torch.mul(hidden_sum.T, s, out=d_up_weight)
    torch.mul(total, s, out=d_up_bias)
    return (hidden_sum.T * up).sum().add(torch.dot(total, up_bias.float())).view(1)
