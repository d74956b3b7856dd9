"""Learned tokens (visual prompt tuning, Jia et al. 2022), at the first block or anew at every block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.vit import PromptSite, Tower


class Prompt(nn.Module):
    """tokens [B, L, D] -> [B, length + P, D]: P learned tokens behind the first ``at`` of the input's own ``length``.

    Learned tokens that stand there already (an earlier block's) are replaced.
    """

    def __init__(self, count: int, width: int, site: PromptSite, generator: torch.Generator | None) -> None:
        super().__init__()
        self.site = site
        start = torch.empty(count, width).uniform_(-site.bound, site.bound, generator=generator)
        self.prompt = nn.Parameter(start)

    def forward(self, tokens: Tensor) -> Tensor:
        before = self.site.at
        behind = tokens.shape[1] - (self.site.length - before)
        prompt = self.prompt.to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, :before], prompt, tokens[:, behind:]], dim=1)


def _attach(tower: Tower, settings: TunerSettings, layers: tuple[int, ...]) -> dict[str, nn.Parameter]:
    trained: dict[str, nn.Parameter] = {}
    for i in layers:
        prompt = Prompt(settings.prompt_length, tower.width, tower.prompt_site(), settings.generator)
        tower.block(i).enter = prompt
        trained[f"vpt_list.{i}.prompt"] = prompt.prompt
    return trained


def attach_vpt_shallow(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Prompts that enter at the first block and are computed on by all of them."""
    return _attach(vit, settings, (0,))


def attach_vpt_deep(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Prompts of their own at each chosen block, in place of those of the block before."""
    return _attach(vit, settings, settings.layers)
