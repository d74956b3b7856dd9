"""Tensor files of which every bit is accounted for: safetensors files with a digest of all their bytes in the metadata.

``blake2b`` in the metadata is the BLAKE2b-256, in hex, of the file as it lies on the disk, its own 64 characters read as
zeros. So it covers names, shapes, dtypes, tensors and metadata, and the header's spelling too: no flipped bit goes unseen.
It finds damage, not forgery: who can write the file can write its digest.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastlift.errors import UserError
from fastlift.system.files import write_atomically

DIGEST = "blake2b"
_MARK = f'"{DIGEST}":"'.encode()  # inside a text its quotes would be escaped, so it is found as the key alone
_BLANK = b"0" * 64
_MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
_CHUNK = 1 << 20


class Damaged(UserError):
    """A file that is not as it was written: cut short, changed, or of another kind."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, parents: bool = True) -> None:
    """Write tensors (contiguous, on the CPU) and texts, atomically, with their digest; ``parents`` as ``write_atomically``.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the old file is as it was.
    """

    def fill(part: Path) -> None:
        try:
            save_file(dict(tensors), part, metadata={**metadata, DIGEST: _BLANK.decode()})
        except SafetensorError as error:  # where safetensors meets a full disk
            raise OSError(errno.EIO, str(error)) from error
        with part.open("r+b") as file:
            place = _place_of_digest(file, path)
            digest = _digest(file, place)
            file.seek(place)
            file.write(digest)

    write_atomically(path, fill, parents=parents)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file whose digest holds.

    Raises:
        UserError: no such file, or one that cannot be opened.
        Damaged: its bytes are not those that were written, or it has no digest.
    """
    with _opened(path) as file:
        place = _place_of_digest(file, path)
        file.seek(place)
        if file.read(len(_BLANK)) != _digest(file, place):
            raise Damaged(f"{path} is damaged: its bytes are not those that were written (their digest differs)")
    with _parsed(path) as parsed:
        # Copies, aligned as torch's own memory is: the last bits of products depend on where in memory their factors lie,
        # and in the mapped file that depends on the length of the header.
        return {name: parsed.get_tensor(name).clone() for name in parsed.keys()}, _texts(parsed)  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """The texts alone, without a look at the tensors or the digest: to put files in order, not to trust them.

    Raises:
        UserError: no such file, or one that cannot be opened.
        Damaged: not a safetensors file.
    """
    with _opened(path), _parsed(path) as parsed:
        return _texts(parsed)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}", exit_code=1) from None


@contextmanager
def _parsed(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, "pt") as parsed:
            yield parsed
    except Exception as error:  # safetensors' own kind, or Python's, by the field that is wrong
        raise Damaged(f"{path} is damaged, or no safetensors file ({str(error)[:200]})") from None


def _texts(parsed: safe_open) -> dict[str, str]:
    return dict(parsed.metadata() or {})


def _place_of_digest(file: BinaryIO, path: Path) -> int:
    """Where in the file the 64 characters of its digest begin."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(size - 8, _MAX_HEADER):
        raise Damaged(f"{path} is damaged, or no safetensors file: it has no header of a possible length")
    header = file.read(length)
    place = header.find(_MARK) + len(_MARK)
    if header.count(_MARK) != 1 or len(header) < place + len(_BLANK):
        raise Damaged(f"{path} is damaged, or was not written by fastlift: it has no digest of its content")
    return 8 + place


def _digest(file: BinaryIO, place: int) -> bytes:
    """The digest in hex of the whole file, with zeros in its own place."""
    digest = hashlib.blake2b(digest_size=len(_BLANK) // 2)
    file.seek(0)
    digest.update(file.read(place))
    digest.update(_BLANK)
    file.seek(place + len(_BLANK))
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest().encode()
