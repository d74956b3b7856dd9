"""A run as files that serve it, each measured on this machine and on the run's own images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlift.config import load
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.crops import EvalCrops
from fastlift.engine.build import load_data
from fastlift.engine.model import load_run
from fastlift.errors import UserError
from fastlift.evaluation.evaluate import mean_logits
from fastlift.interop.export import Crops, Exported, Format, export_formats, places
from fastlift.interop.export.files import check_places, random_images
from fastlift.interop.export.formats import KINDS, OPSET, Served
from fastlift.interop.export.verify import Agreement, agreements, latencies
from fastlift.models.lift import LiftModel
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.runs import folder as runs
from fastlift.system.files import write_json
from fastlift.system.machine.processor import processor_name
from fastlift.system.progress import Quiet, Ui
from fastlift.training.averaging import Weights
from fastlift.training.classifier_init import subset
from fastlift.training.inputs import model_loader

OWN = "fastlift"  # the run itself, among what is measured
AT_A_TIME = 16


@dataclass(frozen=True)
class Measuring:
    """What is measured of exported files.

    Attributes:
        images: test images on which accuracy is measured; 0 for none.
        verify: whether all formats are measured, and their speed: otherwise int8 alone, and its accuracy.
        batch: the larger batch whose latency is measured.
        data_root: where the images are, where that is not the place of the training any more.
    """

    images: int = 256
    verify: bool = False
    batch: int = 16
    data_root: str | None = None


@dataclass(frozen=True)
class Result:
    """A file, and what was measured of it: None, or the row of a format under ``measured`` in its description."""

    exported: Exported
    measured: dict[str, Any] | None


def export_run(
    folder: Path,
    formats: Sequence[Format],
    *,
    checkpoint: str | None = None,
    weights: Weights | None = None,
    output: Path | None = None,
    ensembling: Crops = "none",
    expand: int | None = None,
    opset: int = OPSET,
    overwrite: bool = False,
    calibrated: bool = False,
    measuring: Measuring | None = None,
    ui: Ui | None = None,
) -> list[Result]:
    """Export a run in several formats, and measure what was written.

    Args:
        folder: the run.
        checkpoint: by name; default as ``load_run``.
        weights: as for ``load_run``.
        output: a folder, or for one format a file; default ``export`` in the run's folder.
        ensembling, expand, opset, overwrite: as ``export_model`` takes them.
        calibrated: the logits are those of what ``fastlift calibrate`` fitted to the run.

    Raises:
        UserError: as ``load_run`` and ``export_model``; images that are not there for a format whose accuracy must be told.
    """
    measuring, told = measuring or Measuring(), ui or Quiet()
    paths = places(list(dict.fromkeys(formats)), output or folder / "export", ensembling, calibrated=calibrated)
    check_places(paths, overwrite)
    model = load_run(folder, checkpoint, told, calibrated=calibrated, weights=weights)
    asked = EnsemblingSettings(tte=ensembling, expand=expand)
    if model.calibration is not None:
        model.calibration.check_crops(asked)
    crops = asked.build(model.preprocessing)
    rounded = [format for format in paths if KINDS[format].share is None]
    looked_at = list(paths) if measuring.verify else rounded
    images = _Images(folder, model, crops, measuring, told) if looked_at and measuring.images else None
    if images is not None and (reason := images.missing):
        if rounded:
            raise UserError(
                f"{rounded[0]} rounds weights to 8 bits, so its accuracy is measured on test images, which are not here: "
                f"{reason}. --data-root says where they are, --images 0 exports without measuring"
            )
        told.say(f"accuracy is not measured: {reason}")
        images = None
    done = export_formats(model, paths, crops, opset=opset, overwrite=overwrite)
    if not looked_at:
        return [Result(one, None) for one in done]
    rows = _measure(model, crops, {one.format: one for one in done}, looked_at, images, measuring, told)
    for one in done:
        if one.format in rows:
            described = json.loads(one.description.read_text(encoding="utf-8"))
            write_json(one.description, described | {"measured": rows[one.format]})
    return [Result(one, rows.get(one.format)) for one in done]


def _measure(
    model: LiftModel,
    crops: EvalCrops,
    done: dict[Format, Exported],
    formats: Sequence[Format],
    images: _Images | None,
    measuring: Measuring,
    ui: Ui,
) -> dict[str, dict[str, Any]]:
    """The row of each format: machine, accuracy, latency."""
    threads = torch.get_num_threads()
    served: dict[str, Served] = {format: KINDS[format].open(done[format].model, threads) for format in formats}
    rows: dict[str, dict[str, Any]] = {format: _machine(format, threads) for format in formats}
    if images is not None:
        with ui.bar("comparing", len(images)) as bar:
            mine, others = agreements(served, lambda x: mean_logits(model, x), images.batches(), bar.update)
        _check_finite(mine, others, done)
        for format, found in others.items():
            rows[format] |= _shares(found) | {"run_accuracy": mine.correct / mine.images}
    if measuring.verify:
        sizes = sorted({1, measuring.batch})
        everybody: dict[str, Served] = {OWN: lambda x: mean_logits(model, x), **served}
        spent = latencies(everybody, lambda batch: random_images(crops, batch), sizes)
        for format in formats:
            rows[format] |= {"latency_ms": _by_batch(spent[format]), "run_latency_ms": _by_batch(spent[OWN])}
    return rows


def _check_finite(mine: Agreement, others: dict[str, Agreement], done: dict[Format, Exported]) -> None:
    """Raise UserError where logits of test images are no numbers; what computed them is not kept."""
    if not math.isfinite(mine.difference):
        raise UserError(
            "this run's own logits of test images are NaN or infinite: no file can agree with it", exit_code=1
        )
    wrong = [one for one in done.values() if one.format in others and not math.isfinite(others[one.format].difference)]
    for one in wrong:
        one.model.unlink()
        one.description.unlink()
    if wrong:
        names = ", ".join(one.format for one in wrong)
        raise UserError(
            f"{names}: logits of test images are NaN or infinite where the run's are not; not kept: "
            f"{', '.join(str(one.model) for one in wrong)}",
            exit_code=1,
        )


def _by_batch(spent: dict[int, float]) -> dict[str, float]:
    return {str(batch): round(value, 3) for batch, value in spent.items()}


def _shares(found: Agreement) -> dict[str, Any]:
    return {
        "images": found.images,
        "accuracy": found.correct / found.images,
        "same_class": found.same / found.images,
        "largest_difference": found.difference,
    }


def _machine(format: Format, threads: int) -> dict[str, Any]:
    runtime = f"torch {torch.__version__}"
    if "onnxruntime" in KINDS[format].needs:
        import onnxruntime

        runtime = f"onnxruntime {onnxruntime.__version__}"
    return {"processor": processor_name(), "threads": threads, "runtime": runtime}


class _Images:
    """A seeded draw of a run's test images, as a model takes them; ``missing`` says why there are none."""

    def __init__(self, folder: Path, model: LiftModel, crops: EvalCrops, measuring: Measuring, ui: Ui) -> None:
        self.model, self.crops, self.missing = model, crops, ""
        run = runs.open_run(folder)
        moved = {} if measuring.data_root is None else {"data_root": measuring.data_root}
        self.config = load(run.config).override(**moved)
        try:
            data = load_data(self.config.data, ui)
        except UserError as error:
            self.missing = str(error).splitlines()[0].rstrip(".")
            return
        if run.class_names() != data.class_names:
            raise UserError(f"the data set has other classes than {folder} was trained on")
        rows = np.sort(np.random.default_rng(0).permutation(len(data.test))[: measuring.images])
        self.index = subset(data.test, rows)

    def __len__(self) -> int:
        return len(self.index)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(images [B, 3, S, S] or [B, V, 3, S, S], labels [B])."""
        loader = model_loader(
            self.model,
            self.index,
            self.crops,
            AT_A_TIME,
            self.config.part(LoaderSettings),
            BadImageSettings("skip"),
            shuffle=False,
        )
        try:
            for images, labels, _ in loader.epoch(0):
                yield images, labels
        finally:
            loader.close()
