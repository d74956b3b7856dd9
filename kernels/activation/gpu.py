"""The activations on a GPU: one elementwise Triton kernel each way."""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import ALIGNMENT, ceil_div, kinds, launch

BLOCK = 1024


@triton.jit
def _phi(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def activated(v, QUICK: tl.constexpr):
    """v sigmoid(1.702 v), or v Phi(v), of float32."""
    return v * tl.sigmoid(1.702 * v) if QUICK else v * _phi(v)


@triton.jit
def slope(v, QUICK: tl.constexpr):
    """Its derivative."""
    if QUICK:
        s = tl.sigmoid(1.702 * v)
        found = s * (1.0 + 1.702 * v * (1.0 - s))
    else:
        found = _phi(v) + v * tl.exp(-0.5 * v * v) * 0.3989422804014327
    return found


@triton.jit
def activation_forward_kernel(x, y, count, QUICK: tl.constexpr, BLOCK: tl.constexpr):
    """y = act(x)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < count
    v = tl.load(x + at, mask=live, other=0.0).to(tl.float32)
    tl.store(y + at, activated(v, QUICK).to(y.dtype.element_ty), mask=live)


@triton.jit
def activation_backward_kernel(d_y, x, d_x, count, QUICK: tl.constexpr, BLOCK: tl.constexpr):
    """d_x from d_y and the pre-activation."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < count
    v = tl.load(x + at, mask=live, other=0.0).to(tl.float32)
    out = tl.load(d_y + at, mask=live, other=0.0).to(tl.float32) * slope(v, QUICK)
    tl.store(d_x + at, out.to(d_x.dtype.element_ty), mask=live)


def forward(x: torch.Tensor, kind: str) -> torch.Tensor:
    """y of contiguous ``x``."""
    y = torch.empty_like(x)
    _run(activation_forward_kernel, (x, y), kind)
    return y


def backward(d_y: torch.Tensor, x: torch.Tensor, kind: str) -> torch.Tensor:
    """d_x from contiguous ``d_y`` and the pre-activation ``x``."""
    d_x = torch.empty_like(x)
    _run(activation_backward_kernel, (d_y, x, d_x), kind)
    return d_x


def _run(kernel: Any, tensors: tuple[torch.Tensor, ...], kind: str) -> None:
    count = tensors[0].numel()
    if count:
        # the binder's own reasons to compile anew
        key = kinds(tensors, kind, count % ALIGNMENT == 0, count == 1, count < 2**31)
        grid = (ceil_div(count, BLOCK), 1, 1)
        launch(kernel, grid, key, (*tensors, count), QUICK=kind == "quick_gelu", BLOCK=BLOCK)
