"""How a run ends: results, the line of its evaluation, the page; each can be written again after a kill."""

from __future__ import annotations

from typing import Any

import torch

from fastlift.config import Config
from fastlift.data.datasets.catalogue import DataSet
from fastlift.engine.loop import Fit
from fastlift.errors import UserError
from fastlift.evaluation.evaluate import Evaluation, ensembling_name
from fastlift.evaluation.metrics import Metrics
from fastlift.models.lift import LiftModel
from fastlift.models.tuners import tuner_size
from fastlift.reporting.console import Ui
from fastlift.runs.folder import RunFolder
from fastlift.runs.metrics_log import MetricsLog, has_event, keep_events
from fastlift.runs.stored import read_results
from fastlift.system.device import describe_machine, versions
from fastlift.system.files import write_json


def end(run: RunFolder, results: dict[str, Any], ui: Ui) -> None:
    """End a run: with ``results.json`` it has ended, and what else it lacks is made of that.

    Raises:
        OSError: the folder cannot be written, or the disk is full; ``--resume`` ends the run again.
    """
    step = results["steps"]
    keep_events(run.metrics, lambda event: event["step"] < step or event.get("event") != "evaluation")
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
    if step is not None and epochs is not None and not has_event(run.metrics, "evaluation", step):
        metrics = Metrics.from_dict(results["metrics"])
        with MetricsLog(run, step) as log:
            log.write("evaluation", step, {"epoch": epochs - 1, **metrics.summary()})
    if not run.report.is_file() or run.report.stat().st_mtime_ns < run.results.stat().st_mtime_ns:
        from fastlift.reporting.html import write_report

        write_report([run.path], run.report)
        ui.say(f"run folder {run.path}; open {run.report} for plots")
    return results


def describe_data(data: DataSet, config: Config) -> dict[str, Any]:
    """What ``data.json`` holds of a data set."""
    return {
        "name": data.name,
        "classes": len(data.class_names),
        "train_images": len(data.train),
        "test_images": len(data.test),
        "class_names": list(data.class_names),
        "class_counts": data.train.class_counts().tolist(),
        "group_counts": data.group_counts.tolist(),
        "group_boundaries": list(config.data.group_boundaries),
        "fingerprints": {"train": data.train.fingerprint, "test": data.test.fingerprint},
    }


def describe_model(config: Config, model: LiftModel) -> dict[str, Any]:
    size = tuner_size(model.towers, model.tuner_parameters)
    head = sum(parameter.numel() for parameter in model.head_parameters.values())
    return {
        "name": config.model.model,
        "tuner": list(config.model.tuner),
        "rank": model.tuner_settings.rank,
        "layers": list(model.tuner_settings.layers),
        "tuner_parameters": size.parameters,
        "tuner_share": size.share,
        "head_parameters": head,
        "tuned_parameters": size.parameters + head,
        "image_size": model.preprocessing.image_size,
        "backbone_fingerprint": model.backbone_fingerprint,
    }


def results_of(
    config: Config, data: DataSet, model: LiftModel, fit: Fit | None, evaluation: Evaluation, device: torch.device
) -> dict[str, Any]:
    metrics = evaluation.metrics.to_dict()
    timing: dict[str, float] = {"evaluate_s": evaluation.seconds}
    if fit is not None:
        timing["train_s"] = fit.elapsed
        if fit.images_seen:  # none where a run that was trained already is only evaluated
            timing["images_per_s"] = fit.images_seen / max(fit.elapsed - fit.seconds, 1e-9)
    name = ensembling_name(config)
    return {
        "recipe": config.recipe,
        "epochs": config.training.epochs,
        "steps": fit.global_step if fit else 0,
        "model": describe_model(config, model),
        "data": describe_data(data, config),
        "metrics": metrics,
        "evaluations": {name: metrics},
        "timing": timing,
        "machine": describe_machine(device),
        "versions": versions(),
    }
