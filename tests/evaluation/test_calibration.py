"""Fits of strength and temperature against scipy's optimum, against the truth of simulated data, and what has no optimum."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from fastlift.errors import UserError
from fastlift.evaluation.calibration import (
    CalibrationSettings,
    Fit,
    Weigh,
    fit,
    log_loss,
    log_prior,
    uncertainty,
    weights_of,
)

COUNTS = (400, 120, 40, 12, 5, 2)
PRIOR = log_prior(COUNTS)


def simulated(images: int, strength: float, temperature: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Plain logits whose calibrated ones, (z + s l) / T, are the truth that labels are drawn from."""
    generator = torch.Generator().manual_seed(seed)
    true = 2 * torch.randn(images, len(COUNTS), generator=generator).double()
    labels = torch.multinomial(true.softmax(dim=1), 1, generator=generator).squeeze(1)
    return (temperature * true - strength * PRIOR).float(), labels


def plain_loss(logits: Tensor, labels: Tensor, weights: Tensor, strength: float, temperature: float) -> float:
    calibrated = (logits.double() + strength * PRIOR) / temperature
    each = torch.nn.functional.cross_entropy(calibrated, labels, reduction="none")
    return float((weights * each).sum())


@pytest.mark.parametrize("weigh", get_args(Weigh))
@pytest.mark.parametrize(("strength", "temperature"), [(0.0, 1.0), (0.8, 2.5), (-0.7, 0.4)])
def test_the_fit_is_scipys_optimum(weigh: Weigh, strength: float, temperature: float) -> None:
    """Nelder-Mead knows neither slopes nor (1/T, s/T)."""
    logits, labels = simulated(120, strength, temperature)
    weights = weights_of(labels, weigh)
    found = fit(logits, labels, PRIOR, weights)
    there = minimize(
        lambda at: plain_loss(logits, labels, weights, at[0], at[1]) if at[1] > 0 else np.inf,
        [0.0, 1.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 2000},
    )
    assert [found.strength, found.temperature] == pytest.approx(
        there.x, abs=2e-6
    )  # as near as its losses tell points apart
    assert found.loss == pytest.approx(there.fun, abs=1e-12)
    assert found.loss <= there.fun + 1e-14
    assert log_loss(logits, labels, PRIOR, weights, found) == pytest.approx(found.loss, abs=1e-12)
    assert log_loss(logits, labels, PRIOR, weights) == pytest.approx(
        plain_loss(logits, labels, weights, 0, 1), abs=1e-12
    )


def test_the_slope_at_the_fit_is_zero() -> None:
    """By autograd, in strength and temperature themselves: to what 1e-6 of either would leave, and far below."""
    logits, labels = simulated(500, 0.5, 1.5)
    weights = weights_of(labels, "classes")
    found = fit(logits, labels, PRIOR, weights)
    at = torch.tensor([found.strength, found.temperature], dtype=torch.float64, requires_grad=True)
    calibrated = (logits.double() + at[0] * PRIOR) / at[1]
    (weights * torch.nn.functional.cross_entropy(calibrated, labels, reduction="none")).sum().backward()
    assert at.grad is not None
    assert at.grad.abs().max() < 1e-9


@pytest.mark.parametrize(("strength", "temperature"), [(0.0, 1.0), (1.0, 2.0), (-0.5, 0.5)])
def test_it_finds_the_truth_of_many_images(strength: float, temperature: float) -> None:
    logits, labels = simulated(8000, strength, temperature)
    found = fit(logits, labels, PRIOR, weights_of(labels, "images"))
    assert found.strength == pytest.approx(strength, abs=0.08 * temperature)
    assert found.temperature == pytest.approx(temperature, rel=0.06)


def test_a_given_strength_leaves_the_temperature_alone() -> None:
    logits, labels = simulated(300, 0.8, 2.0)
    weights = weights_of(labels, "classes")
    found = fit(logits, labels, PRIOR, weights, strength=-0.3)
    there = minimize_scalar(lambda t: plain_loss(logits, labels, weights, -0.3, t), (0.5, 4.0), options={"xtol": 1e-12})
    assert found.strength == pytest.approx(-0.3, abs=1e-12)
    assert found.temperature == pytest.approx(there.x, abs=1e-6)


def test_without_a_tail_the_strength_stays_zero() -> None:
    logits, labels = simulated(300, 0.0, 2.0)
    found = fit(logits, labels, log_prior([7] * 6), weights_of(labels, "images"))
    assert found.strength == 0.0
    assert found.temperature == pytest.approx(2.0, rel=0.2)


def test_classes_weigh_alike_whatever_their_images() -> None:
    """Images of a class three times over change nothing; of all images alike they would."""
    logits, labels = simulated(200, 0.4, 1.2)
    extra = labels == 0
    more, theirs = torch.cat([logits, *[logits[extra]] * 2]), torch.cat([labels, *[labels[extra]] * 2])
    for weigh, same in (("classes", True), ("images", False)):
        fits = [fit(z, y, PRIOR, weights_of(y, weigh)) for z, y in ((logits, labels), (more, theirs))]
        assert (fits[0].strength == pytest.approx(fits[1].strength, abs=1e-9)) == same
    assert weights_of(torch.tensor([0, 0, 0, 2]), "classes").tolist() == pytest.approx([1 / 6] * 3 + [1 / 2])


def test_what_has_no_optimum_is_told() -> None:
    logits, labels = simulated(50, 0.0, 1.0)
    right = logits.argmax(dim=1)
    with pytest.raises(UserError, match=r"all 50 validation images are right.*--val-share"):
        fit(logits, right, PRIOR, weights_of(right, "images"))
    with pytest.raises(UserError, match="no better than chance"):
        fit(-logits, right, PRIOR, weights_of(right, "images"))
    with pytest.raises(UserError, match="no better than chance"):
        fit(-logits, labels, PRIOR, weights_of(labels, "images"))
    with pytest.raises(UserError, match="1 classes have no training images"):
        log_prior([3, 0, 1])


def test_far_from_the_start_newton_does_not_overshoot() -> None:
    """Logits a thousand times too large, at whose start all probabilities are 0 or 1."""
    logits, labels = simulated(400, 0.5, 1.0)
    weights = weights_of(labels, "images")
    small, large = fit(logits, labels, PRIOR, weights), fit(1000 * logits, labels, PRIOR, weights)
    assert large.temperature == pytest.approx(1000 * small.temperature, rel=1e-6)
    assert large.strength == pytest.approx(1000 * small.strength, rel=1e-6)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """95 % of 40 data sets, give or take what chance allows: fewer than 34, or much too wide ones, would be a fault."""
    held = np.zeros(2)
    widths = []
    for seed in range(40):
        logits, labels = simulated(250, 0.5, 1.5, seed)
        weights = weights_of(labels, "images")
        found = fit(logits, labels, PRIOR, weights)
        spans = uncertainty(logits, labels, PRIOR, weights, found, strength_given=False)
        for place, (truth, span) in enumerate(zip((0.5, 1.5), spans, strict=True)):
            assert span is not None
            held[place] += span[0] <= truth <= span[1]
        widths.append([span[1] - span[0] for span in spans if span])
    assert (held >= 34).all(), held
    assert (np.median(widths, axis=0) < [0.7, 0.7]).all(), np.median(widths, axis=0)


def test_intervals_are_those_of_refitting_each_draw() -> None:
    """One step of Newton's from the fit instead: the same but for what 40 draws leave to chance."""
    logits, labels = simulated(400, 0.5, 1.5)
    weights = weights_of(labels, "classes")
    found = fit(logits, labels, PRIOR, weights)
    spans = uncertainty(logits, labels, PRIOR, weights, found, strength_given=False)
    generator, refits = np.random.default_rng(1), []
    for _ in range(40):
        rows = torch.from_numpy(generator.integers(400, size=400))
        refits.append(fit(logits[rows], labels[rows], PRIOR, weights[rows] / weights[rows].sum()))
    for span, name in zip(spans, ("strength", "temperature"), strict=True):
        assert span is not None
        ends = np.quantile([getattr(one, name) for one in refits], [0.025, 0.975])
        assert np.abs(ends - span).max() < 0.35 * (span[1] - span[0]), name


def test_a_given_strength_has_no_interval() -> None:
    logits, labels = simulated(300, 0.5, 1.5)
    weights = weights_of(labels, "images")
    found = fit(logits, labels, PRIOR, weights, strength=0.5)
    of_strength, of_temperature = uncertainty(logits, labels, PRIOR, weights, found, strength_given=True)
    assert of_strength is None
    assert of_temperature is not None
    assert of_temperature[0] < found.temperature < of_temperature[1]
    assert of_temperature[1] - of_temperature[0] < 0.6


def test_few_images_leave_the_temperature_open() -> None:
    """Four images, one of them wrong: some draws are all right, and those have no end."""
    logits = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0], [0.0, 0.1, 0]])
    labels, prior = torch.tensor([0, 1, 2, 0]), log_prior([5, 2, 1])
    weights = weights_of(labels, "images")
    found = Fit(0.0, 4.0, 1.0)
    _, of_temperature = uncertainty(logits, labels, prior, weights, found, strength_given=True)
    assert of_temperature is None or of_temperature[1] > of_temperature[0]


def test_one_goal_of_the_threshold() -> None:
    with pytest.raises(UserError, match="give one of them"):
        CalibrationSettings(reject=0.1, selective_accuracy=0.9)
    with pytest.raises(UserError, match="reject"):
        CalibrationSettings(reject=1.5)
