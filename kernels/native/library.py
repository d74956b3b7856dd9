"""Finds and loads the native library, and mirrors the argument blocks of ``interface.h``."""

import ctypes
import os
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch  # before the library is loaded, so that both share torch's OpenMP runtime

ABI_VERSION = 1
PACKAGE = Path(__file__).resolve().parent.parent
LIBRARY = PACKAGE / "_native.so"
REASON_FILE = PACKAGE / "_native_missing.txt"
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
NO_MEMORY = -1  # the other status, -2, is that of arguments which the library refuses
ACTIVATIONS = {"quick_gelu": 0, "gelu": 1}


def _fields(**names_of_type: str) -> list[tuple[str, type]]:
    types = {"int64": c_int64, "int32": c_int32, "float32": c_float, "address": c_void_p}
    return [(name, types[kind]) for kind, names in names_of_type.items() for name in names.split()]


class AdapterForward(ctypes.Structure):
    """The C struct ``fastlift_adapter_forward_args``."""

    _fields_ = _fields(
        int64="tokens width rank",
        int32="dtype threads",
        float32="eps ln_eps",
        address="t ln2_weight ln2_bias ln_weight ln_bias down_weight down_bias up_weight up_bias scale "
        "ln2 residual mean variance hidden",
    )


class AdapterBackward(ctypes.Structure):
    """The C struct ``fastlift_adapter_backward_args``."""

    _fields_ = _fields(
        int64="tokens width rank",
        int32="dtype threads",
        float32="eps ln_eps",
        address="t d_ln2 d_residual mean variance hidden ln2_weight ln_weight ln_bias down_weight down_bias "
        "up_weight up_bias scale d_t d_ln_weight d_ln_bias d_down_weight d_down_bias d_up_weight d_up_bias d_scale",
    )


class CrossEntropy(ctypes.Structure):
    """The C struct ``fastlift_cross_entropy_args``."""

    _fields_ = _fields(
        int64="rows classes",
        int32="threads want_gradient",
        float32="smoothing gradient_factor",
        address="logits column_scale bias offset class_weight labels losses predictions",
    )


class Activation(ctypes.Structure):
    """The C struct ``fastlift_activation_args``."""

    _fields_ = _fields(int64="count", int32="dtype threads kind backward", address="x d_y out")


_CALLS = {
    "fastlift_adapter_forward": AdapterForward,
    "fastlift_adapter_backward": AdapterBackward,
    "fastlift_cross_entropy": CrossEntropy,
    "fastlift_activation": Activation,
}


def load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason why there is none."""
    if not LIBRARY.is_file():
        if REASON_FILE.is_file():
            return None, REASON_FILE.read_text(encoding="utf-8").strip()
        return None, f"{LIBRARY.name} was not built; reinstall with a C++20 compiler and CMake at hand"
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.fastlift_isa.restype = c_char_p
        library.fastlift_compiler.restype = c_char_p
        library.fastlift_select_isa.argtypes = [c_char_p]
        library.fastlift_poison_scratch.argtypes = [c_int32]
        library.fastlift_poison_scratch.restype = None
        version = library.fastlift_abi_version()
        if version != ABI_VERSION:
            return None, f"{LIBRARY.name} has interface {version}, this Python code {ABI_VERSION}: reinstall"
        for name, block in _CALLS.items():
            getattr(library, name).argtypes = [POINTER(block)]
    except (OSError, AttributeError) as error:
        return None, f"{LIBRARY.name} could not be loaded: {error}"
    wanted = os.environ.get("FASTLIFT_ISA", "")
    if wanted and library.fastlift_select_isa(wanted.encode()) != 0:
        return None, f"FASTLIFT_ISA={wanted}: this processor or this build does not have it"
    return library, ""


LOADED, MISSING = load()


def isa() -> str:
    """The instruction set in use: "avx512", "avx2", "portable", or "" without a library."""
    return LOADED.fastlift_isa().decode() if LOADED is not None else ""


def call(name: str, block: ctypes.Structure) -> None:
    """Run one entry point; RuntimeError where the library is missing, out of memory, or given what it cannot read."""
    if LOADED is None:
        raise RuntimeError(f"the native library is missing: {MISSING}")
    status = getattr(LOADED, name)(ctypes.byref(block))
    if status != 0:
        reason = "out of memory for scratch" if status == NO_MEMORY else "sizes out of range, or a missing pointer"
        raise RuntimeError(f"{name}: {reason}")


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Address of a tensor's data, or None."""
    return None if tensor is None else tensor.data_ptr()


__all__ = ["Activation", "AdapterBackward", "AdapterForward", "CrossEntropy", "call", "isa", "pointer"]
