"""Averages of trained values, against those that are computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastlift.errors import UserError
from fastlift.soups.averaging import Average, normalised, one_after_another

State = dict[str, Tensor]


def states(number: int) -> list[State]:
    """With values that fp32 sums would round."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "tuner.a": torch.randn(50, 20, generator=generator)
            * 10.0 ** torch.randint(-6, 6, (50, 20), generator=generator),
            "head.b": torch.randn(7, generator=generator),
        }
        for _ in range(number)
    ]


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [2.0, 1.0, 0.5], [0.0, 3.0, 1e-3]])
def test_it_is_the_mean_in_float64_rounded_once(weights: list[float]) -> None:
    some, average = states(3), Average()
    for state, weight in zip(some, weights, strict=True):
        average = average.added(state, weight)
    for name, mean in average.state().items():
        exact = sum(w * state[name].numpy().astype(np.longdouble) for state, w in zip(some, weights, strict=True))
        exact = exact / np.longdouble(sum(weights))
        assert mean.dtype == torch.float32
        assert np.array_equal(mean.numpy(), exact.astype(np.float32))
    in_fp32 = sum(w * state["tuner.a"] for state, w in zip(some, weights, strict=True)) / sum(weights)
    assert not torch.equal(average.state()["tuner.a"], in_fp32)  # so the comparison above sees a difference


@pytest.mark.parametrize("weights", [[1.0] * 2, [1.0] * 3, [0.3, 0.1, 0.6, 0.7], [1e-30, 1e30]])
def test_of_one_state_it_is_that_state_bit_for_bit(weights: list[float]) -> None:
    [state], average = states(1), Average()
    for weight in weights:
        average = average.added(state, weight)
    assert all(torch.equal(average.state()[name], tensor) for name, tensor in state.items())


def test_adding_leaves_the_average_before_as_it_was() -> None:
    first, second = states(2)
    average = Average().added(first)
    average.added(second)
    assert all(torch.equal(average.state()[name], tensor) for name, tensor in first.items())


def test_places_of_masks_are_not_averaged() -> None:
    state = {"tuner.values": torch.tensor([1.0, 2.0]), "tuner.values.index": torch.tensor([5, 9])}
    average = (
        Average()
        .added(state)
        .added({"tuner.values": torch.tensor([2.0, 4.0]), "tuner.values.index": torch.tensor([5, 9])})
    )
    assert average.state()["tuner.values"].tolist() == [1.5, 3.0]
    assert average.state()["tuner.values.index"].tolist() == [5, 9]


def test_weights_sum_to_one() -> None:
    assert normalised([], 4) == [0.25] * 4
    assert normalised([2, 1, 1], 3) == [0.5, 0.25, 0.25]
    assert normalised([0, 3], 2) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0], "--weights: 1 of them for 2 checkpoints: give one for each"),
        ([1.0, 1.0, 1.0], "3 of them for 2 checkpoints"),
        ([1.0, -0.5], "expected finite numbers of 0 or more, got -0.5"),
        ([1.0, math.nan], "expected finite numbers of 0 or more, got nan"),
        ([math.inf, 1.0], "expected finite numbers of 0 or more, got inf"),
        ([0.0, 0.0], "all are 0, so they are shares of nothing"),
    ],
)
def test_weights_that_are_none(weights: list[float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        normalised(weights, 2)


def test_one_after_another_by_hand() -> None:
    """Start 10, then 20, 0 and 40, each time 0.7 of the mean and 0.3 of the next: 13, 9.1, 18.37."""
    weights = one_after_another(3, 0.7)
    assert weights == pytest.approx([0.343, 0.147, 0.21, 0.3])
    assert sum(weights) == pytest.approx(1)
    average, means = Average().added({"x": torch.tensor([10.0])}), []
    for value in (20.0, 0.0, 40.0):
        average = average.followed({"x": torch.tensor([value])}, 0.7)
        means.append(average.state()["x"].item())
    assert means == pytest.approx([13, 9.1, 18.37])
    total = sum(weight * value for weight, value in zip(weights, (10.0, 20.0, 0.0, 40.0), strict=True))
    assert total == pytest.approx(18.37)


def test_one_after_another_is_in_float64_and_rounded_once() -> None:
    start, *others = states(8)
    average = Average().added(start)
    for state in others:
        average = average.followed(state, 0.7)
    for name, mean in start.items():
        exact, rounded = mean.double(), mean
        for state in others:
            exact, rounded = 0.7 * exact + (1 - 0.7) * state[name].double(), 0.7 * rounded + 0.3 * state[name]
        assert torch.equal(average.state()[name], exact.float())
        assert not torch.equal(exact.float(), rounded)
    same = Average().added(start)
    for _ in range(7):
        same = same.followed(start, 0.7)
    assert all(torch.equal(same.state()[name], tensor) for name, tensor in start.items())
