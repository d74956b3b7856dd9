"""How the ops are registered with PyTorch: one library, one function for all devices, autograd by the dispatcher.

``torch.library.custom_op`` would do, but costs 9 to 15 us a call and ``register_autograd`` as much again; a kernel under
the dispatcher's Autograd key that applies a ``torch.autograd.Function`` does the same for a third of it. And where nothing
looks at what is dispatched (:func:`unwatched`), an op in eager mode needs no dispatcher at all.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from .checks import check_once
from .dispatch import choose

NAMESPACE = "fastlift_kernels"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_DIFFERENTIABLE = ("AutogradCPU", "AutogradCUDA")
_AUTOCAST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)
_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_traced = torch._C._get_tracing_state
_autocasts = torch._C._is_any_autocast_enabled


class Op:
    """A registered op, which runs ``compute`` at once where nobody watches, else through the dispatcher.

    Attributes:
        overload: as ``torch.ops`` has it; checks its arguments.
        compute: the same without checks.
    """

    def __init__(self, name: str, overload: Any, compute: Callable[..., Any]) -> None:
        self.name, self.overload, self.compute = name, overload, compute
        self.record: Callable[..., Any] = overload  # with a gradient, where nobody watches

    def call(self, args: tuple[Any, ...], plain: bool, record: bool) -> Any:
        """With checked arguments; ``plain``: they are all plain tensors; ``record``: a gradient of one is needed."""
        if not (plain and unwatched()):
            return self.overload(*args)
        return self.record(*args) if record else self.now(args)

    def now(self, args: tuple[Any, ...]) -> Any:
        """``compute`` where autograd does not record, out of autocast's sight."""
        if not _autocasts():
            return self.compute(*args)
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return self.compute(*args)

    def below_autograd(self, *args: Any) -> Any:
        """For the op's own autograd function, whose arguments have been checked."""
        if unwatched():
            return self.now(args)
        with torch._C._AutoDispatchBelowAutograd():
            return self.overload(*args)


def unwatched() -> bool:
    """Whether no compiler, tracer, mode or transform looks at what is dispatched in this thread."""
    return not (torch.compiler.is_compiling() or _modes() or _transforms() is not None or _traced() is not None)


def needs_gradients(args: tuple[Any, ...]) -> bool:
    """Whether autograd records a call with these arguments."""
    if not torch.is_grad_enabled():
        return False
    for a in args:  # noqa: SIM110 - a generator takes as long as what it asks
        if isinstance(a, torch.Tensor) and a.requires_grad:
            return True
    return False


def register(
    name: str, schema: str, compute: Callable[..., Any], check: Callable[..., None], fake: Callable[..., Any]
) -> Op:
    """Define ``name`` with ``schema``. ``compute`` runs on every device after ``check``, ``fake`` gives the shapes.

    Inside the op autocast is off on every path: the op's dtypes are those of its arguments.
    """

    def kernel(*args: Any) -> Any:
        check_once(check, args)
        return compute(*args)

    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    overload = getattr(getattr(torch.ops, NAMESPACE), name).default

    def under_autocast(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return overload(*args)

    def under_vmap(*args: Any) -> Any:
        raise RuntimeError(_no_transforms(name))

    for key in ("AutocastCPU", "AutocastCUDA"):
        _LIBRARY.impl(name, under_autocast, key)
    _LIBRARY.impl(name, under_vmap, "FuncTorchBatched")
    return Op(name, overload, compute)


def register_autograd(
    op: Op, function: type[torch.autograd.Function], direct: type[torch.autograd.Function] | None = None
) -> None:
    """Let ``function.apply`` (with the arguments of ``op``) handle calls that need gradients.

    ``direct`` is for calls past the dispatcher, whose outputs need not be all of the schema's.
    """
    op.record = (direct or function).apply

    def differentiable(*args: Any) -> Any:
        if _transforms() is not None:
            raise RuntimeError(_no_transforms(op.name))
        if needs_gradients(args):
            return function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op.overload(*args)

    for key in _DIFFERENTIABLE:
        _LIBRARY.impl(op.name, differentiable, key)


def implementation(package: str, impl: Any, name: str, tensor: torch.Tensor) -> Any:
    """The module of ``package`` that implements ``impl``; Triton is imported only when a GPU asks for it.

    Raises as :func:`dispatch.choose` does where it is not for ``tensor`` (called ``name``): calls of the registered ops
    need not have come through the public ones.
    """
    if choose(impl, name, tensor) == "reference":
        raise ValueError(f'impl: expected "native" or "triton", got {impl!r}')
    return module_of(package, impl)


def module_of(package: str, impl: Any) -> Any:
    """The same for a choice that has been made."""
    if (found := _modules.get((package, impl))) is None:
        found = _modules[package, impl] = import_module(".native" if impl == "native" else ".gpu", package)
    return found


_modules: dict[tuple[str, str], Any] = {}


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
