"""Runs on the same test images: the tests on the page and in the terminal, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastlift.cli import main
from fastlift.evaluation.paired_tests import mcnemar
from fastlift.reporting.html import render_report
from fastlift.reporting.paired import paired_lines, paired_of, paired_tables
from fastlift.reporting.record import read_runs

MakeRun = Callable[..., Path]  # the fixture of conftest.py


def test_counts_come_from_the_predictions(make_run: MakeRun) -> None:
    one, other = runs = read_runs([make_run("a"), make_run("b", seed=1, tail_bonus=0.2)])
    tests = paired_of(runs)["b"]
    assert list(tests) == ["overall", "many", "medium", "few"]
    assert one.predictions is not None
    assert other.predictions is not None
    right = [run.predictions.images.predicted == run.predictions.images.labels for run in (one, other)]  # type: ignore[union-attr]
    overall = tests["overall"]
    assert (overall.only_first, overall.only_second) == (
        int((right[0] & ~right[1]).sum()),
        int((right[1] & ~right[0]).sum()),
    )
    assert overall.p == overall.adjusted == mcnemar(overall.only_first, overall.only_second)
    assert overall.difference == pytest.approx(other.metrics()["accuracy"] - one.metrics()["accuracy"])
    few = np.isin(one.predictions.images.labels, np.flatnonzero(one.groups()["few"]))
    assert tests["few"].images == few.sum()


def test_the_page_and_the_terminal_say_it(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a"), make_run("b", seed=1, tail_bonus=0.2)])
    (table,) = paired_tables(runs)
    assert table.title == "The same test images: b against a"
    assert [label for label, _, _ in table.rows] == ["overall", "many", "medium", "few"]
    assert "it does not count seeds" in table.note
    assert "Holm" not in table.note
    page = render_report(runs)
    assert "The same test images: b against a" in page
    assert "Right in the first alone" in page
    first, groups, last = paired_lines(paired_of(runs), "a")
    test = paired_of(runs)["b"]["overall"]
    assert first.startswith(f"b against a: {test.sentence()}; ")
    assert first.endswith(f"{test.only_second} test images right in b alone, {test.only_first} in a alone")
    assert groups.startswith("  by group, in points: many ")
    assert last == "(McNemar's exact test over the test images; it does not count seeds)"


def test_several_are_compared_with_the_first(make_run: MakeRun) -> None:
    folders = [make_run("a"), make_run("b", seed=1), make_run("c", seed=2), make_run("blind", seed=3, thumbnails=None)]
    runs = read_runs(folders)
    found = paired_of(runs)
    assert list(found) == ["b", "c"]
    assert all(test.adjusted >= test.p for tests in found.values() for test in tests.values())
    (table,) = paired_tables(runs)
    assert "p is Holm's, over the 2" in table.note
    assert "Left out: blind, which was not tested on the same images, or keeps no predictions." in table.note
    assert table.rows[4][0] == "c: overall"
    assert paired_lines(found, "a")[-1].startswith(
        "(McNemar's exact test over the test images, Holm's correction over 2;"
    )


def test_without_the_same_images_nothing_is_said(make_run: MakeRun) -> None:
    seeing, blind = read_runs([make_run("a"), make_run("b", thumbnails=None)])
    for runs in ([seeing], [seeing, blind], [blind, seeing]):
        assert paired_of(runs) == {}
        assert paired_tables(runs) == []
    assert paired_lines({}, "a") == []
    (more,) = read_runs([make_run("c", classes=20)])
    assert paired_of([seeing, more]) == {}


def test_the_command_says_it_beside_the_page(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "page.html"
    assert main(["report", str(make_run("a")), str(make_run("b", seed=1)), "--output", str(output)]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(output)
    assert "b against a: the difference of" in told.err
