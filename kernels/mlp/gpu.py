"""The MLP on a GPU: own products, whose epilogues do what would be passes over the hidden layer and the residual.

The last product of backward, d_pre W_in, has no epilogue and is the library's.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from ..activation.gpu import activated, slope
from ..triton_launch import ceil_div, kinds, launch
from .arguments import MlpArguments, MlpOutputs

# N tokens; a product is [N, K] times [K, WIDTH]. A program makes BM x BN of it, BK of K at a time.


@triton.jit
def _place(N, WIDTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """(first row, first column) of this program: GROUP row tiles share a column tile before the next one, out of L2."""
    program = tl.program_id(0)
    down, across = tl.cdiv(N, BM), tl.cdiv(WIDTH, BN)
    group = program // (GROUP * across)
    height = tl.minimum(down - group * GROUP, GROUP)
    within = program % (GROUP * across)
    return (group * GROUP + within % height) * BM, within // height * BN


@triton.jit
def _product(
    a, b, first, column, N,
    K: tl.constexpr, WIDTH: tl.constexpr, BY_ROWS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Rows from ``first`` and columns from ``column`` of a [N, K] times b, [WIDTH, K] or, BY_ROWS, [K, WIDTH]; in float32.

    Rows and columns beyond the last are the last once more: only their results must not be stored.
    """
    rows = tl.minimum(tl.arange(0, BM), N - 1 - first)
    cols = column + tl.arange(0, BN)
    if WIDTH % BN != 0:
        cols = tl.minimum(cols, WIDTH - 1)
    k = tl.arange(0, BK)
    a_at = a + first.to(tl.int64) * K + (rows[:, None] * K + k[None, :])
    b_at = b + (k[:, None] * WIDTH + cols[None, :] if BY_ROWS else cols[None, :] * K + k[:, None])
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for done in range(0, K, BK):
        if K % BK == 0:
            x, w = tl.load(a_at), tl.load(b_at)
        else:
            inside = k < K - done
            x = tl.load(a_at, mask=inside[None, :], other=0.0)
            w = tl.load(b_at, mask=inside[:, None], other=0.0)
        total = tl.dot(x, w, total)
        a_at += BK
        b_at += BK * WIDTH if BY_ROWS else BK
    return total


@triton.jit
def _quarters(total, BM: tl.constexpr, BN: tl.constexpr):
    """Its columns in four parts: an epilogue of one part at a time leaves the others their registers."""
    left, right = tl.split(tl.permute(tl.reshape(total, (BM, 2, BN // 2)), (0, 2, 1)))
    one, two = tl.split(tl.permute(tl.reshape(left, (BM, 2, BN // 4)), (0, 2, 1)))
    three, four = tl.split(tl.permute(tl.reshape(right, (BM, 2, BN // 4)), (0, 2, 1)))
    return one, two, three, four


@triton.jit
def _stored(first, column, N, WIDTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Columns of a part, where it lies in [N, WIDTH], and what of it is there."""
    rows = tl.arange(0, BM)
    cols = column + tl.arange(0, BN)
    at = first.to(tl.int64) * WIDTH + (rows[:, None] * WIDTH + cols[None, :])
    return cols, at, (rows[:, None] < N - first) & (cols[None, :] < WIDTH)


@triton.jit
def _end_in(
    total,
    bias,
    pre,
    hidden,
    first,
    column,
    N,
    WIDTH: tl.constexpr,
    QUICK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    cols, at, inside = _stored(first, column, N, WIDTH, BM, BN)
    if bias is not None:
        total += tl.load(bias + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)[None, :]
    rounded = total.to(hidden.dtype.element_ty)  # backward sees no other
    if pre is not None:
        tl.store(pre + at, rounded, mask=inside)
    tl.store(hidden + at, activated(rounded.to(tl.float32), QUICK).to(hidden.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["N"])
def mlp_in_kernel(
    x, weight, bias, pre, hidden, N, K: tl.constexpr, WIDTH: tl.constexpr, QUICK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """hidden = act(pre), pre = x weight^T + bias; pre where it is wanted."""
    first, column = _place(N, WIDTH, BM, BN, GROUP)
    total = _product(x, weight, first, column, N, K, WIDTH, False, BM, BN, BK)
    parts = _quarters(total, BM, BN)
    for i in tl.static_range(4):
        _end_in(parts[i], bias, pre, hidden, first, column + i * (BN // 4), N, WIDTH, QUICK, BM, BN // 4)


@triton.jit
def _end_out(
    total, bias, scale, residual, y, first, column, N, WIDTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    cols, at, inside = _stored(first, column, N, WIDTH, BM, BN)
    if bias is not None:
        total += tl.load(bias + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)[None, :]
    if scale is not None:
        total *= tl.load(scale + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)[None, :]
    total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["N"])
def mlp_out_kernel(
    hidden, weight, bias, scale, residual, y, N, K: tl.constexpr, WIDTH: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """y = residual + scale * (hidden weight^T + bias)."""
    first, column = _place(N, WIDTH, BM, BN, GROUP)
    total = _product(hidden, weight, first, column, N, K, WIDTH, False, BM, BN, BK)
    parts = _quarters(total, BM, BN)
    for i in tl.static_range(4):
        _end_out(parts[i], bias, scale, residual, y, first, column + i * (BN // 4), N, WIDTH, BM, BN // 4)


@triton.jit
def _end_gradient(
    total, pre, d_pre, first, column, N, WIDTH: tl.constexpr, QUICK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    _, at, inside = _stored(first, column, N, WIDTH, BM, BN)
    v = tl.load(pre + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(d_pre + at, (total * slope(v, QUICK)).to(d_pre.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["N"])
def mlp_gradient_kernel(
    d_y, weight, pre, d_pre, N, K: tl.constexpr, WIDTH: tl.constexpr, QUICK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """d_pre = (d_y weight) act'(pre): the weight as it is stored, [K, WIDTH]."""
    first, column = _place(N, WIDTH, BM, BN, GROUP)
    total = _product(d_y, weight, first, column, N, K, WIDTH, True, BM, BN, BK)
    parts = _quarters(total, BM, BN)
    for i in tl.static_range(4):
        _end_gradient(parts[i], pre, d_pre, first, column + i * (BN // 4), N, WIDTH, QUICK, BM, BN // 4)


LARGE = {"BM": 128, "BN": 256, "BK": 64, "GROUP": 8, "num_warps": 8, "num_stages": 3}  # 147 KB of shared memory
SMALL = {"BM": 128, "BN": 128, "BK": 64, "GROUP": 8, "num_warps": 8, "num_stages": 3}  # 98 KB
WITH_LITTLE_SHARED_MEMORY = ((8, 6), (8, 7), (8, 9), (12, 0), (12, 1))  # capabilities: about 100 KB a block


def configuration(capability: tuple[int, int]) -> dict[str, int]:
    """Tiles, warps and stages on a GPU of this capability."""
    return SMALL if capability in WITH_LITTLE_SHARED_MEMORY else LARGE


@cache
def _configuration_of(device: int) -> dict[str, int]:
    return configuration(torch.cuda.get_device_capability(device)) if device >= 0 else INTERPRETED


INTERPRETED = {"BM": 32, "BN": 32, "BK": 32, "GROUP": 2, "num_warps": 4, "num_stages": 2}  # without a GPU


def forward(a: MlpArguments, outputs: MlpOutputs) -> None:
    """Fill ``outputs`` (the pre-activation where it is not empty), for at least one token."""
    hidden = a.x.new_empty(a.sizes[0], a.sizes[2])
    product_in(a.x, a.in_weight, a.in_bias, outputs.pre if outputs.pre.numel() else None, hidden, a.kind)
    product_out(hidden, a.out_weight, a.out_bias, a.scale, a.residual, outputs.y)


def backward(
    d_y: torch.Tensor,
    pre: torch.Tensor,
    in_weight: torch.Tensor,
    out_weight: torch.Tensor,
    scale: torch.Tensor | None,
    kind: str,
) -> torch.Tensor:
    """d_x [N, D] of at least one token."""
    # scaling the weight costs what it weighs, scaling d_y a pass over the tokens
    weight = out_weight if scale is None else (out_weight.float() * scale.float()[:, None]).to(d_y.dtype)
    d_pre = torch.empty_like(pre)
    product_gradient(d_y, weight, pre, d_pre, kind)
    return d_pre @ in_weight


def product_in(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    pre: torch.Tensor | None,
    hidden: torch.Tensor,
    kind: str,
    **blocks: int,
) -> None:
    """hidden [N, M] = act(x weight^T + bias), and what the activation reads into ``pre``; ``blocks`` in place of the usual."""
    _run(mlp_in_kernel, (x, weight, bias, pre, hidden), weight.shape, blocks, QUICK=kind == "quick_gelu")


def product_out(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    residual: torch.Tensor,
    y: torch.Tensor,
    **blocks: int,
) -> None:
    """y [N, D] = residual + scale * (hidden weight^T + bias)."""
    _run(mlp_out_kernel, (hidden, weight, bias, scale, residual, y), weight.shape, blocks)


def product_gradient(
    d_y: torch.Tensor, weight: torch.Tensor, pre: torch.Tensor, d_pre: torch.Tensor, kind: str, **blocks: int
) -> None:
    """d_pre [N, M] = (d_y weight) act'(pre), the weight [D, M]."""
    _run(mlp_gradient_kernel, (d_y, weight, pre, d_pre), weight.shape[::-1], blocks, QUICK=kind == "quick_gelu")


def _run(kernel: Any, tensors: tuple[Any, ...], shape: Sequence[int], change: dict[str, int], **constants: Any) -> None:
    """A product of the first tensor: ``shape`` is (numbers of a result's row, numbers of the tensor's); ``change`` of the blocks."""
    width, K = shape
    blocks = {**_configuration_of(tensors[0].get_device()), **change}
    N = tensors[0].numel() // K
    grid = (ceil_div(N, blocks["BM"]) * ceil_div(width, blocks["BN"]), 1, 1)
    key = kinds(tensors, K, width, *constants.values(), *change.items())
    launch(kernel, grid, key, (*tensors, N), K=K, WIDTH=width, **constants, **blocks)
