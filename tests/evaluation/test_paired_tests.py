"""McNemar's exact test and Holm's correction: against their definitions, against scipy, and how often they are wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from fastlift.evaluation.paired_tests import PairedTest, compare, holm, mcnemar, p_text, same_images
from fastlift.evaluation.per_image import PerImage


def _exact(first: int, second: int) -> float:
    """By whole numbers: twice the sum of binomials up to the rarer side, at most 1."""
    n, least = first + second, min(first, second)
    return float(min(Fraction(1), 2 * Fraction(sum(math.comb(n, k) for k in range(least + 1)), 2**n)))


@pytest.mark.parametrize(
    "counts", [(0, 0), (0, 1), (1, 0), (0, 6), (5, 5), (3, 9), (9, 3), (44, 54), (10, 200), (700, 650)]
)
def test_the_p_value_is_the_exact_one(counts: tuple[int, int]) -> None:
    first, second = counts
    assert mcnemar(first, second) == pytest.approx(_exact(first, second), rel=1e-9)
    # As statsmodels' mcnemar(exact=True) defines it.
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * binom.cdf(min(counts), sum(counts), 0.5)), rel=1e-9)
    if sum(counts):
        assert mcnemar(first, second) == pytest.approx(binomtest(first, sum(counts), 0.5).pvalue, rel=1e-9)


def test_a_published_example() -> None:
    """A. Agresti, Categorical Data Analysis: 86 of 944 change one way, 150 the other; z^2 = 17.36 with a p below 0.0001."""
    assert mcnemar(86, 150) == pytest.approx(3.7e-5, rel=0.1)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def said(predicted: list[int], labels: list[int]) -> PerImage:
    count = len(labels)
    ones = np.ones(count, dtype=np.float32)
    return PerImage(np.arange(count), np.array(labels, np.int32), np.array(predicted, np.int32), ones, ones)


def test_images_are_counted_by_group() -> None:
    labels = [0, 0, 0, 1, 1, 2]
    first = said([0, 0, 1, 1, 0, 0], labels)  # right: 0, 1, 3
    second = said([1, 0, 0, 1, 1, -1], labels)  # right: 1, 2, 3, 4
    groups = {
        "overall": np.array([True, True, True]),
        "many": np.array([True, False, False]),
        "few": np.array([False, True, True]),
        "none": np.zeros(3, dtype=bool),
    }
    (tests,) = compare(first, [second], groups)
    assert list(tests) == ["overall", "many", "few"]
    assert tests["overall"] == PairedTest(6, 1, 2, 1.0, 1.0)
    assert tests["many"] == PairedTest(3, 1, 1, 1.0, 1.0)
    assert tests["few"] == PairedTest(3, 0, 1, 1.0, 1.0)
    assert tests["overall"].difference == pytest.approx(100 / 6)
    assert tests["many"].difference == 0


def test_holm_is_over_those_that_are_compared() -> None:
    labels = [0] * 40
    first, better = said([1] * 40, labels), said([0] * 8 + [1] * 32, labels)
    alike = said([0] * 2 + [1] * 38, labels)
    groups = {"overall": np.array([True, True])}
    one, other = (tests["overall"] for tests in compare(first, [better, alike], groups))
    assert (one.p, one.adjusted) == (pytest.approx(2 / 2**8), pytest.approx(4 / 2**8))
    assert other.p == other.adjusted == 0.5
    assert not one.by_chance
    assert other.by_chance


def test_other_images_are_not_the_same() -> None:
    one = said([0, 1], [0, 1])
    assert same_images(one, said([1, 1], [0, 1]))
    assert not same_images(one, said([0, 1], [1, 1]))
    assert not same_images(one, replace(one, rows=np.array([0, 2])))


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ((0, 0), "both have the same test images right"),
        ((5, 5), "each has 5 test images right that the other has wrong: no difference (p = 1.00)"),
        ((44, 54), "the difference of 1.0 points is within what chance in the test images explains (p = 0.36)"),
        ((54, 44), "the difference of 1.0 points is within what chance in the test images explains (p = 0.36)"),
        ((2, 12), "the difference of 1.0 points is more than chance in the test images explains (p = 0.013)"),
        ((0, 100), "the difference of 10.0 points is more than chance in the test images explains (p < 0.0001)"),
    ],
)
def test_a_plain_sentence(counts: tuple[int, int], told: str) -> None:
    p = mcnemar(*counts)
    assert PairedTest(1000, *counts, p, p).sentence() == told
    assert p_text(0.0499) == "p = 0.0499"
    assert p_text(0.051) == "p = 0.051"


def test_two_equal_models_are_told_apart_in_5_of_100_test_sets_at_most() -> None:
    """Exactly: of n images that one of them alone has right, all splits with their probabilities."""
    for n in (5, 20, 100, 401):
        splits = np.arange(n + 1)
        refused = np.array([mcnemar(int(k), int(n - k)) < 0.05 for k in splits])
        share = binom.pmf(splits, n, 0.5)[refused].sum()
        assert share <= 0.05
        assert n < 20 or share > 0.025  # and it does not hide in caution
