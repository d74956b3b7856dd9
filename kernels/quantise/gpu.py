"""Row-wise quantisation on a GPU: each row is read once."""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

import torch
import triton
import triton.language as tl

from ..triton_launch import kinds, launch, next_power_of_two
from .reference import READ_AHEAD


@triton.jit
def quantise_rows_kernel(x, rounded, scales, D, BD: tl.constexpr):
    """One row in e4m3, and its scale."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BD)
    v = tl.load(x + row * D + cols, mask=cols < D, other=0.0).to(tl.float32)
    # As the reference, bit by bit: a GPU's quick division is two units in the last place off, and rounds to other 8 bits.
    scale = tl.maximum(tl.max(tl.abs(v), 0), 1e-12) * (1.0 / 448.0)
    tl.store(rounded + row * D + cols, tl.div_rn(v, scale).to(rounded.dtype.element_ty), mask=cols < D)
    tl.store(scales + row, scale)


def configuration(width: int) -> dict[str, int]:
    """Block and warps for rows of ``width``."""
    block = next_power_of_two(width)
    return {"BD": block, "num_warps": min(16, max(1, block // 512))}


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(e4m3 [N, D], scales [N, 1]) of contiguous ``x`` [N, D]."""
    rows, width = x.shape
    rounded = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    # What the product reads past the last row is ours, and a number.
    scales = torch.ones((-(-rows // READ_AHEAD) * READ_AHEAD, 1), device=x.device, dtype=torch.float32)[:rows]
    if rows:
        key, arguments = kinds((x,), width), (x, rounded, scales, width)
        launch(quantise_rows_kernel, (rows, 1, 1), key, arguments, **configuration(width))
    return rounded, scales
