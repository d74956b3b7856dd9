"""Which device a run uses, and what the machine was, for the record."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from fastlift.errors import FastliftWarning, UserError
from fastlift.system import launcher
from fastlift.system.cuda import trouble
from fastlift.system.machine import cpu_quota, cpus, gpus_are_hidden, processor_name

RECORDED_PACKAGES = ("fastlift", "torch", "torchvision", "triton", "open_clip_torch", "timm", "safetensors", "numpy")


def resolve_device(name: str) -> torch.device:
    """``auto`` is a CUDA GPU where PyTorch can use one, else the CPU, with a warning where one is there all the same.

    Anything else is PyTorch's own name.

    Raises:
        UserError: a name that is no device, or a device that is not here or cannot be used.
    """
    if name == "auto":
        return _automatic()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name}: only cpu and cuda are supported")
    if device.type == "cuda":
        _check_gpu(name, device.index or 0)
    return device


def _automatic() -> torch.device:
    why = trouble()
    if why is not None and launcher.rank() == 0:
        warnings.warn(f"no GPU is used, but the CPU: {why}", FastliftWarning, stacklevel=3)
    return torch.device("cuda" if why is None and torch.cuda.is_available() else "cpu")


def _check_gpu(name: str, index: int) -> None:
    """Refuse a GPU that was asked for and that PyTorch cannot use."""
    why = trouble(index)
    if why is not None:
        raise UserError(f"device {name}: {why}; or use --device cpu")
    if not torch.cuda.is_available():
        hidden = " (CUDA_VISIBLE_DEVICES hides them all)" if gpus_are_hidden() else ""
        raise UserError(
            f"device {name}: PyTorch finds no CUDA GPU here{hidden} ('fastlift doctor' says more); use --device cpu"
        )
    count = torch.cuda.device_count()
    if index >= count:
        there = "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise UserError(f"device {name}: this machine has {there}")


@contextmanager
def using_device(device: torch.device) -> Iterator[None]:
    """Compute on this device meanwhile, in fp32 where that is asked for.

    What names no GPU itself, such as pinned memory, goes with this one. Convolutions in fp32 (CLIP's ResNets) are not rounded
    to TF32, which PyTorch lets cuDNN do unless it is told otherwise; products it leaves alone, and so do we.
    """
    if device.type != "cuda":
        yield
        return
    rounds = _cudnn_rounds()
    with torch.cuda.device(device):
        try:
            if rounds:
                torch.backends.cudnn.allow_tf32 = False
            yield
        finally:
            if rounds:
                torch.backends.cudnn.allow_tf32 = True


def _cudnn_rounds() -> bool:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # the caller has used torch's newer settings, and has his reasons
        return False


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the run ran on, for ``results.json``."""
    described: dict[str, Any] = {
        "cpu": processor_name(),
        "cores": cpus(),
        "quota": cpu_quota(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def versions() -> dict[str, str]:
    """Versions of what computes, for ``results.json``."""
    found = {"python": platform.python_version()} | {package: installed(package) for package in RECORDED_PACKAGES}
    return {name: number for name, number in found.items() if number is not None}


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, None where it is not there."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
