"""Published sets whose images lie otherwise than their lists say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets import catalogue
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.places_lt import PLACES_LT
from fastlift.errors import UserError

FOLDERS = ("airfield", "field-wild", "underwater-ocean_deep")
TRAIN = [(f"train/{folder}/0000000{k}.jpg", label) for label, folder in enumerate(FOLDERS) for k in range(2)]
TEST = [(f"val/{folder}/Places365_val_0000000{label}.jpg", label) for label, folder in enumerate(FOLDERS)]


def torchvisions(root: Path, path: str, size: str) -> Path:
    """Where torchvision's own class looks for an image."""
    from torchvision.datasets import Places365

    given = Places365.__new__(Places365)
    split, folder, name = path.split("/")
    given.root, given.small = str(root), size == "256"
    given.split = "train-standard" if split == "train" else "val"
    inside = f"{folder[0]}/{folder.replace('-', '/')}/{name}" if split == "train" else name
    return Path(given.images_dir) / inside


@pytest.fixture
def places(image_files: Any, encode: Callable, make_image: Callable, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Places-LT of three classes, in the layout of its lists."""
    mini = replace(PLACES_LT, name="mini_places", classes=3, train=6, test=(3,), largest=2, smallest=2)
    monkeypatch.setattr(catalogue, "SOURCES", (*catalogue.SOURCES, mini))
    for path, label in TRAIN + TEST:
        image_files.add(path, label, encode(make_image(40, 30, seed=label)))
    lists = {"Places_LT_train.txt": TRAIN, "Places_LT_test.txt": TEST}
    for file, lines in lists.items():
        (image_files.root / file).write_text("".join(f"{path} {label}\n" for path, label in lines))
    (image_files.root / "Places_LT_classnames.txt").write_text("".join(f"{folder} {folder}\n" for folder in FOLDERS))
    return image_files


@pytest.mark.parametrize("size", ["large", "256"])
@pytest.mark.parametrize("renamed", [True, False])  # by torchvision, after it has unpacked the archive
def test_places365_as_torchvision_has_it(size: str, renamed: bool, places: Any) -> None:
    options = {"data_root": places.root, "cache_dir": places.cache}
    expected = load_data_set("mini_places", **options)
    for path, _ in TRAIN + TEST:
        place = torchvisions(places.root, path, size)
        place.parent.mkdir(parents=True, exist_ok=True)
        (places.root / path).rename(place)
    if not renamed:
        (places.root / f"data_{size}_standard").rename(places.root / f"data_{size}")
    for split in ("train", "val"):
        shutil.rmtree(places.root / split)
    found = load_data_set("mini_places", **options)
    end = "_standard" * renamed
    assert found.train.paths[5] == f"data_{size}{end}/u/underwater/ocean_deep/00000001.jpg"
    assert found.test.paths[0] == f"val_{size}/Places365_val_00000000.jpg"
    assert (found.class_names, found.train.labels.tolist()) == (expected.class_names, expected.train.labels.tolist())
    shutil.rmtree(places.root / f"val_{size}")
    with pytest.raises(UserError, match=rf"Places_LT_test.txt are not there: val/airfield, .*(.|\n)*val_{size}"):
        load_data_set("mini_places", **options, rescan=True)
