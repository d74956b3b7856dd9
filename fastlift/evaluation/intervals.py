"""95 % intervals: of an accuracy, of a mean over classes, of the difference of two models, of two settings over seeds.

Legend: C classes, D draws. Rates and differences are fractions here, not percent. Loads no torch.

What each says: where the figure would lie if ever more images of the same kind were tested, which chance in the choice of these
leaves open. Seeds come in addition, and only ``welch`` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # of the normal distribution, 97.5 %
DRAWS = 1000
Interval = tuple[float, float]
Counts = NDArray[np.int64]


def wilson(right: float, images: float) -> Interval:
    """Wilson's score interval of a share: never outside 0..1, and honest at 0 and 1.

    (k + z^2/2 +- z sqrt(k (n - k) / n + z^2/4)) / (n + z^2). Source: E. B. Wilson, JASA 22 (1927) 209.
    """
    if images <= 0:
        return 0.0, 1.0
    centre = right + Z**2 / 2
    half = Z * math.sqrt(max(0.0, right * (images - right) / images) + Z**2 / 4)
    low, high = (centre - half) / (images + Z**2), (centre + half) / (images + Z**2)
    return max(0.0, low), min(1.0, high)


def newcombe(first: Interval, second: Interval, first_share: float, second_share: float) -> Interval:
    """Of second - first, for two shares of different images, from their Wilson intervals.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 873, method 10.
    """
    difference = second_share - first_share
    low = difference - math.hypot(second_share - second[0], first[1] - first_share)
    high = difference + math.hypot(second[1] - second_share, first_share - first[0])
    return low, high


def mean_of_classes(right: Counts, images: Counts) -> Interval:
    """Of the mean accuracy of classes that have ``right`` [C] of ``images`` [C] > 0: bootstrap within each class.

    The images of a class are drawn anew with replacement, D times; the interval holds the middle 95 % of the means. Where all
    images, or none, are right, nothing varies, and Wilson's interval of all images together is given.
    """
    if not right.any() or np.array_equal(right, images):
        return wilson(float(right.sum()), float(images.sum()))
    means = np.zeros(DRAWS)
    generator = np.random.default_rng(0)
    for (of_class, n), classes in _alike(right, images):
        means += generator.binomial(classes * n, of_class / n, DRAWS) / n
    return middle(means / len(right))


def paired_difference(first: Counts, second: Counts, both: Counts, images: Counts, pooled: bool) -> Interval:
    """Of second - first for two models and the same images: bootstrap within each class, both answers of an image together.

    Args:
        first, second, both: images [C] that one, the other, and both have right.
        images: of each class, > 0.
        pooled: of the accuracy over all images; else of the mean over the classes.
    """
    only_first, only_second = first - both, second - both
    sums = np.zeros(DRAWS)
    generator = np.random.default_rng(0)
    for (one, other, n), classes in _alike(only_first, only_second, images):
        if one or other:
            drawn = generator.multinomial(classes * n, [one / n, other / n, (n - one - other) / n], DRAWS)
            sums += (drawn[:, 1] - drawn[:, 0]) / (1 if pooled else n)
    return middle(sums / (images.sum() if pooled else len(images)))


def welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Of mean(second) - mean(first), each over two seeds or more: Student's t with Welch's degrees of freedom.

    Source: B. L. Welch, Biometrika 34 (1947) 28.
    """
    from scipy.stats import t

    means = [float(np.mean(values)) for values in (first, second)]
    errors = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    difference, variance = means[1] - means[0], sum(errors)
    if variance == 0:
        return difference, difference
    below = sum(error**2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True))
    half = float(t.ppf(0.975, variance**2 / below)) * math.sqrt(variance)
    return difference - half, difference + half


def student(values: Sequence[float]) -> Interval:
    """Of the mean over ever more seeds, from two of them or more: mean +- t s / sqrt(n), Student's t with n - 1 degrees of freedom.

    Source: Student, Biometrika 6 (1908) 1.
    """
    from scipy.stats import t

    mean, half = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half *= float(t.ppf(0.975, len(values) - 1))
    return mean - half, mean + half


def _alike(*counts: Counts) -> list[tuple[list[int], int]]:
    """Classes of the same counts, drawn together: what a binomial gives twice is what one of twice the images gives."""
    found, classes = np.unique(np.stack(counts, axis=1), axis=0, return_counts=True)
    return list(zip(found.tolist(), classes.tolist(), strict=True))


def middle(draws: NDArray[np.float64]) -> Interval:
    """The middle 95 % of draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
