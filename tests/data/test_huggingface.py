"""Data sets of Hugging Face's ``datasets``: of the hub without a network, and what is kept of their rows."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlift import data as api
from fastlift.data import huggingface
from fastlift.errors import UserError


@pytest.fixture(autouse=True)
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub that refuses connections; gives the folder that ``datasets`` keeps what it has loaded in."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    for name, value in {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        yield tmp_path / "datasets"


def test_what_is_nowhere_is_one_sentence_at_once(unreachable: Path, capfd: pytest.CaptureFixture) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        api.from_huggingface("user/nothing")
    assert str(caught.value) == (
        "the files of the data set user/nothing (here is no folder of that name) are not in the cache "
        f"{unreachable}, and 127.0.0.1 cannot be reached from here. On a machine with network run this once and copy the "
        "cache, or give a folder that save_to_disk has written"
    )
    assert time.monotonic() - start < 30  # the client's own retries would be minutes
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def made(tmp_path: Path, encode: Callable, make_image: Callable) -> Callable:
    """Makes a data set of six images by their files."""
    import datasets

    places = [tmp_path / f"{k}.png" for k in range(6)]
    for k, place in enumerate(places):
        place.write_bytes(encode(make_image(40, 30, seed=k), "PNG"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})

    def make(labels: list[int]) -> Any:
        table = {"image": list(map(str, places)), "label": labels}
        return datasets.Dataset.from_dict(table, features=features)

    return make


def test_what_was_loaded_before_is_taken_from_the_cache(unreachable: Path, tmp_path: Path, made: Callable) -> None:
    import datasets

    table = str(tmp_path / "all.parquet")
    made([0, 1] * 3).to_parquet(table)
    # As it is after one of the hub was loaded; of a file the same comes about under other names.
    builder = datasets.load_dataset_builder("parquet", data_files=table, cache_dir=str(tmp_path / "made"))
    builder.download_and_prepare()
    kept = Path(builder.cache_dir)
    (kept / "parquet-train.arrow").rename(kept / "known-train.arrow")
    info = kept / "dataset_info.json"
    info.write_text(info.read_text().replace(builder.config_id, "default"))
    (unreachable / "user___known" / "default").mkdir(parents=True)
    kept.parent.rename(unreachable / "user___known" / "default" / "0.0.0")
    found = api.from_huggingface("user/known")
    assert {split: len(index) for split, index in found.splits.items()} == {"train": 4, "test": 2}
    assert found.class_names == ("ant", "bee")


def test_other_errors_are_told_with_the_first_of_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: Any, **options: Any) -> Any:
        raise ValueError("gone\nand more")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(UserError, match=r"the data set user/nothing \(here is no .*\) cannot be loaded: gone$"):
        api.from_huggingface("user/nothing")


def test_rows_are_looked_at_once(made: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a saved data set; again where it was saved anew, where the cache is damaged, and where that is asked for."""
    from datasets import load_from_disk

    looked: list[int] = []
    look = huggingface.read_header_bytes
    monkeypatch.setattr(huggingface, "read_header_bytes", lambda data: looked.append(len(data)) or look(data))

    def load(given: Any = tmp_path / "saved", **options: Any) -> tuple[int, list[str]]:
        looked.clear()
        found = (
            api.from_huggingface(given) if not options else api.load_data_set("huggingface", data_root=given, **options)
        )
        return len(looked), [index.fingerprint for index in found.splits.values()]

    made([0, 1] * 3).save_to_disk(str(tmp_path / "saved"))
    count, prints = load()
    assert count == 6
    assert load() == load(load_from_disk(str(tmp_path / "saved"))) == (0, prints)
    assert load(rescan=True) == (6, prints)
    for kept in (tmp_path / "cache" / "index").iterdir():
        kept.write_bytes(kept.read_bytes()[:-300])
    assert load() == (6, prints)
    made([1, 0] * 3).save_to_disk(str(tmp_path / "other"))
    (tmp_path / "saved").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "saved")
    count, others = load()
    assert count == 6
    assert others != prints
    for file in (tmp_path / "saved").glob("*.arrow"):
        os.utime(file, ns=(0, 0))  # another file, for all that is known
    assert load() == (6, others)


def test_images_that_are_files_are_looked_at_each_time(made: Callable, tmp_path: Path, encode: Callable) -> None:
    """They may have changed, which rows that name them do not show."""
    import datasets
    from PIL import Image

    table = made([0, 1] * 3)
    rows = table.cast_column("image", datasets.Image(decode=False)).to_dict()

    def give() -> Any:
        for image, label in zip(rows["image"], rows["label"], strict=True):
            yield {"image": image["path"], "label": label}

    named = datasets.Dataset.from_generator(give, features=table.features, cache_dir=str(tmp_path / "generated"))
    assert named.cache_files
    before = api.from_huggingface(named)
    (tmp_path / "0.png").write_bytes(encode(Image.new("RGB", (40, 30)), "PNG"))
    after = api.from_huggingface(named)
    assert after.train.fingerprint != before.train.fingerprint or after.test.fingerprint != before.test.fingerprint
