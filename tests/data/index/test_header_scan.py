"""Many headers at once: processes and threads find what one reader finds, and nothing of a shortage or a death is hidden."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift.data.index import header_scan
from fastlift.data.index.header_scan import scan_files
from fastlift.data.index.headers import Header, read_header
from fastlift.data.index.index import PathTable


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred files count as many, in parts of 64, for three processes."""
    monkeypatch.setattr(header_scan, "MANY_FILES", 1)
    monkeypatch.setattr(header_scan, "_ROWS", 64)
    monkeypatch.setattr(header_scan, "cpus", lambda: 3)


def listing(folder: Path, make_image: Callable, encode: Callable, make_bad_file: Callable) -> PathTable:
    """300 files: good ones of four sizes, every 17th unusable, one with a name that is no UTF-8."""
    names = [f"class {k % 3}/{k}.jpg" for k in range(299)] + [os.fsdecode(b"class 0/\xff.jpg")]
    for k in range(3):
        (folder / f"class {k}").mkdir(parents=True)
    good = [encode(make_image(40 + 8 * k, 36)) for k in range(4)]
    bad = [make_bad_file(kind) for kind in ("truncated", "text", "missing", "empty")]
    for k, name in enumerate(names):
        data = bad[k // 17 % 4] if k % 17 == 0 else good[k % 4]
        if data is not None:
            (folder / name).write_bytes(data)
    return PathTable.from_strings(names)


def one_by_one(folder: Path, paths: PathTable) -> tuple[list[tuple[int, int]], dict[int, str]]:
    found = [read_header(f"{folder}/{path}") for path in paths]
    return [(h.width, h.height) for h in found], {i: h.reason for i, h in enumerate(found) if h.reason}


@pytest.mark.parametrize("several", [False, True])
def test_all_files_are_read_whoever_reads_them(
    several: bool,
    make_image: Callable,
    encode: Callable,
    make_bad_file: Callable,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if several:
        request.getfixturevalue("many")
    paths, told = listing(tmp_path, make_image, encode, make_bad_file), []
    widths, heights, reasons = scan_files(tmp_path, paths, "some", lambda *progress: told.append(progress))
    assert (list(zip(widths.tolist(), heights.tolist(), strict=True)), reasons) == one_by_one(tmp_path, paths)
    assert len(reasons) == 18
    assert told[-1] == ("some", 300, 300)
    assert [done for _, done, _ in told] == ([64, 128, 192, 256, 300] if several else [300])


def test_no_files_are_no_work(tmp_path: Path) -> None:
    widths, heights, reasons = scan_files(tmp_path, PathTable.from_strings([]))
    assert (len(widths), len(heights), reasons) == (0, 0, {})


def test_a_slow_store_is_asked_by_many_threads_and_a_fast_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = PathTable.from_strings(map(str, range(400)))

    def threads_of(seconds: float) -> set[int]:
        by: set[int] = set()

        def read(path: str) -> Header:
            by.add(threading.get_ident())
            if seconds:
                time.sleep(seconds)
            return Header(8, 8, "")

        monkeypatch.setattr(header_scan, "read_header", read)
        assert scan_files(tmp_path, paths)[0].tolist() == [8] * 400
        return by

    assert len(threads_of(0.002)) > 8
    monkeypatch.setattr(header_scan, "_SLOW", float("inf"))  # a busy machine may make a fast store look slow
    assert len(threads_of(0.0)) == 1


def spied(monkeypatch: pytest.MonkeyPatch) -> list[header_scan._Process]:
    """The processes that are started."""
    started: list[header_scan._Process] = []

    class Spied(header_scan._Process):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            started.append(self)

    monkeypatch.setattr(header_scan, "_Process", Spied)
    return started


def test_a_process_that_is_killed_ends_the_scan_and_none_is_left(
    many: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = spied(monkeypatch)

    def kill_one(_: str, done: int, __: int) -> None:
        if done == 64:  # the first part
            os.kill(started[0]._process.pid, signal.SIGKILL)

    paths = PathTable.from_strings(map(str, range(5000)))
    with pytest.raises(ChildProcessError, match="ended with -9: out of memory"):
        scan_files(tmp_path, paths, "", kill_one)
    assert [process._process.returncode is None for process in started] == [False] * 3


def test_a_shortage_in_a_process_is_one_here(many: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Too few open files: no file may count as bad for it."""
    (tmp_path / "sitecustomize.py").write_text(  # what Python runs first
        "import sys\n"
        "if any(word.endswith('header_scan') for word in sys.orig_argv):\n"
        "    import errno, os\n"
        "    from fastlift.data.index import headers\n"
        "    def none(*_): raise OSError(errno.EMFILE, 'none left')\n"
        "    headers.os = type('os', (), {**vars(os), 'open': staticmethod(none)})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(OSError, match="Too many open files"):
        scan_files(tmp_path, PathTable.from_strings(map(str, range(200))))


def test_where_no_process_can_be_started_this_one_reads(
    many: None,
    make_image: Callable,
    encode: Callable,
    make_bad_file: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def none(*_: object, **__: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr(header_scan, "start_module", none)
    paths = listing(tmp_path, make_image, encode, make_bad_file)
    widths, _, reasons = scan_files(tmp_path, paths)
    assert np.flatnonzero(widths == 0).tolist() == sorted(reasons) == list(range(0, 300, 17))
