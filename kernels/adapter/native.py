"""The adapter op on a CPU through the native library."""

import torch

from ..native.library import DTYPES, AdapterBackward, AdapterForward, call, pointer

# N tokens, D width, r rank


def _float32(parameters: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
    return [None if p is None else p.float().contiguous() for p in parameters]


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
    products: torch.dtype,  # not looked at: the library multiplies in float32
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ln2 as t or empty, residual as t, statistics [2, N], hidden [N, r]); the last two empty without ``keep``."""
    width, rank = t.shape[-1], down_weight.shape[0]
    tokens = t.numel() // width
    scale = torch.tensor([fixed_scale]) if scale is None else scale
    parameters = _float32((ln2_weight, ln2_bias, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale))
    ln2 = torch.empty_like(t) if ln2_weight is not None else t.new_empty(0)
    residual = torch.empty_like(t)
    kept = tokens if keep else 0
    statistics = t.new_empty((2, kept), dtype=torch.float32)
    hidden = t.new_empty((kept, rank), dtype=torch.float32)
    outputs = [ln2, residual, *([statistics[0], statistics[1], hidden] if keep else [None] * 3)]
    if tokens:
        sizes = (tokens, width, rank, DTYPES[t.dtype], torch.get_num_threads(), eps, ln_eps)
        block = AdapterForward(*sizes, *[pointer(x) for x in (t, *parameters, *outputs)])
        call("fastlift_adapter_forward", block)
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
    products: torch.dtype,
    need_t: bool,
) -> tuple[torch.Tensor, ...]:
    """d_t (empty unless ``need_t``), then the float32 gradients of LN_a, down, up and scale in that order."""
    width, rank = t.shape[-1], down_weight.shape[0]
    tokens = t.numel() // width
    scale = torch.tensor([fixed_scale]) if scale is None else scale
    parameters = _float32((ln2_weight, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale))
    d_t = torch.empty_like(t) if need_t else t.new_empty(0)
    shapes = ((width,), (width,), (rank, width), (rank,), (width, rank), (width,), (1,))
    if not tokens:
        return (d_t, *[torch.zeros(shape) for shape in shapes])
    gradients = [torch.empty(shape) for shape in shapes]
    inputs = (t, d_ln2, d_residual, statistics[0], statistics[1], hidden, *parameters)
    sizes = (tokens, width, rank, DTYPES[t.dtype], torch.get_num_threads(), eps, ln_eps)
    outputs = (d_t if need_t else None, *gradients)
    call("fastlift_adapter_backward", AdapterBackward(*sizes, *[pointer(x) for x in (*inputs, *outputs)]))
    return (d_t, *gradients)
