"""Names and notes of a folder of several seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlift.errors import UserError
from fastlift.runs.folder import standing, way_on
from fastlift.runs.names import folder_of_seeds, resumed_as, seed_path
from fastlift.runs.seeds import Plan, planned, read_plan, told_seeds


def test_a_run_of_several_is_resumed_with_all_of_them(tmp_path: Path) -> None:
    one, alone = seed_path(tmp_path, 3), tmp_path / "alone"
    assert (folder_of_seeds(one), resumed_as(one)) == (None, one)
    Plan((3, 4), {}).write(tmp_path)
    assert (folder_of_seeds(one), resumed_as(one)) == (tmp_path, tmp_path)
    assert resumed_as(alone) == alone
    expected = f"it goes on, and the seeds after it, with: fastlift train --resume --output {tmp_path}"
    assert way_on(one) == expected  # it has not begun
    (one / "checkpoints").mkdir(parents=True)
    (one / "config.json").write_text("{}")
    (one / "checkpoints" / "epoch-001.safetensors").write_bytes(b"")
    assert standing(one).endswith(f"(the last: epoch-001.safetensors); {expected}")
    (one / "results.json").write_text("{}")
    assert way_on(one) == f"its page is written by: fastlift report {one}"


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    plan = Plan((0, 1, 2), {"run": {"amp": "fp32"}}, {"1": "ab"}, {"accuracy": {"mean": 1.5}}, {"0": {"accuracy": 1.0}})
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seeds": [], "config": {}}', '{"seeds": [-1], "config": {}}'])
def test_a_damaged_plan_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "seeds.json").write_text(text)
    with pytest.raises(UserError, match=r"seeds\.json was changed or damaged"):
        read_plan(tmp_path)


def test_what_was_measured_stays_and_what_is_asked_for_counts() -> None:
    known = Plan((0, 1), {"run": {"amp": "bf16"}}, {"1": "ab"})
    assert planned(known, (0, 1, 2), {"run": {"amp": "auto"}}) == Plan((0, 1, 2), {"run": {"amp": "bf16"}}, {"1": "ab"})
    assert planned(known, (0, 1), {"run": {"amp": "fp32"}}).config == {"run": {"amp": "fp32"}}
    for others in ((0,), (1, 2), (1, 0)):
        with pytest.raises(UserError, match=r"of the seeds 0 and 1, not of"):
            planned(known, others, {"run": {"amp": "auto"}})
    assert [told_seeds(seeds) for seeds in ((5,), (0, 1), (0, 1, 2))] == ["5", "0 and 1", "0 to 2"]
