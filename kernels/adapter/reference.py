"""The definition of the adapter op in plain PyTorch: oracle of the tests, fallback on any device, baseline of the benchmarks."""

import torch
import torch.nn.functional as F

# N tokens (any leading shape), D width, r rank


def adapter_reference(
    t: torch.Tensor,  # [.., D]
    ln2_weight: torch.Tensor | None,  # [D]
    ln2_bias: torch.Tensor | None,  # [D]
    ln_weight: torch.Tensor,  # [D]
    ln_bias: torch.Tensor,  # [D]
    down_weight: torch.Tensor,  # [r, D]
    down_bias: torch.Tensor,  # [r]
    up_weight: torch.Tensor,  # [D, r]
    up_bias: torch.Tensor,  # [D]
    scale: torch.Tensor | float,
    eps: float,
    ln_eps: float,
    products: torch.dtype | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """(LN_2(t), t + scale * (W_up relu(W_down LN_a(t) + b_down) + b_up)), products in ``products`` or the dtype of ``t``."""
    dtype, width = t.dtype, t.shape[-1]
    products = dtype if products is None else products
    with torch.autocast(t.device.type, enabled=False):
        ln2 = None
        if ln2_weight is not None and ln2_bias is not None:
            ln2 = F.layer_norm(t, (width,), ln2_weight.to(dtype), ln2_bias.to(dtype), eps)
        normed = F.layer_norm(t, (width,), ln_weight.to(dtype), ln_bias.to(dtype), ln_eps)
        hidden = F.relu(F.linear(normed.to(products), down_weight.to(products), down_bias.to(products)))  # [.., r]
        branch = F.linear(hidden, up_weight.to(products), up_bias.to(products)).to(dtype)  # [.., D]
        factor = scale.to(dtype).reshape(()) if isinstance(scale, torch.Tensor) else scale
        return ln2, t + factor * branch
