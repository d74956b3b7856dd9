"""Reading the headers of many files: in this process, or for very many of them in one process a CPU.

Parsing a header holds the interpreter lock, so threads help where a store is slow to answer, and only there: on files in the
page cache 8 threads took 40 us a file, one took 27. Processes share neither lock nor memory. They are started as
``python -m fastlift.data.index.header_scan``, so that they never import the caller's own script again.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from threading import Semaphore
from typing import IO, NamedTuple

import numpy as np

from fastlift.data.index.headers import read_header
from fastlift.data.index.index import PathTable
from fastlift.system.machine import cpus
from fastlift.system.modules import start_module

Progress = Callable[[str, int, int], None]  # what, done, total

MANY_FILES = 20_000  # from so many on processes are worth their start, of 0.2 s
_ROWS = 4096  # files of a part of the work
_PROBED = 32  # files of it whose reading tells whether the store is slow
_SLOW = 2.0  # times the CPU's time that reading takes there
_THREADS = 16


class _Found(NamedTuple):
    """What a part of the files have in their headers: width and height, int32, and the reasons of unusable ones by row."""

    widths: np.ndarray
    heights: np.ndarray
    reasons: dict[int, str]


def scan_files(
    root: Path, paths: PathTable, what: str = "", progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Read the headers of all files: widths and heights, int32 [N], and the reasons of unusable ones by row.

    Raises:
        OSError: a shortage, of open files say.
    """
    count = len(paths)
    widths, heights = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int32)
    reasons: dict[int, str] = {}
    starts = range(0, count, _ROWS)

    def part(start: int) -> PathTable:
        return paths.take(np.arange(start, min(start + _ROWS, count)))

    several = min(cpus(), len(starts)) if count >= MANY_FILES else 1
    with _readers(os.fspath(root) + os.sep, several) as read, ThreadPoolExecutor(several) as pool:
        # A few parts ahead of the one that is waited for, and no more: ten million rows are 2,500 parts.
        coming = ((start, pool.submit(lambda first: read(part(first)), start)) for start in starts)
        ahead = list(islice(coming, several + 1))
        while ahead:
            start, future = ahead.pop(0)
            found = future.result()
            ahead.extend(islice(coming, 1))
            done = start + len(found.widths)
            widths[start:done], heights[start:done] = found.widths, found.heights
            reasons.update({start + row: reason for row, reason in found.reasons.items()})
            if progress:
                progress(what, done, count)
    return widths, heights, reasons


@contextmanager
def _readers(prefix: str, several: int) -> Iterator[Callable[[PathTable], _Found]]:
    """What reads the headers of a part of the files below ``prefix``, in this process or in ``several`` others."""
    idle: list[_Process] = []
    with suppress(OSError):  # no more processes or memory: this one reads
        while several > 1 and len(idle) < several:
            idle.append(_Process(prefix))
    if not idle:
        with ThreadPoolExecutor(_THREADS) as pool:
            yield lambda paths: _read(prefix, paths, pool)
        return
    free = Semaphore(len(idle))

    def read(paths: PathTable) -> _Found:
        with free:
            process = idle.pop()
            try:
                return process.read(paths)
            finally:
                idle.append(process)

    try:
        yield read
    finally:
        for process in idle:
            process.close()


def _read(prefix: str, paths: PathTable, pool: ThreadPoolExecutor) -> _Found:
    """A part of the files; by threads where their store is slow to answer."""
    widths, heights = np.zeros(len(paths), dtype=np.int32), np.zeros(len(paths), dtype=np.int32)
    reasons: dict[int, str] = {}

    def one(row: int) -> None:
        header = read_header(prefix + paths[row])
        widths[row], heights[row] = header.width, header.height
        if header.reason:
            reasons[row] = header.reason

    def some(first: int, last: int) -> None:
        for row in range(first, min(last, len(paths))):
            one(row)

    clock, cpu = time.perf_counter(), time.thread_time()
    some(0, _PROBED)
    if time.perf_counter() - clock < _SLOW * (time.thread_time() - cpu) + 1e-4:
        some(_PROBED, len(paths))
    else:
        for _ in pool.map(lambda first: some(first, first + _PROBED), range(_PROBED, len(paths), _PROBED)):
            pass
    return _Found(widths, heights, reasons)


class _Process:
    """A process that reads headers: paths go in; widths, heights and reasons come out."""

    def __init__(self, prefix: str) -> None:
        self._process = start_module("fastlift.data.index.header_scan")
        self._prefix = prefix.encode("utf-8", "surrogateescape")
        self._has_begun = False

    def read(self, paths: PathTable) -> _Found:
        """Raises OSError for a shortage there, ChildProcessError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            if not self._has_begun:
                _send(self._process.stdin, self._prefix)
                self._has_begun = True
            _send(self._process.stdin, paths.lengths.tobytes(), paths.data.tobytes())
            self._process.stdin.flush()
            sizes, told = _receive(self._process.stdout), _receive(self._process.stdout)
        except (BrokenPipeError, EOFError):
            raise ChildProcessError(
                f"a process that read headers has ended with {self._process.wait()}: out of memory?"
            ) from None
        answer = json.loads(told)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        widths, heights = np.frombuffer(sizes, dtype=np.int32).reshape(2, -1)
        return _Found(widths, heights, {int(row): reason for row, reason in answer.items()})

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


def _send(stream: IO[bytes], *parts: bytes) -> None:
    for part in parts:
        stream.write(len(part).to_bytes(8, "little") + part)


def _receive(stream: IO[bytes]) -> bytes:
    """Raises EOFError where the other side has ended."""
    count = _exactly(stream, 8)
    return _exactly(stream, int.from_bytes(count, "little"))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def serve(given: IO[bytes], answers: IO[bytes]) -> None:
    """Answer for parts of the files until there are no more."""
    prefix = _receive(given).decode("utf-8", "surrogateescape")
    with ThreadPoolExecutor(_THREADS) as pool:
        while True:
            try:
                lengths = np.frombuffer(_receive(given), dtype=np.int64)
                data = np.frombuffer(_receive(given), dtype=np.uint8)
            except EOFError:
                return
            try:
                found = _read(prefix, PathTable.of_lengths(data, lengths), pool)
                sizes, told = np.stack([found.widths, found.heights]).tobytes(), json.dumps(found.reasons)
            except OSError as error:  # a shortage
                sizes, told = b"", json.dumps(error.errno or errno.EIO)
            _send(answers, sizes, told.encode())
            answers.flush()


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # whoever asked has gone
        serve(sys.stdin.buffer, sys.stdout.buffer)
