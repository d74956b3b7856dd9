"""How a loader reads from a store: many requests at a time, whole shards ahead, everything once, changes noticed."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from loaders import BACKENDS, MEAN, STD, make_loader
from tar_shards import write_shards
from web_server import WebServer

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.loading import reading
from fastlift.data.loading.loader import build_loader
from fastlift.data.loading.reading import Condition, DecodeError, open_file, read_encoded
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.stores import cached
from fastlift.data.stores.cache import DataCache
from fastlift.data.stores.cached import Session
from fastlift.data.stores.client import StoreError
from fastlift.errors import UserError

SHARDS = 6


@pytest.fixture
def shards(image_files: Any, tmp_path: Path) -> Path:
    """Thirty images in six shards."""
    image_files.fill(each=10)
    (tmp_path / "classes.txt").write_text("thing 0\nthing 1\nthing 2\n")
    return write_shards(tmp_path / "shards", image_files.lines, image_files.root, shards=SHARDS)


def load(web: WebServer, shards: Path, **options: Any) -> DataSet:
    patterns = {"train_list": "train-{000000..000005}.tar", "test_list": "val-{000000..000005}.tar"}
    root, cache = f"{web.url}/{shards.name}", shards.parent / "cache"
    names = shards.parent / "classes.txt"
    return load_data_set("webdataset", data_root=root, cache_dir=cache, class_names=names, **patterns, **options)


def loader(data: DataSet, executor: Any = "torchvision", **options: Any) -> Any:
    kept = {"batch_size": 4, "mean": MEAN, "std": STD, "cache_bytes": 0, "executor": executor, **options}
    return build_loader(data.train, TrainCrops(32), **kept)


def without_copies(data: DataSet) -> None:
    """Empty the cache: the index has read everything."""
    for file in data.train.root.session.cache.folder.glob("?/*"):  # type: ignore[union-attr]
        file.unlink()


def wait_for_shards(data: DataSet) -> None:
    """Until all that are on their way are there."""
    for coming in data.train.root.session._coming.values():  # type: ignore[union-attr]
        assert coming.result(60)


def test_latency_is_hidden(image_files: Any, web: WebServer) -> None:
    """Images that take 50 ms each come many at a time: thirty take far less than one after another would."""
    data = image_files.fill(each=20).load()
    options = {**image_files.options(), "data_root": f"{web.url}/images", "data_cache_gb": 0}
    remote = load_data_set("list", **options)
    web.delay_s = 0.05
    began = time.perf_counter()
    made = list(make_loader(remote.train, TrainCrops(32), batch_size=20, workers=1, cache_bytes=0).epoch(0))
    took = time.perf_counter() - began
    assert took < 0.5 * len(data.train) * web.delay_s
    assert sum(len(batch.labels) for batch in made) == len(data.train)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_epoch_by_windows_downloads_each_shard_once(backend: str, shards: Path, web: WebServer) -> None:
    data = load(web, shards)
    before = len(web.asked)
    sizes = sum(file.stat().st_size for file in shards.glob("train-*.tar"))
    without_copies(data)
    expected = list(make_loader(data.train, TrainCrops(32), backend, batch_size=4, cache_bytes=0).epoch(0))
    without_copies(data)
    web.asked.clear()
    made = list(make_loader(data.train, TrainCrops(32), backend, cache_bytes=0, shuffle_shards=2).epoch(0))
    assert web.sent() == sizes
    assert before > 0
    images = {int(i): image for batch in expected for i, image in zip(batch.indices, batch.images, strict=True)}
    for batch in made:
        for i, image in zip(batch.indices, batch.images, strict=True):
            assert torch.equal(image, images[int(i)])
    web.asked.clear()
    list(make_loader(data.train, TrainCrops(32), backend, cache_bytes=0, shuffle_shards=2).epoch(1))
    assert web.sent() == 0  # all of it is in the cache


def test_the_next_window_is_on_its_way(shards: Path, web: WebServer) -> None:
    """When a window begins, the shards of the one behind it are asked for, and no others."""
    data = load(web, shards)
    without_copies(data)
    web.asked.clear()
    made = loader(data, shuffle_shards=2)
    epoch = made.epoch(0)
    next(epoch)
    wait_for_shards(data)
    assert len({one.path for one in web.asked}) == 4
    epoch.close()
    made.close()


def test_an_epoch_after_one_that_was_left_fetches_its_shards(shards: Path, web: WebServer) -> None:
    data = load(web, shards)
    made = loader(data, shuffle_shards=2)
    epoch = made.epoch(0)
    next(epoch)
    wait_for_shards(data)
    epoch.close()
    without_copies(data)
    web.asked.clear()
    assert sum(len(batch.labels) for batch in made.epoch(1)) == 30
    assert web.sent() == sum(file.stat().st_size for file in shards.glob("train-*.tar"))
    made.close()


def test_a_shard_that_nobody_waits_for_any_more_is_left(
    shards: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes waits for the requests that are under way, not for all blocks of a large shard."""
    monkeypatch.setattr(cached, "BLOCK_BYTES", 500)
    session, url, answer = (
        Session(DataCache(shards.parent / "copies", 10**6)),
        f"{web.url}/shards/train-000000.tar",
        Event(),
    )
    assert session.info(url).size > 500 * 2 * cached._BLOCKS
    web.fault = lambda asked: None if answer.wait(60) else 500
    session.fetch(url)
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(session.close)
        while not session._closing:
            time.sleep(0.01)
        answer.set()
        closed.result(60)
    assert web.count("GET") <= cached._BLOCKS
    assert session.cache is not None
    assert session.cache.used() == 0


def test_a_shard_that_is_shorter_than_its_index_says(shards: Path, web: WebServer) -> None:
    url, size = f"{web.url}/shards/train-000000.tar", (shards / "train-000000.tar").stat().st_size
    with pytest.raises(StoreError, match=r"train-000000\.tar: the shard is shorter than it was when it was indexed"):
        Session().part(url, size - 10, size + 1)


def test_ranks_of_a_machine_download_a_shard_once(shards: Path, web: WebServer) -> None:
    data = [load(web, shards) for _ in range(3)]
    without_copies(data[0])
    web.asked.clear()
    epochs = [loader(d, shuffle_shards=3, rank=r, world_size=3).epoch(0) for r, d in enumerate(data)]
    seen = [int(i) for batches in zip(*epochs, strict=True) for batch in batches for i in batch.indices]
    assert sorted(seen) == list(range(30))
    assert web.sent() == sum(file.stat().st_size for file in shards.glob("train-*.tar"))


def test_a_shard_that_two_want_at_once_is_downloaded_once(shards: Path, web: WebServer) -> None:
    """Two processes of a machine, say: each has a session of its own, and they share the folder of the cache."""
    url, size = f"{web.url}/shards/train-000000.tar", (shards / "train-000000.tar").stat().st_size
    sessions = [Session(DataCache(shards.parent / "copies", 10**6)) for _ in range(2)]
    web.delay_s = 0.1
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda session: session.have_shard(url), sessions)) == [True, True]
    assert web.sent() == size


def test_a_cache_that_is_too_small_for_windows_is_refused(shards: Path, web: WebServer) -> None:
    size = max(file.stat().st_size for file in shards.glob("train-*.tar"))
    data = load(web, shards, data_cache_gb=4.5 * size / 1e9)
    with pytest.raises(UserError, match=r"--shuffle-shards 2 needs room for two windows .*--data-cache-gb"):
        loader(data, shuffle_shards=2)
    assert len(list(loader(data, shuffle_shards=1).epoch(0))) == 8
    none = load(web, shards, data_cache_gb=0)
    assert len(list(loader(none, shuffle_shards=2).epoch(0))) == 8


def test_a_shard_that_fails_stops_the_run(shards: Path, web: WebServer) -> None:
    data = load(web, shards)
    without_copies(data)
    web.fault = lambda asked: 503 if "train-000003" in asked.path and asked.method == "GET" else None
    with pytest.raises(StoreError, match=r"train-000003\.tar: .*status 503"):
        list(loader(data, shuffle_shards=2, bad_images="skip").epoch(0))


def test_the_condition_of_an_image_changes_with_its_file(image_files: Any, web: WebServer) -> None:
    """By it, DALI's feed knows whether it has checked these bytes before."""
    image_files.fill().load()
    options = {**image_files.options(), "data_root": f"{web.url}/images"}

    def now(**more: Any) -> Condition:
        with open_file(load_data_set("list", **options, **more).train, 3) as file:
            return file.condition()

    before = now()
    assert now() == before
    changed = bytearray((image_files.root / "c0/3.jpg").read_bytes())
    changed[-20] ^= 1
    (image_files.root / "c0/3.jpg").write_bytes(changed)
    assert now() != before
    began = time.time_ns()
    assert now(data_cache_gb=0).modified_ns >= began  # nobody has asked the store: as if it had just changed


def test_an_image_that_is_too_large_is_not_fetched(
    shards: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(web, shards, data_cache_gb=0)
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    web.asked.clear()
    with pytest.raises(DecodeError, match="is too large"):
        read_encoded(data.train, 0)
    assert web.asked == []


def test_a_changed_file_is_noticed_at_the_next_start(image_files: Any, web: WebServer) -> None:
    """The same size and another time: what the cache has is of the old one."""
    image_files.fill().load()
    options = {**image_files.options(), "data_root": f"{web.url}/images"}
    old = read_encoded(load_data_set("list", **options).train, 3)
    web.asked.clear()
    assert read_encoded(load_data_set("list", **options).train, 3) == old
    assert (web.count("GET", "c0/3.jpg"), web.count("HEAD", "c0/3.jpg")) == (0, 1)
    changed = bytearray(old)
    changed[-20] ^= 1
    (image_files.root / "c0/3.jpg").write_bytes(changed)
    assert read_encoded(load_data_set("list", **options).train, 3) == changed


def test_a_changed_shard_is_noticed_at_the_next_start(shards: Path, web: WebServer, image_files: Any) -> None:
    before = load(web, shards).train
    write_shards(shards, image_files.lines[::-1], image_files.root, shards=SHARDS)
    after = load(web, shards).train
    assert before.labels.tolist() == after.labels.tolist()[::-1]
    assert read_encoded(after, 0) == (image_files.root / "c2/9.jpg").read_bytes()


def test_a_damaged_copy_is_read_again(image_files: Any, web: WebServer) -> None:
    image_files.fill().load()
    options = {**image_files.options(), "data_root": f"{web.url}/images"}
    data = load_data_set("list", **options).train
    cache = data.root.session.cache  # type: ignore[union-attr]
    for file in cache.folder.glob("?/*"):
        if file.stat().st_size:
            file.write_bytes(b"x" * file.stat().st_size)
    assert [read_encoded(data, i) for i in range(15)] == [file.read_bytes() for file in map(Path, _files(image_files))]


def _files(image_files: Any) -> list[str]:
    return [str(image_files.root / line.rsplit(" ", 1)[0]) for line in image_files.lines]


def test_an_epoch_that_is_left_leaves_nothing_behind(shards: Path, web: WebServer) -> None:
    made = loader(load(web, shards, data_cache_gb=0))
    epoch = made.epoch(0)
    next(epoch)
    epoch.close()
    assert made._fetches._coming == {}
    assert np.concatenate([batch.indices for batch in made.epoch(1)]).shape == (30,)
    assert made._fetches._coming == {}
    made.close()


def test_large_shards_are_fetched_in_blocks(shards: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "BLOCK_BYTES", 5000)
    data = load(web, shards)
    without_copies(data)
    web.asked.clear()
    url = data.train.path(0)
    data.train.root.session.fetch(url)  # type: ignore[union-attr]
    assert read_encoded(data.train, 0) == read_encoded(load(web, shards, data_cache_gb=0).train, 0)
    size = (shards / "train-000000.tar").stat().st_size
    blocks = [
        one
        for one in web.asked
        if one.path.endswith("train-000000.tar") and one.stop and one.stop - (one.start or 0) > 1
    ]
    assert len(
        [one for one in blocks if (one.start or 0) % 5000 == 0 and one.stop in ((one.start or 0) + 5000, size)]
    ) == -(-size // 5000)
