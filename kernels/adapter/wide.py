"""The adapter op on a GPU by library products, for ranks above ``arguments.MOST_FUSED_RANK``.

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
from .arguments import AdapterArguments, AdapterGradients, AdapterIncoming

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


def forward(a: AdapterArguments, outputs: tuple[Any, ...], products: torch.dtype) -> None:
    """Fill ``outputs`` (of AdapterOutputs, None where not wanted) for at least one token; ``products``: dtype of operands."""
    N, D, r = a.sizes
    ln2, residual, statistics, kept, _, _ = outputs
    normed = torch.empty((N, D), device=a.t.device, dtype=products)
    norms = (a.t, a.ln2_weight, a.ln2_bias, a.ln_weight, a.ln_bias, a.up_bias, a.scale)
    blocks = configuration(D)
    launch(
        adapter_norms_kernel, (ceil_div(N, blocks["BN"]), 1, 1), kinds(norms, products, statistics is None, D),
        (*norms, ln2, normed, residual, statistics, N, D, a.fixed_scale, a.eps, a.ln_eps),
        **blocks,
    )  # fmt: skip
    # the bias and relu are in the epilogue of the product
    hidden = normed.new_empty((N, r)) if kept is None else kept
    torch._addmm_activation(a.down_bias.to(products), normed, a.down_weight.to(products).T, out=hidden)
    up = (a.up_weight.float() * (a.fixed_scale if a.scale is None else a.scale.float().view(1))).to(products)
    residual = residual.view(N, D)
    if products == residual.dtype:
        residual.addmm_(hidden, up.T)
    else:
        residual.add_(product(hidden, up.T))


def backward(a: AdapterArguments, incoming: AdapterIncoming, gradients: tuple[Any, ...]) -> None:
    """Fill ``gradients`` (of AdapterGradients, None where not wanted), for at least one token."""
    d_residual, d_ln2, statistics, hidden, _, _ = incoming
    (N, D, _), products, d = a.sizes, hidden.dtype, AdapterGradients(*gradients)
    s = a.t.new_full((1,), a.fixed_scale, dtype=torch.float32) if a.scale is None else a.scale.float().view(1)
    down, up = a.down_weight.float(), a.up_weight.float()
    g = d_residual.view(N, D).to(products)
    d_pre = torch.ops.aten.threshold_backward(g @ (up * s).to(products), hidden, 0.0)  # a NaN passes
    d_normed = None if d.t is None else d_pre @ down.to(products)
    normed = torch.empty((N, D), device=a.t.device, dtype=products)
    blocks = configuration(D)
    launch(
        adapter_norms_backward_kernel, (ceil_div(N, blocks["BN"]), 1, 1),
        kinds((a.t, statistics, d_residual, d_ln2, a.ln_weight, a.ln2_weight), products, d.t is None, D),
        (a.t, statistics, d_residual, d_normed, d_ln2, a.ln_weight, a.ln2_weight, normed, d.t, N, D, a.eps, a.ln_eps),
        **blocks,
    )  # fmt: skip
    normed_sum, hidden_sum = product(d_pre.T, normed), product(hidden.T, g)  # [r, D]
    torch.sum(d_pre, 0, dtype=torch.float32, out=d.down_bias)
    total = d_residual.view(N, D).sum(0, dtype=torch.float32)
    torch.sum(normed_sum * down, 0, out=d.ln_weight)
    torch.mv(down.T, d.down_bias, out=d.ln_bias)
    torch.addcmul(normed_sum * a.ln_weight, d.down_bias[:, None], a.ln_bias.float(), out=d.down_weight)
    torch.mul(hidden_sum.T, s, out=d.up_weight)
    torch.mul(total, s, out=d.up_bias)
    torch.add((hidden_sum.T * up).sum(), torch.dot(total, a.up_bias.float()), out=d.scale.view(()))
