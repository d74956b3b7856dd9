"""What a run says of itself when it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures import tiny_recipe

import fastlift_kernels
from fastlift.engine.build import load_data
from fastlift.engine.describe import announce
from fastlift.engine.model import build_model
from fastlift.models.precision import Amp
from fastlift.system.progress import Quiet

GPU = torch.device("cuda")


@pytest.mark.parametrize("reason", ["", "triton is not installed"])
def test_a_run_on_a_gpu_tells_what_computes(
    monkeypatch: pytest.MonkeyPatch, tiny_clip: tuple[Path, Path], tiny_data: Path, reason: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Quiet, "say", lambda self, message: told.append(message))
    monkeypatch.setattr(fastlift_kernels, "available", lambda: {"triton_reason": reason})
    config = tiny_recipe(tiny_clip, tiny_data)
    data = load_data(config, Quiet())
    announce(config, data, build_model(config, data.class_names), GPU, Amp(torch.bfloat16, "why"), Quiet())
    assert any(line.startswith("cuda in bf16 (why)") for line in told)
    expected = ["the fused operations run as plain PyTorch on the GPU: triton is not installed"] if reason else []
    assert [line for line in told if "fused" in line] == expected
