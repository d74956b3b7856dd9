"""Faults at system calls: a process that dies before its n-th write, and disks that refuse.

Python code under test calls ``os.replace``, ``os.fsync`` ... through the module, so replacing these functions is enough. After
the fault every later call fails in the same way, as nothing more happens in a process that was killed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = (
    "chmod", "fsync", "ftruncate", "mkdir", "open", "pwrite", "rename", "replace", "rmdir", "unlink", "write",
)  # fmt: skip


def flipped_bits(file: Path, step: int) -> Iterator[None]:
    """Every ``step``-th byte of a file with one bit flipped, one after the other; the file has it while the caller looks."""
    whole = file.read_bytes()
    for place in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        yield


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, before: int) -> Iterator[list[str]]:
    """Raise ``Killed`` in place of call number ``before`` (from 0) that changes files, and of all later ones.

    Yields the list of calls made so far.
    """
    made: list[str] = []

    def dies(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            if len(made) >= before:
                raise Killed
            made.append(name)
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, dies(name, getattr(os, name)))
        yield made


def kills(monkeypatch: pytest.MonkeyPatch, prepare: Callable[[], Any], work: Callable[[], object]) -> Iterator[Any]:
    """Do ``work`` with a kill before its first call, its second one ... until it ends; yields after each kill.

    What ``prepare`` makes afresh for each of them is what is yielded.
    """
    for before in range(10_000):
        made = prepare()
        with dying(monkeypatch, before):
            try:
                work()
            except Killed:
                pass
            else:
                assert before > 0, "this work writes nothing, so nothing was tested"
                return
        yield made


def refuses(number: int) -> Callable[..., Any]:
    """A function that fails with an error of the system, such as ``errno.ENOSPC``."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but locks, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


FULL, OVER_QUOTA = errno.ENOSPC, errno.EDQUOT
