"""Settings of the training: what they refuse, and that they build what they describe."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from fastlift.errors import UserError
from fastlift.training import losses
from fastlift.training.losses import LossName, LossSettings
from fastlift.training.settings import BatchSettings, EpochSettings, LoopSettings, SGDSettings

COUNTS = (9, 3, 1)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (LossSettings, {"loss": "AL"}, "unknown value of loss 'AL'; did you mean Focal or LA"),
        (LossSettings, {"loss": "CE", "tau": 2.0}, "tau is the strength of logit adjustment: the loss CE has none"),
        (SGDSettings, {"lr": -0.1}, "lr: must not be negative, got -0.1"),
        (SGDSettings, {"momentum": 1.0}, r"momentum: expected a number in \[0, 1\), got 1.0"),
        (BatchSettings, {"batch_size": 0}, "batch_size: expected more than 0, got 0"),
        (BatchSettings, {"batch_size": 10, "micro_batch": 4}, "micro_batch: 4 does not divide the batch size 10"),
        (EpochSettings, {"epochs": -1}, "epochs: must not be negative, got -1"),
        (LoopSettings, {"log_steps": 0}, "log_steps: expected more than 0, got 0"),
    ],
)
def test_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        kind(**values)


@pytest.mark.parametrize("name", get_args(LossName))
def test_every_loss_that_has_a_name_is_built(name: Any) -> None:
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 0, 1])
    found, expected = LossSettings(loss=name).build(COUNTS), losses.build(name, COUNTS)
    assert torch.equal(found(logits, labels), expected(logits, labels))


def test_names_are_those_of_the_losses() -> None:
    with pytest.raises(UserError, match=f"known: {', '.join(get_args(LossName))}$"):
        losses.build("?", COUNTS)


def test_options_reach_their_loss() -> None:
    assert LossSettings(tau=0.5).build(COUNTS).tau == 0.5
    assert LossSettings(loss="LDAM").build(COUNTS, scale=7.0).scale == 7.0
    assert LossSettings(loss="LDAM").build(COUNTS).scale == 25.0


def test_sgd_has_the_settings_and_momentum_at_zero() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = SGDSettings(lr=0.2, momentum=0.5, weight_decay=0.1).build([weight])
    [group] = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.5, 0.1)
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], torch.zeros(3))
    weight.grad = torch.full((3,), 0.9)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 1 - 0.2 * (0.9 + 0.1)))
    assert not SGDSettings(momentum=0.0).build([weight]).state
