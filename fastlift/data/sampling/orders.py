"""The orders of a loader's epochs, each made in a thread while the epoch before is under way.

For ten million samples an order takes seconds (docs/results.md), in which training would wait at the start of each epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np


class Orders:
    """``make(epoch)``, the order of an epoch as an int64 array, asked for epoch by epoch.

    A thread of its own makes the next one. It holds the interpreter lock for no longer than a hundredth of a second at a
    time, and nobody waits for it at the end.
    """

    def __init__(self, make: Callable[[int], np.ndarray]) -> None:
        self._make = make
        self._coming: tuple[int, threading.Thread, list[np.ndarray]] | None = None

    def of(self, epoch: int) -> np.ndarray:
        """The order of ``epoch``; that of the next one is begun."""
        order = self._made(epoch)
        result: list[np.ndarray] = []

        def ahead() -> None:
            with suppress(MemoryError):
                result.append(self._make(epoch + 1))

        thread = threading.Thread(target=ahead, name="fastlift-order", daemon=True)
        self._coming = (epoch + 1, thread, result)
        thread.start()
        return order

    def _made(self, epoch: int) -> np.ndarray:
        if self._coming is not None and self._coming[0] == epoch:
            _, thread, result = self._coming
            thread.join()
            if result:
                return result[0]
        return self._make(epoch)  # the first, one out of turn, or one for which the thread had no memory
