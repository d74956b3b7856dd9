"""A validation split that is cut off from the training split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.cutting import cut_off
from fastlift.data.index.index import BadImage, ImageIndex, PathTable, array_index
from fastlift.errors import UserError


def index_of(*counts: int, prefix: str = "") -> ImageIndex:
    """So many images of each class, which lie scattered."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    paths = PathTable.from_strings(f"{prefix}{label}/{i}.jpg" for i, label in enumerate(labels))
    sizes = np.arange(1, len(labels) + 1, dtype=np.int32)
    names = tuple(f"class {k}" for k in range(len(counts)))
    return ImageIndex("some/train", Path("/images"), paths, labels, sizes, sizes + 1, names, "0" * 32)


def test_each_image_is_on_one_side_and_each_class_in_training() -> None:
    index = index_of(1000, 100, 21, 10, 3, 2, 1)
    train, val = cut_off(index, 0.1, 0, "some/val")
    assert val.class_counts().tolist() == [100, 10, 2, 1, 1, 0, 0]  # rounded to even; one of three
    assert (train.class_counts() + val.class_counts()).tolist() == [1000, 100, 21, 10, 3, 2, 1]
    assert sorted([*train.paths, *val.paths]) == sorted(index.paths)
    assert (val.name, train.name) == ("some/val", "some/train")
    for part in (train, val):
        assert [int(path.split("/")[0]) for path in part.paths] == part.labels.tolist()
        assert [int(path.split("/")[1][:-4]) + 1 for path in part.paths] == part.widths.tolist()
        assert (part.heights - part.widths == 1).all()
    assert len({index.fingerprint, train.fingerprint, val.fingerprint}) == 3
    _, most = cut_off(index, 0.999, 0, "some/val")
    assert most.class_counts().tolist() == [999, 99, 20, 9, 2, 1, 0]  # the last one stays


def test_the_same_images_again_by_seed_and_path() -> None:
    index = index_of(400, 40, 4)
    cut = set(cut_off(index, 0.25, 0, "val")[1].paths)
    assert set(cut_off(index, 0.25, 0, "val")[1].paths) == cut
    assert len(cut & set(cut_off(index, 0.25, 1, "val")[1].paths)) < 0.5 * len(cut)  # about a quarter
    fewer = index.take(np.flatnonzero(index.widths > 20), "some/train")  # 20 of 444 are gone
    still = set(cut_off(fewer, 0.25, 0, "val")[1].paths)
    assert len(still - cut) <= 20  # chosen by chance, it would be three quarters of 106
    shuffled = index.take(np.arange(444)[::-1], "some/train")
    assert set(cut_off(shuffled, 0.25, 0, "val")[1].paths) == cut


def test_what_is_shown_in_place_of_a_bad_file_is_not_on_the_other_side() -> None:
    index = index_of(10, 10)
    of_first = np.flatnonzero(index.labels == 0)
    for first, second in zip(of_first, np.roll(of_first, -1), strict=True):
        bad = BadImage(int(first), index.paths[int(first)], "is cut off", int(second))
        train, val = cut_off(replace(index, bad=(bad,)), 0.5, 0, "val")
        assert val.class_counts().tolist() == [5, 5]
        assert not val.bad
        [kept] = train.bad
        assert train.paths[kept.index] == index.paths[int(first)]
        assert train.paths[kept.replacement] == index.paths[int(second)]
    pair = replace(index_of(2), bad=(BadImage(0, "0/0.jpg", "is cut off", 1),))
    assert len(cut_off(pair, 0.5, 0, "val")[1]) == 0


def test_arrays_and_members_of_shards() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    index = array_index("set/train", pixels, np.repeat([0, 1], 20), ("a", "b"))
    train, val = cut_off(index, 0.25, 3, "set/val")
    assert train.arrays is not None
    assert val.arrays is not None
    rows = {pixels[i].tobytes(): i for i in range(40)}
    found = [[rows[image.tobytes()] for image in part.arrays] for part in (train, val)]
    assert sorted(found[0] + found[1]) == list(range(40))
    assert [row // 20 for row in found[1]] == val.labels.tolist() == [0] * 5 + [1] * 5
    spans = np.stack([np.arange(40) * 10, np.full(40, 9)], axis=1)
    shards = np.repeat(np.arange(2, dtype=np.int32), 20)
    paths = PathTable.from_strings(f"train-{shard}.tar" for shard in shards)
    packed = replace(index, arrays=None, root=Path("/pack"), paths=paths, spans=spans, shards=shards)
    _, val = cut_off(packed, 0.25, 3, "set/val")
    assert val.spans is not None
    assert val.shards is not None
    assert val.shards.tolist() == [0] * 5 + [1] * 5
    assert len(set(val.spans[:, 0].tolist())) == 10
    assert ((val.spans[:, 0] < 200) == (val.labels == 0)).all()


def test_a_loaded_set_with_a_share(image_files: Any) -> None:
    whole = image_files.fill().load()  # 5 images of each of 3 classes
    cut = load_data_set("list", **image_files.options(), val_share=0.4)
    assert cut.val is not None
    assert {name: len(index) for name, index in cut.splits.items()} == {"train": 9, "val": 6, "test": 15}
    assert cut.group_counts.tolist() == whole.train.class_counts().tolist() == [5, 5, 5]
    assert cut.val.cache == cut.train.cache is not None
    with pytest.raises(UserError, match="list has a validation split of its own"):
        load_data_set("list", **image_files.options(), val_list=image_files.options()["test_list"], val_share=0.4)


def test_a_set_of_single_images_cannot_be_cut(image_files: Any, encode: Any, make_image: Any) -> None:
    for k in range(3):
        image_files.add(f"c{k}/0.jpg", k, encode(make_image(40, 30)))
    image_files.load()
    with pytest.raises(UserError, match="no class of list has two training images"):
        load_data_set("list", **image_files.options(), val_share=0.4)
