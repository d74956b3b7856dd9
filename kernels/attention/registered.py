"""Attention by its own kernels as PyTorch sees it: schemas, shapes, autograd, FLOPs."""

from typing import Any

import torch

from ..registration import check_implementation, module_of, register, register_autograd, schema_of
from .arguments import AttentionArguments, check, check_incoming
from .configuration import check_fits

_PACKAGE = str(__package__)
_CONSTANTS = len(AttentionArguments._fields) - 2  # arguments without a gradient, behind qkv and q

# B images, L tokens, D width, H heads; the first Q tokens ask


def _unflatten_forward(flat: Any) -> tuple[Any, ...]:
    *arguments, keep = flat
    return AttentionArguments(*arguments), keep


def _results(a: AttentionArguments, keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for out [B, Q, D] and, where a gradient will be asked for, the logarithms of the sums [B, H, Q]."""
    images, _, queries, width = a.sizes
    kept = queries if keep else 0
    return a.qkv.new_empty(images, queries, width), a.qkv.new_empty(images, a.heads, kept, dtype=torch.float32)


def _forward(a: AttentionArguments, keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = _results(a, keep)
    if out.numel():
        module_of(_PACKAGE, "triton").forward(a, out, lse if keep else None)
    return out, lse


def _check_forward(a: AttentionArguments, keep: bool) -> None:
    check(a)
    check_implementation("triton", "qkv", a.qkv)
    check_fits(a)


def _forward_flops(a: Any, *_: Any) -> int:
    return 2 * _product_flops(a)


attention_forward = register(
    "attention_forward", f"({schema_of(AttentionArguments)}, bool keep) -> (Tensor out, Tensor lse)",
    _forward, _check_forward, _results, _unflatten_forward, _forward_flops,
)  # fmt: skip


def _unflatten_backward(flat: Any) -> tuple[Any, ...]:
    d_out, lse, *arguments = flat
    return d_out, lse, AttentionArguments(*arguments)


def _gradients(_: torch.Tensor, __: torch.Tensor, a: AttentionArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for those of qkv and q; the second is empty where there is no q."""
    d_q = a.qkv.new_empty(0) if a.q is None else torch.empty_like(a.q, memory_format=torch.contiguous_format)
    return torch.empty_like(a.qkv, memory_format=torch.contiguous_format), d_q


def _backward(d_out: torch.Tensor, lse: torch.Tensor, a: AttentionArguments) -> tuple[torch.Tensor, torch.Tensor]:
    d_qkv, d_q = _gradients(d_out, lse, a)
    if d_out.numel():
        module_of(_PACKAGE, "triton").backward(d_out, lse, a, d_qkv, d_q)
        return d_qkv, d_q
    return d_qkv.zero_(), d_q.zero_()


def _check_backward(d_out: torch.Tensor, lse: torch.Tensor, a: AttentionArguments) -> None:
    _check_forward(a, True)
    check_incoming(d_out, lse, a)


def _backward_flops(_: Any, __: Any, a: Any) -> int:
    return 5 * _product_flops(a)


attention_backward = register(
    "attention_backward", f"(Tensor d_out, Tensor lse, {schema_of(AttentionArguments)}) -> (Tensor d_qkv, Tensor d_q)",
    _backward, _check_backward, _gradients, _unflatten_backward, _backward_flops,
)  # fmt: skip


def _product_flops(a: Any) -> int:
    """Of one product of [Q, D] and [D, L], a multiplication and an addition each; ``a`` has shapes in place of tensors."""
    images, tokens, together = a.qkv
    return 2 * images * tokens * (tokens * together // 3 if a.q is None else a.q[1] * a.q[2])


def _save(ctx: Any, arguments: tuple[Any, ...], results: tuple[torch.Tensor, ...]) -> tuple[()]:
    a, ctx.keep = _unflatten_forward(arguments)
    qkv, q, sin, cos, *ctx.numbers = a
    ctx.save_for_backward(results[1], qkv, q, sin, cos)
    return ()


def _differentiate(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    if not ctx.keep:
        raise RuntimeError("attention_forward: called with keep=False, but a gradient is asked for")
    lse, *tensors = ctx.saved_tensors
    d_qkv, d_q = attention_backward.below_autograd(d_out, lse, *tensors, *ctx.numbers)
    return (d_qkv, None if tensors[1] is None else d_q, *[None] * _CONSTANTS, None)


register_autograd(attention_forward, _save, _differentiate)
