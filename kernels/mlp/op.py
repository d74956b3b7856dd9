"""The public MLP: checks, then the way that was asked for."""

import torch

from ..checks import check_once
from ..dispatch import Impl, choose, triton_reason
from ..registration import needs_gradients
from .arguments import Kind, MlpArguments, check, check_frozen
from .library import mlp_library
from .reference import mlp_reference
from .registered import mlp_forward


def mlp(
    x: torch.Tensor,
    in_weight: torch.Tensor,
    in_bias: torch.Tensor | None,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor | None,
    residual: torch.Tensor,
    *,
    kind: Kind,
    scale: torch.Tensor | None = None,
    overwrite: bool = False,
    impl: Impl | None = None,
) -> torch.Tensor:
    """A frozen MLP and the addition of its result: ``residual + scale * (act(x W_in^T + b_in) W_out^T + b_out)``.

    For backward it keeps the pre-activation ``x W_in^T + b_in`` alone, and nothing where no gradient of ``x`` is needed.

    Args:
        x: the MLP's normalised input, [.., D]; float32, bfloat16, float16 or float64.
        in_weight, in_bias: [M, D] in the dtype of ``x``; [M] in it or float32, or None.
        out_weight, out_bias: [D, M] and [D] or None, in the same way. All four are frozen.
        residual: like ``x``.
        kind: "quick_gelu", x sigmoid(1.702 x), or "gelu", x Phi(x).
        scale: LayerScale, [D], frozen, or None.
        overwrite: the memory of ``residual`` may hold the result: nobody else reads it, and no backward has kept it.
        impl: None (PyTorch's products on every device, fused activations between them), "reference", or "triton" (a GPU's
            own products in bfloat16 and float16: activation, derivative and residual in their epilogues).

    Returns:
        like ``x``. Under autocast PyTorch's products have its dtype; "triton" keeps that of ``x``.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or one that should be frozen and is not;
            the message names it.
        RuntimeError: ``impl`` is not available here, or the call is inside a torch.func transform.

    Source: the MLP of the ViT (Dosovitskiy et al. 2021); LayerScale: Touvron et al. 2021.
    """
    arguments = MlpArguments(x, in_weight, in_bias, out_weight, out_bias, residual, scale, kind)
    plain = check_once(check, arguments)
    check_frozen(arguments)
    if impl is None:
        return mlp_library(arguments, overwrite)
    if choose(impl, "x", x) == "reference":
        return mlp_reference(arguments)
    keep = torch.is_grad_enabled() and x.requires_grad
    return mlp_forward.call((*arguments, keep, impl), plain, keep or needs_gradients((residual,)))[0]


def mlp_reason(dtype: torch.dtype, device: torch.device) -> str:
    """Why ``mlp(impl="triton")`` does not take tensors of ``dtype`` on ``device``; "" where it does."""
    if reason := triton_reason(device.type):
        return reason
    known = dtype in (torch.bfloat16, torch.float16)
    return "" if known else f"the MLP's own products take bfloat16 and float16, not {str(dtype)[6:]}"
