"""Tables of paths and labels in place of list files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import PathTable
from fastlift.data.index.tables import common_folder
from fastlift.errors import UserError

COUNTS = {"red panda": 8, "bee": 5, "wasp": 3}


class Photos:
    """Images in one folder without classes, and tables of them."""

    def __init__(self, files: Any, data: bytes) -> None:
        self.root, self.cache = files.root, files.cache
        self.rows: list[tuple[str, str]] = []
        for name, count in COUNTS.items():
            for k in range(count):
                files.add(f"{name[:1]}/{k:02d}.jpg", 0, data)
                self.rows.append((f"{name[:1]}/{k:02d}.jpg", name))

    def csv(
        self, header: str = "path,label", rows: list[tuple[Any, ...]] | None = None, name: str = "photos.csv"
    ) -> Path:
        mark = ";" if ";" in header else "\t" if "\t" in header else ","
        lines = [header, *(mark.join(map(str, row)) for row in (self.rows if rows is None else rows))]
        (self.root / name).write_text("\n".join(lines) + "\n")
        return self.root / name

    def load(self, train_list: Path, **options: Any) -> DataSet:
        return load_data_set("list", train_list=train_list, cache_dir=self.cache, **options)

    def refused(self, train_list: Path, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            self.load(train_list, **options)
        return str(caught.value)


@pytest.fixture
def photos(image_files: Any, encode: Callable, make_image: Callable) -> Photos:
    return Photos(image_files, encode(make_image(40, 30)))


def same(one: DataSet, other: DataSet) -> bool:
    return {s: i.fingerprint for s, i in one.splits.items()} == {s: i.fingerprint for s, i in other.splits.items()}


def test_words_are_classes_and_the_root_is_the_tables_folder(photos: Photos) -> None:
    data = photos.load(photos.csv())
    assert data.class_names == ("bee", "red panda", "wasp")
    assert (data.train.class_counts() + data.test.class_counts()).tolist() == [5, 8, 3]
    assert data.cut == ("test",)
    assert data.notes[0] == (
        f"{photos.root / 'photos.csv'}: images in 'path', labels in 'label' (--image-column, --label-column, --split-column)"
    )


@pytest.mark.parametrize("header", ["File_Name;Species", "path\tlabel", "id,file,category", "image_path|class"])
def test_separators_and_names(header: str, photos: Photos) -> None:
    rows = [(k, *row) if header.startswith("id") else row for k, row in enumerate(photos.rows)]
    mark = next(mark for mark in ";\t|," if mark in header)
    file = photos.root / "photos.csv"
    file.write_text(header + "\r\n" + "".join(mark.join(map(str, row)) + "\r\n" for row in rows))
    expected = photos.load(photos.csv(name="other.csv"))
    assert same(photos.load(file), expected)
    file.write_text(header + "\n" + "".join(mark.join(f" {field} " for field in row) + "\n" for row in rows))
    assert same(photos.load(file), expected)


def test_other_formats_say_the_same(photos: Photos) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    expected = photos.load(photos.csv())
    names = [name for _, name in photos.rows]
    lines = "".join(json.dumps({"file_name": path, "label": name}) + "\n" for path, name in photos.rows)
    (photos.root / "photos.jsonl").write_text(lines)
    (photos.root / "photos.csv.gz").write_bytes(gzip.compress((photos.root / "photos.csv").read_bytes()))
    (photos.root / "photos.tsv").write_text(
        "label\tpath\n" + "".join(f"{name}\t{path}\n" for path, name in photos.rows)
    )
    table = pyarrow.table({"path": [path for path, _ in photos.rows], "label": names})
    parquet.write_table(table, photos.root / "photos.parquet", row_group_size=4)
    for ending in ("jsonl", "csv.gz", "tsv", "parquet"):
        assert same(photos.load(photos.root / f"photos.{ending}"), expected), ending


def test_quoted_fields_and_odd_names(photos: Photos, encode: Callable, make_image: Callable) -> None:
    (photos.root / 'a, "b" ü.jpg').write_bytes(encode(make_image(40, 30)))
    rows = [*photos.rows, ('"a, ""b"" ü.jpg"', '" wasp "')]
    data = photos.load(photos.csv(rows=rows), test_share=0.01)
    assert 'a, "b" ü.jpg' in [*data.train.paths, *data.test.paths]
    assert data.class_names == ("bee", "red panda", "wasp")


def test_a_column_of_splits(photos: Photos) -> None:
    names = ["train", "Training", "VAL", "test", "train"]
    rows = [(*row, names[k % 5]) for k, row in enumerate(photos.rows)]
    data = photos.load(photos.csv("path,label,split", rows))
    assert {split: len(index) for split, index in data.splits.items()} == {"train": 10, "val": 3, "test": 3}
    assert data.cut == ()
    assert "splits in 'split'" in data.notes[0]
    rows[3] = (*rows[3][:2], "fold 7")
    assert "line 5: split 'fold 7' is none of train, val and test" in photos.refused(
        photos.csv("path,label,split", rows)
    )
    rows[3] = (*rows[3][:1], "hornet", "test")
    assert "line 5: label 'hornet' is no class of the training images" in photos.refused(
        photos.csv("path,label,split", rows)
    )
    file = photos.csv("path,label,split", rows)
    assert "lists of other splits are given" in photos.refused(file, test_list=photos.csv(name="b.csv"))


def test_a_table_a_split(photos: Photos) -> None:
    train, test = photos.csv(rows=photos.rows[::2], name="a.csv"), photos.csv(rows=photos.rows[1::2], name="b.csv")
    data = photos.load(train, test_list=test)
    assert (len(data.train), len(data.test), data.cut) == (8, 8, ())
    test = photos.csv(rows=[*photos.rows[1::2], ("b/00.jpg", "hornet")], name="b.csv")
    assert "b.csv line 10: label 'hornet' is no class of the training images" in photos.refused(train, test_list=test)


def test_numbers_need_names(photos: Photos) -> None:
    numbers = {"red panda": 0, "bee": 1, "wasp": 2}
    file = photos.csv("path,y", [(path, numbers[name]) for path, name in photos.rows])
    assert photos.load(file).class_names == ("r", "b", "w")  # the folders
    (photos.root / "names.txt").write_text("Red panda\nBee\nWasp\n")
    assert photos.load(file, class_names=photos.root / "names.txt").class_names == ("Red panda", "Bee", "Wasp")
    (photos.root / "names.txt").write_text("Red panda\nBee\n")
    assert "label '2' is out of range" in photos.refused(file, class_names=photos.root / "names.txt")
    for number in (-1, 2**63, "9" * 5000):
        file = photos.csv("path,y", [*((path, numbers[name]) for path, name in photos.rows[1:]), ("r/00.jpg", number)])
        assert "are numbers, and no folder for each class tells its name" in photos.refused(file)
    gaps = photos.csv("path,y", [(path, 2 * numbers[name]) for path, name in photos.rows])
    assert "are numbers, and no folder for each class tells its name: give --class-names" in photos.refused(gaps)


def test_absolute_paths(photos: Photos, tmp_path: Path) -> None:
    expected = photos.load(photos.csv())
    rows = [(photos.root / path, name) for path, name in photos.rows]
    photos.csv(rows=rows)
    elsewhere = tmp_path / "tables" / "photos.csv"
    elsewhere.parent.mkdir()
    (photos.root / "photos.csv").rename(elsewhere)
    assert same(photos.load(elsewhere), expected)  # the root is where all of them lie
    assert same(photos.load(elsewhere, data_root=photos.root), expected)
    assert "does not lie in the data root" in photos.refused(elsewhere, data_root=tmp_path / "tables")
    assert "line 2: ../x.jpg does not lie in" in photos.refused(photos.csv(rows=[("../x.jpg", "bee"), *photos.rows]))
    assert "line 2: https://h/x.jpg does not" in photos.refused(photos.csv(rows=[("https://h/x.jpg", "bee")]))
    assert common_folder(PathTable.from_strings(["/a/b/1.jpg", "/a/bc/2.jpg"])) == "/a"
    assert common_folder(PathTable.from_strings(["b/1.jpg"])) is None


def test_missing_values_are_told_with_their_lines(photos: Photos) -> None:
    rows = [*photos.rows[:4], ("r/04.jpg", ""), ("", "bee"), ("r/05.jpg", "  "), ("r/06.jpg", "NA"), *photos.rows[8:]]
    told = photos.refused(photos.csv(rows=rows))
    assert "4 problems" in told
    lines = (
        "photos.csv line 6: no label (r/04.jpg)",
        "line 7: no path",
        "line 8: no label (r/05.jpg)",
        "no label: 'NA'",
    )
    for line in lines:
        assert line in told
    entries = "".join(json.dumps({"path": path, "label": name}) + "\n" for path, name in photos.rows)
    (photos.root / "a.jsonl").write_text(entries + '{"path": "r/01.jpg", "label": null}\n{"path": "r/02.jpg"}\n')
    assert "a.jsonl line 17: no label (r/01.jpg)" in photos.refused(photos.root / "a.jsonl")


@pytest.mark.parametrize("rows_at_a_time", [2, 100])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_lines_are_those_of_the_file(
    rows_at_a_time: int, ends: str, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blank lines, and line ends within quotes, above a bad row."""
    monkeypatch.setattr("fastlift.data.index.table_files._ROWS", rows_at_a_time)
    odd = [photos.rows[0], ('"r/\n01\n.jpg"', '"red\npanda"'), (), (), *photos.rows[2:]]
    lines = ["", *photos.csv(rows=odd).read_text().split("\n")]
    for row, bad, told in (
        (5, "r/05.jpg,", "line {}: no label"),
        (8, "a,b,c", "line {}: 3 fields where"),
        (9, '"' + "x" * 2**18, "begins in line {} cannot be read"),
    ):
        at = lines.index(",".join(photos.rows[row]))
        text = ends.join([*lines[:at], bad, *lines[at + 1 :]])
        (photos.root / "photos.csv").write_bytes(text.encode())
        assert told.format(at + 1) in photos.refused(photos.root / "photos.csv")
    entries = [json.dumps({"path": path, "label": name}) for path, name in photos.rows]
    entries[4:4] = ["", ""]
    (photos.root / "a.jsonl").write_text(ends.join([*entries[:9], '{"path": "r/05.jpg"}', *entries[10:]]))
    assert "a.jsonl line 10: no label" in photos.refused(photos.root / "a.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path label\nr/00.jpg bee\n", r"one column \(path label\): columns are told apart by commas, semicolons, tabs"),
        ("r/00.jpg,bee\nr/01.jpg,bee\n", r"its first line is an image \(r/00.jpg,bee\): put a line with the names"),
        ("a,b,c\n1,2,3\n", r"which column holds the paths of the images\? There are 'a', 'b', 'c': give --image-column"),
        ("path,b\n1,2\n", r"which column holds the labels\? There are 'path', 'b': give --label-column"),
        ("path,path,label\n", r"two columns are called 'path'"),
        ("path,label\nr/00.jpg,a,b\n", r"line 2: 3 fields where the header has 2"),
        ("path,bee,wasp\nr/00.jpg,1,0\nr/01.jpg,1,1\n", r"columns bee, wasp tell yes or no for each class: .* one label"),
        ("path,label\nr/00.jpg,bee|wasp\nr/01.jpg,bee\nr/02.jpg,wasp\n", r"several labels .* 'bee\|wasp'\. .*prior"),
        ("path,label\nr/00.jpg,bee; wasp\nr/01.jpg,bee\nr/02.jpg,wasp\n", r"several labels .* 'bee; wasp'"),
        ('path,label\nr/00.jpg,"[1, 2]"\n', r"several labels for an image"),
        ("path,label\nr/00.jpg,bee\nr/01.jpg,wasp\nr/00.jpg,wasp\n", r"lines 2 and 4: several .* 'r/00.jpg: bee, wasp'"),
        ("", "is empty"),
        ("path,label\n", "no rows"),
        ("<!DOCTYPE html><html><head>", "is an HTML page"),
    ],
)  # fmt: skip
def test_what_is_no_table(text: str, message: str, photos: Photos) -> None:
    (photos.root / "photos.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        photos.load(photos.root / "photos.csv")


def test_several_labels_in_json_lines(photos: Photos) -> None:
    (photos.root / "a.jsonl").write_text('{"path": "r/00.jpg", "label": ["a", "b"]}\n')
    assert "several labels for an image, such as \"['a', 'b']\". fastlift trains on one" in photos.refused(
        photos.root / "a.jsonl"
    )
    (photos.root / "a.jsonl").write_text('{"path": "r/00.jpg", "label": "a"}\nno\n')
    assert "line 2 is no JSON object" in photos.refused(photos.root / "a.jsonl")


def test_parquet_without_paths_and_damaged(photos: Photos) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file, names = photos.root / "a.parquet", [name for _, name in photos.rows]
    for images in ([{"bytes": b"x", "path": path} for path, _ in photos.rows], [[path] for path, _ in photos.rows]):
        parquet.write_table(pyarrow.table({"image": images, "label": names}), file)
        assert "'image' holds no paths" in photos.refused(file)
    paths = pyarrow.array([path for path, _ in photos.rows])
    for column in (paths.cast(pyarrow.large_string()), paths.dictionary_encode()):
        parquet.write_table(pyarrow.table({"path": column, "label": names}), file)
        assert same(photos.load(file), photos.load(photos.csv()))
    parquet.write_table(pyarrow.table({"path": paths, "label": names}), file, compression="gzip")
    data = bytearray(file.read_bytes())
    data[30:60] = b"\xff" * 30
    file.write_bytes(data)
    assert "a.parquet cannot be read as parquet, after 0 rows: " in photos.refused(file)


def test_a_quote_that_never_ends(photos: Photos) -> None:
    for header, told in (
        ("path,label", "the row that begins in line 2 cannot be read: field larger"),
        ("path,b", "give --label-column"),
    ):
        (photos.root / "photos.csv").write_text(f'{header}\n"' + "ab\n" * 50_000)
        assert told in photos.refused(photos.root / "photos.csv")


def test_columns_by_name(photos: Photos) -> None:
    rows = [(path, "x", name) for path, name in photos.rows]
    data = photos.load(photos.csv("path,label,what", rows), label_column="what")
    assert data.class_names == ("bee", "red panda", "wasp")
    told = photos.refused(photos.csv("path,label,what", rows), label_column="kind")
    assert "no column 'kind' (--label-column); there are 'path', 'label', 'what'" in told
    rows = [("1, 2, 3", path, name) for path, name in photos.rows]
    named = photos.load(photos.csv("x, y, z;photo;what", rows), image_column="photo", label_column="what")
    assert same(named, photos.load(photos.csv()))  # by the separator that makes these columns


def test_images_of_two_splits_are_told_of(photos: Photos) -> None:
    train, test = photos.csv(name="a.csv"), photos.csv(rows=photos.rows[:3], name="b.csv")
    notes = photos.load(train, test_list=test).notes
    assert notes[-2] == "3 of 3 test images are training images too, such as r/00.jpg: figures will be too good"


def test_many_rows_come_in_blocks(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = photos.load(photos.csv())
    monkeypatch.setattr("fastlift.data.index.table_files._ROWS", 3)
    assert same(photos.load(photos.csv()), expected)
    rows = [*photos.rows[:7], ("r/07.jpg", ""), *photos.rows[8:]]
    assert "photos.csv line 9: no label" in photos.refused(photos.csv(rows=rows))
    assert same(photos.load(photos.csv(rows=[*photos.rows[:3], *[()] * 7, *photos.rows[3:]])), expected)  # blank lines


def test_lists_may_lack_the_data_root_and_a_test_list_too(photos: Photos) -> None:
    names = list(COUNTS)
    (photos.root / "all.txt").write_text("".join(f"{path} {names.index(name)}\n" for path, name in photos.rows))
    data = photos.load(photos.root / "all.txt")
    assert data.cut == ("test",)
    assert np.bincount(data.test.labels).tolist() == [2, 1, 1]
