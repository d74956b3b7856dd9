"""What more images of a class would bring, from learning curves: predicted by a power law, with the error that it shows on subsets.

The error is measured before anything is promised: the law is fitted on a half of each class's images or less (a quarter, an eighth), predicts
the gain up to all of them, and is compared with the gain that was counted on held-out images. Then it is fitted on everything and
predicts twice (4, 8 times) as many, with the error it had over the same factor. Beyond 8 times nothing is promised.

Legend: C classes. Gains, errors and accuracies are percent points; inside the functions fractions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlift.advice.learning_curves import Counts
from fastlift.advice.power_law import Curve, fit
from fastlift.evaluation.intervals import Z

Floats = NDArray[np.float64]
DOUBLINGS = 3  # that are checked: 2, 4 and 8 times as many
_SHRUNK = 4.0  # images, of the worth of all other classes
_LEAST_CLASSES = 8  # with held-out images, for an error to be told


@dataclass(frozen=True)
class Check:
    """The error of predicted gains on subsets, where the truth was counted.

    Attributes:
        factor: from 1 / factor of the images to all.
        classes: that were compared.
        predicted, measured: mean gain over them; in this mean and the next ones a class counts by what its held-out images tell.
        error: mean absolute error of a class's gain.
        error_of_none: the same where no gain is predicted for any class.
        chance: what the error would be on average if every prediction were right, by the chance in the held-out images.
        coverage: share of the classes whose counted gain lies in the 95 % interval, whose width comes from the other half of the classes.
        class_sd, common_sd: standard deviation of the prediction's error by class and of all classes together, without that chance.
    """

    factor: int
    classes: int
    predicted: float
    measured: float
    error: float
    error_of_none: float
    chance: float
    coverage: float
    class_sd: float
    common_sd: float


@dataclass(frozen=True)
class Gain:
    """A predicted gain with its 95 % interval; ``is_told``: the interval lies above 0."""

    value: float
    low: float
    high: float

    @property
    def is_told(self) -> bool:
        """Whether this run can tell that there is a gain."""
        return self.low > 0

    @classmethod
    def of(cls, value: float, sd: float) -> Gain:
        """From fractions."""
        return cls(100 * value, 100 * (value - Z * sd), 100 * (value + Z * sd))


def check(counts: Counts, doublings: int) -> Check | None:
    """Predict from 2^-doublings of the images to all; None where too few classes have held-out images and as many levels."""
    factor, base = 2**doublings, counts.images[:, doublings]
    compared = (counts.held > 0) & (base > 0) & (counts.images[:, 0] > 1.5 * base)
    if compared.sum() < _LEAST_CLASSES:
        return None
    curve = fit(counts.images[:, doublings:], counts.right[:, doublings:], counts.held)
    told = (curve.accuracy(counts.images[:, 0]) - curve.accuracy(base))[compared]
    sure = ((curve.slope(counts.images[:, 0]) - curve.slope(base)) * curve.offset_sd)[compared] ** 2
    held, gained, lost = (
        x[compared].astype(np.float64) for x in (counts.held, counts.gained[:, doublings], counts.lost[:, doublings])
    )
    truth = (gained - lost) / held
    changed = float((gained + lost).sum() + 1) / float(held.sum() + 1)
    # Of a difference of paired answers; the share that changes is shrunk to that of all classes, for those with few images.
    noise = (gained + lost + _SHRUNK * changed) / (held + _SHRUNK) / held
    missed = told - truth
    spread = _spread(missed, sure + noise)
    # By the number of images alone: weights by the noise of a class would favour those where little changed.
    weight = 1 / (spread**2 + changed / held)
    weight /= weight.sum()
    halves = np.arange(len(missed)) % 2
    of_others = np.array([_spread(missed[halves != half], (sure + noise)[halves != half]) for half in (0, 1)])[halves]
    inside = np.abs(missed) <= Z * np.sqrt(sure + noise + of_others**2)
    common = float(weight @ missed)
    return Check(
        factor=factor,
        classes=int(compared.sum()),
        predicted=100 * float(weight @ told),
        measured=100 * float(weight @ truth),
        error=100 * float(weight @ np.abs(missed)),
        error_of_none=100 * float(weight @ np.abs(truth)),
        chance=100 * float(weight @ np.sqrt(2 / math.pi * noise)),
        coverage=float(inside.mean()),
        class_sd=100 * spread,
        common_sd=100 * math.sqrt(common**2 + float(weight**2 @ (spread**2 + noise))),
    )


def _spread(missed: Floats, variance: Floats) -> float:
    """Standard deviation of the errors [n] beyond what their variance [n] tells (DerSimonian and Laird, 1986, about 0)."""
    weight = 1 / variance
    beyond = float(weight @ missed**2) - len(missed)
    return math.sqrt(max(0.0, beyond / float(weight.sum())))


class Predictor:
    """The law of all levels, and the errors that its kind has shown.

    Args:
        counts: of the learning curves.
        train_images: [C] of today; what is added is added to these.
        weights: [C] of the classes in the figure.
    """

    def __init__(self, counts: Counts, train_images: NDArray[np.int64], weights: Floats) -> None:
        self.checks = tuple(one for q in range(1, DOUBLINGS + 1) if (one := check(counts, q)) is not None)
        self.curve: Curve = fit(counts.images, counts.right, counts.held)
        self.now, self.weights = train_images.astype(np.float64), weights
        self.known = (counts.held > 0) & (train_images > 1)
        self._by_factor = {one.factor: one for one in self.checks}

    @property
    def most(self) -> int:
        """The largest factor that was checked; 1 where none was."""
        return max(self._by_factor, default=1)

    def gains(self, more: Floats) -> tuple[Floats, Floats, Floats]:
        """Of so many more images of each class [C]: gain of its accuracy, and the standard deviations of the class's and the common error."""
        after = self.now + more
        gain = self.curve.accuracy(after) - self.curve.accuracy(self.now)
        by_offset = (self.curve.slope(after) - self.curve.slope(self.now)) * self.curve.offset_sd
        own, common = np.zeros(len(gain)), np.zeros(len(gain))
        factor = np.divide(after, self.now, out=np.ones_like(after), where=self.now > 0)
        for one in self.checks:
            reaches = factor > one.factor / 2 + 1e-9
            share = np.clip(
                np.log2(np.maximum(factor, 1)) / math.log2(one.factor), 0, 1
            )  # less than a doubling errs by less
            own, common = (
                np.where(reaches, share * sd / 100, kept) for sd, kept in ((one.class_sd, own), (one.common_sd, common))
            )
        return gain, np.sqrt(by_offset**2 + own**2), common

    def of_class(self, label: int, more: float) -> Gain | None:
        """Of one class's accuracy; None where it cannot be told: no held-out image, or a factor that was not checked."""
        if not self.known[label] or (self.now[label] + more) / self.now[label] > self.most + 1e-9:
            return None
        gain, own, common = self.gains(np.where(np.arange(len(self.now)) == label, more, 0.0))
        return Gain.of(float(gain[label]), math.hypot(own[label], common[label]))

    def of_figure(self, more: Floats) -> Gain:
        """Of the figure, for so many more images of each class [C]; those of classes about which nothing is known count for nothing."""
        gain, own, common = self.gains(np.where(self.known, more, 0.0))
        sd = math.hypot(float(np.sqrt((self.weights**2 * own**2).sum())), float((self.weights * common).sum()))
        return Gain.of(float((self.weights * gain).sum()), sd)

    def plan(self, budget: int) -> NDArray[np.int64]:
        """Where so many images would raise the figure most: images more of each class [C], given out greedily, within what was checked."""
        more, piece = np.zeros(len(self.now)), max(1, budget // 50)
        room = np.where(self.known, (self.most - 1) * self.now, 0.0)
        left = budget
        while left > 0:
            step = min(piece, left)
            rise = self.weights * (self.curve.accuracy(self.now + more + step) - self.curve.accuracy(self.now + more))
            rise[more + step > room] = -np.inf
            best = int(np.argmax(rise))
            if not rise[best] > 0:
                break
            more[best] += step
            left -= step
        return more.astype(np.int64)
