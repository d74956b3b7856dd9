"""Imbalance ratio and head-to-tail ratio as choices: the numbers of images, the images that sets share, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift import recipes
from fastlift.data import pack
from fastlift.data.datasets import shapes_lt
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.cifar import draw_long_tail
from fastlift.data.datasets.long_tail import TailSettings, head_tail_counts
from fastlift.errors import UserError


def _published(classes: int, largest: int, smallest: float, heads: int) -> list[int]:
    """The counts of LT-Soups' controlled study, class by class."""

    def fall(first: float, last: float, count: int) -> list[int]:
        return [int(last + (first - last) * math.exp(-5 * k / (count - 1))) for k in range(count)]

    return fall(largest, 101, heads) + fall(100, smallest, classes - heads)


@pytest.mark.parametrize("ratio", [50, 100, 250])
@pytest.mark.parametrize("percent", [95, 90, 80, 50, 10, 5])
def test_cifar100_is_cut_as_in_the_controlled_study(ratio: int, percent: int) -> None:
    counts = head_tail_counts(100, 500, ratio, percent / 100)
    assert counts.tolist() == _published(100, 500, 500 / ratio, percent)
    assert (counts > 100).sum() == percent
    assert (counts[0], counts[percent], counts[-1]) == (500, 100, 500 // ratio)
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("ratio", [1, 1.5, 10, 64, 100, 200])
def test_one_fall_has_the_ratio_that_is_asked_for(ratio: float) -> None:
    counts = sorted(shapes_lt.class_counts(TailSettings(imbalance_ratio=ratio)), reverse=True)
    assert (counts[0], counts[-1]) == (200, int(200 / ratio + 1e-9))
    assert counts[31] == pytest.approx(200 * ratio ** (-31 / 63), abs=1)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.5, 0.9, 0.98])
@pytest.mark.parametrize(("largest", "ratio"), [(200, 100.0), (200, 80.0), (300, 3.0), (102, 1.02)])
def test_the_head_is_a_share_of_the_classes(share: float, largest: int, ratio: float) -> None:
    counts = np.array(shapes_lt.class_counts(TailSettings(ratio, share, largest)))
    assert (counts > 100).sum() == round(64 * share)
    assert (counts.max(), counts.min()) == (largest, int(largest / ratio))


def test_a_class_has_the_same_place_at_any_ratio() -> None:
    usual = np.array(shapes_lt.class_counts())
    other = np.array(shapes_lt.class_counts(TailSettings(50.0, 0.5, 300)))
    larger = usual[:, None] > usual
    assert larger.sum() > 1500
    assert (other[:, None] >= other)[larger].all()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache for sets of few images: a class has a fiftieth of what is asked for, and one at least."""
    whole = shapes_lt.class_counts
    monkeypatch.setattr(shapes_lt, "TEST_PER_CLASS", 1)
    monkeypatch.setattr(shapes_lt, "class_counts", lambda tail: tuple(1 + n // 50 for n in whole(tail)))
    return tmp_path


def test_sets_of_other_ratios_share_images_and_the_test_split(small: Path) -> None:
    usual = shapes_lt.prepare(small, progress=lambda *_: None)
    tail = TailSettings(imbalance_ratio=50, head_share=0.9, largest_class=300)
    other = shapes_lt.prepare(small, tail, progress=lambda *_: None)
    assert (usual.name, other.name) == ("shapes_lt_v3", "shapes_lt_v3_max300_ir50_head0.9")
    for folder in (usual, other):
        assert (folder / "test.txt").read_bytes() == (usual / "test.txt").read_bytes()
    both = [path.relative_to(usual) for path in usual.rglob("*.jpg") if (other / path.relative_to(usual)).is_file()]
    assert len(both) == len(list(usual.rglob("*.jpg")))  # no class has fewer images in the other one
    assert all((usual / path).read_bytes() == (other / path).read_bytes() for path in both)


def test_a_set_is_loaded_as_it_is_asked_for(small: Path) -> None:
    data = load_data_set("shapes_lt", cache_dir=small, imbalance_ratio=50, head_share=0.5)
    assert data.train.class_counts().tolist() == list(shapes_lt.class_counts(TailSettings(50, 0.5)))
    assert data.train.root == small / "shapes_lt_v3_ir50_head0.5"
    assert data.settings is not None
    assert (data.settings["imbalance_ratio"], data.settings["head_share"]) == (50, 0.5)
    config = recipes.lift(data)
    assert (config.data.imbalance_ratio, config.data.head_share, config.data.largest_class) == (50, 0.5, 200)
    with pytest.raises(UserError, match="head_share: the data set is given as an object"):
        recipes.lift(data, head_share=0.9)


def test_a_pack_of_another_ratio_is_not_taken_for_this_one(small: Path) -> None:
    tail: dict[str, Any] = {"imbalance_ratio": 50, "cache_dir": small}
    pack.run("shapes_lt", small / "pack", **tail)
    expected = load_data_set("shapes_lt", **tail)
    found = load_data_set("shapes_lt", data_root=small / "pack", val_share=0.3, **tail)
    assert found.val is not None
    assert len(found.train) + len(found.val) == len(expected.train)
    with pytest.raises(UserError, match=r"pack holds shapes_lt with 5 down to 1 .* not 7 down to 1 .* packed with"):
        load_data_set("shapes_lt", data_root=small / "pack", cache_dir=small, largest_class=300)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"imbalance_ratio": 0.5}, "imbalance_ratio: expected 1 or more"),
        ({"imbalance_ratio": 201}, "the smallest class would have 200 / 201 images, less than one"),
        ({"head_share": 1.0}, "head_share: expected a number in"),
        (
            {"head_share": 0.5, "largest_class": 100, "imbalance_ratio": 50},
            "the largest class 100: raise --largest-class",
        ),
        ({"head_share": 0.5, "imbalance_ratio": 1.5}, "the smallest class 133.333: raise the imbalance ratio"),
        ({"head_share": 0.001}, "of 64 classes is 0 classes, which leaves no head"),
        ({"head_share": 0.999}, "of 64 classes is 64 classes, which leaves no tail"),
        ({"largest_class": 0, "imbalance_ratio": 1}, "largest_class: expected a whole number from 1 to 5000"),
        ({"name": "cifar100_ir50", "imbalance_ratio": 20}, r"would change nothing here.*CIFAR-LT: in its name"),
        ({"name": "folder", "head_share": 0.5}, "head_share 0.5 would change nothing here"),
    ],
)
def test_what_no_set_can_have_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_data_set(**{"name": "shapes_lt", "cache_dir": tmp_path, **settings})
    assert not list(tmp_path.iterdir())


def test_what_no_set_can_have_is_refused_with_the_settings_of_a_run() -> None:
    with pytest.raises(UserError, match="less than one"):
        recipes.lift(imbalance_ratio=201)
    assert recipes.lift(imbalance_ratio=50, head_share=0.9).data.head_share == 0.9


def test_cifar_with_a_head_keeps_the_first_of_the_papers_shuffle() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 400))
    kept, usual = draw_long_tail(labels, 50, 0.3), draw_long_tail(labels, 1)
    counts = np.bincount(labels[kept])
    assert counts.tolist() == head_tail_counts(10, 400, 50, 0.3).tolist()
    for label in range(10):
        expected = usual[labels[usual] == label][: counts[label]]
        assert kept[labels[kept] == label].tolist() == expected.tolist()
