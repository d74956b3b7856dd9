"""``fastlift.advise``: a run's record and data in, sentences with their errors out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import tiny_recipe
from scenes import Planted
from scenes import planted as planted
from scenes import trained as trained

import fastlift
from fastlift.cli import main
from fastlift.errors import UserError
from fastlift.reporting.record import read_run
from fastlift.runs.advice_file import read_advice


@pytest.fixture(scope="module")
def advice(trained: Planted, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of an unchanged run, all parts."""
    run = tmp_path_factory.mktemp("advised") / "run"
    shutil.copytree(trained.run, run)
    return fastlift.advise(run, ui=None), run


def test_planted_copies_are_found_first(advice: Any, trained: Planted) -> None:
    """By features alone, which are random here, one more pair may pass: 0.1 are expected."""
    duplicates = advice[0].duplicates
    assert {pair.test.file: pair.train.file for pair in duplicates.pairs[:3]} == trained.pairs
    assert [pair.how for pair in duplicates.pairs[:3]] == ["content", "copy", "copy"]
    assert duplicates.count["content"] == 1
    assert duplicates.count["copy"] == 2
    assert duplicates.count["features"] <= 1
    assert duplicates.other_label == 1
    assert (duplicates.searched, duplicates.among) == (48, 140)


def test_the_search_tells_how_many_altered_copies_it_finds(advice: Any) -> None:
    tried = {one.how: one.found / one.tried for one in advice[0].duplicates.tried}
    assert tried["mirrored"] == tried["lighter"] == 1
    assert set(tried) == {"smaller, stored again", "cropped to 90 %", "mirrored", "lighter"}


def test_figures_without_the_copies(advice: Any, trained: Planted) -> None:
    """Counted by hand from the run's predictions."""
    found = read_run(trained.run).predictions
    assert found is not None
    images = found.images
    copies = {pair.test.file for pair in advice[0].duplicates.pairs}
    left = np.array([found.file(place) not in copies for place in range(len(images))])
    is_right = images.predicted == images.labels
    told = {one.name: one for one in advice[0].duplicates.without}
    assert told["accuracy"].value == pytest.approx(100 * is_right.mean())
    assert told["accuracy"].left_value == pytest.approx(100 * is_right[left].mean())
    assert told["accuracy"].left_images == 48 - len(copies)
    means = [100 * is_right[left & (images.labels == c)].mean() for c in range(6)]
    assert told["mean_class_accuracy"].left_value == pytest.approx(np.mean(means))
    assert told["accuracy"].left_low < told["accuracy"].left_value < told["accuracy"].left_high


def test_costs_are_those_of_the_run(advice: Any, trained: Planted) -> None:
    metrics = json.loads((trained.run / "results.json").read_text())["metrics"]
    costs = advice[0].classes
    assert sum(one.lost for one in costs) == pytest.approx(100 - metrics["mean_class_accuracy"])
    assert {one.name: one.accuracy for one in costs} == pytest.approx(
        dict(zip(("ant", "bee", "cat", "dog", "elk", "fox"), metrics["per_class"], strict=True))
    )
    assert {one.name: one.train_images for one in costs}["cat"] == 20


def test_the_run_keeps_it_and_its_page_shows_it(advice: Any) -> None:
    found, run = advice
    assert read_advice(run) == found
    page = (run / "report.html").read_text()
    assert 'id="advice"' in page
    assert "test/dog/003.png" in page
    assert set(found.thumbnails) >= {"train/3", "test/1"}
    assert found.thumbnails["test/1"] in page
    assert found.checkpoint == "epoch-001"
    assert found.looked_at == {"train": 140, "test": 48}


def test_the_same_seed_tells_the_same(advice: Any, planted: Planted) -> None:
    again = fastlift.advise(planted.run, ui=None, parts=("duplicates", "labels"))
    assert again.duplicates == advice[0].duplicates
    assert again.labels == advice[0].labels
    assert again.classes == ()
    assert again.growth is None


def test_classes_alone_need_no_image(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(planted.root)
    shutil.rmtree(planted.run / "checkpoints")
    assert main(["advise", str(planted.run), "--parts", "classes", "--figure", "few", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["group"] for one in found["classes"]} == {"few"}
    assert found["duplicates"] is None
    assert found["thumbnails"] == {}


def test_moved_images(planted: Planted, trained: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    """The lists of the run name files that are there; its images have moved."""
    settings = json.loads((planted.run / "config.json").read_text())
    settings["data"]["data_root"] = "/nowhere"
    (planted.run / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"(?s)/nowhere.*name their place with --data-root"):
        fastlift.advise(planted.run, ui=None)
    assert main(["advise", str(planted.run), "--data-root", str(planted.root)]) == 0
    out = capsys.readouterr().out
    assert "test images look like copies of training images: 1 by content or path, 2 by" in " ".join(out.split())
    assert "1 of these pairs have two labels" in out
    assert "mirrored 48 of 48" in out


def test_a_run_that_has_not_ended(planted: Planted) -> None:
    (planted.run / "results.json").unlink()
    with pytest.raises(
        UserError, match=r"has not ended, so there is nothing to judge yet; it goes on with: .*--resume"
    ):
        fastlift.advise(planted.run, ui=None)


def test_a_run_without_predictions(planted: Planted) -> None:
    shutil.rmtree(planted.run / "predictions")
    with pytest.raises(UserError, match=r"keeps no predictions of its test images.*fastlift evaluate"):
        fastlift.advise(planted.run, ui=None)


def test_other_images_than_those_of_the_training(planted: Planted) -> None:
    lines = (planted.root / "test.txt").read_text().splitlines(keepends=True)
    (planted.root / "test.txt").write_text("".join(lines[1:]))
    with pytest.raises(UserError, match="these are not the test images"):
        fastlift.advise(planted.run, settings={"test_list": planted.root / "test.txt"}, ui=None)


def test_a_damaged_advice_is_told_on_the_page(planted: Planted) -> None:
    (planted.run / "advice.json").write_text('{"figure": 3}')
    record = read_run(planted.run)
    assert record.advice is None
    assert any("is no advice as this version writes it" in note for note in record.notes)


def test_no_thumbnails_where_the_run_keeps_none(planted: Planted) -> None:
    found = fastlift.advise(planted.run, settings={"thumbnails": 0}, ui=None, parts=("duplicates",))
    assert found.thumbnails == {}
    assert found.duplicates is not None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--most-images", "5"], "most_images"),
        (["--checkpoint", "epoch-007"], "has no checkpoint 'epoch-007'; there are: epoch-001"),
    ],
)
def test_wrong_use(trained: Planted, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(trained.run), *flags]) == 2
    assert message in capsys.readouterr().err


def test_labels_are_judged_and_the_search_is_tried(advice: Any) -> None:
    """Random features: what matters is that images, classes and counts belong together."""
    train, test = advice[0].labels
    assert (train.split, test.split) == ("train", "test")
    assert train.judged + train.unjudged == 140
    assert test.judged == 48
    assert train.planted.planted == 7
    for one in (train, test):
        assert one.above_half >= len(one.doubts) > 0
        assert [doubt.score for doubt in one.doubts] == sorted((doubt.score for doubt in one.doubts), reverse=True)
        assert all(doubt.suggested != doubt.image.label and doubt.score > 0.5 for doubt in one.doubts)
        assert all(doubt.image.file.split("/")[1] == doubt.image.label for doubt in one.doubts)


def test_growth_tells_what_it_cannot_tell(advice: Any) -> None:
    """Six classes are too few to try an estimate on, so there is none."""
    growth = advice[0].growth
    assert growth.checks == ()
    assert growth.plan == ()
    assert all(one.twice is None and one.more is None for one in growth.classes)
    assert {one.name: one.train_images for one in growth.classes}["ant"] == 60
    assert {one.name: one.held_out for one in growth.classes}["fox"] == 2
    assert (growth.start, growth.apart) == ("text", False)
    assert [one.group for one in growth.measured] == ["medium", "few"]


def test_a_validation_split_is_counted_on(planted: Planted, tiny_clip: Any, tmp_path: Path) -> None:
    settings = tiny_recipe(tiny_clip, planted.root, epochs=1, batch_size=64, amp="fp32", val_share=0.2, thumbnails=0)
    fastlift.train(settings, output=tmp_path / "val", ui=None)
    growth = fastlift.advise(tmp_path / "val", ui=None, parts=("growth",)).growth
    assert growth is not None
    assert growth.apart
    assert sum(one.held_out for one in growth.classes) == 5 * len(settings_val(tmp_path / "val"))


def settings_val(run: Path) -> list[str]:
    """The lines of the validation split that a run keeps."""
    return (run / "splits" / "val.txt").read_text().splitlines()
