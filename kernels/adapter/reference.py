"""The definition of the adapter op in plain PyTorch: oracle of the tests, fallback on any device, baseline of the benchmarks."""

import torch
import torch.nn.functional as F

from .arguments import AdapterArguments

# N tokens (any leading shape), D width, r rank


def adapter_reference(a: AdapterArguments, products: torch.dtype) -> tuple[torch.Tensor | None, torch.Tensor]:
    """(LN_2(t), t + scale * (W_up relu(W_down LN_a(t) + b_down) + b_up)), each [.., D], products in ``products``."""
    dtype, width = a.t.dtype, int(a.t.shape[-1])  # a number, which torch.jit.trace would record otherwise
    with torch.autocast(a.t.device.type, enabled=False):
        ln2 = None
        if a.ln2_weight is not None and a.ln2_bias is not None:
            ln2 = F.layer_norm(a.t, (width,), a.ln2_weight.to(dtype), a.ln2_bias.to(dtype), a.eps)
        normed = F.layer_norm(a.t, (width,), a.ln_weight.to(dtype), a.ln_bias.to(dtype), a.ln_eps)
        hidden = F.relu(F.linear(normed.to(products), a.down_weight.to(products), a.down_bias.to(products)))  # [.., r]
        branch = F.linear(hidden, a.up_weight.to(products), a.up_bias.to(products)).to(dtype)  # [.., D]
        factor = a.fixed_scale if a.scale is None else a.scale.to(dtype).reshape(())
        return ln2, a.t + factor * branch
