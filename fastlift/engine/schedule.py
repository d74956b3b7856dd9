"""What becomes of the learning rate where a run goes on for more epochs than it was begun with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastlift.runs.train_state import Plan, TrainState
from fastlift.training.learning_rate import LearningRate


def gone_on_with(state: TrainState, rate: LearningRate, say: Callable[[str], object]) -> Plan:
    """The plan of a run that goes on from ``state`` for the epochs of ``rate`` in all; says where these are more."""
    before, epochs = state.plan[-1][1], rate.epochs
    if before == epochs:
        return state.plan
    old, new = (replace(rate, epochs=total).at(state.epoch, state.step) for total in (before, epochs))
    say(
        f"{epochs} epochs, {before} before: from step {state.global_step + 1:,} on learning rate ({new:.3g}; {old:.3g} by the "
        f"schedule before), crops and image sizes are those of a run of {epochs}. The steps until then were those of a run of "
        f"{before}, so the outcome is not that of {epochs} epochs from the start"
    )
    return (*state.plan, (state.global_step, epochs))
