"""NVIDIA's driver and its GPUs as its own library (NVML) tells of them, whatever PyTorch can do with them."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlift.system.machine.text import read

KERNEL_MODULE = Path("/proc/driver/nvidia/version")  # containers see it without seeing a GPU
_TEXT = 96  # bytes of NVML's texts


@dataclass(frozen=True)
class Driver:
    """A driver that is loaded.

    Attributes:
        version: its own, such as ``535.129.03``.
        cuda: the newest CUDA that it runs; None where its library is not here, as in a container without GPUs.
        gpus: names of its GPUs, those that CUDA_VISIBLE_DEVICES hides too.
    """

    version: str
    cuda: tuple[int, int] | None = None
    gpus: tuple[str, ...] = ()


def driver() -> Driver | None:
    """What is loaded; None where there is no driver."""
    library = _library()
    found = None if library is None else _ask(library)
    if found is not None:
        return found
    version = re.search(r"\s(\d{3,}\.\d[\d.]*)\s", read(KERNEL_MODULE))
    return None if version is None else Driver(version[1])


def gpus_are_hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves no GPU to see."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def _library() -> Any:
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None


def _ask(library: Any) -> Driver | None:
    """NVML's answers; None where it cannot reach the driver. Every function gives 0 where it did its work."""
    if library.nvmlInit_v2():
        return None
    try:
        version, number, count = ctypes.create_string_buffer(_TEXT), ctypes.c_int(), ctypes.c_uint()
        if library.nvmlSystemGetDriverVersion(version, _TEXT):
            return None
        known = not library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number))
        cuda = (number.value // 1000, number.value % 1000 // 10) if known else None  # 13020 is CUDA 13.2
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            count.value = 0
        names = tuple(_name(library, index) for index in range(count.value))
        return Driver(version.value.decode(errors="replace"), cuda, names)
    finally:
        library.nvmlShutdown()


def _name(library: Any, index: int) -> str:
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(_TEXT)
    if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) or library.nvmlDeviceGetName(
        handle, name, _TEXT
    ):
        return f"GPU {index}"
    return name.value.decode(errors="replace")
