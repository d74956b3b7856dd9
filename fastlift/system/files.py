"""Files that are whole or not there: atomic writes, strict JSON, and the folder for what can be made again.

Everything that fastlift keeps goes through here or through the one log that grows (``metrics_log.py``).
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastlift.errors import UserError

PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part", re.DOTALL)
OLD_S = 24 * 3600.0
DEEPEST, LARGEST = 64, 2**64


def cache_folder() -> Path:
    """Folder for text features, image indices and drawn images: $FASTLIFT_CACHE, else the user's cache folder.

    Everything in it can be made again; deleting it costs time, never data.
    """
    chosen = os.environ.get("FASTLIFT_CACHE")
    if chosen:
        return expand_user(Path(chosen))
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "fastlift"
    try:
        return Path.home() / ".cache" / "fastlift"
    except RuntimeError:  # neither $HOME nor an entry in the list of users, as in some containers
        return Path(tempfile.gettempdir()) / f"fastlift-{os.getuid()}"


def expand_user(path: Path) -> Path:
    """``~`` and ``~name`` as the home folder.

    Raises:
        UserError: there is no such user, or no home; or a NUL, which no path has.
    """
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} is no path")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}") from None


def refuse_device(path: Path) -> None:
    """Raise UserError where a path is a device or a pipe, which a new file would take the place of."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is a device or a pipe, and a file that is written would replace it: name a file")


def write_atomically(path: Path, write: Callable[[Path], object], *, parents: bool = True) -> None:
    """Have ``write`` make a file of the same name in a folder of its own beside ``path``, then put it in place in one step.

    A reader sees the old file or the new one, never a part; after a power cut too, since data and folder are flushed. What
    libraries put beside the file that they write stays in that folder, and the folder is locked while its writer
    lives, so that ``sweep`` can tell what a kill left behind.

    Args:
        parents: make missing folders; False for files of a run, whose folder must not come back once somebody removed it.

    Raises:
        UserError: the path is a device or a pipe.
        OSError: the folder cannot be written, or the disk is full; the old file is as it was.
    """
    refuse_device(path)
    try:
        if parents:
            os.makedirs(path.parent, exist_ok=True)
        draft, lock = _draft_folder(path)
        try:
            part = draft / path.name
            mode = _mode_of_new_file(part)
            write(part)
            os.chmod(part, mode)  # libraries have their own mind: safetensors keeps a file to its owner
            sync_file(part)
            os.replace(part, path)
        finally:
            try:
                shutil.rmtree(draft, ignore_errors=True)
            finally:
                os.close(lock)
    except OSError as error:
        if error.errno is None:
            raise
        if isinstance(error, FileExistsError) and path.parent.exists() and not path.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
        # Of the file that users know; and a full disk does not tell what it had no room for.
        raise OSError(error.errno, error.strerror, str(path)) from error
    sync_folder(path.parent)
    sweep(path.parent, path.name)


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file that may be missing; half a line, as a kill leaves it, goes.

    Raises:
        OSError: the disk is full, for instance; no part of the line stays.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            whole = path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(descriptor, whole)
        append(descriptor, line + b"\n", path)
    finally:
        os.close(descriptor)


def append(descriptor: int, data: bytes, path: Path) -> None:
    """Append to an open file in one call, so that neither a kill nor a full disk leaves a half where it can be helped."""
    before = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        error.filename = str(path)
        raise


def write_text(path: Path, text: str, *, parents: bool = True) -> None:
    """Write text, atomically; the bytes of file names that are no Unicode become escapes."""
    data = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda part: part.write_bytes(data), parents=parents)


def write_json(path: Path, value: Any, *, parents: bool = True) -> None:
    """Write ``value`` as readable JSON, atomically.

    Raises:
        ValueError: a number that is not finite, which JSON has no word for.
    """
    # Names of files need not be Unicode: the bytes of such a name become escapes, which JSON reads back as they were.
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", parents=parents)


def read_json(path: Path) -> dict[str, Any]:
    """Read an object that ``write_json`` wrote.

    Raises:
        UserError: the file is missing, cannot be read, or holds something else.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # no JSON, no UTF-8, or a path that no system call takes
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def parse_json(data: bytes | str) -> Any:
    """JSON as the standard has it, of numbers that computers count with and of a depth that code can follow.

    Args:
        data: as bytes of UTF-8; as text where it may hold bytes that are none, as lone surrogates.

    Raises:
        ValueError: anything else: no UTF-8, NaN, numbers of 64 bits and more, nesting without end.
    """

    def whole(digits: str) -> int:
        if len(digits) > 21 or abs(value := int(digits)) >= LARGEST:
            raise ValueError(f"the number {_shortened(digits)} is too large")
        return value

    def real(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            raise ValueError(f"the number {_shortened(digits)} is too large")
        return value

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number in JSON")

    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        value = json.loads(text, parse_int=whole, parse_float=real, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list))]
        if not level:
            return value
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _shortened(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}... of {len(text)} digits"


def sweep(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left half-written in a folder: of the file ``name``, or of all.

    Drafts of processes that live are locked, and stay. On a file system without locks those of a day ago count as dead.
    """
    prefix = "." if name is None else f".{_short(name)}."
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and PART.fullmatch(entry.name):
                with suppress(OSError):
                    _sweep_draft(Path(entry.path))


def _sweep_draft(draft: Path) -> None:
    descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        locked = try_lock(descriptor)
        if locked or (locked is None and time.time() - draft.stat().st_mtime > OLD_S):
            shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder for as long as it is open; whether that worked, None where nothing can be locked.

    The lock is the kernel's: it ends with the process, however that ends.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        return None
    return True


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, so that a rename outlives a power cut."""
    with suppress(OSError):  # some file systems do not flush folders, and keep them in order by themselves
        sync_file(folder)


def sync_file(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mode_of_new_file(path: Path) -> int:
    """Permissions of a new file by the user's mask, which no call tells without changing it; makes the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _draft_folder(path: Path) -> tuple[Path, int]:
    """A new locked folder beside ``path``, and the descriptor that holds its lock."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=f".{_short(path.name)}.", suffix=".part", dir=path.parent))
        try:
            descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # swept in the moment before it was locked
            continue
        if try_lock(descriptor) is not False and draft.is_dir():
            return draft, descriptor
        os.close(descriptor)  # another process is sweeping it


def _short(name: str) -> str:
    """The name, cut so that what is put around it stays within the 255 bytes that a file's name may have."""
    return os.fsdecode(os.fsencode(name)[:200])
