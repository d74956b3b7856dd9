"""The learning rate of each step is torch's own schedulers', and a function of the place alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from fastlift.errors import UserError
from fastlift.training.learning_rate import LearningRate, LearningRateSettings

EPOCHS, STEPS = 5, 7
ALL = EPOCHS * STEPS


def optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    """Of so many steps, the schedule stepped after each."""
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def of(lr: float, **settings: Any) -> list[float]:
    rate = LearningRateSettings(**settings).build(lr, EPOCHS, STEPS)
    return [rate.at(*divmod(number, STEPS)) for number in range(ALL)]


def test_the_default_is_the_papers() -> None:
    """One cosine, stepped once an epoch."""
    expected = rates(CosineAnnealingLR(optimizer(0.02), EPOCHS), EPOCHS)
    assert of(0.02) == pytest.approx([lr for lr in expected for _ in range(STEPS)], rel=1e-12)


def test_a_cosine_at_every_step() -> None:
    expected = rates(CosineAnnealingLR(optimizer(0.02), ALL, eta_min=0.002), ALL)
    assert of(0.02, lr_schedule="step", min_lr_ratio=0.1) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 4), (1.0, 7), (1 / 7, 1), (4.9, 34)])
def test_warm_up_and_a_cosine_at_every_step(epochs: float, steps: int, ratio: float) -> None:
    """torch's LinearLR, then its CosineAnnealingLR over what is left."""
    made = optimizer(0.02)
    schedule = SequentialLR(
        made,
        [
            LinearLR(made, start_factor=1e-6, total_iters=steps),
            CosineAnnealingLR(made, ALL - steps, eta_min=0.02 * ratio),
        ],
        [steps],
    )
    found = of(0.02, lr_schedule="step", warmup_epochs=epochs, min_lr_ratio=ratio)
    assert found == pytest.approx(rates(schedule, ALL), rel=1e-6)


def test_warm_up_of_epochs_and_a_cosine_once_an_epoch() -> None:
    found = of(0.02, warmup_epochs=1)
    assert found[:STEPS] == pytest.approx([0.02 * max(step / STEPS, 1e-6) for step in range(STEPS)], abs=2e-8)
    cosine = rates(CosineAnnealingLR(optimizer(0.02), EPOCHS - 1), EPOCHS - 1)
    assert found[STEPS:] == pytest.approx([lr for lr in cosine for _ in range(STEPS)], rel=1e-9)


@given(
    st.integers(1, 20),
    st.integers(1, 50),
    st.sampled_from(["epoch", "step"]),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_it_rises_to_its_highest_and_falls_to_its_lowest(
    epochs: int, steps: int, per: Any, ratio: float, share: float
) -> None:
    settings = LearningRateSettings(lr_schedule=per, warmup_epochs=share * epochs, min_lr_ratio=ratio)
    rate = settings.build(0.1, epochs, steps)
    found = [rate.at(*divmod(number, steps)) for number in range(epochs * steps)]
    up, down = found[: rate.warm_up], found[rate.warm_up :]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert all(0 < lr <= 0.1 for lr in up)
    assert all(0.1 * ratio * (1 - 1e-12) <= lr <= 0.1 for lr in down)
    assert down[:1] in ([0.1], [])
    assert rate.at(epochs, 0) == pytest.approx(0.1 * ratio, abs=1e-15)


def test_a_warm_up_has_whole_steps() -> None:
    assert [LearningRateSettings(warmup_epochs=e).build(1.0, 9, 10).warm_up for e in (0.04, 0.05, 1.5)] == [0, 1, 15]
    assert LearningRate(1.0, 2, 5, warm_up=10).at(2, 0) == 0.0, "all of it was warm-up"


@pytest.mark.parametrize("epochs", [2, 2.5])
def test_a_warm_up_that_never_ends_is_refused(epochs: float) -> None:
    import fastlift

    with pytest.raises(
        UserError, match=rf"^warmup_epochs: {epochs:g} epochs of warm-up leave nothing of a training of 2"
    ):
        fastlift.recipes.lift(epochs=2, warmup_epochs=epochs)
    with pytest.raises(UserError, match=r"^min_lr_ratio: expected a number in"):
        fastlift.recipes.lift(min_lr_ratio=1.5)
