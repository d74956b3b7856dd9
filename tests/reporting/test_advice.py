"""An advice in words: what can be told, and what cannot."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fastlift.advice.gains import Check, Gain
from fastlift.advice.label_doubts import PlantedLabels
from fastlift.advice.ranking import ClassCost, Neighbour
from fastlift.advice.record import (
    Advice,
    ClassGrowth,
    Doubt,
    Growth,
    ImageName,
    LabelDoubts,
    Measured,
    Planned,
)
from fastlift.errors import UserError
from fastlift.reporting.advice import advice_text
from fastlift.reporting.html import render_report
from fastlift.reporting.record import read_run
from fastlift.runs.advice_file import advice_path, read_advice, write_advice

EVIL = "<script>alert(1)</script>"
TOLD, UNTOLD = Gain(2.0, 0.5, 3.5), Gain(0.3, -1.0, 1.6)
CHECK = Check(2, 30, 1.5, 1.25, 3.0, 3.5, 2.5, 0.9333, 1.0, 0.5)


def growth(planned: Gain) -> Growth:
    classes = (ClassGrowth("ant", 40, 40, 71.0, TOLD, UNTOLD), ClassGrowth("bee", 1, 0, 60.0, None, None))
    plan = (Planned("ant", 40, 90, TOLD),)
    measured = (Measured("medium", 1, (32.0, 16.0, 8.0, 4.0, 2.0), (71.0, 66.0, 60.0, 55.0, 50.0)),)
    law = ((1.0, 45.0), (10.0, 60.0), (100.0, 75.0))
    return Growth(
        (CHECK,), law, measured, classes, 100, plan, planned, UNTOLD, UNTOLD, UNTOLD, 1, "text", 0.1, False, 66.0, 61.5
    )


@pytest.fixture
def advice() -> Advice:
    cost = ClassCost(0, EVIL, "few", 5, 24, 25.0, 12.0, 45.0, 1.2, 0.9, 1.4, (Neighbour("bee", 9, 37.5),), ())
    image = ImageName("train", 3, "train/a.jpg", "ant")
    planted = PlantedLabels(10, 8, 9, (5, 5), (3, 5))
    doubts = LabelDoubts("train", (Doubt(image, "bee", 0.987),), 4, 90, 2, planted)
    return Advice(
        figure="mean_class_accuracy",
        value=64.3,
        low=62.2,
        high=66.5,
        evaluation="center",
        every=1,
        checkpoint="epoch-010",
        device="cpu",
        looked_at={"train": 90, "test": 48},
        of={"train": 120, "test": 48},
        seconds={"labels": 2.0},
        seed=0,
        classes=(cost,),
        labels=(doubts,),
        growth=growth(TOLD),
        thumbnails={"train/3": "AAAA"},
    )


def told(advice: Advice) -> str:
    """What the terminal shows, on one line."""
    file = io.StringIO()
    Console(file=file, width=100).print(advice_text(advice))
    return " ".join(file.getvalue().split())


def test_the_file_gives_back_what_was_written(advice: Advice, tmp_path: Path) -> None:
    write_advice(tmp_path, advice)
    assert read_advice(tmp_path) == advice
    assert read_advice(tmp_path / "none") is None


def test_a_damaged_file_is_refused(advice: Advice, tmp_path: Path) -> None:
    write_advice(tmp_path, advice)
    advice_path(tmp_path).write_text(advice_path(tmp_path).read_text().replace("64.3", '"much"'))
    with pytest.raises(UserError, match=r"advice\.json is no advice.*fastlift advise writes it again"):
        read_advice(tmp_path)


def test_every_estimate_has_its_error_beside_it(advice: Advice) -> None:
    text = told(advice)
    assert "mean class accuracy is 64.3 % (62.2 to 66.5)" in text
    assert "Tried with 10 labels made wrong on purpose: 80 % of the 10 most doubtful are such" in text
    assert "2 images cannot be judged" in text
    assert (
        "100 more training images, given to the classes below, would raise mean class accuracy by +2.0 (+0.5 to +3.5)"
        in text
    )
    assert "gain of +1.5 points predicted, +1.2 counted; off by 3.0 in a class (3.5 if no gain is predicted" in text
    assert "93 % of the classes lie in their 95 % intervals" in text
    assert "Of 1 classes nothing can be told" in text
    assert "90 of 120 training images" in text


def test_a_promise_below_its_error_is_not_made(advice: Advice) -> None:
    text = told(replace(advice, growth=growth(UNTOLD)))
    assert (
        "cannot be told from this run: the best plan promises +0.3 (−1.0 to +1.6) points, less than the error" in text
    )
    assert "+90" not in text  # no plan that is not one


def test_the_page_shows_all_of_it(advice: Advice, make_run: object) -> None:
    run = make_run("lift")  # type: ignore[operator]
    write_advice(run, advice)
    page = render_report([read_run(run)])
    assert 'id="advice"' in page
    assert EVIL not in page
    assert "data:image/jpeg;base64,AAAA" in page
    assert "What more images of each class would bring" in page
    assert "Accuracy with fewer images" in page
    assert "AAAA" not in render_report([read_run(run)], images=False)
    assert "train/a.jpg" in render_report([read_run(run)], images=False)


def test_a_run_without_an_advice_has_no_section(make_run: object) -> None:
    assert 'id="advice"' not in render_report([read_run(make_run("lift"))])  # type: ignore[operator]
