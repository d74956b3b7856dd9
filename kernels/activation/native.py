"""The activations on a CPU through the native library."""

import torch

from ..native.library import ACTIVATIONS, DTYPES, Activation, call, pointer


def forward(x: torch.Tensor, kind: str) -> torch.Tensor:
    """y of contiguous ``x``."""
    return _run(x, None, kind)


def backward(d_y: torch.Tensor, x: torch.Tensor, kind: str) -> torch.Tensor:
    """d_x from contiguous ``d_y`` and the pre-activation ``x``."""
    return _run(x, d_y, kind)


def _run(x: torch.Tensor, d_y: torch.Tensor | None, kind: str) -> torch.Tensor:
    out = torch.empty_like(x)
    if x.numel():
        sizes = (x.numel(), DTYPES[x.dtype], torch.get_num_threads(), ACTIVATIONS[kind], d_y is not None)
        call("fastlift_activation", Activation(*sizes, pointer(x), pointer(d_y), pointer(out)))
    return out
