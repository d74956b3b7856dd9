"""The MLP by PyTorch's own products, on any device, eager or compiled."""

from typing import Any

import torch
import torch.nn.functional as F

from ..activation.op import gelu, quick_gelu
from ..registration import unwatched
from .arguments import MlpArguments

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


class _AddedInPlace(torch.autograd.Function):
    """residual + hidden W^T + b in the memory of the residual [.., D]; W [D, M] and b [D] are frozen.

    PyTorch's ``addmm_`` on a view of the residual would copy the gradient twice in backward.
    """

    @staticmethod
    def forward(
        ctx: Any, residual: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.mark_dirty(residual)
        if bias is not None:
            residual.add_(bias)
        residual.view(len(hidden), -1).addmm_(hidden, weight.T)
        return residual

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        d_hidden = gradients[0].reshape(-1, len(weight)) @ weight if ctx.needs_input_grad[1] else None
        return gradients[0], d_hidden, None, None


def mlp_library(a: MlpArguments, overwrite: bool) -> torch.Tensor:
    """The result; with ``overwrite`` the residual's memory may hold it.

    Tokens go in one dimension: inductor's products are of [N, D], and it puts into their epilogues only what has that shape.
    """
    width, dtype = a.x.shape[-1], a.x.dtype
    pre = F.linear(a.x.reshape(-1, width), a.in_weight, None if a.in_bias is None else a.in_bias.to(dtype))  # [N, M]
    hidden = ACTIVATIONS[a.kind](pre)
    bias = None if a.out_bias is None else a.out_bias.to(dtype)
    if overwrite and _adds_in_place(a, hidden):
        return _AddedInPlace.apply(a.residual, hidden, a.out_weight, bias)
    out = F.linear(hidden, a.out_weight, bias)  # [N, D]
    if a.scale is not None:
        out = out * a.scale.to(out.dtype)
    return (a.residual.reshape(-1, width) + out).view(a.residual.shape)


def _adds_in_place(a: MlpArguments, hidden: torch.Tensor) -> bool:
    """Whether the residual is the product's C: on a CPU. A GPU's library has the bias in its epilogue only without a C."""
    alike = hidden.dtype == a.residual.dtype  # but under autocast
    return a.x.is_cpu and alike and a.scale is None and a.residual.is_contiguous() and a.x.numel() > 0 and unwatched()
