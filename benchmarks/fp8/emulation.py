"""Products of bf16 and of e4m3 as a GPU's units make them, on processors that are slow at them: for trials of accuracy.

The operands, e4m3 times their scales, are multiplied and summed in fp32, and the result is rounded once to bf16. Fast accumulation keeps fewer bits of the sums in fp8; ``few_bits`` gives them up as Hopper's units do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SUMMED_TOGETHER = 32  # products that a tensor core of Hopper adds to a sum at once
FRACTION = 13  # bits behind the largest summand's first that it keeps (DeepSeek-V3's report: about 14 in all)

Product = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def emulated_products(product: Product = torch.matmul) -> Iterator[None]:
    """Linear layers and attention in bf16, and torch's scaled product, by products in fp32 (``product`` for e4m3)."""

    def scaled(rows: Tensor, columns: Tensor, row_scale: Tensor, column_scale: Tensor, **options: Any) -> Tensor:
        y = product(as_float(rows) * row_scale, (as_float(columns.t()) * column_scale.t()).t())
        bias = options.get("bias")
        return (y if bias is None else y.add_(bias.float())).to(options["out_dtype"])

    before = F.linear, F.scaled_dot_product_attention, torch._scaled_mm
    F.linear, F.scaled_dot_product_attention = _widened(before[0]), _widened(before[1])
    torch._scaled_mm = scaled
    try:
        yield
    finally:
        F.linear, F.scaled_dot_product_attention, torch._scaled_mm = before


def as_float(x: Tensor) -> Tensor:
    """fp32. PyTorch's own cast of e4m3 takes longer than the product; an fp16's exponent counts from 8 lower."""
    if x.dtype != torch.float8_e4m3fn:
        return x.float()
    bits = (x.contiguous().view(torch.int8).to(torch.int16) << 7) & ~(1 << 14)  # the sign, which shifts into two bits
    return bits.view(torch.float16).float() * 256.0


def few_bits(rows: Tensor, columns: Tensor) -> Tensor:
    """rows [N, K] columns [K, M] as Hopper sums fp8 with fast accumulation: every sum cut off behind ``FRACTION`` bits."""
    total = torch.zeros(len(rows), columns.shape[1])
    for start in range(0, rows.shape[1], SUMMED_TOGETHER):
        part = slice(start, start + SUMMED_TOGETHER)
        products = rows[:, part, None] * columns[None, part]  # [N, 32, M], exact
        largest = torch.maximum(products.abs().amax(1), total.abs())
        unit = torch.exp2(torch.frexp(largest).exponent.float() - 1 - FRACTION)
        cut = torch.trunc(products / unit[:, None]).sum(1) + torch.trunc(total / unit)
        total = torch.where(largest == 0, 0.0, cut * unit)
    return total


def _widened(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*tensors: Tensor | None, **options: Any) -> Tensor:
        first = tensors[0]
        assert first is not None
        if first.dtype != torch.bfloat16:
            return op(*tensors, **options)
        return op(*(None if x is None else x.float() for x in tensors), **options).to(torch.bfloat16)

    return run
