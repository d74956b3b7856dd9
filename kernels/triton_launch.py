"""What the launches of all Triton kernels share."""

import contextlib

import torch


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def dot_precision(dtype: torch.dtype) -> str:
    """How a kernel multiplies float32: as PyTorch's own matrix products are allowed to ("tf32" or "ieee")."""
    allowed = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if allowed else "ieee"


def device_of(tensor: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Launch on the GPU of ``tensor``; nothing to do for the interpreter's CPU tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
