"""The activations as PyTorch sees them: schemas, shapes, autograd, and which implementation runs."""

from typing import Any

import torch

from ..checks import check_activations, check_kept
from ..registration import implementation, module_of, refuse_double_backward, register, register_autograd

_PACKAGE = str(__package__)
KINDS = ("quick_gelu", "gelu")


def _forward(x: torch.Tensor, kind: str, impl: str) -> torch.Tensor:
    return module_of(_PACKAGE, impl).forward(x.contiguous(), kind)


def _backward(d_y: torch.Tensor, x: torch.Tensor, kind: str, impl: str) -> torch.Tensor:
    return module_of(_PACKAGE, impl).backward(d_y.contiguous(), x.contiguous(), kind)


def _check(x: torch.Tensor, kind: str, impl: str) -> None:
    check_activations("x", x)
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    implementation(_PACKAGE, impl, "x", x)


def _check_backward(d_y: torch.Tensor, x: torch.Tensor, kind: str, impl: str) -> None:
    _check(x, kind, impl)
    check_kept("d_y", d_y, tuple(x.shape), (x.dtype,), x)


def _like_x(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


activation_forward = register(
    "activation_forward", "(Tensor x, str kind, str impl) -> Tensor", _forward, _check, lambda x, kind, impl: _like_x(x)
)
activation_backward = register(
    "activation_backward",
    "(Tensor d_y, Tensor x, str kind, str impl) -> Tensor",
    _backward,
    _check_backward,
    lambda d_y, x, kind, impl: _like_x(x),
)


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kind: str, impl: str) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.kind, ctx.impl = kind, impl
        return activation_forward.below_autograd(x, kind, impl)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        refuse_double_backward("activation_forward")
        (x,) = ctx.saved_tensors
        return activation_backward.below_autograd(grads[0], x, ctx.kind, ctx.impl), None, None


register_autograd(activation_forward, _Activation)
