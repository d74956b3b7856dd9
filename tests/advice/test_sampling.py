"""Large classes are thinned, rare ones stay whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlift.advice.sampling import thinned


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(sum), st.integers(1, 120), st.integers(0, 9))
def test_classes_are_cut_to_one_number(counts: list[int], most: int, seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = thinned(labels, most, seed)
    left = np.bincount(labels[rows], minlength=len(counts))
    assert (np.diff(rows) > 0).all()
    assert len(rows) <= most
    np.testing.assert_array_equal(rows, thinned(labels, most, seed))
    if most >= sum(count > 0 for count in counts):  # else there is no room for one of each
        largest = left.max()
        np.testing.assert_array_equal(left, np.minimum(counts, largest))
        assert largest == max(counts) or np.minimum(counts, largest + 1).sum() > most


def test_other_seeds_draw_other_images() -> None:
    labels = np.zeros(100, dtype=np.int64)
    assert thinned(labels, 10, 0).tolist() != thinned(labels, 10, 1).tolist()


@pytest.mark.parametrize("most", [100, 1000])
def test_where_all_have_room_all_are_taken(most: int) -> None:
    np.testing.assert_array_equal(thinned(np.arange(100) % 7, most, 0), np.arange(100))
