"""Reading the headers of many files of a store: whole files, many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from fastlift.data.index.header_scan import Progress, scan_files
from fastlift.data.index.headers import Header, bad, read_header_bytes
from fastlift.data.index.index import PathTable
from fastlift.data.stores.url import Url

_REQUESTS = 64  # at a time


def scan_anywhere(
    root: Path | Url, paths: PathTable, what: str = "", progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """``scan_files``, also of files in a store; raises StoreError where the store fails."""
    if isinstance(root, Path):
        return scan_files(root, paths, what, progress)
    count = len(paths)
    widths, heights = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int32)
    reasons: dict[int, str] = {}
    for row, header in enumerate(_headers(root, paths)):
        widths[row], heights[row] = header.width, header.height
        if header.reason:
            reasons[row] = header.reason
        if progress and ((row + 1) % _REQUESTS == 0 or row + 1 == count):
            progress(what, row + 1, count)
    return widths, heights, reasons


def _headers(root: Url, paths: PathTable) -> Iterator[Header]:
    """Those of all files in order; a few requests more are made than can be answered at a time."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        coming = (pool.submit(_header, root, path) for path in paths)
        ahead = list(islice(coming, 4 * _REQUESTS))
        try:
            while ahead:
                yield ahead.pop(0).result()
                ahead.extend(islice(coming, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _header(root: Url, path: str) -> Header:
    """One request for the whole file takes less time than one each for its size, its first and its last bytes."""
    try:
        return read_header_bytes(root.session.file(root.below(path))[0])
    except FileNotFoundError:
        return bad("missing")
