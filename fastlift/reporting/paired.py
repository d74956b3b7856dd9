"""Runs on the same test images against the first of them, by McNemar's exact test: a table for the page, sentences for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fastlift.evaluation.paired_tests import PairedTest, compare, p_text
from fastlift.reporting.comparison import Cell, Table, same_test_images
from fastlift.reporting.record import RunRecord

NOTE = (
    "McNemar's exact test, two-sided, on the test images that one of two alone has right. It says whether chance in the choice of "
    "the test images explains a difference; it does not count seeds: another seed of the same settings is another model. "
    "Differences are in points over the images of a group."
)
_HOLM = " p is Holm's, over the {} that are compared with the first, for each group by itself."


def paired_of(runs: Sequence[RunRecord]) -> dict[str, dict[str, PairedTest]]:
    """By run and group, each run against the first; without those that were tested on other images, or keep no predictions."""
    if len(runs) < 2:
        return {}
    first = runs[0]
    others = [run for run in runs[1:] if same_test_images(first, run)]
    if not others or first.predictions is None:
        return {}
    said = [run.predictions.images for run in others if run.predictions is not None]
    groups = {"overall": np.ones(len(first.class_names()), dtype=bool), **first.groups()}
    found = compare(first.predictions.images, said, groups)
    return {run.name: tests for run, tests in zip(others, found, strict=True)}


def paired_tables(runs: Sequence[RunRecord]) -> list[Table]:
    """For the page: a row a run and group."""
    found = paired_of(runs)
    if not found:
        return []
    first, rows = runs[0].name, []
    for name, tests in found.items():
        for group, test in tests.items():
            label = group if len(found) == 1 else f"{name}: {group}"
            rows.append((label, [Cell(text) for text in texts(test)], ""))
    title = (
        f"The same test images: {next(iter(found))} against {first}"
        if len(found) == 1
        else f"The same test images: against {first}"
    )
    note = NOTE + (_HOLM.format(len(found)) if len(found) > 1 else "") + _left_out(runs, found)
    headings = ["Test images", "Right in the first alone", "Right in the other alone", "Difference", "p", "In words"]
    return [Table(title, headings, rows, note, "Group" if len(found) == 1 else "Run and group")]


def texts(test: PairedTest) -> list[str]:
    """The cells of a test."""
    counts = (test.images, test.only_first, test.only_second)
    difference = f"{round(test.difference, 1) + 0.0:+.1f}".replace("-", "−")
    words = "more than chance" if not test.by_chance else "within chance"
    return [*(f"{count:,}" for count in counts), difference, p_text(test.adjusted)[2:].removeprefix("= "), words]


def paired_lines(found: Mapping[str, Mapping[str, PairedTest]], first: str) -> list[str]:
    """For the terminal: a sentence for each that is compared, with the groups in which it differs by more than chance."""
    lines = []
    for name, tests in found.items():
        overall = tests["overall"]
        counts = f"{overall.only_second:,} test images right in {name} alone, {overall.only_first:,} in {first} alone"
        lines.append(f"{name} against {first}: {overall.sentence()}; {counts}")
        groups = {group: test for group, test in tests.items() if group != "overall"}
        told = [f"{group} {test.difference:+.1f} ({p_text(test.adjusted)})" for group, test in groups.items()]
        if told:
            lines.append(f"  by group, in points: {', '.join(told)}".replace(" -", " −"))
    if found:
        corrected = f", Holm's correction over {len(found)}" if len(found) > 1 else ""
        lines.append(f"(McNemar's exact test over the test images{corrected}; it does not count seeds)")
    return lines


def _left_out(runs: Sequence[RunRecord], found: Mapping[str, object]) -> str:
    names = [run.name for run in runs[1:] if run.name not in found]
    told = (
        "was not tested on the same images, or keeps"
        if len(names) == 1
        else "were not tested on the same images, or keep"
    )
    return f" Left out: {', '.join(names)}, which {told} no predictions." if names else ""
