"""Frozen products in 8-bit floats: on GPUs with fp8 units, twice the products a second that bf16 has.

y = (x / s_x) (W / s_W)^T * s_x s_W^T + b with x / s_x and W / s_W rounded to e4m3 (4 exponent, 3 mantissa bits, largest
448), one scale a token (from the token, in every step) and one an output channel (once). The forward pass multiplies in
fp8 through torch's own scaled product. Backward multiplies the gradient by the same rounded weight in bf16, which is kept
beside, and treats the rounding of x as the identity: gradients of the features need more range than e4m3 has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from packaging.version import Version
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.errors import UserError
from fastlift.models.layers import Linear
from fastlift.models.vit import QKV, VisionTransformer
from fastlift.settings import Settings
from fastlift_kernels.quantise.reference import READ_AHEAD

MULTIPLE = 16  # sizes that the scaled product takes
CAPABILITY = (8, 9)  # Ada; Hopper and Blackwell are above
ADA_SINCE = "2.12"  # of torch: before, its row-wise product for Ada ran beside the current stream (pytorch#177651)


class _ScaledProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, unscaled: Tensor) -> Tensor:
        ctx.save_for_backward(unscaled)
        rows, row_scale = kernels.quantise_rows(x)
        # One scale a row of each operand, so the second operand's are a row vector. Sums of 8-bit products in the tensor
        # cores' own registers, as in every fp8 inference: half of the rate would go to moving them out in between.
        return torch._scaled_mm(
            rows, weight.t(), row_scale, scale.t(), bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True
        ).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (unscaled,) = ctx.saved_tensors
        return grads[0] @ unscaled.to(grads[0].dtype), None, None, None, None


class Fp8Linear(nn.Module):
    """A frozen ``Linear`` [out, in] with its weight in e4m3; x [.., in] -> [.., out] in the dtype of x.

    ``unscaled`` is the same rounded weight in bf16 for backward, made once: in every step it would cost more than the product
    gains.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    unscaled: Tensor

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        weight, scale = kernels.quantise_rows(linear.weight.detach())
        self.outputs = len(weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", F.pad(scale, (0, 0, 0, -self.outputs % READ_AHEAD), value=1.0))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().to(torch.bfloat16))
        self.register_buffer("unscaled", (weight.float() * scale).to(torch.bfloat16))

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """The product with some of the output channels."""
        bias = None if self.bias is None else self.bias[outputs]
        flat = x.flatten(0, -2)
        scale = self.scale[: self.outputs][outputs]
        y = cast(Tensor, _ScaledProduct.apply(flat, self.weight[outputs], scale, bias, self.unscaled[outputs]))
        return y.unflatten(0, x.shape[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class Fp8QKV(Fp8Linear):
    """``vit.QKV`` in the same way."""

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        if queries is None:
            return self.product(x), None
        width = x.shape[-1]
        return self.product(x, slice(width, None)), self.product(x[:, :queries], slice(width))


_REPLACEMENTS: dict[type[nn.Module], type[Fp8Linear]] = {Linear: Fp8Linear, QKV: Fp8QKV}


@dataclass(frozen=True)
class Fp8Settings(Settings):
    """How frozen products are computed."""

    frozen: Literal["compute", "fp8"] = "compute"
    """Frozen products of the blocks: in the compute dtype, or with fp8 weights and inputs forward (GPUs that have fp8)."""

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
        replaced = 0
        for parent in list(vit.blocks.modules()):
            for name, child in list(parent.named_children()):
                replacement = _REPLACEMENTS.get(type(child))
                trains = any(parameter.requires_grad for parameter in child.parameters())
                if replacement is None or trains or any(size % MULTIPLE for size in cast(Linear, child).weight.shape):
                    continue
                setattr(parent, name, replacement(cast(Linear, child)))
                replaced += 1
        if not replaced:
            raise UserError(f"frozen fp8: no frozen product with sizes that are multiples of {MULTIPLE} in this model")
        return replaced
