"""The activations as PyTorch sees them: schemas, shapes, autograd, and which implementation runs."""

from typing import Any

import torch

from ..checks import check_activations, check_like
from ..registration import check_implementation, module_of, register, register_autograd

_PACKAGE = str(__package__)
KINDS = ("quick_gelu", "gelu")


def _forward(x: torch.Tensor, kind: str, impl: str) -> torch.Tensor:
    return module_of(_PACKAGE, impl).forward(x, kind)


def _backward(d_y: torch.Tensor, x: torch.Tensor, kind: str, impl: str) -> torch.Tensor:
    return module_of(_PACKAGE, impl).backward(d_y, x, kind)


def _check(x: torch.Tensor, kind: str, impl: str) -> None:
    check_activations("x", x)
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    check_implementation(impl, "x", x)


def _check_backward(d_y: torch.Tensor, x: torch.Tensor, kind: str, impl: str) -> None:
    _check(x, kind, impl)
    check_like("d_y", d_y, tuple(x.shape), (x.dtype,), "x", x)


def _like_x(x: torch.Tensor, *_: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


activation_forward = register(
    "activation_forward", "(Tensor x, str kind, str impl) -> Tensor", _forward, _check, _like_x
)
activation_backward = register(
    "activation_backward", "(Tensor d_y, Tensor x, str kind, str impl) -> Tensor", _backward, _check_backward, _like_x
)


def _save(ctx: Any, arguments: tuple[Any, ...], _y: torch.Tensor) -> tuple[()]:
    x, ctx.kind, ctx.impl = arguments
    ctx.save_for_backward(x)
    return ()


def _differentiate(ctx: Any, d_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    return activation_backward.below_autograd(d_y, x, ctx.kind, ctx.impl), None, None


register_autograd(activation_forward, _save, _differentiate)
