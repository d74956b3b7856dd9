"""The public quantisations: plain PyTorch, or one pass on a GPU."""

from collections.abc import Callable
from typing import Any

import torch

from ..activation.registered import KINDS
from ..checks import check_activations, check_like, check_parameter, check_positive
from ..dispatch import Impl, choose
from ..registration import guarded, unwatched
from . import reference
from .reference import Rows


def quantise_rows(x: torch.Tensor, *, impl: Impl | None = None) -> Rows:
    """Rows in e4m3 (4 exponent and 3 mantissa bits, largest 448) and what each was divided by.

    ``scale = max(max |row|, 1e-12) / 448``, ``rounded = e4m3(x / scale)``, so that x is about rounded * scale.

    No gradient flows through it. While ``torch.compile`` traces it is plain PyTorch, which inductor fuses with what
    makes x, and arguments are not checked.

    Args:
        x: [N, D]; float32, bfloat16 or float16.
        impl: None (by device), "reference" or "triton" (GPU of capability 8.9 or more).

    Returns:
        rounded: [N, D] float8_e4m3fn. scale: [N, 1] float32, in memory that is filled up to a multiple of 256 rows, since
        torch's row-wise scaled product reads so far (pytorch#133334).

    Raises: TypeError, ValueError for other dtypes or shapes, RuntimeError where ``impl`` is not available.
    Source: FP8 formats for deep learning (Micikevicius et al. 2022).
    """
    if _is_called():
        _check_rows("x", x)
    return _run("quantise_rows", impl, x)


def layer_norm_quantise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float, *, impl: Impl | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """``quantise_rows`` of LN(x) = (x - mean) rstd * weight + bias, which is never rounded to another dtype, in one pass.

    No gradient flows through it; ``mean`` and ``rstd`` are what LayerNorm's backward takes. Compilation as in
    :func:`quantise_rows`.

    Args:
        x: [N, D]; float32, bfloat16 or float16.
        weight, bias: [D], float32 or the dtype of x; bias may be None.
        eps: added to the variance.
        impl: as there.

    Returns: rounded and scale as there, and mean and rstd = 1 / sqrt(variance + eps), [N, 1] float32.
    Raises: TypeError, ValueError for other dtypes or shapes, RuntimeError where ``impl`` is not available.
    Source: Ba et al. 2016; rows as there.
    """
    if _is_called():
        _check_rows("x", x)
        width = tuple(x.shape[1:])
        check_parameter("weight", weight, width, "x", x)
        if bias is not None:
            check_parameter("bias", bias, width, "x", x)
        check_positive("eps", eps)
    return _run("layer_norm_quantise", impl, x, weight, bias, eps)


def layer_norm_quantise_backward(
    d_normed: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    *,
    impl: Impl | None = None,
) -> torch.Tensor:
    """d_x [N, D] in the dtype of x: rstd (g - mean(g) - x^ mean(g x^)) with g = d_normed weight, x^ = (x - mean) rstd.

    The LayerNorm's parameters are frozen. Compilation as in :func:`quantise_rows`.

    Args:
        d_normed: [N, D], the gradient of LN(x), in the dtype of x.
        x, weight: as in :func:`layer_norm_quantise`.
        mean, rstd: [N, 1] float32, as it returns them.
        impl: as there.

    Raises: as there.
    Source: Ba et al. 2016.
    """
    if _is_called():
        _check_rows("x", x)
        check_like("d_normed", d_normed, tuple(x.shape), (x.dtype,), "x", x)
        for name, statistic in (("mean", mean), ("rstd", rstd)):
            check_like(name, statistic, (len(x), 1), (torch.float32,), "x", x)
        check_parameter("weight", weight, tuple(x.shape[1:]), "x", x)
    return _run("layer_norm_quantise_backward", impl, d_normed, x, mean, rstd, weight)


def activation_quantise(pre: torch.Tensor, kind: str, *, impl: Impl | None = None) -> Rows:
    """``quantise_rows`` of the activation of ``pre``, which is never rounded to another dtype, in one pass.

    Args:
        pre: [N, D]; float32, bfloat16 or float16.
        kind: "quick_gelu" or "gelu".
        impl: as in :func:`quantise_rows`, and so are compilation and results.

    Raises: TypeError, ValueError for other dtypes, shapes or kinds, RuntimeError where ``impl`` is not available.
    Source: :func:`quick_gelu` and :func:`gelu`.
    """
    if _is_called():
        _check_rows("pre", pre)
        _check_kind(kind)
    return _run("activation_quantise", impl, pre, kind)


def activation_backward_quantise(d_y: torch.Tensor, pre: torch.Tensor, kind: str, *, impl: Impl | None = None) -> Rows:
    """``quantise_rows`` of d_pre = d_y * activation'(pre), which is never rounded to another dtype, in one pass.

    Args:
        d_y: [N, D], the gradient of the activation, in the dtype of ``pre``.
        pre: [N, D]; float32, bfloat16 or float16.
        kind: "quick_gelu" or "gelu".
        impl: as in :func:`quantise_rows`, and so are compilation and results.

    Raises: TypeError, ValueError for other dtypes, shapes or kinds, RuntimeError where ``impl`` is not available.
    Source: :func:`quick_gelu` and :func:`gelu`.
    """
    if _is_called():
        _check_rows("pre", pre)
        check_like("d_y", d_y, tuple(pre.shape), (pre.dtype,), "pre", pre)
        _check_kind(kind)
    return _run("activation_backward_quantise", impl, d_y, pre, kind)


def _run(name: str, impl: Impl | None, x: torch.Tensor, *others: Any) -> Any:
    """The op of that name by ``impl``, or by where ``x`` lies."""
    if impl is None:
        impl = "triton" if x.is_cuda and unwatched() and choose(None, "x", x) == "triton" else "reference"
    with torch.no_grad():
        if choose(impl, "x", x) == "reference":
            plain: Callable[..., Any] = getattr(reference, f"{name}_reference")
            return plain(x, *others)
        from . import gpu

        tensors = 1 + sum(isinstance(other, torch.Tensor) or other is None for other in others)
        return guarded(getattr(gpu, name), tensors)(x, *others)


def _is_called() -> bool:
    """Whether arguments are checked: torch.compile, which traces an autograd function's backward, refuses their layout there."""
    return not torch.compiler.is_compiling()


def _check_rows(name: str, x: torch.Tensor) -> None:
    check_activations(name, x)
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"{name}: expected [N, D], got shape {list(x.shape)}")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
