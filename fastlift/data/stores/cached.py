"""Files of a store, and parts of them, through the cache: whole files, ranges of shards, and whole shards ahead of their use."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

from fastlift.data.stores import client
from fastlift.data.stores.cache import DataCache
from fastlift.data.stores.client import Info
from fastlift.system.printing import masked

BLOCK_BYTES = 2**23  # of a request for a part of a shard: its latency is small beside the time that they take
_SHARDS, _BLOCKS = 4, 8  # shards that are fetched at a time, requests for blocks of each


@dataclass
class Session:
    """What the places below one root share while a data set is used. Safe to use from threads.

    The state of a file is asked for once: a file that changes in the store is noticed at the next start.
    """

    cache: DataCache | None = None
    listings: dict[str, dict[str, Info]] = field(default_factory=dict)  # of folders that were listed
    _infos: dict[int, Info] = field(default_factory=dict)  # by the hash of a URL, which is shorter
    _coming: dict[str, Future[bool]] = field(default_factory=dict)  # shards that are being fetched, or were
    _lock: Lock = field(default_factory=Lock)
    _pool: ThreadPoolExecutor | None = None
    _closing: bool = False

    def info(self, url: str) -> Info:
        """Size and version of a file; raises FileNotFoundError and StoreError."""
        key = hash(url)
        if (known := self._infos.get(key)) is None:
            known = self._infos[key] = client.info(url)
        return known

    def know(self, url: str, found: Info) -> None:
        """What a listing has told of a file: nobody need ask for it."""
        self._infos[hash(url)] = found

    def file(self, url: str) -> tuple[bytes, int]:
        """A whole file, and its version, 0 where nobody asked for it; raises FileNotFoundError and StoreError."""
        if self.cache is None:
            return client.read(url), 0
        found = self.info(url)
        key = _key(url, found, "file")
        if (data := self.cache.get(key)) is None:
            data = client.read(url, found.size)
            self.cache.put(key, data)
        return data, found.version

    def part(self, url: str, start: int, stop: int) -> tuple[bytes, int]:
        """Bytes ``start`` to ``stop`` of a shard, and its version; from the whole shard where that is here, or on its way.

        Raises FileNotFoundError and StoreError.
        """
        found = self.info(url)
        if stop > found.size:
            raise client.StoreError(f"{masked(url)}: the shard is shorter than it was when it was indexed")
        if self.cache is None:
            return client.read_range(url, start, stop), found.version
        if (coming := self._coming.get(url)) is not None:
            coming.result()
        if (descriptor := self.open_shard(url)) is not None:
            try:
                return _exactly(descriptor, start, stop), found.version
            finally:
                os.close(descriptor)
        key = _key(url, found, f"{start}-{stop}")
        if (kept := self.cache.get(key)) is None:
            kept = client.read_range(url, start, stop)
            self.cache.put(key, kept)
        return kept, found.version

    def open_shard(self, url: str) -> int | None:
        """A descriptor of a whole shard that is in the cache, which the caller closes; None where it is not."""
        found = self.info(url)
        return None if self.cache is None else self.cache.open_large(_key(url, found, "shard"), found.size)

    def fetch(self, url: str) -> None:
        """Begin to fetch a whole shard into the cache, where it is not there yet; ``part`` waits for it."""
        with self._lock:
            if self.cache is None or url in self._coming:
                return
            self._closing = False
            self._pool = self._pool or ThreadPoolExecutor(_SHARDS, "fastlift-shard")
            self._coming[url] = self._pool.submit(self.have_shard, url)

    def have_shard(self, url: str) -> bool:
        """Whether a shard is in the cache now: it is fetched unless it is there, by one process of the machine."""
        if self.cache is None:
            return False
        found = self.info(url)
        key = _key(url, found, "shard")

        def block(descriptor: int, start: int) -> None:
            if self._closing:
                raise client.StoreError(f"{masked(url)}: nobody waits for the shard any more")
            data = client.read_range(url, start, min(start + BLOCK_BYTES, found.size))
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], start + written)

        def write(descriptor: int) -> None:
            with ThreadPoolExecutor(_BLOCKS, "fastlift-block") as pool:
                for _ in pool.map(lambda start: block(descriptor, start), range(0, found.size, BLOCK_BYTES)):
                    pass

        with self.cache.alone(key):
            descriptor = self.cache.open_large(key, found.size)
            if descriptor is not None:
                os.close(descriptor)
                return True
            return self.cache.put_large(key, found.size, write)

    def close(self) -> None:
        """End the threads; they come again when they are needed."""
        self._closing = True
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._coming.clear()


def _exactly(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes of a file that has them."""
    data = b""
    while len(data) < stop - start and (more := os.pread(descriptor, stop - start - len(data), start + len(data))):
        data += more
    return data


def _key(url: str, found: Info, part: str) -> str:
    """An entry of the cache: of this version of the file. Signatures of web addresses change, and are no part of it."""
    place = url.partition("?")[0] if client.protocol(url) in ("http", "https") else url
    return f"{place}\0{found.size}\0{found.version:016x}\0{part}"
