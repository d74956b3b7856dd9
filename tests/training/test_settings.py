"""Settings of the training: what they refuse, and that they build what they describe."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastlift.errors import UserError
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.settings import BatchSettings, EpochSettings, LoopSettings


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (OptimizerSettings, {"lr": -0.1}, "lr: must not be negative, got -0.1"),
        (OptimizerSettings, {"momentum": 1.0}, r"momentum: expected a number in \[0, 1\), got 1.0"),
        (BatchSettings, {"batch_size": 0}, "batch_size: expected more than 0, got 0"),
        (BatchSettings, {"batch_size": 10, "micro_batch": 4}, "micro_batch: 4 does not divide the batch size 10"),
        (EpochSettings, {"epochs": -1}, "epochs: must not be negative, got -1"),
        (LoopSettings, {"log_steps": 0}, "log_steps: expected more than 0, got 0"),
    ],
)
def test_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        kind(**values)


def test_sgd_has_the_settings_and_momentum_at_zero() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = OptimizerSettings(lr=0.2, momentum=0.5, weight_decay=0.1).build([weight])
    [group] = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.5, 0.1)
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], torch.zeros(3))
    weight.grad = torch.full((3,), 0.9)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 1 - 0.2 * (0.9 + 0.1)))
    assert not OptimizerSettings(momentum=0.0).build([weight]).state
