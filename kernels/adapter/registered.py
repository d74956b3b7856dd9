"""The adapter op as PyTorch sees it: schemas, shapes, autograd, FLOPs, and which implementation runs."""

import math
from typing import Any

import torch

from ..registration import check_implementation, module_of, register, register_autograd, schema_of
from .arguments import (
    AdapterArguments,
    AdapterGradients,
    AdapterIncoming,
    AdapterOutputs,
    check,
    check_incoming,
    check_products,
    check_rank,
    folded_shapes,
)

_PACKAGE = str(__package__)

KEPT = len(AdapterOutputs._fields) - 2  # of forward's results, for backward

# N tokens, D width, r rank


def _unflatten_forward(flat: Any) -> tuple[Any, ...]:
    *arguments, products, keep, impl = flat
    return AdapterArguments(*arguments), products, keep, impl


def _outputs(a: AdapterArguments, products: torch.dtype, keep: bool, impl: str) -> AdapterOutputs:
    """Memory for the results, those that nobody wants empty."""
    kept = a.t.numel() // a.t.shape[-1] if keep else 0
    residual = torch.empty_like(a.t, memory_format=torch.contiguous_format)
    weights, sums = folded_shapes(a, impl)
    kind = torch.float32 if impl == "native" else products
    return AdapterOutputs(
        a.t.new_empty(0) if a.ln2_weight is None else torch.empty_like(residual),
        residual,
        a.t.new_empty(2, kept, dtype=torch.float32),
        a.t.new_empty(kept, a.down_weight.shape[0], dtype=kind),
        a.t.new_empty(weights, dtype=kind),
        a.t.new_empty(sums, dtype=torch.float32),
    )


def _forward(a: AdapterArguments, products: torch.dtype, keep: bool, impl: str) -> AdapterOutputs:
    outputs = _outputs(a, products, keep, impl)
    if a.t.numel():
        module_of(_PACKAGE, impl).forward(a, outputs, products)
    return outputs


def _check_forward(a: AdapterArguments, products: torch.dtype, keep: bool, impl: str) -> None:
    check(a)
    check_rank(a.down_weight, impl)
    check_products(products, a.t)
    check_implementation(impl, "t", a.t)


def _forward_flops(a: AdapterArguments, *_: Any) -> int:
    return 2 * _product_flops(a)


adapter_forward = register(
    "adapter_forward",
    f"({schema_of(AdapterArguments)}, ScalarType products, bool keep, str impl) -> ({schema_of(AdapterOutputs)})",
    _forward, _check_forward, _outputs, _unflatten_forward, _forward_flops,
)  # fmt: skip


def _unflatten_backward(flat: Any) -> tuple[Any, ...]:
    kept = len(AdapterIncoming._fields)
    *arguments, need_t, impl = flat[kept:]
    return AdapterArguments(*arguments), AdapterIncoming(*flat[:kept]), need_t, impl


def _gradients(a: AdapterArguments, _: AdapterIncoming, need_t: bool, impl: str) -> AdapterGradients:
    """Memory for the results; that of d_t is empty where nobody wants it."""
    d_t = torch.empty_like(a.t, memory_format=torch.contiguous_format) if need_t else a.t.new_empty(0)
    learned = (a.ln_weight, a.ln_bias, a.down_weight, a.down_bias, a.up_weight, a.up_bias)
    like = [torch.empty_like(p, dtype=torch.float32, memory_format=torch.contiguous_format) for p in learned]
    return AdapterGradients(*(d_t, *like, a.t.new_empty(1, dtype=torch.float32)))


def _backward(a: AdapterArguments, incoming: AdapterIncoming, need_t: bool, impl: str) -> AdapterGradients:
    gradients = _gradients(a, incoming, need_t, impl)
    if a.t.numel():
        module_of(_PACKAGE, impl).backward(a, incoming, gradients)
        return gradients
    return AdapterGradients(*[x.zero_() for x in gradients])


def _check_backward(a: AdapterArguments, incoming: AdapterIncoming, need_t: bool, impl: str) -> None:
    check(a)
    check_rank(a.down_weight, impl)
    check_implementation(impl, "t", a.t)
    check_incoming(a, incoming, impl)


def _backward_flops(a: AdapterArguments, _: AdapterIncoming, need_t: bool, impl: str) -> int:
    return (4 if need_t else 3) * _product_flops(a)


adapter_backward = register(
    "adapter_backward",
    f"({schema_of(AdapterIncoming)}, {schema_of(AdapterArguments)}, bool need_t, str impl)"
    f" -> ({schema_of(AdapterGradients, 'd_')})",
    _backward, _check_backward, _gradients, _unflatten_backward, _backward_flops,
)  # fmt: skip


def _product_flops(a: Any) -> int:
    """Of one product of [N, D] and [D, r], a multiplication and an addition each; ``a`` has shapes in place of tensors."""
    return 2 * math.prod(a.t) * a.down_weight[0]


def _save(ctx: Any, arguments: tuple[Any, ...], results: AdapterOutputs) -> tuple[torch.Tensor, ...]:
    """Where nothing below learns, ln2 is a constant: the MLP that reads it must not keep anything for its gradient."""
    a, _, ctx.keep, ctx.impl = _unflatten_forward(arguments)
    ln2, _, *kept = results
    *tensors, fixed_scale, eps, ln_eps = a
    ctx.numbers = fixed_scale, eps, ln_eps
    ctx.save_for_backward(*kept, *tensors)
    return () if ctx.needs_input_grad[0] else (ln2,)


def _differentiate(
    ctx: Any, d_ln2: torch.Tensor | None, d_residual: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    if not ctx.keep:
        raise RuntimeError("adapter_forward: called with keep=False, but a gradient is asked for")
    saved = ctx.saved_tensors  # once: activation checkpointing gives them out once
    kept, tensors = saved[:KEPT], saved[KEPT:]
    a = AdapterArguments(*tensors, *ctx.numbers)
    d_residual = torch.zeros_like(a.t) if d_residual is None else d_residual
    incoming = AdapterIncoming(d_residual, None if a.ln2_weight is None else d_ln2, *kept)
    needs = dict(zip(AdapterArguments._fields, ctx.needs_input_grad, strict=False))  # products, keep and impl follow
    found = adapter_backward.below_autograd(*incoming, *a, needs["t"], ctx.impl)
    gradients = dict(zip(AdapterGradients._fields, found, strict=True))
    wanted = [
        _as(gradients[x], getattr(a, x)) if x in gradients and needs[x] else None for x in AdapterArguments._fields
    ]
    return (*wanted, None, None, None)


def _as(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A float32 gradient in the dtype and shape of its parameter: a scale's may have any number of dimensions."""
    if gradient.dtype != parameter.dtype:
        gradient = gradient.to(parameter.dtype)
    return gradient if gradient.dim() == parameter.dim() else gradient.view(parameter.shape)


register_autograd(adapter_forward, _save, _differentiate, own=2)
