"""Attention in plain PyTorch: the definition, from which the tests take their truth."""

import torch

from .arguments import AttentionArguments, scale_of
from .library import heads_of

# B images, L tokens, D width, H heads; the first Q tokens ask


def attention_reference(a: AttentionArguments) -> torch.Tensor:
    """The result [B, L or Q, D]: products in the dtype given, the softmax in float32 or float64."""
    q, k, v = heads_of(a)  # [B, H, Q, D/H], twice [B, H, L, D/H]
    scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) * scale_of(a)
    if a.causal:
        unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(unseen, float("-inf"))
    mixed = scores.softmax(-1).to(v.dtype) @ v
    return mixed.transpose(1, 2).flatten(-2)
