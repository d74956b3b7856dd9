"""Row-wise quantisation on a GPU, of what is there and of what is made on the way: each row is read once."""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import Any

import torch
import triton
import triton.language as tl

from ..activation.gpu import activated, slope
from ..triton_launch import kinds, launch, next_power_of_two
from .reference import READ_AHEAD, Rows


@triton.jit
def _load(x, row, cols, D):
    """One row in float32, with zeros behind it."""
    return tl.load(x + row * D + cols, mask=cols < D, other=0.0).to(tl.float32)


@triton.jit
def _store_rounded(v, rounded, scales, row, cols, D):
    """A row in e4m3, and its scale."""
    # As the reference, bit by bit: a GPU's quick division is two units in the last place off, and rounds to other 8 bits.
    scale = tl.maximum(tl.max(tl.abs(v), 0), 1e-12) * (1.0 / 448.0)
    tl.store(rounded + row * D + cols, tl.div_rn(v, scale).to(rounded.dtype.element_ty), mask=cols < D)
    tl.store(scales + row, scale)


@triton.jit
def quantise_rows_kernel(x, rounded, scales, D, BD: tl.constexpr):
    """One row in e4m3, and its scale."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BD)
    _store_rounded(_load(x, row, cols, D), rounded, scales, row, cols, D)


@triton.jit
def quantise_layer_norm_kernel(x, weight, bias, rounded, scales, means, rstds, D, eps, BD: tl.constexpr):
    """One row of LN(x) in e4m3 and its scale, the mean and 1 / deviation of the row."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BD)
    v = _load(x, row, cols, D)
    mean = tl.sum(v, 0) / D
    centred = tl.where(cols < D, v - mean, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / D + eps)
    tl.store(means + row, mean)
    tl.store(rstds + row, rstd)
    normed = centred * rstd * _load(weight, 0, cols, D)
    if bias is not None:
        normed += _load(bias, 0, cols, D)
    _store_rounded(normed, rounded, scales, row, cols, D)


@triton.jit
def quantise_layer_norm_backward_kernel(d_normed, x, means, rstds, weight, d_x, D, BD: tl.constexpr):
    """d_x of one row from the gradient of LN(x)."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BD)
    rstd = tl.load(rstds + row)
    normed = (_load(x, row, cols, D) - tl.load(means + row)) * rstd
    g = _load(d_normed, row, cols, D) * _load(weight, 0, cols, D)  # zeros behind the row
    out = rstd * (g - tl.sum(g, 0) / D - normed * (tl.sum(g * normed, 0) / D))
    tl.store(d_x + row * D + cols, out.to(d_x.dtype.element_ty), mask=cols < D)


@triton.jit
def quantise_activation_kernel(pre, rounded, scales, D, QUICK: tl.constexpr, BD: tl.constexpr):
    """One row of the activation in e4m3, and its scale."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BD)
    _store_rounded(activated(_load(pre, row, cols, D), QUICK), rounded, scales, row, cols, D)


@triton.jit
def quantise_activation_backward_kernel(d_y, pre, rounded, scales, D, QUICK: tl.constexpr, BD: tl.constexpr):
    """One row of the activation's gradient in e4m3, and its scale."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BD)
    d_pre = _load(d_y, row, cols, D) * slope(_load(pre, row, cols, D), QUICK)
    _store_rounded(d_pre, rounded, scales, row, cols, D)


def configuration(width: int) -> dict[str, int]:
    """Block and warps for rows of ``width``."""
    block = next_power_of_two(width)
    return {"BD": block, "num_warps": min(16, max(1, block // 512))}


def quantise_rows(x: torch.Tensor) -> Rows:
    """(e4m3 [N, D], scales [N, 1]) of contiguous ``x`` [N, D]."""
    rounded, scales = _rows_like(x)
    _run(quantise_rows_kernel, (x, rounded, scales), x)
    return rounded, scales


def layer_norm_quantise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, ...]:
    """The same of LN(x), with mean and 1 / deviation [N, 1]; ``weight`` and ``bias`` [D] are contiguous too."""
    rounded, scales = _rows_like(x)
    mean, rstd = (torch.empty(len(x), 1, device=x.device, dtype=torch.float32) for _ in range(2))
    _run(quantise_layer_norm_kernel, (x, weight, bias, rounded, scales, mean, rstd), x, eps)
    return rounded, scales, mean, rstd


def layer_norm_quantise_backward(
    d_normed: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """d_x of contiguous arguments."""
    d_x = torch.empty_like(x)
    _run(quantise_layer_norm_backward_kernel, (d_normed, x, mean, rstd, weight, d_x), x)
    return d_x


def activation_quantise(pre: torch.Tensor, kind: str) -> Rows:
    """Rows of the activation of contiguous ``pre`` [N, D]."""
    rounded, scales = _rows_like(pre)
    _run(quantise_activation_kernel, (pre, rounded, scales), pre, QUICK=kind == "quick_gelu")
    return rounded, scales


def activation_backward_quantise(d_y: torch.Tensor, pre: torch.Tensor, kind: str) -> Rows:
    """Rows of its gradient, of contiguous arguments."""
    rounded, scales = _rows_like(pre)
    _run(quantise_activation_backward_kernel, (d_y, pre, rounded, scales), pre, QUICK=kind == "quick_gelu")
    return rounded, scales


def _rows_like(x: torch.Tensor) -> Rows:
    """Memory for rows of x. What the product reads past the last row is ours, and a number."""
    rounded = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    rows = len(x)
    return rounded, torch.ones(-(-rows // READ_AHEAD) * READ_AHEAD, 1, device=x.device, dtype=torch.float32)[:rows]


def _run(
    kernel: Any, tensors: tuple[torch.Tensor | None, ...], x: torch.Tensor, *numbers: float, **flags: bool
) -> None:
    """A program a row of ``x``."""
    rows, width = x.shape
    if rows:
        key = kinds(tensors, width, *flags.values())
        launch(kernel, (rows, 1, 1), key, (*tensors, width, *numbers), **flags, **configuration(width))
