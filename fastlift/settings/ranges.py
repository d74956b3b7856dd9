"""Ranges of whole numbers that settings may have, checked where they are given: in configs and in functions."""

from __future__ import annotations

from fastlift.errors import UserError

MOST = 2**63 - 1  # what torch, NumPy and DALI hold in 64 bits with a sign
MOST_THREADS = 1024
MOST_SIZE = 2**31 - 1  # of bottlenecks, prompts, batches: products of three such sizes stay far from overflowing
MOST_PIXELS = 65535  # a side of the largest JPEG


def check_range(name: str, value: object, low: int, high: int = MOST) -> None:
    """``value`` is a whole number from ``low`` to ``high``.

    Raises:
        UserError: it is not; the message names the setting and the range.
    """
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    expected = f"from {low} to {'2^63 - 1' if high == MOST else high:}"
    shown = f"{value!r:.40}"
    raise UserError(f"{name}: expected a whole number {expected}, got {shown}")
