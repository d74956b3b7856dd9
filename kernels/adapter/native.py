"""The adapter op on a CPU through the native library."""

import torch

from ..native.library import DTYPES, AdapterBackward, AdapterForward, call, pointer

# N tokens, D width, r rank


def forward(
    t: torch.Tensor,  # [N, D] contiguous
    ln2_weight: torch.Tensor | None,
    ln2_bias: torch.Tensor | None,
    ln_weight: torch.Tensor,
    ln_bias: torch.Tensor,
    down_weight: torch.Tensor,
    down_bias: torch.Tensor,
    up_weight: torch.Tensor,
    up_bias: torch.Tensor,
    scale: torch.Tensor,
    eps: float,
    ln_eps: float,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ln2 [N, D] or empty, residual [N, D], statistics [2, N], hidden [N, r]); the last two empty without ``keep``."""
    tokens, width = t.shape
    rank = down_weight.shape[0]
    parameters = [
        None if p is None else p.detach().float().contiguous()
        for p in (ln2_weight, ln2_bias, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale)
    ]
    ln2 = torch.empty_like(t) if ln2_weight is not None else t.new_empty(0)
    residual = torch.empty_like(t)
    statistics = t.new_empty((2, tokens) if keep else (2, 0), dtype=torch.float32)
    hidden = t.new_empty((tokens if keep else 0, rank), dtype=torch.float32)
    if tokens:
        call(
            "fastlift_adapter_forward",
            AdapterForward(
                tokens, width, rank, DTYPES[t.dtype], torch.get_num_threads(), eps, ln_eps, pointer(t),
                *[pointer(p) for p in parameters],
                pointer(ln2), pointer(residual), *[pointer(x) if keep else None for x in (statistics[0], statistics[1], hidden)],
            ),
        )  # fmt: skip
    return ln2, residual, statistics, hidden


def backward(
    d_ln2: torch.Tensor | None,  # [N, D]
    d_residual: torch.Tensor,  # [N, D]
    t: torch.Tensor,
    statistics: torch.Tensor,
    hidden: torch.Tensor,
    ln2_weight: torch.Tensor | None,
    ln_weight: torch.Tensor,
    ln_bias: torch.Tensor,
    down_weight: torch.Tensor,
    down_bias: torch.Tensor,
    up_weight: torch.Tensor,
    up_bias: torch.Tensor,
    scale: torch.Tensor,
    eps: float,
    ln_eps: float,
    need_t: bool,
) -> list[torch.Tensor]:
    """[d_t (empty unless ``need_t``), then the float32 gradients of LN_a, down, up and scale in that order]."""
    tokens, width = t.shape
    rank = down_weight.shape[0]
    parameters = [
        None if p is None else p.detach().float().contiguous()
        for p in (ln2_weight, ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, scale)
    ]
    d_t = torch.empty_like(t) if need_t else t.new_empty(0)
    shapes = ((width,), (width,), (rank, width), (rank,), (width, rank), (width,), (1,))
    gradients = [torch.empty(shape) if tokens else torch.zeros(shape) for shape in shapes]
    if tokens:
        call(
            "fastlift_adapter_backward",
            AdapterBackward(
                tokens, width, rank, DTYPES[t.dtype], torch.get_num_threads(), eps, ln_eps, pointer(t), pointer(d_ln2),
                pointer(d_residual), *[pointer(x) for x in (statistics[0], statistics[1], hidden)],
                *[pointer(p) for p in parameters], pointer(d_t) if need_t else None, *[pointer(g) for g in gradients],
            ),
        )  # fmt: skip
    return [d_t, *gradients]
