"""What the adapter ops take: checked before anything reads it, whether it comes through the public op or past it."""

import torch

from ..checks import check_activations, check_kept, check_parameter, check_positive

MAX_RANK = 512  # of the fused implementations

# N tokens, D width, r rank


def check(
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
    eps: float,
    ln_eps: float,
) -> None:
    """Raise TypeError or ValueError, which name the argument, unless the arguments are those of one call."""
    check_activations("t", t)
    if t.dim() < 1 or t.shape[-1] == 0 or t.shape[-1] % 8:
        raise ValueError(f"t: expected [.., D] with D a multiple of 8, got shape {list(t.shape)}")
    width = t.shape[-1]
    if not isinstance(down_weight, torch.Tensor):
        raise TypeError(f"down_weight: expected a tensor [r, {width}], got {type(down_weight).__name__}")
    if down_weight.dim() != 2:
        raise ValueError(f"down_weight: expected [r, {width}], got shape {list(down_weight.shape)}")
    rank = down_weight.shape[0]
    if rank < 1:
        raise ValueError("down_weight: expected a rank (rows) of 1 or more, got 0")
    if (ln2_weight is None) != (ln2_bias is None):
        raise ValueError("ln2_weight, ln2_bias: expected both or neither")
    if ln2_weight is not None:
        check_parameter("ln2_weight", ln2_weight, (width,), "t", t)
        check_parameter("ln2_bias", ln2_bias, (width,), "t", t)
    check_parameter("ln_weight", ln_weight, (width,), "t", t)
    check_parameter("ln_bias", ln_bias, (width,), "t", t)
    check_parameter("down_weight", down_weight, (rank, width), "t", t)
    check_parameter("down_bias", down_bias, (rank,), "t", t)
    check_parameter("up_weight", up_weight, (width, rank), "t", t)
    check_parameter("up_bias", up_bias, (width,), "t", t)
    if isinstance(scale, torch.Tensor):
        if scale.numel() != 1:
            raise ValueError(f"scale: expected one element or a float, got shape {list(scale.shape)}")
        check_parameter("scale", scale, tuple(scale.shape), "t", t)
    elif not isinstance(scale, (int, float)):
        raise TypeError(f"scale: expected a tensor of one element or a float, got {type(scale).__name__}")
    check_positive("eps", eps)
    check_positive("ln_eps", ln_eps)


def check_rank(down_weight: torch.Tensor, impl: str) -> None:
    """Raise ValueError where the rank is beyond the fused implementations."""
    if down_weight.shape[0] > MAX_RANK:
        raise ValueError(f'down_weight: impl="{impl}" takes a rank (rows) up to {MAX_RANK}, got {down_weight.shape[0]}')


def check_products(products: object, t: torch.Tensor) -> None:
    """Raise ValueError unless products may be taken in this dtype: that of ``t``, or a shorter one on a GPU."""
    if products == t.dtype or (t.dtype == torch.float32 and products in (torch.bfloat16, torch.float16)):
        return
    raise ValueError(f"products: expected {t.dtype}, or a shorter float for float32 activations, got {products}")


def check_backward(
    d_ln2: torch.Tensor | None,  # as t
    d_residual: torch.Tensor,  # as t
    t: torch.Tensor,  # [.., D]
    statistics: torch.Tensor,  # [2, N]
    hidden: torch.Tensor,  # [N, r]
    ln2_weight: torch.Tensor | None,
    hidden_dtype: torch.dtype,
    rank: int,
) -> None:
    """The same for what forward kept and autograd brings; t and the parameters have been checked."""
    shape, tokens = tuple(t.shape), t.numel() // t.shape[-1]
    check_kept("d_residual", d_residual, shape, (t.dtype,), t)
    if d_ln2 is not None:
        check_kept("d_ln2", d_ln2, shape, (t.dtype,), t)
        if ln2_weight is None:
            raise ValueError("d_ln2: expected None where ln2_weight is None")
    check_kept("statistics", statistics, (2, tokens), (torch.float32,), t)
    check_kept("hidden", hidden, (tokens, rank), (hidden_dtype,), t)
