"""What a loader delivers, as numbers: which sample comes when, the files that show it, and its crop boxes.

Both backends only carry out what this says, so they cannot disagree about samples, boxes or flips.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fastlift.data.index.index import ImageIndex
from fastlift.data.index.replacements import Replacements
from fastlift.data.sampling.augmentations import Augmentations
from fastlift.data.sampling.class_draws import ClassDraws, Sampling, SamplingSettings
from fastlift.data.sampling.crop_boxes import CropBoxes, ResizedCrops
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.mixing import Mixes, Mixing
from fastlift.data.sampling.philox import in_a_row
from fastlift.data.sampling.shards import by_window, sorted_by_shard, windows_of
from fastlift.errors import UserError
from fastlift.settings import check_rules


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The training order of one epoch: int64 permutation of range(n), from NumPy's Philox keyed by (seed, epoch).

    Sorts raw 64-bit words (stable, so that ties cannot make it depend on the sorting algorithm): unlike
    ``Generator.permutation``, whose stream NumPy may change, this stays the same in all versions.
    """
    return np.argsort(in_a_row(n, seed, epoch), kind="stable").astype(np.int64, copy=False)


def share(n: int, rank: int, world_size: int, together: int = 1) -> range:
    """Which of n things one rank takes: each exactly once over the ranks, neighbours together, lengths within one.

    Where so many as ``together`` (pairs) must not be parted, it is their number that is shared; the last group may be short.
    """
    groups = -(-n // together)
    first, end = (min(n, together * (groups * one // world_size)) for one in (rank, rank + 1))
    return range(first, end)


def largest_share(n: int, world_size: int, together: int = 1) -> int:
    """How many of n things no rank takes more than."""
    groups = -(-n // together)
    return min(n, together * -(-groups // world_size))


def steps_in(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Batches of n samples, a last short one included unless it is dropped."""
    whole, rest = divmod(n, batch_size)
    return whole if drop_last or rest == 0 else whole + 1


@dataclass(frozen=True)
class Step:
    """One batch to make: B samples, the index rows whose images are shown for them, and their crop boxes.

    B may be 0 in training: a rank without a share of a short last batch.
    """

    epoch: int
    whole: np.ndarray  # int64 [W], the samples of all ranks
    samples: np.ndarray  # int64 [B], this rank's
    occurrences: np.ndarray  # int64 [B], how often each has been drawn before in the epoch
    sources: np.ndarray  # int64 [B]; differs from samples where a broken image is replaced
    boxes: CropBoxes | ResizedCrops
    augmentations: Augmentations | None = None  # in training, of what is done to the crops' pixels
    mixes: Mixes | None = None  # of the pairs among this rank's samples: those at 0 and 1, 2 and 3 ...


@dataclass(frozen=True)
class Stream:
    """The batches of all epochs as a pure function of these fields.

    ``shuffle`` gives training batches, each shared by the ranks. Without it, the index's order is cut into batches once, and
    each rank has its share of those: every sample is in the same batch, and so gets the same bits, for any number of ranks.

    An order is an array of draws, one number each: sample + N * occurrence. Where every sample comes once, they are the samples.
    """

    index: ImageIndex
    crops: TrainCrops | EvalCrops
    batch_size: int  # in training, of all ranks together
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1
    shuffle_shards: int | None = None  # in training: so many shards at a time; None for all
    sampling: Sampling = "shuffle"  # in training: how often each class comes; progressive over the epochs of the crops
    mixing: Mixing | None = None  # in training: how pairs of a batch are mixed, which one rank has both images of

    def __post_init__(self) -> None:
        if self.shuffle and self.shuffle_shards is not None and self.index.shards is None:
            raise UserError(
                f"--shuffle-shards: {self.index.name} has no shards. Pack it (`fastlift data pack`), or leave the flag out"
            )
        check_rules(SamplingSettings, {"sampling": self.sampling, "shuffle_shards": self.shuffle_shards})
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
        return largest_share(self.batch_size, self.world_size, self._together) if self.shuffle else self.batch_size

    @property
    def _together(self) -> int:
        """Neighbours of a batch that stay on one rank."""
        return 1 if self.mixing is None else 2

    def order(self, epoch: int) -> np.ndarray:
        """All draws of the epoch: int64 [N], over all ranks."""
        if not self.shuffle:
            return np.arange(len(self.index), dtype=np.int64)
        order = epoch_order(len(self.index), self.seed, epoch)
        if self.sampling != "shuffle":
            return self._draws.of(epoch)[order]
        return order if self.shuffle_shards is None else by_window(order, self.windows(epoch))

    @cached_property
    def _draws(self) -> ClassDraws:
        epochs = self.crops.epochs if isinstance(self.crops, TrainCrops) else 1
        return ClassDraws(self.index.labels, self.sampling, self.seed, epochs)

    def samples_of(self, draws: np.ndarray) -> np.ndarray:
        """Which sample each draw shows: rows of the index, int64 of the same shape."""
        return draws % max(len(self.index), 1)

    def windows(self, epoch: int) -> np.ndarray:
        """The window of shards of each sample in an epoch: int64 [N]."""
        assert self.index.shards is not None
        assert self.shuffle_shards is not None
        return windows_of(self.index.shards, self.seed, epoch, self.shuffle_shards)

    def step(self, order: np.ndarray, epoch: int, step: int, replacements: Replacements) -> Step:
        """Samples and boxes of one step; ``order`` is ``self.order(epoch)``.

        In training the ranks share each batch, so an epoch is the same whatever their number, and every draw comes once in it.
        Of shards, each rank has neighbours, so that it reads few.
        """
        if not self.shuffle:
            step = share(steps_in(len(order), self.batch_size, self.drop_last), self.rank, self.world_size)[step]
            return self.of(self.whole(order, step), epoch, replacements)
        whole, places = self.whole(order, step), self._places(order, step)
        made = self.of(whole[places], epoch, replacements, whole)
        if self.mixing is None:
            return made
        pairs = step * self.batch_size + places[0 : len(places) // 2 * 2 : 2]
        return replace(made, mixes=self.mixing.of(self.seed, epoch, pairs, self.crops.size))

    def mine(self, order: np.ndarray, step: int) -> np.ndarray:
        """This rank's draws of a training step: int64 [B]."""
        return self.whole(order, step)[self._places(order, step)]

    def _places(self, order: np.ndarray, step: int) -> np.ndarray:
        """The places in the batch of this rank's draws: int64 [B]."""
        whole = self.whole(order, step)
        places = np.arange(len(whole))
        if self.world_size > 1 and self.index.shards is not None:
            places = sorted_by_shard(self.index.shards[self.samples_of(whole)], self._together)
        part = share(len(whole), self.rank, self.world_size, self._together)
        return places[part.start : part.stop]

    def whole(self, order: np.ndarray, step: int) -> np.ndarray:
        """All ranks' draws of a step: int64 [W]."""
        return order[step * self.batch_size : (step + 1) * self.batch_size]

    def of(self, draws: np.ndarray, epoch: int, replacements: Replacements, whole: np.ndarray | None = None) -> Step:
        """The step of given draws in an epoch, int64 [B]; ``whole`` are those of all ranks, where others share the step."""
        samples, occurrences = self.samples_of(draws), draws // max(len(self.index), 1)
        sources = replacements.sources(samples)
        widths, heights = self.index.widths[sources], self.index.heights[sources]
        boxes = self.crops.boxes(self.seed, epoch, samples, widths, heights, occurrences)
        whole = samples if whole is None else self.samples_of(whole)
        augmentations = None
        if isinstance(self.crops, TrainCrops):
            augmentations = self.crops.augmentations(self.seed, epoch, samples, occurrences)
        return Step(epoch, whole, samples, occurrences, sources, boxes, augmentations)

    def again(self, step: Step, row: int, replacements: Replacements) -> Step:
        """A row of a step, by itself, with the replacements as they are now."""
        draw = step.samples[row : row + 1] + len(self.index) * step.occurrences[row : row + 1]
        return self.of(draw, step.epoch, replacements)
