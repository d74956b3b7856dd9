"""Paths that are listed twice."""

from __future__ import annotations

import numpy as np

from fastlift.data.index.doubles import path_hashes, rows_in_both, rows_twice
from fastlift.data.index.index import PathTable


def test_equal_paths_and_no_others(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("fastlift.data.index.doubles._ROWS", 7)  # across blocks
    random = np.random.default_rng(0)
    names = ["".join(random.choice(list("ab/"), random.integers(0, 6))) for _ in range(200)]
    table = PathTable.from_strings(names)
    hashes = path_hashes(table)
    assert len(set(hashes.tolist())) == len(set(names))
    assert {names[row] for row, _ in rows_twice(table)} == {name for name in names if names.count(name) > 1}
    assert all(names[row] == names[later] for row, later in rows_twice(table))
    others = ["a", "zz", "b", "aa" * 40]
    found = rows_in_both(table, PathTable.from_strings(others))
    assert {names[row] for row, _ in found} == {name for name in others if name in names}
    assert all(names[row] == others[other] for row, other in found)


def test_order_and_length_count() -> None:
    names = ["ab", "ba", "aab", "a", "", "aa", "\x00", "\x00\x00"]
    assert len(set(path_hashes(PathTable.from_strings(names)).tolist())) == len(names)
    assert rows_twice(PathTable.from_strings([])) == []
