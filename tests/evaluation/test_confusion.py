"""Confusions of classes: counts as a matrix has them, neighbours in bins, and an order that finds planted groups."""

import numpy as np
import pytest

from fastlift.evaluation.confusion import GROUP_SIZE, Confusions, likeness

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3], dtype=np.int32)
PREDICTED = np.array([0, 1, 1, 1, 0, 2, 0, 0, -1, 3], dtype=np.int32)


def test_counts_are_those_of_the_matrix() -> None:
    found = Confusions.of(LABELS, PREDICTED, 5)
    matrix = np.zeros((5, 5), dtype=np.int64)
    for label, predicted in zip(LABELS, PREDICTED, strict=True):
        if predicted >= 0:
            matrix[label, predicted] += 1
    assert np.array_equal(found.matrix(), matrix)
    assert found.images.tolist() == [3, 2, 4, 1, 0]
    assert found.right.tolist() == [1, 1, 1, 1, 0]
    assert list(zip(found.label.tolist(), found.predicted.tolist(), found.count.tolist(), strict=True)) == [
        (0, 1, 2),
        (2, 0, 2),
        (1, 0, 1),
    ]
    assert found.share.tolist() == pytest.approx([2 / 3, 0.5, 0.5])
    assert found.among(np.array([0, 1])).tolist() == [2, 1]


def test_bins_hold_the_mistakes_of_neighbours() -> None:
    found = Confusions.of(LABELS, PREDICTED, 4)
    every = found.binned(np.array([3, 2, 1, 0]), 9)
    assert every.shape == (4, 4)
    assert every[1, 3] == 0.5  # class 2 taken for class 0
    assert every.trace() == 0
    two = found.binned(np.array([0, 1, 2, 3]), 2)
    assert two.tolist() == [[3 / 5, 0], [2 / 5, 0]]


def planted(classes: int, size: int, seed: int = 0) -> tuple[Confusions, np.ndarray]:
    """Classes in groups of a size, scattered over the numbers; mistakes stay in the group, but for a few."""
    generator = np.random.default_rng(seed)
    group = generator.permutation(np.arange(classes) // size)
    labels = np.repeat(np.arange(classes), 30)
    predicted = labels.copy()
    for place in np.flatnonzero(generator.random(len(labels)) < 0.4):
        others = np.flatnonzero(group == group[labels[place]])
        predicted[place] = generator.choice(others) if generator.random() < 0.95 else generator.integers(classes)
    return Confusions.of(labels.astype(np.int32), predicted.astype(np.int32), classes), group


@pytest.mark.parametrize("classes", [40, 600])
def test_groups_that_are_taken_for_each_other_are_found(classes: int) -> None:
    confusions, group = planted(classes, 5)
    found = likeness(confusions)
    assert found is not None
    assert sorted(found.order.tolist()) == list(range(classes))
    assert sorted(tuple(one.tolist()) for one in found.groups) == sorted(
        tuple(np.flatnonzero(group == one).tolist()) for one in range(classes // 5)
    )
    turns = np.count_nonzero(np.diff(group[found.order]))  # each group once, in a row
    assert turns == classes // 5 - 1
    inside = [confusions.among(one).sum() for one in found.groups]
    assert inside == sorted(inside, reverse=True)


def test_a_group_is_never_too_large_to_read() -> None:
    confusions, _ = planted(60, 30)
    found = likeness(confusions)
    assert found is not None
    assert found.groups
    assert max(len(group) for group in found.groups) <= GROUP_SIZE


def test_what_has_no_likeness() -> None:
    assert likeness(Confusions.of(LABELS, LABELS, 4)) is None
    assert likeness(Confusions.of(LABELS, PREDICTED, 2001)) is None
