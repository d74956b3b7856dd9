"""What attention takes, stated once; and the checks of it, before anything reads it."""

import math
from typing import Any, Literal, NamedTuple

import torch

from ..checks import check_activations, check_like

# B images, L tokens, D width, H heads; the first Q tokens ask

AttentionImpl = Literal["triton", "reference"]


class AttentionArguments(NamedTuple):
    """The arguments of a call."""

    qkv: torch.Tensor  # [B, L, 3D], or [B, L, 2D] where there is q
    q: torch.Tensor | None  # [B, Q, D]
    sin: torch.Tensor | None  # [patches, D/H], constants
    cos: torch.Tensor | None
    heads: int
    first: int  # tokens before the patches
    causal: bool

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(B, L, Q, D)."""
        images, tokens, together = self.qkv.shape
        width = together // (3 if self.q is None else 2)
        return images, tokens, tokens if self.q is None else self.q.shape[1], width

    @property
    def patches(self) -> int:
        return 0 if self.sin is None else self.sin.shape[0]


def check(arguments: tuple[Any, ...]) -> None:
    """Raise TypeError or ValueError, which name the argument, unless these :class:`AttentionArguments` are those of one call."""
    a = AttentionArguments(*arguments)
    check_activations("qkv", a.qkv)
    parts = 3 if a.q is None else 2
    if a.qkv.dim() != 3 or a.heads < 1 or a.qkv.shape[-1] == 0 or a.qkv.shape[-1] % (parts * a.heads):
        raise ValueError(
            f"qkv: expected [B, L, {parts}D] with D a multiple of {a.heads} heads, got {list(a.qkv.shape)}"
        )
    images, tokens, together = a.qkv.shape
    width = together // parts
    if a.q is not None:
        check_activations("q", a.q)
        if a.q.dim() != 3 or a.q.shape[1] > tokens:
            raise ValueError(f"q: expected [{images}, up to {tokens}, {width}], got {list(a.q.shape)}")
        check_like("q", a.q, (images, a.q.shape[1], width), (a.qkv.dtype,), "qkv", a.qkv)
    if (a.sin is None) != (a.cos is None):
        raise ValueError("sin, cos: expected both or neither")
    if a.sin is not None and a.cos is not None:
        _check_angles(a, a.sin, a.cos, tokens, width // a.heads)


def _check_angles(a: AttentionArguments, sin: torch.Tensor, cos: torch.Tensor, tokens: int, width: int) -> None:
    if width % 2:
        raise ValueError(f"sin: expected heads of an even width to turn, got {width}")
    check_activations("sin", sin)
    if a.first < 0 or len(sin) > tokens - a.first:
        raise ValueError(f"sin: expected at most {tokens - a.first} patches behind {a.first} tokens, got {len(sin)}")
    for name, angles in (("sin", sin), ("cos", cos)):
        check_like(name, angles, (len(sin), width), (sin.dtype,), "qkv", a.qkv)


def check_angles_are_constants(a: AttentionArguments) -> None:
    """Raise ValueError where an angle requires gradients, which is no part of what :func:`check` has seen before."""
    for name, tensor in (("sin", a.sin), ("cos", a.cos)):
        if tensor is not None and tensor.requires_grad:
            raise ValueError(f'{name}: impl="triton" takes constants, got a tensor that requires gradients')


def check_incoming(d_out: torch.Tensor, lse: torch.Tensor, a: AttentionArguments) -> None:
    """Raise unless the gradient and what forward kept are those of this call."""
    images, _, queries, width = a.sizes
    check_like("d_out", d_out, (images, queries, width), (a.qkv.dtype,), "qkv", a.qkv)
    check_like("lse", lse, (images, a.heads, queries), (torch.float32,), "qkv", a.qkv)


def scale_of(a: AttentionArguments) -> float:
    """1 / sqrt(D/H), by which scores are multiplied."""
    return 1.0 / math.sqrt(a.sizes[3] // a.heads)
