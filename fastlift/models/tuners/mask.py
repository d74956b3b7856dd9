"""Arbitrary fine-tuning: a random share of all weights of the blocks' products trains, the rest stays frozen (LIFT)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastlift.errors import UserError
from fastlift.models.tuners.base import Sizes, Tuner, TunerContext
from fastlift.models.vit import Tower
from fastlift.settings import SEED, Acts, Between


class Scatter(nn.Module):
    """frozen -> frozen with the entries at ``index`` (row-major) replaced by ``values``, which train in fp32.

    A mask of a small bias may choose nothing; its values then get no gradient, as in the authors' program.
    """

    index: Tensor

    def __init__(self, frozen: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.is_given = False  # by a checkpoint, where the seed does not tell the index
        self.register_buffer("index", mask.flatten().nonzero()[:, 0])
        self.values = nn.Parameter(frozen.detach().float().flatten()[self.index].clone())

    def give(self, index: Tensor) -> None:
        """Train other entries than those drawn, as many."""
        self.index.copy_(index)
        self.is_given = True

    def forward(self, frozen: Tensor) -> Tensor:
        if not len(self.values):
            return frozen
        return frozen.flatten().index_copy(0, self.index, self.values.to(frozen.dtype)).view_as(frozen)


def draw_mask(outputs: int, inputs: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Which entries of [outputs, inputs + 1] (the last column is the bias) train: int(n * ratio) of them, bool."""
    entries = outputs * (inputs + 1)
    chosen = torch.randperm(entries, generator=generator)[: int(entries * ratio)]
    return torch.zeros(entries, dtype=torch.bool).index_fill_(0, chosen, True).view(outputs, inputs + 1)


def draw_masks(module: nn.Linear, ratio: float, sizes: Sizes, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(mask of the weight [out, in], mask of the bias [out]): drawn together by LIFT, one after the other by LIFT+."""
    outputs, inputs = module.weight.shape
    if sizes == "lift":
        mask = draw_mask(outputs, inputs, ratio, generator)
        return mask[:, :-1], mask[:, -1]
    weight = draw_mask(outputs, inputs - 1, ratio, generator)
    return weight, draw_mask(1, outputs - 1, ratio, generator)[0]


def _acts(tuner: tuple[str, ...], text_tuner: tuple[str, ...]) -> bool:
    return "mask" in (*tuner, *text_tuner)


@dataclass(frozen=True)
class MaskSettings(Tuner):
    """A share of the weights and biases of qkv, attention output and both MLP products.

    One generator, seeded with ``mask_seed``, runs through the chosen blocks in order, so that a mask need not be stored.
    LIFT+ seeds one anew, for each block or tensor by version, and stores its masks: those of its checkpoints are taken.
    """

    NAME = "mask"
    PREFIX = "masked_linear_list"

    mask_ratio: Annotated[
        float | None, Between(0, 1, "(]", "a share in (0, 1]"), Acts("the share that the tuner mask trains", _acts)
    ] = None
    """Share of the weights that the tuner 'mask' trains (default: by --sizes)."""
    mask_seed: Annotated[int, SEED, Acts("the draw of the tuner mask", _acts)] = 0
    """Seed that draws the weights which the tuner 'mask' trains."""

    def ratio(self, context: TunerContext) -> float:
        """The share, in (0, 1]."""
        adaptive = adaptive_mask_ratio(context.classes, context.counted, context.width, context.sizes)
        return self.mask_ratio or adaptive

    def resolved(self, context: TunerContext) -> dict[str, Any]:
        return {"mask_ratio": self.ratio(context)}

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        generator, ratio = torch.Generator().manual_seed(self.mask_seed), self.ratio(context)
        trained: dict[str, nn.Parameter] = {}
        for i in context.layers:
            block = tower.block(i)
            sites = {"attn_in": block.qkv, "attn_out": block.out, "mlp_in": block.mlp_in, "mlp_out": block.mlp_out}
            for site, module in sites.items():
                if not isinstance(module, nn.Linear) or module.bias is None:
                    raise UserError(
                        "the tuner mask needs products with a bias, which this backbone does not have or another tuner "
                        "wrapped"
                    )
                masks = draw_masks(module, ratio, context.sizes, generator)
                for name, mask in zip(("weight", "bias"), masks, strict=True):
                    scatter = Scatter(getattr(module, name), mask)
                    parametrize.register_parametrization(module, name, scatter)
                    trained[f"{self.PREFIX}.{i}.{site}.optimized_{name}"] = scatter.values
        if not any(map(len, trained.values())):
            raise UserError(f"mask_ratio: {ratio:g} of the weights of a product is not one of them")
        return trained


def adaptive_mask_ratio(classes: int, layers: int, width: int, sizes: Sizes) -> float:
    """LIFT: C / (12 L D), rounded down to 0.001 and at least that. LIFT+: C / (L (12 D + 9)). Both are at most 1.

    They train about as many weights as the classifier has.
    """
    if sizes == "lift":
        return min(1.0, max(0.001, math.floor(classes / (12 * layers * width) * 1000) / 1000))
    return min(1.0, classes / (layers * (12 * width + 9)))
