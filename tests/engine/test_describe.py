"""What a run says of itself when it begins."""

from __future__ import annotations

import pytest
import torch

import fastlift_kernels
from fastlift.engine.describe import announce_machine
from fastlift.models.precision import Amp
from fastlift.system.progress import Quiet

GPU = torch.device("cuda")


@pytest.mark.parametrize("reason", ["", "triton is not installed"])
def test_a_run_on_a_gpu_tells_what_computes(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    told: list[str] = []
    monkeypatch.setattr(Quiet, "say", lambda self, message: told.append(message))
    monkeypatch.setattr(fastlift_kernels, "available", lambda: {"triton_reason": reason})
    announce_machine(GPU, Amp(torch.bfloat16, "why"), ("dali", "a GPU"), Quiet())
    assert told[0].startswith("cuda in bf16 (why)")
    assert told[0].endswith("images by dali (a GPU)")
    expected = ["the fused operations run as plain PyTorch on the GPU: triton is not installed"] if reason else []
    assert [line for line in told if "fused" in line] == expected
