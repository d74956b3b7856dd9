"""Triton's interpreter, mended for short floats: it multiplies bfloat16's bit patterns in dots, truncates where GPUs round,
and loses the carry of a rounding to 8 bits.

Upcasting the operands of a dot and rounding to nearest even is what the tensor cores and converters do.
"""

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from fastlift_kernels.triton_launch import launch


def _to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _to_float8(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


@pytest.fixture(autouse=True)
def _short_floats_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    dot, cast, convert = builder.create_dot, builder.cast_impl, builder.create_fp_to_fp

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        upcast = [handle(_to_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)]
        return dot(self, *upcast, d, *options)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.bfloat16 and target.scalar == tl.float32:
            return handle(_to_float32(source.data), tl.float32)
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            return handle(_to_bfloat16(source.data), tl.bfloat16)
        return cast(self, source, target)

    def create_fp_to_fp(self: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.float8e4nv:
            return handle(_to_float8(source.data), tl.float8e4nv)
        return convert(self, source, target, rounding)

    monkeypatch.setattr(builder, "create_dot", create_dot)
    monkeypatch.setattr(builder, "create_fp_to_fp", create_fp_to_fp)
    monkeypatch.setattr(builder, "cast_impl", cast_impl)
    for name in ("create_fp_ext", "create_fp_trunc"):
        monkeypatch.setattr(builder, name, lambda self, source, target: cast_impl(self, source, target))


@pytest.fixture(autouse=True)
def _scratch_full_of_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory from torch.empty starts as NaN, so that a kernel that reads what it did not write is seen."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def poisoned(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(float("nan")) if x.is_floating_point() and x.device.type == "cpu" else x

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poisoned(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poisoned(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poisoned(new_empty(*a, **k)))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels of attention and MLP that were launched."""
    from fastlift_kernels.attention import gpu as attention
    from fastlift_kernels.mlp import gpu as mlp

    found: list[str] = []

    def counted(kernel: Any, *arguments: Any, **constants: Any) -> None:
        found.append(kernel.fn.__name__)
        launch(kernel, *arguments, **constants)

    for module in (attention, mlp):
        monkeypatch.setattr(module, "launch", counted)
    return found
