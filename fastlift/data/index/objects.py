"""Images that a Python object gives one at a time, in place of an array of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import numpy as np


class ObjectImages:
    """Images by their rows in some object: asked for when they are needed, and not kept. Safe to use from threads if ``load`` is."""

    def __init__(self, load: Callable[[int], np.ndarray], rows: np.ndarray, digests: np.ndarray | None = None) -> None:
        """``load`` gives the image of a row of the object, uint8 [H, W, 3]; ``rows``, int64 [N], are those of these images.

        ``digests``, uint8 [N, 16], are of their encoded bytes, where these are known.
        """
        self._load, self._rows, self.digests = load, rows, digests

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, at: np.ndarray) -> ObjectImages: ...
    def __getitem__(self, at: int | np.ndarray) -> np.ndarray | ObjectImages:
        """One image; or several, still not loaded."""
        if isinstance(at, np.ndarray):
            return ObjectImages(self._load, self._rows[at], None if self.digests is None else self.digests[at])
        return self._load(int(self._rows[at]))
