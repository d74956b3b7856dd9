"""The splits that fastlift has cut, as list files in the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.index.index import PathTable
from fastlift.runs.folder import RunFolder
from fastlift.runs.split_lists import keep_splits


@pytest.fixture
def photos(image_files: Any, encode: Any, make_image: Any) -> Any:
    """Folders whose order is not that of their numbers, and names of two words of which the first are numbers."""
    for name, count in (("10 euro", 5), ("2 euro", 8), ("1 euro", 3)):
        for k in range(count):
            image_files.add(f"{name}/{k}.jpg", 0, encode(make_image(30 + k, 30)))
    return image_files


def test_the_lists_give_the_same_set_again(photos: Any, tmp_path: Path) -> None:
    cut = load_data_set("folder", data_root=photos.root, cache_dir=photos.cache, val_share=0.3)
    run = RunFolder(tmp_path / "run")
    assert keep_splits(run, cut) == f"the splits are kept as list files in {run.splits}"
    assert keep_splits(run, cut) == ""  # of a run that goes on
    lists = {f"{split}_list": run.splits / f"{split}.txt" for split in cut.splits}
    names = run.splits / "classes.txt"
    again = load_data_set("list", data_root=photos.root, cache_dir=photos.cache, class_names=names, **lists)
    assert again.class_names == cut.class_names == ("1 euro", "10 euro", "2 euro")
    assert {split: index.fingerprint for split, index in again.splits.items()} == {
        split: index.fingerprint for split, index in cut.splits.items()
    }


def test_a_bad_file_is_listed_by_its_own_name(photos: Any, tmp_path: Path) -> None:
    (photos.root / "2 euro" / "3.jpg").write_bytes(b"none")
    cut = load_data_set("folder", data_root=photos.root, cache_dir=photos.cache, bad_images="skip")
    run = RunFolder(tmp_path / "run")
    keep_splits(run, cut)
    assert "2 euro/3.jpg 2" in (run.splits / "train.txt").read_text().splitlines()


@pytest.mark.parametrize("name", ["a\nb.jpg", " a.jpg"])
def test_names_that_a_list_cannot_hold(name: str, photos: Any, tmp_path: Path) -> None:
    cut = load_data_set("folder", data_root=photos.root, cache_dir=photos.cache)
    paths = PathTable.from_strings([name, *list(cut.test.paths)[1:]])
    told = keep_splits(RunFolder(tmp_path / "run"), replace(cut, test=replace(cut.test, paths=paths)))
    assert "names in them hold line ends or begin or end with spaces" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "ant "])
def test_class_names_that_a_list_cannot_hold(name: str, photos: Any, tmp_path: Path) -> None:
    cut = load_data_set("folder", data_root=photos.root, cache_dir=photos.cache)
    told = keep_splits(RunFolder(tmp_path / "run"), replace(cut, class_names=(name, *cut.class_names[1:])))
    assert "names in them hold line ends or begin or end with spaces" in told
    assert not (tmp_path / "run").exists()
