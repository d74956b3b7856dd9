"""Arrays by name in one file, with a digest of all of them: what is read is what was written.

The file is NumPy's ``.npz``, without pickles and not packed, so that it takes no more memory than its bytes say. The digest
finds damage, not forgery: who can write the file can write its digest, so readers check what numbers they take.
"""

import contextlib
import hashlib
import os
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastlift.data.stores.url import Url
from fastlift.system.files import write_atomically

Columns = Mapping[str, np.ndarray]
_DIGEST = "digest"
_TRIES = 5
_one_at_a_time = threading.Lock()


def cached_columns(cache: Path, folder: str, form: str, root: Path | Url, key: bytes) -> Path:
    """The file for what is learnt of files below ``root``, by its format and by the content that determines it."""
    place = os.fsencode(root.resolve() if isinstance(root, Path) else root.place)
    digest = hashlib.sha256(b"\0".join([form.encode(), place, key])).hexdigest()[:32]
    return cache / folder / f"{digest}.npz"


def write_columns(path: Path, columns: Columns) -> None:
    """Write atomically; raises OSError as ``write_atomically``."""
    digest = np.frombuffer(digest_of(columns), dtype=np.uint8)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **columns, **{_DIGEST: digest})  # type: ignore[arg-type]

    write_atomically(path, write)


def read_columns(path: Path, kinds: Mapping[str, type[np.generic]]) -> dict[str, np.ndarray]:
    """The columns of a file, each of its kind; raises ValueError where it is damaged, or holds something else."""
    try:
        with path.open("rb") as raw:
            with zipfile.ZipFile(raw) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("its columns are packed")  # a few packed KiB may stand for more than the memory
            columns = _load(raw)
        digest = columns.pop(_DIGEST).tobytes()
    except Exception as error:  # reading a damaged one raises nearly everything
        raise ValueError(str(error) or type(error).__name__) from None
    if digest != digest_of(columns):
        raise ValueError("its digest differs")
    if {name: column.dtype for name, column in columns.items()} != {name: np.dtype(kinds[name]) for name in kinds}:
        raise ValueError(f"it does not hold just {', '.join(kinds)}")
    return columns


def _load(raw: BinaryIO) -> dict[str, np.ndarray]:
    """All columns of an open file.

    NumPy reads their headers with ``ast``, which fails with SystemError where two threads are in it at once (CPython issue
    106905, still so in 3.11.7). Of the threads here one reads at a time; a compiler's may yet be in it, so it is tried again.
    """
    with _one_at_a_time:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(SystemError):
                return _arrays(raw)
        return _arrays(raw)


def _arrays(raw: BinaryIO) -> dict[str, np.ndarray]:
    raw.seek(0)
    with np.load(raw, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def digest_of(columns: Columns) -> bytes:
    """SHA-256 of the columns' names, kinds, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(f"{name} {columns[name].dtype} {columns[name].shape}|".encode())
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.digest()
