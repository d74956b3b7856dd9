"""``--frozen fp8``: the frozen products of the blocks in 8-bit floats, on GPUs that have units for them.

They have twice the products a second that bf16 has. The mathematics is in ``fp8_products``; here is which products it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from packaging.version import Version
from torch import nn

import fastlift_kernels as kernels
from fastlift.errors import UserError
from fastlift.models.fp8_products import Fp8Linear, Fp8MLP, Fp8QKV
from fastlift.models.layers import LayerNorm, Linear
from fastlift.models.vit import QKV, Block, VisionTransformer
from fastlift.settings import Settings

MULTIPLE = 16  # sizes that the scaled product takes
CAPABILITY = (8, 9)  # Ada; Hopper and Blackwell are above
ADA_SINCE = "2.12"  # of torch: before, its row-wise product for Ada ran beside the current stream (pytorch#177651)

_ACTIVATIONS: dict[object, Literal["quick_gelu", "gelu"]] = {kernels.quick_gelu: "quick_gelu", kernels.gelu: "gelu"}


@dataclass(frozen=True)
class Fp8Settings(Settings):
    """How frozen products are computed."""

    frozen: Literal["compute", "fp8"] = "compute"
    """Frozen products of the blocks: in the compute dtype, or in fp8 forward and for the tokens' gradient. fp8 is experimental: it
    needs a GPU that has it, and is not shown to keep the accuracy of bf16."""

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Whether what is asked for can run here."""
        if self.frozen != "fp8":
            return
        if device.type != "cuda":
            raise UserError("frozen fp8: needs a GPU with fp8 units (capability 8.9 or more), this run is on the CPU")
        capability = torch.cuda.get_device_capability(device)
        if capability < CAPABILITY:
            major, minor = capability
            raise UserError(f"frozen fp8: this GPU (capability {major}.{minor}) has no fp8 units; 8.9 or more has")
        if capability == CAPABILITY and Version(torch.__version__) < Version(ADA_SINCE):
            raise UserError(
                f"frozen fp8: on this GPU (capability 8.9) torch {torch.__version__} may hang in its scaled product; "
                f"torch {ADA_SINCE} or newer does not, or leave the frozen weights in bf16 (--frozen compute)"
            )
        if dtype != torch.bfloat16:
            raise UserError("frozen fp8: torch's scaled product gives bf16; use --amp bf16")

    def build(self, vit: nn.Module) -> int:
        """With ``fp8``, replace the frozen products of the blocks in place; what trains, or holds what does, stays.

        Returns:
            how many were replaced.

        Raises:
            UserError: a backbone that is not a vision transformer, or in which nothing could be replaced.
        """
        if self.frozen != "fp8":
            return 0
        if not isinstance(vit, VisionTransformer):
            raise UserError("frozen fp8: only vision transformers")
        replaced = sum(_replace_joined(vit.block(i)) + _replace_single(vit.block(i)) for i in range(vit.depth))
        if not replaced:
            raise UserError(f"frozen fp8: no frozen product with sizes that are multiples of {MULTIPLE} in this model")
        return replaced


def _replace_joined(block: Block) -> int:
    """Products together with what makes their input, where no tuner stands between; returns how many products."""
    replaced = 0
    norm, qkv = block.norm_1, block.qkv
    if _is_frozen(norm, LayerNorm) and _is_frozen(qkv, QKV):
        block.norm_1, block.qkv = nn.Identity(), Fp8QKV(cast(QKV, qkv), cast(LayerNorm, norm))
        replaced += 1
    kind, mlp_in, mlp_out = _ACTIVATIONS.get(block.activation), block.mlp_in, block.mlp_out
    if kind is not None and _is_frozen(mlp_in, Linear) and _is_frozen(mlp_out, Linear):
        block.mlp_in = Fp8MLP(cast(Linear, mlp_in), kind, cast(Linear, mlp_out))
        block.activation, block.mlp_out = nn.Identity(), nn.Identity()
        replaced += 2
    return replaced


def _replace_single(block: Block) -> int:
    """The frozen products that are left, inside tuners too."""
    replaced = 0
    for parent in list(block.modules()):
        for name, child in list(parent.named_children()):
            if _is_frozen(child, QKV):
                setattr(parent, name, Fp8QKV(cast(QKV, child)))
            elif _is_frozen(child, Linear):
                setattr(parent, name, Fp8Linear(cast(Linear, child)))
            else:
                continue
            replaced += 1
    return replaced


def _is_frozen(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is of this very class, nothing in it trains, and a product takes its sizes."""
    if type(module) is not kind or any(parameter.requires_grad for parameter in module.parameters()):
        return False
    return not any(size % MULTIPLE for size in cast(Linear, module).weight.shape)
