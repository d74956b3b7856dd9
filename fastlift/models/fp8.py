"""Frozen products with 8-bit weights: half the bytes of bf16 and, on GPUs with fp8 units, twice the products a second.

y = (x / s_x) (W / s_W)^T * s_x s_W^T + b with x / s_x and W / s_W rounded to e4m3 (4 exponent, 3 mantissa bits, largest
448), one scale a token (from the token, in every step) and one an output channel (once). The forward pass multiplies in
fp8 through torch's own scaled product. Backward multiplies the gradient by the same rounded weight in the compute dtype, and
treats the rounding of x as the identity: gradients of the features need more range than e4m3 has.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from fastlift.errors import UserError
from fastlift.models.vit import QKV, Linear, VisionTransformer

LARGEST = 448.0  # of e4m3
MULTIPLE = 16  # sizes that the scaled product takes
CAPABILITY = (8, 9)  # Ada; Hopper and Blackwell are above


def check_fp8(device: torch.device, dtype: torch.dtype) -> None:
    """Whether ``--frozen fp8`` can run here.

    Raises:
        UserError: no GPU with fp8 units, or another compute dtype than bf16.
    """
    if device.type != "cuda":
        raise UserError("frozen fp8: needs a GPU with fp8 units (capability 8.9 or more), this run is on the CPU")
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        major, minor = capability
        raise UserError(f"frozen fp8: this GPU (capability {major}.{minor}) has no fp8 units; 8.9 or more has")
    if dtype != torch.bfloat16:
        raise UserError("frozen fp8: torch's scaled product gives bf16; use --amp bf16")


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of x [N, D] as e4m3 [N, D] and their scales [N, 1] in fp32: x is about e4m3 * scale."""
    wide = x.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / LARGEST
    return (wide / scale).to(torch.float8_e4m3fn), scale


class _ScaledProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        rows, row_scale = to_fp8(x)
        # one scale a row of each operand, so the second operand's are a row vector
        return torch._scaled_mm(rows, weight.t(), row_scale, scale.t(), out_dtype=torch.bfloat16).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        weight, scale = ctx.saved_tensors
        return grads[0] @ (weight.float() * scale).to(grads[0].dtype), None, None


class Fp8Linear(nn.Module):
    """A frozen ``Linear`` [out, in] with its weight in e4m3; x [.., in] -> [.., out] in the dtype of x."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        weight, scale = to_fp8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """The product with some of the output channels."""
        flat = x.flatten(0, -2)
        y = cast(Tensor, _ScaledProduct.apply(flat, self.weight[outputs], self.scale[outputs]))
        if self.bias is not None:
            y = y + self.bias[outputs].to(x.dtype)
        return y.unflatten(0, x.shape[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class Fp8QKV(Fp8Linear):
    """``vit.QKV`` in the same way."""

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        if queries is None:
            q, k, v = self.product(x).chunk(3, dim=-1)
            return q, k, v
        width = x.shape[-1]
        q = self.product(x[:, :queries], slice(width))
        k, v = self.product(x, slice(width, None)).chunk(2, dim=-1)
        return q, k, v


_STAND_INS: dict[type[nn.Module], type[Fp8Linear]] = {Linear: Fp8Linear, QKV: Fp8QKV}


def quantise_frozen(vit: nn.Module) -> int:
    """Replace the frozen products of the blocks, in place; what trains, or holds something that trains, stays.

    Returns:
        how many were replaced.

    Raises:
        UserError: a backbone that is not a vision transformer, or in which nothing could be replaced.
    """
    if not isinstance(vit, VisionTransformer):
        raise UserError("frozen fp8: only vision transformers")
    replaced = 0
    for parent in list(vit.blocks.modules()):
        for name, child in list(parent.named_children()):
            stand_in = _STAND_INS.get(type(child))
            if stand_in is not None and _is_frozen(child) and _fits(cast(Linear, child)):
                setattr(parent, name, stand_in(cast(Linear, child)))
                replaced += 1
    if not replaced:
        raise UserError(f"frozen fp8: no frozen product with sizes that are multiples of {MULTIPLE} in this model")
    return replaced


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


def _fits(linear: Linear) -> bool:
    return linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0
