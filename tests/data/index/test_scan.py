"""The cached index: what is read is what was written, or the files are looked at again."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import flipped_bits

from fastlift.data.index.columns import digest_of
from fastlift.data.index.index import PathTable
from fastlift.data.index.scan import Scan, load_scan, store_scan


def small_scan() -> Scan:
    sizes = np.arange(4, dtype=np.int32)
    return Scan(
        PathTable.from_strings(["a/0", "a/1", "b/é", "b/3"]), np.array([0, 0, 1, 1]), sizes, sizes, {0: "missing"}
    )


def content(scan: Scan) -> list[Any]:
    columns = (scan.labels, scan.widths, scan.heights)
    return [list(scan.paths), scan.reasons, *(column.tolist() for column in columns)]


def test_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    """Every third byte of the file with another bit: the same scan, or none and a word about it."""
    file = tmp_path / "index.npz"
    store_scan(file, small_scan())
    size, refused = file.stat().st_size, 0
    for _ in flipped_bits(file, step=3):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = load_scan(file, 2)
        if found is None:
            refused += 1
            assert "is damaged" in str(told[-1].message)
        else:
            assert content(found) == content(small_scan())  # a byte that means nothing, such as a time
    assert refused > size / 12


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.array([0, 0, 1])},
        {"labels": np.array([0, 0, 1, -1])},
        {"labels": np.array([0, 0, 1, 2])},
        {"labels": np.array([0.0, 0, 1, 1])},
        {"widths": np.zeros((4, 2), dtype=np.int32)},
        {"offsets": np.array([0, 3, 6, 5, 13])},
        {"offsets": np.array([0, 3, 6, 10, 99])},
        {"offsets": np.zeros(0, dtype=np.int64)},
        {"data": np.zeros(13, dtype=np.int64)},
        {"reasons": np.frombuffer(b'{"4": "missing"}', dtype=np.uint8)},
        {"reasons": np.frombuffer(b"[" * 100_000, dtype=np.uint8)},
        {"labels": np.array([{}, 0, 1, 1], dtype=object)},  # a pickle
    ],
)
def test_columns_that_do_not_belong_together(changes: dict[str, np.ndarray], tmp_path: Path) -> None:
    """With a digest that holds, as somebody with a will would write it."""
    file = tmp_path / "index.npz"
    store_scan(file, small_scan())
    with np.load(file) as stored:
        columns = {name: stored[name] for name in stored.files if name != "digest"} | changes
    digest = bytes(32) if columns["labels"].dtype == object else digest_of(columns)
    np.savez(file, **columns, digest=np.frombuffer(digest, dtype=np.uint8))
    with pytest.warns(UserWarning, match="is damaged"):
        assert load_scan(file, 2) is None


def test_columns_that_unpack_to_more_than_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "index.npz"
    np.savez_compressed(file, data=np.zeros(10**7, dtype=np.uint8))
    assert file.stat().st_size < 20_000
    with pytest.warns(UserWarning, match="its columns are packed"):
        assert load_scan(file, 2) is None
