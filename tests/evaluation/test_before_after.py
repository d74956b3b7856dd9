"""The figures before and after are those of the logits before and after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from logits import counts_of, drawn

from fastlift.evaluation.before_after import BeforeAfter
from fastlift.evaluation.calibration import Fit, log_prior
from fastlift.evaluation.metrics import metrics_of
from fastlift.evaluation.tradeoff import strengths_shown

COUNTS = [150, 40, 30, 5]
PRIOR = log_prior(COUNTS)
FIT = Fit(-0.6, 1.7, 0.0)


@pytest.mark.parametrize("at_a_time", [7, 100])
def test_both_sides_are_plain_metrics(at_a_time: int) -> None:
    logits, labels = drawn(100, 4, sharpness=1.0)
    counted = BeforeAfter(PRIOR, FIT, "classes")
    for z, y in zip(logits.split(at_a_time), labels.split(at_a_time), strict=True):
        counted.add(z, y)
    calibrated = (logits.double() - 0.6 * PRIOR) / 1.7
    told = counted.figures(0.5, COUNTS, (20, 100))
    for found, z in zip(told, (logits, calibrated), strict=True):
        metrics = metrics_of(counts_of(z, labels).counts(), COUNTS)
        assert found["log_loss"] == pytest.approx(metrics.log_loss, abs=1e-6)
        assert found["few"] == metrics.few
        assert found["accuracy"] == metrics.accuracy
        assert found["expected_calibration_error"] == pytest.approx(metrics.expected_calibration_error, abs=1e-4)
    assert "coverage" not in told[0]
    probability, predicted = calibrated.softmax(dim=1).max(dim=1)
    accepted = (probability >= 0.5).numpy()
    classes = [accepted[(labels == c).numpy()].mean() for c in range(4)]
    assert told[1]["coverage"] == pytest.approx(100 * np.mean(classes)), "classes weigh alike"
    np.testing.assert_array_equal(counted.right, (predicted == labels).numpy())


def test_the_curve_meets_both_sides() -> None:
    logits, labels = drawn(100, 4, sharpness=1.0)
    counted = BeforeAfter(PRIOR, FIT, "images")
    counted.add(logits, labels)
    before, after = counted.figures(None, COUNTS, (20, 100))
    shown, curve = strengths_shown(FIT.strength), counted.curve(COUNTS, (20, 100))
    for name in ("accuracy", "many", "medium", "few"):
        for strength, figures in ((0.0, before), (-0.6, after)):
            place = int(np.flatnonzero(shown == strength)[0])
            assert curve[name]["value"][place] == pytest.approx(figures[name], abs=1e-3)
    assert "coverage" not in after


def test_logits_that_are_no_numbers_are_wrong_and_not_accepted() -> None:
    logits, labels = drawn(10, 4, sharpness=9.0)
    logits[3] = torch.nan
    counted = BeforeAfter(PRIOR, FIT, "images")
    counted.add(logits, labels)
    before, after = counted.figures(0.1, COUNTS, (20, 100))
    assert before["non_finite"] == after["non_finite"] == 1
    assert after["coverage"] == pytest.approx(90.0)
    assert not counted.right[3]
