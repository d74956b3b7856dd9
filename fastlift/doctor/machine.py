"""Facts about the machine for people: what ``fastlift.system.machine`` finds, and GPUs."""

from __future__ import annotations

import math
import os
import platform
import sys
from dataclasses import asdict
from typing import Any

from fastlift.system.machine import cores, cpu_quota, cpus, driver, memory, processor_flags, processor_name

GIB = 2**30
SHOWN_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd")


def machine_facts() -> dict[str, Any]:
    """Sections ``python system cpu memory gpus cuda``; sizes in GiB."""
    cuda = _cuda()
    return {
        "python": {"version": platform.python_version(), "environment": sys.prefix != sys.base_prefix},
        "system": {"name": _system_name(), "kernel": platform.release(), "machine": platform.machine()},
        "cpu": _cpu(),
        "memory": _memory(),
        "gpus": _gpus() if cuda["available"] else [],
        "cuda": cuda,
    }


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _cpu() -> dict[str, Any]:
    import torch

    flags = processor_flags()
    return {
        "name": processor_name(),
        "cpus": cpus(),
        "cores": cores(),
        "quota": cpu_quota(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in SHOWN_CPU_FLAGS if flag in flags],
    }


def _memory() -> dict[str, Any]:
    found = memory()
    total, available = (None if size is None else size / GIB for size in (found.total, found.available))
    return {"total_gib": total, "available_gib": available, "limited": found.limited}


def _cuda() -> dict[str, Any]:
    """Whether PyTorch can use a GPU, and what is amiss where there is one that it cannot use."""
    import torch

    from fastlift.system.cuda import trouble

    amiss, found = trouble(), driver()  # first what silences torch's warning
    return {
        "available": torch.cuda.is_available(),
        "built_for": torch.version.cuda,
        "driver": None if found is None else found.version,
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "trouble": None if amiss is None else asdict(amiss),
    }


def _gpus() -> list[dict[str, Any]]:
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = (properties.major, properties.minor)
        gpus.append(
            {
                "name": properties.name,
                "capability": list(capability),
                "memory_gib": properties.total_memory / GIB,
                "multiprocessors": properties.multi_processor_count,
                **dtype_support(capability),
            }
        )
    return gpus


def dtype_support(capability: tuple[int, int]) -> dict[str, bool]:
    """What a GPU's matrix units multiply: fp16 from Volta (7.0), bf16 from Ampere (8.0), fp8 from Ada (8.9) on.

    Source: the CUDA programming guide's table of tensor core types by compute capability.
    """
    return {"fp16": capability >= (7, 0), "bf16": capability >= (8, 0), "fp8": capability >= (8, 9)}


def gib_text(value: float | None) -> str:
    """5.3 GiB, or "unknown"."""
    return "unknown" if value is None or math.isnan(value) else f"{value:.1f} GiB"
