"""Checkpoints: what trains, its momentum and the place in the run, in one safetensors file, written atomically.

No pickle, no code: tensors ``tuner.NAME``, ``head.NAME``, ``momentum.tuner.NAME`` ..., and a JSON text in the metadata.
A digest of the whole file stands there too (``fastlift.system.sealed``), and is checked wherever one is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.runs.identity import Identity
from fastlift.system import sealed
from fastlift.system.files import parse_json
from fastlift.system.sealed import Damaged
from fastlift.training.step import Learner

FORMAT = 2
_NAME = re.compile(r"(epoch|step)-(\d+)\.safetensors")
_MOMENTUM = "momentum."


@dataclass(frozen=True)
class Schedule:
    """How long a run is: its epochs, the steps of each, and the images of a step over all processes."""

    epochs: int
    steps_per_epoch: int
    batch_size: int


@dataclass(frozen=True)
class Position:
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
        skipped: steps of the run that were left out, since their loss or gradients were not finite.
        format: version of this layout.
    """

    epoch: int
    step: int
    global_step: int
    images: int
    loss_sum: float
    correct: int
    seconds: float
    data: str
    classes: str
    backbone: str
    scaler: dict[str, float]
    identity: Identity
    skipped: int = 0
    format: int = FORMAT

    @classmethod
    def from_json(cls, text: str, path: Path) -> Position:
        """The inverse of ``to_json``, every value checked for its type and range.

        Raises:
            Damaged: something else; the message names the value.
            UserError: a layout of another version.
        """
        values = _parse(text, path)
        version = values.pop("format", None)
        if version != FORMAT:
            raise UserError(f"{path} has the layout {version!r:.20}, this version of fastlift reads {FORMAT} alone")
        kinds = {field.name: _KINDS[str(field.type)] for field in fields(cls) if field.name != "format"}
        if values.keys() != kinds.keys():
            raise Damaged(f"{path}: its position has other parts than {', '.join(kinds)}")
        for name, (fits, expected) in kinds.items():
            if not fits(values[name]):
                raise Damaged(f"{path}: its position holds {name} {values[name]!r:.40}, expected {expected}")
        values["identity"] = Identity.from_dict(values["identity"])
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    def check(self, path: Path, schedule: Schedule) -> None:
        """This is a place in a run of that length.

        Raises:
            UserError: it is not; the message names the values.
        """
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
        """It was written on the same training data and frozen weights, whose fingerprints these are.

        Raises:
            UserError: it was not.
        """
        if self.data != data:
            raise UserError(f"{path} was written while training on other images or labels; start a new run")
        if self.backbone != backbone:
            raise UserError(f"{path} was written with other backbone weights; start a new run")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


# Type of a field -> (whether a JSON value is one, in words).
_KINDS: dict[str, tuple[Any, str]] = {
    "int": (_is_count, "a whole number of 0 or more"),
    "float": (_is_number, "a finite number"),
    "str": (lambda value: isinstance(value, str), "a text"),
    "dict[str, float]": (_are_numbers, "finite numbers by name"),
    "Identity": (lambda value: Identity.from_dict(value) is not None, "the run's identity"),
}


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        values = parse_json(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise Damaged(f"{path}: its position is no JSON object")
    return values


def save(path: Path, learner: Learner, position: Position) -> None:
    """Write a checkpoint; a kill in the middle leaves the old files as they were."""
    write(path, learner.model.state(), learner.momentum_buffers(), position)


def write(path: Path, state: Mapping[str, Tensor], momentum: Mapping[str, Tensor], position: Position) -> None:
    """Write a model's ``state`` and its momentum, atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in state.items()}
    tensors |= {f"{_MOMENTUM}{name}": buffer.cpu().contiguous() for name, buffer in momentum.items()}
    try:
        sealed.write(path, tensors, {"position": position.to_json()}, parents=False)
    except OSError as error:
        raise UserError(f"the checkpoint {path} could not be written: {error.strerror}", exit_code=1) from error


def read(path: Path, identity: Identity | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor], Position]:
    """(what trains, momentum, position) of a checkpoint.

    Args:
        identity: of the run that it must be of, where that is known.

    Raises:
        UserError: no such file, or another run's.
        Damaged: its bytes are not those that were written, or no checkpoint of fastlift, or numbers that are not finite.
    """
    tensors, metadata = sealed.read(path)
    position = _position(path, metadata)
    if identity is not None:
        identity.check(position.identity, str(path))
    if (name := first_not_finite(tensors)) is not None:
        raise Damaged(f"{path}: {name} holds numbers that are not finite, so nothing can go on from it")
    momentum = {name.removeprefix(_MOMENTUM): t for name, t in tensors.items() if name.startswith(_MOMENTUM)}
    return {name: t for name, t in tensors.items() if not name.startswith(_MOMENTUM)}, momentum, position


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or an infinite number, if there is one."""
    return next((name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), None)


def restore(path: Path, learner: Learner, identity: Identity | None = None) -> Position:
    """Put a learner where the checkpoint was saved.

    Raises:
        UserError: as ``read``; or it does not fit the model or its optimiser.
    """
    trained, momentum, position = read(path, identity)
    learner.check_momentum(momentum, f"checkpoint {path}")
    scaler = learner.scaler.state_dict()  # empty but for fp16
    if position.scaler.keys() != scaler.keys() or not position.scaler.get("scale", 1.0) > 0:
        raise UserError(f"{path} has no gradient scaler that goes with this run's dtype")
    learner.model.load_trained(trained, f"checkpoint {path}")
    learner.set_momentum_buffers(momentum)
    if scaler:
        learner.scaler.load_state_dict(position.scaler)
    device = learner.sums.loss.device
    learner.sums.loss = torch.tensor(position.loss_sum, dtype=torch.float64, device=device)
    learner.sums.correct = torch.tensor(position.correct, dtype=torch.int64, device=device)
    learner.sums.images = position.images
    learner.watch.restart(position.global_step, position.skipped)
    return position


def at_start(data: str, model: LiftModel, identity: Identity) -> Position:
    """The position before the first step; ``data`` is the training data's fingerprint."""
    classes = names_digest(model.class_names)
    return Position(0, 0, 0, 0, 0.0, 0, 0.0, data, classes, model.backbone_fingerprint, {}, identity)


def names_digest(class_names: Sequence[str]) -> str:
    """Digest of the classes' names in their order."""
    return hashlib.blake2b(json.dumps(list(class_names)).encode(), digest_size=16).hexdigest()


def epoch_path(folder: Path, epochs_done: int) -> Path:
    """File of the state after so many epochs; these are kept."""
    return folder / f"epoch-{epochs_done:03d}.safetensors"


def step_path(folder: Path, global_step: int) -> Path:
    """File of a state in the middle of an epoch; only the newest is kept."""
    return folder / f"step-{global_step:08d}.safetensors"


def saved(folder: Path) -> list[Path]:
    """All checkpoints of a run in the order in which they were written: by position, not by the clock.

    Those whose position cannot be read come first: nothing says where they belong.
    """
    return [path for path, _ in _in_order(folder)]


def _in_order(folder: Path) -> list[tuple[Path, Position | None]]:
    found = [
        (path, _place_or_none(path)) for path in sorted(folder.glob("*.safetensors")) if _NAME.fullmatch(path.name)
    ]
    return sorted(
        found, key=lambda one: (-1, False) if one[1] is None else (one[1].global_step, "epoch" in one[0].name)
    )


def _place_or_none(path: Path) -> Position | None:
    try:
        return read_position(path)
    except UserError:
        return None


def identities(folder: Path) -> dict[Identity, list[Path]]:
    """The runs that the checkpoints in a folder say they are of, each with its files."""
    found: dict[Identity, list[Path]] = {}
    for path, place in _in_order(folder):
        if place is not None:
            found.setdefault(place.identity, []).append(path)
    return found


def newest(
    folder: Path, identity: Identity | None = None, schedule: Schedule | None = None
) -> tuple[Path | None, list[str]]:
    """The last checkpoint of a run that is whole and the run's own, and why others in its stead were passed over.

    None where there is no checkpoint, or none that can be used: then each has its reason.

    Args:
        identity: of the run, where it is known.
        schedule: how long the run is, to pass over what is no place in it; default: not looked at.
    """
    reasons: list[str] = []
    chosen: tuple[Path, Position] | None = None
    for path, place in reversed(_in_order(folder)):
        if chosen is not None and place is not None and not _is_named_later(path, chosen[1]):
            continue
        try:
            position = read(path, identity)[2]
            if schedule is not None:
                position.check(path, schedule)
        except UserError as error:
            reasons.append(str(error))
        else:
            chosen = chosen or (path, position)
    return None if chosen is None else chosen[0], reasons


def _is_named_later(path: Path, place: Position) -> bool:
    """Whether a file's name promises a later place: with a position before it, it is damaged."""
    kind, number = _NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]
    return int(number) > (place.epoch if kind == "epoch" else place.global_step)


def read_position(path: Path) -> Position:
    """The position alone, without the tensors and without their digest.

    Raises:
        UserError: no such file, or another version's.
        Damaged: not a checkpoint of fastlift.
    """
    return _position(path, sealed.read_metadata(path))


def _position(path: Path, metadata: Mapping[str, str]) -> Position:
    if "position" not in metadata:
        raise Damaged(f"{path} is not a fastlift checkpoint: it does not say which place of a run it is")
    position = Position.from_json(metadata["position"], path)
    name = _NAME.fullmatch(path.name)
    if name is not None:
        kind, number = name.groups()
        told = (position.epoch, position.step) if kind == "epoch" else (position.global_step, 0)
        if told != (int(number), 0):
            raise Damaged(
                f"{path} is not what its name says: it was saved at epoch {position.epoch}, step {position.step}"
            )
    return position


def remove_old_steps(folder: Path, keep: Path) -> None:
    """Delete checkpoints in the middle of an epoch, apart from ``keep``."""
    for path in folder.glob("step-*.safetensors"):
        if path != keep:
            path.unlink()
