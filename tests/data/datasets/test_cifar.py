"""CIFAR-LT: the papers' draw, from torchvision's files or class folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from web_server import WebServer

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.cifar import draw_long_tail, long_tail_counts
from fastlift.data.stores.client import StoreError
from fastlift.errors import UserError


@pytest.mark.parametrize(("ratio", "total", "smallest"), [(100, 10_847, 5), (50, 12_608, 10), (10, 19_573, 50)])
def test_cifar100_lt_has_the_papers_counts(ratio: int, total: int, smallest: int) -> None:
    counts = long_tail_counts(100, 500, ratio)
    assert (counts.sum(), counts.max(), counts.min()) == (total, 500, smallest)


def test_cifar_draw_is_the_papers_draw() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 50))
    kept = draw_long_tail(labels, 10)
    assert np.bincount(labels[kept]).tolist() == long_tail_counts(4, 50, 10).tolist()
    random = np.random.RandomState(0)
    expected = np.flatnonzero(labels == 0)
    random.shuffle(expected)
    assert kept[:50].tolist() == expected.tolist()
    second = np.flatnonzero(labels == 1)
    random.shuffle(second)
    assert kept[50:73].tolist() == second[:23].tolist()


def test_cifar_from_class_folders(image_files: Any, tmp_path: Path, encode: Callable, make_image: Callable) -> None:
    """A tree with fewer images than CIFAR is refused with the counts; a whole one is in ``test_real_cifar``."""
    for split in ("train", "test"):
        for label in range(10):
            image_files.add(f"{split}/c{label}/0.png", label, encode(make_image(32, 32), "PNG"))
    with pytest.raises(UserError, match="1 images, expected 5000"):
        load_data_set("cifar10_ir100", data_root=image_files.root, cache_dir=tmp_path)


def _small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's own file format, small: its hashes are those of the real files, so the check is patched."""
    import pickle

    from torchvision.datasets import CIFAR10

    folder.mkdir()
    random = np.random.default_rng(0)
    for k, (file, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        labels = np.repeat(np.arange(10), 4)
        batch = {"data": random.integers(0, 256, (40, 3072), dtype=np.uint8), "labels": labels.tolist(), "k": k}
        (folder / file).write_bytes(pickle.dumps(batch))
    names_of = {"label_names": [f"name {i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names_of))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return folder


def test_cifar_arrays_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _small(tmp_path / "cifar-10-batches-py", monkeypatch)
    data = load_data_set("cifar10_ir10", data_root=folder, cache_dir=tmp_path / "cache")
    assert data.train.arrays is not None
    assert data.train.class_counts().tolist() == long_tail_counts(10, 20, 10).tolist()
    assert len(data.test) == 40
    assert data.class_names[3] == "name 3"


def test_cifar_is_downloaded_once(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import tarfile

    from torchvision.datasets import CIFAR10

    folder = _small(tmp_path / "cifar-10-batches-py", monkeypatch)
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(CIFAR10, "url", f"{web.url}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: Path(self.root, self.base_folder).is_dir())
    for _ in range(2):
        assert len(load_data_set("cifar10_ir10", cache_dir=tmp_path / "cache").test) == 40
    assert web.count("GET") == 1


def test_cifar_offline_says_what_to_copy(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"cifar-10-python.tar.gz could not be downloaded \(www.cs.toronto.edu cannot be"
    ):
        load_data_set("cifar10_ir10", cache_dir=tmp_path)


def test_cifar_that_is_not_there_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cifar-100-python\.tar\.gz"):
        load_data_set("cifar100_ir100", data_root=tmp_path)


def test_real_cifar(shared: Path, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "cifar").mkdir()
    for split in ("train", "test"):
        archive = shared / "data" / f"cifar10_{split}.tar"
        if not archive.is_file():
            pytest.skip("no CIFAR-10 images beside the repository")
        subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "cifar"], check=True)
    data = load_data_set("cifar10_ir100", data_root=tmp_path / "cifar", cache_dir=tmp_path / "cache")
    assert data.train.class_counts().tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert data.test.class_counts().tolist() == [1000] * 10
