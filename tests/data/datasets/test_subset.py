"""A training split cut to at most so many images of each class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift.config import Config
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.cutting import cut_off
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.datasets.subset import SubsetSettings, at_most
from fastlift.data.index.index import BadImage, array_index
from fastlift.errors import UserError
from fastlift.runs.folder import RunFolder
from fastlift.runs.split_lists import keep_splits
from tests.data.datasets.test_cutting import index_of

COUNTS = (100, 20, 7, 3, 0)


def data_of(*counts: int) -> DataSet:
    index = index_of(*counts)
    return DataSet("some", index, index, index.class_names, index.class_counts())


@pytest.mark.parametrize("number", [1, 3, 8, 20, 99])
def test_each_class_has_at_most_so_many(number: int) -> None:
    index = index_of(*COUNTS)
    few = at_most(index, number, 0)
    assert few.class_counts().tolist() == [min(count, number) for count in COUNTS]
    assert few.num_classes == len(COUNTS)
    assert set(few.paths) < set(index.paths)
    assert [int(path.split("/")[0]) for path in few.paths] == few.labels.tolist()
    assert (np.diff(few.widths) > 0).all()  # in the order in which they were


def test_a_smaller_number_is_within_a_larger_one_and_another_seed_is_another_draw() -> None:
    index = index_of(200, 50)
    five, forty = (set(at_most(index, number, 0).paths) for number in (5, 40))
    assert five < forty
    shared = forty & set(at_most(index, 40, 1).paths)
    assert 25 < len(shared) < 60  # by chance 8 of 40 and 32 of 40
    assert set(at_most(index.take(np.arange(250)[::-1], "some/train"), 40, 0).paths) == forty


def test_every_image_is_drawn_equally_often() -> None:
    index = index_of(30, 10)
    drawn = np.zeros(40, dtype=int)
    for seed in range(600):
        drawn[at_most(index, 6, seed).widths - 1] += 1
    for label, share in ((0, 6 / 30), (1, 6 / 10)):
        spread = np.sqrt(600 * share * (1 - share))
        found = drawn[index.labels == label]
        assert found.sum() == 6 * 600
        assert np.abs(found - 600 * share).max() < 4 * spread


def test_it_does_not_follow_the_cut_of_a_validation_split() -> None:
    index = index_of(1000)
    _, val = cut_off(index, 0.5, 0, "val")
    shared = set(val.paths) & set(at_most(index, 500, 0).paths)
    assert 180 < len(shared) < 320  # the same hashes would give all 500, or none of what is left


def test_groups_stay_those_of_the_whole_training_set() -> None:
    data = data_of(*COUNTS)
    cut = SubsetSettings(5, 3).build(data)
    assert cut.group_counts.tolist() == list(COUNTS)
    assert cut.train.class_counts().tolist() == [5, 5, 5, 3, 0]
    assert cut.whole is data.train
    assert cut.test is data.test
    assert cut.train.fingerprint != data.train.fingerprint
    assert cut.notes == (
        "18 of 130 training images are trained on, at most 5 of each class (--max-per-class, --subset-seed 3); many, medium "
        "and few are those of the whole set",
    )


def test_nothing_changes_where_no_class_has_more() -> None:
    data = data_of(*COUNTS)
    assert SubsetSettings().build(data) is data
    assert SubsetSettings(100).build(data) is data


def test_good_files_come_before_bad_ones_which_keep_their_replacement() -> None:
    index = index_of(10)
    bad = tuple(BadImage(i, index.paths[i], "is cut off", 9) for i in range(4))
    index = replace(index, bad=bad)
    assert not at_most(index, 6, 0).bad
    seven = at_most(index, 7, 0)
    [kept] = seven.bad
    assert seven.paths[kept.replacement] == index.paths[9]


def test_arrays_are_drawn_by_their_places() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    few = at_most(array_index("set/train", pixels, np.repeat([0, 1], 20), ("a", "b")), 3, 0)
    assert few.class_counts().tolist() == [3, 3]
    assert isinstance(few.arrays, np.ndarray)
    assert (
        few.fingerprint
        != at_most(array_index("set/train", pixels, np.repeat([0, 1], 20), ("a", "b")), 3, 1).fingerprint
    )


def test_a_run_keeps_lists_of_the_whole_training_split(
    image_files: Any, encode: Any, make_image: Any, tmp_path: Path
) -> None:
    for label, count in (("ant", 6), ("bee", 4)):
        for k in range(count):
            image_files.add(f"{label}/{k}.jpg", 0, encode(make_image(30 + k, 30)))
    data = load_data_set("folder", data_root=image_files.root, cache_dir=image_files.cache)
    run = RunFolder(tmp_path / "run")
    keep_splits(run, SubsetSettings(1).build(data))
    assert len((run.splits / "train.txt").read_text().splitlines()) == len(data.train) > 2


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match="max_per_class: expected more than 0, got 0"):
        Config().override(max_per_class=0)
    with pytest.raises(UserError, match="subset_seed 1 would change nothing here: it is the draw of the images"):
        Config().override(subset_seed=1)
    assert Config().override(max_per_class=3, subset_seed=1).data.max_per_class == 3
