"""The adapter op as PyTorch sees it: schemas, shapes, autograd, FLOPs, and which implementation runs."""

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from ..registration import below_autograd, implementation, refuse_double_backward, register, register_autograd
from .arguments import check, check_backward, check_rank

_PACKAGE = str(__package__)

# N tokens, D width, r rank

_PARAMETERS = (
    "Tensor ln_weight, Tensor ln_bias, Tensor down_weight, Tensor down_bias, Tensor up_weight, Tensor up_bias, "
    "Tensor? scale, float fixed_scale, float eps, float ln_eps"
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


def _hidden_dtype(t: torch.Tensor, impl: str) -> torch.dtype:
    return torch.float32 if impl == "native" else t.dtype


def _forward(t: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    *rest, keep, impl = args
    _check(t, *rest, impl=impl)
    return implementation(_PACKAGE, impl, "t", t).forward(t.contiguous(), *rest, keep)


def _check(t: torch.Tensor, *args: Any, impl: str) -> None:
    """Of all arguments from t to ln_eps."""
    *tensors, scale, fixed_scale, eps, ln_eps = args
    every: list[Any] = [t, *tensors, fixed_scale if scale is None else scale, eps, ln_eps]
    check(*every)
    check_rank(args[4], impl)


def _forward_fake(t: torch.Tensor, ln2_weight: torch.Tensor | None, *args: Any) -> tuple[torch.Tensor, ...]:
    keep, impl = args[-2:]
    rank, tokens = args[3].shape[0], t.numel() // t.shape[-1]
    residual = torch.empty_like(t, memory_format=torch.contiguous_format)
    ln2 = torch.empty_like(residual) if ln2_weight is not None else t.new_empty(0)
    statistics = t.new_empty((2, tokens if keep else 0), dtype=torch.float32)
    hidden = t.new_empty((tokens if keep else 0, rank), dtype=_hidden_dtype(t, impl))
    return ln2, residual, statistics, hidden


def _backward(
    d_ln2: torch.Tensor | None, d_residual: torch.Tensor, t: torch.Tensor, *args: Any
) -> tuple[torch.Tensor, ...]:
    statistics, hidden, ln2_weight, *parameters, need_t, impl = args
    _check(t, ln2_weight, ln2_weight, *parameters, impl=impl)  # backward needs no bias of LN_2
    rank = parameters[2].shape[0]
    check_backward(d_ln2, d_residual, t, statistics, hidden, ln2_weight, _hidden_dtype(t, impl), rank)
    kept = [None if x is None else x.contiguous() for x in (d_ln2, d_residual, t, statistics, hidden)]
    return implementation(_PACKAGE, impl, "t", t).backward(*kept, ln2_weight, *parameters, need_t)


def _backward_fake(
    d_ln2: torch.Tensor | None, d_residual: torch.Tensor, t: torch.Tensor, *args: Any
) -> tuple[torch.Tensor, ...]:
    width, rank, need_t = t.shape[-1], args[5].shape[0], args[-2]
    d_t = torch.empty_like(t, memory_format=torch.contiguous_format) if need_t else t.new_empty(0)
    shapes = ((width,), (width,), (rank, width), (rank,), (width, rank), (width,), (1,))
    return (d_t, *[t.new_empty(shape, dtype=torch.float32) for shape in shapes])


adapter_forward = register("adapter_forward", _FORWARD, _forward, _forward_fake)
adapter_backward = register("adapter_backward", _BACKWARD, _backward, _backward_fake)


class _Adapter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[torch.Tensor, ...]:
        t, ln2_weight = args[:2]
        out = below_autograd(adapter_forward, *args)
        ln2, _, statistics, hidden = out
        ctx.set_materialize_grads(False)
        # Where nothing below learns, ln2 is a constant: the MLP that reads it must not keep anything for its gradient.
        constant = (statistics, hidden) if ctx.needs_input_grad[0] else (ln2, statistics, hidden)
        ctx.mark_non_differentiable(*constant)
        ctx.save_for_backward(t, statistics, hidden, ln2_weight, *args[3:10])
        ctx.constants, ctx.kept, ctx.impl = args[10:13], args[13], args[14]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        refuse_double_backward("adapter_forward")
        d_ln2, d_residual = grads[:2]
        if d_ln2 is None and d_residual is None:
            return (None,) * 15
        t, statistics, hidden, ln2_weight, *parameters = ctx.saved_tensors
        if not ctx.kept:
            raise RuntimeError("adapter_forward: called with keep=False, but a gradient is asked for")
        if ln2_weight is None:
            d_ln2 = None
        if d_residual is None:
            d_residual = torch.zeros_like(t)
        need_t, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:10]
        d_t, *d_parameters = adapter_backward(
            d_ln2, d_residual, t, statistics, hidden, ln2_weight, *parameters, *ctx.constants, need_t, ctx.impl
        )
        outputs = [
            d.to(p.dtype).view(p.shape) if need else None
            for d, p, need in zip(d_parameters, parameters, needs, strict=True)
        ]
        return (d_t if need_t else None, None, None, *outputs, None, None, None, None, None)


register_autograd("adapter_forward", _Adapter)


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
