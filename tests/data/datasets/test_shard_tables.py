"""Tables of shards made by several processes are those that one makes, and no process is left."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tar_shards import write_shards

from fastlift.data.datasets import shard_tables
from fastlift.data.datasets.shard_tables import help_with, tables_of
from fastlift.data.index.columns import read_columns, write_columns
from fastlift.data.index.problems import Problems
from fastlift.data.index.shards import KINDS
from fastlift.system.modules import start_module


@pytest.fixture
def shards(image_files: Any, tmp_path: Path) -> list[str]:
    """Nine shards of five images each below ``tmp_path``."""
    image_files.fill(classes=9)
    write_shards(tmp_path, image_files.lines, image_files.root, shards=9, splits=["train"])
    return [f"train-{number:06d}.tar" for number in range(9)]


def tables(root: Path, shards: list[str], cache: Path) -> list[dict[str, list[Any]]]:
    problems = Problems("shards")
    made = tables_of(root, shards, cache, False, problems, None)
    problems.raise_if_any()
    return [{name: column.tolist() for name, column in table.columns().items()} for table in made]


def never(*_: Any) -> None:
    raise AssertionError("this process looked at a shard that another one had a table of")


def test_a_helper_leaves_the_tables_where_they_are_found(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    helper = start_module("fastlift.data.datasets.shard_tables", str(tmp_path), str(cache), "5")
    helper.communicate(b"\0".join(map(os.fsencode, shards)))
    assert helper.returncode == 0
    alone = tables(tmp_path, shards, tmp_path / "another")
    monkeypatch.setattr(shard_tables, "scan_shard", never)
    assert tables(tmp_path, shards, cache) == alone
    assert [len(table["labels"]) for table in alone] == [5] * 9


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.array([0, 0, 0, 0])},
        {"labels": np.array([0, 0, 0, 0, 1])},
        {"labels": np.array([0, 0, 0, 0, -1])},
        {"heights": np.array([60, 60, 60, 60, -1], dtype=np.int32)},
        {"spans": np.zeros((4, 2), dtype=np.int64)},
        {"spans": np.full((5, 2), -1)},
        {"texts": np.frombuffer(b"3", dtype=np.uint8)},
        {"reasons": np.frombuffer(b"[1]", dtype=np.uint8)},
        {"reasons": np.frombuffer(b'{"5": "missing"}', dtype=np.uint8)},
        {},  # as it was made
    ],
)
def test_a_table_that_is_no_shards_is_made_again(
    changes: dict[str, np.ndarray], shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a digest that holds, as somebody with a will would write it."""
    made, looked = tables(tmp_path, shards[:1], tmp_path / "cache"), []
    kept = next((tmp_path / "cache" / "shards").iterdir())
    write_columns(kept, read_columns(kept, KINDS) | changes)
    plain = shard_tables.scan_shard
    monkeypatch.setattr(shard_tables, "scan_shard", lambda *given: (looked.append(kept), plain(*given))[1])
    assert tables(tmp_path, shards[:1], tmp_path / "cache") == made
    assert looked == [kept] * bool(changes)


def test_helpers_begin_at_other_shards_and_end_with_the_work(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], Any]] = []

    def spied(module: str, *arguments: str) -> Any:
        process = start_module(module, *arguments)
        started.append(([module, *arguments], process))
        return process

    monkeypatch.setattr(shard_tables, "start_module", spied)
    monkeypatch.setattr(shard_tables, "cpus", lambda: 8)
    cache = tmp_path / "cache"
    assert tables(tmp_path, shards, cache) == tables(tmp_path, shards, tmp_path / "another")
    assert [arguments[1:] for arguments, _ in started[:1]] == [
        [str(tmp_path), str(cache), "4"]
    ]  # nine are work for two
    assert all(process.returncode is not None for _, process in started)


def test_a_helper_does_nothing_more_for_a_process_that_has_ended(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = iter([7, 7, 7, *[1] * 20])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(shard_tables, "_SLOW", float("inf"))  # a busy disk would have threads look at more
    help_with(tmp_path, tmp_path / "cache", 3, shards)
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 3


def test_a_disk_that_is_slow_to_answer_is_asked_by_threads(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by: set[int] = set()
    plain = shard_tables.scan_shard

    def slow(*given: Any) -> Any:
        by.add(threading.get_ident())
        time.sleep(0.2)
        return plain(*given)

    monkeypatch.setattr(shard_tables, "cpus", lambda: 1)
    monkeypatch.setattr(shard_tables, "scan_shard", slow)
    tables(tmp_path, shards, tmp_path / "cache")
    assert len(by) > 2


def test_what_is_wrong_is_told_by_the_process_that_was_asked(shards: list[str], tmp_path: Path) -> None:
    (tmp_path / shards[4]).write_bytes(b"no tar" * 200)
    help_with(tmp_path, tmp_path / "cache", 0, shards)
    help_with(tmp_path, tmp_path / "cache", 0, ["missing.tar", *shards])
    problems = Problems("shards")
    made = tables_of(tmp_path, shards, tmp_path / "cache", False, problems, None)
    assert np.array([len(table.labels) for table in made]).tolist() == [5] * 4 + [0] + [5] * 4
    assert problems.total == 1
