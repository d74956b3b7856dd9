"""Attention by PyTorch's own op, with the packed operands cut into heads."""

import torch
import torch.nn.functional as F

# B images, L tokens, D width, H heads; the first Q tokens ask


def attention_library(
    qkv: torch.Tensor,
    heads: int,
    q: torch.Tensor | None,
    sin: torch.Tensor | None,
    cos: torch.Tensor | None,
    first: int,
    causal: bool,
) -> torch.Tensor:
    """The result [B, L or Q, D]; arguments as in ``op.attention``."""
    parts = qkv.chunk(3 if q is None else 2, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (parts if q is None else (q, *parts)))
    if sin is not None and cos is not None:
        q, k = rotated(q, sin, cos, first), rotated(k, sin, cos, first)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return mixed.transpose(1, 2).flatten(-2)


def rotated(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor, first: int) -> torch.Tensor:
    """Tokens of x [B, H, L, D/H] from ``first`` on turned by their angles [patches, D/H], in fp32; the others as they are.

    x -> x cos + (-x_2, x_1) sin for x = (x_1, x_2) in halves.
    """
    if x.shape[2] <= first:  # the class token alone asks
        return x
    last = first + len(sin)
    patches = x[:, :, first:last].float()
    one, two = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-two, one], dim=-1) * sin
    return torch.cat([x[:, :, :first], turned.to(x.dtype), x[:, :, last:]], dim=2)
