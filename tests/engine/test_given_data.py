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
    rows = fastlift.evaluate_run(run, dataset=data)
    assert rows["center"]["accuracy"] == done.metrics.accuracy
    with pytest.raises(
        fastlift.UserError, match=r"came from Python, so no file tells it: .* fastlift\.evaluate_run\(RUN, "
    ):
        evaluate_run(run)


def test_a_run_is_evaluated_on_other_images_of_its_classes(photos: Path, tmp_path: Path) -> None:
    """By the groups of its own training, under a name of their own; others' classes are refused."""
    run = tmp_path / "run"
    done = fastlift.train(recipes.lift(dataset=from_folder(photos), **SMALL, group_boundaries=(2, 3)), output=run)
    for name in ("ant", "bee"):
        for k in range(2):  # it was trained on 4 of each
            (photos / name / f"{k}.png").unlink()
    others = from_folder(photos, test_share=0.5)
    rows = fastlift.evaluate_run(run, dataset=others)
    name = f"center (images {others.test.fingerprint[:8]})"
    assert list(rows) == [name]
    assert rows[name]["samples"] == len(others.test)
    assert rows[name]["group_sizes"] == done.results["metrics"]["group_sizes"] == {"many": 2, "medium": 0, "few": 0}
    assert json.loads((run / "results.json").read_text())["evaluations"].keys() == {"center", name}
    (photos / "bee").rename(photos / "wasp")
    with pytest.raises(fastlift.UserError, match="the data set has other classes than"):
        fastlift.evaluate_run(run, dataset=from_folder(photos))


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
