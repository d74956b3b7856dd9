"""From the pixels of an image to what a model takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastlift.data.loading.collate import Normalise
from fastlift.data.loading.decode import Pixels
from fastlift.data.loading.render import render_crops
from fastlift.data.sampling.crops import EvalCrops


class Preparation:
    """Crops, resizes and normalises images as evaluation does. Safe to use from threads."""

    def __init__(self, crops: EvalCrops, normalise: Normalise) -> None:
        self._crops, self._normalise = crops, normalise

    def crops_of(self, pixels: np.ndarray, number: int) -> np.ndarray:
        """The crops of an image, uint8 [H, W, 3], as [V, 3, S, S]: normalised float32 for a CPU, uint8 for a GPU.

        Args:
            number: of the image, which random crops are drawn by.
        """
        height, width = pixels.shape[:2]
        crops, of_one = self._crops, np.array([number], dtype=np.int64)
        boxes = crops.boxes(0, 0, of_one, *(np.array([side], dtype=np.int32) for side in (width, height)))
        out = np.empty((crops.per_image, 3, crops.size, crops.size), dtype=np.uint8)
        render_crops(Pixels(pixels, 1), boxes, 0, crops.interpolation, out)
        if not self._normalise.in_workers:
            return out
        images = np.empty(out.shape, dtype=np.float32)
        self._normalise.in_worker(out, images)
        return images

    def batch(self, images: Sequence[np.ndarray]) -> Tensor:
        """What ``crops_of`` made, as [B, 3, S, S], or [B, V, 3, S, S] for several crops, in the compute dtype on the device."""
        stacked = torch.from_numpy(np.stack(images))
        return self._normalise.to_device(stacked if self._crops.stacked else stacked.squeeze(1))
