"""Turning images away: a threshold on the largest probability, and what is accepted with it.

Legend: N images; confidences c [N] are the largest probability of each, weights w [N] sum to 1. An image is accepted where
c >= t. Nothing here knows images of other classes than the model's: how many of those a threshold turns away, only such
images can tell.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlift.errors import UserError
from fastlift.evaluation.intervals import Interval, wilson

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Selective:
    """What a threshold does; percent, with 95 % intervals (Wilson's, for as many images as the weights are worth).

    Attributes:
        coverage: share of the images that is accepted.
        selective_accuracy: share of the accepted that is right; None where none is accepted.
        right_rejected: share of the right answers that is turned away; None where none is right.
    """

    coverage: float
    coverage_interval: Interval
    selective_accuracy: float | None
    selective_accuracy_interval: Interval | None
    right_rejected: float | None
    right_rejected_interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def threshold_by_rejection(confidence: Floats, right: Bools, weights: Floats, share: float) -> float:
    """The largest t below which at most ``share`` of the weight of the right answers lies.

    Between two confidences that occur, so that rounding changes nothing.

    Raises:
        UserError: no image is right.
    """
    if not right.any():
        raise UserError("no validation image is right: there is no threshold that keeps right answers")
    values, places = np.unique(confidence[right], return_inverse=True)
    at = np.bincount(places, weights[right], minlength=len(values))
    below = np.cumsum(at) - at  # of the right answers' weight, strictly below each
    last = int(np.flatnonzero(below <= share * at.sum() * (1 + 1e-12))[-1])
    return _just_below(float(values[last]), confidence)


def threshold_by_accuracy(confidence: Floats, right: Bools, weights: Floats, accuracy: float) -> float:
    """The smallest t with which ``accuracy`` of the accepted weight, or more, is right; 0 where all may be accepted.

    Raises:
        UserError: no threshold reaches it; the message says how far one comes.
    """
    values, places = np.unique(confidence, return_inverse=True)
    accepted = np.cumsum(np.bincount(places, weights, minlength=len(values))[::-1])[::-1]
    hits = np.cumsum(np.bincount(places, weights * right, minlength=len(values))[::-1])[::-1]
    reached = hits / accepted
    if not (reached >= accuracy).any():
        raise UserError(
            f"selective_accuracy: {accuracy:g} is reached with no threshold: the most confident validation images reach "
            f"{reached.max():.3f}"
        )
    first = int(np.flatnonzero(reached >= accuracy)[0])
    return 0.0 if first == 0 else _just_below(float(values[first]), confidence)


def _just_below(value: float, confidence: Floats) -> float:
    lower = confidence[confidence < value]
    return (value + (float(lower.max()) if len(lower) else 0.0)) / 2


def selective(confidence: Floats, right: Bools, weights: Floats, threshold: float) -> Selective:
    """Coverage, accuracy of the accepted, and right answers that are turned away."""
    accepted = confidence >= threshold
    of_all = _share(accepted, weights)
    assert of_all is not None  # weights sum to 1
    of_accepted = _share(right[accepted], weights[accepted]) or (None, None)
    return Selective(*of_all, *of_accepted, *(_share(~accepted[right], weights[right]) or (None, None)))


def _share(holds: Bools, weights: Floats) -> tuple[float, Interval] | None:
    """A weighted share in percent, and Wilson's interval for (sum w)^2 / sum w^2 images (Kish); None of nothing."""
    total = float(weights.sum())
    if not total:
        return None
    share, images = min(1.0, float(weights[holds].sum()) / total), total**2 / float((weights**2).sum())
    low, high = wilson(share * images, images)
    return 100 * share, (100 * low, 100 * high)
