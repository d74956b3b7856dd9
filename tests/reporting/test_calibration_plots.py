"""What the page shows of a calibrated run: the trade-off of head and tail, the figures before and after, and whose they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import browser as browser
from logits import drawn
from pages import PHONE, assert_accessible, assert_fits, opened

from fastlift.evaluation.before_after import BeforeAfter
from fastlift.evaluation.calibration import Fit, log_prior
from fastlift.evaluation.tradeoff import strengths_shown
from fastlift.reporting.calibration_plots import calibration_section, frontier_plot
from fastlift.reporting.calibrations import calibration_table
from fastlift.reporting.console import PrintableConsole
from fastlift.reporting.html import render_report
from fastlift.reporting.record import read_runs
from fastlift.runs.calibration import write_calibration
from fastlift.runs.folder import RunFolder

MakeRun = Callable[..., Path]  # the fixture of conftest.py


def calibrate(run: Path, strength: float = -0.37, threshold: float | None = 0.5, checkpoint: str | None = None) -> Any:
    """A calibration as the engine writes it, of drawn logits."""
    data = json.loads((run / "data.json").read_text())
    counts = data["group_counts"]
    sides, curves = {}, {}
    for seed, split in enumerate(("val", "test")):
        counted = BeforeAfter(log_prior(counts), Fit(strength, 1.3, 0.0), "classes")
        labels = torch.arange(len(counts)).repeat_interleave(6)
        logits = drawn(len(labels), len(counts), seed)[0]
        logits[torch.arange(len(labels)), labels] += 2
        counted.add(logits, labels)
        sides[split] = counted.figures(threshold, counts, (20, 100))
        curves[split] = counted.curve(counts, (20, 100))
    values = {
        "strength": strength,
        "temperature": 1.3,
        "threshold": threshold,
        "intervals": {"strength": [strength - 0.2, strength + 0.2], "temperature": None},
        "settings": {"by": "log_loss", "weigh": "classes", "reject": 0.05, "selective_accuracy": None},
        "fitted_on": {"checkpoint": checkpoint, "weights": "w", "backbone": "b", "images": 60}
        | {"tte": "none", "tte_crops": 10, "expand": None},
        "class_counts": counts,
        "before": {split: before for split, (before, _) in sides.items()},
        "after": {split: after for split, (_, after) in sides.items()},
        "curve": {"strengths": strengths_shown(strength).tolist(), **curves},
    }
    write_calibration(RunFolder(run), values)
    return values


def test_the_page_of_a_calibrated_run(make_run: MakeRun) -> None:
    run = make_run("calibrated")
    assert "Calibration after training" not in render_report(read_runs([run]))
    values = calibrate(run)
    page = render_report(read_runs([run]))
    for text in (
        'href="#calibration"',
        "Strength of the prior -0.370 (-0.570 to -0.170): logits + -0.370 log p.",
        "Temperature 1.300.",
        "5 % were allowed",
        "Head against tail, validation split",
        "Head against tail, test split",
        "Confidence before and after",
        "Coverage: accepted images",
    ):
        assert text in page, text
    (shown,) = calibration_section(read_runs([run]))
    by_name = {row[0]: row[1:5] for row in shown["rows"]}
    expected = [values[when][split]["accuracy"] for split in ("val", "test") for when in ("before", "after")]
    assert by_name["Overall accuracy"] == [f"{value:.1f}" for value in expected]
    few = f"few {values['before']['test']['few']:.1f} then {values['after']['test']['few']:.1f}"
    assert few in shown["plots"][1].caption


def test_without_a_threshold_there_is_no_coverage(make_run: MakeRun) -> None:
    run = make_run("plain")
    values = calibrate(run, threshold=None)
    assert "Coverage" not in render_report(read_runs([run]))
    console = PrintableConsole(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(calibration_table(values))
    told = console.export_text()
    assert "Coverage" not in told
    assert "threshold" not in told


def test_several_runs_are_compared_by_their_trade_offs(make_run: MakeRun) -> None:
    runs = [make_run("first"), make_run("second")]
    calibrate(runs[0])
    assert frontier_plot(read_runs(runs)) is None
    values = calibrate(runs[1], strength=0.4)
    plot = frontier_plot(read_runs(runs))
    assert plot is not None
    assert f"second: many {values['before']['test']['many']:.1f} then" in plot.svg
    page = render_report(read_runs(runs))
    assert page.count("Head against tail, test split") >= 2
    assert "Head against tail, runs compared" in page


def test_a_calibration_of_another_checkpoint_is_told(make_run: MakeRun) -> None:
    run = make_run("other")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(
        json.dumps(results | {"checkpoint": {"name": "epoch-002", "step": 1, "best_by": "few", "evaluations": 1}})
    )
    for checkpoint, stale in (("epoch-002", False), ("epoch-001", True)):
        calibrate(run, checkpoint=checkpoint)
        assert ("Its calibration was fitted to epoch-001" in render_report(read_runs([run]))) == stale


def test_a_damaged_one_is_told_and_left_out(make_run: MakeRun) -> None:
    run = make_run("damaged")
    calibrate(run)
    file = run / "calibration.json"
    file.write_text(file.read_text().replace("0.5", "0.6", 1))
    page = render_report(read_runs([run]))
    assert "calibration.json was changed or damaged; fit it with: fastlift calibrate" in page
    assert "Calibration after training" not in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_desk_and_a_phone(make_run: MakeRun, tmp_path: Path, browser: Any, scheme: str) -> None:
    run = make_run("calibrated")
    calibrate(run)
    file = tmp_path / "page.html"
    file.write_text(render_report(read_runs([run])))
    with opened(browser, f"{file.as_uri()}#calibration", color_scheme=scheme) as page:
        assert page.locator("#calibration + details svg").count() == 3
        assert_fits(page)
        assert_accessible(page)
    with opened(browser, file.as_uri(), viewport=PHONE, color_scheme=scheme) as page:
        assert_fits(page)
