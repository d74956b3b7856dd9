"""Subsets of each class, nested and balanced over the draws, and counts on images that were held out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from advice.clouds import clouds
from torch import Tensor

from fastlift.advice.learning_curves import DRAWS, LEVELS, fits, measure
from fastlift.advice.probe import Probe

COUNTS = [60, 33, 10, 2, 1]


class Noted(Probe):
    """A probe that keeps the images it was fitted on."""

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        seen.append(features[:, 0].tolist())
        return super().fit(features, labels)


seen: list[list[float]] = []


@pytest.fixture
def noted() -> Noted:
    seen.clear()
    return Noted(None, 0.1, len(COUNTS))


def numbered(counts: list[int]) -> tuple[Tensor, Tensor]:
    """Features whose first number tells the image apart."""
    features, labels, _ = clouds(counts)
    return features, labels


def test_levels_are_halves_of_the_images() -> None:
    features, labels = numbered(COUNTS)
    counts = measure(Probe(None, 0.1, 5), features, labels, None, seed=0)
    np.testing.assert_allclose(counts.images[0], [48, 24, 12, 6, 3])
    np.testing.assert_allclose(counts.images[2], [8, 4, 2, 1, 1])
    assert counts.held.tolist() == COUNTS  # each image is held out once
    assert not counts.apart


def test_right_answers_differ_by_what_was_gained_and_lost() -> None:
    features, labels, _ = clouds([40, 20, 9], spread=0.6)
    counts = measure(Probe(None, 0.1, 3), features, labels, None, seed=0)
    np.testing.assert_array_equal(counts.right[:, :1] - counts.right, counts.gained - counts.lost)
    assert (counts.right <= counts.held[:, None]).all()
    assert counts.gained[:, 0].sum() == counts.lost[:, 0].sum() == 0


def test_each_class_passes_each_level_once_a_draw(noted: Noted) -> None:
    features, labels = numbered(COUNTS)
    label_of = dict(zip(features[:, 0].tolist(), labels.tolist(), strict=True))
    measure(noted, features, labels, None, seed=0)
    assert len(seen) == fits() == DRAWS * LEVELS
    for draw in range(DRAWS):
        steps = seen[draw * LEVELS : (draw + 1) * LEVELS]
        for label, sizes in ((0, [3, 6, 12, 24, 48]), (2, [1, 1, 2, 4, 8])):
            sets = sorted(({one for one in step if label_of[one] == label} for step in steps), key=len)
            assert [len(one) for one in sets] == sizes
            assert all(small <= large for small, large in itertools.pairwise(sets))  # nested


def test_no_image_is_counted_that_was_seen(noted: Noted, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = numbered(COUNTS)
    asked: list[list[float]] = []

    def watched(weight: Tensor, images: Tensor) -> Tensor:
        asked.append(images[:, 0].tolist())
        return (images @ weight.T).argmax(dim=1)

    monkeypatch.setattr("fastlift.advice.learning_curves.predicted", watched)
    measure(noted, features, labels, None, seed=0)
    for fitted, tested in zip(seen, asked, strict=True):
        assert not set(fitted) & set(tested)


def test_a_validation_split_is_counted_on_instead() -> None:
    features, labels = numbered(COUNTS)
    val, val_labels, _ = clouds([4, 4, 4, 4, 4], seed=0)
    counts = measure(Probe(None, 0.1, 5), features, labels, (val, val_labels), seed=0)
    assert counts.apart
    assert counts.held.tolist() == [4 * DRAWS] * 5
    assert counts.images[:, 0].tolist() == COUNTS


def test_the_same_seed_counts_the_same() -> None:
    features, labels = numbered(COUNTS)
    one, again = (measure(Probe(None, 0.1, 5), features, labels, None, seed=3).right for _ in range(2))
    np.testing.assert_array_equal(one, again)


def test_more_images_are_better_where_they_are() -> None:
    """Clouds that a class mean of one image misses: accuracy rises with the images."""
    features, labels, _ = clouds([64] * 6, spread=0.45, width=24)
    counts = measure(Probe(None, 0.1, 6), features, labels, None, seed=0)
    accuracy = counts.right.sum(axis=0) / counts.held.sum()
    assert accuracy[0] > accuracy[-1] + 0.05
    assert torch.isfinite(torch.tensor(accuracy)).all()
