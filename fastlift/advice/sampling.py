"""Which images are looked at where there are too many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastlift.models.classifier_init import choose_shots


def thinned(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Rows (ascending) of at most ``most`` images: of each class its own number or K, with the largest K that keeps the sum.

    ``labels`` are int64 [N]. Drawn without replacement, the same rows for the same seed. With more classes than ``most`` there is one image a class, of
    ``most`` classes.
    """
    counts = np.bincount(labels)
    if len(labels) <= most:
        return np.arange(len(labels))
    low, high = 0, int(counts.max())  # sum(min(n_c, low)) fits, that of high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() <= most else (low, middle)
    return choose_shots(labels, max(low, 1), seed)[:most] if low == 0 else choose_shots(labels, low, seed)
