"""Attention by PyTorch's own op, with the packed operands cut into heads."""

import torch
import torch.nn.functional as F

from .arguments import AttentionArguments

# B images, L tokens, D width, H heads; the first Q tokens ask


def attention_library(a: AttentionArguments) -> torch.Tensor:
    """The result [B, L or Q, D]."""
    q, k, v = heads_of(a)
    return F.scaled_dot_product_attention(q, k, v, is_causal=a.causal).transpose(1, 2).flatten(-2)


def heads_of(a: AttentionArguments) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [B, H, L or Q, D/H], keys and values [B, H, L, D/H], turned where there are angles."""
    parts = a.qkv.chunk(3 if a.q is None else 2, dim=-1)
    parts = parts if a.q is None else (a.q, *parts)
    q, k, v = (part.unflatten(-1, (a.heads, -1)).transpose(1, 2) for part in parts)
    if a.sin is not None and a.cos is not None:
        q, k = rotated(q, a.sin, a.cos, a.first), rotated(k, a.sin, a.cos, a.first)
    return q, k, v


def rotated(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor, first: int) -> torch.Tensor:
    """Tokens of x [B, H, L, D/H] from ``first`` on turned by their angles [patches, D/H], in fp32; the others as they are.

    x -> x cos + (-x_2, x_1) sin for x = (x_1, x_2) in halves.
    """
    if x.shape[2] <= first:  # the class token alone asks
        return x
    last = first + len(sin)
    patches = x[:, :, first:last]
    patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
    count = patches.shape[2]  # queries may end before the patches do
    one, two = patches.chunk(2, dim=-1)
    turned = patches * cos[:count] + torch.cat([-two, one], dim=-1) * sin[:count]
    return torch.cat([x[:, :, :first], turned.to(x.dtype), x[:, :, last:]], dim=2)
