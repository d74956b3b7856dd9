"""The public activations: checks, then the implementation that fits the tensor's device."""

import torch

from ..checks import check_activations, check_once
from ..dispatch import Impl, choose
from .reference import gelu_reference, quick_gelu_reference
from .registered import activation_forward


def quick_gelu(x: torch.Tensor, *, impl: Impl | None = None) -> torch.Tensor:
    """x * sigmoid(1.702 x) in one pass, and its backward in one pass from x alone.

    While ``torch.compile`` traces for a GPU it is plain PyTorch, unless ``impl`` says otherwise: inductor then puts it
    into the pass or product beside it.

    Args:
        x: any shape; float32, bfloat16, float16 or float64.
        impl: None (by device and dtype), "reference", "native" (CPU) or "triton" (GPU).

    Raises: TypeError for other dtypes, RuntimeError where ``impl`` is not available.
    Source: OpenAI's CLIP (Radford et al. 2021).
    """
    return _run(x, "quick_gelu", impl)


def gelu(x: torch.Tensor, *, impl: Impl | None = None) -> torch.Tensor:
    """x * Phi(x) (the exact form, with erf) in one pass, and its backward in one pass from x alone.

    Compilation, arguments and errors as in :func:`quick_gelu`. Source: Hendrycks and Gimpel 2016.
    """
    return _run(x, "gelu", impl)


_REFERENCES = {"quick_gelu": quick_gelu_reference, "gelu": gelu_reference}


def _run(x: torch.Tensor, kind: str, impl: Impl | None) -> torch.Tensor:
    plain = check_once(_check, (x,))
    chosen = choose(impl, "x", x)
    is_left_to_inductor = impl is None and x.is_cuda and torch.compiler.is_compiling()
    if chosen == "reference" or is_left_to_inductor:
        return _REFERENCES[kind](x)
    return activation_forward.call((x, kind, chosen), plain, x.requires_grad and torch.is_grad_enabled())


def _check(arguments: tuple[object]) -> None:
    check_activations("x", *arguments)
