"""The law finds what it was drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from fastlift.advice.power_law import Curve, fit


def drawn(
    seed: int,
    *,
    a: float = 0.85,
    s: float = 0.6,
    g: float = 0.5,
    spread: float = 0.6,
    classes: int = 80,
    held: int = 60,
) -> tuple[Curve, np.ndarray, np.ndarray, np.ndarray]:
    """A truth, and numbers of images [C, 5], right answers and held-out images drawn from it."""
    generator = np.random.default_rng(seed)
    full = np.exp(generator.uniform(np.log(4), np.log(400), classes))
    images = np.maximum(1, np.round(full[:, None] / 2.0 ** np.arange(5)))
    truth = Curve(a, s, g, spread, generator.normal(0, spread, classes), np.zeros(classes))
    tries = np.full(classes, held)
    return truth, images, generator.binomial(tries[:, None], truth.accuracy(images)), tries


def test_the_common_curve_is_found() -> None:
    truth, images, right, held = drawn(0, classes=300, held=100)
    found = fit(images, right, held)
    at = np.array([1.0, 4.0, 20.0, 100.0, 400.0])
    np.testing.assert_allclose(found.common(at), truth.common(at), atol=0.04)
    assert found.spread == pytest.approx(0.6, abs=0.1)


def test_offsets_are_shrunk_as_far_as_they_are_uncertain() -> None:
    """The errors of the offsets are of the size that they say, and smaller than without shrinking."""
    truth, images, right, held = drawn(1, classes=300, held=4)
    found = fit(images, right, held)
    ratio = (found.offset - truth.offset) / found.offset_sd
    assert 0.8 < float(np.sqrt((ratio**2).mean())) < 1.25
    alone = logit(np.clip(right.mean(axis=1) / 4, 0.02, 0.98)) - logit(truth.common(images)).mean(axis=1)
    assert np.abs(found.offset - truth.offset).mean() < 0.8 * np.abs(alone - truth.offset).mean()


def test_a_class_without_held_out_images_stays_at_the_common_curve() -> None:
    _, images, right, held = drawn(2)
    held[5], right[5] = 0, 0
    found = fit(images, right, held)
    assert found.offset[5] == 0
    assert found.offset_sd[5] == pytest.approx(found.spread, rel=0.01)


def test_accuracy_rises_and_stays_a_share() -> None:
    curve = Curve(0.9, 0.8, 0.4, 1.0, np.array([-3.0, 0.0, 3.0]), np.zeros(3))
    images = np.tile(np.geomspace(1, 1e6, 30), (3, 1))
    accuracy = curve.accuracy(images)
    assert (np.diff(accuracy, axis=1) > 0).all()
    assert ((accuracy > 0) & (accuracy < 1)).all()
    np.testing.assert_allclose(curve.common(np.array([8.0])), 0.9 * (1 - 0.8 * 8**-0.4))


def test_slope_is_the_derivative_by_the_offset() -> None:
    step = 1e-5
    at = np.array([7.0])
    low, high = (Curve(0.8, 0.5, 0.5, 1.0, np.array([0.4 + d]), np.zeros(1)).accuracy(at) for d in (-step, step))
    middle = Curve(0.8, 0.5, 0.5, 1.0, np.array([0.4]), np.zeros(1))
    np.testing.assert_allclose(middle.slope(at), (high - low) / (2 * step), rtol=1e-6)


def test_levels_without_images_are_left_out() -> None:
    _, images, right, held = drawn(3)
    images[:, 4] = 0
    right[:, 4] = 999
    cut = fit(images[:, :4], right[:, :4], held)
    assert fit(images, right, held).common(np.array([50.0])) == pytest.approx(cut.common(np.array([50.0])), abs=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_or_everything_right_stays_finite(share: float) -> None:
    _, images, right, held = drawn(4)
    found = fit(images, np.full_like(right, int(share * 60)), held)
    assert np.isfinite(found.accuracy(images)).all()
    assert abs(float(found.accuracy(images).mean()) - share) < 0.03
    assert np.isfinite(expit(found.offset)).all()
