"""Packs: the same images, labels and batches as the files; shrinking; broken packs."""

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import flipped_bits
from loaders import BACKENDS, make_loader

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.packed import _digest
from fastlift.data.index.columns import write_columns
from fastlift.data.index.problems import UnusableData
from fastlift.data.inspection.check import check
from fastlift.data.loading.reading import read_encoded
from fastlift.data.pack import run
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pack_gives_the_same_batches(backend: str, image_files: Any, tmp_path: Path, make_bad_file: Callable) -> None:
    image_files.fill()
    for kind in ("grey", "alpha", "webp", "tiff", "bmp"):
        image_files.add(f"c0/{kind}.x", 0, make_bad_file(kind))
    files = image_files.load()
    result = run("list", tmp_path / "pack", shard_bytes=20_000, **image_files.options())
    assert (result.images, result.shrunk) == ({"train": 20, "test": 20}, 0)
    assert result.shards > 4
    assert result.source_bytes == 2 * sum((image_files.root / path).stat().st_size for path in files.train.paths)
    packed = load_data_set("list", data_root=tmp_path / "pack", cache_dir=tmp_path)
    assert packed.train.fingerprint == files.train.fingerprint
    assert packed.class_names == files.class_names
    batches = [
        list(make_loader(index, TrainCrops(32), backend, batch_size=8).epoch(0))
        for index in (files.train, packed.train)
    ]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_pack_keeps_the_validation_split(image_files: Any, tmp_path: Path) -> None:
    image_files.fill().load()
    result = run("list", tmp_path / "pack", val_share=0.4, **image_files.options())
    assert result.images == {"train": 9, "val": 6, "test": 15}
    cut = load_data_set("list", val_share=0.4, **image_files.options())
    packed = load_data_set("list", data_root=tmp_path / "pack", cache_dir=tmp_path)
    for split, index in cut.splits.items():
        assert packed.splits[split].fingerprint == index.fingerprint
        assert read_encoded(packed.splits[split], 0) == read_encoded(index, 0)
    run("list", tmp_path / "whole", **image_files.options())
    with pytest.raises(UserError, match=r"--val-list: .* was packed without such a split"):
        load_data_set(
            "list", data_root=tmp_path / "whole", val_list=image_files.options()["test_list"], cache_dir=tmp_path
        )


def test_shards_are_webdataset(image_files: Any, tmp_path: Path) -> None:
    """Pairs of KEY.jpg and KEY.cls in each tar, the bytes of the files, the labels as text."""
    files = image_files.fill().load()
    run("list", tmp_path / "pack", **image_files.options())
    with tarfile.open(tmp_path / "pack" / "train-000000.tar") as tar:
        members = tar.getnames()
        assert members[:4] == ["000000000.jpg", "000000000.cls", "000000001.jpg", "000000001.cls"]
        content = [tar.extractfile(name).read() for name in members[-2:]]  # type: ignore[union-attr]
    assert content == [files.train.file(14).read_bytes(), b"2"]


def test_shrinking_changes_the_large_images_only(image_files: Any, tmp_path: Path) -> None:
    files = image_files.fill().load()  # heights 60, 65, 70; widths from 80
    result = run("list", tmp_path / "pack", short_side=62, **image_files.options())
    packed = load_data_set("list", data_root=tmp_path / "pack", cache_dir=tmp_path)
    assert result.shrunk == 20  # both splits: ten images of heights 65 and 70 each
    assert packed.train.heights.tolist() == [60] * 5 + [62] * 10
    assert packed.train.widths[5] == 80 * 62 // 65
    assert packed.train.fingerprint != files.train.fingerprint
    batch = next(make_loader(packed.train, TrainCrops(32), batch_size=15).epoch(0))
    assert batch.images.shape == (15, 3, 32, 32)


def test_lists_beside_a_pack_must_be_its_own(image_files: Any, tmp_path: Path) -> None:
    """A run that names its lists can go on with the pack of them, but no other list is passed over in silence."""
    image_files.fill().load()
    given = image_files.options()
    run("list", tmp_path / "pack", **given)
    given["data_root"] = tmp_path / "pack"
    assert len(load_data_set("list", **given).train) == 15
    lines = given["train_list"].read_text().splitlines()
    other = tmp_path / "other.txt"
    for flag, content, reason in (
        ("train_list", lines[:-1], "--train-list .* is not the list"),
        ("test_list", lines[::-1], "--test-list .* is not the list"),
        ("class_names", ["c0 x", "c1 y", "c2 z"], "--class-names .* has other names"),
    ):
        other.write_text("\n".join(content))
        with pytest.raises(UserError, match=reason):
            load_data_set("list", **{**given, flag: other})
    with pytest.raises(UserError, match="does not exist"):
        load_data_set("list", **{**given, "train_list": tmp_path / "none.txt"})


def test_broken_packs_are_told(image_files: Any, tmp_path: Path) -> None:
    image_files.fill().load()
    pack = tmp_path / "pack"
    run("list", pack, **image_files.options())
    with pytest.raises(UserError, match="holds a pack already"):
        run("list", pack, **image_files.options())
    with pytest.raises(UserError, match=r"is a pack of list, not of folder: .*say --dataset list"):
        load_data_set("folder", data_root=pack)
    shard = pack / "train-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-512])
    with pytest.raises(UserError, match=r"train-000000\.tar: .* bytes instead of"):
        load_data_set("list", data_root=pack)
    shard.write_bytes(whole)
    (pack / "test.npz").write_bytes(b"x")
    with pytest.raises(UserError, match="Make it again"):
        load_data_set("list", data_root=pack)
    manifest = json.loads((pack / "fastlift-pack.json").read_text())
    (pack / "fastlift-pack.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(UserError, match="another format"):
        load_data_set("list", data_root=pack)


def test_no_flipped_bit_of_a_manifest_is_believed(image_files: Any, tmp_path: Path) -> None:
    image_files.fill().load()
    run("list", tmp_path / "pack", **image_files.options())
    file = tmp_path / "pack" / "fastlift-pack.json"
    whole = file.read_bytes()
    expected = load_data_set("list", data_root=file.parent)
    refused = believed = 0
    for _ in flipped_bits(file, step=1):
        try:
            found = load_data_set("list", data_root=file.parent)
        except UserError:
            refused += 1
            continue
        believed += 1
        assert (found.class_names, found.train.fingerprint) == (expected.class_names, expected.train.fingerprint)
        assert found.group_counts.tolist() == expected.group_counts.tolist()
    assert refused + believed == len(whole)
    assert believed < whole.count(b" ") + whole.count(b"\n")  # white space alone means nothing


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("format", "2"),
        ("dataset", ["list"]),
        ("class_names", ["thing 0"]),
        ("class_names", ["a", "b", 3]),
        ("class_names", ["a", "b", "\ud800"]),
        ("class_names", "abc"),
        ("class_names", None),
        ("group_counts", [1, 2]),
        ("group_counts", [1, 2, -3]),
        ("group_counts", [1, 2, 10**400]),
        ("group_counts", [1, 2, True]),
        ("group_counts", [1, 2, 0.5]),
        ("shard_bytes", {"/etc/passwd": 10}),
        ("shard_bytes", {"../train-000000.tar": 10}),
        ("shard_bytes", {"train-000000.tar": "10"}),
        ("shard_bytes", {"train-000000.tar": 10**400}),
        ("shard_bytes", []),
        ("shard_bytes", {}),
        ("ranks", {"genus": {"names": ["a"], "of_class": [0, 0, 1]}}),
        ("ranks", {"genus": {"names": ["a"], "of_class": [0]}}),
        ("ranks", {"genus": {"of_class": [0, 0, 0]}}),
        ("ranks", {"genus": 3}),
        ("ranks", {"none": {"names": ["a"], "of_class": [0, 0, 0]}}),
    ],
)
def test_manifests_of_strangers(entry: str, value: object, image_files: Any, tmp_path: Path) -> None:
    """With a digest that holds, as somebody with a will would write it."""
    image_files.fill().load()
    run("list", tmp_path / "pack", **image_files.options())
    file = tmp_path / "pack" / "fastlift-pack.json"
    manifest = {**json.loads(file.read_text()), entry: value}
    del manifest["digest"]
    file.write_text(json.dumps({**manifest, "digest": _digest(manifest)}))
    with pytest.raises(UserError, match=r"fastlift-pack\.json|not listed|a label out of range"):
        load_data_set("list", data_root=file.parent)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"\xff", b'{"format": 2}', b""])
def test_manifests_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "fastlift-pack.json").write_bytes(content)
    with pytest.raises(UserError, match=r"fastlift-pack\.json"):
        load_data_set("list", data_root=tmp_path)


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("labels", 2, 3, r"a label out of range \(0\.\.2\): image 2"),
        ("labels", 2, -1, "a label out of range"),
        ("labels", 2, 2**62, "a label out of range"),
        ("shards", 1, 1, "in a shard that is not listed: image 1"),
        ("shards", 1, -1, "in a shard that is not listed"),
        ("shards", 1, 2**31 - 1, "in a shard that is not listed"),
        ("spans", 0, (-1, 5), "a place before or after the shard: image 0"),
        ("spans", 0, (2**62, 5), "a place before or after the shard"),
        ("spans", 0, (-(2**63), 5), "a place before or after the shard"),
        ("spans", 0, (512, 2**62), "ends after the shard"),
        ("spans", 0, (512, -(2**63)), "ends after the shard"),
        ("spans", 0, (512, 0), "ends after the shard"),
        ("widths", 4, 0, "impossible size: image 4"),
        ("widths", 4, 2**31 - 1, "impossible size"),
        ("heights", 4, -5, "impossible size"),
        ("labels", slice(3, None), None, "columns of different lengths"),
        ("spans", slice(3, None), None, "columns of different lengths"),
        ("offsets", 2, 10**9, "cannot be read: paths that are not one after another"),
        ("offsets", slice(0, 0), None, "cannot be read: paths"),
        ("labels", "float", None, "does not hold just"),
        ("labels", "object", None, "cannot be read: Object arrays"),
    ],
)
def test_indices_of_strangers(
    column: str, row: Any, value: Any, message: str, image_files: Any, tmp_path: Path
) -> None:
    image_files.fill().load()
    pack = tmp_path / "pack"
    run("list", pack, **image_files.options())
    with np.load(pack / "train.npz") as stored:
        columns = {name: stored[name] for name in stored.files if name != "digest"}
    changed = columns[column].copy()
    if value is not None:
        changed[row] = value
    else:
        changed = changed[row] if isinstance(row, slice) else changed.astype(row)
    columns[column] = changed
    if changed.dtype == object:
        np.savez(pack / "train.npz", **columns)
    else:
        write_columns(pack / "train.npz", columns)
    with pytest.raises(UnusableData, match=message):
        load_data_set("list", data_root=pack)
    found = check("list", data_root=pack)
    assert any(re.search(message, problem) for problem in found.problems)


def test_what_a_tar_says_of_its_members_is_not_asked(image_files: Any, tmp_path: Path) -> None:
    """Links, devices, sizes and names of places outside: images lie where the index says, whatever the headers claim."""
    image_files.fill().load()
    run("list", tmp_path / "pack", **image_files.options())
    index = load_data_set("list", data_root=tmp_path / "pack").train
    assert index.spans is not None
    before = [read_encoded(index, i) for i in range(len(index))]
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE)):
        info = tarfile.TarInfo("../../outside.jpg")
        info.type, info.linkname, info.size = kind, "/etc/passwd", 2**33 - 1
        with index.file(number).open("r+b") as shard:
            shard.seek(int(index.spans[number, 0]) - 512)
            shard.write(info.tobuf(tarfile.USTAR_FORMAT)[:512])
    again = load_data_set("list", data_root=tmp_path / "pack").train
    assert [read_encoded(again, i) for i in range(len(again))] == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_that_breaks_in_a_pack_is_named(backend: str, image_files: Any, tmp_path: Path) -> None:
    image_files.fill().load()
    run("list", tmp_path / "pack", **image_files.options())
    index = load_data_set("list", data_root=tmp_path / "pack", cache_dir=tmp_path).train
    assert index.spans is not None
    offset, count = index.spans[3].tolist()
    with index.file(3).open("r+b") as shard:
        shard.seek(offset)
        shard.write(bytes(count))
    loader = make_loader(index, TrainCrops(32), backend, batch_size=8)
    with pytest.raises(UserError, match=rf"train-000000\.tar at byte {offset} is of no known image format"):
        list(loader.epoch(0))
