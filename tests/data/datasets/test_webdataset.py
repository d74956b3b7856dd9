"""WebDataset shards of anybody's: their images, labels and names, and what is told of shards that are not as they should be."""

import json
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from loaders import make_loader
from tar_shards import labelled_by_name, labelled_by_number, write_shards, write_tar

from fastlift.data.datasets import shard_tables
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.webdataset import expand
from fastlift.data.inspection.check import check
from fastlift.data.loading.reading import read_encoded
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError


@pytest.fixture
def shards(image_files: Any, tmp_path: Path) -> Path:
    """Fifteen images of three classes in three shards a split."""
    image_files.fill()
    (tmp_path / "classes.txt").write_text("thing 0\nthing 1\nthing 2\n")
    return write_shards(tmp_path / "shards", image_files.lines, image_files.root)


def load(root: Path, **options: Any) -> Any:
    options.setdefault("class_names", root.parent / "classes.txt")
    options.setdefault("cache_dir", root.parent / "cache")
    return load_data_set("webdataset", data_root=root, **options)


def test_shards_give_the_batches_of_the_files(shards: Path, image_files: Any) -> None:
    files, data = image_files.load(), load(shards)
    assert data.class_names == files.class_names
    assert (data.train.labels == files.train.labels).all()
    assert [read_encoded(data.train, i) for i in range(15)] == [read_encoded(files.train, i) for i in range(15)]
    batches = [list(make_loader(index, TrainCrops(32), batch_size=8).epoch(0)) for index in (files.train, data.train)]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)


def test_labels_may_be_names(shards: Path, image_files: Any, tmp_path: Path) -> None:
    """Classes are the names in the training shards, in order; a file of names gives them another order, and other names."""
    named = write_shards(tmp_path / "named", image_files.lines, image_files.root, members=labelled_by_name)
    data = load(named, class_names=None)
    assert data.class_names == ("thing 0", "thing 1", "thing 2")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    (tmp_path / "other.txt").write_text("thing 2\nthing 0\nthing 1\n")
    assert load(named, class_names=tmp_path / "other.txt").train.labels.tolist() == [1] * 5 + [2] * 5 + [0] * 5
    folders = [line.replace(" 0", " 1", 1) for line in image_files.lines]
    by_folder = write_shards(tmp_path / "folders", folders, image_files.root, members=_of_animals)
    (tmp_path / "renamed.txt").write_text("emu a large bird\ndog a dog\n")
    with pytest.raises(UserError, match="label cat is out of range"):
        load(write_shards(tmp_path / "all", image_files.lines, image_files.root, members=_of_animals),
             class_names=tmp_path / "renamed.txt")  # fmt: skip
    found = load(by_folder, class_names=tmp_path / "renamed.txt")
    assert (found.class_names, found.train.labels[0]) == (("a large bird", "a dog"), 1)


def _of_animals(key: str, image: bytes, label: int) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", image), (f"{key}.cls", [b"cat", b"dog", b"emu"][label])]


def test_numbers_need_names(shards: Path) -> None:
    with pytest.raises(UserError, match="labels in the shards are numbers: give --class-names"):
        load(shards, class_names=None)


@pytest.mark.parametrize("name", ["{split}/{number}.tar", "{split}_{number}.tar", "{split}-{number:06d}.tar"])
def test_layouts(name: str, image_files: Any, shards: Path, tmp_path: Path) -> None:
    root = write_shards(tmp_path / "set", image_files.lines, image_files.root, name=name)
    (root / "more").mkdir()
    (root / "more" / "train-1.tar").write_bytes(b"no shard of this set")
    assert len(load(root).train) == 15
    with pytest.raises(UserError, match=r"no shards train in .*Expected layout:"):
        load(tmp_path)


def test_a_validation_split(shards: Path) -> None:
    """Beside a test split only; with patterns, only by a pattern."""
    assert load(shards).val is None  # shards are train- and val-
    (shards / "test-000000.tar").write_bytes((shards / "val-000000.tar").read_bytes())
    found = load(shards).val
    assert found is not None
    assert (len(found), len(load(shards).test)) == (15, 5)
    assert load(shards, train_list="train-{000000..000002}.tar").val is None
    by_pattern = load(shards, val_list="val-000001.tar", test_list="val-000002.tar").val
    assert by_pattern is not None
    assert by_pattern.labels.tolist() == [1] * 5
    with pytest.raises(UserError, match=r"--val-list and the test split have shards in common: val-000002\.tar"):
        load(shards, val_list="val-{000001..000002}.tar", test_list="val-000002.tar")


def test_patterns(shards: Path) -> None:
    assert expand("a/{08..11}{x,y}.tar")[:3] == ["a/08x.tar", "a/08y.tar", "a/09x.tar"]
    assert expand("{8..11}.tar") == ["8.tar", "9.tar", "10.tar", "11.tar"]
    data = load(shards, train_list="train-{000002,000000,000001}.tar", test_list="val-000002.tar")
    assert (data.train.labels[0], len(data.train), len(data.test)) == (2, 15, 5)
    for wrong in (
        "{3..1}.tar",
        "{x}.tar",
        "{0..99",
        "../{0..1}.tar",
        "{0..1}.zip",
        "{0..999999999}.tar",
        "/{0..1}.tar",
    ):
        with pytest.raises(UserError, match="pattern"):
            expand(wrong)
    with pytest.raises(UserError, match=r"train-00000[67]\.tar cannot be opened"):
        load(shards, train_list="train-{000006..000007}.tar")


def test_the_fingerprint_is_the_same_elsewhere(shards: Path, tmp_path: Path) -> None:
    before = load(shards)
    shards.rename(tmp_path / "moved")
    after = load(tmp_path / "moved")
    assert (before.train.fingerprint, before.test.fingerprint) == (after.train.fingerprint, after.test.fingerprint)
    assert before.train.fingerprint != before.test.fingerprint


def test_shards_are_looked_at_again_when_they_change(
    shards: Path, image_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(shards)
    looked: list[int] = []
    scan = shard_tables.scan_shard
    monkeypatch.setattr(shard_tables, "scan_shard", lambda size, read: (looked.append(size), scan(size, read))[1])
    before = load(shards).train
    assert looked == []
    shard = shards / "train-000001.tar"
    write_tar(shard, labelled_by_number("x", (image_files.root / "c1/2.jpg").read_bytes(), 1))
    after = load(shards).train
    assert looked == [shard.stat().st_size]
    assert (len(before), len(after)) == (15, 11)
    load(shards, rescan=True)
    assert len(looked) == 7


PROBLEMS: dict[str, tuple[Callable[[bytes], list[tuple[str, bytes]]], str]] = {
    "no label": (lambda image: [("a.jpg", image)], "a has no label"),
    "no image": (lambda image: [("a.cls", b"0")], "a has a label and no image"),
    "two images": (lambda image: [("a.jpg", image), ("a.png", image), ("a.cls", b"0")], "a has two images"),
    "no number": (lambda image: [("a.jpg", image), ("a.cls", b"\xff")], "a has no label that can be read"),
    "too long": (lambda image: [("a.jpg", image), ("a.cls", b"1" * 5000)], "no label that can be read"),
    "out of range": (lambda image: [("a.jpg", image), ("a.cls", b"7")], r"label 7 is out of range \(0\.\.2\)"),
    "negative": (lambda image: [("a.jpg", image), ("a.cls", b"-1")], "label -1 is out of range"),
    "json": (lambda image: [("a.jpg", image), ("a.json", b"{")], "a has no label that can be read"),
    "json without": (lambda image: [("a.jpg", image), ("a.json", b'{"x": 1}')], "a has no label"),
    "json of a list": (lambda image: [("a.jpg", image), ("a.json", b'{"label": [1]}')], "neither a number nor text"),
    "no utf-8": (lambda image: [("a\udcff.jpg", image), ("a\udcff.cls", b"0")], "is no UTF-8"),
    "broken image": (lambda image: [("a.jpg", image[:100]), ("a.cls", b"0")], r"a\.jpg: is truncated"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_is_wrong_is_told(problem: str, shards: Path, image_files: Any) -> None:
    members, message = PROBLEMS[problem]
    write_tar(shards / "train-000003.tar", members((image_files.root / "c0/0.jpg").read_bytes()), tarfile.GNU_FORMAT)
    with pytest.raises(UserError, match=message):
        load(shards)
    assert any("train-000003.tar" in entry for entry in check("webdataset", data_root=shards,
               class_names=shards.parent / "classes.txt", cache_dir=shards.parent / "cache").problems)  # fmt: skip


def test_a_cut_shard_is_told(shards: Path) -> None:
    shard = shards / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"train-000001\.tar: is truncated"):
        load(shards)
    shard.write_bytes(b"")
    with pytest.raises(UserError, match=r"train-000001\.tar: is truncated"):
        load(shards)


def test_links_in_shards_are_not_followed(shards: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    with tarfile.open(shards / "train-000003.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    assert len(load(shards).train) == 15
    write_tar(shards / "train-000003.tar", [("a.cls", b"0")])
    with pytest.raises(UserError, match="a has a label and no image"):
        load(shards)


def test_bad_images_are_replaced_as_in_lists(shards: Path, image_files: Any) -> None:
    image = (image_files.root / "c0/0.jpg").read_bytes()
    write_tar(shards / "train-000003.tar", labelled_by_number("a", image[:500], 1))
    data = load(shards, bad_images="skip").train
    assert [(bad.path, bad.replacement) for bad in data.bad] == [("train-000003.tar/a.jpg", 5)]
    assert read_encoded(data, 15) == read_encoded(data, 5)
    assert data.label_of(15).endswith(f"at byte {data.spans[5, 0]}")


def test_json_labels_may_be_numbers_and_other_members_are_passed_over(shards: Path, image_files: Any) -> None:
    image = (image_files.root / "c2/0.jpg").read_bytes()
    members = [
        ("./deep/a.b.JPG", image), ("./deep/a.json", json.dumps({"label": 2, "caption": "x"}).encode()),
        ("./deep/a.txt", b"x"), ("__notes.cls", b"0"), (".hidden.jpg", b"0"),
    ]  # fmt: skip
    write_tar(shards / "train-000003.tar", members)
    data = load(shards).train
    assert data.labels[15] == 2
    assert read_encoded(data, 15) == image


def test_each_process_begins_to_index_at_its_own_shard(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that together they scan few shards twice; what they find is the same."""
    begun: list[str] = []
    table = shard_tables._table
    monkeypatch.setattr(
        shard_tables, "_table", lambda root, shard, *more: (begun.append(shard), table(root, shard, *more))[1]
    )
    monkeypatch.setattr(shard_tables, "ThreadPoolExecutor", lambda threads: ThreadPoolExecutor(1))
    monkeypatch.setenv("WORLD_SIZE", "3")
    fingerprints = set()
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        begun.clear()
        fingerprints.add(load(shards, cache_dir=shards.parent / f"cache{rank}").train.fingerprint)
        assert begun[:3] == [f"train-{(rank + k) % 3:06d}.tar" for k in range(3)]
    assert len(fingerprints) == 1
