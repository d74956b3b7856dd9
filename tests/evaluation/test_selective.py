"""Thresholds against a search over all of them, and what they accept."""

from __future__ import annotations

import numpy as np
import pytest

from fastlift.errors import UserError
from fastlift.evaluation.intervals import wilson
from fastlift.evaluation.selective import selective, threshold_by_accuracy, threshold_by_rejection


def answers(images: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences, of which several are equal; an answer is right about as often as it says; weights of two kinds."""
    generator = np.random.default_rng(seed)
    confidence = np.round(generator.uniform(0.1, 1.0, images), 2)
    right = generator.random(images) < confidence
    weights = np.where(generator.random(images) < 0.3, 3.0, 1.0)
    return confidence, right, weights / weights.sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.9])
def test_at_most_this_share_of_right_answers_is_turned_away(share: float, seed: int) -> None:
    confidence, right, weights = answers(seed=seed)
    threshold = threshold_by_rejection(confidence, right, weights, share)

    def rejected(t: float) -> float:
        return weights[right & (confidence < t)].sum() / weights[right].sum()

    assert rejected(threshold) <= share
    higher = [t for t in np.unique(confidence) + 1e-6 if rejected(t) <= share]
    assert not higher or max(higher) <= threshold + 0.0101, "the next confidence above would turn away more"
    assert threshold not in confidence


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("accuracy", [0.6, 0.8, 0.9])
def test_the_accepted_are_right_often_enough(accuracy: float, seed: int) -> None:
    confidence, right, weights = answers(seed=seed)
    threshold = threshold_by_accuracy(confidence, right, weights, accuracy)

    def reached(t: float) -> float:
        return weights[right & (confidence >= t)].sum() / weights[confidence >= t].sum()

    assert reached(threshold) >= accuracy
    assert all(reached(t) < accuracy for t in np.unique(confidence) if t < threshold)


def test_where_all_may_be_accepted_there_is_no_threshold() -> None:
    confidence, _, weights = answers()
    assert threshold_by_accuracy(confidence, np.ones(200, dtype=bool), weights, 0.99) == 0.0


def test_goals_that_no_threshold_reaches() -> None:
    confidence, right, weights = answers()
    right[confidence == confidence.max()] = False
    with pytest.raises(UserError, match=r"selective_accuracy: 0\.999 is reached with no threshold.*reach 0\.9\d\d"):
        threshold_by_accuracy(confidence, right, weights, 0.999)
    with pytest.raises(UserError, match="no validation image is right"):
        threshold_by_rejection(confidence, np.zeros(200, dtype=bool), weights, 0.1)


def test_what_a_threshold_accepts() -> None:
    confidence, right = np.array([0.9, 0.8, 0.4, 0.3]), np.array([True, False, True, False])
    found = selective(confidence, right, np.full(4, 0.25), 0.5)
    assert (found.coverage, found.selective_accuracy, found.right_rejected) == (50.0, 50.0, 50.0)
    assert found.coverage_interval == pytest.approx([100 * end for end in wilson(2, 4)])
    assert found.selective_accuracy_interval == pytest.approx([100 * end for end in wilson(1, 2)])
    weighted = selective(confidence, right, np.array([0.7, 0.1, 0.1, 0.1]), 0.5)
    assert (weighted.coverage, weighted.selective_accuracy, weighted.right_rejected) == pytest.approx(
        (80.0, 87.5, 12.5)
    )
    worth = 1 / (0.7**2 + 3 * 0.1**2)  # images, by Kish's formula
    assert weighted.coverage_interval == pytest.approx([100 * end for end in wilson(0.8 * worth, worth)])
    none = selective(confidence, right, np.full(4, 0.25), 0.95)
    assert (none.coverage, none.selective_accuracy, none.right_rejected) == (0.0, None, 100.0)
