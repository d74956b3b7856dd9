"""Images as they lie on a disk or in a store: files, or members of tar shards, opened and read."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fastlift.data.index.headers import MAX_BYTES, READ_FLAGS, is_shortage
from fastlift.data.index.index import ImageIndex
from fastlift.data.stores.url import Url


class DecodeError(Exception):
    """An image cannot be used; the message is the reason, to follow its path."""


class Condition(NamedTuple):
    """What a file system says of an open file: while it says the same, the bytes are the same (``looks.py`` says how sure)."""

    bytes: int
    modified_ns: int
    changed_ns: int  # of the content, the name, the owner, ...; no call sets it
    inode: int


class ImageFile:
    """The open file of an image, or of the shard that it is a member of: see ``open_file``."""

    __slots__ = ("_descriptor", "_member")

    def __init__(self, descriptor: int, member: tuple[int, int] | None) -> None:
        self._descriptor, self._member = descriptor, member

    def condition(self) -> Condition:
        """That of the file, or of the whole shard, now."""
        status = os.fstat(self._descriptor)
        return Condition(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def place(self, condition: Condition) -> tuple[int, int]:
        """Offset and bytes of the image in a file of this condition."""
        return (0, condition.bytes) if self._member is None else self._member

    def read_into(self, offset: int, out: memoryview) -> bool:
        """Fill ``out`` with what lies from ``offset`` on; whether there was enough."""
        done = 0  # a network share may give less than was asked for
        while done < len(out) and (more := os.preadv(self._descriptor, [out[done:]], offset + done)):
            done += more
        return done == len(out)

    def read(self) -> bytes:
        """The whole image, encoded; raises DecodeError where the shard ends before it does, or no image is that large."""
        offset, count = self.place(self.condition())
        if count > MAX_BYTES:
            raise DecodeError(f"is too large ({count:,} bytes)")
        data = b""
        while len(data) < count and (more := os.pread(self._descriptor, count - len(data), offset + len(data))):
            data += more
        if self._member is not None and len(data) < count:
            raise DecodeError("is truncated")
        return data


class StoredImage:
    """The image of a file in a store, or of a member of a shard there, read as a whole: as ``ImageFile``."""

    __slots__ = ("_data", "_version")

    def __init__(self, data: bytes, version: int) -> None:
        self._data, self._version = data, version

    def condition(self) -> Condition:
        """By what the store says of its file; where it was not asked, that of a file that has just changed."""
        now = 0 if self._version else time.time_ns()
        return Condition(len(self._data), now, now, self._version)

    def place(self, condition: Condition) -> tuple[int, int]:
        """Offset and bytes of the image in what was read."""
        return 0, len(self._data)

    def read_into(self, offset: int, out: memoryview) -> bool:
        """Fill ``out`` with what lies from ``offset`` on; whether there was enough."""
        part = self._data[offset : offset + len(out)]
        out[: len(part)] = part
        return len(part) == len(out)

    def read(self) -> bytes:
        """The whole image, encoded."""
        return self._data


def read_stored(index: ImageIndex, i: int) -> StoredImage:
    """Sample ``i`` of an index of a store.

    Raises:
        DecodeError: it is not there any more, or no image is that large.
        StoreError: the store or the network fails: the image is as good as before, and nothing may replace it.
    """
    assert isinstance(index.root, Url)
    url = index.path(i)
    try:
        if index.spans is None:
            return StoredImage(*index.root.session.file(url))
        offset, count = index.spans[i].tolist()
        if count > MAX_BYTES:
            raise DecodeError(f"is too large ({count:,} bytes)")
        return StoredImage(*index.root.session.part(url, offset, offset + count))
    except FileNotFoundError as error:
        raise DecodeError("is missing") from error


@contextmanager
def open_file(index: ImageIndex, i: int) -> Iterator[ImageFile | StoredImage]:
    """The file of sample ``i``, open as long as the ``with`` statement lasts.

    Raises:
        DecodeError: it cannot be opened or read, with the reason.
        OSError: a shortage, of open files say: the image is as good as before, and nothing may replace it.
        StoreError: as ``read_stored``.
    """
    if isinstance(index.root, Url):
        yield read_stored(index, i)
        return
    member = None if index.spans is None else tuple(index.spans[i].tolist())
    try:
        descriptor = os.open(index.path(i), READ_FLAGS)
        try:
            yield ImageFile(descriptor, member)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise DecodeError("is missing") from error
    except OSError as error:
        if is_shortage(error):
            raise
        raise DecodeError(f"cannot be read ({error.strerror})") from error


def read_encoded(index: ImageIndex, i: int) -> bytes:
    """The encoded bytes of sample ``i``; raises as ``open_file`` and ``ImageFile.read``."""
    with open_file(index, i) as file:
        return file.read()
