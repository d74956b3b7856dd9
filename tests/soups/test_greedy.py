"""A greedy soup against examples that are written out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from fixtures import Told
from torch import Tensor

from fastlift.evaluation.validation import ValidationSettings
from fastlift.soups.greedy import Greedy, greedy


def cooked(values: list[float], figure: Any, **settings: Any) -> tuple[Greedy, Told, list[float]]:
    """Of states that are single numbers, with a figure that is a function of the number."""
    told, asked = Told(), list[float]()

    def evaluate(state: Mapping[str, Tensor]) -> dict[str, Any]:
        asked.append(round(state["x"].item(), 4))
        return {settings.get("best_by", "mean_class_accuracy"): figure(state["x"].item())}

    states = [lambda value=value: {"x": torch.tensor(value)} for value in values]
    labels = [f"run {place}" for place in range(len(values))]
    return greedy(states, evaluate, ValidationSettings(**settings), labels, told.say), told, asked


def test_a_written_example() -> None:
    """The figure is 100 - |x - 4|. In order of the figure: 5 (99), 2 (98), 7 (97), 9 (95).

    (5 + 2) / 2 = 3.5 has 99.5: kept. (5 + 2 + 7) / 3 = 4.67 has 99.33: left out. (5 + 2 + 9) / 3 = 5.33 has 98.67: left out.
    """
    found, told, asked = cooked([2.0, 9.0, 5.0, 7.0], lambda x: 100 - abs(x - 4))
    assert found.kept == (2, 0)
    assert found.average.state()["x"].item() == 3.5
    assert found.soup == {"mean_class_accuracy": 99.5}
    assert asked == [2.0, 9.0, 5.0, 7.0, 3.5, 4.6667, 5.3333]
    assert told.lines == [
        "greedy: run 2 is the best, with mean class accuracy 99.00",
        "greedy: with run 0 (98.00) the average has 99.50, before 99.00: kept",
        "greedy: with run 3 (97.00) the average has 99.33, before 99.50: left out",
        "greedy: with run 1 (95.00) the average has 98.67, before 99.50: left out",
    ]


def test_an_equal_figure_is_kept_and_of_equal_states_the_earlier_comes_first() -> None:
    found, _, _ = cooked([1.0, 3.0, 5.0], lambda _: 50.0)
    assert found.kept == (0, 1, 2)
    assert found.average.state()["x"].item() == 3.0


def test_where_no_average_is_better_it_is_the_best_alone() -> None:
    found, _, _ = cooked([4.0, 8.0, 0.5], lambda x: -abs(x - 4))
    assert found.kept == (0,)
    assert found.average.state()["x"].item() == 4.0


def test_a_log_loss_is_better_where_it_is_lower() -> None:
    found, _, _ = cooked([3.0, 1.0, 8.0], lambda x: x, best_by="log_loss")
    assert found.kept == (1,)
    assert [figures["log_loss"] for figures in found.figures] == [3.0, 1.0, 8.0]


@pytest.mark.parametrize("best_by", ["accuracy", "worst_class"])
def test_it_goes_by_the_figure_that_is_asked_for(best_by: str) -> None:
    found, told, _ = cooked([2.0, 4.0], lambda x: x, best_by=best_by)
    assert found.kept == (1,)
    assert best_by.replace("_", " ") in told.text
