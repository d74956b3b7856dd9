"""Losses against numbers that the authors' program computed; these are small enough to be kept here."""

import json
from pathlib import Path

import pytest
import torch

from fastlift.training import losses

NUMBERS = json.loads(Path(__file__).with_name("losses.json").read_text())


@pytest.mark.parametrize("name", NUMBERS["losses"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_authors_losses(name: str, dtype: torch.dtype) -> None:
    logits, labels = torch.tensor(NUMBERS["logits"], dtype=dtype), torch.tensor(NUMBERS["labels"])
    assert logits.shape == (8, 60)
    value = losses.build(name, NUMBERS["class_counts"])(logits, labels)
    assert float(value) == pytest.approx(NUMBERS["losses"][name], rel=1e-5)


def test_they_are_told_apart() -> None:
    """Only those that the method equates agree: BS is LA with tau 1."""
    values = NUMBERS["losses"]
    assert values["BS"] == values["LA"]
    assert len(set(values.values())) >= len(values) - 2  # at these labels CB and GRW round to the same weights
