"""Facts about the machine: processors, memory, GPUs, and the limits that a container sets."""

from __future__ import annotations

import math
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

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

    info = _read("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "name": fields.get("model name") or platform.processor() or "unknown",
        "cores": usable_cores(),
        "quota": cpu_quota(_read("/sys/fs/cgroup/cpu.max")),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in SHOWN_CPU_FLAGS if flag in flags],
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(cpu_max: str) -> float | None:
    """CPUs' worth of time that a container grants, from the text of the control group's ``cpu.max``; None: no limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _memory() -> dict[str, Any]:
    total, available = meminfo(_read("/proc/meminfo"))
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and (total is None or int(limit) / GIB < total):
        used = _read("/sys/fs/cgroup/memory.current").strip()
        total = int(limit) / GIB
        room = total - (int(used) / GIB if used.isdigit() else 0.0)
        available = room if available is None else min(available, room)
    return {"total_gib": total, "available_gib": available}


def meminfo(text: str) -> tuple[float | None, float | None]:
    """(total, available) in GiB from the text of ``/proc/meminfo``; None where it does not tell."""
    kib = {line.split(":")[0]: line.split()[1] for line in text.splitlines() if len(line.split()) > 1}
    total, available = (int(kib[name]) * 1024 / GIB if name in kib else None for name in ("MemTotal", "MemAvailable"))
    return total, available


def _cuda() -> dict[str, Any]:
    """Whether PyTorch can use a GPU, and its own words where it cannot."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    driver = _read("/proc/driver/nvidia/version").splitlines()
    return {
        "available": available,
        "built_for": torch.version.cuda,
        "driver": driver[0].strip() if driver else None,
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "warning": " ".join(str(entry.message) for entry in caught) or None,
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


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
