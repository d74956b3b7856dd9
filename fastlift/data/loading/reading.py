"""Images as they lie on disk: files, or members of tar shards, opened and read."""

import os
from types import TracebackType
from typing import NamedTuple

from fastlift.data.index.headers import MAX_BYTES, READ_FLAGS, is_shortage
from fastlift.data.index.index import ImageIndex


class DecodeError(Exception):
    """An image cannot be used; the message is the reason, to follow its path."""


class Condition(NamedTuple):
    """What a file system says of an open file: while it says the same, the bytes are the same (``looks.py`` says how sure)."""

    bytes: int
    modified_ns: int
    changed_ns: int  # of the content, the name, the owner, ...; no call sets it
    inode: int


class ImageFile:
    """The open file of sample ``i``, for a ``with`` statement, in which errors of reading become ``DecodeError``.

    Raises:
        DecodeError: it cannot be opened, with the reason.
        OSError: a shortage, of open files say: the image is as good as before, and nothing may stand in for it.
    """

    __slots__ = ("_descriptor", "_member")

    def __init__(self, index: ImageIndex, i: int) -> None:
        self._member: tuple[int, int] | None = None
        if index.spans is not None:
            offset, count = index.spans[i].tolist()
            self._member = offset, count
        try:
            self._descriptor = os.open(index.path(i), READ_FLAGS)
        except OSError as error:
            _raise_reason(error)

    def __enter__(self) -> "ImageFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        if isinstance(error, OSError):
            _raise_reason(error)

    def condition(self) -> Condition:
        """That of the file, or of the whole shard, now."""
        status = os.fstat(self._descriptor)
        return Condition(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def place(self, condition: Condition) -> tuple[int, int]:
        """Offset and bytes of the image in a file of this condition."""
        return (0, condition.bytes) if self._member is None else self._member

    def read_into(self, offset: int, out: memoryview) -> bool:
        """Fill ``out`` with what lies from ``offset`` on; whether there was enough."""
        done = os.preadv(self._descriptor, [out], offset)
        while 0 < done < len(out):  # a network share gives less than was asked for
            more = os.preadv(self._descriptor, [out[done:]], offset + done)
            if not more:
                break
            done += more
        return done == len(out)

    def read(self) -> bytes:
        """The whole image, encoded.

        Raises:
            DecodeError: the shard ends before it does, or no image is that large.
        """
        offset, count = self.place(self.condition())
        if count > MAX_BYTES:
            raise DecodeError(f"is too large ({count:,} bytes)")
        data = os.pread(self._descriptor, count, offset)
        while len(data) < count and (more := os.pread(self._descriptor, count - len(data), offset + len(data))):
            data += more
        if self._member is not None and len(data) < count:
            raise DecodeError("is truncated")
        return data


def read_encoded(index: ImageIndex, i: int) -> bytes:
    """The encoded bytes of sample ``i``; raises as ``ImageFile`` and its ``read``."""
    with ImageFile(index, i) as file:
        return file.read()


def _raise_reason(error: OSError) -> None:
    """Raise what an error says of the image; or the error, where it says nothing of it."""
    if isinstance(error, FileNotFoundError):
        raise DecodeError("is missing") from error
    if is_shortage(error):
        raise error
    raise DecodeError(f"cannot be read ({error.strerror})") from error
