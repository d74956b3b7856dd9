"""The processor: its name, what it can do, and how much of it this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from fastlift.system.machine import cgroups
from fastlift.system.machine.text import number, read


def processor_name(root: Path = cgroups.ROOT) -> str:
    """The processor's model as the kernel names it, else as the system does, else "unknown"."""
    return _cpuinfo(root).get("model name") or platform.processor() or "unknown"


def processor_flags(root: Path = cgroups.ROOT) -> frozenset[str]:
    """Names of what it can do, such as ``avx512_bf16``; empty where the system does not tell."""
    fields = _cpuinfo(root)
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


def _cpuinfo(root: Path) -> dict[str, str]:
    """Fields of the last processor: they are all of one kind on the machines that this runs on."""
    pairs = (line.split(":", 1) for line in read(root / "proc/cpuinfo").splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def allowed_cpus() -> frozenset[int]:
    """Numbers of the CPUs that this process may run on: its affinity, which cpusets narrow too."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpus() -> int:
    """How many CPUs (hardware threads) this process may run on."""
    return len(allowed_cpus())


def cores(root: Path = cgroups.ROOT, allowed: frozenset[int] | None = None) -> int:
    """How many physical cores those CPUs are: two hardware threads of one core multiply no faster than one.

    Where the system does not tell, each CPU counts as a core.
    """
    numbers = allowed_cpus() if allowed is None else allowed
    lists = (f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in sorted(numbers))
    return len({read(root / siblings).strip() or siblings for siblings in lists})


def cpu_quota(root: Path = cgroups.ROOT) -> float | None:
    """CPUs' worth of time that the control groups grant this process: the least of all; None without a limit."""
    granted = [quota for folder in cgroups.folders("cpu", root) if (quota := _quota(folder)) is not None]
    return min(granted, default=None)


def _quota(folder: Path) -> float | None:
    """Of one group, by ``cpu.max`` (version 2) or ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (version 1)."""
    quota, _, period = read(folder / "cpu.max").strip().partition(" ")
    granted, whole = (
        (int(quota) if quota.isdigit() else None, int(period) if period.isdigit() else None)
        if quota
        else (number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us"))
    )
    return granted / whole if granted and whole else None
