"""Reading a few bytes at many places of a large file, from its begin to its end: of a disk exactly those, of a store in blocks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fastlift.data.stores import client
from fastlift.data.stores.cached import BLOCK_BYTES
from fastlift.data.stores.url import Url
from fastlift.errors import UserError

_LIKE_IT = 32  # as many as are read at a time, twice
_KEPT = 2  # blocks: an image's first bytes, and its last


class Opened(NamedTuple):
    """A large file."""

    size: int
    state: str  # another one where the content may be another
    read: Callable[[int, int], bytes]  # (offset, count) -> bytes, fewer only where the file ends


@contextmanager
def opened(place: Path | Url) -> Iterator[Opened]:
    """A file, open as long as the ``with`` statement lasts.

    Raises:
        UserError: there is none, or it cannot be read; OSError of a disk that fails later.
    """
    if isinstance(place, Url):
        with _of_store(place) as file:
            yield file
        return
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"{place} cannot be opened ({error.strerror})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{place} is no regular file")
        yield Opened(
            status.st_size,
            f"{status.st_size} {status.st_mtime_ns}",
            lambda offset, count: os.pread(descriptor, count, offset),
        )
    finally:
        os.close(descriptor)


@contextmanager
def _of_store(place: Url) -> Iterator[Opened]:
    """A store's file; it comes into the cache as a whole where this has room for many like it."""
    session, url = place.session, place.text
    try:
        found = session.info(url)
    except FileNotFoundError:
        raise UserError(f"{place} does not exist") from None
    blocks = _Blocks(url, found.size)
    wanted = session.cache is not None and _LIKE_IT * found.size <= session.cache.most_bytes
    descriptor: int | None = None

    def read(offset: int, count: int) -> bytes:
        nonlocal descriptor, wanted
        if wanted:
            wanted = False  # once: a disk that is full now would have each read begin to fetch it again
            descriptor = session.open_shard(url) if session.have_shard(url) else None
        return blocks.read(offset, count) if descriptor is None else os.pread(descriptor, count, offset)

    try:
        yield Opened(found.size, f"{found.version:016x}", read)
    finally:
        if descriptor is not None:
            os.close(descriptor)


class _Blocks:
    """Of a store's file: whole blocks are asked for, those that nothing is read of are left out."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._blocks: dict[int, bytes] = {}

    def read(self, offset: int, count: int) -> bytes:
        stop = min(offset + count, self._size)
        first, last = offset // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        if stop <= offset:
            return b""
        if last - first >= _KEPT:
            return client.read_range(self._url, offset, stop)
        data = b"".join(self._block(number) for number in range(first, last + 1))
        begin = first * BLOCK_BYTES
        return data[offset - begin : stop - begin]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK_BYTES
            data = client.read_range(self._url, start, min(start + BLOCK_BYTES, self._size))
            while len(self._blocks) >= _KEPT:
                self._blocks.pop(min(self._blocks))
            self._blocks[number] = data
        return self._blocks[number]
