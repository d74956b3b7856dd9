"""The public quantisation: plain PyTorch, or one pass on a GPU."""

import torch

from ..checks import check_activations
from ..dispatch import Impl, choose
from ..registration import guarded, unwatched
from .reference import quantise_rows_reference


def quantise_rows(x: torch.Tensor, *, impl: Impl | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in e4m3 (4 exponent and 3 mantissa bits, largest 448) and what each was divided by.

    ``scale = max(max |row|, 1e-12) / 448``, ``rounded = e4m3(x / scale)``, so that x is about rounded * scale.

    No gradient flows through it. While ``torch.compile`` traces it is plain PyTorch, which inductor fuses with what makes x.

    Args:
        x: [N, D]; float32, bfloat16 or float16.
        impl: None (by device), "reference" or "triton" (GPU of capability 8.9 or more).

    Returns:
        rounded: [N, D] float8_e4m3fn. scale: [N, 1] float32, in memory that is filled up to a multiple of 256 rows, since
        torch's row-wise scaled product reads so far (pytorch#133334).

    Raises: TypeError, ValueError for other dtypes or shapes, RuntimeError where ``impl`` is not available.
    Source: FP8 formats for deep learning (Micikevicius et al. 2022).
    """
    check_activations("x", x)
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"x: expected [N, D], got shape {list(x.shape)}")
    if impl is None:
        impl = "triton" if x.is_cuda and unwatched() and choose(None, "x", x) == "triton" else "reference"
    with torch.no_grad():
        if choose(impl, "x", x) == "reference":
            return quantise_rows_reference(x)
        from . import gpu

        return guarded(gpu.quantise_rows, 1)(x)
