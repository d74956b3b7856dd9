"""Which images are right at which strength, against the argmax; the curve against plain metrics; the strength with the best figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from logits import counts_of, drawn

from fastlift.evaluation.calibration import By, log_prior
from fastlift.evaluation.intervals import wilson
from fastlift.evaluation.metrics import metrics_of
from fastlift.evaluation.tradeoff import GRID, Ranges, chosen_strength, curve, right_ranges, strengths_shown

COUNTS = [300, 150, 60, 60, 25, 8, 3]
PRIOR = log_prior(COUNTS)


@pytest.mark.parametrize("seed", range(5))
def test_an_image_is_right_where_its_class_is_the_largest(seed: int) -> None:
    """Two classes share a prior, so that no strength moves one past the other."""
    logits, labels = drawn(200, 7, seed, sharpness=1.0)
    ranges = right_ranges(logits, labels, PRIOR)
    strengths = np.array([-3.7, -1.0, -0.31, 0.0, 0.2, 1.0, 4.1])
    for place, strength in enumerate(strengths):
        predicted = (logits.double() + strength * PRIOR).argmax(dim=1)
        np.testing.assert_array_equal(ranges.right(strengths)[:, place], (predicted == labels).numpy())
    right = ranges.right(strengths)
    np.testing.assert_array_equal(
        ranges.right_of_class(strengths, 7), [right[(labels == c).numpy()].sum(axis=0) for c in range(7)]
    )


def test_logits_that_are_no_numbers_are_never_right() -> None:
    logits, labels = drawn(3, 7, sharpness=9.0)
    logits[1, 2] = torch.nan
    right = right_ranges(logits, labels, PRIOR).right(GRID)
    assert not right[1].any()
    assert right[0].any()


def test_the_curve_has_the_metrics_of_every_strength() -> None:
    logits, labels = drawn(300, 7, sharpness=1.0)
    labels[labels == 6] = 5  # a class without images has no part in any mean
    strengths = strengths_shown(0.0)
    found = curve(right_ranges(logits, labels, PRIOR), strengths, COUNTS)
    for place in (0, 11, 20, 50):
        shifted = logits.double() + strengths[place] * PRIOR
        metrics = metrics_of(counts_of(shifted, labels).counts(), COUNTS)
        for name, points in found.items():
            assert points["value"][place] == pytest.approx(getattr(metrics, name), abs=1e-3), (name, place)
            assert points["low"][place] <= points["value"][place] <= points["high"][place]
    assert set(found) == {"accuracy", "mean_class_accuracy", "many", "medium", "few"}
    assert "many" not in curve(right_ranges(logits, labels, PRIOR), strengths, [5] * 7)


def test_joined_batches_are_the_whole() -> None:
    logits, labels = drawn(50, 7)
    whole = right_ranges(logits, labels, PRIOR)
    parts = [right_ranges(z, y, PRIOR) for z, y in zip(logits.split(13), labels.split(13), strict=True)]
    joined = Ranges.joined(parts)
    for name in ("labels", "low", "high"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


@pytest.mark.parametrize("by", ["accuracy", "mean_class_accuracy", "harmonic_mean", "geometric_mean", "worst_class"])
def test_the_chosen_strength_has_the_best_figure_of_all(by: By) -> None:
    logits, labels = drawn(150, 7, sharpness=1.5)
    logits = logits + (0.8 * PRIOR).float()  # a model that leans to the head
    chosen, (low, high) = chosen_strength(right_ranges(logits, labels, PRIOR), by)
    figures = {
        strength: getattr(metrics_of(counts_of(logits.double() + strength * PRIOR, labels).counts(), COUNTS), by)
        for strength in [*GRID[::5].tolist(), chosen]
    }
    assert figures[chosen] >= max(figures.values()) - 1e-9
    assert low <= chosen <= high
    assert -1.6 < chosen < -0.2, "it undoes the lean"


def test_of_equal_ones_the_middle_of_the_widest_range() -> None:
    """One image that is right from -1 to 0.5, another one everywhere."""
    ranges = Ranges(np.array([0, 1]), np.array([-1.0, -np.inf]), np.array([0.5, np.inf]))
    chosen, _ = chosen_strength(ranges, "accuracy")
    assert chosen == pytest.approx(-0.25)


@pytest.mark.parametrize("fitted", [0.0, -1.83, 2.41])
def test_the_strengths_shown_hold_the_plain_model_and_the_fitted_one(fitted: float) -> None:
    shown = strengths_shown(fitted)
    assert 0.0 in shown
    assert shown[0] <= min(-1.0, fitted)
    assert shown[-1] >= max(1.5, fitted)
    np.testing.assert_allclose(np.diff(shown), 0.05, atol=1e-9)


def test_few_images_of_a_class_have_no_narrow_interval() -> None:
    """Within a class of one image nothing varies: twelve of them are worth twelve images, and no more."""
    one_each, many_each = (
        Ranges(np.arange(12), *_ends([1, 0] * 6)),
        Ranges(np.repeat(np.arange(12), 50), *_ends([1, 0] * 300)),
    )
    spans = [curve(ranges, np.array([0.0]), [30] * 12)["medium"] for ranges in (one_each, many_each)]
    assert [span["value"] for span in spans] == [[50.0], [50.0]]
    for end, expected in zip(("low", "high"), wilson(6, 12), strict=True):
        assert spans[0][end][0] == pytest.approx(100 * expected, abs=8)
    assert spans[1]["high"][0] - spans[1]["low"][0] < 10


def _ends(right: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of images that are right everywhere, or nowhere."""
    always = np.array(right, dtype=bool)
    return np.where(always, -np.inf, np.inf), np.where(always, np.inf, -np.inf)
