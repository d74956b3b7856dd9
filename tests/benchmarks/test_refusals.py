"""Programs of ``benchmarks/`` that are asked for what they cannot measure say so in a sentence."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        ("pipeline/__main__.py", ["scan", "--images", "/nowhere"], "--images /nowhere: no images there; name a folder"),
        ("ops/compare.py", ["--rounds", "1"], "--rounds 1: quartiles need 2 or more"),
    ],
)
def test_what_cannot_be_measured_is_told(
    program: str, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = BENCHMARKS / program
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    monkeypatch.syspath_prepend(str(path.parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 2
    assert f"error: {said}" in capsys.readouterr().err
