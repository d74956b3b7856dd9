"""Matrix products by PyTorch's library, with results in float32 whatever the operands are."""

import torch


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b in float32, [M, K] and [K, N] of one dtype: what the sums are taken in is not rounded away at the end."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()  # for the interpreter; exact products, as on a GPU
