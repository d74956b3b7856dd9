"""Attention on a GPU: one launch each way."""

import math
from typing import Any

import torch

from ..triton_launch import dot_precision, kinds, launch
from .arguments import AttentionArguments, scale_of
from .backward import attention_backward_kernel
from .backward_whole import attention_backward_whole_kernel
from .configuration import Passes, backward_blocks, capability_of, forward_blocks, half_of, segments
from .forward import attention_forward_kernel

# B images, L tokens, D width, H heads; the first Q tokens ask

LOG2_E = math.log2(math.e)  # scores are kept times this: a GPU's exponential is of base 2


def forward(a: AttentionArguments, out: torch.Tensor, lse: torch.Tensor | None) -> None:
    """Fill ``out`` [B, Q, D], and ``lse`` [B, H, Q] where backward will want it."""
    blocks, constants, key = _prepared(a, forward_blocks, lse is None)
    images, tokens, queries, width = a.sizes
    launch(
        attention_forward_kernel, (images * a.heads, 1, 1), key,
        (a.qkv, a.q, a.sin, a.cos, out, lse, tokens, queries, width, a.heads, a.first, a.patches, LOG2_E * scale_of(a)),
        **constants, SEGMENTS=segments(tokens), BQ=blocks.queries, num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip


def backward(
    d_out: torch.Tensor, lse: torch.Tensor, a: AttentionArguments, d_qkv: torch.Tensor, d_q: torch.Tensor
) -> None:
    """Fill ``d_qkv``, of the shape of qkv, and ``d_q`` where there is q."""
    blocks, constants, key = _prepared(a, backward_blocks)
    images, tokens, queries, width = a.sizes
    known = (a.qkv, a.q, a.sin, a.cos, d_out, lse)
    gradients = (d_qkv, None if a.q is None else d_q)
    numbers = (tokens, queries, width, a.heads, a.first, a.patches, LOG2_E * scale_of(a), scale_of(a))
    compiled = {"num_warps": blocks.warps, "num_stages": blocks.stages}
    if isinstance(blocks, Passes):
        launch(
            attention_backward_kernel, (images * a.heads, 1, 1), key,
            (*known, torch.empty_like(lse), *gradients, *numbers),
            **constants, SEGMENTS=segments(tokens), BQ=blocks.queries, BK=blocks.keys, BQ2=blocks.queries_again, **compiled,
        )  # fmt: skip
    else:
        launch(
            attention_backward_whole_kernel, (images * a.heads, 1, 1), key, (*known, *gradients, *numbers),
            **constants, BQ=blocks.queries, BK=blocks.keys, **compiled,
        )  # fmt: skip


def _prepared(a: AttentionArguments, blocks_of: Any, *others: Any) -> tuple[Any, dict[str, Any], Any]:
    """(blocks, the constants that all kernels have, a key for ``launch``)."""
    _, tokens, _, width = a.sizes
    head_width = width // a.heads
    blocks = blocks_of(tokens, head_width, a.qkv.dtype, capability_of(a.qkv.device))
    constants = {
        "PACKED": a.q is None, "CAUSAL": a.causal, "WIDTH": head_width, "HALF": half_of(head_width),
        "PRECISION": dot_precision(a.qkv.dtype),
    }  # fmt: skip
    key = kinds((a.qkv, a.q, a.sin, a.cos), a.heads, segments(tokens), blocks, *constants.values(), *others)
    return blocks, constants, key
