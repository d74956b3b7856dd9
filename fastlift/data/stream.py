"""What a loader delivers, as numbers: the samples of each step, the files that show them, and their views.

Both executors only carry out what this says, so they cannot disagree about samples, windows or flips.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastlift.data.index import BadImage, ImageIndex
from fastlift.data.order import epoch_order, evaluation_shard, training_batch, training_steps
from fastlift.data.scan import next_good
from fastlift.data.views import EvalViews, ResizedCrops, TrainViews, Windows
from fastlift.errors import UserError


@dataclass(frozen=True)
class Step:
    """One batch to make: B samples, the index rows whose pictures are shown for them, and their views."""

    samples: np.ndarray  # int64 [B]
    sources: np.ndarray  # int64 [B]; differs from samples where a broken picture is replaced
    views: Windows | ResizedCrops


@dataclass(frozen=True)
class Stream:
    """The batches of all epochs as a pure function of these fields.

    ``shuffle`` gives training batches (see ``order.training_batch``); without it, this rank's share in the index's order.
    """

    index: ImageIndex
    views: TrainViews | EvalViews
    batch_size: int  # of one rank
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch size must be at least 1, got {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise UserError(f"rank {self.rank} is not in 0..{self.world_size - 1}")

    @property
    def steps_per_epoch(self) -> int:
        if self.shuffle:
            return training_steps(len(self.index), self.batch_size, self.world_size, self.drop_last)
        return training_steps(len(self._shard()), self.batch_size, 1, self.drop_last)

    def _shard(self) -> range:
        return evaluation_shard(len(self.index), self.rank, self.world_size)

    def order(self, epoch: int) -> np.ndarray:
        """All samples of the epoch: int64, over all ranks for training, of this rank otherwise."""
        if self.shuffle:
            return epoch_order(len(self.index), self.seed, epoch)
        return np.arange(self._shard().start, self._shard().stop, dtype=np.int64)

    def step(self, order: np.ndarray, epoch: int, step: int, stand_ins: "StandIns") -> Step:
        """Samples and views of one step; ``order`` is ``self.order(epoch)``."""
        if self.shuffle:
            samples = training_batch(order, step, self.batch_size, self.rank, self.world_size)
        else:
            samples = order[step * self.batch_size : (step + 1) * self.batch_size]
        return self.of(samples, epoch, stand_ins)

    def of(self, samples: np.ndarray, epoch: int, stand_ins: "StandIns") -> Step:
        """The views of given samples in an epoch."""
        sources = stand_ins.sources(samples)
        widths, heights = self.index.widths[sources], self.index.heights[sources]
        return Step(samples, sources, self.views.windows(self.seed, epoch, samples, widths, heights))


class StandIns:
    """Pictures that broke when they were decoded, and what is shown in their place. Safe to use from threads.

    ``bad_images="stop"`` ends the work with the file's name. ``"skip"`` shows the next good picture of the class: a
    function of the data alone, so that a resumed run, which finds the broken ones anew, goes on the same.
    """

    def __init__(self, index: ImageIndex, bad_images: str, on_bad: Callable[[BadImage], None] | None) -> None:
        if bad_images not in ("stop", "skip"):
            raise UserError(f"bad images: {bad_images!r} is neither 'stop' nor 'skip'")
        self._index = index
        self._stop = bad_images == "stop"
        self._on_bad = on_bad
        self._lock = threading.Lock()
        self._broken = np.zeros(len(index), dtype=bool)
        self._source: dict[int, int] = {}
        # Rows that show one file, since the header scan put it in the place of others.
        self._shown_by: dict[int, list[int]] = {}
        for bad in index.bad:
            self._shown_by.setdefault(bad.replacement, []).append(bad.index)
        self._shows = {bad.index: bad.replacement for bad in index.bad}

    def sources(self, samples: np.ndarray) -> np.ndarray:
        """The index rows whose pictures are shown for ``samples``."""
        if not self._source:
            return samples
        return np.array([self._source.get(int(i), int(i)) for i in samples], dtype=np.int64)

    def replace(self, sample: int, source: int, reason: str) -> int:
        """Note that the picture of row ``source``, shown for ``sample``, is broken; give the row to show instead.

        Raises:
            UserError: with "stop", or where the class has no other picture.
        """
        name = self._index.label_of(source)
        if self._stop:
            raise UserError(f"{name} {reason}. Repair or remove it, or pass --bad-images skip", exit_code=1)
        with self._lock:
            file = self._shows.get(source, source)
            known = self._broken[file]
            self._broken[[file, *self._shown_by.get(file, ())]] = True
            other = next_good(self._index.labels, self._broken, source)
            if other < 0:
                raise UserError(f"{name} {reason}, and its class has no other good image", exit_code=1)
            self._source[sample] = other
        if self._on_bad and not known:
            self._on_bad(BadImage(source, self._index.file_name(source), reason, other))
        return other
