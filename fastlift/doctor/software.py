"""Facts about the software: versions, fast kernels, caches, and what the automatic settings will choose."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from fastlift.errors import FastliftWarning
from fastlift.system.files import cache_folder
from fastlift.system.machine import plan_threads

# What is looked for where fastlift runs from a checkout that was never installed, and so has no metadata.
WITHOUT_METADATA = ("torch", "torchvision", "open_clip_torch", "timm")
OPTIONAL = ("dali", "transformers", "onnx")
"""Extras that fastlift itself uses while it runs."""
DALI = "nvidia-dali-cuda130"


def software_facts() -> dict[str, Any]:
    """Sections ``packages kernels choices cache shipped_clip``."""
    return {
        "packages": _packages(),
        "kernels": _kernels(),
        "choices": _choices(),
        "cache": _cache(),
        "shipped_clip": _shipped_clip(),
    }


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


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, None where it is not there."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _kernels() -> dict[str, Any]:
    """`fastlift_kernels.available()` and what Triton lacks, or why the package does not load."""
    try:
        import fastlift_kernels
        from fastlift.system.cuda import triton_trouble

        amiss = triton_trouble()
        own = {"importable": True, "triton_trouble": None if amiss is None else asdict(amiss)}
        return own | fastlift_kernels.available()
    except Exception as error:  # a broken build must not stop the one command that explains it
        return {"importable": False, "error": f"{type(error).__name__}: {error}"}


def _choices() -> dict[str, dict[str, str]]:
    """What ``auto`` means here, from the very functions that training asks."""
    return {name: _outcome(choose) for name, choose in _CHOICES.items()}


def _outcome(choose: Callable[[], tuple[str, str]]) -> dict[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FastliftWarning)  # the advice says the same
            value, why = choose()
    except Exception as error:
        return {"value": "broken", "why": f"{type(error).__name__}: {error}"}
    return {"value": value, "why": why}


def _device() -> tuple[str, str]:
    import torch

    from fastlift.system.device import resolve_device

    device = resolve_device("auto")
    if device.type == "cuda":
        return str(device), torch.cuda.get_device_name(device)
    return str(device), "PyTorch finds no CUDA GPU"


def _amp() -> tuple[str, str]:
    """On CPUs for a ViT-B/16, from the cache or measured anew in about half a second."""
    from fastlift.models.precision import VIT_B_16, dtype_name, resolve_amp
    from fastlift.system.device import resolve_device

    device = resolve_device("auto")
    chosen = resolve_amp("auto", device, VIT_B_16, keep=False)
    for_model = "for a ViT-B/16 " if device.type == "cpu" else ""
    return dtype_name(chosen.dtype), f"{for_model}{chosen.why}"


def _executor() -> tuple[str, str]:
    """For a set of ordinary photographs that does not fit in memory: what comes as arrays or is small needs no decoder."""
    import numpy as np

    from fastlift.data.index.index import ImageIndex, PathTable
    from fastlift.data.loading.loader import choose_executor
    from fastlift.system.device import resolve_device

    side = np.array([100_000], dtype=np.int32)
    index = ImageIndex(
        "photographs", Path(), PathTable.from_strings(["x.jpg"]), np.zeros(1, np.int64), side, side, ("x",), ""
    )
    executor, why = choose_executor(index, "auto", device=resolve_device("auto"))
    return executor, f"for JPEG files that do not fit in memory: {why}"


def _kernel() -> tuple[str, str]:
    """By the rule of the ops: Triton on GPUs, the native library on CPUs, each where it is there."""
    from fastlift.system.device import resolve_device

    kernels = _kernels()
    if not kernels["importable"]:
        raise RuntimeError(kernels["error"])
    if resolve_device("auto").type == "cuda":
        faster, why = "triton", "fused GPU kernels"
    else:
        faster, why = "native", f"fused C++ kernels for {kernels.get('native_isa') or 'this CPU'}"
    if faster == "triton" and kernels["triton_trouble"]:
        return "none", kernels["triton_trouble"]["what"]
    if kernels.get(faster):
        return faster, why
    return "reference", f"plain PyTorch; no {faster} kernels: {kernels.get(f'{faster}_reason') or 'no reason given'}"


def _compile() -> tuple[str, str]:
    from fastlift.models.compile import CPU_TFLOP_TO_EARN, GPU_STEPS_TO_EARN, has_cpp_compiler
    from fastlift.system.device import resolve_device

    if resolve_device("auto").type == "cuda":
        return f"from {GPU_STEPS_TO_EARN:,} steps on", "shorter runs would not earn the time to compile back"
    if not has_cpp_compiler():
        return "off", "torch.compile needs a C++ compiler on CPUs, and there is none"
    return f"from {CPU_TFLOP_TO_EARN:,.0f} TFLOP on", "shorter runs would not earn the time to compile back"


def _threads() -> tuple[str, str]:
    import torch

    plan, there = plan_threads(), torch.get_num_threads()
    return str(there), plan.compute_why if there == plan.compute else f"of this process; {plan.compute_why}"


def _wait() -> tuple[str, str]:
    plan = plan_threads()
    return plan.wait, plan.wait_why


def _workers() -> tuple[str, str]:
    plan = plan_threads()
    return str(plan.decode), plan.decode_why


_CHOICES: dict[str, Callable[[], tuple[str, str]]] = {
    "device": _device,
    "amp": _amp,
    "threads": _threads,
    "wait": _wait,
    "executor": _executor,
    "workers": _workers,
    "compile": _compile,
    "kernels": _kernel,
}


def _cache() -> dict[str, Any]:
    folder = cache_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    existing = next((parent for parent in (folder, *folder.parents) if parent.exists()), Path("/"))
    return {
        "folder": str(folder),
        "exists": folder.is_dir(),
        "size_mib": size / 2**20,
        "writable": existing.is_dir() and os.access(existing, os.W_OK),
        "free_gib": shutil.disk_usage(existing).free / 2**30,
    }


def _shipped_clip() -> dict[str, Any]:
    assets = files("fastlift") / "assets"
    parts = [assets / "shapes_clip.json", assets / "shapes_clip.safetensors"]
    return {
        "present": all(part.is_file() for part in parts),
        "missing": [part.name for part in parts if not part.is_file()],
    }
