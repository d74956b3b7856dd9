"""What the launches of all Triton kernels share: a way past Triton's binder for known arguments, and the device's size."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl

TRITON_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
INTERPRETED_MULTIPROCESSORS = 4  # where there is no GPU to ask
ALIGNMENT = 16  # bytes, to which a kernel may assume its pointers aligned
MOST_COMPILED = 4096  # entries kept; a shape that keeps changing must not fill the memory

_OPTIONS = ("num_warps", "num_stages")  # of the compiler, which a compiled kernel knows
compiled_before: dict[Any, Any] = {}


def launch(kernel: Any, grid: tuple[int, int, int], key: Any, arguments: tuple[Any, ...], **constants: Any) -> None:
    """``kernel[grid](*arguments, **constants)``, in a third of the host's time once ``key`` is known.

    Triton's binder looks at every argument of every call to find the code that was compiled for such arguments. A ``key``
    replaces that: equal keys promise the same dtypes, the same arguments None, the same specialised numbers, the same
    constants and aligned pointers.

    Args:
        key: hashable; None calls the binder.
        constants: the kernel's constexprs, in the order of its signature, and ``num_warps`` and ``num_stages``.
    """
    if key is None:
        kernel[grid](*arguments, **constants)
        return
    place = (id(kernel), grid, key)
    if (known := compiled_before.get(place)) is not None:
        run, blocks = known
        run(*arguments, *blocks)
        return
    compiled = kernel[grid](*arguments, **constants)
    if compiled is not None:  # None in the interpreter
        if len(compiled_before) >= MOST_COMPILED:
            compiled_before.clear()
        compiled_before[place] = compiled[grid], [value for name, value in constants.items() if name not in _OPTIONS]


def kinds(tensors: Sequence[torch.Tensor | None], *others: Any) -> tuple[Any, ...] | None:
    """A key for :func:`launch`: the device, ``others`` and the dtypes of ``tensors``, of which the first is not None.

    None unless all of them start at a multiple of ``ALIGNMENT``, as compiled code may expect.
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
    """a / b, rounded up; Triton's own costs microseconds on the host."""
    return -(-a // b)


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def dot_precision(dtype: torch.dtype) -> str:
    """How a kernel multiplies float32: as PyTorch's own matrix products are allowed to ("tf32" or "ieee")."""
    # Not allow_tf32, which raises once anybody has used this newer setting.
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def multiprocessors(tensor: torch.Tensor) -> int:
    """How many of them the GPU of ``tensor`` has."""
    return _multiprocessors(tensor.get_device()) if tensor.is_cuda else INTERPRETED_MULTIPROCESSORS


@lru_cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count
