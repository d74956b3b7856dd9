"""The public adapter op: checks, then the implementation that fits the tensor's device."""

import torch
import torch.nn.functional as F

from ..checks import as_float, check_once
from ..dispatch import Impl, choose
from ..registration import needs_gradients
from .arguments import MAX_RANK, AdapterArguments, check, check_rank
from .reference import adapter_reference
from .registered import adapter_forward


def adapter(
    t: torch.Tensor,
    ln2_weight: torch.Tensor | None,
    ln2_bias: torch.Tensor | None,
    ln_weight: torch.Tensor,
    ln_bias: torch.Tensor,
    down_weight: torch.Tensor,
    down_bias: torch.Tensor,
    up_weight: torch.Tensor,
    up_bias: torch.Tensor,
    scale: torch.Tensor | float,
    *,
    eps: float = 1e-5,
    ln_eps: float | None = None,
    impl: Impl | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """One pass over the residual stream: the MLP's normalised input, and the residual plus the adapter branch.

    ``(ln2, residual) = (LN_2(t), t + scale * (W_up relu(W_down LN_a(t) + b_down) + b_up))``

    The adapter beside the MLP is ``ln2, residual = adapter(...)``, then ``residual + mlp(ln2)``. With
    ``ln2_weight=ln2_bias=None`` the first output is None (a drop-in beside any MLP); the serial Adapter
    ``m + A(m)`` is that with ``t=m, scale=1.0``.

    Args:
        t: residual stream after attention, [.., D], D a multiple of 8; float32, bfloat16, float16 (float64: reference).
        ln2_weight, ln2_bias: affine of LN_2, [D] each, or both None. Frozen in the fused op; where they need
            gradients, LN_2 is computed by PyTorch beside it, with the same result.
        ln_weight, ln_bias: affine of LN_a, [D].
        down_weight, down_bias, up_weight, up_bias: [r, D], [r], [D, r], [D]; beyond rank r = 512 the reference runs.
        scale: a tensor of one element (learnable), or a fixed float.
        eps: epsilon of LN_2, and of LN_a where ``ln_eps`` is None.
        ln_eps: epsilon of LN_a.
        impl: None (by device and dtype), "reference", "native" (CPU) or "triton" (GPU).

    All parameters may be float32 or in the dtype of ``t``. Outputs have the dtype of ``t``, sums are taken in float32,
    gradients have the dtype of their parameter. Under autocast a float32 ``t`` on a GPU is multiplied in autocast's
    dtype, as PyTorch would; otherwise autocast changes nothing.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device; the message names it.
        RuntimeError: ``impl`` is not available here, or the call is inside a torch.func transform.

    Source: AdaptFormer (Chen et al. 2022) as LIFT (Shi et al., ICML 2024) uses it.
    """
    learned = scale if isinstance(scale, torch.Tensor) else None
    fixed = 1.0 if isinstance(scale, torch.Tensor) else as_float(scale)
    parameters = (ln_weight, ln_bias, down_weight, down_bias, up_weight, up_bias, learned)
    constants = (fixed, as_float(eps), as_float(eps if ln_eps is None else ln_eps))
    arguments = AdapterArguments(t, ln2_weight, ln2_bias, *parameters, *constants)
    plain = check_once(check, arguments)
    if impl is not None and impl != "reference":
        check_rank(down_weight, impl)
    chosen = choose("reference" if down_weight.shape[0] > MAX_RANK else impl, "t", t)
    products = dtype_of_products(t)
    if chosen == "reference":
        return adapter_reference(arguments, products)
    ln2_outside = None
    if ln2_weight is not None and (ln2_weight.requires_grad or ln2_bias.requires_grad) and torch.is_grad_enabled():  # type: ignore[union-attr]
        ln2_outside = _trainable_ln2(t, ln2_weight, ln2_bias, eps)
        arguments = AdapterArguments(t, None, None, *parameters, *constants)
    keep = needs_gradients(arguments)
    ln2, residual = adapter_forward.call((*arguments, products, keep, chosen), plain, keep)[:2]
    return (ln2_outside if arguments.ln2_weight is None else ln2), residual


def dtype_of_products(t: torch.Tensor) -> torch.dtype:
    """The dtype that products are taken in: that of ``t``, unless autocast has another for float32 on this GPU."""
    if t.dtype == torch.float32 and t.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return t.dtype


def _trainable_ln2(t: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    with torch.autocast(t.device.type, enabled=False):
        return F.layer_norm(t, (t.shape[-1],), weight.to(t.dtype), None if bias is None else bias.to(t.dtype), eps)
