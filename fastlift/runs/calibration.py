"""``calibration.json`` of a run: what ``fastlift calibrate`` fitted, to which weights and images, and what it changes.

A digest tells damage. A fingerprint of the weights tells whether it is still that of the checkpoint at hand: a run that was
trained further, or begun anew, must be calibrated again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fastlift.errors import UserError
from fastlift.models.calibrated import Calibration
from fastlift.models.preprocessing import Ensembling, EnsemblingSettings
from fastlift.runs.folder import RunFolder
from fastlift.runs.identity import digest_of
from fastlift.runs.stored import Record
from fastlift.system.files import read_json, write_json

DIGEST = "blake2b"
_Positive = Annotated[float, Meta(gt=0, lt=1e9)]
_Strength = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class _FittedOn(msgspec.Struct):
    """What the fit was made with."""

    checkpoint: str | None
    weights: str
    backbone: str
    tte: Ensembling
    tte_crops: Annotated[int, Meta(ge=1)]
    expand: int | None


class _Stored(msgspec.Struct):
    """What is needed to use a calibration; the file holds more, for people and for the page."""

    strength: _Strength
    temperature: _Positive
    threshold: _Share | None
    class_counts: list[Annotated[int, Meta(ge=1)]]
    fitted_on: _FittedOn


def calibration_path(run: RunFolder) -> Path:
    """Where it lies."""
    return run.path / "calibration.json"


def write_calibration(run: RunFolder, values: Mapping[str, Any]) -> None:
    """Write a calibration, atomically, with its digest; OSError where the folder cannot be written."""
    write_json(calibration_path(run), {**values, DIGEST: digest_of(dict(values))}, parents=False)


def stored_calibration(run: RunFolder) -> Record | None:
    """All that the file holds; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = calibration_path(run)
    if not path.is_file():
        return None
    values = read_json(path)
    digest = values.pop(DIGEST, None)
    if digest != digest_of(values):
        raise UserError(f"{path} was changed or damaged; {_again(run)}")
    return values


def read_calibration(run: RunFolder) -> Record:
    """All that the file holds.

    Raises:
        UserError: there is none, or it is damaged; the message says how to make one.
    """
    values = stored_calibration(run)
    if values is None:
        raise UserError(f"{run.path} is not calibrated: {_again(run)}, on its validation split")
    try:
        msgspec.convert(values, _Stored)
    except msgspec.ValidationError as error:
        raise UserError(f"{calibration_path(run)}: {error}; {_again(run)}") from None
    return values


def calibration_in(values: Record) -> Calibration:
    """What a model takes of the file's values."""
    stored = msgspec.convert(values, _Stored)
    crops = EnsemblingSettings(stored.fitted_on.tte, stored.fitted_on.tte_crops, stored.fitted_on.expand)
    return Calibration(stored.strength, stored.temperature, tuple(stored.class_counts), stored.threshold, crops)


def check_is_of(run: RunFolder, values: Record, *, weights: str, backbone: str, checkpoint: str | None) -> None:
    """Refuse a calibration of other weights than those of the model at hand, by their fingerprints.

    Raises:
        UserError: it is another checkpoint's, or the checkpoint was trained anew since.
    """
    fitted = values["fitted_on"]
    if (fitted["weights"], fitted["backbone"]) == (weights, backbone):
        return
    told = "the model without a checkpoint" if fitted["checkpoint"] is None else fitted["checkpoint"]
    now = "the model without a checkpoint" if checkpoint is None else checkpoint
    changed = f"{told} as it was before it was trained anew" if told == now else f"{told}, not to {now}"
    named = "" if checkpoint is None else f" --checkpoint {shlex.quote(checkpoint)}"
    raise UserError(f"the calibration of {run.path} is stale: it was fitted to {changed}; {_again(run)}{named}")


def _again(run: RunFolder) -> str:
    return f"fit it with: fastlift calibrate {shlex.quote(str(run.path))}"
