"""Sets of list files: loaded, checked and cached; all that is wrong in one message."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.errors import UserError


def test_a_list_set_is_loaded_and_cached(image_files: Any) -> None:
    data = image_files.fill().load()
    assert data.class_names == ("thing 0", "thing 1", "thing 2")
    assert data.train.class_counts().tolist() == [5, 5, 5]
    assert (data.train.widths[1], data.train.heights[1]) == (87, 60)
    again = image_files.load()
    assert again.train.fingerprint == data.train.fingerprint
    assert list(again.train.paths) == list(data.train.paths)
    image_files.lines.pop()
    assert image_files.load().train.fingerprint != data.train.fingerprint


def test_all_problems_come_in_one_message(image_files: Any, make_bad_file: Callable) -> None:
    image_files.fill()
    image_files.add("c0/gone.jpg", 0, None)
    image_files.add("c1/empty.jpg", 1, b"")
    image_files.add("c2/page.jpg", 2, make_bad_file("html"))
    with pytest.raises(UserError) as caught:
        image_files.load()
    message = str(caught.value)
    assert "6 problems" in message  # train and test list are the same
    assert "gone.jpg: missing" in message
    assert "empty.jpg: is empty" in message
    assert "page.jpg: is an HTML page" in message


def test_a_class_without_an_image_is_refused(image_files: Any) -> None:
    image_files.fill(classes=2)
    with pytest.raises(UserError, match=r"class 2 \(thing 2\) has no image"):
        image_files.load(classes=3)


def test_a_mended_file_is_seen_without_a_rescan(image_files: Any, encode: Callable, make_image: Callable) -> None:
    image_files.fill()
    image_files.add("c0/late.jpg", 0, None)
    with pytest.raises(UserError, match="missing"):
        image_files.load()
    (image_files.root / "c0" / "late.jpg").write_bytes(encode(make_image(33, 44)))
    index = image_files.load().train
    assert (index.widths[-1], index.heights[-1]) == (33, 44)


def test_a_changed_file_is_seen_with_a_rescan(image_files: Any, encode: Callable, make_image: Callable) -> None:
    first = image_files.fill().load().train
    (image_files.root / "c0" / "0.jpg").write_bytes(encode(make_image(33, 44)))
    assert image_files.load().train.fingerprint == first.fingerprint
    changed = image_files.load(rescan=True).train
    assert (changed.widths[0], changed.heights[0]) == (33, 44)
    assert changed.fingerprint != first.fingerprint


def test_skip_puts_the_next_good_image_of_the_class(image_files: Any) -> None:
    image_files.fill(classes=2, each=3)  # rows 0..2 and 3..5
    (image_files.root / "c0" / "2.jpg").write_bytes(b"")
    (image_files.root / "c1" / "0.jpg").unlink()
    index = image_files.load(classes=2, bad_images="skip").train
    assert [(bad.index, bad.replacement) for bad in index.bad] == [(2, 0), (3, 4)]
    assert [bad.reason for bad in index.bad] == ["is empty", "missing"]
    assert index.paths[2] == "c0/0.jpg"
    assert index.paths[3] == "c1/1.jpg"
    assert index.class_counts().tolist() == [3, 3]


def test_skip_refuses_a_class_without_any_good_image(image_files: Any) -> None:
    image_files.fill(classes=2, each=1)
    (image_files.root / "c0" / "0.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="no good image to replace it"):
        image_files.load(classes=2, bad_images="skip")


def test_names_from_folders_where_no_file_gives_them(image_files: Any, tmp_path: Path) -> None:
    image_files.fill(classes=2)
    lines = tmp_path / "list.txt.gz"
    lines.write_bytes(gzip.compress("\n".join(image_files.lines).encode()))
    options = {"data_root": image_files.root, "train_list": lines, "test_list": lines, "cache_dir": tmp_path}
    assert load_data_set("list", **options).class_names == ("c0", "c1")
    image_files.add("c0/5.jpg", 1, b"")
    lines.write_bytes(gzip.compress("\n".join(image_files.lines).encode()))
    with pytest.raises(UserError, match="give --class-names"):
        load_data_set("list", **options)


def test_an_empty_list_is_told_beside_other_problems(image_files: Any) -> None:
    image_files.fill().load()
    lists = image_files.root.parent
    (lists / "bad.txt").write_text("c0/0.jpg\n")
    (lists / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"(?s)no label.*empty\.txt: no lines"):
        load_data_set(
            "list",
            data_root=image_files.root,
            train_list=lists / "bad.txt",
            test_list=lists / "empty.txt",
            class_names=lists / "names.txt",
            cache_dir=image_files.cache,
        )


def test_labels_with_gaps_are_told(image_files: Any) -> None:
    lists = image_files.fill().root.parent
    (lists / "one.txt").write_text("c0/0.jpg 1\nc1/0.jpg 2\n")
    with pytest.raises(UserError, match="class 0 has no image; labels count from 0"):
        load_data_set(
            "list", data_root=image_files.root, train_list=lists / "one.txt", test_list=lists / "one.txt",
            cache_dir=image_files.cache,
        )  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_cache_is_no_cache(damage: str, image_files: Any) -> None:
    expected = image_files.fill().load().train
    for file in (image_files.cache / "index").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes({"cut": data[:700], "flipped": data, "emptied": b""}[damage])
    with pytest.warns(UserWarning, match="is damaged"):
        assert image_files.load().train.fingerprint == expected.fingerprint


def test_problems_of_lines_and_of_files_come_together(image_files: Any) -> None:
    image_files.fill()
    image_files.add("c0/gone.jpg", 0, None)
    image_files.lines.insert(0, "c0/none.jpg 7")
    with pytest.raises(UserError) as caught:
        image_files.load()
    problems = caught.value.problems.entries  # type: ignore[attr-defined]
    assert ["out of range" in problem for problem in problems] == [True, True, False, False]
    assert all("gone.jpg: missing" in problem for problem in problems[2:])


def test_a_label_far_off_does_not_fill_the_memory(image_files: Any) -> None:
    """Without class names, the largest label tells their number."""
    image_files.fill().add("c2/0.jpg", 2**31 - 2, None)
    lists = image_files.root / "list.txt"
    lists.write_text("\n".join(image_files.lines))
    with pytest.raises(UserError, match="class 3 has no image"):
        load_data_set(
            "list", data_root=image_files.root, train_list=lists, test_list=lists, cache_dir=image_files.cache
        )


def test_a_list_that_tells_no_names_because_of_its_mistakes(tmp_path: Path) -> None:
    lists = tmp_path / "list.txt"
    lists.write_text("a/1.jpg\nb/2.jpg\n")
    with pytest.raises(UserError, match="line 1: no label"):
        load_data_set("list", data_root=tmp_path, train_list=lists, test_list=lists, cache_dir=tmp_path / "cache")
