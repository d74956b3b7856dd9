"""Data in a bucket of S3, with the real client against moto's server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.loading.reading import read_encoded
from fastlift.data.pack import run as pack
from fastlift.data.stores import client
from fastlift.data.stores.client import StoreError

moto = pytest.importorskip("moto.server", reason="moto (pip install 'moto[server]') is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``put`` copies what a test has written into a bucket, and gives its URL."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(client, "WAITS_S", (0.0,))
    client._systems.cache_clear()
    store = s3fs.S3FileSystem()
    store.mkdir("images")

    def put(folder: str = "") -> str:
        store.put(f"{tmp_path / folder}/", "images", recursive=True)
        return "s3://images"

    yield put
    store.rm("images", recursive=True)
    client._systems.cache_clear()


def test_lists_folders_and_packs_in_a_bucket(bucket: Any, image_files: Any, tmp_path: Path) -> None:
    """The same bytes and fingerprints as from the folder; a changed object is noticed at the next start."""
    files = image_files.fill(each=2).load()
    for split in ("train", "test"):
        shutil.copytree(image_files.root, tmp_path / "folders" / split)
    pack("list", tmp_path / "pack", **image_files.options())
    url = bucket()
    lists = {"train_list": f"{url}/train.txt", "test_list": f"{url}/train.txt", "class_names": f"{url}/names.txt"}
    cache = {"cache_dir": tmp_path / "c"}
    found = [
        load_data_set("list", data_root=f"{url}/images", **lists, **cache),
        load_data_set("list", data_root=f"{url}/pack", **cache),
    ]
    for data in found:
        assert data.train.fingerprint == files.train.fingerprint
        for i in range(len(files.train)):
            assert read_encoded(data.train, i) == files.train.file(i).read_bytes()
    folders = load_data_set("folder", data_root=f"{url}/folders", **cache)
    assert list(folders.train.paths) == [f"train/{path}" for path in files.train.paths]
    other = (image_files.root / "c1/1.jpg").read_bytes()
    s3fs.S3FileSystem().pipe("images/images/c1/0.jpg", other)
    again = load_data_set("list", data_root=f"{url}/images", **lists, **cache)
    assert read_encoded(again.train, 2) == other


def test_a_bucket_that_is_not_there(bucket: Any, image_files: Any, tmp_path: Path) -> None:
    """It is told as such before anything is read: its images are not missing ones."""
    lists = image_files.fill(each=1).load() and image_files.options()
    for name, options in (
        ("list", lists),
        ("folder", {"cache_dir": tmp_path}),
        ("webdataset", {"cache_dir": tmp_path}),
    ):
        options = {**options, "data_root": "s3://nobodys-bucket/x", "bad_images": "skip"}
        with pytest.raises(StoreError, match=r"s3://nobodys-bucket/x/.*: the bucket does not exist"):
            load_data_set(name, **options)


def test_no_credentials(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    client._systems.cache_clear()
    with pytest.raises(StoreError, match=r"s3://images/x/.*: no credentials for this store"):
        load_data_set("folder", data_root="s3://images/x", cache_dir=tmp_path)


def test_nobody_listens(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    client._systems.cache_clear()
    with pytest.raises(StoreError, match=r"no connection .* after 2 attempts"):
        load_data_set("folder", data_root="s3://images/x", cache_dir=tmp_path)
