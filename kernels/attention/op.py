"""The public attention: checks, then the implementation that fits the tensor's device."""

from typing import Any

import torch

from ..checks import check_activations, check_like, check_once
from .library import attention_library


def attention(
    qkv: torch.Tensor,
    heads: int,
    q: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    first: int = 0,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D/H)) v of every head, from the packed result of one product to the input of the next.

    Args:
        qkv: [B, L, 3D], queries, keys and values side by side, each with its H heads side by side; or keys and values alone,
            [B, L, 2D], where ``q`` is given. float32, bfloat16, float16 or float64.
        heads: H, which divides D.
        q: [B, Q, D], the queries of the first Q tokens, of the dtype of ``qkv``.
        sin: [patches, D/H], with ``cos`` the angles of rotary positions, or None: tokens from ``first`` on have their queries
            and keys turned by them, in float32.
        cos: as ``sin``.
        first: tokens without a place, before the patches.
        causal: a token sees itself and the tokens before it.

    Returns:
        [B, L, D], or [B, Q, D] where ``q`` is given, in the dtype of ``qkv``.

    Raises: TypeError, ValueError for arguments that are not those of one call.
    Source: Vaswani et al. 2017; rotary positions: Su et al. 2021, in DINOv3's axial form.
    """
    arguments = (qkv, heads, q, sin, cos, first, causal)
    check_once(_check, arguments)
    return attention_library(*arguments)


def _check(arguments: tuple[Any, ...]) -> None:
    qkv, heads, q, sin, cos, first, _ = arguments
    check_activations("qkv", qkv)
    parts = 3 if q is None else 2
    if qkv.dim() != 3 or heads < 1 or qkv.shape[-1] == 0 or qkv.shape[-1] % (parts * heads):
        raise ValueError(f"qkv: expected [B, L, {parts}D] with D a multiple of {heads} heads, got {list(qkv.shape)}")
    images, tokens, together = qkv.shape
    width = together // parts
    if q is not None:
        check_activations("q", q)
        if q.dim() != 3 or q.shape[1] > tokens:
            raise ValueError(f"q: expected [{images}, up to {tokens}, {width}], got {list(q.shape)}")
        check_like("q", q, (images, q.shape[1], width), (qkv.dtype,), "qkv", qkv)
    if (sin is None) != (cos is None):
        raise ValueError("sin, cos: expected both or neither")
    if sin is not None:
        if width // heads % 2:
            raise ValueError(f"sin: expected heads of an even width to turn, got {width // heads}")
        check_activations("sin", sin)
        if first < 0 or len(sin) > tokens - first:
            raise ValueError(f"sin: expected at most {tokens - first} patches behind {first} tokens, got {len(sin)}")
        for name, angles in (("sin", sin), ("cos", cos)):
            check_like(name, angles, (len(sin), width // heads), (sin.dtype,), "qkv", qkv)
