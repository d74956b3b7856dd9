"""Checkpoints: what trains, its momentum and the place in the run, in one safetensors file, written atomically.

No pickle, no code: tensors ``tuner.NAME``, ``head.NAME``, ``momentum.tuner.NAME`` ..., and a JSON text in the metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastlift.errors import UserError
from fastlift.files import write_atomically
from fastlift.learner import Learner

FORMAT = 1


@dataclass(frozen=True)
class Position:
    """A place in a run: the next step to take, and what the current epoch has summed up so far.

    Attributes:
        epoch, step: the next step is step ``step`` (from 0) of epoch ``epoch`` (from 0).
        global_step: steps taken.
        images: images of this epoch seen so far.
        loss_sum, correct: this epoch's sums over them.
        seconds: training time so far.
        data, backbone: fingerprints of the training data and the frozen weights.
        scaler: state of the fp16 gradient scaler, or empty.
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
    backbone: str
    scaler: dict[str, float]
    format: int = FORMAT


def save(path: Path, learner: Learner, position: Position) -> None:
    """Write a checkpoint; a kill in the middle leaves the old files as they were."""
    write(path, learner.model.state(), learner.momentum_buffers(), position)


def write(path: Path, state: Mapping[str, Tensor], momentum: Mapping[str, Tensor], position: Position) -> None:
    """Write a model's ``state`` and its momentum, atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in state.items()}
    tensors |= {f"momentum.{name}": buffer.cpu().contiguous() for name, buffer in momentum.items()}
    metadata = {"position": json.dumps(asdict(position))}
    try:
        write_atomically(path, lambda part: save_file(tensors, part, metadata=metadata))
    except (OSError, SafetensorError) as error:  # the latter where safetensors meets a full disk
        raise UserError(f"the checkpoint {path} could not be written: {error}", exit_code=1) from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Position]:
    """(what trains, momentum, position) of a checkpoint.

    Raises:
        UserError: no such file, or not a checkpoint of fastlift.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            position = Position(**json.loads((file.metadata() or {})["position"]))
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise _unreadable(path, error) from None
    momentum = {name.removeprefix("momentum."): t for name, t in tensors.items() if name.startswith("momentum.")}
    return {name: t for name, t in tensors.items() if not name.startswith("momentum.")}, momentum, position


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is not a fastlift checkpoint, or damaged ({type(error).__name__}: {error}); "
        "without that file, the checkpoint before it is the last one"
    )


def restore(path: Path, learner: Learner) -> Position:
    """Put a learner where the checkpoint was saved.

    Raises:
        UserError: it does not fit the model.
    """
    trained, momentum, position = read(path)
    learner.model.load_trained(trained, f"checkpoint {path}")
    learner.set_momentum_buffers(momentum)
    if position.scaler:
        learner.scaler.load_state_dict(position.scaler)
    device = learner.sums.loss.device
    learner.sums.loss = torch.tensor(position.loss_sum, dtype=torch.float64, device=device)
    learner.sums.correct = torch.tensor(position.correct, dtype=torch.int64, device=device)
    learner.sums.images = position.images
    return position


def at_start(data: str, backbone: str) -> Position:
    """The position before the first step; ``data`` and ``backbone`` are fingerprints."""
    return Position(0, 0, 0, 0, 0.0, 0, 0.0, data, backbone, {})


def epoch_path(folder: Path, epochs_done: int) -> Path:
    """File of the state after so many epochs; these are kept."""
    return folder / f"epoch-{epochs_done:03d}.safetensors"


def step_path(folder: Path, global_step: int) -> Path:
    """File of a state in the middle of an epoch; only the newest is kept."""
    return folder / f"step-{global_step:08d}.safetensors"


def saved(folder: Path) -> list[Path]:
    """All checkpoints of a run in the order in which they were written: by position, not by the clock."""
    places = []
    for path in folder.glob("*.safetensors"):
        if re.fullmatch(r"(epoch-\d+|step-\d+)\.safetensors", path.name):
            places.append((read_position(path).global_step, path.name.startswith("epoch"), path))
    return [path for _, _, path in sorted(places)]


def read_position(path: Path) -> Position:
    """The position alone, without the tensors.

    Raises:
        UserError: not a checkpoint of fastlift, or a damaged one.
    """
    try:
        with safe_open(path, "pt") as file:
            return Position(**json.loads((file.metadata() or {})["position"]))
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise _unreadable(path, error) from None


def remove_old_steps(folder: Path, keep: Path) -> None:
    """Delete checkpoints in the middle of an epoch, apart from ``keep``."""
    for path in folder.glob("step-*.safetensors"):
        if path != keep:
            path.unlink()
