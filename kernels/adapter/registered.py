"""The adapter op as PyTorch sees it: schemas, shapes, autograd, FLOPs, and which implementation runs."""

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from ..registration import implementation, module_of, refuse_double_backward, register, register_autograd
from .arguments import check, check_backward, check_products, check_rank

_PACKAGE = str(__package__)

# N tokens, D width, r rank

_PARAMETERS = (
    "Tensor ln_weight, Tensor ln_bias, Tensor down_weight, Tensor down_bias, Tensor up_weight, Tensor up_bias, "
    "Tensor? scale, float fixed_scale, float eps, float ln_eps, ScalarType products"
)
_FORWARD = (
    f"(Tensor t, Tensor? ln2_weight, Tensor? ln2_bias, {_PARAMETERS}, bool keep, str impl)"
    " -> (Tensor ln2, Tensor residual, Tensor statistics, Tensor hidden)"
)
_BACKWARD = (
    "(Tensor? d_ln2, Tensor d_residual, Tensor t, Tensor statistics, Tensor hidden, Tensor? ln2_weight, "
    f"{_PARAMETERS}, bool need_t, str impl)"
    " -> (Tensor d_t, Tensor d_ln_weight, Tensor d_ln_bias, Tensor d_down_weight, Tensor d_down_bias,"
    " Tensor d_up_weight, Tensor d_up_bias, Tensor d_scale)"
)


def _hidden_dtype(products: torch.dtype, impl: str) -> torch.dtype:
    return torch.float32 if impl == "native" else products


def _forward(t: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    return module_of(_PACKAGE, args[-1]).forward(t.contiguous(), *args[:-1])


def _check(t: torch.Tensor, *args: Any) -> None:
    """Of all arguments from t to ln_eps, then products and the implementation."""
    *tensors, scale, fixed_scale, eps, ln_eps, products, impl = args
    every: list[Any] = [t, *tensors, fixed_scale if scale is None else scale, eps, ln_eps]
    check(*every)
    check_rank(args[4], impl)
    check_products(products, t)
    implementation(_PACKAGE, impl, "t", t)


def _check_forward(*args: Any) -> None:
    *rest, _keep, impl = args
    _check(*rest, impl)


def _forward_fake(t: torch.Tensor, ln2_weight: torch.Tensor | None, *args: Any) -> tuple[torch.Tensor, ...]:
    products, keep, impl = args[-3:]
    rank, tokens = args[3].shape[0], t.numel() // t.shape[-1]
    residual = torch.empty_like(t, memory_format=torch.contiguous_format)
    ln2 = torch.empty_like(residual) if ln2_weight is not None else t.new_empty(0)
    statistics = t.new_empty((2, tokens if keep else 0), dtype=torch.float32)
    hidden = t.new_empty((tokens if keep else 0, rank), dtype=_hidden_dtype(products, impl))
    return ln2, residual, statistics, hidden


def _backward(*args: Any) -> tuple[torch.Tensor, ...]:
    kept, rest, impl = args[:5], args[5:-1], args[-1]
    contiguous = [None if x is None else x.contiguous() for x in kept]
    return module_of(_PACKAGE, impl).backward(*contiguous, *rest)


def _check_backward(d_ln2: torch.Tensor | None, d_residual: torch.Tensor, t: torch.Tensor, *args: Any) -> None:
    statistics, hidden, ln2_weight, *parameters, products, _need_t, impl = args
    _check(t, ln2_weight, ln2_weight, *parameters, products, impl)  # backward needs no bias of LN_2
    rank = parameters[2].shape[0]
    check_backward(d_ln2, d_residual, t, statistics, hidden, ln2_weight, _hidden_dtype(products, impl), rank)


def _backward_fake(
    d_ln2: torch.Tensor | None, d_residual: torch.Tensor, t: torch.Tensor, *args: Any
) -> tuple[torch.Tensor, ...]:
    width, rank, need_t = t.shape[-1], args[5].shape[0], args[-2]
    d_t = torch.empty_like(t, memory_format=torch.contiguous_format) if need_t else t.new_empty(0)
    shapes = ((width,), (width,), (rank, width), (rank,), (width, rank), (width,), (1,))
    return (d_t, *[t.new_empty(shape, dtype=torch.float32) for shape in shapes])


adapter_forward = register("adapter_forward", _FORWARD, _forward, _check_forward, _forward_fake)
adapter_backward = register("adapter_backward", _BACKWARD, _backward, _check_backward, _backward_fake)


class _AdapterOp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[torch.Tensor, ...]:
        out = adapter_forward.below_autograd(*args)
        ctx.mark_non_differentiable(*out[2:], *_keep(ctx, args, out))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        refuse_double_backward("adapter_forward")
        d_ln2, d_residual = grads[:2]
        if d_ln2 is None and d_residual is None:
            return (None,) * 16
        t, statistics, hidden, ln2_weight, *parameters = ctx.saved_tensors
        if not ctx.kept:
            raise RuntimeError("adapter_forward: called with keep=False, but a gradient is asked for")
        if ln2_weight is None:
            d_ln2 = None
        if d_residual is None:
            d_residual = torch.zeros_like(t)
        need_t, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:10]
        d_t, *d_parameters = adapter_backward.below_autograd(
            d_ln2, d_residual, t, statistics, hidden, ln2_weight, *parameters, *ctx.constants, need_t, ctx.impl
        )
        outputs = [_as(d, p) if need else None for d, p, need in zip(d_parameters, parameters, needs, strict=True)]
        return (d_t if need_t else None, None, None, *outputs, *[None] * 6)


class _Adapter(_AdapterOp):
    """The same where nobody watches, with the two outputs that are the caller's."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[torch.Tensor, ...]:
        out = adapter_forward.now(args)
        ctx.mark_non_differentiable(*_keep(ctx, args, out))
        return out[:2]


def _keep(ctx: Any, args: tuple[Any, ...], out: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Note what backward needs; returns what of LN_2 has no gradient.

    Where nothing below learns, ln2 is a constant: the MLP that reads it must not keep anything for its gradient.
    """
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(args[0], *out[2:], args[1], *args[3:10])
    ctx.constants, ctx.kept, ctx.impl = args[10:14], args[14], args[15]
    return () if ctx.needs_input_grad[0] else out[:1]


def _as(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A float32 gradient in the dtype and shape of its parameter."""
    if gradient.dtype != parameter.dtype:
        gradient = gradient.to(parameter.dtype)
    return gradient if gradient.shape == parameter.shape else gradient.view(parameter.shape)


register_autograd(adapter_forward, _AdapterOp, _Adapter)


@register_flop_formula(torch.ops.fastlift_kernels.adapter_forward)
def _forward_flops(t: Any, *args: Any, **_: Any) -> int:
    return 2 * 2 * _numel(t) * args[4][0]  # two products, a multiplication and an addition each


@register_flop_formula(torch.ops.fastlift_kernels.adapter_backward)
def _backward_flops(_d_ln2: Any, _d_residual: Any, t: Any, *args: Any, **_: Any) -> int:
    need_t = args[-2]
    return (4 if need_t else 3) * 2 * _numel(t) * args[5][0]


def _numel(shape: Any) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
