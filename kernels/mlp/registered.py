"""The MLP op as PyTorch sees it: schemas, shapes, autograd, FLOPs, and which implementation runs."""

import math
from typing import Any

import torch

from ..checks import check_like
from ..registration import check_implementation, module_of, register, register_autograd, schema_of
from .arguments import MlpArguments, MlpOutputs, check

_PACKAGE = str(__package__)

# N tokens, D width, M MLP width


def _unflatten_forward(flat: Any) -> tuple[Any, ...]:
    *arguments, keep, impl = flat
    return MlpArguments(*arguments), keep, impl


def _outputs(a: MlpArguments, keep: bool, impl: str) -> MlpOutputs:
    """Memory for the results; that of the pre-activation is empty where backward will not need it."""
    N, _, M = a.sizes
    y = torch.empty_like(a.x, memory_format=torch.contiguous_format)
    return MlpOutputs(y, a.x.new_empty(N if keep else 0, M))


def _forward(a: MlpArguments, keep: bool, impl: str) -> MlpOutputs:
    outputs = _outputs(a, keep, impl)
    if a.x.numel():
        module_of(_PACKAGE, impl).forward(a, outputs)
    return outputs


def _check_forward(a: MlpArguments, keep: bool, impl: str) -> None:
    check(a)
    _check_implementation(impl, a.x)


def _check_implementation(impl: str, x: torch.Tensor) -> None:
    check_implementation(impl, "x", x)
    if impl != "triton" or x.dtype == torch.float32:
        raise TypeError(f'x: the op has impl="triton" alone, for bfloat16 and float16; got {impl!r}, {x.dtype}')


def _forward_flops(a: Any, keep: bool, impl: str) -> int:
    return 2 * _product_flops(a.x, a.in_weight)


mlp_forward = register(
    "mlp_forward",
    f"({schema_of(MlpArguments)}, bool keep, str impl) -> ({schema_of(MlpOutputs)})",
    _forward, _check_forward, _outputs, _unflatten_forward, _forward_flops,
)  # fmt: skip


def _backward(
    d_y: torch.Tensor,
    pre: torch.Tensor,
    in_weight: torch.Tensor,
    out_weight: torch.Tensor,
    scale: torch.Tensor | None,
    kind: str,
    impl: str,
) -> torch.Tensor:
    if d_y.numel():
        return module_of(_PACKAGE, impl).backward(d_y, pre, in_weight, out_weight, scale, kind).view(d_y.shape)
    return torch.empty_like(d_y)


def _check_backward(
    d_y: torch.Tensor,
    pre: torch.Tensor,
    in_weight: torch.Tensor,
    out_weight: torch.Tensor,
    scale: torch.Tensor | None,
    kind: Any,
    impl: str,
) -> None:
    check(MlpArguments(d_y, in_weight, None, out_weight, None, d_y, scale, kind))
    _check_implementation(impl, d_y)
    M, D = in_weight.shape
    check_like("pre", pre, (d_y.numel() // D, M), (d_y.dtype,), "d_y", d_y)


def _like_d_y(d_y: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(d_y, memory_format=torch.contiguous_format)


def _backward_flops(d_y: Any, _pre: Any, in_weight: Any, *_: Any) -> int:
    return 2 * _product_flops(d_y, in_weight)


mlp_backward = register(
    "mlp_backward",
    "(Tensor d_y, Tensor pre, Tensor in_weight, Tensor out_weight, Tensor? scale, str kind, str impl) -> Tensor",
    _backward, _check_backward, _like_d_y, flops=_backward_flops,
)  # fmt: skip


def _product_flops(tokens: Any, in_weight: Any) -> int:
    """Of a product of [N, D] and [D, M], a multiplication and an addition each; both are shapes."""
    return 2 * math.prod(tokens) * in_weight[0]


def _save(ctx: Any, arguments: tuple[Any, ...], results: MlpOutputs) -> tuple[()]:
    a, ctx.keep, ctx.impl = _unflatten_forward(arguments)
    ctx.kind = a.kind
    ctx.save_for_backward(*((results[1], a.in_weight, a.out_weight, a.scale) if ctx.keep else ()))
    return ()


def _differentiate(ctx: Any, d_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Of x and the residual: the others are frozen."""
    if any(ctx.needs_input_grad[i] for i, name in enumerate(MlpArguments._fields) if name in _FROZEN):
        raise RuntimeError("mlp_forward: weights, biases and scale are frozen, but a gradient of one is asked for")
    d_x = None
    if ctx.needs_input_grad[0]:
        if not ctx.keep:
            raise RuntimeError("mlp_forward: called with keep=False, but the gradient of x is asked for")
        d_x = mlp_backward.below_autograd(d_y, *ctx.saved_tensors, ctx.kind, ctx.impl)
    gradients = {"x": d_x, "residual": d_y}
    return (*map(gradients.get, MlpArguments._fields), None, None)


_FROZEN = ("in_weight", "in_bias", "out_weight", "out_bias", "scale")
register_autograd(mlp_forward, _save, _differentiate)
