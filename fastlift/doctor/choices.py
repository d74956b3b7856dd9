"""What the automatic settings will choose here, from the very functions that training asks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from fastlift.doctor.facts import kernel_facts
from fastlift.errors import FastliftWarning
from fastlift.system.device import resolve_device
from fastlift.system.machine import plan_threads


def automatic_choices() -> dict[str, dict[str, str]]:
    """Setting -> its ``value`` here, and ``why``; "broken" where choosing fails."""
    return {name: _outcome(choose) for name, choose in CHOICES.items()}


def _outcome(choose: Callable[[], tuple[str, str]]) -> dict[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FastliftWarning)  # the advice says the same
            value, why = choose()
    except Exception as error:
        return {"value": "broken", "why": f"{type(error).__name__}: {error}"}
    return {"value": value, "why": why}


def _device() -> tuple[str, str]:
    device = resolve_device("auto")
    if device.type == "cuda":
        return str(device), torch.cuda.get_device_name(device)
    return str(device), "PyTorch finds no CUDA GPU"


def _amp() -> tuple[str, str]:
    """On CPUs for a ViT-B/16, from the cache or measured anew in about half a second."""
    from fastlift.models.precision import VIT_B_16, dtype_name, resolve_amp

    device = resolve_device("auto")
    chosen = resolve_amp("auto", device, VIT_B_16, keep=False)
    for_model = "for a ViT-B/16 " if device.type == "cpu" else ""
    return dtype_name(chosen.dtype), f"{for_model}{chosen.why}"


def _backend() -> tuple[str, str]:
    """For a set of ordinary photographs that does not fit in memory: what comes as arrays or is small needs no decoder."""
    import numpy as np

    from fastlift.data.index.index import ImageIndex, PathTable
    from fastlift.data.loading.loader import LoaderSettings

    side = np.array([100_000], dtype=np.int32)
    index = ImageIndex(
        "photographs", Path(), PathTable.from_strings(["x.jpg"]), np.zeros(1, np.int64), side, side, ("x",), ""
    )
    backend, why = LoaderSettings().backend_for(index, resolve_device("auto"))
    return backend, f"for JPEG files that do not fit in memory: {why}"


def _kernel() -> tuple[str, str]:
    """By the rule of the ops: Triton on GPUs, the native library on CPUs, each where it is there."""
    kernels = kernel_facts()
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

    if resolve_device("auto").type == "cuda":
        return f"from {GPU_STEPS_TO_EARN:,} steps on", "shorter runs would not earn the time to compile back"
    if not has_cpp_compiler():
        return "off", "torch.compile needs a C++ compiler on CPUs, and there is none"
    return f"from {CPU_TFLOP_TO_EARN:,.0f} TFLOP on", "shorter runs would not earn the time to compile back"


def _threads() -> tuple[str, str]:
    plan, there = plan_threads(), torch.get_num_threads()
    return str(there), plan.compute_why if there == plan.compute else f"of this process; {plan.compute_why}"


def _wait() -> tuple[str, str]:
    plan = plan_threads()
    return plan.wait, plan.wait_why


def _workers() -> tuple[str, str]:
    plan = plan_threads()
    return str(plan.decode), plan.decode_why


CHOICES: dict[str, Callable[[], tuple[str, str]]] = {
    "device": _device,
    "amp": _amp,
    "threads": _threads,
    "wait": _wait,
    "executor": _backend,
    "workers": _workers,
    "compile": _compile,
    "kernels": _kernel,
}
