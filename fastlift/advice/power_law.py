"""An inverse power law of accuracy over a class's images, pooled over the classes, with an offset of each class that is shrunk.

    mu(n) = a (1 - s n^-g),   p_c(n) = sigmoid(logit mu(n) + d_c),   d_c ~ N(0, t^2)

So mu(n) = a - b n^-g with b = a s. a is the accuracy with ever more images, and the curve is the same for all classes but for the offset
on the logit scale, which keeps each between 0 and 1. t comes from the data (empirical Bayes): a class with few held-out
images stays near the common curve.

Legend: C classes, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

Floats = NDArray[np.float64]
_ROUNDS = 15  # of curve and offsets in turn
_NEWTON, _STEPS = 6, 8
_BOUNDS = [(-4.0, 8.0), (-8.0, 8.0), (float(np.log(0.05)), float(np.log(3)))]  # of theta
_LEAST_SPREAD, _MOST_SPREAD = 0.05, 3.0
_NEAR = 1e-4  # how near to 0 and 1 the common curve may come


@dataclass(frozen=True)
class Curve:
    """A fitted law.

    Attributes:
        a, s, g: as above; accuracies are fractions.
        spread: t.
        offset, offset_sd: [C] d_c and its standard deviation, given the curve; 0 and t for a class without held-out images.
    """

    a: float
    s: float
    g: float
    spread: float
    offset: Floats
    offset_sd: Floats

    def common(self, images: Floats) -> Floats:
        """mu at numbers of images of 1 or more, of any shape."""
        return _common(np.array([logit(self.a), logit(self.s), np.log(self.g)]), images)

    def accuracy(self, images: Floats) -> Floats:
        """p_c(n) for n [C] or [C, any]."""
        offset = self.offset.reshape(-1, *[1] * (images.ndim - 1))
        return np.asarray(expit(logit(self.common(images)) + offset))

    def slope(self, images: Floats) -> Floats:
        """dp_c(n)/dd_c for n [C]."""
        p = self.accuracy(images)
        return np.asarray(p * (1 - p))


def _common(theta: Floats, images: Floats) -> Floats:
    a, s, g = expit(theta[0]), expit(theta[1]), np.exp(theta[2])
    return np.asarray(np.clip(a * (1 - s * np.maximum(images, 1.0) ** -g), _NEAR, 1 - _NEAR))


def fit(images: Floats, right: NDArray[np.integer], held: NDArray[np.integer]) -> Curve:
    """Fit by maximum likelihood of the curve and of t, offsets at their most probable values in between (Laplace's EM).

    Args:
        images: [C, L] numbers of images.
        right: [C, L] right of ``held`` [C] or [C, L] held-out images; where ``images`` is 0 a level is left out.
    """
    tries = (np.broadcast_to(held.reshape(len(images), -1), images.shape) * (images > 0)).astype(np.float64)
    hits = (right * (images > 0)).astype(np.float64)
    offset, variance, spread = np.zeros(len(images)), np.zeros(len(images)), 1.0
    theta = np.array([2.0, 0.0, np.log(0.5)])
    counted = tries.sum(axis=1) > 0
    for _ in range(_ROUNDS):
        before = theta
        theta = _fit_curve(theta, images, hits, tries, offset)
        offset, variance = _fit_offsets(logit(_common(theta, images)), hits, tries, spread)
        if counted.any():
            second = (offset**2 + variance)[counted].mean()
            spread = float(np.clip(np.sqrt(second), _LEAST_SPREAD, _MOST_SPREAD))
        if np.abs(theta - before).max() < 3e-3:
            break
    a, s, g = float(expit(theta[0])), float(expit(theta[1])), float(np.exp(theta[2]))
    return Curve(a, s, g, spread, offset, np.sqrt(variance))


def _fit_curve(theta: Floats, images: Floats, hits: Floats, tries: Floats, offset: Floats) -> Floats:
    def loss(values: Floats) -> float:
        z = logit(_common(values, images)) + offset[:, None]
        likelihood = hits * z - tries * np.logaddexp(0, z)
        # Weak priors, of the worth of about one class: they keep the ends of the law from running away where nothing tells them.
        prior = 0.5 * (((values[0] - 1.5) / 2) ** 2 + (values[1] / 2) ** 2 + (values[2] - np.log(0.5)) ** 2)
        return float(prior - likelihood.sum())

    found = minimize(loss, theta, method="L-BFGS-B", bounds=_BOUNDS, options={"maxiter": _STEPS})
    return np.asarray(found.x)


def _fit_offsets(z: Floats, hits: Floats, tries: Floats, spread: float) -> tuple[Floats, Floats]:
    """Newton's steps of each class's offset: most probable value and variance [C]."""
    offset, precision = np.zeros(len(z)), np.full(len(z), spread**-2)
    for _ in range(_NEWTON):
        p = expit(z + offset[:, None])
        slope = (hits - tries * p).sum(axis=1) - offset / spread**2
        precision = (tries * p * (1 - p)).sum(axis=1) + spread**-2
        offset = offset + np.clip(slope / precision, -1, 1)
    return offset, 1 / precision
