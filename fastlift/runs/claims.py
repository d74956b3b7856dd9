"""One process at a time writes in a run folder: a lock that ends with its process, and says whose it is."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastlift.errors import UserError
from fastlift.runs.replacing import LOCK, recover
from fastlift.system.files import parse_json, sweep, try_lock


class InUse(UserError):
    """Another process writes in the run folder."""


class Claim:
    """This process's right to write in a run folder, from ``take`` until the block that it heads is left.

    Only the kernel's lock on ``.lock`` counts; what the file says is for the message. The file stays, since deleting a lock
    that others may wait for would let two of them in.

    Args:
        path: the run folder; made when the claim is taken.
        say: where to tell that it waits, or that the file system has no locks.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path, self._say = path, say
        self._descriptor: int | None = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def take(self, wait: float = 0.0) -> None:
        """Lock the folder, and put in order what killed processes left in it. Taken twice is taken once.

        Args:
            wait: seconds to wait for another process, such as one that writes a report.

        Raises:
            InUse: another process has it.
            OSError: the folder cannot be made or written.
        """
        if self._descriptor is not None:
            return
        os.makedirs(self.path, exist_ok=True)
        lock = self.path / LOCK
        self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        began, told = time.monotonic(), False
        while (locked := try_lock(self._descriptor)) is False:
            waited = time.monotonic() - began
            if waited >= wait:
                os.close(self._descriptor)
                self._descriptor = None
                raise InUse(f"{self.path} is in use by {_holder(lock)}: wait until it ends, or choose another folder")
            if waited > 1.0 and not told:
                self._say(f"{self.path} is in use by {_holder(lock)}: waiting up to {wait:.0f} s for it to end")
                told = True
            time.sleep(0.1)
        if locked is None:
            self._say(f"{self.path}: this file system has no locks, so see to it that no other process writes there")
        self._sign()
        recover(self.path)
        for folder, _, _ in os.walk(self.path):
            sweep(Path(folder))

    def _sign(self) -> None:
        assert self._descriptor is not None
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        with suppress(OSError):  # a disk without room for a line is told where it matters
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder.encode(), 0)


@contextmanager
def claimed(path: Path, say: Callable[[str], None], wait: float = 0.0) -> Iterator[Claim]:
    """A claim that is taken at once; errors as ``Claim.take``."""
    with Claim(path, say) as claim:
        claim.take(wait)
        yield claim


def _holder(lock: Path) -> str:
    try:
        holder: Any = parse_json(lock.read_bytes())
        return f"process {int(holder['pid'])} on {holder['host']!s:.64} (since {holder['since']!s:.32})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
