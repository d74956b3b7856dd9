"""Which implementation runs, by the tensor's device and dtype or by name; and a report of what this machine has."""

import functools
import hashlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from .native import library

Impl = Literal["reference", "native", "triton"]
"""What computes an op: plain PyTorch on any device, compiled C++ for CPUs, or Triton for GPUs."""

TRITON_FOUND = importlib.util.find_spec("triton") is not None
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


_traced = torch._C._get_tracing_state
_plain = 0  # contexts of ``plain`` that are open


@contextmanager
def plain() -> Iterator[None]:
    """Inside it every op is plain PyTorch, also where another implementation is asked for by name.

    For programs that must not meet these ops: quantisers and converters that walk a model, hooks that count PyTorch's own
    ops, ``torch.func`` transforms. ``torch.export``, ``torch.onnx.export`` and ``torch.jit.trace`` need no context: while they
    trace, an op without a named ``impl`` is plain PyTorch. It holds for all threads of the process. A backward pass runs what
    its forward pass recorded.
    """
    global _plain
    _plain += 1
    try:
        yield
    finally:
        _plain -= 1


def is_plain() -> bool:
    """Whether a context of :func:`plain` is open."""
    return _plain > 0


def is_exporting() -> bool:
    """Whether a program is being written down for somewhere else, where these ops are not."""
    if torch.compiler.is_compiling():
        # What is_exporting() returns; PyTorch 2.9 takes the function itself as true in all that it compiles.
        return torch.compiler._is_exporting_flag
    return _traced() is not None  # torch.jit.trace, and torch.onnx.export where it goes that way


def choose(impl: Impl | None, name: str, tensor: torch.Tensor) -> Impl:
    """The implementation of a call for ``tensor`` (called ``name`` in messages).

    Inside :func:`plain` the reference; while a program is exported too, unless one is named. Otherwise as ``choose_for``.
    """
    if _plain or (impl is None and is_exporting()):
        return "reference"
    return choose_for(impl, name, tensor)


def choose_for(impl: Impl | None, name: str, tensor: torch.Tensor) -> Impl:
    """The implementation that this machine has for ``tensor`` (called ``name`` in messages).

    None: native on a CPU and triton on a GPU where they exist, work and know the dtype, else the reference.
    By name: that one, or RuntimeError (not available here) or TypeError (dtype).
    """
    dtype = tensor.dtype
    if impl is None:
        if tensor.is_cpu and library.LOADED is not None and dtype in library.DTYPES:
            return "native"
        if tensor.is_cuda and TRITON_FOUND and dtype in TRITON_DTYPES:
            if torch.compiler.is_compiling():
                return "triton"
            warn_of_triton_fault()
            return "reference" if triton_fault() else "triton"
        return "reference"
    if impl == "reference":
        return impl
    if impl not in ("native", "triton"):
        raise ValueError(f'impl: expected None, "reference", "native" or "triton", got {impl!r}')
    reason = _native_reason(tensor) if impl == "native" else triton_reason(tensor.device.type)
    if reason:
        raise RuntimeError(f'impl="{impl}" is not available: {reason}')
    known = library.DTYPES if impl == "native" else TRITON_DTYPES
    if dtype not in known:
        raise TypeError(f'{name}: impl="{impl}" knows {", ".join(str(d) for d in known)}, got {dtype}')
    return impl


def code_digest(folder: Path = Path(__file__).parent) -> str:
    """A name of the ops' Python code, 16 hexadecimal digits; ``folder``: where it lies.

    PyTorch keeps compiled graphs by the names of the ops that they call. One that was compiled with other code would call them
    with other arguments, so what is kept must carry this name.
    """
    found = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


def available() -> dict[str, Any]:
    """What the ops can use on this machine, as plain values for a report.

    Keys: ``reference`` (True), ``native`` (bool), ``native_reason`` (why not, else ""), ``native_path``, ``native_isa``
    ("avx512", "avx2", "portable" or ""), ``native_compiler``, ``native_openmp`` (bool), ``threads``,
    ``cost_without_native`` (a sentence, "" where the library is there), ``triton`` (bool: usable with this GPU),
    ``triton_version``, ``triton_reason``.
    """
    loaded = library.LOADED
    reason = triton_reason("cuda" if torch.cuda.is_available() else "")
    return {
        "reference": True,
        "native": loaded is not None,
        "native_reason": library.MISSING,
        "native_path": str(library.LIBRARY) if loaded is not None else "",
        "native_isa": library.isa(),
        "native_compiler": loaded.fastlift_compiler().decode() if loaded is not None else "",
        "native_openmp": bool(loaded.fastlift_openmp()) if loaded is not None else False,
        "threads": torch.get_num_threads(),
        "cost_without_native": "" if loaded is not None else COST_WITHOUT_NATIVE,
        "triton": not reason,
        "triton_version": _triton_version(),
        "triton_reason": reason,
    }


COST_WITHOUT_NATIVE = (
    "on a CPU the adapter, QuickGELU, GELU and the classifier with its loss run as plain PyTorch: "
    "the same results, slower (see benchmarks/results)"
)


def _native_reason(tensor: torch.Tensor) -> str:
    if library.LOADED is None:
        return library.MISSING
    return "" if tensor.is_cpu else f"the native library works on CPU tensors, got a tensor on {tensor.device.type!r}"


def triton_reason(device: str) -> str:
    """Why Triton's kernels do not run on ``device`` ("cuda", "cpu", or "" where no GPU is visible); "" where they do."""
    if not TRITON_FOUND:
        return "triton is not installed"
    if device == "cuda":
        return triton_fault()
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return "no GPU is visible" if device == "" else f"Triton kernels need a GPU, got a tensor on {device!r}"


@functools.cache
def triton_fault() -> str:
    """Why Triton cannot launch kernels on this GPU, "" where it can; tried once.

    At its first use Triton compiles its launcher, and needs a C compiler and Python's headers for that.
    """
    if not torch.cuda.is_available():
        return ""
    try:
        from triton.runtime import driver

        getattr(driver.active, "utils", None)  # compiles the launcher, or finds it in the cache
    except Exception as error:
        # Whatever stands in the way, from a library that is missing to a compiler's exit.
        said = (str(error).splitlines() or [""])[0]
        return f"Triton starts no kernels here ({type(error).__name__}: {said}); it needs a C compiler and Python.h"
    return ""


@functools.cache
def warn_of_triton_fault() -> None:
    """Warn once in a process where a GPU's tensors are computed by plain PyTorch, with the reason."""
    if fault := triton_fault():
        warnings.warn(f"{fault}. The ops run as plain PyTorch.", RuntimeWarning, stacklevel=4)


def _triton_version() -> str:
    if not TRITON_FOUND:
        return ""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return "unknown"
