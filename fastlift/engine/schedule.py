"""The learning rate over a run, and what becomes of it where a run goes on for more epochs than it was begun with."""

from __future__ import annotations

import math
from collections.abc import Callable

from fastlift.runs.train_state import Plan, TrainState


def cosine_lr(lr: float, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch: lr (1 + cos(pi epoch / epochs)) / 2, the same through the epoch."""
    return lr * (1 + math.cos(math.pi * epoch / epochs)) / 2


def gone_on_with(state: TrainState, epochs: int, lr: float, say: Callable[[str], object]) -> Plan:
    """The plan of a run that goes on from ``state`` for ``epochs`` epochs in all, at ``lr`` at the start; says where these are more."""
    before = state.plan[-1][1]
    if before == epochs:
        return state.plan
    old, new = (cosine_lr(lr, min(state.epoch, total), total) for total in (before, epochs))
    say(
        f"{epochs} epochs, {before} before: from step {state.global_step + 1:,} on learning rate ({new:.3g}; {old:.3g} by the "
        f"schedule before), crops and image sizes are those of a run of {epochs}. The steps until then were those of a run of "
        f"{before}, so the outcome is not that of {epochs} epochs from the start"
    )
    return (*state.plan, (state.global_step, epochs))
