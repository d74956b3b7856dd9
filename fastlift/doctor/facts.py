"""Facts for people: the machine, by what ``fastlift.system.machine`` finds, and the software with its kernels and caches."""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from fastlift.system.cuda import trouble
from fastlift.system.device import installed
from fastlift.system.files import cache_folder
from fastlift.system.machine import cores, cpu_quota, cpus, driver, memory, processor_flags, processor_name
from fastlift.system.memory import GIB

SHOWN_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd")
# What is looked for where fastlift runs from a checkout that was never installed, and so has no metadata.
WITHOUT_METADATA = ("torch", "torchvision", "open_clip_torch", "timm")
OPTIONAL = ("dali", "transformers", "onnx")
"""Extras that fastlift itself uses while it runs."""
DALI = "nvidia-dali-cuda130"


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
    amiss, found = trouble(), driver()  # first what silences torch's warning
    return {
        "available": torch.cuda.is_available(),
        "built_for": torch.version.cuda,
        "driver": None if found is None else found.version,
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "trouble": None if amiss is None else asdict(amiss),
    }


def _gpus() -> list[dict[str, Any]]:
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


def software_facts() -> dict[str, Any]:
    """Sections ``packages kernels cache shipped_clip``."""
    return {"packages": _packages(), "kernels": kernel_facts(), "cache": _cache(), "shipped_clip": _shipped_clip()}


def _packages() -> list[dict[str, Any]]:
    """Installed version and allowed range of everything that fastlift's own metadata asks for, without importing it."""
    found = [{"name": "fastlift", "version": installed("fastlift"), "range": "", "fits": True, "optional": False}]
    for requirement, optional in requirements():
        there = installed(requirement.name)
        fits = there is None or requirement.specifier.contains(there, prereleases=True)
        entry = {"name": requirement.name, "version": there, "range": str(requirement.specifier), "fits": fits}
        found.append(entry | {"optional": optional})
    return found


def requirements() -> list[tuple[Requirement, bool]]:
    """(requirement, optional) of what fastlift uses on this platform, what it cannot do without first."""
    try:
        lines = [Requirement(line) for line in requires("fastlift") or []]
    except PackageNotFoundError:
        return [(Requirement(name), False) for name in WITHOUT_METADATA]
    needed = [line for line in lines if _applies(line, "")]
    optional = [line for line in lines if line not in needed and any(_applies(line, extra) for extra in OPTIONAL)]
    return [(line, False) for line in needed] + [(line, True) for line in optional]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def kernel_facts() -> dict[str, Any]:
    """`fastlift_kernels.available()` and what Triton lacks, or why the package does not load."""
    try:
        import fastlift_kernels
        from fastlift.system.cuda import triton_trouble

        amiss = triton_trouble()
        own = {"importable": True, "triton_trouble": None if amiss is None else asdict(amiss)}
        return own | fastlift_kernels.available()
    except Exception as error:  # a broken build must not stop the one command that explains it
        return {"importable": False, "error": f"{type(error).__name__}: {error}"}


def _cache() -> dict[str, Any]:
    folder = cache_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    existing = next((parent for parent in (folder, *folder.parents) if parent.exists()), Path("/"))
    return {
        "folder": str(folder),
        "exists": folder.is_dir(),
        "size_mib": size / 2**20,
        "writable": existing.is_dir() and os.access(existing, os.W_OK),
        "free_gib": shutil.disk_usage(existing).free / GIB,
    }


def _shipped_clip() -> dict[str, Any]:
    assets = files("fastlift") / "assets"
    parts = [assets / "shapes_clip.json", assets / "shapes_clip.safetensors"]
    return {
        "present": all(part.is_file() for part in parts),
        "missing": [part.name for part in parts if not part.is_file()],
    }
