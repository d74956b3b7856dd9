"""What a run's model says of each test image: ``predictions/NAME.safetensors``, a file for each evaluation of the results.

Columns of the kept images (see `fastlift.evaluation.per_image.PerImage`), the names of their files, and thumbnails of
some. Sealed like a checkpoint: damage is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlift.data.index.index import ImageIndex, PathTable
from fastlift.evaluation.per_image import PerImage
from fastlift.system import sealed

_COLUMNS: dict[str, type[np.generic]] = {
    "rows": np.int64,
    "labels": np.int32,
    "predicted": np.int32,
    "confidence": np.float32,
    "label_probability": np.float32,
}


@dataclass(frozen=True)
class Predictions:
    """A file of predictions, read.

    Attributes:
        images: what the model says of each kept image.
        files: the name of each kept image in the data root; empty for sets that come as arrays.
        thumbnails: JPEG files by row of the index.
        wanted: how many thumbnails were asked for.
        of: how many images the split has.
        fingerprint: of the split's index.
    """

    images: PerImage
    files: PathTable
    thumbnails: Mapping[int, bytes]
    wanted: int
    of: int
    fingerprint: str

    def file(self, place: int) -> str:
        """The name of a kept image: its path in the data root, or its row where it has none."""
        return self.files[place] if len(self.files) else f"row {self.images.rows[place]}"


def predictions_path(folder: Path, evaluation: str) -> Path:
    """Where the predictions of one of the run's evaluations lie (``center``, ``fivecrop@epoch-003``)."""
    return folder / "predictions" / f"{evaluation.replace('/', '_')}.safetensors"


def predictions_of(found: PerImage, index: ImageIndex, thumbnails: Mapping[int, bytes], wanted: int) -> Predictions:
    """What is said of the images of an index, with their names."""
    if index.root is None:
        files = PathTable.from_strings(())
    elif index.spans is None:
        files = index.paths.take(found.rows)
    else:
        files = PathTable.from_strings(index.file_name(row) for row in found.rows.tolist())
    return Predictions(found, files, thumbnails, wanted, len(index), index.fingerprint)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a file of predictions, atomically.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    small = sorted(predictions.thumbnails)
    joined = b"".join(predictions.thumbnails[row] for row in small)
    lengths = [len(predictions.thumbnails[row]) for row in small]
    arrays = {
        **{name: getattr(predictions.images, name) for name in _COLUMNS},
        "files": predictions.files.data,
        "file_offsets": predictions.files.offsets,
        "thumbnail_rows": np.array(small, dtype=np.int64),
        "thumbnails": np.frombuffer(joined, dtype=np.uint8),
        "thumbnail_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    }
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    told = {
        "every": predictions.images.every,
        "wanted": predictions.wanted,
        "images": predictions.of,
        "fingerprint": predictions.fingerprint,
    }
    path.parent.mkdir(exist_ok=True)
    sealed.write(path, tensors, {name: str(value) for name, value in told.items()}, parents=False)


def read_predictions(path: Path) -> Predictions:
    """Read a file of predictions.

    Raises:
        UserError: no such file, or one that cannot be read.
        Damaged: it is not as it was written.
    """
    tensors, told = sealed.read(path)
    try:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        columns = {name: _column(arrays, name, kind) for name, kind in _COLUMNS.items()}
        if len({len(column) for column in columns.values()}) != 1:
            raise ValueError("columns of unlike length")
        files = PathTable.checked(_column(arrays, "files", np.uint8), _column(arrays, "file_offsets", np.int64))
        if len(files) not in (0, len(columns["rows"])):
            raise ValueError("another number of names than of images")
        small = PathTable.checked(
            _column(arrays, "thumbnails", np.uint8), _column(arrays, "thumbnail_offsets", np.int64)
        )
        rows = _column(arrays, "thumbnail_rows", np.int64).tolist()
        if len(rows) != len(small):
            raise ValueError("another number of rows than of thumbnails")
        ends = small.offsets.tolist()
        thumbnails = {row: small.data[ends[place] : ends[place + 1]].tobytes() for place, row in enumerate(rows)}
        images = PerImage(**columns, every=int(told["every"]))
        return Predictions(images, files, thumbnails, int(told["wanted"]), int(told["images"]), told["fingerprint"])
    except (KeyError, ValueError) as error:
        raise sealed.Damaged(f"{path} holds no predictions as fastlift writes them ({error})") from None


def _column(arrays: Mapping[str, np.ndarray], name: str, kind: type[np.generic]) -> Any:
    array = arrays[name]
    if array.dtype != kind or array.ndim != 1:
        raise ValueError(f"{name} is of another kind")
    return array
