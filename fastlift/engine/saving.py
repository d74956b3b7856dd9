"""The states of a training that are saved: only finite ones, under the names of their places."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fastlift.engine import bad_step
from fastlift.errors import UserError
from fastlift.runs import checkpoints
from fastlift.runs.folder import RunFolder
from fastlift.runs.identity import Identity
from fastlift.runs.train_state import Plan, TrainState, names_digest
from fastlift.system.files import sync_file
from fastlift.training.step import Learner


@dataclass
class Saver:
    """Writes checkpoints of a learner.

    Attributes:
        data: fingerprint of the training data.
        identity: of the run.
        plan: see ``TrainState``.
        best: gives the name of the checkpoint that is kept beside the newest, or nothing.
    """

    run: RunFolder
    learner: Learner
    data: str
    identity: Identity
    plan: Plan
    best: Callable[[], str | None]

    def path(self, epoch: int, step: int, global_step: int) -> Path:
        """Of the state after ``epoch`` epochs and ``step`` steps of the next one."""
        if step:
            return checkpoints.step_path(self.run.checkpoints, global_step)
        return checkpoints.epoch_path(self.run.checkpoints, epoch)

    def check(self, said: str = "") -> None:
        """Stop where something that a checkpoint would hold is not finite; the message begins with ``said``."""
        learner = self.learner
        wrong = checkpoints.first_not_finite({**learner.parameters, **learner.kept()})
        if learner.shard is not None and learner.shard.is_any(wrong is not None):
            wrong = wrong or "head.weight"  # another rank's part of it
        if wrong is not None:
            raise UserError(f"{said}{bad_step.starting_again(wrong, self.run.last_checkpoint())}", exit_code=1)

    def write(self, epoch: int, step: int, global_step: int, seconds: float) -> Path:
        """Save a state that is finite; older ones in the middle of an epoch go only then. All ranks take part."""
        self.check(f"after step {global_step}: ")
        learner, sums, path = self.learner, self.learner.sums, self.path(epoch, step, global_step)
        if not learner.world.is_main:
            learner.state()  # its part of what is split goes to the first process
            return path
        state = TrainState(
            epoch=epoch,
            step=step,
            global_step=global_step,
            images=sums.counted(),
            loss_sum=float(sums.loss),
            correct=int(sums.correct),
            seconds=seconds,
            data=self.data,
            classes=names_digest(learner.model.class_names),
            backbone=learner.model.backbone_fingerprint,
            scaler=learner.scaler.state_dict(),
            identity=self.identity,
            plan=self.plan,
            skipped=int(learner.watch.skipped) if learner.watch.mode == "skip" else 0,
        )
        with suppress(OSError):  # a log that is in trouble must not keep the state from being saved
            sync_file(self.run.metrics)  # after a power cut the log reaches as far as the checkpoint
        checkpoints.save(path, learner, state)
        self.remove_old_steps(path)
        return path

    def remove_old_steps(self, newest: Path) -> None:
        """Delete checkpoints in the middle of an epoch, but the newest and the best."""
        best = self.best()
        kept = [] if best is None else [self.run.checkpoints / f"{best}.safetensors"]
        checkpoints.remove_old_steps(self.run.checkpoints, newest, *kept)
