"""95 % intervals: of an accuracy, of a mean over classes, of the difference of two models, of two settings over seeds.

Legend: C classes, D draws. Rates and differences are fractions here, not percent. Loads no torch.

What each says: where the figure would lie if ever more images of the same kind were tested, which chance in the choice of these
leaves open. Seeds come in addition, and only ``welch`` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # of the normal distribution, 97.5 %
DRAWS = 10_000
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

    Of the n images of a class n - 1 are drawn anew with replacement, D times, which gives the mean the variance that it has;
    n of them would give (n - 1) / n of it, and classes of few images intervals that miss. The interval holds the middle 95 % of
    the means. Classes of one image are drawn as one. Where all images, or none, are right, nothing varies, and Wilson's
    interval of all images together is given.

    Source: J. N. K. Rao, C. F. J. Wu, JASA 83 (1988) 231.
    """
    if not right.any() or np.array_equal(right, images):
        return wilson(float(right.sum()), float(images.sum()))
    means = np.zeros(DRAWS)
    generator = np.random.default_rng(0)
    for (of_stratum,), of, trials, weight in _strata(right, images=images):
        means += weight * generator.binomial(trials, of_stratum / of, DRAWS)
    return middle(means / len(right))


def paired_difference(first: Counts, second: Counts, both: Counts, images: Counts, pooled: bool) -> Interval:
    """Of second - first for two models and the same images: bootstrap as of a mean, both answers of an image together.

    Args:
        first, second, both: images [C] that one, the other, and both have right.
        images: of each class, > 0.
        pooled: of the accuracy over all images; else of the mean over the classes.
    """
    sums = np.zeros(DRAWS)
    generator = np.random.default_rng(0)
    for (one, other), of, trials, weight in _strata(first - both, second - both, images=images, pooled=pooled):
        if one or other:
            drawn = generator.multinomial(trials, [one / of, other / of, (of - one - other) / of], DRAWS)
            sums += weight * (drawn[:, 1] - drawn[:, 0])
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


def _strata(*counts: Counts, images: Counts, pooled: bool = False) -> Iterator[tuple[list[int], int, int, float]]:
    """(counts, of so many images, images to draw, weight of each) of classes that are drawn together.

    Those are classes of the same counts, since what a binomial gives twice is what one of twice the images gives, and all
    classes of one image. The weights make sums over classes of what is drawn: of shares, or, ``pooled``, of images.
    """
    single = images == 1
    found, classes = np.unique(np.stack([*counts, images], axis=1)[~single], axis=0, return_counts=True)
    for (*of_class, n), alike in zip(found.tolist(), classes.tolist(), strict=True):
        yield of_class, n, alike * (n - 1), (n if pooled else 1) / (n - 1)
    if of := int(single.sum()):
        trials = max(1, of - 1)
        yield [int(column[single].sum()) for column in counts], of, trials, of / trials


def middle(draws: NDArray[np.float64]) -> Interval:
    """The middle 95 % of draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
