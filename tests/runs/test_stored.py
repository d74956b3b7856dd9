"""The JSON files of a run: what is wrong with one is told by place, kind and value, with the way on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastlift.errors import UserError
from fastlift.runs.stored import is_event, read_data, read_results

METRICS: dict[str, Any] = {"accuracy": 50.0, "many": None, "group_boundaries": [20, 100], "per_class": [1, None, 99.5]}
DATA: dict[str, Any] = {"class_names": ["a", "b"], "class_counts": [3, 1], "group_counts": [3, 1]}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "the file has no metrics"),
        ({"metrics": [1]}, "metrics: expected an object, got [1]"),
        ({"metrics": {"accuracy": "high"}}, "metrics.accuracy: expected a number, got 'high'"),
        ({"metrics": {"accuracy": True}}, "metrics.accuracy: expected a number, got True"),
        ({"metrics": {"accuracy": 1e16}}, "metrics.accuracy: expected a number, got 1e+16"),
        ({"metrics": {"samples": -1}}, "metrics.samples: expected a whole number, 0 or more, got -1"),
        ({"metrics": {"samples": 2.0}}, "metrics.samples: expected a whole number, 0 or more, got 2.0"),
        (
            {"metrics": {"group_boundaries": [1]}},
            "metrics.group_boundaries: expected two numbers that do not fall, got [1]",
        ),
        ({"metrics": {"group_boundaries": [2, 1]}}, "metrics.group_boundaries: expected two numbers that do not fall"),
        ({"metrics": {"group_sizes": [1]}}, "metrics.group_sizes: expected an object, got [1]"),
        ({"metrics": {"calibration": [{"count": 1, "confidence": 1}]}}, "metrics.calibration[0] has no accuracy"),
        ({"metrics": {"confusions": 3}}, "metrics.confusions: expected a list, got 3"),
        (
            {"metrics": {}, "evaluations": {"fivecrop": {"per_class": [1, "x"]}}},
            "evaluations.fivecrop.per_class[1]: expected a number, got 'x'",
        ),
        (
            {"metrics": {}, "data": DATA | {"class_names": ["a"]}},
            "data: expected as many of each, got 1 class_names, 2",
        ),
        ({"metrics": {}, "data": DATA | {"class_names": [3, 4]}}, "data.class_names[0]: expected text, got 3"),
        ({"metrics": {}, "timing": {"train_s": None}}, "timing.train_s: expected a number, got None"),
        ({"metrics": {}, "recipe": ["x" * 90]}, "recipe: expected text, got ['" + "x" * 34 + "...;"),
    ],
)
def test_damage_is_told(found: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    with pytest.raises(UserError) as refused:
        read_results(path)
    assert str(refused.value).startswith(f"{path}: {said}")
    assert str(refused.value).endswith("; fastlift train --resume keeps it aside and evaluates again")


def test_what_is_whole_is_read_as_it_is(tmp_path: Path) -> None:
    """With names of later versions, and figures that a training may diverge to."""
    path, metrics = tmp_path / "results.json", METRICS | {"log_loss": 3e38, "of_a_later_version": [1]}
    whole = {"metrics": metrics, "evaluations": {"center": metrics}, "data": DATA, "machine": {"quota": None}, "new": 1}
    path.write_text(json.dumps(whole))
    assert read_results(path) == whole


def test_data_says_its_own_way_on(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    with pytest.raises(UserError, match=r"data\.json.*; fastlift train --resume writes it again$"):
        read_data(path)
    path.write_text(json.dumps(DATA | {"group_counts": [1]}))
    with pytest.raises(
        UserError, match="the file: expected as many of each, got 2 class_names, 2 class_counts, 1 group_"
    ):
        read_data(path)
    path.write_text(json.dumps(DATA))
    assert read_data(path) == DATA


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ({"event": "step", "step": 3}, True),
        ({"event": "step", "step": 3, "loss": 1, "learning_rate": None, "more": "x"}, True),
        ({"event": "step", "step": 3, "loss": "1"}, False),
        ({"event": "step", "step": 3, "loss": 1e40}, False),
        ({"event": "step", "step": 3, "accuracy": 1e16}, False),
        ({"event": "step", "step": -3}, False),
        ({"event": 3, "step": 3}, False),
        ({"step": 3}, False),
        ([], False),
        (None, False),
    ],
)
def test_events(line: Any, is_one: bool) -> None:
    assert is_event(line) is is_one
