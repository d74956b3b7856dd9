"""What an advice takes of images: features by a run's trained backbone, and small copies, in one pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastlift.advice.altered import ALTERATIONS, altered
from fastlift.advice.near_duplicates import COPY_WIDTH, small_copy
from fastlift.advice.record import ImageName
from fastlift.advice.sampling import thinned
from fastlift.data.index.index import BadImage, ImageIndex, PathTable
from fastlift.data.index.objects import ObjectImages
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.decode import load_image
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.loading.reading import DecodeError, read_encoded
from fastlift.errors import UserError
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.models.lift import LiftModel
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.system.device import using_device
from fastlift.system.progress import Ui
from fastlift.training.classifier_init import subset
from fastlift.training.features import features_of

TRIED = 48  # training images of which altered copies are made


@dataclass(frozen=True)
class Looks:
    """Images of a split as they were looked at.

    Attributes:
        rows: of the split's index, int64 [N], rising; those shown by a replacement are not among them.
        labels: int64 [N].
        features: of the trained backbone, L2-normed, fp32 [N, D].
        copies: ``small_copy``, fp32 [N, 192].
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    features: Tensor
    copies: Tensor


@dataclass(frozen=True)
class Looking:
    """A model on its device, and how images reach it."""

    model: LiftModel
    settings: EvaluationSettings
    ui: Ui

    def split(self, index: ImageIndex, most: int, seed: int, what: str) -> Looks:
        """Look at a split, thinned to ``most`` images."""
        rows = thinned(index.labels, most, seed)
        rows = rows[~np.isin(rows, [bad.index for bad in index.bad])]
        if not len(rows):
            raise UserError(f"{index.name} holds no image that can be read")
        broken: list[int] = []
        made = self._made(subset(index, rows), what, broken)
        kept = np.ones(len(rows), dtype=bool)
        kept[broken] = False
        made = made[torch.from_numpy(kept)]
        features, copies = made[:, :-COPY_WIDTH], made[:, -COPY_WIDTH:]
        return Looks(rows[kept], index.labels[rows[kept]], F.normalize(features, dim=1), copies.contiguous())

    def altered_copies(
        self, index: ImageIndex, rows: NDArray[np.int64], seed: int
    ) -> dict[str, tuple[Looks, NDArray[np.int64]]]:
        """Altered copies of some of these rows, by kind of alteration; with the place in ``rows`` of each one's source."""
        generator = np.random.default_rng(seed)
        places = np.sort(generator.choice(len(rows), min(TRIED, len(rows)), replace=False))
        pixels: dict[int, np.ndarray] = {}
        for place in places.tolist():
            try:
                pixels[place] = _pixels(index, int(rows[place]))
            except (DecodeError, OSError):
                continue
        found = {}
        for kind in ALTERATIONS if pixels else ():
            images = [altered(one, kind, seed + place) for place, one in pixels.items()]
            sources = np.array(list(pixels), dtype=np.int64)
            holding = _holding(index, images, index.labels[rows[sources]])
            looks = self.split(holding, len(images), seed, f"copies {kind}")
            found[kind] = looks, sources[looks.rows]
        return found

    def _made(self, index: ImageIndex, what: str, broken: list[int]) -> Tensor:
        def note(bad: BadImage) -> None:
            broken.append(bad.index)

        def both(images: Tensor) -> Tensor:
            return torch.cat([self.model.features(images).float(), small_copy(images)], dim=1)

        device = next(self.model.parameters()).device
        with self.ui.bar(what, len(index)) as bar, using_device(device):
            return features_of(
                self.model,
                index,
                EnsemblingSettings().build(self.model.preprocessing),
                self.settings.part(LoaderSettings),
                BadImageSettings("skip"),  # a replacement keeps the batch whole, and is left out here
                batch_size=self.settings.eval_batch,
                make=both,
                on_progress=bar.update,
                on_bad=note,
                what=what,
            )


def named(index: ImageIndex, split: str, row: int) -> ImageName:
    """What an image of a split is called."""
    file = f"row {row}" if index.root is None else index.file_name(row)
    return ImageName(split, row, file, index.class_names[index.labels[row]])


def _pixels(index: ImageIndex, row: int) -> np.ndarray:
    """An image as it is stored, uint8 [H, W, 3]."""
    if index.arrays is not None:
        return index.arrays[row]
    return load_image(index, row, read_encoded(index, row), 1).values


def _holding(index: ImageIndex, images: list[np.ndarray], labels: NDArray[np.int64]) -> ImageIndex:
    """An index of images in memory, with the classes of another."""
    heights, widths = np.array([image.shape[:2] for image in images], dtype=np.int32).T
    return replace(
        index,
        name=f"{index.name} altered",
        root=None,
        paths=PathTable.from_strings([""] * len(images)),
        labels=labels,
        widths=widths,
        heights=heights,
        arrays=ObjectImages(lambda row: images[row], np.arange(len(images))),
        spans=None,
        shards=None,
        bad=(),
    )
