"""How a run ends: results, the line of its evaluation, the page; each can be written again after a kill."""

from __future__ import annotations

from typing import Any

from fastlift.errors import UserError
from fastlift.evaluation.metrics import Metrics
from fastlift.runs.events import evaluations, is_evaluation, keep_events
from fastlift.runs.folder import RunFolder
from fastlift.runs.metrics_log import MetricsLog
from fastlift.runs.stored import read_results
from fastlift.system.files import write_json
from fastlift.system.progress import Ui


def end(run: RunFolder, results: dict[str, Any], ui: Ui) -> None:
    """End a run: with ``results.json`` it has ended, and what else it lacks is made of that.

    Raises:
        OSError: the folder cannot be written, or the disk is full; ``--resume`` ends the run again.
    """
    step = results["steps"]
    keep_events(run.metrics, lambda event: event["step"] < step or not is_evaluation(event, "test"))
    write_json(run.results, results, parents=False)
    complete(run, ui)


def complete(run: RunFolder, ui: Ui) -> dict[str, Any]:
    """Write what an ended run lacks, and give its results: the evaluation's line, ``data.json``, the page.

    Raises:
        UserError: ``results.json`` cannot be read.
        OSError: the folder cannot be written.
    """
    results = read_results(run.results)
    try:
        run.class_names()
    except UserError:
        if results.get("data"):
            write_json(run.data, results["data"], parents=False)
    step, epochs = results.get("steps"), results.get("epochs")
    is_logged = any(event["step"] == step for event in evaluations(run.metrics, "test"))
    if step is not None and epochs is not None and not is_logged:
        metrics = Metrics.from_dict(results["metrics"])
        with MetricsLog(run, step) as log:
            log.write("evaluation", step, {"epoch": epochs - 1, "split": "test", **metrics.summary()})
    if not run.report.is_file() or run.report.stat().st_mtime_ns < run.results.stat().st_mtime_ns:
        from fastlift.reporting.html import write_report

        write_report([run.path], run.report)
        ui.say(f"run folder {run.path}; open {run.report} for plots")
    return results
