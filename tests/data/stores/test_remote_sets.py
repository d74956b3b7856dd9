"""Data sets in stores: the same indices, bytes and batches as from a folder, and errors in the words of users."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from loaders import BACKENDS, make_loader
from tar_shards import labelled_by_name, write_shards
from web_server import WebServer, serving

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.datasets.imagenet_lt import IMAGENET_LT
from fastlift.data.datasets.packed import PACK_MANIFEST
from fastlift.data.datasets.published_lists import SHIPPED
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.inspection.prepare import prepare
from fastlift.data.loading.reading import read_encoded
from fastlift.data.pack import run as pack
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.stores import client
from fastlift.data.stores.client import StoreError
from fastlift.data.stores.url import Url, _way_to_file
from fastlift.errors import UserError


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Any]:
    """``memory://`` with what ``put`` copies there."""
    store = fsspec.filesystem("memory")
    store.store.clear()

    def put() -> str:
        for file in tmp_path.rglob("*"):
            if file.is_file():
                store.pipe(f"/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
        return "memory:/"  # and a slash before each name

    yield put
    store.store.clear()


def same(one: DataSet, other: DataSet) -> None:
    """Both splits of two data sets are the same: names, labels, sizes, and every byte."""
    assert one.class_names == other.class_names
    for mine, others in ((one.train, other.train), (one.test, other.test)):
        assert mine.fingerprint == others.fingerprint
        for i in range(len(mine)):
            assert read_encoded(mine, i) == read_encoded(others, i)


def list_options(url: str, image_files: Any) -> dict[str, Any]:
    """Those of ``image_files`` with everything at a URL."""
    options = image_files.options()
    kept = {name: f"{url}/{Path(path).name}" for name, path in options.items() if name != "cache_dir"}
    return {**kept, "cache_dir": image_files.cache / "remote", "data_cache_gb": 0}


def test_lists_on_a_web_server(image_files: Any, web: WebServer) -> None:
    image_files.fill()
    image_files.add("c0/odd name #1 100%?.jpg", 0, (image_files.root / "c0/0.jpg").read_bytes())
    files = image_files.load()
    data = load_data_set("list", **list_options(web.url, image_files))
    same(files, data)
    asked = len(web.asked)
    load_data_set("list", **list_options(web.url, image_files))
    assert len(web.asked) < asked + 8  # the index is cached: lists and names, and no image


def test_lists_and_folders_in_a_bucket(
    image_files: Any, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = image_files.fill().load()
    for split in ("train", "test"):
        shutil.copytree(image_files.root, tmp_path / "folders" / split)
    (tmp_path / "folders/train/c1/.hidden").mkdir()
    (tmp_path / "folders/train/c1/.hidden/1.jpg").write_bytes(b"x")
    (tmp_path / "folders/train/c1/deep").mkdir()
    shutil.copy(image_files.root / "c1/0.jpg", tmp_path / "folders/train/c1/deep/9.JPG")
    url = memory()
    same(files, load_data_set("list", **list_options(url, image_files)))
    here = load_data_set("folder", data_root=tmp_path / "folders", cache_dir=tmp_path / "one")

    def info(asked: str) -> client.Info:
        assert asked.endswith(PACK_MANIFEST), f"{asked} is in the listing"
        raise FileNotFoundError(asked)

    monkeypatch.setattr(client, "info", info)
    walked, walk = [], client.walk
    monkeypatch.setattr(client, "walk", lambda asked: [walked.append(asked), walk(asked)][1])
    there = load_data_set("folder", data_root=f"{url}/folders", cache_dir=tmp_path / "two")
    assert list(here.train.paths) == list(there.train.paths)
    same(here, there)
    assert walked == [f"{url}/folders"]  # once for all of its folders


def test_one_folder_in_a_bucket_is_split_as_here(image_files: Any, memory: Any, tmp_path: Path) -> None:
    image_files.fill()
    (image_files.root / "loose.jpg").write_bytes(b"x")
    here = load_data_set("folder", data_root=image_files.root, cache_dir=tmp_path / "one")
    there = load_data_set("folder", data_root=f"{memory()}/images", cache_dir=tmp_path / "two")
    same(here, there)
    assert (len(here.train), len(here.test)) == (12, 3)
    assert len(there.notes) == 2


@pytest.mark.parametrize("gb", [0, 1e-5, 1.0], ids=["no cache", "a small cache", "cache"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_packs_and_shards_give_the_same_batches(
    backend: str, gb: float, image_files: Any, web: WebServer, tmp_path: Path
) -> None:
    """A run on files can go on with their pack on a web server, and one on shards with the same shards there."""
    files = image_files.fill().load()
    pack("list", tmp_path / "pack", **image_files.options())
    write_shards(tmp_path / "shards", image_files.lines, image_files.root, members=labelled_by_name)
    patterns = {"train_list": "train-{000000..000002}.tar", "test_list": "val-{000000..000002}.tar"}
    packed = load_data_set("list", data_root=f"{web.url}/pack", cache_dir=tmp_path / "c", data_cache_gb=gb)
    shards = load_data_set("webdataset", data_root=tmp_path / "shards", cache_dir=tmp_path / "c")
    remote = load_data_set(
        "webdataset", data_root=f"{web.url}/shards", cache_dir=tmp_path / "c", data_cache_gb=gb, **patterns
    )
    same(shards, remote)
    assert packed.train.fingerprint == files.train.fingerprint
    expected = list(make_loader(files.train, TrainCrops(32), backend, batch_size=8, cache_bytes=0).epoch(1))
    for index in (packed.train, remote.train):
        made = list(make_loader(index, TrainCrops(32), backend, batch_size=8, cache_bytes=0).epoch(1))
        for one, other in zip(expected, made, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


def test_a_web_server_has_no_listing(image_files: Any, web: WebServer, tmp_path: Path) -> None:
    for name in ("folder", "webdataset"):
        with pytest.raises(
            UserError, match=r"web servers do not list their files: use list files, a pack, or WebDataset"
        ):
            load_data_set(name, data_root=web.url, cache_dir=tmp_path)


def test_sets_that_are_made_here_take_no_url(tmp_path: Path) -> None:
    for name in ("cifar100_ir100", "shapes_lt"):
        with pytest.raises(UserError, match="takes a local folder"):
            load_data_set(name, data_root="s3://bucket/x", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (403, "access denied"),
        (401, "access denied"),
        (500, "the server answers with status 500"),
        ("cut", "no connection|ends early"),
        ("hang up", r"no connection .* after 3 attempts"),
        (418, "status 418"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_store_that_fails_is_no_broken_image(
    backend: str, fault: Any, message: str, image_files: Any, web: WebServer
) -> None:
    """Neither the index nor a loader takes another image for one that cannot be fetched."""
    image_files.fill().load()
    options = list_options(web.url, image_files)
    web.fault = lambda asked: fault if asked.path.endswith("c1/3.jpg") else None
    with pytest.raises(StoreError, match=message) as caught:
        load_data_set("list", **options, bad_images="skip")
    assert f"{web.url}/images/c1/3.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)
    web.fault = lambda asked: None
    data = load_data_set("list", **options, bad_images="skip")
    assert data.train.bad == ()
    web.fault = lambda asked: fault if asked.path.endswith("c1/3.jpg") else None
    with pytest.raises(StoreError, match=message):
        list(make_loader(data.train, TrainCrops(32), backend, bad_images="skip", cache_bytes=0).epoch(0))


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "hang up"])
def test_what_passes_is_tried_again(fault: Any, image_files: Any, web: WebServer) -> None:
    files = image_files.fill().load()
    failed: set[str] = set()

    def once(asked: Any) -> Any:
        fails = asked.path.endswith(".jpg") and asked.path not in failed
        failed.add(asked.path)
        return fault if fails else None

    web.fault = once
    same(files, load_data_set("list", **list_options(web.url, image_files)))
    assert len(failed) > 15


@pytest.mark.parametrize(("status", "missing"), [(404, True), (503, False), (403, False)])
def test_a_store_that_fails_does_not_lack_the_file_of_class_names(
    status: int, missing: bool, web: WebServer, tmp_path: Path
) -> None:
    """Those that come with fastlift are taken where there are none, and not where nobody knows."""
    web.fault = lambda asked: status
    if missing:
        assert IMAGENET_LT.find_list("class_names", Url(web.url), tmp_path).parent == SHIPPED
    else:
        with pytest.raises(StoreError, match=f"status {status}|access denied"):
            IMAGENET_LT.find_list("class_names", Url(web.url), tmp_path)
    steps = {step.title: step for step in prepare("imagenet_lt", data_root=web.url).steps}
    assert steps["class names"].done == missing


def test_a_missing_image_is_as_in_a_folder(image_files: Any, web: WebServer) -> None:
    image_files.fill().load()
    (image_files.root / "c1/3.jpg").unlink()
    with pytest.raises(UserError, match=r"/images/c1/3\.jpg: missing"):
        load_data_set("list", **list_options(web.url, image_files))
    data = load_data_set("list", **list_options(web.url, image_files), bad_images="skip")
    assert data.train.bad[0].reason == "missing"
    (image_files.root / "c1/2.jpg").unlink()
    with pytest.raises(UserError, match=r"/images/c1/2\.jpg is missing"):
        list(make_loader(data.train, TrainCrops(32), cache_bytes=0).epoch(0))


def test_a_server_that_does_not_answer(image_files: Any, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    image_files.fill(1, 1).load(1)
    monkeypatch.setattr(client, "READ_S", 0.2)
    client._systems.cache_clear()
    web.fault = lambda asked: "hang"
    with pytest.raises(StoreError, match="no answer in time, after 3 attempts"):
        load_data_set("list", **list_options(web.url, image_files))
    client._systems.cache_clear()


def test_nobody_listens(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        url = server.url
    with pytest.raises(
        StoreError, match=r"http://127\.0\.0\.1:\d+/x/fastlift-pack\.json: no connection .* after 3 attempts"
    ):
        load_data_set("list", data_root=f"{url}/x", cache_dir=tmp_path)


def test_a_server_without_ranges_is_refused(image_files: Any, web: WebServer, tmp_path: Path) -> None:
    image_files.fill().load()
    pack("list", tmp_path / "pack", **image_files.options())
    web.ranges = False
    data = load_data_set("list", data_root=f"{web.url}/pack", cache_dir=tmp_path / "c")
    with pytest.raises(StoreError, match="gives the whole file when it is asked for a part"):
        read_encoded(data.train, 3)


def test_secrets_are_not_shown(web: WebServer, tmp_path: Path) -> None:
    for url in (f"{web.url}/x?X-Amz-Signature=geheim", web.url.replace("://", "://user:geheim@") + "/x"):
        web.fault = lambda asked: 403
        with pytest.raises(StoreError) as caught:
            load_data_set("list", data_root=url, cache_dir=tmp_path)
        assert "geheim" not in str(caught.value)
        assert "geheim" not in str(Url(url))
    assert any("?X-Amz-Signature=geheim" in asked.path for asked in web.asked)  # it is sent all the same
    (tmp_path / "train.txt").write_text("")
    for status in (200, 404):
        web.fault = lambda asked, status=status: status
        lists = dict.fromkeys(("train_list", "test_list", "class_names"), f"{web.url}/train.txt?Signature=geheim")
        told = str(prepare("imagenet_lt", data_root=f"{web.url}/x?Signature=geheim", cache_dir=tmp_path, **lists))
        assert "train.txt?***" in told
        assert "geheim" not in told


def test_another_signature_is_the_same_place(image_files: Any, web: WebServer) -> None:
    """Of a web address that is signed anew for each start: index and copies are those of the last one."""
    image_files.fill().load()
    options = {**list_options(web.url, image_files), "data_cache_gb": 1}
    for signature in ("one", "two"):
        web.asked.clear()
        options["data_root"] = f"{web.url}/images?signature={signature}"
        data = load_data_set("list", **options)
        assert read_encoded(data.train, 0) == (image_files.root / "c0/0.jpg").read_bytes()
        assert web.count("GET", ".jpg") == (15 if signature == "one" else 0)


def test_unknown_stores_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="fsspec knows no store of this name"):
        load_data_set("folder", data_root="nonsense://x/y", cache_dir=tmp_path)
    with pytest.raises(StoreError, match="ftp:// cannot be read here, as fsspec asks for its host apart from the URL"):
        load_data_set("folder", data_root="ftp://example.org/y", cache_dir=tmp_path)

    def missing(name: str) -> None:
        raise ImportError("no gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    client._systems.cache_clear()
    with pytest.raises(StoreError, match=r"gs:// needs gcsfs: pip install gcsfs"):
        load_data_set("folder", data_root="gs://x/y", cache_dir=tmp_path)


def test_settings_keep_urls_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's settings name files from the root, but leave URLs and patterns of shards."""
    from fastlift.config import Config, absolute_paths

    monkeypatch.chdir(tmp_path)
    places = {"data_root": "s3://bucket/x", "train_list": "train-{00..99}.tar", "class_names": "names.txt"}
    settings = absolute_paths(Config().merged(dataset="webdataset", **places)).data
    assert settings.data_root == "s3://bucket/x"
    assert settings.train_list == "train-{00..99}.tar"
    assert settings.class_names == str(tmp_path / "names.txt")


def test_bad_image_settings_are_those_of_files(image_files: Any, web: WebServer) -> None:
    """An image that breaks after it was indexed is replaced as in a folder."""
    image_files.fill().load()
    data = load_data_set("list", **list_options(web.url, image_files))
    (image_files.root / "c1/3.jpg").write_bytes((image_files.root / "c1/3.jpg").read_bytes()[:900])
    found: list[Any] = []
    loader = make_loader(data.train, TrainCrops(32), bad_images="skip", on_bad=found.append, cache_bytes=0)
    assert sum(len(batch.labels) for batch in loader.epoch(0)) == 15
    assert [(bad.path, bad.replacement) for bad in found] == [("c1/3.jpg", 9)]
    assert BadImageSettings().bad_images == "stop"


def test_a_page_in_place_of_a_list(image_files: Any, web: WebServer) -> None:
    """A login, a share link, the address of GitHub's page of a file: told once, with its address, not line by line."""
    image_files.fill().load()
    (web.root / "page.txt").write_bytes(b"<!DOCTYPE html>\n<html><title>Sign in</title></html>\n" * 100)
    options = list_options(web.url, image_files) | {"train_list": f"{web.url}/page.txt"}
    with pytest.raises(
        UserError, match=r"page.txt answers with an HTML page instead of the file: give the address"
    ) as e:
        load_data_set("list", **options)
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match=r"page.txt is an HTML page .*: get the file itself"):
        load_data_set("list", **image_files.options() | {"train_list": web.root / "page.txt"})


def test_the_file_behind_a_page_of_github() -> None:
    page = Url("https://github.com/shijxcs/LIFT/blob/main/datasets/Places_LT/Places_LT_train.txt")
    file = "https://raw.githubusercontent.com/shijxcs/LIFT/main/datasets/Places_LT/Places_LT_train.txt"
    assert _way_to_file(page).endswith(file)
