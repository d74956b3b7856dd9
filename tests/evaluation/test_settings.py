"""Settings of evaluation: names in results, crops at a time, and the crops that they build."""

from __future__ import annotations

from typing import Any

import pytest

from fastlift.errors import UserError
from fastlift.evaluation.settings import EvalSettings, InferenceSettings
from fastlift.models.preprocessing import EnsemblingSettings, Preprocessing


def preprocessing(size: int) -> Preprocessing:
    return Preprocessing(size, (0.5,) * 3, (0.5,) * 3, "bicubic")


@pytest.mark.parametrize(
    ("settings", "name", "crops"),
    [
        ({}, "center", 1),
        ({"tte": "fivecrop"}, "fivecrop", 5),
        ({"tte": "fivecrop", "expand": 9}, "fivecrop+9", 5),
        ({"tte": "tencrop", "expand": 0}, "tencrop+0", 10),
        ({"tte": "random"}, "random-10", 10),
        ({"tte": "random", "tte_crops": 3}, "random-3", 3),
    ],
)
def test_names_and_crops(settings: dict[str, Any], name: str, crops: int) -> None:
    ensembling = EnsemblingSettings(**settings)
    assert (ensembling.ensembling_name, ensembling.crops_per_image) == (name, crops)
    built = ensembling.build(preprocessing(32))
    assert (built.size, built.interpolation) == (32, "bicubic")
    assert built.expand == settings.get("expand", 3)


@pytest.mark.parametrize(("batch", "images"), [(1, 1), (5, 1), (9, 1), (10, 2), (128, 25)])
def test_crops_of_an_image_go_together(batch: int, images: int) -> None:
    settings = InferenceSettings(tte="fivecrop", eval_batch=batch)
    assert (settings.images_at_a_time, settings.crops_at_a_time) == (images, 5 * images)


def test_expand_is_the_paper_s_or_less_in_proportion() -> None:
    assert [EnsemblingSettings().build(preprocessing(size)).expand for size in (32, 112, 224, 384)] == [3, 12, 24, 24]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (EnsemblingSettings, {"tte": "fivecrops"}, "unknown value of tte 'fivecrops'; did you mean fivecrop"),
        (EnsemblingSettings, {"tte": "random", "tte_crops": 0}, "tte_crops: expected more than 0, got 0"),
        (EnsemblingSettings, {"expand": -1}, "expand: expected a whole number from 0 to 4096, got -1"),
        (EnsemblingSettings, {"expand": 1_000_000}, "expand: expected a whole number from 0 to 4096, got 1000000"),
        (EvalSettings, {"eval_batch": 0}, "eval_batch: expected more than 0, got 0"),
    ],
)
def test_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        kind(**values)
