"""Runs on data sets that are handed over as objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import Told
from PIL import Image

import fastlift
from fastlift import recipes
from fastlift.data import from_dataset, from_folder, from_imagefolder
from fastlift.engine.evaluate import evaluate_run

SMALL: dict[str, Any] = {"model": "shapes-clip", "epochs": 1, "device": "cpu", "amp": "fp32", "batch_size": 4}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(5):
            pixels = random.integers(0, 256, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{k}.png")
    return tmp_path / "photos"


def test_what_can_be_named_is_in_the_config(photos: Path) -> None:
    config = recipes.lift(dataset=from_folder(photos, val_share=0.2, split_seed=3), **SMALL)
    assert config.given is None
    data = config.data
    assert (data.dataset, data.data_root, data.val_share, data.split_seed) == ("folder", str(photos), 0.2, 3)
    with pytest.raises(fastlift.UserError, match="val_share: the data set is given as an object"):
        recipes.lift(dataset=from_folder(photos), val_share=0.2)


def test_a_run_on_an_object(photos: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    data, run = from_dataset(ImageFolder(photos)), tmp_path / "run"
    config = recipes.lift(dataset=data, **SMALL)
    assert config.given is data
    done = fastlift.train(config, output=run)
    stored = json.loads((run / "config.json").read_text())
    assert stored["data"]["dataset"] == "python"
    assert stored.keys() == {"recipe", "data", "model", "training", "run"}
    (run / "results.json").unlink()
    again = fastlift.train(recipes.lift(**SMALL), dataset=data, output=run, resume=True)
    assert again.metrics == done.metrics
    rows = evaluate_run(run, dataset=data)
    assert rows["center"]["accuracy"] == done.metrics.accuracy
    with pytest.raises(fastlift.UserError, match="came from Python, so no file tells it: make it there again"):
        evaluate_run(run)


def test_a_run_on_files_of_an_object_needs_no_object_afterwards(photos: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    run = tmp_path / "run"
    done = fastlift.train(recipes.lift(dataset=from_imagefolder(ImageFolder(photos)), **SMALL), output=run)
    told = Told()
    rows = evaluate_run(run, ui=told)
    assert rows["center"]["accuracy"] == done.metrics.accuracy
    assert list(rows) == ["center"]  # the same images: no other fingerprint in its name
    assert "these are not" not in told.text
    assert (run / "splits" / "test.txt").read_text().count("\n") == 2
