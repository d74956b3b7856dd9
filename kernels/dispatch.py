"""Which implementation runs: by the tensor's device and dtype, or by name; what this machine has, for people."""

import importlib.util
from typing import Any, Literal

import torch

Impl = Literal["reference", "native", "triton"]


def choose(impl: Impl | None, tensor: torch.Tensor) -> Impl:
    """The implementation for ``tensor``; RuntimeError when the one asked for by name is not available."""
    if impl is None or impl == "reference":
        return "reference"
    raise RuntimeError(f"impl={impl!r} is not available: not built yet")


def available() -> dict[str, Any]:
    """What the ops can use on this machine, as plain values for a report.

    Keys: ``reference`` (always True), ``native`` (bool), ``native_reason`` (why not, else ""), ``native_path``,
    ``native_isa`` ("avx512", "avx2", "portable" or ""), ``triton`` (bool), ``triton_reason``,
    ``cost_without_native`` (one sentence).
    """
    triton = importlib.util.find_spec("triton") is not None and torch.cuda.is_available()
    return {
        "reference": True,
        "native": False,
        "native_reason": "not built yet",
        "native_path": "",
        "native_isa": "",
        "triton": triton,
        "triton_reason": "",
        "cost_without_native": "",
    }
