"""Every interval that users see holds the truth in 95 of 100 cases, for several sizes, on simulated data; narrower ones are found.

Bounds are 2.6 standard errors of the simulation; where all outcomes can be summed up, the coverage is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom

from fastlift.evaluation import intervals
from fastlift.evaluation.intervals import (
    Interval,
    mean_of_classes,
    middle,
    newcombe,
    paired_difference,
    student,
    welch,
    wilson,
)

CASES = 600
MISS = 2.6 * (0.95 * 0.05 / CASES) ** 0.5  # 0.023
Z_OF_90 = 1.6448536269514722


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 1000)


@pytest.fixture
def of_90_percent(monkeypatch: pytest.MonkeyPatch, fewer_draws: None) -> None:
    """The fault that these tests are for: intervals that hold 90 %."""

    def too_narrow(draws: np.ndarray) -> Interval:
        low, high = np.quantile(draws, [0.05, 0.95])
        return float(low), float(high)

    monkeypatch.setattr(intervals, "middle", too_narrow)
    monkeypatch.setattr(intervals, "Z", Z_OF_90)


def _share_held(truth: float, found: Callable[[], Interval], cases: int = CASES) -> float:
    bounds = np.array([found() for _ in range(cases)])
    return float(((bounds[:, 0] - 1e-12 <= truth) & (truth <= bounds[:, 1] + 1e-12)).mean())


def _of_wilson(images: int) -> float:
    """Mean over accuracies from 5 to 95 %, of all numbers of right images with their probabilities."""
    right = np.arange(images + 1)
    bounds = np.array([wilson(k, images) for k in right])
    truths = np.linspace(0.05, 0.95, 181)
    held = [binom.pmf(right, images, p)[(bounds[:, 0] <= p) & (p <= bounds[:, 1])].sum() for p in truths]
    return float(np.mean(held))


@pytest.mark.parametrize("images", [10, 24, 50, 200, 1536])
def test_wilson(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _of_wilson(images) == pytest.approx(0.95, abs=0.01)
    monkeypatch.setattr(intervals, "Z", Z_OF_90)
    assert _of_wilson(images) == pytest.approx(0.90, abs=0.015)


SIZES = [(3, 60), (5, 32), (24, 32), (50, 10)]  # images a class, classes


def _of_class_means(images: int, classes: int) -> float:
    generator = np.random.default_rng(images)
    truth, counts = generator.uniform(0.2, 0.9, classes), np.full(classes, images)
    return _share_held(truth.mean(), lambda: mean_of_classes(generator.binomial(counts, truth), counts))


@pytest.mark.parametrize(("images", "classes"), SIZES)
@pytest.mark.usefixtures("fewer_draws")
def test_means_over_classes(images: int, classes: int) -> None:
    assert _of_class_means(images, classes) == pytest.approx(0.95, abs=MISS)


@pytest.mark.usefixtures("of_90_percent")
def test_means_over_classes_that_are_too_narrow_are_found() -> None:
    assert _of_class_means(24, 32) < 0.95 - MISS


@pytest.mark.usefixtures("fewer_draws")
def test_classes_of_one_image_among_others() -> None:
    """Which tell nothing of their own spread; the interval may be wider, and is not narrower."""
    generator = np.random.default_rng(3)
    counts = np.array([1] * 20 + [10] * 20)
    truth = generator.uniform(0.2, 0.9, len(counts))
    held = _share_held(truth.mean(), lambda: mean_of_classes(generator.binomial(counts, truth), counts))
    assert held >= 0.95 - MISS


def _of_pairs(images: int, classes: int, pooled: bool) -> float:
    generator = np.random.default_rng(images)
    counts = np.full(classes, images)
    both, first, second = generator.uniform([[0.4], [0.02], [0.03]], [[0.7], [0.10], [0.20]], (3, classes))
    shares = np.stack([both, first, second, 1 - both - first - second], axis=1)

    def found() -> Interval:
        drawn = generator.multinomial(counts, shares)
        return paired_difference(drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2], drawn[:, 0], counts, pooled)

    return _share_held(float((second - first).mean()), found)


@pytest.mark.parametrize(("images", "classes"), [(4, 32), (24, 16)])
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.usefixtures("fewer_draws")
def test_differences_on_the_same_images(images: int, classes: int, pooled: bool) -> None:
    assert _of_pairs(images, classes, pooled) == pytest.approx(0.95, abs=MISS)


@pytest.mark.usefixtures("of_90_percent")
def test_differences_that_are_too_narrow_are_found() -> None:
    assert _of_pairs(24, 32, pooled=True) < 0.95 - MISS


@pytest.mark.parametrize(("first", "second"), [(50, 80), (500, 500)])
def test_newcombe_on_other_images(first: int, second: int) -> None:
    generator = np.random.default_rng(first)

    def found() -> Interval:
        one, other = generator.binomial(first, 0.6) / first, generator.binomial(second, 0.7) / second
        return newcombe(wilson(one * first, first), wilson(other * second, second), one, other)

    assert _share_held(0.1, found, 3000) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_student_over_seeds(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    draw = partial(generator.normal, 63.0, 1.2, seeds)
    assert _share_held(63.0, lambda: student(draw()), 2000) == pytest.approx(0.95, abs=0.013)


def test_the_normal_distribution_in_place_of_students_is_found() -> None:
    generator = np.random.default_rng(3)

    def normal() -> Interval:
        values = generator.normal(63.0, 1.2, 3)
        half = intervals.Z * values.std(ddof=1) / 3**0.5
        return values.mean() - half, values.mean() + half

    assert _share_held(63.0, normal, 2000) < 0.87


@pytest.mark.parametrize(("first", "second"), [(3, 3), (3, 5)])
def test_welch_over_seeds_of_two_settings(first: int, second: int) -> None:
    """Of unlike spreads. With three seeds each it is known to hold a little more than it says."""
    generator = np.random.default_rng(first + second)
    held = _share_held(2.0, lambda: welch(generator.normal(60, 1.0, first), generator.normal(62, 2.0, second)), 2000)
    assert 0.935 <= held <= 0.975


def test_the_middle_of_draws_is_95_of_100() -> None:
    assert middle(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))
