"""Which implementation runs: by the tensor's device and dtype, or by name; what this machine has, for people."""

import importlib.util
import os
import warnings
from typing import Any, Literal

import torch

from .native import library

Impl = Literal["reference", "native", "triton"]

TRITON_FOUND = importlib.util.find_spec("triton") is not None
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def choose(impl: Impl | None, name: str, tensor: torch.Tensor) -> Impl:
    """The implementation for ``tensor`` (called ``name`` in messages).

    None: native on a CPU and triton on a GPU where they exist, work and know the dtype, else the reference.
    By name: that one, or RuntimeError (not available here) or TypeError (dtype).
    """
    device, dtype = tensor.device.type, tensor.dtype
    if impl is None:
        if device == "cpu" and library.LOADED is not None and dtype in library.DTYPES:
            return "native"
        if device == "cuda" and TRITON_FOUND and dtype in TRITON_DTYPES:
            return "triton" if torch.compiler.is_compiling() or not _told_fault() else "reference"
        return "reference"
    if impl == "reference":
        return impl
    if impl not in ("native", "triton"):
        raise ValueError(f'impl: expected None, "reference", "native" or "triton", got {impl!r}')
    reason = _native_reason(device) if impl == "native" else _triton_reason(device)
    if reason:
        raise RuntimeError(f'impl="{impl}" is not available: {reason}')
    known = tuple(library.DTYPES) if impl == "native" else TRITON_DTYPES
    if dtype not in known:
        raise TypeError(f'{name}: impl="{impl}" knows {", ".join(str(d) for d in known)}, got {dtype}')
    return impl


def available() -> dict[str, Any]:
    """What the ops can use on this machine, as plain values for a report.

    Keys: ``reference`` (True), ``native`` (bool), ``native_reason`` (why not, else ""), ``native_path``, ``native_isa``
    ("avx512", "avx2", "portable" or ""), ``native_compiler``, ``native_openmp`` (bool), ``threads``,
    ``cost_without_native`` (a sentence, "" where the library is there), ``triton`` (bool: usable with this GPU),
    ``triton_version``, ``triton_reason``.
    """
    loaded = library.LOADED
    triton_reason = _triton_reason("cuda" if torch.cuda.is_available() else "")
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
        "triton": not triton_reason,
        "triton_version": _triton_version(),
        "triton_reason": triton_reason,
    }


COST_WITHOUT_NATIVE = (
    "on a CPU the adapter, QuickGELU, GELU and the classifier with its loss run as plain PyTorch: "
    "the same results, slower (see benchmarks/results)"
)


def _native_reason(device: str) -> str:
    if library.LOADED is None:
        return library.MISSING
    return "" if device == "cpu" else f"the native library works on CPU tensors, got a tensor on {device!r}"


def _triton_reason(device: str) -> str:
    if not TRITON_FOUND:
        return "triton is not installed"
    if device == "cuda":
        return _triton_fault()
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return "no GPU is visible" if device == "" else f"Triton kernels need a GPU, got a tensor on {device!r}"


_fault: str | None = None
_is_told = False


def _triton_fault() -> str:
    """Why Triton starts no kernels on the GPU that is here, "" where it does; tried once.

    Triton compiles what launches its kernels when it is first used, and needs a C compiler and Python's headers for that.
    """
    global _fault
    if _fault is None:
        _fault = ""
        if torch.cuda.is_available():
            try:
                from triton.runtime import driver

                getattr(driver.active, "utils", None)  # compiles, or finds in its cache, what every launch needs
            except Exception as error:
                # Whatever stands in the way, from a library that is missing to a compiler's exit.
                said = (str(error).splitlines() or [""])[0]
                _fault = f"Triton starts no kernels here ({type(error).__name__}: {said}); it needs a C compiler and Python.h"
    return _fault


def _told_fault() -> str:
    """The same for a call that would take Triton, with a warning at the first one that cannot."""
    global _is_told
    fault = _triton_fault()
    if fault and not _is_told:
        _is_told = True
        warnings.warn(f"{fault}. The ops run as plain PyTorch.", RuntimeWarning, stacklevel=4)
    return fault


def _triton_version() -> str:
    if not TRITON_FOUND:
        return ""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return "unknown"
