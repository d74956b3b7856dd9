"""Where a training stands: the next step, the sums of the running epoch, and what it was trained on; JSON in each checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

import msgspec
from msgspec import Meta

from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.runs.identity import Identity, digest_of
from fastlift.runs.stored import Count, Text, fits, said
from fastlift.system.files import parse_json
from fastlift.system.sealed import Damaged

FORMAT = 3
_MOST = sys.float_info.max
Finite = Annotated[float, Meta(ge=-_MOST, le=_MOST, description="a finite number")]


Plan = Annotated[
    tuple[tuple[Count, Count], ...], Meta(min_length=1, description="pairs of a step and a number of epochs")
]


@dataclass(frozen=True)
class Schedule:
    """How long a run is: its epochs, the steps of each, and the images of a step over all processes."""

    epochs: int
    steps_per_epoch: int
    batch_size: int


@dataclass(frozen=True)
class TrainState:
    """A place in a run: the next step to take, and what the current epoch has summed up so far.

    Attributes:
        epoch, step: the next step is step ``step`` (from 0) of epoch ``epoch`` (from 0).
        global_step: steps taken.
        images: images of this epoch seen so far, without those of steps that were left out.
        loss_sum, correct: this epoch's sums over them.
        seconds: training time so far.
        data, classes, backbone: fingerprints of the training data, the names of its classes, and the frozen weights.
        scaler: state of the fp16 gradient scaler, or empty.
        identity: of the run.
        plan: (step, epochs) from the start on: by the schedule of how many epochs the run went on from that step.
        skipped: steps of the run that were left out, since their loss or gradients were not finite.
        format: version of this layout.
    """

    epoch: Count
    step: Count
    global_step: Count
    images: Count
    loss_sum: Finite
    correct: Count
    seconds: Finite
    data: Text
    classes: Text
    backbone: Text
    scaler: Annotated[dict[str, int | Finite], Meta(description="finite numbers by name")]
    identity: Annotated[Identity, Meta(description="the run's identity")]
    plan: Plan
    skipped: Count = 0
    format: Count = FORMAT

    @classmethod
    def at_start(cls, data: str, model: LiftModel, identity: Identity) -> TrainState:
        """Of a run that trains nothing; ``data`` is the training data's fingerprint."""
        classes = names_digest(model.class_names)
        return cls(0, 0, 0, 0, 0.0, 0, 0.0, data, classes, model.backbone_fingerprint, {}, identity, ((0, 0),))

    @classmethod
    def from_json(cls, text: str, path: Path) -> TrainState:
        """The inverse of ``to_json``, every value checked for its type and range.

        Raises:
            Damaged: something else; the message names the value.
            UserError: a layout of another version.
        """
        try:
            values = parse_json(text)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise Damaged(f"{path}: its train state is no JSON object")
        if values.get("format") != FORMAT:
            raise UserError(
                f"{path} has the layout {values.get('format')!r:.20}, this version of fastlift reads {FORMAT} alone"
            )
        kinds = get_type_hints(cls, include_extras=True)
        if values.keys() != kinds.keys():
            raise Damaged(f"{path}: its train state has other parts than {', '.join(kinds)}")
        for name, kind in kinds.items():
            if not fits(kind, values[name]):
                raise Damaged(f"{path}: its train state holds {name} {values[name]!r:.40}, expected {said(kind)}")
        return msgspec.convert(values, cls)

    def to_json(self) -> str:
        """All of it, as it stands in a checkpoint's metadata."""
        return json.dumps(msgspec.to_builtins(self), allow_nan=False)

    def check(self, path: Path, schedule: Schedule) -> None:
        """Refuse what is no place in a run of that length; the message names the values."""
        epochs, steps_per_epoch = schedule.epochs, schedule.steps_per_epoch
        steps = self.epoch * steps_per_epoch + self.step
        problems = {
            f"epoch {self.epoch} of {epochs}": self.epoch <= epochs,
            f"step {self.step} of {steps_per_epoch}": self.step < (steps_per_epoch if self.epoch < epochs else 1),
            f"{self.global_step} steps taken, where there should be {steps}": self.global_step == steps,
            f"{self.images} images in {self.step} steps": self.images <= self.step * schedule.batch_size,
            f"{self.correct} of {self.images} images right": self.correct <= self.images,
            f"{self.skipped} of {self.global_step} steps left out": self.skipped <= self.global_step,
        }
        wrong = [problem for problem, holds in problems.items() if not holds]
        if wrong:
            raise UserError(f"{path} is no place in this run: {'; '.join(wrong)}")

    def check_origin(self, path: Path, data: str, backbone: str) -> None:
        """Refuse what was written on other training data or frozen weights than those of these fingerprints."""
        if self.data != data:
            raise UserError(f"{path} was written while training on other images or labels; start a new run")
        if self.backbone != backbone:
            raise UserError(f"{path} was written with other backbone weights; start a new run")


def names_digest(class_names: Sequence[str]) -> str:
    """Digest of the classes' names in their order."""
    return digest_of(list(class_names))
