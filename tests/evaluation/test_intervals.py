"""Intervals: published values, coverage of what they promise, and the edges where nothing varies."""

import numpy as np
import pytest

from fastlift.evaluation.intervals import mean_of_classes, newcombe, paired_difference, welch, wilson


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (29, 29, 0.8830, 1.0)],
)  # fmt: skip
def test_wilson_is_newcombes_table(right: int, images: int, low: float, high: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3."""
    assert wilson(right, images) == pytest.approx((low, high), abs=6e-5)


def test_no_images_tell_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_newcombe_of_two_shares() -> None:
    """56 of 70 less 48 of 80: 0.0524 to 0.3339. Newcombe, as above 873, table II, method 10."""
    low, high = newcombe(wilson(48, 80), wilson(56, 70), 48 / 80, 56 / 70)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=6e-5)


def test_the_mean_over_classes_varies_as_its_binomials_do() -> None:
    right, images = np.array([10, 40, 3]), np.array([20, 50, 30])
    low, high = mean_of_classes(right, images)
    shares = right / images
    error = np.sqrt((shares * (1 - shares) / (images - 1)).sum()) / 3
    assert (low + high) / 2 == pytest.approx(shares.mean(), abs=0.1 * error)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.04)
    assert mean_of_classes(right, images) == (low, high)  # drawn the same each time


def test_where_nothing_varies_wilson_has_the_word() -> None:
    images = np.array([10, 30])
    assert mean_of_classes(np.zeros(2, np.int64), images) == wilson(0, 40)
    assert mean_of_classes(images, images) == wilson(40, 40)


@pytest.mark.parametrize("pooled", [True, False])
def test_pairs_count_only_where_two_models_differ(pooled: bool) -> None:
    """Two models that are right on nearly the same images: far narrower than from two test sets."""
    images = np.array([100, 300])
    first, second = np.array([50, 150]), np.array([55, 160])
    both = np.array([48, 145])
    low, high = paired_difference(first, second, both, images, pooled)
    difference = (15 / 400) if pooled else (5 / 100 + 10 / 300) / 2
    assert low < difference < high
    assert (low + high) / 2 == pytest.approx(difference, abs=0.004)
    apart = newcombe(wilson(200, 400), wilson(215, 400), 0.5, 215 / 400)
    assert high - low < 0.6 * (apart[1] - apart[0])
    assert paired_difference(first, first, first, images, pooled) == (0.0, 0.0)


def test_welch_is_that_of_a_table() -> None:
    """Against scipy's own test, which turns at the bound of the interval."""
    from scipy.stats import ttest_ind

    first, second = [20.0, 21.5, 22.1], [24.0, 23.1, 25.4, 26.0]
    low, high = welch(first, second)
    for bound in (low, high):
        assert ttest_ind(np.array(second) - bound, first, equal_var=False).pvalue == pytest.approx(0.05)
    assert welch([1.0, 1.0], [3.0, 3.0]) == (2.0, 2.0)
