"""Lists that come by themselves: the user's own first, then shipped, kept and downloaded ones; offline one sentence."""

import gzip
import hashlib
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fixtures import Files, Told
from web_server import WebServer

import fastlift
from fastlift.data.datasets import catalogue, published_lists
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.datasets.imagenet_lt import IMAGENET_LT
from fastlift.data.datasets.inaturalist2018 import INATURALIST2018
from fastlift.data.datasets.list_files import read_class_names, read_list
from fastlift.data.datasets.places_lt import PLACES_LT
from fastlift.data.datasets.published import Published
from fastlift.data.datasets.published_lists import DOWNLOADS, SHIPPED, come_by_itself, shipped
from fastlift.data.index.problems import Problems
from fastlift.data.inspection.prepare import prepare
from fastlift.data.stores.client import StoreError
from fastlift.data.stores.download import Mirror
from fastlift.errors import UserError

SYNSETS = ("n01440764", "n01443537")
TRAIN = [f"train/{synset}/{k}.jpg {label}" for label, synset in enumerate(SYNSETS) for k in range(3 - label)]
TEST = [f"val/{synset}/ILSVRC_{label}{k}.jpg {label}" for label, synset in enumerate(SYNSETS) for k in range(2)]
MINI = replace(
    IMAGENET_LT,
    name="mini_lt",
    title="Mini-LT",
    train_files=("mini_train.txt",),
    test_files=("mini_test.txt",),
    names_files=("mini_names.txt",),
    classes=2,
    train=5,
    test=(4,),
    largest=3,
    smallest=2,
)


@pytest.fixture
def mini(image_files: Any, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of which the training list is downloaded and the others are shipped: its data root, without lists."""
    image_files.fill(classes=1, each=1)
    for line in TRAIN + TEST:
        file = image_files.root / line.split()[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image_files.root / "c0" / "0.jpg", file)
    content = write(web.root / "web" / "mini_train.txt", TRAIN).read_bytes()
    write(web.root / "shipped" / "mini_test.txt.gz", TEST)
    write(web.root / "shipped" / "mini_names.txt.gz", [f"{synset} fish {k}" for k, synset in enumerate(SYNSETS)])
    digest = "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    monkeypatch.setitem(DOWNLOADS, "mini_train.txt", (Mirror(f"{web.url}/web/mini_train.txt", digest),))
    monkeypatch.setattr(published_lists, "SHIPPED", web.root / "shipped")
    monkeypatch.setattr(catalogue, "SOURCES", (*catalogue.SOURCES, MINI))
    root: Path = image_files.root
    return root


def write(file: Path, lines: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def load(root: Path, **options: Any) -> DataSet:
    return load_data_set("mini_lt", data_root=root, cache_dir=root.parent / "cache", **options)


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks fails, whatever it catches: a look-up of a name too."""

    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("source", [IMAGENET_LT, PLACES_LT, INATURALIST2018])
def test_each_file_of_each_set_comes_by_itself(source: Published) -> None:
    for files in (source.train_files, source.test_files, source.names_files):
        assert any(shipped(name) is not None or name in DOWNLOADS for name in files)


def test_what_is_shipped_is_what_was_published() -> None:
    """By the hashes in the note beside the files, which are git's of LIFT's repository."""
    note = (SHIPPED / "NOTICE.md").read_text()
    told = dict(re.findall(r"`([\w.]+\.gz)` \| [\w, ]+ \| `([0-9a-f]{40})`", note))
    assert told.keys() == {file.name for file in SHIPPED.glob("*.gz")}
    for name, digest in told.items():
        content = gzip.decompress((SHIPPED / name).read_bytes())
        assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == digest
        assert (SHIPPED / name).read_bytes()[3:8] == bytes(5)  # neither a name nor a time: the same bytes each time


def test_shipped_lists_have_the_published_counts() -> None:
    for source in (IMAGENET_LT, PLACES_LT):
        problems = Problems("")
        (names,), tests = source.names_files, (source.test_files[0], source.test_files[0].replace("test", "val"))
        for name in tests:
            file = SHIPPED / f"{name}.gz"
            source._check("test", read_list(file, source.classes, problems), name, problems)
            assert len(read_class_names(file, SHIPPED / f"{names}.gz")) == source.classes
        assert not problems.total
    problems = Problems("")
    PLACES_LT._check("train", read_list(SHIPPED / "Places_LT_train.txt.gz", 365, problems), "train", problems)
    assert not problems.total


def test_addresses_are_of_one_state_of_a_file() -> None:
    """None could be reached from where they were written: their form at least, and one content by several ways."""
    for name, mirrors in DOWNLOADS.items():
        assert len({mirror.digest for mirror in mirrors}) == 1
        for mirror in mirrors:
            assert re.fullmatch(r"git:[0-9a-f]{40}|md5:[0-9a-f]{32}", mirror.digest)
            if mirror.member:
                assert mirror.url.startswith("https://ml-inat-competition-datasets.s3.amazonaws.com/2018/")
                assert mirror.url.endswith(f"/{mirror.member}.tar.gz")
            else:
                commit = r"(/[\w.-]+/[\w.-]+/|/gh/[\w.-]+/[\w.-]+@)[0-9a-f]{40}(/\w+)+"
                assert re.fullmatch(rf"https://[a-z.]+{commit}/{name}", mirror.url)


def test_the_images_alone_are_enough(mini: Path, web: WebServer) -> None:
    data = load(mini)
    assert data.class_names == ("fish 0", "fish 1")
    assert (len(data.train), len(data.test)) == (5, 4)
    kept = mini.parent / "cache" / "lists" / "mini_train.txt"
    assert data.notes == (
        f"lists of Mini-LT: {kept}, mini_test.txt (comes with fastlift), mini_names.txt (comes with fastlift)",
    )
    assert web.count("GET") == 1


def test_with_everything_in_the_cache_nothing_asks_the_network(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(mini)
    without_network(monkeypatch)
    again = load(mini)
    assert again.train.fingerprint == first.train.fingerprint
    assert prepare("mini_lt", data_root=mini, cache_dir=mini.parent / "cache").ready


def test_training_says_its_lists_and_asks_no_network(
    mini: Path, tiny_clip: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the images alone, with lists, weights and tokenizer on this machine, to the end of a run."""
    monkeypatch.setenv("FASTLIFT_CACHE", str(mini.parent / "cache"))
    load(mini)
    without_network(monkeypatch)
    model = {"model": str(tiny_clip[0]), "pretrained": str(tiny_clip[1]), "rank": 2}
    size = {"epochs": 1, "batch_size": 4, "micro_batch": 4, "device": "cpu"}
    told = Told()
    config = fastlift.recipes.lift("mini_lt", data_root=mini, **model, **size)
    run = fastlift.train(config, output=tmp_path / "run", ui=told)
    assert run.model.class_names == ("fish 0", "fish 1")
    assert "mini_test.txt (comes with fastlift)" in told.text


def test_own_lists_win_in_the_data_root_and_by_flags(mini: Path, web: WebServer, tmp_path: Path) -> None:
    write(mini / "splits" / "mini_train.txt", TRAIN[::-1])
    data = load(mini)
    assert list(data.train.paths) == [line.split()[0] for line in TRAIN[::-1]]
    own = write(tmp_path / "own.txt", [*TRAIN[1:], TRAIN[0]])
    data = load(mini, train_list=own)
    assert data.train.paths[4] == TRAIN[0].split()[0]
    assert str(own) in data.notes[0]
    assert not web.asked


def test_a_damaged_copy_in_the_cache_is_downloaded_again(mini: Path, web: WebServer) -> None:
    load(mini)
    kept = mini.parent / "cache" / "lists" / "mini_train.txt"
    kept.write_text("train/n01440764/0.jpg 0\n")
    assert len(load(mini).train) == 5
    assert web.count("GET") == 2


def test_offline_it_says_what_to_copy_where(tmp_path: Path) -> None:
    """Hosts that cannot be reached, as the tests' fixture makes all but this machine."""
    with pytest.raises(StoreError) as caught:
        load_data_set("imagenet_lt", data_root=tmp_path, cache_dir=tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith("ImageNet-LT: ImageNet_LT_train.txt could not be downloaded (")
    assert "raw.githubusercontent.com cannot be reached (Network is unreachable); cdn.jsdelivr.net cannot" in message
    assert re.search(r": copy https://raw\S+/ImageNet_LT_train.txt into ", message)
    assert message.endswith(f" into {tmp_path}, or give it by --train-list")
    assert "\n" not in message
    with pytest.raises(
        StoreError, match=r": iNaturalist18_train.txt could not .*; train2018.json .*amazonaws.com cannot"
    ):
        load_data_set("inaturalist2018", data_root=tmp_path, cache_dir=tmp_path / "cache")


def test_a_cache_that_cannot_be_written(mini: Path) -> None:
    (mini.parent / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"mini_train.txt cannot be kept in .*: set FASTLIFT_CACHE"):
        come_by_itself(("mini_train.txt",), mini.parent / "cache")


def test_validation_images_as_they_are_unpacked(mini: Path) -> None:
    """All in one folder, as the archive has them; once they are in class folders these are found."""
    foldered = load(mini)
    for file in sorted((mini / "val").glob("*/*.jpg")):
        file.rename(mini / "val" / file.name)
    flat = load(mini)
    assert list(flat.test.paths) == ["val/ILSVRC_00.jpg", "val/ILSVRC_01.jpg", "val/ILSVRC_10.jpg", "val/ILSVRC_11.jpg"]
    assert flat.test.labels.tolist() == [0, 0, 1, 1]
    assert flat.train.fingerprint == foldered.train.fingerprint
    for label, synset in enumerate(SYNSETS):
        for k in range(2):
            (mini / "val" / f"ILSVRC_{label}{k}.jpg").rename(mini / "val" / synset / f"ILSVRC_{label}{k}.jpg")
    assert load(mini).test.fingerprint == foldered.test.fingerprint


@pytest.mark.parametrize("inside", ["ILSVRC/Data/CLS-LOC", "imagenet"])
def test_the_folder_that_was_meant_is_named(mini: Path, tmp_path: Path, inside: str) -> None:
    outer = tmp_path / "outer"
    (outer / inside).parent.mkdir(parents=True)
    mini.rename(outer / inside)
    with pytest.raises(UserError, match=rf"They are in {outer / inside}: give that as --data-root"):
        load_data_set("mini_lt", data_root=outer, cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match=rf"They are in {outer / inside}: give that as --data-root"):
        load_data_set("mini_lt", data_root=outer / inside / "train", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*TRAIN[:4], TRAIN[0]], "1 images are listed more than once: train/n01440764/0.jpg"),
        (TRAIN[:3], "3 lines, Mini-LT has 5\n"),
        (TEST, r"4 lines, Mini-LT has 5 \(is it the list of test images\?\)"),
        (["val/n01440764/ILSVRC_00.jpg 2"] * 5, r"label 2 is out of range \(0..1\)"),
        ([*TRAIN[:-1], "train/n09999999/0.jpg 1"], "1 of the 3 folders of wrong.txt is not there: train/n09999999"),
    ],
)
def test_wrong_lists_are_told(mini: Path, tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(
            mini, train_list=write(tmp_path / "wrong.txt", lines), class_names=write(tmp_path / "names", ["a b", "c d"])
        )


def test_images_of_a_missing_folder_are_replaced_where_that_is_asked_for(mini: Path, tmp_path: Path) -> None:
    lists = {"train_list": write(tmp_path / "own.txt", ["train/gone/0.jpg 0", *TRAIN[1:]])}
    lists["class_names"] = write(tmp_path / "names", ["a b", "c d"])
    assert [bad.path for bad in load(mini, bad_images="skip", **lists).train.bad] == ["train/gone/0.jpg"]


def test_a_shipped_list_goes_by_its_name(mini: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``--val-list ImageNet_LT_val.txt``; a file of this name where one is wins."""
    write(published_lists.SHIPPED / "mini_val.txt.gz", TRAIN[:2])
    monkeypatch.chdir(tmp_path)
    data = load(mini, val_list="mini_val.txt")
    assert data.val is not None
    assert len(data.val) == 2
    write(tmp_path / "mini_val.txt", TRAIN[:1])
    data = load(mini, val_list="mini_val.txt")
    assert data.val is not None
    assert len(data.val) == 1
