"""From a vision transformer's tokens to features."""

from __future__ import annotations

from torch import Tensor, nn


class ClassTokenPool(nn.Module):
    """Features are the class token after the last norm."""

    tokens: int | None = 1

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x[:, 0])


class MeanPool(nn.Module):
    """Features are the mean of ``count`` tokens from ``first`` on, normalised before (``norm``) or after the mean.

    The range leaves out prefix tokens where the model was trained so, and visual prompts always.
    """

    tokens: int | None = None

    def __init__(self, norm: nn.Module, norm_after: nn.Module, *, first: int, count: int) -> None:
        super().__init__()
        self.norm, self.norm_after, self.first, self.count = norm, norm_after, first, count

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_after(self.norm(x[:, self.first : self.first + self.count]).mean(dim=1))


class LatentPool(nn.Module):
    """Features come from a learned query that attends to the same range of tokens (SigLIP's MAP head, timm's module)."""

    tokens: int | None = None

    def __init__(self, norm: nn.Module, pool: nn.Module, norm_after: nn.Module, *, first: int, count: int) -> None:
        super().__init__()
        self.norm, self.pool, self.norm_after, self.first, self.count = norm, pool, norm_after, first, count

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_after(self.pool(self.norm(x[:, self.first : self.first + self.count])))


Pool = ClassTokenPool | MeanPool | LatentPool
