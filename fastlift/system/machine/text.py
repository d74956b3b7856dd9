"""Reading the kernel's files, which may be absent, unreadable or of another system's form."""

from __future__ import annotations

from pathlib import Path


def read(path: Path) -> str:
    """The text of a file, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """The whole number of 0 or more that a file holds; None where it holds something else ("max", "-1") or is not there."""
    text = read(path).strip()
    return int(text) if text.isascii() and text.isdigit() else None
