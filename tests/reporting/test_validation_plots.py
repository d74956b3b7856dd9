"""The page's curves of the validation split."""

import json
from collections.abc import Callable
from pathlib import Path

from fastlift.reporting.html import render_report
from fastlift.reporting.record import read_runs
from fastlift.reporting.validation_plots import validation_plots

MakeRun = Callable[..., Path]  # the fixture of conftest.py


def test_the_validation_split_over_the_training(make_run: MakeRun) -> None:
    """While a run trains its page shows the groups' curves; of several runs a plot for each, of those that were evaluated."""
    validated = make_run("validated", finished=False)
    log = validated / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if line["event"] == "evaluation":
            line |= {"split": "val", "many": 81.25, "few": None}
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    alone = render_report(read_runs([validated]))
    assert "many 81.2" in alone
    assert "few None" not in alone
    assert "the last evaluation of the validation split on the way" in alone
    plain = make_run("plain")
    plots = validation_plots(read_runs([validated, plain]))
    assert [plot.title.removeprefix("Validation accuracy, ") for plot in plots] == [
        "overall",
        "many",
        "medium",
    ], "no class of few has an image there"
    assert "Last: validated at step 100, 81.2." in plots[1].caption
    together = render_report(read_runs([validated, plain]))
    assert all(plot.title in together for plot in plots)
    assert "Validation accuracy" not in render_report(read_runs([plain]))
