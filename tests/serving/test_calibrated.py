"""A calibrated run over HTTP: its probabilities, its threshold where a request names none, and what it says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures import CLASS_COUNTS, Files

import fastlift
from fastlift.models.calibrated import Calibration
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.serving.app import make_app
from fastlift.serving.batcher import Batcher
from fastlift.serving.settings import ServingSettings


def test_requests_get_the_fitted_threshold(tiny_clip: Files, tiny_data: Path, run: Path) -> None:
    from starlette.testclient import TestClient

    model, crops = fastlift.load_run(run, ui=None), EnsemblingSettings()
    image = next((tiny_data / "test").rglob("*.jpg"))
    plain = model.predict(image).probabilities[0]
    model.calibrate(Calibration(-1.0, 3.0, CLASS_COUNTS, None, crops))
    calibrated = model.predict(image).probabilities[0]
    assert calibrated != pytest.approx(plain, abs=1e-3)
    model.calibrate(Calibration(-1.0, 3.0, CLASS_COUNTS, min(1.0, calibrated + 0.01), crops))
    with Batcher(model, crops, batch_size=4, most_pixels=10**6, waiting=4) as batcher:
        app = make_app("tiny", model, batcher, ServingSettings(), ["*"])
        client = TestClient(app)
        about = client.get("/model").json()
        assert (about["calibrated"], about["threshold"]) == (True, pytest.approx(min(1.0, calibrated + 0.01)))
        answers = [
            client.post(f"/predict{asked}", content=image.read_bytes(), headers={"Content-Type": "image/jpeg"}).json()
            for asked in ("", "?threshold=0")
        ]
    assert [one["top"][0]["probability"] for one in answers] == pytest.approx([calibrated] * 2, abs=1e-5)
    assert answers[0]["answer"] is None
    assert answers[1]["answer"] == answers[1]["top"][0]["class"]
