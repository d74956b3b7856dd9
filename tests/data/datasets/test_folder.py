"""Sets of class folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.errors import UserError


def test_class_folders(image_files: Any, tmp_path: Path, encode: Callable, make_image: Callable) -> None:
    root = image_files.root
    for split in ("train", "val"):
        for name in ("bee", "ant"):
            for k in range(2):
                image_files.add(f"{split}/{name}/deep/{k}.PNG", 0, encode(make_image(20 + k, 30), "PNG"))
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    data = load_data_set("folder", data_root=root, cache_dir=tmp_path)
    assert data.class_names == ("ant", "bee")
    assert data.train.class_counts().tolist() == [2, 2]
    assert data.test.paths[0] == "val/ant/deep/0.PNG"
    (root / "val" / "wasp").mkdir()
    (root / "train" / "ant" / "moving.gif").write_bytes(b"GIF89a" + bytes(20))
    with pytest.raises(UserError) as caught:
        load_data_set("folder", data_root=root, cache_dir=tmp_path)
    assert "wasp: a class that the training split does not have" in str(caught.value)
    assert "moving.gif: is a GIF" in str(caught.value)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_split_is_the_test_split_where_there_is_no_other(
    name: str, image_files: Any, encode: Callable, make_image: Callable
) -> None:
    for split, count in (("train", 3), (name, 2)):
        for k in range(count):
            image_files.add(f"{split}/ant/{k}.jpg", 0, encode(make_image(30, 30)))
    options = {"data_root": image_files.root, "cache_dir": image_files.cache}
    data = load_data_set("folder", **options)
    assert (data.val, list(data.test.paths)) == (None, [f"{name}/ant/0.jpg", f"{name}/ant/1.jpg"])
    image_files.add("test/ant/0.jpg", 0, encode(make_image(30, 30)))
    data = load_data_set("folder", **options)
    assert data.val is not None
    assert (len(data.val), list(data.test.paths)) == (2, ["test/ant/0.jpg"])


def test_folders_are_walked_once_and_hidden_ones_not_at_all(
    image_files: Any, encode: Callable, make_image: Callable, tmp_path: Path
) -> None:
    data = encode(make_image(40, 30))
    for path in ("train/cat/1.jpg", "train/cat/more/2.JPG", "train/dog/3.jfif", "test/cat/4.jpg", "test/dog/5.jpg"):
        image_files.add(path, 0, data)
    (image_files.root / "train" / "cat" / ".thumbnails").mkdir()
    (image_files.root / "train" / "cat" / ".thumbnails" / "1.jpg").write_bytes(data)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "6.jpg").write_bytes(data)
    (image_files.root / "train" / "cat" / "linked").symlink_to(elsewhere)
    (image_files.root / "train" / "cat" / "linked_again").symlink_to(elsewhere)
    (image_files.root / "train" / "cat" / "more" / "loop").symlink_to(image_files.root / "train")
    found = load_data_set("folder", data_root=image_files.root, cache_dir=image_files.cache).train
    assert list(found.paths) == [
        "train/cat/1.jpg", "train/cat/linked/6.jpg", "train/cat/more/2.JPG", "train/dog/3.jfif",
    ]  # fmt: skip


def test_folder_says_which_layout_it_wants(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DATA_ROOT/train/CLASS/image\.jpg"):
        load_data_set("folder", data_root=tmp_path)
