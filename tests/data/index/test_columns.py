"""What is read is what was written, also where threads read at once and the interpreter fails at it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from fastlift.data.index.columns import read_columns, write_columns

KINDS: dict[str, type[np.generic]] = {"labels": np.int32, "sizes": np.int64}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_columns(
        tmp_path / "columns.npz", {"labels": np.arange(5, dtype=np.int32), "sizes": np.ones((5, 2), dtype=np.int64)}
    )
    return tmp_path / "columns.npz"


def failing(times: int) -> Any:
    """NumPy's reader, which fails its first ``times`` calls as CPython 3.11's ``ast`` does where two threads are in it."""
    load, calls = np.load, iter(range(times))

    def read(raw: BinaryIO, **options: Any) -> Any:
        if next(calls, None) is not None:
            raw.read(100)  # it fails in the middle of the file
            raise SystemError("AST constructor recursion depth mismatch (before=48, after=43)")
        return load(raw, **options)

    return read


def test_a_failure_of_the_interpreter_is_no_damage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "load", failing(2))
    assert read_columns(file, KINDS)["labels"].tolist() == [0, 1, 2, 3, 4]


def test_an_interpreter_that_always_fails_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "load", failing(100))
    with pytest.raises(ValueError, match="recursion depth mismatch"):
        read_columns(file, KINDS)


def test_one_thread_at_a_time_is_in_numpys_reader(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, inside, most = np.load, threading.Semaphore(0), []

    def read(*given: Any, **options: Any) -> Any:
        inside.release()
        time.sleep(0.01)
        most.append(inside._value)
        try:
            return load(*given, **options)
        finally:
            inside.acquire()

    monkeypatch.setattr(np, "load", read)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: read_columns(file, KINDS), range(8)))
    assert most == [1] * 8
