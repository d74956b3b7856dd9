"""What the launches of all Triton kernels share: the device, its size, and a way past the binder for calls already seen."""

import contextlib
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl

TRITON_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
INTERPRETED_MULTIPROCESSORS = 4  # where there is no GPU to ask
ALIGNMENT = 16  # bytes, to which a kernel may assume its pointers aligned
MOST_COMPILED = 4096  # entries kept; a shape that keeps changing must not fill the memory

_OPTIONS = ("num_warps", "num_stages")  # of the compiler, which a compiled kernel knows
_NOTHING = contextlib.nullcontext()
_compiled: dict[Any, Any] = {}


def launch(kernel: Any, grid: tuple[int, int, int], key: Any, arguments: tuple[Any, ...], **constants: Any) -> None:
    """``kernel[grid](*arguments, **constants)``, in a third of the host's time once ``key`` is known.

    Triton's binder looks at every argument of every call to find the code that was compiled for such arguments; here the
    caller says by ``key`` that the arguments are as in an earlier call: the same dtypes, the same ones None, the same
    specialised numbers, the same constants, pointers aligned.

    Args:
        key: hashable; None where that is not known, for the binder's way.
        constants: the kernel's constexprs, in the order of its signature, and ``num_warps`` and ``num_stages``.
    """
    if key is None:
        kernel[grid](*arguments, **constants)
        return
    place = (id(kernel), grid, key)
    if (known := _compiled.get(place)) is not None:
        run, blocks = known
        run(*arguments, *blocks)
        return
    compiled = kernel[grid](*arguments, **constants)
    if compiled is not None:  # None in the interpreter
        if len(_compiled) >= MOST_COMPILED:
            _compiled.clear()
        _compiled[place] = compiled[grid], [value for name, value in constants.items() if name not in _OPTIONS]


def kinds(tensors: tuple[torch.Tensor | None, ...], *others: Any) -> tuple[Any, ...] | None:
    """A key for :func:`launch`: the device, dtypes of ``tensors`` (the first is none of None), and ``others``.

    None unless all start where compiled code may expect it.
    """
    first = tensors[0]
    assert first is not None
    together = 0
    found: list[Any] = [first.get_device(), *others]
    for x in tensors:
        if x is None:
            found.append(None)
        else:
            together |= x.data_ptr()
            found.append(x.dtype)
    return None if together % ALIGNMENT else tuple(found)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up. (Triton's own costs microseconds on the host.)"""
    return -(-a // b)


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def dot_precision(dtype: torch.dtype) -> str:
    """How a kernel multiplies float32: as PyTorch's own matrix products are allowed to ("tf32" or "ieee")."""
    # Not allow_tf32, which raises once anybody has used this newer setting.
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def device_of(tensor: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Launch on the GPU of ``tensor``; nothing to do where that is the current one, or for the interpreter."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return _NOTHING
    return torch.cuda.device(tensor.device)


def multiprocessors(tensor: torch.Tensor) -> int:
    """How many of them the GPU of ``tensor`` has."""
    return _multiprocessors(tensor.get_device()) if tensor.is_cuda else INTERPRETED_MULTIPROCESSORS


@lru_cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count
