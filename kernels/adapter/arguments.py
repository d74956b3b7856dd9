"""What the adapter op takes, keeps and gives, each stated once; and the checks of it, before anything reads it."""

from typing import Any, NamedTuple

import torch

from ..checks import check_activations, check_like, check_parameter, check_positive

MAX_RANK = 512  # of the fused implementations
# On a GPU; above it, second readings of both weights and of rows cost more than library products do (README.md).
MOST_FUSED_RANK = 128

# N tokens, D width, r rank, R padded rank


class AdapterArguments(NamedTuple):
    """The arguments of a call. Parameters are float32 or have the dtype of ``t``."""

    t: torch.Tensor  # [.., D], the residual stream
    ln2_weight: torch.Tensor | None  # [D], with ln2_bias: the affine of LN_2; both None without LN_2
    ln2_bias: torch.Tensor | None  # [D]
    ln_weight: torch.Tensor  # [D], with ln_bias: the affine of LN_a
    ln_bias: torch.Tensor  # [D]
    down_weight: torch.Tensor  # [r, D]
    down_bias: torch.Tensor  # [r]
    up_weight: torch.Tensor  # [D, r]
    up_bias: torch.Tensor  # [D]
    scale: torch.Tensor | None  # of one element; None: fixed_scale holds
    fixed_scale: float
    eps: float  # of LN_2
    ln_eps: float  # of LN_a

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(N, D, r)."""
        width = self.t.shape[-1]
        return self.t.numel() // width, width, self.down_weight.shape[0]


class AdapterOutputs(NamedTuple):
    """What forward gives; what nobody wants of it is empty (None for a Triton kernel)."""

    ln2: torch.Tensor  # as t
    residual: torch.Tensor  # as t
    statistics: torch.Tensor  # [2, N] float32: mean and variance, kept for backward
    hidden: torch.Tensor  # [N, r] in the dtype of the products' operands, kept for backward
    weights: torch.Tensor  # [2, R, D] in that dtype; with sums: the parameters folded for the fused kernels of a GPU
    sums: torch.Tensor  # [2 R + D] float32


class AdapterIncoming(NamedTuple):
    """What backward takes beside the arguments: the gradients of the results, and what forward kept."""

    d_residual: torch.Tensor  # as t
    d_ln2: torch.Tensor | None  # as t; None: zero
    statistics: torch.Tensor  # [2, N]
    hidden: torch.Tensor  # [N, r]
    weights: torch.Tensor  # [2, R, D] or empty
    sums: torch.Tensor  # [2 R + D] or empty


class AdapterGradients(NamedTuple):
    """What backward gives, float32 but for that of t, which is empty (None for a Triton kernel) where nobody wants it."""

    t: torch.Tensor  # as t
    ln_weight: torch.Tensor  # [D]
    ln_bias: torch.Tensor  # [D]
    down_weight: torch.Tensor  # [r, D]
    down_bias: torch.Tensor  # [r]
    up_weight: torch.Tensor  # [D, r]
    up_bias: torch.Tensor  # [D]
    scale: torch.Tensor  # [1]


def check(arguments: tuple[Any, ...]) -> None:
    """Raise TypeError or ValueError, which name the argument, unless these :class:`AdapterArguments` are those of one call."""
    a = AdapterArguments(*arguments)
    check_activations("t", a.t)
    if a.t.dim() < 1 or a.t.shape[-1] == 0 or a.t.shape[-1] % 8:
        raise ValueError(f"t: expected [.., D] with D a multiple of 8, got shape {list(a.t.shape)}")
    width = a.t.shape[-1]
    if not isinstance(a.down_weight, torch.Tensor):
        raise TypeError(f"down_weight: expected a tensor [r, {width}], got {type(a.down_weight).__name__}")
    if a.down_weight.dim() != 2:
        raise ValueError(f"down_weight: expected [r, {width}], got shape {list(a.down_weight.shape)}")
    rank = a.down_weight.shape[0]
    if rank < 1:
        raise ValueError("down_weight: expected a rank (rows) of 1 or more, got 0")
    if (a.ln2_weight is None) != (a.ln2_bias is None):
        raise ValueError("ln2_weight, ln2_bias: expected both or neither")
    if a.ln2_weight is not None:
        check_parameter("ln2_weight", a.ln2_weight, (width,), "t", a.t)
        check_parameter("ln2_bias", a.ln2_bias, (width,), "t", a.t)
    check_parameter("ln_weight", a.ln_weight, (width,), "t", a.t)
    check_parameter("ln_bias", a.ln_bias, (width,), "t", a.t)
    check_parameter("down_weight", a.down_weight, (rank, width), "t", a.t)
    check_parameter("down_bias", a.down_bias, (rank,), "t", a.t)
    check_parameter("up_weight", a.up_weight, (width, rank), "t", a.t)
    check_parameter("up_bias", a.up_bias, (width,), "t", a.t)
    if a.scale is not None:
        if a.scale.numel() != 1:
            raise ValueError(f"scale: expected one element or a float, got shape {list(a.scale.shape)}")
        check_parameter("scale", a.scale, tuple(a.scale.shape), "t", a.t)
    elif not isinstance(a.fixed_scale, (int, float)):
        raise TypeError(f"scale: expected a tensor of one element or a float, got {type(a.fixed_scale).__name__}")
    check_positive("eps", a.eps)
    check_positive("ln_eps", a.ln_eps)


def check_rank(down_weight: torch.Tensor, impl: str) -> None:
    """Raise ValueError where the rank is beyond the fused implementations."""
    if down_weight.shape[0] > MAX_RANK:
        raise ValueError(f'down_weight: impl="{impl}" takes a rank (rows) up to {MAX_RANK}, got {down_weight.shape[0]}')


def padded(rank: int) -> int:
    """R: matrix units multiply by 16 columns and more."""
    return max(16, 1 << (int(rank) - 1).bit_length())


def folded_shapes(a: AdapterArguments, impl: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of ``weights`` and ``sums``, which only the fused kernels of a GPU have."""
    _, width, rank = a.sizes
    if impl == "native" or rank > MOST_FUSED_RANK:
        return (0,), (0,)
    return (2, padded(rank), width), (2 * padded(rank) + width,)


def product_dtypes(t: torch.Tensor) -> tuple[torch.dtype, ...]:
    """In which products may be taken: that of ``t``, or a shorter one for float32 under autocast on a GPU."""
    return (t.dtype, torch.bfloat16, torch.float16) if t.dtype == torch.float32 else (t.dtype,)


def check_products(products: torch.dtype, t: torch.Tensor) -> None:
    """Raise ValueError unless products may be taken in this dtype."""
    if products not in product_dtypes(t):
        raise ValueError(f"products: expected {t.dtype}, or a shorter float for float32 activations, got {products}")


def check_incoming(a: AdapterArguments, incoming: AdapterIncoming, impl: str) -> None:
    """The same for what forward kept and autograd brings; ``a`` has been checked."""
    (N, _, r), dtype = a.sizes, a.t.dtype
    check_like("d_residual", incoming.d_residual, tuple(a.t.shape), (dtype,), "t", a.t)
    if incoming.d_ln2 is not None:
        check_like("d_ln2", incoming.d_ln2, tuple(a.t.shape), (dtype,), "t", a.t)
        if a.ln2_weight is None:
            raise ValueError("d_ln2: expected None where ln2_weight is None")
    check_like("statistics", incoming.statistics, (2, N), (torch.float32,), "t", a.t)
    dtypes = (torch.float32,) if impl == "native" else product_dtypes(a.t)
    check_like("hidden", incoming.hidden, (N, r), dtypes, "t", a.t)
    weights, sums = folded_shapes(a, impl)
    check_like("weights", incoming.weights, weights, (incoming.hidden.dtype,), "t", a.t)
    check_like("sums", incoming.sums, sums, (torch.float32,), "t", a.t)
