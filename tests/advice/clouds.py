"""Features of classes as clouds around directions, with known labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clouds(counts: list[int], *, width: int = 24, spread: float = 0.25, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Unit features [N, D], labels [N] and the directions of the classes [C, D]."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(len(counts), width, generator=generator), dim=1)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels), width, generator=generator)
    return F.normalize(centres[labels] + spread * noise, dim=1), labels, centres
