"""Terminal tables of results."""

from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from fastlift.evaluation.metrics import Metrics
from fastlift.reporting.figures import FIGURES, best, duration_text
from fastlift.reporting.table import comparison_table, intervals_table, metrics_table


def text_of(table: Table, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


@pytest.fixture
def metrics(final_metrics: Metrics) -> dict[str, Any]:
    return final_metrics.to_dict()


def test_every_figure_is_shown(metrics: dict[str, Any]) -> None:
    text = text_of(metrics_table(metrics, title="shapes_lt [center]"))
    assert "shapes_lt [center]" in text  # square brackets are not markup
    for figure in FIGURES:
        line = next(line for line in text.splitlines() if figure.title(metrics) in line)
        assert f"{metrics[figure.name]:.{figure.digits}f}" in line
    assert f"({metrics['group_sizes']['few']} classes)" in text
    assert "600 test images" in text
    assert "600 training images" in text_of(metrics_table(metrics, split="training"))


def test_intervals_stand_beside_the_figures(metrics: dict[str, Any]) -> None:
    text = text_of(metrics_table(metrics))
    for name in ("accuracy", "many", "medium", "few", "mean_class_accuracy"):
        low, high = metrics["intervals"][name]
        assert f"{metrics[name]:.1f}" in text
        assert f"({low:.1f} - {high:.1f})" in text
    assert "in brackets 95 % intervals" in text
    del metrics["intervals"]
    assert "(" not in text_of(metrics_table(metrics)).partition("Overall accuracy")[2].splitlines()[0]
    assert "interval" not in text_of(metrics_table(metrics))


def test_intervals_of_several_fit_80_characters(metrics: dict[str, Any]) -> None:
    metrics["intervals"]["expected_calibration_error"] = (1.0, 22.5)
    rows = {"center@epoch-003": metrics, "other": {**metrics, "intervals": {}}}
    lines = text_of(intervals_table(rows), width=80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].split() == ["overall", "many", "medium", "few", "ECE"]
    assert len(lines) == 4
    assert lines[2].rstrip().endswith("1.0 - 22.5")


def test_titles_name_the_boundaries(metrics: dict[str, Any]) -> None:
    assert "Medium-shot classes (20 to 100)" in text_of(metrics_table(metrics))
    moved = text_of(metrics_table({**metrics, "group_boundaries": [5, 50]}))
    for title in (
        "Many-shot classes (> 50 training images)",
        "Medium-shot classes (5 to 50)",
        "Few-shot classes (< 5)",
    ):
        assert title in moved


def test_missing_figures_and_bad_logits(metrics: dict[str, Any]) -> None:
    text = text_of(metrics_table({**metrics, "many": None, "non_finite": 3}))
    assert "–" in next(line for line in text.splitlines() if "Many-shot" in line)
    assert "for 3 of them the model gave NaN" in text
    assert "–" in text_of(metrics_table({}))


def test_comparison_fits_80_characters(metrics: dict[str, Any]) -> None:
    rows = {"lift": metrics, "linear [probe]": {**metrics, "accuracy": 99.9, "many": None}}
    lines = text_of(comparison_table(rows), width=80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    probe = next(line for line in lines if "linear [probe]" in line)
    assert "99.9" in probe
    assert "–" in probe
    assert f"{metrics['few']:.1f}" in probe
    header = next(line for line in lines if "overall" in line)
    assert header.split() == ["overall", "many", "medium", "few", "F1", "worst", "H-mean", "G-mean", "ECE"]


def test_best_marks_the_right_end() -> None:
    accuracy = next(figure for figure in FIGURES if figure.name == "accuracy")
    error = next(figure for figure in FIGURES if figure.name == "expected_calibration_error")
    rows = {
        "a": {"accuracy": 70.0, error.name: 3.0},
        "b": {"accuracy": 70.04, error.name: 5.0},
        "c": {"accuracy": 60.0},
    }
    assert best(accuracy, rows) == {"a", "b"}  # the same as shown
    assert best(error, rows) == {"a"}
    assert best(accuracy, {"a": {"accuracy": 70.0}}) == set()
    assert best(accuracy, {"a": {"accuracy": 70.0}, "b": {"accuracy": 70.0}}) == set()
    assert best(accuracy, {"a": {"accuracy": float("nan")}, "b": {"accuracy": None}, "c": {}}) == set()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (42.06, "42.1 s"),
        (59.97, "60.0 s"),
        (187, "3 min 07 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
