"""The definition of the MLP in plain PyTorch."""

import torch
import torch.nn.functional as F

from ..activation.reference import gelu_reference, quick_gelu_reference
from .arguments import MlpArguments

ACTIVATIONS = {"quick_gelu": quick_gelu_reference, "gelu": gelu_reference}


def mlp_reference(a: MlpArguments) -> torch.Tensor:
    """residual + scale * (act(x W_in^T + b_in) W_out^T + b_out)."""
    hidden = ACTIVATIONS[a.kind](F.linear(a.x, a.in_weight, _like(a.in_bias, a.x)))
    out = F.linear(hidden, a.out_weight, _like(a.out_bias, a.x))
    return a.residual + (out if a.scale is None else out * a.scale.to(out.dtype))


def _like(vector: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    return None if vector is None else vector.to(x.dtype)
