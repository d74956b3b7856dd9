"""Memory that this process may use: the machine's, or what its control groups leave of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fastlift.system.machine import cgroups
from fastlift.system.machine.text import number, read


@dataclass(frozen=True)
class Memory:
    """Bytes in all and free (None where the system does not tell), and free swap space beside them.

    ``limited`` says that a control group sets them; its swap space then counts as none.
    """

    total: int | None
    available: int | None
    limited: bool = False
    swap: int = 0


def memory(root: Path = cgroups.ROOT) -> Memory:
    """The machine's memory within the limits of the control groups, the tightest one.

    Free is what could be had without swapping: pages that only cache files count as free, in the machine (the kernel's
    MemAvailable) and in each group, since they are given up when memory is short.
    """
    kib = {line.partition(":")[0]: line.split()[1] for line in read(root / "proc/meminfo").splitlines() if " " in line}
    total, available = (int(kib[name]) * 1024 if name in kib else None for name in ("MemTotal", "MemAvailable"))
    total = total if total is not None or root != cgroups.ROOT else _physical()
    rooms, limited = [] if available is None else [available], False
    for folder in cgroups.folders("memory", root):
        limit = _limit(folder)
        if limit is None:
            continue
        rooms.append(_room(folder, limit))
        if total is None or limit < total:  # version 1 writes "no limit" as a number beyond any memory
            total, limited = limit, True
    return Memory(total, min(rooms, default=total), limited, 0 if limited else int(kib.get("SwapFree", "0")) * 1024)


def _limit(folder: Path) -> int | None:
    """Bytes that one group may use: in version 2 ``memory.high`` too, beyond which it is slowed to a crawl."""
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    return min((value for name in names if (value := number(folder / name)) is not None), default=None)


def _room(folder: Path, limit: int) -> int:
    """Bytes that one group has left of its limit, its cached files given up."""
    used = number(folder / "memory.current") or number(folder / "memory.usage_in_bytes") or 0
    stat = dict(line.split() for line in read(folder / "memory.stat").splitlines() if len(line.split()) == 2)
    names = [f"{prefix}{state}_file" for prefix in ("total_", "") for state in ("active", "inactive")]
    cached = sum(int(stat[name]) for name in (names[:2] if names[0] in stat else names[2:]) if name in stat)
    return max(0, limit - max(0, used - cached))


def _physical() -> int | None:
    """All memory, where there is no /proc (macOS)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
