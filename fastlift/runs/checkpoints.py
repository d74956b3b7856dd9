"""Checkpoints: what trains, the optimiser's state, the average of what trains, and the train state, in one safetensors file, written atomically.

No pickle, no code: tensors ``tuner.NAME``, ``head.NAME``, ``momentum.tuner.NAME`` ..., and a JSON text in the metadata.
What AdamW keeps is named ``exp_avg.``, ``exp_avg_sq.`` and ``step.`` as momentum is, and the average ``ema.``.
A digest of the whole file stands there too (``fastlift.system.sealed``), and is checked wherever one is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fastlift.errors import UserError
from fastlift.runs.identity import Identity
from fastlift.runs.train_state import Schedule, TrainState
from fastlift.system import sealed
from fastlift.system.sealed import Damaged
from fastlift.training.averaging import Weights
from fastlift.training.kept import AVERAGE, is_kept, parameter_of
from fastlift.training.step import Learner

_NAME = re.compile(r"(epoch|step)-(\d+)\.safetensors")
_KEY = "position"  # of the train state in the metadata


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        trained: what trains, as ``LiftModel.load_trained`` takes it.
        kept: what ``Learner.kept`` gave beside it; empty where nothing trained.
        state: the place in the run.
    """

    trained: dict[str, Tensor]
    kept: dict[str, Tensor]
    state: TrainState

    @property
    def average(self) -> dict[str, Tensor]:
        """The average of what trains, by the names of ``trained``; empty where the run keeps none."""
        mine = {parameter_of(key): tensor for key, tensor in self.kept.items() if key.startswith(f"{AVERAGE}.")}
        return {name: tensor for name, tensor in mine.items() if name in self.trained}

    def weights(self, which: Weights | None = None) -> dict[str, Tensor]:
        """What the run hands out, as ``trained``: the average where it keeps one and not the ``raw`` ones are asked for."""
        return self.trained if which == "raw" else self.trained | self.average


def save(path: Path, learner: Learner, state: TrainState) -> None:
    """Write a checkpoint of a learner that is whole; a kill in the middle leaves the old files as they were."""
    write(path, *learner.state(), state)


def write(path: Path, trained: Mapping[str, Tensor], kept: Mapping[str, Tensor], state: TrainState) -> None:
    """Write what trains (``LiftModel.state``) and what is kept of it (``Learner.kept``), atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in {**trained, **kept}.items()}
    try:
        sealed.write(path, tensors, {_KEY: state.to_json()}, parents=False)
    except OSError as error:
        raise UserError(f"the checkpoint {path} could not be written: {error.strerror}", exit_code=1) from error


def read(path: Path, identity: Identity | None = None) -> Checkpoint:
    """All of a checkpoint.

    Args:
        identity: of the run that it must be of, where that is known.

    Raises:
        UserError: no such file, or another run's.
        Damaged: its bytes are not those that were written, or no checkpoint of fastlift, or numbers that are not finite.
    """
    tensors, metadata = sealed.read(path)
    state = _train_state(path, metadata)
    if identity is not None:
        identity.check(state.identity, str(path))
    if (name := first_not_finite(tensors)) is not None:
        raise Damaged(f"{path}: {name} holds numbers that are not finite, so nothing can go on from it")
    kept = {name: tensor for name, tensor in tensors.items() if is_kept(name)}
    return Checkpoint({name: tensor for name, tensor in tensors.items() if name not in kept}, kept, state)


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or an infinite number, if there is one."""
    return next((name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), None)


def restore(path: Path, learner: Learner, identity: Identity | None = None) -> TrainState:
    """Put a learner where the checkpoint was saved; one that does not fit the model or its optimiser is refused, as by ``read``."""
    found = read(path, identity)
    trained, kept, state = found.trained, found.kept, found.state
    if learner.shard is not None:
        trained, kept = (learner.shard.cut(tensors, str(path)) for tensors in (trained, kept))
    learner.check_kept(kept, f"checkpoint {path}")
    scaler = learner.scaler.state_dict()  # empty but for fp16
    if state.scaler.keys() != scaler.keys() or not state.scaler.get("scale", 1.0) > 0:
        raise UserError(f"{path} has no gradient scaler that goes with this run's dtype")
    learner.model.load_trained(trained, f"checkpoint {path}")
    learner.take_kept(kept)
    if scaler:
        learner.scaler.load_state_dict(state.scaler)
    learner.sums.restart(state.loss_sum, state.correct, state.images)
    learner.watch.restart(state.global_step, state.skipped)
    return state


def epoch_path(folder: Path, epochs_done: int) -> Path:
    """File of the state after so many epochs; these are kept."""
    return folder / f"epoch-{epochs_done:03d}.safetensors"


def step_path(folder: Path, global_step: int) -> Path:
    """File of a state in the middle of an epoch; only the newest is kept."""
    return folder / f"step-{global_step:08d}.safetensors"


def is_name(name: str) -> bool:
    """Whether a file of this name in a run's folder of checkpoints would be one."""
    return _NAME.fullmatch(name) is not None


def saved(folder: Path) -> list[Path]:
    """All checkpoints of a run in the order in which they were written: by their train states, not by the clock.

    Those whose train state cannot be read come first: nothing says where they belong.
    """
    return [path for path, _ in _in_order(folder)]


def _in_order(folder: Path) -> list[tuple[Path, TrainState | None]]:
    found = [
        (path, _state_or_none(path)) for path in sorted(folder.glob("*.safetensors")) if _NAME.fullmatch(path.name)
    ]
    return sorted(
        found, key=lambda one: (-1, False) if one[1] is None else (one[1].global_step, "epoch" in one[0].name)
    )


def _state_or_none(path: Path) -> TrainState | None:
    try:
        return read_train_state(path)
    except UserError:
        return None


def identities(folder: Path) -> dict[Identity, list[Path]]:
    """The runs that the checkpoints in a folder say they are of, each with its files."""
    found: dict[Identity, list[Path]] = {}
    for path, state in _in_order(folder):
        if state is not None:
            found.setdefault(state.identity, []).append(path)
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
    chosen: tuple[Path, TrainState] | None = None
    for path, known in reversed(_in_order(folder)):
        if chosen is not None and known is not None and not _is_named_later(path, chosen[1]):
            continue
        try:
            state = read(path, identity).state
            if schedule is not None:
                state.check(path, schedule)
        except UserError as error:
            reasons.append(str(error))
        else:
            chosen = chosen or (path, state)
    return None if chosen is None else chosen[0], reasons


def _is_named_later(path: Path, state: TrainState) -> bool:
    """Whether a file's name promises a later place: with a state before it, it is damaged."""
    kind, number = _NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]
    return int(number) > (state.epoch if kind == "epoch" else state.global_step)


def read_train_state(path: Path) -> TrainState:
    """The train state alone, without the tensors and without their digest.

    Raises:
        UserError: no such file, or another version's.
        Damaged: not a checkpoint of fastlift.
    """
    return _train_state(path, sealed.read_metadata(path))


def _train_state(path: Path, metadata: Mapping[str, str]) -> TrainState:
    if _KEY not in metadata:
        raise Damaged(f"{path} is not a fastlift checkpoint: it does not say which place of a run it is")
    state = TrainState.from_json(metadata[_KEY], path)
    name = _NAME.fullmatch(path.name)
    if name is not None:
        kind, number = name.groups()
        told = (state.epoch, state.step) if kind == "epoch" else (state.global_step, 0)
        if told != (int(number), 0):
            raise Damaged(f"{path} is not what its name says: it was saved at epoch {state.epoch}, step {state.step}")
    return state


def remove_old_steps(folder: Path, *keep: Path) -> None:
    """Delete checkpoints in the middle of an epoch, apart from those to ``keep``."""
    for path in folder.glob("step-*.safetensors"):
        if path not in keep:
            path.unlink()
