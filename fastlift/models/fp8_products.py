"""Products with frozen weights in 8-bit floats, forward and for the gradient of the tokens.

y = x W^T + b with x and W rounded to e4m3 (4 exponent, 3 mantissa bits, largest 448), x with one scale a token, W with one
an output channel. d_x = d_y W with d_y rounded in the same way, one scale a token, and W with one an input channel: the
weight is kept twice, each time with the scales that leave the sum over the products' inner size. A frozen weight has no
gradient, so nothing of x is kept. Rounding counts as the identity in backward.

What makes the input of a product rounds it in the same pass where that is known: LN_1 before queries, keys and values, the
activation before MLP-out, its derivative before the gradient through MLP-in.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.models.layers import LayerNorm, Linear
from fastlift_kernels.quantise.reference import READ_AHEAD, Rows

Gradients = tuple[Tensor | None, ...]


class Frozen(NamedTuple):
    """A weight [out, in] in e4m3 and W^T [in, out] beside it, each with scales of its rows in float32; bias in bf16."""

    weight: Tensor
    scale: Tensor  # [out, 1]
    bias: Tensor | None
    transposed: Tensor
    transposed_scale: Tensor  # [in, 1]


FIELDS = len(Frozen._fields)


def multiply(x: Rows, of: Frozen) -> Tensor:
    """x W^T + b, [N, out] in bf16.

    Sums stay in the tensor cores' own registers, as in every fp8 inference: half of the rate would go to moving them out.
    """
    rounded, scale = x
    return torch._scaled_mm(
        rounded, of.weight.t(), scale, of.scale.t(), bias=of.bias, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def multiply_back(d_y: Rows, transposed: Tensor, transposed_scale: Tensor) -> Tensor:
    """d_y W, [N, in] in bf16."""
    rounded, scale = d_y
    return torch._scaled_mm(
        rounded, transposed.t(), scale, transposed_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True
    )


class Product(torch.autograd.Function):
    """x [N, in] in bf16 and the fields of a ``Frozen`` -> [N, out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *of: Tensor | None) -> Tensor:
        weight = Frozen(*cast(Any, of))
        ctx.save_for_backward(weight.transposed, weight.transposed_scale)
        return multiply(kernels.quantise_rows(x), weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        return multiply_back(kernels.quantise_rows(grads[0]), *ctx.saved_tensors), *[None] * FIELDS


class NormProduct(torch.autograd.Function):
    """The same of LN(x), whose ``gamma``, ``beta`` [in] are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor | None, eps: float, *of: Tensor | None) -> Tensor:
        weight = Frozen(*cast(Any, of))
        rounded, scale, mean, rstd = kernels.layer_norm_quantise(x, gamma, beta, eps)
        ctx.save_for_backward(x, mean, rstd, gamma, weight.transposed, weight.transposed_scale)
        return multiply((rounded, scale), weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        x, mean, rstd, gamma, *transposed = ctx.saved_tensors
        d_normed = multiply_back(kernels.quantise_rows(grads[0]), *transposed)
        d_x = kernels.layer_norm_quantise_backward(d_normed, x, mean, rstd, gamma)
        return d_x, None, None, None, *[None] * FIELDS


class MLPProducts(torch.autograd.Function):
    """x [N, D] in bf16, the activation's name and the fields of two ``Frozen`` -> MLP(x) [N, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str, *both: Tensor | None) -> Tensor:
        first, second = Frozen(*cast(Any, both[:FIELDS])), Frozen(*cast(Any, both[FIELDS:]))
        pre = multiply(kernels.quantise_rows(x), first)
        ctx.kind = kind
        ctx.save_for_backward(pre, *first[3:], *second[3:])
        return multiply(kernels.activation_quantise(pre, kind), second)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        pre, first, first_scale, second, second_scale = ctx.saved_tensors
        d_hidden = multiply_back(kernels.quantise_rows(grads[0]), second, second_scale)
        d_pre = kernels.activation_backward_quantise(d_hidden, pre, ctx.kind)
        return multiply_back(d_pre, first, first_scale), None, *[None] * (2 * FIELDS)


class Fp8Weight(nn.Module):
    """The frozen weight of a ``Linear`` in e4m3, both ways, and its bias."""

    scale: Tensor
    transposed: Tensor
    transposed_scale: Tensor

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        weight, bias = linear.weight.detach(), linear.bias
        self.outputs, self.inputs = weight.shape
        (rounded, scale), (transposed, transposed_scale) = map(kernels.quantise_rows, (weight, weight.t().contiguous()))
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(torch.bfloat16), requires_grad=False)
        self.register_buffer("scale", _readable(scale))
        self.register_buffer("transposed", transposed)
        self.register_buffer("transposed_scale", _readable(transposed_scale))

    def part(self, outputs: slice = slice(None)) -> Frozen:
        """Some of the output channels."""
        transposed = self.transposed[:, outputs].contiguous()  # products want whole rows; all channels are not copied
        scale, bias = self.scale[: self.outputs][outputs], None if self.bias is None else self.bias[outputs]
        return Frozen(self.weight[outputs], scale, bias, transposed, self.transposed_scale[: self.inputs])


def _readable(scale: Tensor) -> Tensor:
    """The same with numbers behind it: wherever a slice of it ends, a product may read as far as ``READ_AHEAD``."""
    return F.pad(scale, (0, 0, 0, READ_AHEAD), value=1.0)


class Fp8Linear(Fp8Weight):
    """A frozen ``Linear`` in e4m3; x [.., in] -> [.., out] in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, Product.apply(x.flatten(0, -2), *self.part()))
        return y.unflatten(0, x.shape[:-1])


class Fp8QKV(Fp8Weight):
    """``vit.QKV`` in the same way, with the frozen LayerNorm before it if there is one."""

    def __init__(self, qkv: Linear, norm: LayerNorm | None = None) -> None:
        super().__init__(qkv)
        self.norm = norm

    def _product(self, x: Tensor, outputs: slice) -> Tensor:
        rows, norm = x.flatten(0, -2), self.norm
        if norm is None:
            y = Product.apply(rows, *self.part(outputs))
        else:
            y = NormProduct.apply(rows, norm.weight, norm.bias, norm.eps, *self.part(outputs))
        return cast(Tensor, y).unflatten(0, x.shape[:-1])

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor | None]:
        if queries is None:
            return self._product(x, slice(None)), None
        width = x.shape[-1]
        return self._product(x, slice(width, None)), self._product(x[:, :queries], slice(width))


class Fp8MLP(nn.Module):
    """MLP-in, activation and MLP-out of a block, both products frozen; x [.., D] -> [.., D] in bf16."""

    def __init__(self, mlp_in: Linear, kind: Literal["quick_gelu", "gelu"], mlp_out: Linear) -> None:
        super().__init__()
        self.first, self.kind, self.second = Fp8Weight(mlp_in), kind, Fp8Weight(mlp_out)

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, MLPProducts.apply(x.flatten(0, -2), self.kind, *self.first.part(), *self.second.part()))
        return y.unflatten(0, x.shape[:-1])
