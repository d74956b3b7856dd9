"""docs/roofline.md: what is counted, beside what was measured once there is something."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import roofline
from benchmarks.counting import Part, Shape
from benchmarks.roofline import BY_HAND, CARDS, Card, predicted_ms


def step(name: str, ms: float, **settings: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {"batch": 512, "rank": 32, "mode": "eager", "frozen": "compute", "recompute": "none"}
    usual |= {"impl": None, "micro_batch": None, "fused": []}
    figures = {"ms": ms, "images_per_s": 512e3 / ms, "share_of_matrix": 0.5}
    return {"part": "step", "group": name, "name": name, **usual, **figures, **settings}


def results(folder: Path, *, is_rehearsal: bool = False) -> Path:
    """A made-up file, which lives in this test alone."""
    rates = {"products_tflops": {}, "vit_tflops": 340.0, "copy_tb_per_s": 1.5}
    rows = [
        step("512 rank 32 eager", 200.0),
        step("512 rank 32 eager", 300.0),  # again beside another: the first counts
        step("512 rank 32 default", 150.0, mode="default"),
        {"part": "step", "group": "fp8", "name": "fp8", "skipped": "no fp8 units"},
    ]
    found = {"card": "Made-up 9000", "is_rehearsal": is_rehearsal, "rates": rates, "rows": rows}
    (folder / "gpu_step_9000.json").write_text(json.dumps(found))
    return folder


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    assert "Nothing was measured" in roofline.document(tmp_path)


def test_measurements_stand_beside_predictions_from_their_card_s_rates(tmp_path: Path) -> None:
    told = roofline.document(results(tmp_path))
    assert "Nothing was measured" not in told
    assert "| predicted (ms) | measured (ms) | measured / predicted |" in told
    lines = [line.split(" | ") for line in told.splitlines() if line.startswith("| Made-up 9000")]
    assert [line[1] for line in lines] == ["512 rank 32 eager", "512 rank 32 default"]
    predicted = predicted_ms(Card("", 340.0, 1.5), Shape(), 512)
    assert lines[0][2:6] == [f"{predicted:.1f}", "200.0", f"{200 / predicted:.2f}", "2,560"]
    assert lines[1][2:5] == ["–", "150.0", "–"]  # the count is of the eager code


def test_a_rehearsal_s_times_are_no_measurement(tmp_path: Path) -> None:
    assert "Nothing was measured" in roofline.document(results(tmp_path, is_rehearsal=True))


def test_a_part_takes_the_longest_of_its_three() -> None:
    card = Card("", tflops=1.0, tb_per_s=2.0, cached_tb_per_s=4.0)
    for part, ms in (
        (Part("", "", 3e9, 0, 0), 3.0),
        (Part("", "", 0, 3e9, 0), 1.5),
        (Part("", "", 1e9, 1e9, 8e9), 2.25),
    ):
        assert card.ms(part, 1) == pytest.approx(ms)


def test_every_part_is_in_a_line_of_the_comparison() -> None:
    found = {part.group for part in roofline.parts(replace(Shape(), rank=256), 8)}
    assert found == {group for group, _, _ in BY_HAND}


def test_the_document_is_up_to_date() -> None:
    assert roofline.DOCUMENT.read_text(encoding="utf-8") == roofline.document(roofline.RESULTS)


def test_a_faster_memory_helps_what_is_bound_by_it() -> None:
    slow, fast = (predicted_ms(card, Shape(), 512) for card in CARDS)
    assert 0.8 < fast / slow < 0.9
