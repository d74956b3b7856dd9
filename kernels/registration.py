"""How the ops are registered with PyTorch: one library, one function for all devices, autograd by the dispatcher.

``torch.library.custom_op`` costs 9 to 15 us a call, and ``register_autograd`` as much again. A kernel under the dispatcher's
Autograd key that applies a ``torch.autograd.Function`` does the same for a third of it. In eager mode, where no compiler,
tracer, mode or transform is active (:func:`unwatched`), an op is called without the dispatcher.
"""

import typing
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from .checks import check_once
from .dispatch import choose_for

NAMESPACE = "fastlift_kernels"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_DIFFERENTIABLE = ("AutogradCPU", "AutogradCUDA")
_AUTOCAST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)
_SCHEMA_TYPES = {torch.Tensor: "Tensor", torch.Tensor | None: "Tensor?", float: "float", int: "int", bool: "bool"}
_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_traced = torch._C._get_tracing_state
_autocasts = torch._C._is_any_autocast_enabled


class Op:
    """A registered op. It is called directly where :func:`unwatched`, else through the dispatcher.

    Attributes:
        overload: the op of ``torch.ops``, which checks its arguments.
        compute: the same without checks.
        record: the same for autograd to record, without checks.
    """

    def __init__(self, name: str, overload: Any, compute: Callable[..., Any]) -> None:
        self.name, self.overload, self.compute = name, overload, compute
        self.record: Callable[..., Any] = overload

    def call(self, args: tuple[Any, ...], plain: bool, record: bool) -> Any:
        """The op of checked arguments. ``plain``: no tensor is of a subclass; ``record``: one of them needs a gradient."""
        if not (plain and unwatched()):
            return self.overload(*args)
        return self.record(*args) if record else self.now(args)

    def now(self, args: tuple[Any, ...]) -> Any:
        """``compute`` where autograd does not record, with autocast off."""
        if not _autocasts():
            return self.compute(*args)
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return self.compute(*args)

    def below_autograd(self, *args: Any) -> Any:
        """The op of checked arguments, inside an autograd function."""
        if unwatched():
            return self.now(args)
        with torch._C._AutoDispatchBelowAutograd():
            return self.overload(*args)


def unwatched() -> bool:
    """Whether no compiler, tracer, dispatch mode or transform is active in this thread."""
    return not (torch.compiler.is_compiling() or _modes() or _transforms() is not None or _traced() is not None)


def needs_gradients(args: tuple[Any, ...]) -> bool:
    """Whether autograd records a call with these arguments."""
    if not torch.is_grad_enabled():
        return False
    for a in args:  # noqa: SIM110 - a generator takes as long as what it asks
        if isinstance(a, torch.Tensor) and a.requires_grad:
            return True
    return False


def guarded(compute: Callable[..., Any], tensors: int, unflatten: Callable[[Any], Any] = iter) -> Callable[..., Any]:
    """A function that calls ``compute(*unflatten(args))`` with contiguous tensors, their GPU being the current one.

    Kernels read contiguous memory, and launch on the current GPU. The first ``tensors`` arguments are tensors of one device,
    the first of them not None.
    """

    def run(*args: Any) -> Any:
        contiguous = [None if x is None else x.contiguous() for x in args[:tensors]]
        contiguous += args[tensors:]
        first = args[0]
        if not first.is_cuda or first.get_device() == torch.cuda.current_device():
            return compute(*unflatten(contiguous))
        with torch.cuda.device(first.device):
            return compute(*unflatten(contiguous))

    return run


def schema_of(fields: type[tuple[Any, ...]], prefix: str = "") -> str:
    """The fields of a NamedTuple as a schema has them: "Tensor t, Tensor? bias, float eps"."""
    kinds = typing.get_type_hints(fields).items()  # of which those that are not listed are Literals of strings
    return ", ".join(f"{_SCHEMA_TYPES.get(kind, 'str')} {prefix}{name}" for name, kind in kinds)


def register(
    name: str,
    schema: str,
    compute: Callable[..., Any],
    check: Callable[..., None],
    fake: Callable[..., Any],
    unflatten: Callable[[Any], Iterable[Any]] = iter,
    flops: Callable[..., int] | None = None,
) -> Op:
    """Define an op for every device. Inside it autocast is off, so its dtypes are those of its arguments.

    Args:
        name: in ``torch.ops.fastlift_kernels``.
        schema: the types of its arguments and results, without the name. Tensors come first, one that is not optional at
            the head.
        compute: the work; its tensors are contiguous and their GPU is the current one (:func:`guarded`).
        check: raises where the arguments are not those of one call; runs before ``compute``.
        fake: results without their values.
        unflatten: from the schema's arguments to those of the other functions; by default they are the same.
        flops: counts floating-point operations; gets shapes in place of tensors.
    """

    def check_flat(args: tuple[Any, ...]) -> None:
        check(*unflatten(args))

    run = guarded(compute, schema.partition("->")[0].count("Tensor"), unflatten)

    def kernel(*args: Any) -> Any:
        check_once(check_flat, args)
        return run(*args)

    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *args: fake(*unflatten(args)), lib=_LIBRARY)
    packet = getattr(getattr(torch.ops, NAMESPACE), name)
    overload = packet.default
    if flops is not None:
        register_flop_formula(packet)(lambda *args, **_: flops(*unflatten(args)))

    def under_autocast(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return overload(*args)

    def under_vmap(*args: Any) -> Any:
        raise RuntimeError(_no_transforms(name))

    for key in ("AutocastCPU", "AutocastCUDA"):
        _LIBRARY.impl(name, under_autocast, key)
    _LIBRARY.impl(name, under_vmap, "FuncTorchBatched")
    return Op(name, overload, run)


def register_autograd(op: Op, save: Callable[..., Any], backward: Callable[..., Any], own: int = 1) -> None:
    """Make ``op`` differentiable, once.

    Args:
        op: its first ``own`` results (1 or 2) are the caller's, the others are kept for backward.
        save: takes ``ctx``, the arguments and the results, and keeps in ``ctx`` what backward needs. Returns those of the own
            results that have no gradient.
        backward: takes ``ctx`` and the gradients of the own results (None where there is none), returns the arguments'.

    Raises: (the calls) RuntimeError inside a torch.func transform, and for a second derivative.
    """

    def dispatched(ctx: Any, *args: Any) -> Any:
        results = op.below_autograd(*args)
        kept = results[own:] if isinstance(results, tuple) else ()
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*kept, *save(ctx, args, results))
        return results

    def direct(ctx: Any, *args: Any) -> Any:
        results = op.now(args)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*save(ctx, args, results))
        return results[:own] if isinstance(results, tuple) else results

    def differentiate(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # a graph is wanted: without this error a gradient penalty would be a constant
            raise RuntimeError(
                f"{NAMESPACE}::{op.name} has no second derivative (backward was called with create_graph=True); "
                'pass impl="reference" there'
            )
        if gradients[0] is None and gradients[own - 1] is None:
            return (None,) * len(ctx.needs_input_grad)
        return backward(ctx, *gradients[:own])

    def recorded(forward: Callable[..., Any]) -> Callable[..., Any]:
        methods = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
        return type(op.name, (torch.autograd.Function,), methods).apply  # type: ignore[attr-defined]

    op.record, through_the_dispatcher = recorded(direct), recorded(dispatched)

    def differentiable(*args: Any) -> Any:
        if _transforms() is not None:
            raise RuntimeError(_no_transforms(op.name))
        if needs_gradients(args):
            return through_the_dispatcher(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op.overload(*args)

    for key in _DIFFERENTIABLE:
        _LIBRARY.impl(op.name, differentiable, key)


def check_implementation(impl: str, name: str, tensor: torch.Tensor) -> None:
    """Raise as :func:`dispatch.choose_for` does unless ``impl`` is a fused implementation for ``tensor`` (called ``name``)."""
    if choose_for(impl, name, tensor) == "reference":  # type: ignore[arg-type]
        raise ValueError(f'impl: expected "native" or "triton", got {impl!r}')


def module_of(package: str, impl: str) -> Any:
    """The module of ``package`` that implements ``impl``; Triton is imported only when a GPU asks for it."""
    if (found := _modules.get((package, impl))) is None:
        found = _modules[package, impl] = import_module(".native" if impl == "native" else ".gpu", package)
    return found


_modules: dict[tuple[str, str], Any] = {}


def _no_transforms(name: str) -> str:
    return (
        f"{NAMESPACE}::{name} works under autograd, torch.compile and checkpointing, but not inside torch.func transforms "
        '(grad, vmap, jvp, ...); pass impl="reference" there'
    )
