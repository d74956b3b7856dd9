"""What the page shows of classes, of their confusions and of test images."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastlift.reporting import gallery as galleries
from fastlift.reporting.classes import class_table
from fastlift.reporting.confusion import NAMED_CLASSES, matrix
from fastlift.reporting.gallery import gallery
from fastlift.reporting.html import render_report
from fastlift.reporting.record import RunRecord, read_run, read_runs

MakeRun = Callable[..., Path]  # the fixture of conftest.py


def test_a_row_a_class_from_the_worst(make_run: MakeRun) -> None:
    run = read_run(make_run())
    table = class_table([run])
    assert table is not None
    assert table.headings == ["Class", "Group", "Training images", "Test images", "Accuracy (%)", "95 % interval",
                              "Precision (%)", "Mostly taken for"]  # fmt: skip
    assert table.numbers == [2, 3, 4, 6]
    accuracies = [float(row[4]) for row in table.rows]
    assert accuracies == sorted(accuracies)
    assert run.confusions is not None
    row = next(row for row in table.rows if row[0] == "striped red star 0")
    found, images = run.confusions, 20
    assert row[1:5] == ["many", "500", str(images), f"{100 * found.right[0] / images:.1f}"]
    taken = found.matrix()[:, 0]
    assert row[6] == f"{100 * taken[0] / taken.sum():.1f}"
    mostly = int(np.argmax(np.where(np.arange(30) == 0, 0, found.matrix()[0])))
    assert row[7] == f"striped red star {mostly} ({found.matrix()[0, mostly]})"


def test_runs_side_by_side_with_differences(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a"), make_run("b", seed=3), make_run("going", finished=False)])
    table = class_table(runs)
    assert table is not None
    assert table.headings[4:] == ["a (%)", "b (%)", "b − a"]
    for row in table.rows:
        assert float(row[6].replace("−", "-")) == pytest.approx(float(row[5]) - float(row[4]))
    other = make_run("c", classes=7)
    assert class_table(read_runs([other, *(Path(other).parent / name for name in "ab")])) is None


def changed(run: Path, name: str, value: object) -> RunRecord:
    stored = json.loads((run / "results.json").read_text())
    stored["data"][name] = value
    (run / "results.json").write_text(json.dumps(stored))
    return read_run(run)


def test_few_classes_have_cells_with_names(make_run: MakeRun) -> None:
    run = make_run(classes=10)
    found = matrix(changed(run, "group_counts", [1, 50, 3, 4, 5, 6, 7, 8, 9, 10]), "key")
    assert found is not None
    assert found.names[:2] == ["striped red star 1", "striped red star 9"]  # by the training images
    confusions = read_run(run).confusions
    assert confusions is not None
    order = [int(name.split()[-1]) for name in found.names]
    cells = [[cell.count for cell in cells] for _, cells in found.rows]
    assert np.array_equal(cells, confusions.matrix()[np.ix_(order, order)])
    assert all(
        cell.right == (row == column) for row, (_, line) in enumerate(found.rows) for column, cell in enumerate(line)
    )
    assert found.plots == found.groups == []


def test_many_classes_are_drawn_and_listed(make_run: MakeRun) -> None:
    run = read_run(make_run(classes=NAMED_CLASSES + 1))
    found = matrix(run, "key")
    assert found is not None
    assert found.rows == []
    assert [plot.title for plot in found.plots] == ["Mistakes, by frequency", "Mistakes, like beside like"]
    assert all(f"{name}</text>" in found.plots[0].svg for name in ("many", "medium", "few"))
    assert found.groups
    counts = [int(row[2]) for row in found.pairs]
    assert counts == sorted(counts, reverse=True)
    assert run.confusions is not None
    whole = run.confusions.matrix()
    for row in found.pairs:
        label, predicted = (int(name.split()[-1]) for name in row[:2])
        assert (row[2], row[4]) == (str(whole[label, predicted]), str(whole[predicted, label]))
        assert row[3] == f"{100 * whole[label, predicted] / 20:.0f}"
    for row in found.by_group[1:]:
        assert sum(map(float, row[2:])) == pytest.approx(100, abs=0.3)


def test_what_is_left_without_predictions(make_run: MakeRun) -> None:
    run = read_run(make_run(thumbnails=None))
    assert "so no images and no confusion matrix are shown; fastlift evaluate writes them" in run.notes[0]
    found = matrix(run, "key")
    assert found is not None
    assert found.pairs
    assert found.rows == found.plots == found.by_group == []
    table = class_table([run])
    assert table is not None
    assert "Test images" not in table.headings


def test_damaged_or_foreign_predictions_are_told_and_left_out(make_run: MakeRun) -> None:
    run = make_run()
    file = run / "predictions" / "center.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (note,) = read_run(run).notes
    assert "is damaged" in note
    assert "fastlift evaluate writes them again" in note
    assert "is damaged" in render_report([read_run(run)])
    file.write_bytes(whole)
    (note,) = changed(run, "fingerprints", {"test": "another"}).notes
    assert "of another test set" in note
    assert read_run(run).predictions is None


def test_the_gallery_shows_what_was_kept(make_run: MakeRun) -> None:
    run = read_run(make_run(thumbnails=32))
    assert run.predictions is not None
    found = gallery(run, 10**6)
    assert found is not None
    images = run.predictions.images
    assert len(found.worst) == 16
    assert not any(one.right for one in found.worst)
    assert [one.name for one in found.rarest] == [
        f"striped red star {c}" for c in (28, 29, 27, 26)
    ]  # two of 5 training images
    assert [len(one.images) for one in found.rarest] == [4] * 4
    assert found.rarest[0].facts.startswith("5 training images; ")
    assert found.count == len(run.predictions.thumbnails)
    assert all(one.uri for one in (*found.worst, *(one for rare in found.rarest for one in rare.images)))
    first = found.worst[0]
    row = int(re.findall(r"\d+", first.file)[0])
    place = images.rows.tolist().index(row)
    assert images.confidence[place] == max(images.confidence[images.wrong])
    assert first.uri == "data:image/jpeg;base64," + base64.b64encode(run.predictions.thumbnails[row]).decode()
    assert (first.label, first.predicted) == tuple(
        f"striped red star {c}" for c in (images.labels[place], images.predicted[place])
    )


def test_the_page_s_images_are_bounded_and_can_stay_at_home(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = read_runs([make_run("a"), make_run("b", seed=1)])
    page = render_report(runs)
    kept = sum(len(run.predictions.thumbnails) for run in runs if run.predictions is not None)
    assert f"This page holds {kept} small copies of test images: who gets it gets them" in page
    private = render_report(runs, images=False)
    assert "data:image/jpeg" not in private
    assert "written without the thumbnails" in private
    one = len(re.findall(r'data:image/jpeg[^"]*', page)[0])
    monkeypatch.setattr("fastlift.reporting.html.PAGE_BYTES", 2 * 5 * (one + 60))
    small = render_report(runs)
    assert 0 < len(set(re.findall(r'data:image/jpeg[^"]*', small))) <= 12
    assert "no thumbnail" in small
    assert galleries.PAGE_BYTES <= 4 * 2**20
    kept_none = render_report([read_run(make_run("none", thumbnails=0))])
    assert "Worst mistakes" not in kept_none
    assert "Confusion matrix" in kept_none
