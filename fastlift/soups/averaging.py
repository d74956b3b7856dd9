"""Averages of trained values: sums in float64, rounded once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastlift.errors import UserError


@dataclass(frozen=True)
class Average:
    """mean = sum_i w_i x_i / sum_i w_i of states x_i, in float64, in the order in which they come.

    Whole numbers, such as the places of a mask, are those of the first state.

    Attributes:
        sums: float64, by the states' names; empty before the first.
        weight: the sum of the weights.
        dtypes: of the states' tensors.
    """

    sums: Mapping[str, Tensor] = field(default_factory=dict)
    weight: float = 0.0
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)

    def added(self, state: Mapping[str, Tensor], weight: float = 1.0) -> Average:
        """With one state more, of the same names and shapes; this average stays as it is."""
        if not self.sums:
            sums = {
                name: tensor.double() * weight if tensor.is_floating_point() else tensor
                for name, tensor in state.items()
            }
            return Average(sums, weight, {name: tensor.dtype for name, tensor in state.items()})
        added = {
            name: torch.add(total, state[name].double(), alpha=weight) if total.is_floating_point() else total
            for name, total in self.sums.items()
        }
        return Average(added, self.weight + weight, self.dtypes)

    def followed(self, state: Mapping[str, Tensor], keep: float) -> Average:
        """With one state more, of the same names and shapes: mean <- keep mean + (1 - keep) state, in float64.

        Source: LT-Soups, NeurIPS 2025.
        """
        blended = {
            name: keep * (total / self.weight) + (1 - keep) * state[name].double()
            if total.is_floating_point()
            else total
            for name, total in self.sums.items()
        }
        return Average(blended, 1.0, self.dtypes)

    def state(self) -> dict[str, Tensor]:
        """The mean, in the states' own dtypes: each number is rounded here, and nowhere before."""
        return {
            name: (total / self.weight).to(self.dtypes[name]) if total.is_floating_point() else total
            for name, total in self.sums.items()
        }


def normalised(weights: Sequence[float], number: int) -> list[float]:
    """Weights that sum to 1; without any, 1 / ``number`` each.

    Raises:
        UserError: not one for each of ``number`` states, or no share of a whole: negative, not finite, all zero.
    """
    if not weights:
        return [1 / number] * number
    if len(weights) != number:
        raise UserError(
            f"--weights: {len(weights)} of them for {number} checkpoints: give one for each, in their order"
        )
    if wrong := [weight for weight in weights if not (math.isfinite(weight) and weight >= 0)]:
        raise UserError(f"--weights: expected finite numbers of 0 or more, got {wrong[0]:g}")
    total = math.fsum(weights)
    if total == 0:
        raise UserError("--weights: all are 0, so they are shares of nothing")
    if not math.isfinite(total):
        raise UserError("--weights: their sum is larger than a number may be; give shares of 1")
    return [weight / total for weight in weights]


def one_after_another(number: int, keep: float) -> list[float]:
    """Weights in the end of a start and ``number`` states that have ``followed`` it, one after another.

    The start has keep^n, the state i (from 1) (1 - keep) keep^(n - i); they sum to 1.
    """
    return [keep**number, *((1 - keep) * keep ** (number - i) for i in range(1, number + 1))]
