"""The MLP by PyTorch's own products, on any device, eager or compiled."""

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import flop_registry, register_flop_formula

from ..activation.op import gelu, quick_gelu
from .arguments import MlpArguments

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}

if torch.ops.aten.addmm_ not in flop_registry:  # PyTorch counts addmm alone

    @register_flop_formula(torch.ops.aten.addmm_)
    def _addmm_flops(_c: list[int], a: list[int], b: list[int], *_: object, **__: object) -> int:
        return 2 * a[0] * a[1] * b[1]


def mlp_library(a: MlpArguments, overwrite: bool) -> torch.Tensor:
    """The result; with ``overwrite`` the residual's memory may hold it.

    Tokens go in one dimension: inductor's products are of [N, D], and it puts into their epilogues only what has that shape.
    """
    width, dtype = a.x.shape[-1], a.x.dtype
    pre = F.linear(a.x.reshape(-1, width), a.in_weight, None if a.in_bias is None else a.in_bias.to(dtype))  # [N, M]
    hidden = ACTIVATIONS[a.kind](pre)
    bias = None if a.out_bias is None else a.out_bias.to(dtype)
    if overwrite and _adds_in_place(a, hidden):
        total = a.residual if bias is None else a.residual.add_(bias)
        total.view(-1, width).addmm_(hidden, a.out_weight.T)
        return total
    out = F.linear(hidden, a.out_weight, bias)  # [N, D]
    if a.scale is not None:
        out = out * a.scale.to(out.dtype)
    return (a.residual.reshape(-1, width) + out).view(a.residual.shape)


def _adds_in_place(a: MlpArguments, hidden: torch.Tensor) -> bool:
    """Whether the residual is the product's C: on a CPU. A GPU's library has the bias in its epilogue only without a C."""
    plain = not torch.compiler.is_compiling() and hidden.dtype == a.residual.dtype  # under autocast they differ
    return plain and a.x.is_cpu and a.scale is None and a.residual.is_contiguous()
