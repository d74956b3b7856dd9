"""Settings of evaluation: how many crops of images are looked at at once, and who decodes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastlift.data.index.groups import GroupSettings
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.settings import Between, May, Settings
from fastlift.system.settings import SeedSettings


@dataclass(frozen=True)
class EvalSettings(Settings):
    """How many crops pass through the model at once."""

    eval_batch: Annotated[int, Between(1), May.CHANGE] = 128
    """Images at a time in evaluation; several crops of an image count one each."""


@dataclass(frozen=True)
class CropBatchSettings(EnsemblingSettings, EvalSettings):
    """How images pass through a trained model: which crops of each, and how many at once."""

    @property
    def images_at_a_time(self) -> int:
        """Images of a full batch: all crops of an image go together, at least one image."""
        return max(1, self.eval_batch // self.crops_per_image)

    @property
    def crops_at_a_time(self) -> int:
        """Crops of a full batch: the model sees so many at once."""
        return self.images_at_a_time * self.crops_per_image


@dataclass(frozen=True)
class InferenceSettings(CropBatchSettings, LoaderSettings):  # type: ignore[misc]  # parts build
    """As above, and who decodes the images."""


@dataclass(frozen=True)
class EvaluationSettings(InferenceSettings, BadImageSettings, GroupSettings, SeedSettings):  # type: ignore[misc]
    """All that an evaluation is asked for."""
