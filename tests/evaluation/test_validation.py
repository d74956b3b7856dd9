"""When a validation split is evaluated, and what a curve of its figures decides."""

from __future__ import annotations

from typing import Any

import pytest

from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.evaluation.validation import Standing, ValidationSettings

STEPS = 8  # of an epoch


def due(eval_every: float, epochs: int) -> list[tuple[int, int]]:
    settings = ValidationSettings(eval_every)
    places = [(epoch, step) for epoch in range(epochs) for step in range(STEPS)] + [(epochs, 0)]
    return [place for place in places if settings.is_due(*place, STEPS, epochs)]


def test_every_so_many_epochs_and_at_the_end() -> None:
    assert due(1, 3) == [(1, 0), (2, 0), (3, 0)]
    assert due(2, 5) == [(2, 0), (4, 0), (5, 0)]
    assert due(9, 2) == [(2, 0)]


def test_several_times_an_epoch() -> None:
    assert due(0.5, 2) == [(0, 4), (1, 0), (1, 4), (2, 0)]
    assert due(0.3, 1) == [(0, 2), (0, 5), (1, 0)]  # a third
    assert due(1e-9, 1) == [(0, step) for step in range(1, STEPS)] + [(1, 0)]  # after each step, not more often


def test_never_without_being_asked() -> None:
    assert not ValidationSettings().is_due(1, 0, STEPS, 1)


@pytest.mark.parametrize(("given", "words"), [(1.5, "whole number of epochs"), (0, "expected"), (-1, "expected")])
def test_how_often_is_a_number_of_epochs_or_a_part_of_one(given: float, words: str) -> None:
    with pytest.raises(UserError, match=f"eval_every: .*{words}"):
        Config().override(eval_every=given)


def standing(values: list[float | None], by: str = "accuracy", patience: int | None = None) -> Standing:
    settings = Config().override(eval_every=1, best_by=by, patience=patience).part(ValidationSettings)
    events: list[dict[str, Any]] = [{"step": 10 * (i + 1), by: value} for i, value in enumerate(values)]
    return Standing(settings, events)


@pytest.mark.parametrize(
    ("values", "by", "step", "since"),
    [
        ([10, 30, 20], "accuracy", 20, 1),
        ([10, 30, 30], "accuracy", 20, 1),  # of equal ones the earlier
        ([3.0, 1.0, 2.0], "log_loss", 20, 1),  # a loss is better where it is lower
        ([1.0, 1.0], "log_loss", 10, 1),
        ([None, 5.0, None], "log_loss", 20, 1),  # an evaluation without the figure is no best one
        ([None, None], "log_loss", 10, 1),
    ],
)
def test_the_best_of_a_curve(values: list[float | None], by: str, step: int, since: int) -> None:
    found = standing(values, by)
    assert found.best is not None
    assert (found.best["step"], found.since_best) == (step, since)


def test_ranked_from_the_best_on() -> None:
    found = standing([10, 30, 20, 30])
    assert [event["step"] for event in found.settings.ranked(found.found)] == [20, 40, 30, 10]


def test_patience() -> None:
    assert not standing([]).is_over
    assert not standing([9, 8, 7, 6]).is_over, "without patience training takes all epochs"
    assert not standing([9, 8], patience=2).is_over
    assert standing([9, 8, 9], patience=2).is_over, "an equal one is no better one"
    assert not standing([9, 8, 10], patience=2).is_over
    assert standing([9, 8, 10, 1, 1], patience=2).is_over
