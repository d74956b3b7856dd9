"""The training loop: epochs and steps, logging, checkpoints. What a step does is said in ``fastlift.training.step``."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastlift.callbacks.calling import Callbacks
from fastlift.data.index.index import ImageIndex
from fastlift.data.loading.batch import Batch, Loader
from fastlift.data.sampling.mixing import MixingSettings
from fastlift.engine import bad_step
from fastlift.engine.memory import copies_of, estimate
from fastlift.engine.order import OrderSettings
from fastlift.engine.pace import Mark, Pace, Span
from fastlift.engine.saving import Saver
from fastlift.engine.schedule import gone_on_with
from fastlift.engine.validation import Validation, told_figures
from fastlift.errors import UserError
from fastlift.models import out_of_memory
from fastlift.models.out_of_memory import attempt
from fastlift.runs import checkpoints
from fastlift.runs.folder import RunFolder
from fastlift.runs.identity import Identity
from fastlift.runs.metrics_log import MetricsLog
from fastlift.runs.names import resumed_as
from fastlift.runs.train_state import Plan
from fastlift.system import launcher
from fastlift.system.profiling import profiled
from fastlift.system.progress import Bar, Ui
from fastlift.system.signals import Interrupted, StopRequest, StopSignals
from fastlift.training.averaging import AverageSettings
from fastlift.training.captured import CapturedStep
from fastlift.training.distributed import World, gather
from fastlift.training.learning_rate import LearningRate, LearningRateSettings
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.settings import LoopSettings, NonFiniteSettings
from fastlift.training.step import Learner


@dataclass(frozen=True)
class FitSettings(  # type: ignore[misc]
    LoopSettings,
    NonFiniteSettings,
    LearningRateSettings,
    OptimizerSettings,
    AverageSettings,
    MixingSettings,
    OrderSettings,
):
    """What the training loop is told of a run's settings."""


@dataclass
class Fit:
    """A training in progress.

    Attributes:
        can_cut: whether a run with these settings may go on with another micro-batch.
        pace: of its steps.
        span: the whole of them, once they have ended.
        data: the training data.
        identity: of the run.
        captured: takes the learner's steps, where they are to be captured in a CUDA graph.
        validation: evaluates the validation split on the way, where that is asked for.
        callbacks: told of the lines of the log.
        before_epoch: called with each epoch (from 0) before its steps, the one that a resumed run is in too.
        epoch, step, global_step: the next step and the steps taken, kept current.
        seconds: training time of earlier processes of this run.
    """

    settings: FitSettings
    can_cut: bool
    run: RunFolder
    learner: Learner
    pace: Pace
    loader: Loader
    ui: Ui
    world: World
    data: ImageIndex
    identity: Identity
    captured: CapturedStep | None = None
    validation: Validation | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    before_epoch: Callable[[int], object] = lambda epoch: None
    epoch: int = 0
    step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    span: Span | None = None
    _saver: Saver = field(init=False)
    _rate: LearningRate = field(init=False)
    _started: float = field(default_factory=time.perf_counter)
    _ended: float | None = None
    _log: MetricsLog | None = None  # the first process's
    _validated: str = ""  # the last evaluation, for the progress line

    def __post_init__(self) -> None:
        lr, epochs = self.settings.lr, self.settings.epochs
        self._rate = self.settings.part(LearningRateSettings).build(lr, epochs, self.loader.steps_per_epoch)
        self._saver = Saver(self.run, self.learner, self.data.fingerprint, self.identity, ((0, epochs),), self._best)

    def _best(self) -> str | None:
        """The name of the best checkpoint so far."""
        best = None if self.validation is None else self.validation.standing.best
        return None if best is None else best["checkpoint"]

    @property
    def _side(self) -> int:
        """Of the images that the backbone takes now, in pixels."""
        return self.learner.model.vit.image_size[0]

    def _at_which_size(self) -> str:
        """For the progress bar: nothing at the model's own size."""
        return "" if self._side == self.learner.model.preprocessing.image_size else f" at {self._side} pixels"

    @property
    def elapsed(self) -> float:
        """Training time in seconds, over all processes of the run one after another; without evaluations."""
        return self.seconds + (self._ended or time.perf_counter()) - self._started - self.pace.away_s

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint; one that is damaged, another run's, or of other data or another backbone is refused."""
        state = checkpoints.read_train_state(path)
        state.check_origin(path, self.data.fingerprint, self.learner.model.backbone_fingerprint)
        checkpoints.restore(path, self.learner, self.identity)
        self.epoch, self.step, self.global_step = state.epoch, state.step, state.global_step
        self.seconds = state.seconds
        self.ui.say(f"resuming at epoch {self.epoch + 1}, step {self.step} ({path.name})")
        self._saver.plan = gone_on_with(state, self._rate, self.ui.say)

    @property
    def plan(self) -> Plan:
        """By the schedule of how many epochs the run went on from which step."""
        return self._saver.plan

    def keep_start(self) -> None:
        """Save the state before the first step, where nothing but the caller could give it again."""
        self._write()

    def __call__(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: a signal asked to stop; the state after the current step is saved first.
            OutOfMemory: there is not enough memory for a step; the state before it is saved first.
            UserError: a step is not finite, with ``on_nonfinite`` stop; the state before it is saved first. Or what trains
                is not, or not one step of an epoch.
        """
        settings = self.settings
        total = settings.epochs * self.loader.steps_per_epoch
        self._started = time.perf_counter()
        self.pace.start()
        self.world.collectives.waiting.during = lambda: f"step {self.global_step + 1:,}"
        trace = self.run.profile if settings.profile and self.world.is_main else None
        with (
            MetricsLog(self.run, self.global_step) if self.world.is_main else nullcontext() as self._log,
            self.ui.bar("training", total, self.global_step) as bar,
            StopRequest() as stop,
            profiled(trace) as after_step,
        ):
            self._validate(bar)  # where a kill came between a checkpoint and its evaluation
            while self.epoch < settings.epochs and not self._is_over():
                self._epoch(bar, stop, after_step)
        self._ended, self.span = time.perf_counter(), self.pace.whole()
        if self.world.is_main:  # where a kill or a power cut kept one, and no later save came
            self._saver.remove_old_steps(self._saver.path(self.epoch, self.step, self.global_step))

    def _epoch(self, bar: Bar, stop: StopRequest, after_step: Callable[[], None]) -> None:
        settings, learner = self.settings, self.learner
        self.before_epoch(self.epoch)
        stopping, began = False, self.pace.mark()
        since = began
        for batch in self.pace.over(self.loader.epoch(self.epoch, self.step)):
            lr = self._rate.at(self.epoch, self.step)
            learner.set_lr(lr)
            stopping = self._step(batch, stop)
            after_step()
            self.step, self.global_step = self.step + 1, self.global_step + 1
            bar.update(self.global_step)
            if self.global_step % settings.log_steps == 0:
                since = self._log_step(bar, lr, since)
            in_the_middle = self.step < self.loader.steps_per_epoch  # the end of an epoch is saved in any case
            if stopping and in_the_middle:
                self._save_in_epoch()
                self._interrupt(stop)
            every, is_due = settings.checkpoint_steps, in_the_middle and self._is_due()
            if is_due or (every and self.global_step % every == 0 and in_the_middle):
                self._save_in_epoch()
            if is_due:
                self._validate(bar)
                if self._is_over():
                    return
        self._end_epoch(bar, began)
        if stopping or ((self.epoch == settings.epochs or self._is_due()) and learner.vote.last()):
            self._interrupt(stop)
        self._validate(bar)

    def _is_due(self) -> bool:
        """Whether the validation split is to be evaluated here, and has not been."""
        found, steps, epochs = self.validation, self.loader.steps_per_epoch, self.settings.epochs
        return (
            found is not None
            and found.settings.is_due(self.epoch, self.step, steps, epochs)
            and not found.standing.holds(self.global_step)
        )

    def _is_over(self) -> bool:
        """Whether training ends before its last epoch."""
        return self.validation is not None and self.validation.standing.is_over

    def _validate(self, bar: Bar) -> None:
        """Evaluate the validation split, where it is due; the state is saved, so that a signal stops at once.

        Raises:
            Signalled: a signal asked to stop.
        """
        if self.validation is None or not self._is_due():
            return
        if self.captured is not None:
            self.captured.release()  # evaluation needs the memory, and changes tensors that a graph reads
        at = self.global_step
        with self.pace.paused(), StopSignals():
            values = self.validation(
                at,
                self.epoch if self.step else self.epoch - 1,
                self._saver.path(self.epoch, self.step, at).stem,
                lambda done, total: bar.update(at, f"validation {done:,}/{total:,}"),
            )
        self._log_event("evaluation", at, values | {"seconds": self.elapsed})
        self._validated = f"  {told_figures(values)}"

    def _write(self) -> Path:
        """Save the state as it is now."""
        return self._saver.write(self.epoch, self.step, self.global_step, self.elapsed)

    def _step(self, batch: Batch, stop: StopRequest) -> bool:
        """One step of the learner; where there is not enough memory for it, the state before it is saved."""
        learner = self.learner
        take = learner.step if self.captured is None else self.captured.step
        asked = attempt(lambda: take(batch.images, batch.labels, batch.whole, lambda: stop.asked, batch.mixed))
        if asked is not None:
            return asked
        learner.optimizer.zero_grad(set_to_none=True)
        if self.captured is not None:
            self.captured.release()
        alone = learner.shard is None  # otherwise others would have to hand over their parts, and are in the step
        if alone and self.step and learner.watch.taken == self.global_step:  # nothing of the step was taken
            self._save_in_epoch()
        self.loader.close()  # the advice is for the model's own size, at which images are largest
        whole, at_a_time = self.settings.batch_size, len(batch.labels)
        at_a_time = min(at_a_time, self.settings.micro_batch or at_a_time)
        found = attempt(lambda: estimate(learner.model, at_a_time, whole, copies_of(self.settings)))
        needed_at = None if found is None else found.needed_at
        raise out_of_memory.in_training(learner.model, whole, at_a_time, needed_at, self.global_step + 1, self.can_cut)

    def _interrupt(self, stop: StopRequest) -> None:
        mine = torch.tensor(stop.number or 0, device=self.learner.sums.loss.device)
        number = int(gather(mine, self.world).max())  # waits for the first process, which saves
        saved = self.run.last_checkpoint()
        where = f"saved as {saved.name}" if saved else "not saved"
        resume = f"{launcher.command()} train --resume --output {shlex.quote(str(resumed_as(self.run.path)))}"
        name = signal.Signals(number).name
        raise Interrupted(f"{name}: stopped at step {self.global_step}, {where}; go on with: {resume}", number)

    def _log_event(self, event: str, step: int, values: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(event, step, values)
        self.callbacks.event(event, step, values)

    def _log_step(self, bar: Bar, lr: float, since: Mark) -> Mark:
        """A line of the log about the steps since a moment; gives the moment that it is about."""
        self._check_steps()
        if not self.learner.sums.counted():  # all steps of this epoch were left out so far: there is no figure yet
            return self.pace.mark()
        loss, accuracy = self.learner.sums.read()
        span = self.pace.since(since)  # behind what reads the device, so that its part is in
        values = {
            "epoch": self.epoch,
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": lr,
            "image_size": self._side,
        }
        self._log_event("step", self.global_step, values | span.of_step() | {"seconds": self.elapsed})
        place = f"epoch {self.epoch + 1}/{self.settings.epochs}{self._at_which_size()}"
        speed = f"{span.images_per_s:.0f} images/s  data {100 * span.share:.0f} %"
        bar.update(self.global_step, f"{place}  loss {loss:.3f}  accuracy {accuracy:.1f} %  {speed}{self._validated}")
        return span.end

    def _end_epoch(self, bar: Bar, began: Mark) -> None:
        self._check_steps()
        if not self.learner.sums.counted():
            raise UserError(
                f"not one step of epoch {self.epoch + 1} was finite, so nothing was learned from it: start a new run with a "
                "lower --lr, or with --amp fp32",
                exit_code=1,
            )
        loss, accuracy = self.learner.sums.read()
        span = self.pace.since(began)
        values = {"epoch": self.epoch, "train_loss": loss, "train_accuracy": accuracy, "image_size": self._side}
        self._log_event("epoch", self.global_step, values | span.of_epoch() | {"seconds": self.elapsed})
        place = f"epoch {self.epoch + 1}{self._at_which_size()}"
        bar.update(self.global_step, f"{place}  loss {loss:.3f}  accuracy {accuracy:.1f} %")
        self.pace.tell(f"epoch {self.epoch + 1}", span)
        if skipped := int(self.learner.watch.skipped):
            self.ui.say(f"epoch {self.epoch + 1}: of the run's steps so far, {skipped:,} left out as not finite")
        self.epoch, self.step = self.epoch + 1, 0
        self.learner.sums.restart()
        self._write()

    def _save_in_epoch(self) -> None:
        """Save the state in the middle of an epoch."""
        self._check_steps()
        self._write()

    def _check_steps(self) -> None:
        """Stop, on all ranks, where a step was not finite and may not be left out; reads the device.

        Nothing was updated since that step: the state before it is saved.
        """
        with self.world.collectives.waiting:  # the device may be in a collective
            first = self.learner.watch.first_step()
        if first is None or self.settings.on_nonfinite == "skip":
            return
        settings = self.settings
        self.epoch, self.step = divmod(first, self.loader.steps_per_epoch)
        self.global_step = first
        lr = self._rate.at(self.epoch, self.step)
        images = bad_step.images_of(settings.stream(self.data), self.epoch, self.step)
        told = bad_step.told(first, self.epoch, lr, images)
        self._log_event("nonfinite", first + 1, {"epoch": self.epoch, "learning_rate": lr, "images": images})
        self._saver.check(f"{told}. ")
        saved = None
        if self.step:
            saved = self._write()
        elif self.epoch:
            saved = checkpoints.epoch_path(self.run.checkpoints, self.epoch)  # the end of the epoch before
        raise UserError(f"{told}. {bad_step.going_on(self.run.path, saved)}", exit_code=1)
