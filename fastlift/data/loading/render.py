"""Pixels of a crop: crop, resize with antialiasing, mirror. One definition for all torch-made batches."""

import numpy as np
import torch

from fastlift.data.loading.decode import Pixels
from fastlift.data.sampling.crop_boxes import CropBoxes, ResizedCrops
from fastlift.data.sampling.crops import EvalCrops, Interpolation, TrainCrops

# Above this many pixels a resized image is not made whole (a 1 x 10000 image would become 256 x 2560000).
MAX_RESIZED_PIXELS = 8_000_000


def resize(pixels: np.ndarray, width: int, height: int, interpolation: Interpolation) -> np.ndarray:
    """uint8 [h, w, 3] to uint8 [height, width, 3], as torchvision resizes a uint8 tensor with antialiasing.

    Within 0.03 grey levels of Pillow on average (at most 1 or 2): both round to 8 bits after each of the two passes.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    # Copied by NumPy: torch would start its own threads inside of ours for it.
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).unsqueeze(0)  # channels last
    resized = torch.nn.functional.interpolate(image, size=(height, width), mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def decode_scale(crops: TrainCrops | EvalCrops, boxes: CropBoxes | ResizedCrops, row: int) -> int:
    """The scale 1, 2, 4 or 8 that an image may be decoded at: the largest that leaves its crop box the size of the crop."""
    if not (isinstance(crops, TrainCrops) and crops.scaled_decode and isinstance(boxes, CropBoxes)):
        return 1
    times = min(int(boxes.w[row, 0]), int(boxes.h[row, 0])) // crops.size
    return next(scale for scale in (8, 4, 2, 1) if scale <= max(times, 1))


def render_crops(
    image: Pixels, boxes: CropBoxes | ResizedCrops, row: int, interpolation: Interpolation, out: np.ndarray
) -> None:
    """Write the crops of one image.

    Args:
        image: decoded, and at which scale: the edges of boxes go to its nearest pixels. Resized crops are of scale 1.
        boxes: of a batch; ``row`` is this image's.
        out: uint8 [V, 3, S, S].
    """
    size, (pixels, scale) = out.shape[-1], image
    if isinstance(boxes, CropBoxes):
        for k in range(len(out)):
            x, y, w, h = (int(column[row, k]) for column in (boxes.x, boxes.y, boxes.w, boxes.h))
            left, right, top, bottom = ((edge + scale // 2) // scale for edge in (x, x + w, y, y + h))
            resized = resize(pixels[top:bottom, left:right], size, size, interpolation)
            _put(resized, bool(boxes.flip[row, k]), out[k])
        return
    width, height = int(boxes.width[row]), int(boxes.height[row])
    whole = resize(pixels, width, height, interpolation) if width * height <= MAX_RESIZED_PIXELS else None
    for k in range(len(out)):
        x, y = int(boxes.x[row, k]), int(boxes.y[row, k])
        if whole is None:
            crop = _crop_of_resized(pixels, width, height, x, y, size, interpolation)
        else:
            crop = whole[y : y + size, x : x + size]
        _put(crop, bool(boxes.flip[row, k]), out[k])


def _put(crop: np.ndarray, flip: bool, out: np.ndarray) -> None:
    out[...] = (crop[:, ::-1] if flip else crop).transpose(2, 0, 1)


def _crop_of_resized(
    pixels: np.ndarray, width: int, height: int, x: int, y: int, size: int, interpolation: Interpolation
) -> np.ndarray:
    """A crop of the image resized to width x height, without making the rest of it (for very long images)."""
    from PIL import Image

    scale_x, scale_y = pixels.shape[1] / width, pixels.shape[0] / height
    box = (x * scale_x, y * scale_y, (x + size) * scale_x, (y + size) * scale_y)
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling[interpolation.upper()], box=box))
