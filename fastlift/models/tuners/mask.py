"""Arbitrary fine-tuning: a random share of all weights of the blocks' products trains, the rest stays frozen (LIFT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastlift.errors import UserError
from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.vit import Tower


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


def draw_masks(module: nn.Linear, settings: TunerSettings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(mask of the weight [out, in], mask of the bias [out]): drawn together by LIFT, one after the other by LIFT+."""
    outputs, inputs = module.weight.shape
    if settings.mask_draw == "lift":
        mask = draw_mask(outputs, inputs, settings.mask_ratio, generator)
        return mask[:, :-1], mask[:, -1]
    weight = draw_mask(outputs, inputs - 1, settings.mask_ratio, generator)
    bias = draw_mask(1, outputs - 1, settings.mask_ratio, generator)[0]
    return weight, bias


def attach_mask(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """A share ``mask_ratio`` of the weights and biases of qkv, attention output and both MLP products.

    One generator, seeded with ``mask_seed``, runs through the chosen blocks in order, so that a mask need not be stored.
    LIFT+ seeds one anew, for each block or tensor by version, and stores its masks: those of its checkpoints are taken.
    """
    generator = torch.Generator().manual_seed(settings.mask_seed)
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        block = vit.block(i)
        sites = {"attn_in": block.qkv, "attn_out": block.out, "mlp_in": block.mlp_in, "mlp_out": block.mlp_out}
        for site, module in sites.items():
            if not isinstance(module, nn.Linear) or module.bias is None:
                raise UserError(
                    "the tuner mask needs products with a bias, which this backbone does not have or another tuner wrapped"
                )
            for name, part in zip(("weight", "bias"), draw_masks(module, settings, generator), strict=True):
                scatter = Scatter(getattr(module, name), part)
                parametrize.register_parametrization(module, name, scatter)
                trained[f"masked_linear_list.{i}.{site}.optimized_{name}"] = scatter.values
    if not any(map(len, trained.values())):
        raise UserError(f"mask_ratio: {settings.mask_ratio:g} of the weights of a product is not one of them")
    return trained
