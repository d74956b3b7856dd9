"""Images that are listed twice, found by hashes of their paths: millions in seconds."""

from __future__ import annotations

import numpy as np

from fastlift.data.index.index import PathTable

_ROWS = 2**16
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def path_hashes(paths: PathTable) -> np.ndarray:
    """A number for each path, equal for equal paths: uint64 [N]."""
    hashes = np.zeros(len(paths), dtype=np.uint64)
    longest = int(paths.lengths.max(initial=0))
    powers = np.cumprod(np.full(longest + 1, _FACTOR, dtype=np.uint64), dtype=np.uint64)
    for first in range(0, len(paths), _ROWS):
        offsets = paths.offsets[first : first + _ROWS + 1]
        lengths = np.diff(offsets)
        letters = paths.data[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
        inside = np.arange(len(letters)) - np.repeat(offsets[:-1] - offsets[0], lengths)
        sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(letters * powers[inside], dtype=np.uint64)])
        hashes[first : first + len(lengths)] = sums[offsets[1:] - offsets[0]] - sums[offsets[:-1] - offsets[0]]
    return hashes


def rows_in_both(paths: PathTable, others: PathTable) -> list[tuple[int, int]]:
    """Rows of equal paths, one pair for each path that both tables hold."""
    _, mine, theirs = np.intersect1d(path_hashes(paths), path_hashes(others), return_indices=True)
    pairs = zip(mine.tolist(), theirs.tolist(), strict=True)
    return sorted((row, other) for row, other in pairs if paths[row] == others[other])


def rows_twice(paths: PathTable) -> list[tuple[int, int]]:
    """Rows of equal paths in one table: each later one with the one before it."""
    hashes = path_hashes(paths)
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    pairs = zip(order[equal].tolist(), order[equal + 1].tolist(), strict=True)
    return sorted((row, later) for row, later in pairs if paths[row] == paths[later])
