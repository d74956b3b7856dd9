"""A folder with copies of what stores gave, of bounded size: the least recently used leaves, any number of processes share it.

fsspec's own caches (``filecache``, ``blockcache``) have no bound, and rewrite one file of metadata for all entries. Here an
entry is a file: its name is a digest of what it holds (place, version of the file, range), its time says when it was used
last. So a changed file of the store has other entries, and processes need no common memory.

The bound holds at every moment. Before an entry is written, its size is added to a count that all processes share, under a
lock; where the count would pass the bound, the oldest entries are deleted first. What a kill leaves behind (a draft, or a
count that is too large) is found by the next process that has to make room.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastlift.errors import FastliftWarning, UserError
from fastlift.settings import Acts, Between, May, NamesPlace, Settings
from fastlift.system.files import expand_user, try_lock

_TRAILER = struct.Struct("<4sI")  # behind each entry that is read as a whole: a mark, and a checksum
_MARK = b"flc1"
_BUCKETS = "0123456789abcdef"  # folders, so that none holds very many entries
_DRAFT, _LOCK = ".draft", "one-at-a-time.lock"
_OF_STORES = Acts("what is kept of a store (data_root a URL)", lambda data_root: "://" in str(data_root))
_LEAVE = 0.9  # of the bound, after room was made: a look at all entries takes long, so it is not done for each new one


@dataclass(frozen=True)
class CacheSettings(Settings):
    """What is kept on this machine of data that lie in a store."""

    data_cache: Annotated[str | None, NamesPlace(), _OF_STORES, May.CHANGE | May.DIFFER] = None
    """Folder for copies of what is read from a store (default: 'stores' in fastlift's cache); processes may share it."""
    data_cache_gb: Annotated[float, Between(0), _OF_STORES, May.CHANGE | May.DIFFER] = 10.0
    """Most gigabytes (10^9 bytes) in it: what was used longest ago leaves. 0 for no copies."""

    def build(self, cache: Path) -> DataCache | None:
        """The cache, by default below the folder ``cache``; raises UserError where its folder cannot be written."""
        folder = cache / "stores" if self.data_cache is None else expand_user(Path(self.data_cache))
        return DataCache(folder, int(self.data_cache_gb * 1e9)) if self.data_cache_gb > 0 else None


class DataCache:
    """Entries by key, in files of one folder. Safe to use from threads and processes."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """At most ``most_bytes`` in ``folder``; raises UserError where it cannot be made or written."""
        self.folder, self.most_bytes = folder, most_bytes
        self._told = False
        try:
            for bucket in _BUCKETS:
                os.makedirs(folder / bucket, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"--data-cache {folder} cannot be used ({error.strerror})") from None
        with self._locked():
            self._make_room(0)

    def get(self, key: str) -> bytes | None:
        """The content of an entry; None where there is none, or a damaged one, which is deleted."""
        file = self._file(key)
        try:
            with open(file, "rb", buffering=0) as opened:
                data = opened.read()
                with contextlib.suppress(OSError):
                    os.utime(opened.fileno())
        except OSError:
            return None
        content, trailer = data[: -_TRAILER.size], data[-_TRAILER.size :]
        if len(trailer) == _TRAILER.size and _TRAILER.unpack(trailer) == (_MARK, zlib.crc32(content)):
            return content
        self._delete(file)
        return None

    def put(self, key: str, data: bytes) -> None:
        """Keep an entry; where there is no room on the disk, that is told once."""

        def write(descriptor: int) -> None:
            for part in (data, _TRAILER.pack(_MARK, zlib.crc32(data))):
                _write_all(descriptor, part)

        self._add(key, len(data) + _TRAILER.size, write, sync=False)

    def open_large(self, key: str, size: int) -> int | None:
        """A descriptor of an entry that ``put_large`` made, of this size; None where there is none. The caller closes it.

        It can be read to its end also where the entry is deleted meanwhile.
        """
        try:
            descriptor = os.open(self._file(key), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        if os.fstat(descriptor).st_size != size:
            os.close(descriptor)
            self._delete(self._file(key))
            return None
        with contextlib.suppress(OSError):
            os.utime(descriptor)
        return descriptor

    def put_large(self, key: str, size: int, write: Callable[[int], None]) -> bool:
        """Keep an entry of ``size`` bytes, which ``write`` writes to a descriptor; whether there was room.

        It is flushed to the disk before it counts, since nobody sums its bytes when parts of it are read.
        """
        return self._add(key, size, write, sync=True)

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """No other thread or process that shares the folder does the same for ``key`` meanwhile (nor for a few others)."""
        bucket = os.path.dirname(self._file(key))
        descriptor = os.open(f"{bucket}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def used(self) -> int:
        """Bytes of all files in the folder, drafts included."""
        return sum(size for _, size, _ in self._entries()) + self._drafts()

    def _file(self, key: str) -> str:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
        return f"{self.folder}/{digest[:1]}/{digest[1:]}"

    def _add(self, key: str, size: int, write: Callable[[int], None], sync: bool) -> bool:
        file = self._file(key)
        try:
            if size > self.most_bytes or os.path.exists(file):
                return size <= self.most_bytes
            made = self._draft(file, size)
        except OSError as error:
            return self._failed(error)
        if made is None:
            return False
        draft, descriptor = made
        try:
            write(descriptor)
            if sync:
                os.fsync(descriptor)
            os.rename(draft, file)
        except BaseException as error:
            self._delete(draft, size)
            if isinstance(error, OSError) and error.errno is not None:
                return self._failed(error)
            raise
        finally:
            os.close(descriptor)
        return True

    def _draft(self, file: str, size: int) -> tuple[str, int] | None:
        """A new file of its full size, which counts from now on, locked as long as its writer lives.

        None where other drafts take so much of the bound that there is no room.
        """
        with self._locked():
            count = self._count()
            if count + size > self.most_bytes:
                count = self._make_room(size)
            if count + size > self.most_bytes:
                return None
            draft = f"{file}.{secrets.token_hex(4)}{_DRAFT}"
            descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                try_lock(descriptor)
                os.truncate(descriptor, size)
                self._set_count(count + size)
            except BaseException:
                os.close(descriptor)
                self._delete(draft)
                raise
        return draft, descriptor

    def _make_room(self, size: int) -> int:
        """Delete the oldest entries until ``size`` more fit, and drafts whose writers are dead; the bytes that are left."""
        drafts, entries = self._drafts(), sorted(self._entries())
        total = drafts + sum(entry_size for _, entry_size, _ in entries)
        if total + size > self.most_bytes:
            wanted = min(int(self.most_bytes * _LEAVE), self.most_bytes - size)
            for _, entry_size, name in entries:
                if total <= wanted:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
                total -= entry_size
        self._set_count(total)
        return total

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """Of each entry when it was used last, in nanoseconds, its bytes, and its file."""
        for name, status in self._files():
            if not name.endswith((_DRAFT, _LOCK)):
                yield status.st_mtime_ns, status.st_size, name

    def _drafts(self) -> int:
        """Bytes of drafts that are being written; those of dead writers are deleted."""
        total = 0
        for name, status in self._files():
            if name.endswith(_DRAFT):
                total += 0 if _is_dead(name) else status.st_size
        return total

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        for bucket in _BUCKETS:
            with os.scandir(f"{self.folder}/{bucket}") as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.path, entry.stat()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """For threads of this process as well: each takes a descriptor of its own."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # a network file system without locks: the count is then a guess
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _count(self) -> int:
        data = os.pread(self._lock, 8, 0)
        return int.from_bytes(data, "little") if len(data) == 8 else self._make_room(0)

    def _set_count(self, count: int) -> None:
        os.pwrite(self._lock, max(count, 0).to_bytes(8, "little"), 0)

    def _delete(self, name: str, size: int | None = None) -> None:
        """Delete a file, and take its bytes from the count."""
        with contextlib.suppress(OSError), self._locked():
            size = os.stat(name).st_size if size is None else size
            os.unlink(name)
            self._set_count(self._count() - size)

    def _failed(self, error: OSError) -> bool:
        """Go on without keeping; say so once."""
        if not self._told:
            self._told = True
            told = f"the data cache {self.folder} takes no more ({error.strerror}): reading goes on without keeping"
            warnings.warn(told, FastliftWarning, stacklevel=2)
        return False


def _is_dead(draft: str) -> bool:
    """Whether nobody writes a draft any more; it is deleted then."""
    try:
        descriptor = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        if not try_lock(descriptor):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        return True
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]
