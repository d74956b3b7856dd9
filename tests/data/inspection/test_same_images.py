"""``data check`` tells of images that are in two splits, or in two classes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift import data as api
from fastlift.data import pack
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.index.index import array_index
from fastlift.data.inspection.check import check
from fastlift.data.inspection.same_images import pairs_of_one_content, told_same_images

SHARED = [
    "1 of 5 validation images have the content of training images, such as val/bee/x.jpg that of train/bee/1.bmp: figures "
    "will be too good",
    "2 of 6 test images have the content of training images, such as test/ant/copy.bmp that of train/ant/0.bmp: figures will "
    "be too good",
]
MIXED = (
    "2 images have the content of one in another class, such as train/ant/2.bmp (ant) and test/bee/other.bmp (bee): of such "
    "labels at most one is right"
)


@pytest.fixture
def photos(image_files: Any, encode: Callable, make_image: Callable) -> Path:
    """Class folders of images that are all of one size, in pixels and in bytes; three of them are in two splits.

    Two more are alike but for a pixel of their first row, which is the last one of the file.
    """
    for first, (split, count) in enumerate({"train": 4, "val": 2, "test": 2}.items()):
        for label, name in enumerate(("ant", "bee")):
            for k in range(count):
                pixels = make_image(80, 60, seed=100 * first + 10 * label + k)
                image_files.add(f"{split}/{name}/{k}.bmp", label, encode(pixels, "BMP"))
    root = image_files.root
    shutil.copy(root / "train/ant/0.bmp", root / "test/ant/copy.bmp")
    shutil.copy(root / "train/bee/1.bmp", root / "val/bee/x.jpg")
    shutil.copy(root / "train/ant/2.bmp", root / "test/bee/other.bmp")
    near = bytearray((root / "train/ant/3.bmp").read_bytes())
    near[-1] ^= 1
    (root / "val/ant/1.bmp").write_bytes(near)
    return root


def test_files(photos: Path, image_files: Any) -> None:
    found = check("folder", data_root=photos, cache_dir=image_files.cache)
    assert found.ok
    assert list(found.notes) == [*SHARED, MIXED]
    (photos / "train/ant/1.broken.bmp").write_bytes(b"")  # in its place is 2.bmp, which is not told of twice
    skipped = check("folder", data_root=photos, cache_dir=image_files.cache, bad_images="skip")
    assert list(skipped.notes) == [*SHARED, MIXED]
    (photos / "train/ant/1.broken.bmp").unlink()
    for copy in ("val/bee/x.jpg", "test/ant/copy.bmp", "test/bee/other.bmp"):
        (photos / copy).unlink()
    assert check("folder", data_root=photos, cache_dir=image_files.cache).notes == ()


def test_in_one_split_of_one_class_they_are_let_be(photos: Path, image_files: Any) -> None:
    shutil.copy(photos / "train/ant/1.bmp", photos / "train/ant/again.bmp")
    assert len(check("folder", data_root=photos, cache_dir=image_files.cache).notes) == 3
    shutil.copy(photos / "train/ant/1.bmp", photos / "train/bee/again.bmp")
    notes = check("folder", data_root=photos, cache_dir=image_files.cache).notes
    assert notes[-1].startswith("5 images have the content of one in another class, such as train/ant/1.bmp (ant) and")


def test_members_of_shards(photos: Path, image_files: Any, tmp_path: Path) -> None:
    pack.run("folder", tmp_path / "pack", data_root=photos, cache_dir=image_files.cache)
    packed = load_data_set("folder", data_root=tmp_path / "pack", cache_dir=image_files.cache)
    told = [note.partition(",")[0] for note in told_same_images(packed.splits)]
    assert told == [note.partition(",")[0] for note in (*SHARED, MIXED)]


def test_arrays() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 0, 1, 1, 0, 1])
    splits = {
        "train": array_index("cifar/train", images, labels, ("ant", "bee")),
        "test": array_index(
            "cifar/test",
            images[[2, 5]] ^ np.array([0, 1], dtype=np.uint8).reshape(2, 1, 1, 1),
            labels[[2, 5]],
            ("ant", "bee"),
        ),
    }
    assert told_same_images(splits) == [
        "1 of 2 test images have the content of training images, such as cifar/test[0] that of cifar/train[2]: figures will be "
        "too good"
    ]


def test_a_data_set_of_hugging_faces_by_its_encoded_images(photos: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})

    def split(paths: list[str]) -> Any:
        table = {"image": [str(photos / path) for path in paths], "label": ["bee" in path for path in paths]}
        return datasets.Dataset.from_dict(table, features=features)

    train, test = ["train/ant/0.bmp", "train/ant/2.bmp", "train/bee/0.bmp"], ["test/ant/copy.bmp", "test/bee/other.bmp"]
    given = api.from_huggingface(datasets.DatasetDict({"train": split(train), "test": split(test)}))
    shared, mixed = told_same_images(given.splits)
    assert shared.startswith("2 of 2 test images have the content of training images, such as python/test[0] that of")
    assert mixed.startswith("2 images have the content of one in another class, such as python/train[1] (ant) and")


def test_one_path_in_two_splits_is_told_once(image_files: Any) -> None:
    image_files.fill().load()  # one list for both splits
    (note,) = check("list", **image_files.options()).notes
    assert note.startswith("15 of 15 test images are training images too")


def test_pairs_of_one_content_name_rows(photos: Path) -> None:
    """What is told in sentences, row by row: each test image with the first training image of its content."""
    data = load_data_set("folder", data_root=photos)
    pairs = pairs_of_one_content(data.train, data.test)
    files = [(data.train.file_name(row), data.test.file_name(there)) for row, there in pairs]
    assert files == [("train/ant/0.bmp", "test/ant/copy.bmp"), ("train/ant/2.bmp", "test/bee/other.bmp")]


def test_pairs_of_one_path(photos: Path) -> None:
    """An image that two lists name is a pair, whatever its content."""
    (photos / "train.txt").write_text("train/ant/1.bmp 0\ntrain/bee/1.bmp 1\n")
    (photos / "test.txt").write_text("test/bee/0.bmp 1\ntrain/ant/1.bmp 0\n")
    data = load_data_set("list", data_root=photos, train_list=photos / "train.txt", test_list=photos / "test.txt")
    assert pairs_of_one_content(data.train, data.test) == [(0, 1)]
