"""How the ops are registered with PyTorch: one library, one function for all devices, autograd by the dispatcher.

``torch.library.custom_op`` would do, but costs 9 to 15 us a call and ``register_autograd`` as much again; a kernel under
the dispatcher's Autograd key that applies a ``torch.autograd.Function`` does the same for a third of it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from .dispatch import choose

NAMESPACE = "fastlift_kernels"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_DIFFERENTIABLE = ("AutogradCPU", "AutogradCUDA")


def register(name: str, schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define ``name`` with ``schema``; return the overload. ``kernel`` runs on every device, ``fake`` gives the shapes.

    Inside the op autocast is off on every path: the op's dtypes are those of its arguments.
    """
    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    op = getattr(getattr(torch.ops, NAMESPACE), name).default

    def under_autocast(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return op(*args)

    def under_vmap(*args: Any) -> Any:
        raise RuntimeError(_no_transforms(name))

    for key in ("AutocastCPU", "AutocastCUDA"):
        _LIBRARY.impl(name, under_autocast, key)
    _LIBRARY.impl(name, under_vmap, "FuncTorchBatched")
    return op


def register_autograd(name: str, function: type[torch.autograd.Function]) -> None:
    """Let ``function.apply`` (with the arguments of ``name``) handle calls that need gradients."""
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    peek = torch._C._functorch.peek_interpreter_stack

    def differentiable(*args: Any) -> Any:
        if peek() is not None:
            raise RuntimeError(_no_transforms(name))
        if torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in args):
            return function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    for key in _DIFFERENTIABLE:
        _LIBRARY.impl(name, differentiable, key)


def implementation(package: str, impl: Any, name: str, tensor: torch.Tensor) -> Any:
    """The module of ``package`` that implements ``impl``; Triton is imported only when a GPU asks for it.

    Raises as :func:`dispatch.choose` does where it is not for ``tensor`` (called ``name``): calls of the registered ops
    need not have come through the public ones.
    """
    if choose(impl, name, tensor) == "reference":
        raise ValueError(f'impl: expected "native" or "triton", got {impl!r}')
    return import_module(".native" if impl == "native" else ".gpu", package)


def below_autograd(op: Any, *args: Any) -> Any:
    """Call ``op`` from inside its own autograd function."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def refuse_double_backward(name: str) -> None:
    """Raise inside a backward of which a graph is wanted: without one, a gradient penalty would be a silent constant."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{NAMESPACE}::{name} has no second derivative (backward was called with create_graph=True); "
            'pass impl="reference" there'
        )


def _no_transforms(name: str) -> str:
    return (
        f"{NAMESPACE}::{name} works under autograd, torch.compile and checkpointing, but not inside torch.func transforms "
        '(grad, vmap, jvp, ...); pass impl="reference" there'
    )


_AUTOCAST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)
