"""The training loop: epochs and steps, logging, checkpoints. What a step does is ``learner.py``'s."""

from __future__ import annotations

import math
import shlex
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastlift import checkpoints
from fastlift.config import Config
from fastlift.data.loader import Loader
from fastlift.distributed import World, gather
from fastlift.errors import UserError
from fastlift.files import sync_file
from fastlift.identity import Identity
from fastlift.interrupts import Interrupted, StopRequest
from fastlift.learner import Learner, Sums
from fastlift.metrics_log import MetricsLog
from fastlift.profiling import profiled
from fastlift.reporting.console import Bar, Ui
from fastlift.runs import RunFolder


def cosine_lr(lr: float, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch: lr (1 + cos(pi epoch / epochs)) / 2, the same through the epoch."""
    return lr * (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass
class Fit:
    """A training in progress.

    Attributes:
        data: fingerprint of the training data.
        identity: of the run.
        position: epoch, step and steps taken, kept current.
        seconds: training time of earlier processes of this run.
    """

    config: Config
    run: RunFolder
    learner: Learner
    loader: Loader
    ui: Ui
    world: World
    data: str
    identity: Identity
    epoch: int = 0
    step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    images_seen: int = 0
    _started: float = field(default_factory=time.perf_counter)
    _ended: float | None = None

    @property
    def elapsed(self) -> float:
        """Training time in seconds, over all processes of the run one after another."""
        return self.seconds + (self._ended or time.perf_counter()) - self._started

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it is damaged, another run's, no place in this one; or the data or the backbone are not its own.
        """
        position = checkpoints.read_position(path)
        if position.data != self.data:
            raise UserError(f"{path} was written while training on other images or labels; start a new run")
        if position.backbone != self.learner.model.backbone_fingerprint:
            raise UserError(f"{path} was written with other backbone weights; start a new run")
        training = self.config.training
        position.check(path, training.epochs, self.loader.steps_per_epoch, training.batch_size)
        checkpoints.restore(path, self.learner, self.identity)
        self.epoch, self.step, self.global_step = position.epoch, position.step, position.global_step
        self.seconds = position.seconds
        self.ui.say(f"resuming at epoch {self.epoch + 1}, step {self.step} ({path.name})")

    def __call__(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: a signal asked to stop; the state after the current step is saved first.
            UserError: the loss is not finite.
        """
        training = self.config.training
        total = training.epochs * self.loader.steps_per_epoch
        self._started = time.perf_counter()
        log = MetricsLog(self.run, self.global_step) if self.world.is_main else NoLog()
        trace = self.run.profile if self.config.run.profile and self.world.is_main else None
        with (
            log,
            self.ui.bar("training", total, self.global_step) as bar,
            StopRequest() as stop,
            profiled(trace) as after_step,
        ):
            while self.epoch < training.epochs:
                self._epoch(log, bar, stop, after_step)
        self._ended = time.perf_counter()

    def _epoch(self, log: MetricsLog | NoLog, bar: Bar, stop: StopRequest, after_step: Callable[[], None]) -> None:
        training, learner = self.config.training, self.learner
        lr = cosine_lr(training.lr, self.epoch, training.epochs)
        learner.set_lr(lr)
        pace, stopping = _Pace(self.images_seen), False
        for batch in self.loader.epoch(self.epoch, self.step):
            stopping = learner.step(batch.images, batch.labels, batch.whole, lambda: stop.asked)
            after_step()
            self.step, self.global_step = self.step + 1, self.global_step + 1
            self.images_seen += len(batch.whole)
            bar.update(self.global_step)
            if self.global_step % self.config.run.log_steps == 0:
                self._log(log, bar, lr, pace.rate(self.images_seen))
            in_the_middle = self.step < self.loader.steps_per_epoch  # the end of an epoch is saved in any case
            if stopping and in_the_middle:
                self._save(checkpoints.step_path(self.run.checkpoints, self.global_step))
                self._interrupt(stop)
            every = self.config.run.checkpoint_steps
            if every and self.global_step % every == 0 and in_the_middle:
                self._save(checkpoints.step_path(self.run.checkpoints, self.global_step))
        self._end_epoch(log, bar)
        if stopping or (self.epoch == training.epochs and learner.vote.last()):
            self._interrupt(stop)

    def _interrupt(self, stop: StopRequest) -> None:
        mine = torch.tensor(stop.number or 0, device=self.learner.sums.loss.device)
        number = int(gather(mine, self.world).max())  # waits for the first process, which saves
        saved = self.run.last_checkpoint()
        where = f"saved as {saved.name}" if saved else "not saved"
        resume = f"fastlift train --resume --output {shlex.quote(str(self.run.path))}"
        name = signal.Signals(number).name
        raise Interrupted(f"{name}: stopped at step {self.global_step}, {where}; go on with: {resume}", number)

    def _log(self, log: MetricsLog | NoLog, bar: Bar, lr: float, images_per_s: float) -> None:
        loss, accuracy = self._sums()
        values = {"epoch": self.epoch, "loss": loss, "accuracy": accuracy, "learning_rate": lr}
        log.write("step", self.global_step, {**values, "images_per_s": images_per_s, "seconds": self.elapsed})
        place = f"epoch {self.epoch + 1}/{self.config.training.epochs}"
        bar.update(
            self.global_step, f"{place}  loss {loss:.3f}  accuracy {accuracy:.1f} %  {images_per_s:.0f} images/s"
        )

    def _sums(self) -> tuple[float, float]:
        """Mean loss and accuracy (in %) of the running epoch; reads the device.

        Raises:
            UserError: the loss is not finite.
        """
        loss, accuracy = self.learner.sums.read()
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is not finite at step {self.global_step} (epoch {self.epoch + 1}); "
                f"a lower --lr or --amp fp32 may help. Earlier checkpoints are in {self.run.checkpoints}",
                exit_code=1,
            )
        return loss, accuracy

    def _end_epoch(self, log: MetricsLog | NoLog, bar: Bar) -> None:
        loss, accuracy = self._sums()
        values = {"epoch": self.epoch, "train_loss": loss, "train_accuracy": accuracy, "seconds": self.elapsed}
        log.write("epoch", self.global_step, values)
        bar.update(self.global_step, f"epoch {self.epoch + 1}  loss {loss:.3f}  accuracy {accuracy:.1f} %")
        self.epoch, self.step = self.epoch + 1, 0
        self.learner.sums = Sums.zeros(self.learner.sums.loss.device)
        self._save(checkpoints.epoch_path(self.run.checkpoints, self.epoch))

    def _save(self, path: Path) -> None:
        if not self.world.is_main:
            return
        sums, scaler = self.learner.sums, self.learner.scaler
        position = checkpoints.Position(
            epoch=self.epoch,
            step=self.step,
            global_step=self.global_step,
            images=sums.images,
            loss_sum=float(sums.loss),
            correct=int(sums.correct),
            seconds=self.elapsed,
            data=self.data,
            classes=checkpoints.names_digest(self.learner.model.class_names),
            backbone=self.learner.model.backbone_fingerprint,
            scaler=scaler.state_dict(),
            identity=self.identity,
        )
        with suppress(OSError):  # a log that is in trouble must not keep the state from being saved
            sync_file(self.run.metrics)  # after a power cut the log reaches as far as the checkpoint
        checkpoints.save(path, self.learner, position)
        checkpoints.remove_old_steps(self.run.checkpoints, keep=path)


class _Pace:
    """Images per second since the last question."""

    def __init__(self, images: int) -> None:
        self.time, self.images = time.perf_counter(), images

    def rate(self, images: int) -> float:
        now = time.perf_counter()
        rate = (images - self.images) / max(now - self.time, 1e-9)
        self.time, self.images = now, images
        return rate


class NoLog:
    """Ranks other than the first write nothing."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def write(self, event: str, step: int, values: dict[str, Any]) -> None:
        return None
