"""Learned tokens (visual prompt tuning, Jia et al. 2022), at the first block or anew at every block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from fastlift.models.tuners.base import Sizes, Tuner, TunerContext, has_tuner, names_with, power_of_two
from fastlift.models.vit import Block, PromptSite, Tower
from fastlift.settings import SIZE, Acts


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
        prompt = self.prompt.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return torch.cat([tokens[:, :before], prompt, tokens[:, behind:]], dim=1)


@dataclass(frozen=True)
class PromptSettings(Tuner):
    """How many learned tokens."""

    PREFIX = "vpt_list"

    prompt_length: Annotated[
        int | None,
        SIZE,
        Acts(
            f"the number of visual prompts (tuner {names_with(PromptSettings, ' or ')})",
            lambda tuner: has_tuner(PromptSettings, tuner),
        ),
    ] = None
    """Visual prompt tokens in a block (default: by --sizes)."""

    def length(self, context: TunerContext) -> int:
        """P."""
        return self.prompt_length or adaptive_prompt_length(context.classes, context.counted, context.sizes)

    def resolved(self, context: TunerContext) -> dict[str, Any]:
        return {"prompt_length": self.length(context)}

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        block.prompts = Prompt(self.length(context), tower.width, tower.prompt_site(), context.generator)
        return block.prompts

    def numbers(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        return {"prompt_length": tower.width * self.length(context) * len(self.blocks(context))}


@dataclass(frozen=True)
class ShallowPromptSettings(PromptSettings):
    """Prompts that enter at the first block and are computed on by all of them."""

    NAME = "vpt_shallow"
    CONFLICTS: ClassVar[Mapping[str, str]] = {"vpt_deep": "deep prompts replace the shallow ones at the next block"}
    CHOOSES_BLOCKS = False

    def blocks(self, context: TunerContext) -> tuple[int, ...]:
        return (0,)


@dataclass(frozen=True)
class DeepPromptSettings(PromptSettings):
    """Prompts of their own at each chosen block, in place of those of the block before."""

    NAME = "vpt_deep"


def adaptive_prompt_length(classes: int, layers: int, sizes: Sizes) -> int:
    """LIFT: 10. LIFT+: the same rule with C / L."""
    return 10 if sizes == "lift" else power_of_two(classes / layers)
