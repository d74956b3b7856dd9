"""Which folders of a data root are splits and classes, and what is wrong with others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastlift.data.datasets.layout import Layout, class_folder_names, find_layout
from fastlift.errors import UserError


def make(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("cat", "dog"), Layout("", None, None)),
        (("train/cat", "test/cat"), Layout("train", None, "test")),
        (("train/cat", "test/cat", "val/cat"), Layout("train", "val", "test")),
        (("Train/cat", "TEST/cat", "Validation/cat"), Layout("Train", "Validation", "TEST")),
        (("training/cat", "testing/cat"), Layout("training", None, "testing")),
        (("train/cat",), Layout("train", None, None)),
        (("cat", "test"), Layout("", None, None)),  # a class of that name
    ],
)
def test_layouts(folders: tuple[str, ...], expected: Layout, tmp_path: Path) -> None:
    assert find_layout(make(tmp_path, *folders)) == expected


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_what_is_the_test_split_is_said_where_the_name_does_not(name: str, tmp_path: Path) -> None:
    found = find_layout(make(tmp_path, "train/cat", f"{name}/cat"))
    assert (found.val, found.test) == (None, name)
    assert found.notes == (f"{tmp_path / name} is the test split, as there is no folder test",)


def test_a_folder_that_is_left_over_is_named(tmp_path: Path) -> None:
    found = find_layout(make(tmp_path, "train/cat", "test/cat", "val/cat", "valid/cat"))
    assert found.val == "val"
    assert found.notes == (f"{tmp_path / 'valid'} is not used: another folder is that split",)


@pytest.mark.parametrize(
    ("folders", "files", "message"),
    [
        ((), (), "no class folders in .*, *|DATA_ROOT/CLASS/image.jpg"),
        ((), ("a.jpg", "b.png", "notes.txt"), "but 2 images: they need a folder for each class, or a table"),
        (("train",), (), r"no class folders in .*train\. Expected"),
        (("train", "test"), ("train/1.jpg", "test/2.jpg"), r"no class folders in .*train, but 1 image: .*\. Expected"),
        (("train", "docs"), ("train/1.jpg",), r"no class folders in .*train, but 1 image: they need a folder"),
        (
            ("cat", "test/cat", "dog", "eel"),
            ("cat/1.jpg",),
            r"holds test with folders of classes beside the classes cat, dog, \.\.\., but no train: move .* into .*train\.",
        ),
        (("photos/cat", "photos/dog"), (), r"holds one folder, photos, .* give --data-root .*photos\?"),
        (("__MACOSX/cat", ".git/x", "@eaDir/x"), (), "no class folders"),
    ],
)
def test_what_is_no_layout(folders: tuple[str, ...], files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    make(tmp_path, *folders)
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=message):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("folders", "files", "expected"),
    [
        (("cat", "train", "dog"), ("cat/1.jpg", "train/2.jpg", "dog/3.jpg"), "train in {} is a class"),
        (("bus", "Train/steam", "test"), ("bus/1.jpg", "Train/2.jpg"), "Train in {} is a class"),
        (("cat", "train", "test", "val"), ("cat/1.jpg", "train/2.jpg", "val/3.jpg"), "train and val in {} are classes"),
        (("docs", "train/cat", "test/cat"), ("train/stray.jpg",), "not used, as {}/train holds the classes: docs"),
        (("bus", "train/steam", "test/steam"), ("bus/1.jpg",), "not used, as {}/train holds the classes: bus"),
    ],
)
def test_a_class_may_be_called_as_a_split(
    folders: tuple[str, ...], files: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    make(tmp_path, *folders)
    for file in files:
        (tmp_path / file).touch()
    found = find_layout(tmp_path)
    assert (found.train, found.test) == (("train", "test") if "not used" in expected else ("", None))
    assert [note.partition(":")[0] for note in found.notes] == [expected.format(tmp_path).partition(":")[0]]
    assert found.notes[0].startswith(expected.format(tmp_path))


def test_leftovers_are_no_classes_and_loose_images_are_said(tmp_path: Path) -> None:
    make(tmp_path, "cat", "dog", "__MACOSX", ".thumbnails", "System Volume Information", "$RECYCLE.BIN")
    for file in ("1.jpg", "2.JPG", "._3.jpg", "Thumbs.db", "desktop.ini"):
        (tmp_path / file).touch()
    assert class_folder_names(tmp_path) == ["cat", "dog"]
    assert find_layout(tmp_path).notes == (f"2 images that lie in {tmp_path} itself, in no class folder, are left out",)


def test_links(tmp_path: Path) -> None:
    root = make(tmp_path / "photos", "cat")
    make(tmp_path, "elsewhere")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "gone").symlink_to(tmp_path / "missing")
    os.symlink(root / "itself", root / "itself")
    assert class_folder_names(root) == ["cat", "dog"]
    for above in (root, tmp_path):
        (root / "loop").symlink_to(above)
        with pytest.raises(UserError, match="loop is a link to a folder that it lies in: remove the link"):
            find_layout(root)
        (root / "loop").unlink()


def test_a_split_that_is_a_link_to_another(tmp_path: Path) -> None:
    make(tmp_path, "train/cat")
    (tmp_path / "test").symlink_to("train")
    assert find_layout(tmp_path).notes == (
        f"{tmp_path / 'test'} and {tmp_path / 'train'} are one folder, by a link: figures will be too good",
    )
