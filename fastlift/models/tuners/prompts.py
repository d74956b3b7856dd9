"""Visual prompts: learned tokens after the patches (Jia et al. 2022), at the first block or anew at every block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.vit import VisionTransformer


class Prompt(nn.Module):
    """tokens [B, L, D] -> [B, length + P, D]: the first ``length`` tokens, then P learned ones.

    Args:
        length: tokens of the image itself; whatever stands behind them (an earlier block's prompts) is replaced.
        bound: of the uniform start.
    """

    def __init__(self, count: int, width: int, length: int, bound: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.length = length
        self.prompt = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound, generator=generator))

    def forward(self, tokens: Tensor) -> Tensor:
        prompt = self.prompt.to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, : self.length], prompt], dim=1)


def _attach(vit: VisionTransformer, settings: TunerSettings, layers: tuple[int, ...]) -> dict[str, nn.Parameter]:
    inputs = vit.patches.weight[0].numel()  # 3 * patch area, the fan-in that the start's bound counts
    bound = math.sqrt(6.0 / (inputs + vit.width))
    trained: dict[str, nn.Parameter] = {}
    for i in layers:
        prompt = Prompt(settings.prompt_length, vit.width, vit.sequence_length, bound, settings.generator)
        vit.block(i).enter = prompt
        trained[f"vpt_list.{i}.prompt"] = prompt.prompt
    return trained


def attach_vpt_shallow(vit: VisionTransformer, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Prompts that enter at the first block and are computed on by all of them."""
    return _attach(vit, settings, (0,))


def attach_vpt_deep(vit: VisionTransformer, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Prompts of their own at each chosen block, in place of those of the block before."""
    return _attach(vit, settings, settings.layers)
