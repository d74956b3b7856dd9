"""Measuring exported models on this machine: how fast they are, and how often they say what the run says."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastlift.interop.export.formats import Served

ROUNDS, LEAST_ROUNDS = 30, 3
SECONDS = 3.0  # of measuring for each model and batch


@dataclass
class Agreement:
    """Of the images looked at: how many, how many get their own class, how many the run's, and the largest difference.

    The difference stays NaN once one is.
    """

    images: int = 0
    correct: int = 0
    same: int = 0
    difference: float = 0.0

    def add(self, logits: Tensor, labels: Tensor, wanted: Tensor) -> None:
        """Count a batch: logits [B, C], labels [B], and the run's own logits [B, C]."""
        found = logits.argmax(1)
        self.images += len(labels)
        self.correct += int((found == labels).sum())
        self.same += int((found == wanted.argmax(1)).sum())
        largest = float((logits - wanted).abs().max())
        if math.isnan(largest) or largest > self.difference:  # false where the one so far is NaN
            self.difference = largest


@torch.no_grad()
def agreements(
    served: Mapping[str, Served],
    own: Served,
    batches: Iterable[tuple[Tensor, Tensor]],
    on_images: Callable[[int], None] = lambda done: None,
) -> tuple[Agreement, dict[str, Agreement]]:
    """What the run itself, and each served model, make of batches of (images, labels)."""
    mine, others = Agreement(), {name: Agreement() for name in served}
    for images, labels in batches:
        wanted = own(images)
        mine.add(wanted, labels, wanted)
        for name, one in served.items():
            others[name].add(one(images), labels, wanted)
        on_images(mine.images)
    return mine, others


@torch.no_grad()
def latencies(
    served: Mapping[str, Served], images: Callable[[int], Tensor], batches: Sequence[int], seconds: float = SECONDS
) -> dict[str, dict[int, float]]:
    """Model -> batch -> median milliseconds of a call.

    The models take turns, so that whatever else the machine does hits all of them; after ``seconds`` for each model, or
    30 rounds, it ends, but not before the third round.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in served}
    for batch in batches:
        x = images(batch)
        for one in served.values():
            one(x)  # the first call reserves memory, and may compile
        spent: dict[str, list[float]] = {name: [] for name in served}
        until = time.perf_counter() + seconds * len(served)
        for done in range(ROUNDS):
            if done >= LEAST_ROUNDS and time.perf_counter() > until:
                break
            for name, one in served.items():
                start = time.perf_counter()
                one(x)
                spent[name].append(time.perf_counter() - start)
        for name, times in spent.items():
            found[name][batch] = 1000 * statistics.median(times)
    return found
