"""Data sets of the hub without a network, with the real ``datasets``."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlift import data as api
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


def test_what_was_loaded_before_is_taken_from_the_cache(
    unreachable: Path, tmp_path: Path, encode: Callable, make_image: Callable
) -> None:
    import datasets

    places = [tmp_path / f"{k}.png" for k in range(6)]
    for k, place in enumerate(places):
        place.write_bytes(encode(make_image(40, 30, seed=k), "PNG"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    images: dict[str, Any] = {"image": list(map(str, places)), "label": [0, 1] * 3}
    table = str(tmp_path / "all.parquet")
    datasets.Dataset.from_dict(images, features=features).to_parquet(table)
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
