"""Whether two models differ by more than chance in the test images that both have answered: McNemar's exact test.

Loads no torch. A test over images counts what other images of the same kind would change, and no seeds: another seed of the
same training is another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastlift.evaluation.per_image import PerImage

ALPHA = 0.05


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same n test images.

    Attributes:
        images: n.
        only_first, only_second: images that one of them alone has right: these tell the models apart.
        p: of so many on the rarer side or fewer, on either side, if each of these images went to either model by a coin.
        adjusted: ``p`` by Holm's correction among the models that are compared with the first; ``p`` itself where it is one.
    """

    images: int
    only_first: int
    only_second: int
    p: float
    adjusted: float

    @property
    def difference(self) -> float:
        """Accuracy over these images, second less first, in points."""
        return 100 * (self.only_second - self.only_first) / self.images

    @property
    def by_chance(self) -> bool:
        """Whether chance in the test images explains the difference, at 5 %."""
        return self.adjusted >= ALPHA

    def sentence(self) -> str:
        """What the test says, for a reader."""
        if self.only_first == self.only_second == 0:
            return "both have the same test images right"
        told = p_text(self.adjusted)
        if self.only_first == self.only_second:
            return f"each has {self.only_first:,} test images right that the other has wrong: no difference ({told})"
        size = f"the difference of {abs(self.difference):.1f} points"
        if self.by_chance:
            return f"{size} is within what chance in the test images explains ({told})"
        return f"{size} is more than chance in the test images explains ({told})"


def p_text(p: float) -> str:
    """``p = 0.31``, ``p < 0.0001``."""
    if p < 1e-4:
        return "p < 0.0001"
    text = f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"
    return f"p = {text}" if (float(text) < ALPHA) == (p < ALPHA) else f"p = {p:.4f}"  # not rounded over the bound


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact p-value, on both sides, of so many images that one of two models alone has right.

    Of n = only_first + only_second images each goes to either model with probability 1/2 where they are equally good:
    p = min(1, 2 sum_{k <= min} C(n, k) / 2^n); 1 where n is 0.

    Source: Q. McNemar, Psychometrika 12 (1947) 153, with the binomial in place of its approximation.
    """
    from scipy.stats import binomtest

    n = only_first + only_second
    return float(binomtest(min(only_first, only_second), n, 0.5).pvalue) if n else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """p-values of m hypotheses so that the chance to refuse a true one among them stays what it is of one.

    In rising order: adjusted_i = max over j <= i of min(1, (m - j) p_j), j from 0. Source: S. Holm, Scand. J. Statistics 6 (1979) 65.
    """
    adjusted, highest = [1.0] * len(values), 0.0
    for place, at in enumerate(np.argsort(np.asarray(values), kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(values) - place) * values[at]))
        adjusted[at] = highest
    return adjusted


def same_images(first: PerImage, second: PerImage) -> bool:
    """Whether both were asked about the same rows of a split, with the same labels."""
    return np.array_equal(first.rows, second.rows) and np.array_equal(first.labels, second.labels)


def compare(
    first: PerImage, others: Sequence[PerImage], groups: Mapping[str, NDArray[np.bool_]]
) -> list[dict[str, PairedTest]]:
    """Each of the others against the first, on the images of each group of classes, bool [C]; groups without an image are left out.

    Holm's correction is over the others, for each group by itself. All must tell of the same images (``same_images``).
    """
    right = first.predicted == first.labels
    found: list[dict[str, PairedTest]] = [{} for _ in others]
    for name, classes in groups.items():
        mine = classes[first.labels]
        if not mine.any():
            continue
        tests = [_test(right[mine], (other.predicted == other.labels)[mine]) for other in others]
        for place, adjusted in enumerate(holm([test.p for test in tests])):
            found[place][name] = replace(tests[place], adjusted=adjusted)
    return found


def _test(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedTest:
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    p = mcnemar(only_first, only_second)
    return PairedTest(len(first), only_first, only_second, p, p)
