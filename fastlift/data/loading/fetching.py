"""Images of a store, asked for before the threads that decode come to them: many requests wait for their answers at a time.

A request takes tens of milliseconds, in which a thread only waits. A core decodes several hundred images in a second, so a
thread a core would wait nearly always.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from fastlift.data.index.index import ImageIndex
from fastlift.data.loading.reading import ImageFile, StoredImage, open_file, read_stored
from fastlift.data.stores.url import Url

REQUESTS = 64  # at a time


class Fetches:
    """Of one index; where its images lie on a disk, nothing is asked for, and they are read as ever. Safe to use from threads."""

    def __init__(self, index: ImageIndex) -> None:
        self._index = index
        self._pool = ThreadPoolExecutor(REQUESTS, "fastlift-fetch") if isinstance(index.root, Url) else None
        self._coming: dict[int, list[Future[StoredImage]]] = {}
        self._lock = threading.Lock()

    def expect(self, rows: np.ndarray) -> None:
        """Begin to read the images of these rows, int64 [B]; each is taken once by ``open``."""
        if self._pool is None:
            return
        with self._lock:
            for row in rows.tolist():
                self._coming.setdefault(row, []).append(self._pool.submit(read_stored, self._index, row))

    @contextmanager
    def open(self, row: int) -> Iterator[ImageFile | StoredImage]:
        """The image of a row, as ``reading.open_file``; read now where nobody expected it."""
        if (future := self._taken(row)) is not None:
            yield future.result()
            return
        with open_file(self._index, row) as file:
            yield file

    def read(self, row: int) -> bytes:
        """The encoded image of a row; raises as ``open_file``."""
        with self.open(row) as file:
            return file.read()

    def forget(self) -> None:
        """What nobody has taken is not needed any more."""
        with self._lock:
            for futures in self._coming.values():
                for future in futures:
                    future.cancel()
            self._coming.clear()

    def close(self) -> None:
        """End the threads."""
        self.forget()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _taken(self, row: int) -> Future[StoredImage] | None:
        if self._pool is None:
            return None
        with self._lock:
            futures = self._coming.get(row)
            if not futures:
                return None
            future = futures.pop()
            if not futures:
                del self._coming[row]
            return future
