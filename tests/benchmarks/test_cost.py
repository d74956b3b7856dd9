"""What a training with growing images costs, as it is counted, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import cost
from benchmarks.counting import Shape, step_flop
from fastlift import recipes

RESULTS = {"data": {"train_images": 1000, "classes": 64}, "model": {"rank": 4}}


def test_each_epoch_counts_at_its_size() -> None:
    """The small CLIP: 16, 25 and 36 patches and a class token."""
    of = {
        side: step_flop(Shape((side // 8) ** 2 + 1, 128, 512, 2, 6, 8, rank=4, classes=64, bytes=4)) * 1000 / 1e12
        for side in (32, 40, 48)
    }
    plain, growing = recipes.lift(), recipes.lift(progressive_sizes=(0.7, 0.85, 1.0))
    assert cost.training_tflop(plain, RESULTS) == pytest.approx(10 * of[48])
    assert cost.training_tflop(growing, RESULTS) == pytest.approx(4 * of[32] + 3 * of[40] + 3 * of[48])


def test_rows_are_compared_with_the_first_seed_by_seed() -> None:
    def run(accuracy: float, cpu_s: float, tflop: float) -> dict[str, Any]:
        return {"accuracy": accuracy, "many": 50.0, "medium": 50.0, "few": None, "cpu_s": cpu_s, "tflop": tflop}

    rows = {"a": [run(60, 10, 4), run(62, 20, 4)], "b": [run(59, 5, 3), run(60, 12, 3)]}
    lines = cost.markdown({"set": {"rows": rows}}).splitlines()
    assert lines[-2] == "| `set`, a | 61.0 ± 1.4 | 50.0 ± 0.0 | 50.0 ± 0.0 | – |  | 4.0 (1.00) | 15 s (1.00) |"
    assert lines[-1] == "| `set`, b | 59.5 ± 0.7 | 50.0 ± 0.0 | 50.0 ± 0.0 | – | -1.5 | 3.0 (0.75) | 8 s (0.55) |"
