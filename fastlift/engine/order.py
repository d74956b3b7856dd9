"""What the order of a training's images depends on."""

from __future__ import annotations

from dataclasses import dataclass

from fastlift.data.index.index import ImageIndex
from fastlift.data.sampling.class_draws import SamplingSettings
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.shards import ShardOrderSettings
from fastlift.data.sampling.stream import Stream
from fastlift.system.settings import SeedSettings
from fastlift.training.settings import BatchSettings, EpochSettings


@dataclass(frozen=True)
class OrderSettings(BatchSettings, EpochSettings, SamplingSettings, ShardOrderSettings, SeedSettings):
    """Which images come in which step."""

    def stream(self, index: ImageIndex) -> Stream:
        """The steps of all epochs, over all processes; of its crop boxes nobody is told."""
        crops = TrainCrops(1, epochs=max(self.epochs, 1))
        by = self.shuffle_shards, self.sampling
        return Stream(index, crops, self.batch_size, self.seed, True, False, 0, 1, *by)
