"""A calibrated model: its logits, what stays as it was, and the crops that it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files

import fastlift
from fastlift.evaluation.evaluate import mean_logits
from fastlift.models.calibrated import Calibration
from fastlift.models.lift import LiftModel
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.models.weights import weights_fingerprint

IMAGES = torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # two crops each


def made(clip: Files, **settings: Any) -> LiftModel:
    return fastlift.create_model(clip[0], pretrained=clip[1], class_names=CLASS_NAMES, **settings)


def calibration(
    strength: float = -0.7, temperature: float = 1.6, threshold: float | None = None, **crops: Any
) -> Calibration:
    return Calibration(strength, temperature, CLASS_COUNTS, threshold, EnsemblingSettings(**crops))


@pytest.mark.parametrize("more", [{}, {"classifier": "text", "text_tuner": "coop"}, {"classifier": "linear"}])
@torch.no_grad()
def test_its_logits_are_shifted_and_divided(tiny_clip: Files, more: dict[str, Any]) -> None:
    """Also as the mean over crops."""
    model = made(tiny_clip, **more)
    plain, names, before = mean_logits(model, IMAGES), list(model.trained()), weights_fingerprint(model.state().items())
    model.calibrate(calibration())
    counts = torch.tensor(CLASS_COUNTS, dtype=torch.float64)
    expected = (plain.double() - 0.7 * (counts / counts.sum()).log()) / 1.6
    torch.testing.assert_close(mean_logits(model, IMAGES).double(), expected, rtol=1e-5, atol=1e-5)
    assert (list(model.trained()), weights_fingerprint(model.state().items())) == (names, before)
    model.set_compute_dtype(torch.bfloat16)
    assert model(IMAGES[:, 0].bfloat16()).dtype == torch.float32


@torch.no_grad()
def test_it_is_calibrated_once(tiny_clip: Files) -> None:
    """A second calibration takes the place of the first."""
    model = made(tiny_clip)
    plain = model(IMAGES[:, 0])
    model.calibrate(calibration(3.0, 9.0))
    model.calibrate(calibration(0.0, 2.0))
    torch.testing.assert_close(model(IMAGES[:, 0]), plain / 2)


def test_other_classes_are_refused(tiny_clip: Files) -> None:
    with pytest.raises(fastlift.UserError, match="of 3 classes, the model has 6"):
        made(tiny_clip).calibrate(Calibration(0.0, 1.0, (3, 2, 1), None, EnsemblingSettings()))


def test_predictions_take_its_threshold_and_its_crops(tiny_clip: Files, tiny_data: Path) -> None:
    image = tiny_data / "test" / "class0" / "0.jpg"
    model = made(tiny_clip)
    plain = model.predict(image)
    assert plain.answer is not None
    model.calibrate(calibration(0.0, 1e6, threshold=0.4, tte="fivecrop"))
    found = model.predict(image, tte="fivecrop")
    assert (found.answer, found.threshold) == (None, 0.4)
    assert found.probabilities[0] == pytest.approx(1 / 6, abs=1e-3)
    assert model.predict(image, tte="fivecrop", threshold=0.0).answer is not None, "what is asked for counts"
    with pytest.raises(fastlift.UserError, match=r"fitted with --tte fivecrop.*calibrate RUN --tte none"):
        model.predict(image)
    with pytest.raises(fastlift.UserError, match=r"calibrate RUN --tte fivecrop --expand 4"):
        model.predict(image, tte="fivecrop", expand=4)
