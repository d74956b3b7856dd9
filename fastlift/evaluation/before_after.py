"""The figures of a split before and after a calibration, and its curve of head against tail, from one pass over its logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlift.evaluation.accumulator import ClassificationAccumulator
from fastlift.evaluation.calibration import Fit, Weigh, weights_of
from fastlift.evaluation.metrics import Metrics
from fastlift.evaluation.selective import selective
from fastlift.evaluation.tradeoff import Ranges, curve, right_ranges, strengths_shown

_KEPT = ("group_sizes", "group_boundaries", "calibration")  # beside the single figures


@dataclass
class BeforeAfter:
    """Takes batches of plain logits.

    Args:
        prior: l fp64 [C].
        fitted: strength and temperature.
        weigh: whose shares coverage and the accuracy of what is accepted are.
    """

    prior: Tensor
    fitted: Fit
    weigh: Weigh
    _counted: tuple[ClassificationAccumulator, ClassificationAccumulator] = field(init=False)
    _ranges: list[Ranges] = field(default_factory=list, init=False)
    _confidence: list[Tensor] = field(default_factory=list, init=False)
    _right: list[Tensor] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._counted = ClassificationAccumulator(len(self.prior)), ClassificationAccumulator(len(self.prior))

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: fp32 [B, C], int64 [B], on the CPU."""
        calibrated = (logits + (self.fitted.strength * self.prior).float()) / self.fitted.temperature
        for counted, said in zip(self._counted, (logits, calibrated), strict=True):
            counted.update(said, labels)
        confidence, predicted = calibrated.softmax(dim=1).max(dim=1)
        self._confidence.append(confidence.nan_to_num(0.0))
        self._right.append((predicted == labels) & calibrated.isfinite().all(dim=1))
        self._ranges.append(right_ranges(logits, labels, self.prior))

    @property
    def confidence(self) -> np.ndarray:
        """The largest calibrated probability of each image, float64 [N]."""
        return torch.cat(self._confidence).double().numpy()

    @property
    def right(self) -> np.ndarray:
        """Which images are right after the calibration, bool [N]."""
        return torch.cat(self._right).numpy()

    @property
    def weights(self) -> np.ndarray:
        """w float64 [N]."""
        return weights_of(torch.from_numpy(Ranges.joined(self._ranges).labels), self.weigh).numpy()

    def figures(
        self, threshold: float | None, group_counts: list[int], boundaries: tuple[int, int]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is told of the split before and after: the single figures and the bins of the calibration."""
        before, after = (_told(counted.compute(group_counts, boundaries)) for counted in self._counted)
        if threshold is not None:
            after |= selective(self.confidence, self.right, self.weights, threshold).to_dict()
        return before, after

    def curve(self, group_counts: list[int], boundaries: tuple[int, int]) -> dict[str, Any]:
        """Accuracies over the strength, as ``tradeoff.curve``."""
        return curve(Ranges.joined(self._ranges), strengths_shown(self.fitted.strength), group_counts, boundaries)


def _told(metrics: Metrics) -> dict[str, Any]:
    whole = metrics.to_dict()
    return metrics.summary() | {name: whole[name] for name in _KEPT}
