"""After training: the prior's strength, a temperature and a threshold, fitted on a run's validation split and kept with the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastlift import __version__
from fastlift.config import Config, load
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import ImageIndex
from fastlift.engine.agreement import join
from fastlift.engine.build import load_data
from fastlift.engine.evaluate import PATIENCE_S, make_ready
from fastlift.engine.model import load_run
from fastlift.engine.validation import validation_split
from fastlift.errors import UserError
from fastlift.evaluation.before_after import BeforeAfter
from fastlift.evaluation.calibration import (
    CalibrationSettings,
    Fit,
    fit,
    log_loss,
    log_prior,
    uncertainty,
    weights_of,
)
from fastlift.evaluation.intervals import Interval
from fastlift.evaluation.logits import split_logits
from fastlift.evaluation.selective import threshold_by_accuracy, threshold_by_rejection
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.evaluation.tradeoff import chosen_strength, right_ranges, strengths_shown
from fastlift.models.lift import LiftModel
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.models.weights import weights_fingerprint
from fastlift.reporting.notebook import ui_for
from fastlift.runs import folder as runs
from fastlift.runs.calibration import write_calibration
from fastlift.runs.claims import claimed
from fastlift.runs.split_lists import data_of_run
from fastlift.runs.stored import read_data
from fastlift.system import launcher
from fastlift.system.device import using_device
from fastlift.system.memory import GIB, check_room, free_bytes
from fastlift.system.progress import Ui
from fastlift.system.settings import ThreadSettings
from fastlift.training.distributed import World

_TOLD_BYTES = GIB // 2  # of logits that are kept: from there on their size is told
_FEW_IMAGES = 5  # of the smallest class: below, the message says that the fit leans on few
_NAMED = 3


def calibrate_run(
    folder: str | Path,
    checkpoint: str | None = None,
    settings: dict[str, Any] | None = None,
    *,
    dataset: DataSet | None = None,
    ui: Ui | Literal["auto"] | None = "auto",
) -> dict[str, Any]:
    """Fit the prior's strength and a temperature to a run's logits of its validation split, without training.

    Kept as ``calibration.json`` in the run's folder; ``load_run(..., calibrated=True)`` and the commands use it when asked to.

    Args:
        folder: the run.
        checkpoint: by name; default as ``load_run``.
        settings: what is fitted (``by``, ``weigh``, ``reject``, ``selective_accuracy``, ``missing_classes``), and changes to
            the run's settings (``tte``, ``device``, ``data_root`` ...).
        dataset: the data set of a run whose data came from Python, made again.
        ui: where progress is told; see ``fastlift.train``.

    Returns:
        what the file holds: fitted values with 95 % intervals, what they were fitted on, figures of validation and test split
        before and after, and accuracies over the strength.

    Raises:
        UserError: no run, no validation split, classes without a validation image, or a fit that has no optimum.
    """
    if launcher.processes() > 1:
        raise UserError("calibrate is the work of one process: start it without torchrun")
    told, run = ui_for(ui), runs.open_run(Path(folder))
    asked, config = _settings(run, settings or {})
    device = join(World(), config)
    data = load_data(data_of_run(run, config.data), told, None, dataset)
    if run.class_names() != data.class_names:
        raise UserError(f"the data set has other classes than {run.path} was trained on")
    val, identity = validation_split(data, "calibrate"), run.identity()
    missing = _missing(val, asked)
    stored = read_data(run.data)
    counts = stored.get("class_counts", data.train.class_counts().tolist())
    prior = log_prior(counts)
    path = run.find_checkpoint(checkpoint)
    model = load_run(run.path, checkpoint, told)
    about = _fitted_on(model, path, config.part(EnsemblingSettings))  # in fp32 on the CPU, as others will load it
    dtype = make_ready(model, val, config.run, device, World(), told)
    passes = _Passes(model, config.part(EvaluationSettings), config.part(ThreadSettings), device, told)

    logits, labels = _kept_logits(passes, val)
    weights = weights_of(labels, asked.weigh)
    found, intervals = _fit(logits, labels, prior, weights, asked)
    groups = stored.get("group_counts", data.group_counts.tolist()), config.data.group_boundaries
    of_val = BeforeAfter(prior, found, asked.weigh)
    for some, theirs in zip(logits.split(4096), labels.split(4096), strict=True):
        of_val.add(some, theirs)
    threshold = _threshold(of_val, asked)
    losses = {"before": log_loss(logits, labels, prior, weights), "after": found.loss}
    del logits
    of_test = BeforeAfter(prior, found, asked.weigh)
    for some, theirs in passes.of(data.test):
        of_test.add(some, theirs)
    sides = {"val": of_val.figures(threshold, *groups), "test": of_test.figures(threshold, *groups)}
    values = {
        "fastlift": __version__,
        "strength": found.strength,
        "temperature": found.temperature,
        "threshold": threshold,
        "intervals": intervals,
        "settings": asdict(asked),
        "weighted_log_loss": losses,
        "fitted_on": about
        | {"dtype": dtype, "images": len(labels), "classes_without_images": missing, "fingerprint": val.fingerprint}
        | {"fewest_images": int(labels.bincount()[labels.unique()].min()), "test_fingerprint": data.test.fingerprint},
        "class_counts": [int(count) for count in counts],
        "before": {split: before for split, (before, _) in sides.items()},
        "after": {split: after for split, (_, after) in sides.items()},
        "curve": {"strengths": strengths_shown(found.strength).tolist()}
        | {"val": of_val.curve(*groups), "test": of_test.curve(*groups)},
    }
    _keep(run, identity, values, told)
    _tell(values, told)
    return values


def _settings(run: runs.RunFolder, given: dict[str, Any]) -> tuple[CalibrationSettings, Config]:
    """What is fitted, and the run's config with the other changes."""
    own = {field.name for field in fields(CalibrationSettings)}
    asked = CalibrationSettings(**{name: value for name, value in given.items() if name in own})
    config = load(run.config).override(**{name: value for name, value in given.items() if name not in own})
    return asked, config.merged(amp=runs.amp_of(run.path, config.run.amp))


def _missing(val: ImageIndex, asked: CalibrationSettings) -> int:
    """How many classes have no validation image; refused where that was not allowed."""
    missing = np.flatnonzero(val.class_counts() == 0)
    if len(missing) and asked.missing_classes == "stop":
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        named = ", ".join(val.class_names[label] for label in missing[:_NAMED])
        raise UserError(
            f"{len(missing):,} of {val.num_classes:,} classes have no validation image ({named}{more}), so nothing tells how "
            "they fare: train with more of them (--val-share), or fit on the other classes alone (--missing-classes skip)"
        )
    return len(missing)


def _fitted_on(model: LiftModel, path: Path | None, crops: EnsemblingSettings) -> dict[str, Any]:
    return {
        "split": "val",
        "checkpoint": None if path is None else path.stem,
        "weights": weights_fingerprint(model.state().items()),
        "backbone": model.backbone_fingerprint,
        **crops.values(),
    }


@dataclass(frozen=True)
class _Passes:
    """How splits pass through a model on its device."""

    model: LiftModel
    settings: EvaluationSettings
    threads: ThreadSettings
    device: torch.device
    ui: Ui

    def of(self, index: ImageIndex) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``split_logits``, with a bar."""
        with self.ui.bar(index.name, len(index)) as bar, self.threads.use(), using_device(self.device):
            yield from split_logits(
                self.model,
                index,
                self.settings,
                on_progress=bar.update,
                on_bad=lambda bad: self.ui.say(f"skipped {bad.path}: {bad.reason}"),
            )


def _kept_logits(passes: _Passes, val: ImageIndex) -> tuple[Tensor, Tensor]:
    """All logits of the validation split, fp32 on the CPU."""
    classes = len(passes.model.class_names)
    size = 4 * len(val) * classes
    check_room({"the validation split": size}, {"the validation split": f"{len(val):,} images"}, free_bytes())
    if size >= _TOLD_BYTES:
        passes.ui.say(f"the logits of {len(val):,} images and {classes:,} classes take {size / GIB:.1f} GiB")
    logits, labels = torch.empty(len(val), classes), torch.empty(len(val), dtype=torch.int64)
    done = 0
    for some, theirs in passes.of(val):
        logits[done : done + len(some)], labels[done : done + len(some)] = some, theirs
        done += len(some)
    logits, labels = logits[:done], labels[:done]
    if bad := int((~logits.isfinite().all(dim=1)).sum()):
        raise UserError(f"the model gives NaN or infinity for {bad:,} of {done:,} validation images", exit_code=1)
    return logits, labels


def _fit(
    logits: Tensor, labels: Tensor, prior: Tensor, weights: Tensor, asked: CalibrationSettings
) -> tuple[Fit, dict[str, Interval | None]]:
    chosen, of_strength = None, None
    if asked.by != "log_loss":
        chosen, of_strength = chosen_strength(right_ranges(logits, labels, prior), asked.by)
    found = fit(logits, labels, prior, weights, chosen)
    fitted = chosen is None and bool((prior != prior[0]).any())
    spans = uncertainty(logits, labels, prior, weights, found, strength_given=not fitted)
    return found, {"strength": spans[0] if fitted else of_strength, "temperature": spans[1]}


def _threshold(of_val: BeforeAfter, asked: CalibrationSettings) -> float | None:
    said = of_val.confidence, of_val.right, of_val.weights
    if asked.reject is not None:
        return threshold_by_rejection(*said, asked.reject)
    return None if asked.selective_accuracy is None else threshold_by_accuracy(*said, asked.selective_accuracy)


def _keep(run: runs.RunFolder, identity: Any, values: dict[str, Any], ui: Ui) -> None:
    """Write the file, and the page anew; another run that has taken this one's place meanwhile is left alone."""
    from fastlift.reporting.html import write_report

    with claimed(run.path, ui.say, wait=PATIENCE_S):
        if run.identity() != identity:
            raise UserError(f"not kept: another run has taken the place of {run.path} meanwhile")
        write_calibration(run, values)
        if run.has_ended():
            write_report([run.path], run.report)


def _tell(values: dict[str, Any], ui: Ui) -> None:
    about = values["fitted_on"]
    if about["fewest_images"] < _FEW_IMAGES:
        ui.say(
            f"the fit leans on few images: {about['images']:,} in all, {about['fewest_images']} of the smallest class; the "
            "intervals say how far another draw of them could move it"
        )
    if about["classes_without_images"]:
        ui.say(
            f"{about['classes_without_images']:,} classes have no validation image and no part in the fit: what it does to them "
            "shows on the test split alone"
        )
