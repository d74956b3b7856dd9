"""The adapter op on a GPU: by fused kernels, or by library products for the ranks where those are faster."""

from typing import Any

import torch

from . import fused_backward, fused_forward, wide
from .arguments import MOST_FUSED_RANK, AdapterArguments, AdapterGradients, AdapterIncoming, AdapterOutputs


def forward(a: AdapterArguments, outputs: AdapterOutputs, products: torch.dtype) -> None:
    """Fill ``outputs``, for at least one token; ``products``: the dtype of the products' operands."""
    way = fused_forward if a.down_weight.shape[0] <= MOST_FUSED_RANK else wide
    way.forward(a, _wanted(outputs), products)


def backward(a: AdapterArguments, incoming: AdapterIncoming, gradients: AdapterGradients) -> None:
    """Fill ``gradients``, for at least one token."""
    way = fused_backward if a.down_weight.shape[0] <= MOST_FUSED_RANK else wide
    way.backward(a, incoming, _wanted(gradients))


def _wanted(tensors: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """The same with None for what is empty: kernels are compiled without it."""
    return tuple([x if x.numel() else None for x in tensors])
