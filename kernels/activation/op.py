"""The public activations: checks, then the implementation that fits the tensor's device."""

import torch

from ..checks import check_activations
from ..dispatch import Impl, choose
from .reference import gelu_reference, quick_gelu_reference
from .registered import activation_forward


def quick_gelu(x: torch.Tensor, *, impl: Impl | None = None) -> torch.Tensor:
    """x * sigmoid(1.702 x) in one pass, and its backward in one pass from x alone.

    Args:
        x: any shape; float32, bfloat16, float16 or float64.
        impl: None (by device and dtype), "reference", "native" (CPU) or "triton" (GPU).

    Raises: TypeError for other dtypes, RuntimeError where ``impl`` is not available.
    Source: OpenAI's CLIP (Radford et al. 2021).
    """
    check_activations("x", x)
    chosen = choose(impl, "x", x)
    return quick_gelu_reference(x) if chosen == "reference" else activation_forward(x, "quick_gelu", chosen)


def gelu(x: torch.Tensor, *, impl: Impl | None = None) -> torch.Tensor:
    """x * Phi(x) (the exact form, with erf) in one pass, and its backward in one pass from x alone.

    Arguments and errors as in :func:`quick_gelu`. Source: Hendrycks and Gimpel 2016.
    """
    check_activations("x", x)
    chosen = choose(impl, "x", x)
    return gelu_reference(x) if chosen == "reference" else activation_forward(x, "gelu", chosen)
