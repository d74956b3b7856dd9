"""The definitions of the activations in plain PyTorch."""

import torch
import torch.nn.functional as F


def quick_gelu_reference(x: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(1.702 x), as OpenAI's CLIP computes it."""
    return x * torch.sigmoid(1.702 * x)


def gelu_reference(x: torch.Tensor) -> torch.Tensor:
    """x * Phi(x), the exact (erf) form."""
    return F.gelu(x)
