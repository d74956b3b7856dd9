"""Head against tail: which images are right at which strength of the prior, and the figures over all strengths.

Legend: N images, C classes, S strengths; z logits [N, C], y labels [N], l = log p of the training prior [C].

An image is right where z_y + s l_y is the largest of all z_c + s l_c. These are straight lines in s, so it is right on one
interval of strengths, and one pass over the logits gives the figures at every strength. A temperature changes none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlift.data.index.groups import GROUP_BOUNDARIES, group_masks
from fastlift.evaluation.calibration import By, batches
from fastlift.evaluation.intervals import Interval, mean_of_classes, middle, wilson
from fastlift.evaluation.metrics import geometric_mean, harmonic_mean

Floats = NDArray[np.float64]
GRID = np.round(np.linspace(-2, 2, 401), 2)  # of strengths to choose from
_FIRST, _LAST, _STEP = -1.0, 1.5, 0.05  # of the curve
_DRAWS, _MOST_DRAWN = (50, 200), 10**9  # draws; and answers of all of them together, which take seconds


@dataclass(frozen=True)
class Ranges:
    """Of each image the strengths at which it is right, between ``low`` and ``high`` [N]; none where low > high."""

    labels: NDArray[np.int64]  # [N]
    low: Floats
    high: Floats

    def right(self, strengths: Floats) -> NDArray[np.bool_]:
        """Which images are right at which strengths, [N, S]."""
        return (self.low[:, None] <= strengths) & (strengths <= self.high[:, None])

    def right_of_class(self, strengths: Floats, classes: int) -> NDArray[np.int64]:
        """Right images of each class, [C, S]."""
        found = np.zeros((classes, len(strengths)), dtype=np.int64)
        np.add.at(found, self.labels, self.right(strengths))
        return found

    @classmethod
    def joined(cls, parts: list[Ranges]) -> Ranges:
        """Those of several batches."""
        return cls(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("labels", "low", "high")))


def right_ranges(logits: Tensor, labels: Tensor, prior: Tensor) -> Ranges:
    """The strengths at which images are right: z [N, C], y int64 [N], l [C]."""
    prior = prior.double()
    low, high = [], []
    for z, y in batches(logits, labels):
        behind, rarer = z - z.gather(1, y[:, None]), prior[y][:, None] - prior  # of class c: z_c - z_y, and l_y - l_c
        # Where c is rarer than y, s must be at least behind / rarer; where it is more frequent, at most.
        bound = behind / rarer
        least = torch.where(rarer > 0, bound, -torch.inf).amax(dim=1)
        most = torch.where(rarer < 0, bound, torch.inf).amin(dim=1)
        # Another class of the same prior is always ahead; or there are no numbers to compare.
        never = ((rarer == 0) & (behind > 0)).any(dim=1) | ~z.isfinite().all(dim=1)
        low.append(torch.where(never, torch.inf, least))
        high.append(torch.where(never, -torch.inf, most))
    return Ranges(labels.numpy(), torch.cat(low).numpy(), torch.cat(high).numpy())


def chosen_strength(ranges: Ranges, by: By) -> tuple[float, Interval]:
    """The strength on ``GRID`` with the best figure, and 95 % of the strengths that draws of the images would choose.

    Of several that are the best, the middle of the widest range of neighbours: the place that chance moves least.
    """
    right = ranges.right(GRID)
    order = np.argsort(ranges.labels, kind="stable")
    labels, right = ranges.labels[order], right[order]
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    every = np.ones(len(labels))
    best = _widest(_scores(right, every, starts, by))
    generator, n = np.random.default_rng(0), len(labels)
    drawn = []
    for _ in range(int(np.clip(_MOST_DRAWN // right.size, *_DRAWS))):
        times = np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)
        drawn.append(_widest(_scores(right, times, starts, by)))
    return best, middle(np.array(drawn))


def _scores(right: NDArray[np.bool_], times: Floats, starts: NDArray[np.int64], by: By) -> Floats:
    """A figure at each strength, of images that count so many ``times``, class by class."""
    images = np.add.reduceat(times, starts)
    sums = np.add.reduceat(right * times[:, None], starts, axis=0)[images > 0]
    rates = 100 * sums / images[images > 0][:, None]  # [C, S]
    if by == "accuracy":
        return sums.sum(axis=0)
    if by == "worst_class":
        return rates.min(axis=0)
    mean = {"harmonic_mean": harmonic_mean, "geometric_mean": geometric_mean}.get(by)
    return rates.mean(axis=0) if mean is None else np.array([mean(column) for column in rates.T])


def _widest(scores: Floats) -> float:
    best = np.concatenate([[False], scores >= scores.max() - 1e-9, [False]])
    starts, ends = np.flatnonzero(best[1:] & ~best[:-1]), np.flatnonzero(~best[1:] & best[:-1]) - 1
    widest = int(np.argmax(ends - starts))
    return float((GRID[starts[widest]] + GRID[ends[widest]]) / 2)


def strengths_shown(fitted: float) -> Floats:
    """The strengths of the curve: from -1 to 1.5, and as far as the fitted one lies beyond."""
    first, last = min(_FIRST, np.floor(fitted / _STEP - 2) * _STEP), max(_LAST, np.ceil(fitted / _STEP + 2) * _STEP)
    return np.round(np.arange(round(first / _STEP), round(last / _STEP) + 1) * _STEP, 2)


def curve(
    ranges: Ranges, strengths: Floats, group_counts: list[int], boundaries: tuple[int, int] = GROUP_BOUNDARIES
) -> dict[str, dict[str, list[float]]]:
    """Overall and mean class accuracy, and that of many, medium and few, at each strength: ``value``, ``low``, ``high`` in percent.

    Groups without images are left out. The 95 % intervals are Wilson's overall, and those of ``mean_of_classes`` else.
    """
    images = np.bincount(ranges.labels, minlength=len(group_counts))
    right = ranges.right_of_class(strengths, len(group_counts))
    tested = images > 0
    wholes: Mapping[str, NDArray[np.bool_]] = {"mean_class_accuracy": tested} | {
        name: mask & tested for name, mask in group_masks(group_counts, boundaries).items()
    }
    total, found = int(images.sum()), {}
    overall = [(100 * k / total, wilson(float(k), total)) for k in right.sum(axis=0).tolist()]
    found["accuracy"] = _as_lists(overall)
    for name, mask in wholes.items():
        if mask.any():
            rates = 100 * (right[mask] / images[mask][:, None]).mean(axis=0)
            spans = [mean_of_classes(right[mask, place], images[mask]) for place in range(len(strengths))]
            found[name] = _as_lists(list(zip(rates.tolist(), spans, strict=True)))
    return found


def _as_lists(points: list[tuple[float, Interval]]) -> dict[str, list[float]]:
    return {
        "value": [round(value, 3) for value, _ in points],
        "low": [round(100 * low, 3) for _, (low, _) in points],
        "high": [round(100 * high, 3) for _, (_, high) in points],
    }
