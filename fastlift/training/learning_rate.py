"""The learning rate of each step: a pure function of (epoch, step), so that a resumed run has it too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fastlift.settings import Acts, Between, Settings
from fastlift.settings.validate import Rule

LrSchedule = Literal["epoch", "step"]
_FIRST = 1e-6  # of a warm-up: the share of the learning rate that its first step has


@dataclass(frozen=True)
class LearningRate:
    """Linear warm-up, then a cosine.

    With T steps in all, W of them the warm-up's, S an epoch, and r the share that is left at the end, step t of the run has
    lr (f + (1 - f) t / W) with f = 1e-6 while t < W, and then lr (r + (1 - r) (1 + cos(pi p)) / 2). Per step, p is
    (t - W) / (T - W); per epoch it is (e - W / S) / (E - W / S) for epoch e of E, and 0 where that is negative.

    Attributes:
        highest: lr.
        per: what the cosine follows.
        warm_up: W.
        ratio: r.
    """

    highest: float
    epochs: int
    steps_per_epoch: int
    per: LrSchedule = "epoch"
    warm_up: int = 0
    ratio: float = 0.0

    def at(self, epoch: int, step: int) -> float:
        """Of step ``step`` (from 0) of epoch ``epoch`` (from 0); (epochs, 0) is the end of the cosine."""
        number = epoch * self.steps_per_epoch + step
        if number < self.warm_up:
            return self.highest * (_FIRST + (1 - _FIRST) * number / self.warm_up)
        if self.per == "step":
            gone, whole = float(number - self.warm_up), float(self.epochs * self.steps_per_epoch - self.warm_up)
        else:
            before = self.warm_up / self.steps_per_epoch
            gone, whole = max(epoch - before, 0.0), self.epochs - before
        lowest = self.highest * self.ratio
        if not whole:  # all of it was warm-up
            return lowest
        return lowest + (self.highest - lowest) * (1 + math.cos(math.pi * gone / whole)) / 2


def _trains(epochs: int) -> bool:
    return epochs > 0


def _warm_up_ends(warmup_epochs: float, epochs: int) -> str | None:
    if not epochs or warmup_epochs < epochs:
        return None
    return f"warmup_epochs: {warmup_epochs:g} epochs of warm-up leave nothing of a training of {epochs}; give fewer"


@dataclass(frozen=True)
class LearningRateSettings(Settings):
    """How the learning rate changes over a run."""

    lr_schedule: Annotated[LrSchedule, Acts("how the learning rate falls (epochs 1 or more)", _trains)] = "epoch"
    """The learning rate follows its cosine once an epoch, as in LIFT, or at every step."""
    warmup_epochs: Annotated[float, Between(0), Acts("how the learning rate begins (epochs 1 or more)", _trains)] = 0.0
    """Raise the learning rate linearly from almost 0 over so many epochs first, step by step; 0.5 is half an epoch."""
    min_lr_ratio: Annotated[float, Between(0, 1), Acts("where the learning rate ends (epochs 1 or more)", _trains)] = (
        0.0
    )
    """Share of the learning rate at which the cosine ends."""
    RULES: ClassVar[tuple[Rule, ...]] = (_warm_up_ends,)

    def build(self, lr: float, epochs: int, steps_per_epoch: int) -> LearningRate:
        """For a run of ``epochs`` epochs of so many steps; ``lr`` is the highest. The warm-up has whole steps."""
        warm_up = math.floor(self.warmup_epochs * steps_per_epoch + 0.5)
        return LearningRate(lr, epochs, steps_per_epoch, self.lr_schedule, warm_up, self.min_lr_ratio)
