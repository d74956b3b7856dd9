"""Training the classifier alone, while the tuner keeps what another run gave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine.test_warm_start import same, trained
from fixtures import Told
from safetensors.torch import load_file
from stopping import signal_in_step

import fastlift
from fastlift.config import Config
from fastlift.system.signals import Interrupted


@pytest.fixture
def source(settings: Config, tmp_path: Path) -> Path:
    return fastlift.train(settings.override(epochs=1), output=tmp_path / "source").folder


def parts(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    state = trained(folder, name)
    return tuple({k: v for k, v in state.items() if k.startswith(part)} for part in ("tuner.", "head."))  # type: ignore[return-value]


@pytest.mark.parametrize("model", [{}, {"classifier": "linear"}])
def test_the_tuner_stays_and_the_classifier_learns(settings: Config, tmp_path: Path, model: dict[str, Any]) -> None:
    source = fastlift.train(settings.override(epochs=1, **model), output=tmp_path / "source").folder
    told = Told()
    alone = settings.override(epochs=1, init_from=source, train_only="classifier", **model)
    run = fastlift.train(alone, output=tmp_path / "run", ui=told)
    (tuner, head), (before, before_head) = parts(run.folder, "epoch-001"), parts(source, "epoch-001")
    assert same(tuner, before)
    assert len(tuner) > 0
    assert not any(torch.equal(head[name], before_head[name]) for name in head)
    kept = [
        name for name in load_file(run.folder / "checkpoints" / "epoch-001.safetensors") if name.startswith("momentum.")
    ]
    assert kept
    assert all(name.startswith("momentum.head.") for name in kept)
    assert "the classifier alone is trained further" in told.text
    model_there = fastlift.load_run(run.folder)
    assert all(torch.equal(model_there.trained()[name], tensor) for name, tensor in {**tuner, **head}.items())


def test_its_steps_are_those_of_a_linear_probe_on_these_features(settings: Config, tmp_path: Path) -> None:
    """With a tuner at its start, which changes no feature, the classifier learns as without one."""
    start = fastlift.train(settings.override(epochs=0), output=tmp_path / "start").folder
    alone = fastlift.train(
        settings.override(epochs=2, init_from=start, train_only="classifier"), output=tmp_path / "alone"
    )
    probe = fastlift.train(settings.override(epochs=2, tuner="none"), output=tmp_path / "probe")
    ours, theirs = parts(alone.folder, "epoch-002")[1], parts(probe.folder, "epoch-002")[1]
    torch.testing.assert_close(ours["head.weight"], theirs["head.weight"], atol=1e-6, rtol=1e-5)


def test_it_resumes_with_the_same_bits(settings: Config, source: Path, tmp_path: Path) -> None:
    alone = settings.override(epochs=2, init_from=source, train_only="classifier", tuner="adaptformer")
    whole = fastlift.train(alone, output=tmp_path / "whole")
    with pytest.raises(Interrupted), signal_in_step(7):
        fastlift.train(alone, output=tmp_path / "cut")
    run = fastlift.train(alone, output=tmp_path / "cut", resume=True)
    assert same(trained(run.folder, "epoch-002"), trained(whole.folder, "epoch-002"))


@pytest.mark.parametrize(
    "settings_too", [{}, {"init_from": "runs/x", "tuner": "none"}, {"init_from": "runs/x", "classifier": "text"}]
)
def test_where_it_has_no_meaning_it_is_refused(settings: Config, settings_too: dict[str, Any]) -> None:
    with pytest.raises(
        fastlift.UserError, match="train_only classifier would change nothing here: it is for a tuner that keeps"
    ):
        settings.override(train_only="classifier", **settings_too)
