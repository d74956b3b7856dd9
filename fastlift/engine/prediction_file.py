"""Predictions by a run in a file: resumable, with a record of every image."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastlift.config import Config, RunConfig
from fastlift.engine.predict import Wanted, predict_images
from fastlift.errors import UserError
from fastlift.models.prediction.result import Prediction
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.reporting.predictions import Format, LineFile, Records, Unfinished
from fastlift.runs.calibration import calibration_in, read_calibration
from fastlift.runs.folder import amp_of, open_run
from fastlift.system.progress import Ui
from fastlift.system.signals import Interrupted, Signalled

TOLD = 10  # images without a prediction; the file holds all of them
RECORDS, SECONDS = 256, 1.0  # that are written at a time


@dataclass(frozen=True)
class PredictionFile:
    """Where predictions go, and what happens where there are some."""

    path: Path
    format: Format
    resume: bool = False
    overwrite: bool = False


def write_predictions(file: PredictionFile, wanted: Wanted, config: Config, total: int | None, ui: Ui) -> int:
    """Write a record of each image, on the first process of those that share the work; gives how many have a problem.

    Args:
        file: a file that was begun and not ended is gone on with by ``resume``.
        wanted: what is predicted; ``done`` is found out here.
        total: how many images there are, if somebody knows.

    Raises:
        UserError: as ``predict_images``; a file that is there and may not be written; one that was begun with other images
            or settings.
        Interrupted: a signal came; what was predicted is kept.
    """
    with _begun(file, wanted, config.run) as (unfinished, records):
        if records is None:
            ui.say(f"{file.path} is complete: nothing to do")
            return 0
        if records.done:
            ui.say(f"{file.path} has {records.done:,} records already")
        predictions = predict_images(replace(wanted, done=records.done), config, ui)
        try:
            done, problems = _write(predictions, records, total, ui)
        except Signalled as signal:
            raise Interrupted(
                f"{signal}: stopped; the same command with --resume goes on behind what {file.path} holds",
                signal.number,
            ) from None
        finally:
            records.flush()
        records.finish()
        unfinished.finish()
        ui.say(f"{file.path}: {done:,} images, {problems:,} of them without a prediction")
        return problems


def _write(predictions: Iterator[Prediction], records: Records, total: int | None, ui: Ui) -> tuple[int, int]:
    """Some records at a time; how many the file holds then, and how many of them without a prediction."""
    done, problems, told = records.done, records.problems, 0
    waiting, since = list[Prediction](), time.monotonic()
    with ui.bar("predicting", total, done) as bar:
        try:
            for prediction in predictions:
                waiting.append(prediction)
                if prediction.problem:
                    problems, told = problems + 1, told + 1
                    if told <= TOLD:
                        ui.say(f"{prediction.image}: {prediction.problem}")
                if len(waiting) >= RECORDS or time.monotonic() - since > SECONDS:
                    ready, waiting = waiting, []  # first: a signal amid the writing must not have them written twice
                    records.write(ready)
                    done, since = done + len(ready), time.monotonic()
                    bar.update(done, f"{problems:,} without a prediction" if problems else None)
        except Signalled:
            records.write(waiting)
            raise
        records.write(waiting)
        bar.update(done + len(waiting))
    return done + len(waiting), problems


@contextmanager
def _begun(file: PredictionFile, wanted: Wanted, run: RunConfig) -> Iterator[tuple[Unfinished, Records | None]]:
    """The file, ready for records behind those that it has; without any where it is complete."""
    unfinished = Unfinished(file.path)
    records: Records | None = None
    top = min(wanted.answer.top, len(open_run(wanted.run).class_names()))
    try:
        if not unfinished.begin(_asked(file, wanted, run), resume=file.resume, overwrite=file.overwrite):
            yield unfinished, None
            return
        if file.format == "parquet":
            from fastlift.reporting.parquet import ParquetFile

            records = ParquetFile(file.path, unfinished.parts, top)
        else:
            records = LineFile(file.path, file.format, top)
        last = next(itertools.islice(wanted.images, records.done - 1, None), None) if records.done else None
        if records.done and (last is None or not records.follows(last.name)):
            raise UserError(
                f"{file.path} was begun with other images: its record {records.done:,} is not that of "
                f"{'any image' if last is None else last.name}; --overwrite starts again"
            )
        yield unfinished, records
    finally:
        if records is not None:
            records.close()
        unfinished.release()


def _asked(file: PredictionFile, wanted: Wanted, settings: RunConfig) -> dict[str, Any]:
    """What the records depend on, beside the images."""
    run = open_run(wanted.run)
    identity, checkpoint = run.identity(), run.find_checkpoint(wanted.checkpoint)
    fitted = calibration_in(read_calibration(run)) if wanted.calibrated else None
    answer = wanted.answer.values()
    if answer["threshold"] is None:
        answer["threshold"] = 0.0 if fitted is None else fitted.threshold or 0.0
    return {
        "run": str(run.path) if identity is None else identity.run,
        "checkpoint": None if checkpoint is None else checkpoint.stem,
        "format": file.format,
        **({} if wanted.weights is None else {"weights": wanted.weights}),
        "amp": amp_of(wanted.run, settings.amp),
        **({} if fitted is None else {"calibration": [fitted.strength, fitted.temperature]}),
        **answer,
        **settings.part(EnsemblingSettings).values(),
    }
