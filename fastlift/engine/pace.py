"""How fast a training goes, and how long each of its processes waits for images: for the log, the terminal, the results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from fastlift.data.loading.batch import Batch
from fastlift.engine.data_wait import DataWait
from fastlift.reporting.figures import is_long_wait, slow_one
from fastlift.system.progress import Ui
from fastlift.training.distributed import World, gather


class Mark(NamedTuple):
    """How far this process is at a moment; all of it grows."""

    seconds: float
    images: int  # of all processes
    waited_s: float


@dataclass(frozen=True)
class Span:
    """The time between two marks: its seconds, and the share of it in which each process waited for data, by rank.

    A step takes as long as the slowest process takes. So the largest share is what the run waits; the other processes wait
    the rest of it for that one, where gradients are added up.
    """

    seconds: float
    images_per_s: float
    shares: Sequence[float]
    end: Mark

    @property
    def share(self) -> float:
        """The largest of the processes'."""
        return max(self.shares)

    def of_step(self) -> dict[str, Any]:
        """For a line of the log in the middle of an epoch: with several processes also which of them waited longest."""
        longest = {"data_wait_rank": self.shares.index(self.share)} if len(self.shares) > 1 else {}
        return {"images_per_s": self.images_per_s, "data_wait_share": self.share, **longest}

    def of_epoch(self) -> dict[str, Any]:
        """For the line of a whole epoch: the share of every process, where there are several."""
        each = {"data_wait_by_rank": [round(share, 4) for share in self.shares]} if len(self.shares) > 1 else {}
        return {"data_wait_share": self.share, **each}


class Pace:
    """Measures a training; what it says of all processes is asked by all of them at once.

    Args:
        device: that computes.
        world: the processes.
        advice: what is told where training waits long.
        ui: told of it, once.
    """

    def __init__(self, device: torch.device, world: World, advice: str, ui: Ui) -> None:
        self._device, self._world, self._advice, self._ui = device, world, advice, ui
        self._data_wait = DataWait(device)
        self._images = 0
        self.away_s = 0.0  # spent on something else than training
        self._has_told = False
        self._start = self.mark()

    def start(self) -> None:
        """The training begins now."""
        self._start = self.mark()

    def over(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the waiting for each is measured, and its images are counted."""
        for batch in self._data_wait.over(batches):
            self._images += len(batch.whole)
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While entered, the time is not the training's."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.away_s += time.perf_counter() - began

    def mark(self) -> Mark:
        """Now; on a GPU as far as it has come."""
        return Mark(time.perf_counter() - self.away_s, self._images, self._data_wait.seconds())

    def since(self, began: Mark) -> Span:
        """What was between a mark and now."""
        now = self.mark()
        seconds = max(now.seconds - began.seconds, 1e-9)
        mine = torch.tensor((now.waited_s - began.waited_s) / seconds, dtype=torch.float64, device=self._device)
        return Span(seconds, (now.images - began.images) / seconds, gather(mine, self._world).tolist(), now)

    def whole(self) -> Span:
        """All of it so far."""
        return self.since(self._start)

    def by_process(self, span: Span) -> list[dict[str, Any]]:
        """Each process of several: its rank, its machine, and the share of the ``span`` in which it waited for data."""
        if len(span.shares) == 1:
            return []
        each = zip(self._world.hosts, span.shares, strict=True)
        return [{"rank": rank, "host": host, "data_wait_share": share} for rank, (host, share) in enumerate(each)]

    def tell(self, what: str, span: Span) -> None:
        """Once a process, where training waited for much of a ``span``."""
        if self._has_told or not is_long_wait(span.share * span.seconds, span.seconds):
            return
        self._has_told = True
        waited = f"{100 * span.share:.0f} % of its time ({span.share * span.seconds:.1f} s)"
        self._ui.say(
            f"{what}: {waited} went into waiting for images{slow_one(span.shares, self._world.hosts)}; {self._advice}"
        )
