"""Rows of the kept table of the kernels' resources: which kernels they are of, and which still hold."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from triton.runtime import JITFunction


def sources(kernel: JITFunction) -> list[str]:
    """The code of a kernel and of all it calls."""
    found: dict[str, str] = {}
    waiting = [kernel]
    while waiting:
        one = waiting.pop()
        found[one.fn.__qualname__] = one.src
        used = (one.fn.__globals__.get(name) for name in one.fn.__code__.co_names)
        waiting += [other for other in used if isinstance(other, JITFunction) and other.fn.__qualname__ not in found]
    return [source for _, source in sorted(found.items())]


def fingerprint(case: Any) -> str:
    """Of the kernel's code and of the case: a row of a table with another one is stale."""
    configured = (sources(case.kernel), case.arguments, case.constants, case.num_warps, case.num_stages)
    return hashlib.sha256(repr(configured).encode()).hexdigest()[:12]


def known_rows(table: Path, header: str) -> dict[tuple[str, int, str], str]:
    """Rows of an earlier table of the same versions by (kernel, architecture, fingerprint)."""
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    if not lines or lines[0] != header:
        return {}
    rows = [line for line in lines if re.match(r"\| .*\| \d+ \|", line)]
    cells = [[cell.strip() for cell in line.split("|")] for line in rows]
    return {(cell[1], int(cell[3]), cell[9]): row for cell, row in zip(cells, rows, strict=True)}
