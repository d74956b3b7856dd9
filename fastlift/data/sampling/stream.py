"""What a loader delivers, as numbers: the samples of each step, the files that show them, and their views.

Both executors only carry out what this says, so they cannot disagree about samples, windows or flips.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.scan import next_good
from fastlift.data.sampling.crops import EvalViews, ResizedCrops, TrainViews, Windows
from fastlift.data.sampling.order import epoch_order, share, steps_in, training_batch
from fastlift.errors import UserError


@dataclass(frozen=True)
class Step:
    """One batch to make: B samples, the index rows whose pictures are shown for them, and their views.

    B may be 0 in training: a rank without a share of a short last batch.
    """

    whole: np.ndarray  # int64 [W], the samples of all ranks
    samples: np.ndarray  # int64 [B], this rank's
    sources: np.ndarray  # int64 [B]; differs from samples where a broken picture is replaced
    views: Windows | ResizedCrops


@dataclass(frozen=True)
class Stream:
    """The batches of all epochs as a pure function of these fields.

    ``shuffle`` gives training batches, each shared by the ranks. Without it, the index's order is cut into batches once, and
    each rank has its share of those: every sample is in the same batch, and so gets the same bits, for any number of ranks.
    """

    index: ImageIndex
    views: TrainViews | EvalViews
    batch_size: int  # in training, of all ranks together
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
        """Batches of an epoch on this rank; in training the same on all."""
        steps = steps_in(len(self.index), self.batch_size, self.drop_last)
        return steps if self.shuffle else len(share(steps, self.rank, self.world_size))

    @property
    def most_samples(self) -> int:
        """Samples of this rank in a full batch."""
        return -(-self.batch_size // self.world_size) if self.shuffle else self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """All samples of the epoch: int64, over all ranks."""
        if self.shuffle:
            return epoch_order(len(self.index), self.seed, epoch)
        return np.arange(len(self.index), dtype=np.int64)

    def step(self, order: np.ndarray, epoch: int, step: int, stand_ins: "StandIns") -> Step:
        """Samples and views of one step; ``order`` is ``self.order(epoch)``."""
        if self.shuffle:
            whole = training_batch(order, step, self.batch_size)
            mine = share(len(whole), self.rank, self.world_size)
            return self.of(whole[mine.start : mine.stop], epoch, stand_ins, whole)
        steps = steps_in(len(order), self.batch_size, self.drop_last)
        return self.of(
            training_batch(order, share(steps, self.rank, self.world_size)[step], self.batch_size), epoch, stand_ins
        )

    def of(self, samples: np.ndarray, epoch: int, stand_ins: "StandIns", whole: np.ndarray | None = None) -> Step:
        """The views of given samples in an epoch; ``whole`` are those of all ranks, where others share the step."""
        sources = stand_ins.sources(samples)
        widths, heights = self.index.widths[sources], self.index.heights[sources]
        return Step(
            samples if whole is None else whole,
            samples,
            sources,
            self.views.windows(self.seed, epoch, samples, widths, heights),
        )


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
