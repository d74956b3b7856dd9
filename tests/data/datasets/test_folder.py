"""Sets of class folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.index.problems import UnusableData
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
    assert data.notes == (f"{image_files.root / name} is the test split, as there is no folder test",)
    image_files.add("test/ant/0.jpg", 0, encode(make_image(30, 30)))
    image_files.add("train/bee/0.jpg", 0, encode(make_image(30, 30)))
    data = load_data_set("folder", **options)
    assert data.notes == tuple(
        f"folder: no {split} image of 1 of 2 classes (bee): the {split} figures tell nothing of these"
        for split in ("validation", "test")
    )
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
    (image_files.root / "train" / "cat" / "itself").symlink_to("itself")
    found = load_data_set("folder", data_root=image_files.root, cache_dir=image_files.cache).train
    assert list(found.paths) == [
        "train/cat/1.jpg", "train/cat/linked/6.jpg", "train/cat/more/2.JPG", "train/dog/3.jfif",
    ]  # fmt: skip


@pytest.fixture
def photos(image_files: Any, encode: Callable, make_image: Callable) -> Any:
    """One folder of class folders: 20, 10, 2 and 1 images."""
    data = encode(make_image(40, 30))
    for name, count in (("bee", 20), ("red panda", 10), ("moth", 2), ("ant", 1)):
        for k in range(count):
            image_files.add(f"{name}/{k}.jpg", 0, data)
    return image_files


def test_one_folder_is_split_by_itself(photos: Any) -> None:
    options = {"data_root": photos.root, "cache_dir": photos.cache}
    data = load_data_set("folder", **options)
    assert data.class_names == ("ant", "bee", "moth", "red panda")
    assert data.train.class_counts().tolist() == [1, 16, 2, 8] == data.group_counts.tolist()
    assert data.test.class_counts().tolist() == [0, 4, 0, 2]
    assert data.cut == ("test",)
    assert data.notes == (
        "no test split is given: 20 % of each class's images are cut off as one (--test-share, --split-seed 0); too small "
        "for that, and in training alone: ant, moth",
    )
    assert list(load_data_set("folder", **options).test.paths) == list(data.test.paths)
    other = load_data_set("folder", **options, test_share=0.5, split_seed=1)
    assert other.test.class_counts().tolist() == [0, 10, 1, 5]
    three = load_data_set("folder", **options, val_share=0.25)
    assert three.val is not None
    assert list(three.test.paths) == list(data.test.paths)  # whatever else is cut off
    assert three.val.class_counts().tolist() == [0, 4, 0, 2]
    assert (three.cut, three.group_counts.tolist()) == (("test", "val"), [1, 16, 2, 8])
    parts = [set(index.paths) for index in three.splits.values()]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 33


def test_a_share_beside_a_test_split_is_refused(image_files: Any, encode: Callable, make_image: Callable) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            image_files.add(f"{split}/{name}/1.jpg", 0, encode(make_image(30, 30)))
    options = {"data_root": image_files.root, "cache_dir": image_files.cache}
    assert load_data_set("folder", **options).cut == ()
    with pytest.raises(UserError, match="--test-share: folder has a test split of its own"):
        load_data_set("folder", **options, test_share=0.2)


def test_no_class_has_images_to_cut_off(image_files: Any, encode: Callable, make_image: Callable) -> None:
    for name in ("ant", "bee"):
        image_files.add(f"{name}/1.jpg", 0, encode(make_image(30, 30)))
    with pytest.raises(UserError, match=rf"no test split in {image_files.root}, and no class has two images"):
        load_data_set("folder", data_root=image_files.root, cache_dir=image_files.cache)


def test_an_empty_place_is_not_the_working_folder(photos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``--data-root "$PHOTOS"`` gives where the variable is not set."""
    monkeypatch.chdir(photos.root)
    with pytest.raises(UserError, match="data_root: an empty path"):
        load_data_set("folder", data_root="", cache_dir=photos.cache)


def test_empty_class_folders_are_one_problem(photos: Any, tmp_path: Path) -> None:
    for k in range(500):
        (photos.root / f"empty {k:03d}").mkdir()
    with pytest.raises(UnusableData) as caught:
        load_data_set("folder", data_root=photos.root, cache_dir=photos.cache)
    assert caught.value.problems.entries == [
        f"{photos.root}: 500 of 504 class folders hold no image (empty 000, empty 001, empty 002, ...): delete them, or put "
        "images there"
    ]
    (tmp_path / "all" / "empty").mkdir(parents=True)
    (tmp_path / "all" / "notes").mkdir()
    with pytest.raises(UserError, match="no image in its 2 class folders"):
        load_data_set("folder", data_root=tmp_path / "all", cache_dir=photos.cache)


def test_what_systems_leave_in_class_folders_is_passed_over(photos: Any) -> None:
    before = load_data_set("folder", data_root=photos.root, cache_dir=photos.cache)
    for path in ("bee/Thumbs.db", "bee/desktop.ini", "bee/._1.jpg", "bee/__MACOSX/1.jpg", "__MACOSX/bee/1.jpg"):
        (photos.root / path).parent.mkdir(parents=True, exist_ok=True)
        (photos.root / path).write_bytes(b"none")
    after = load_data_set("folder", data_root=photos.root, cache_dir=photos.cache)
    assert after.train.fingerprint == before.train.fingerprint


def test_classes_that_differ_by_case_alone(photos: Any, encode: Callable, make_image: Callable, tmp_path: Path) -> None:
    photos.add("Red_Panda/0.jpg", 0, encode(make_image(30, 30)))
    options = {"data_root": photos.root, "cache_dir": photos.cache}
    with pytest.raises(UserError, match="'Red_Panda' and 'red panda' read as one class"):
        load_data_set("folder", **options)
    (tmp_path / "names.txt").write_text("firefox\nant\nbee\nmoth\nred panda\n")
    assert load_data_set("folder", **options, class_names=tmp_path / "names.txt").class_names[0] == "firefox"


def test_folder_says_which_layout_it_wants(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DATA_ROOT/train/CLASS/image\.jpg"):
        load_data_set("folder", data_root=tmp_path)


def test_two_classes_that_are_one_folder(photos: Any) -> None:
    (photos.root / "wasp").symlink_to("bee")
    with pytest.raises(UnusableData) as caught:
        load_data_set("folder", data_root=photos.root, cache_dir=photos.cache)
    assert caught.value.problems.entries == [
        f"{photos.root / 'bee'} and {photos.root / 'wasp'} are one folder, by a link: remove one of these two classes"
    ]
    (photos.root / "wasp").unlink()
    (photos.root / "bee").rename(photos.root.parent / "elsewhere")
    (photos.root / "bee").symlink_to(photos.root.parent / "elsewhere")  # a link alone is a class
    assert len(load_data_set("folder", data_root=photos.root, cache_dir=photos.cache).class_names) == 4
