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
from fastlift.data.index.problems import Problems
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
