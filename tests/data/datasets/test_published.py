"""The published sets: found, counted, named."""

from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.published_lists import SHIPPED
from fastlift.data.index.lines import line_blocks, read_lines
from fastlift.data.index.lists import class_folders, parse_class_names, parse_list
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError


@pytest.mark.parametrize("name", ["imagenet_lt", "places_lt"])
def test_published_sets_say_how_to_get_them(name: str, tmp_path: Path) -> None:
    for options in ({}, {"data_root": tmp_path / "none"}):
        with pytest.raises(UserError, match="How to get") as caught:
            load_data_set(name, cache_dir=tmp_path, **options)  # type: ignore[arg-type]
        assert "DATA_ROOT/train/" in str(caught.value)


def test_places_names_go_to_labels_by_folder() -> None:
    """Label 116 is desert_road in the lists, and line 116 of the class names is desert-sand."""
    listing = parse_list(line_blocks(SHIPPED / "Places_LT_train.txt.gz"), "x", 365, Problems(""))
    folders = class_folders(listing, 365)
    names_of_file = read_lines(SHIPPED / "Places_LT_classnames.txt.gz")
    assert parse_class_names(names_of_file, "x", lambda: folders) == tuple(folders)
    assert folders[116] == "desert_road"


def test_published_counts_are_checked(image_files: Any, tmp_path: Path) -> None:
    for label in range(365):
        image_files.lines.append(f"train/folder{label}/0.jpg {label}")
    for file in ("Places_LT_train.txt", "Places_LT_test.txt"):
        (image_files.root / file).write_text("\n".join(image_files.lines))
    (image_files.root / "Places_LT_classnames.txt").write_text("".join(f"folder{i} name {i}\n" for i in range(365)))
    with pytest.raises(UserError) as caught:
        load_data_set("places_lt", data_root=image_files.root, cache_dir=tmp_path)
    message = str(caught.value)
    assert "Places_LT_train.txt: 365 lines, Places-LT has 62,500" in message
    assert "largest and smallest class have 1 and 1 images, Places-LT has 4980 and 5" in message
    assert "Places_LT_test.txt: 365 lines, Places-LT has 36,500 or 7,300" in message


def test_the_real_lists_pass_and_only_the_images_are_missing(tmp_path: Path) -> None:
    """What comes with fastlift is Places-LT: 62,500 + 36,500 missing files, and nothing else."""
    folders = class_folders(parse_list(line_blocks(SHIPPED / "Places_LT_train.txt.gz"), "x", 365, Problems("")), 365)
    for split in ("train", "val"):
        for folder in folders:
            (tmp_path / split / str(folder)).mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        load_data_set("places_lt", data_root=tmp_path, cache_dir=tmp_path)
    message = str(caught.value)
    assert "99,000 problems, the first 10" in message
    assert message.count(": missing") == 10


def test_folders_that_are_not_there_are_told_before_their_files(tmp_path: Path) -> None:
    (tmp_path / "train" / "airfield").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        load_data_set("places_lt", data_root=tmp_path, cache_dir=tmp_path)
    message = str(caught.value)
    assert "2 problems" in message
    assert "364 of the 365 folders of Places_LT_train.txt.gz are not there: train/airplane_cabin, train/" in message
    assert "365 of the 365 folders of Places_LT_test.txt.gz are not there" in message
