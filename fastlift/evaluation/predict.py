"""Prediction: image files -> the most probable classes of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastlift.data.datasets.folder import images_in
from fastlift.data.index.header_scan import scan_files
from fastlift.data.index.index import BadImage, ImageIndex, PathTable, fingerprint
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.errors import UserError
from fastlift.evaluation.evaluate import mean_logits
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.lift import LiftModel
from fastlift.models.out_of_memory import without_gradients
from fastlift.training.distributed import World
from fastlift.training.inputs import model_loader

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image: names and softmax probabilities in 0..1, best first."""

    path: Path
    names: tuple[str, ...]
    probabilities: tuple[float, ...]


def find_images(places: Sequence[Path]) -> list[Path]:
    """Files as they are named, and all images below the folders, in order.

    Raises:
        UserError: a place that does not exist, or no image at all.
    """
    missing = [str(place) for place in places if not place.exists()]
    if missing:
        raise UserError(f"no such file or folder: {', '.join(missing[:10])}")
    found = [path for place in places for path in (map(Path, sorted(images_in(place))) if place.is_dir() else [place])]
    if not found:
        raise UserError(f"no images in {', '.join(map(str, places))}")
    return found


Scan = Callable[[Path, PathTable], tuple[np.ndarray, np.ndarray, dict[int, str]]]


def index_images(paths: Sequence[Path], scan: Scan = scan_files) -> tuple[ImageIndex, dict[Path, str]]:
    """An index of the readable files, and what is wrong with each of the others; ``scan`` reads the headers."""
    resolved = [path.resolve() for path in paths]
    root = Path(resolved[0].anchor)
    table = PathTable.from_strings(str(path.relative_to(root)) for path in resolved)
    widths, heights, reasons = scan(root, table)
    good = np.array([i for i in range(len(paths)) if i not in reasons], dtype=np.int64)
    columns = table.take(good), np.zeros(len(good), dtype=np.int64), widths[good], heights[good], ("any",)
    index = ImageIndex("images", root, *columns, fingerprint=fingerprint(*columns))
    return index, {paths[i]: reason for i, reason in reasons.items()}


@torch.inference_mode()
def _best(model: LiftModel, images: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the logits are finite [B], and the largest probabilities [B, top] with their classes [B, top]."""
    logits = mean_logits(model, images)
    best = logits.softmax(dim=1).topk(top, dim=1)
    return logits.isfinite().all(dim=1), best.values, best.indices


def _fetched(parts: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Start to copy to the host; what is returned waits for the copies."""
    if parts[0].device.type != "cuda":
        return lambda: list(parts)
    host = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in parts]
    for copy, part in zip(host, parts, strict=True):
        copy.copy_(part, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def arrived() -> list[Tensor]:
        event.synchronize()
        return host

    return arrived


def _behind(results: Iterable[Callable[[], Result]], batches: int) -> Iterator[Result]:
    """The results in their order, each read when so many ``batches`` after it have been queued on the device."""
    waiting: deque[Callable[[], Result]] = deque()
    for result in results:
        waiting.append(result)
        if len(waiting) > batches:
            yield waiting.popleft()()
    for result in waiting:
        yield result()


class Best(NamedTuple):
    """The most probable classes of one image, by their numbers: its row in the index, probabilities and classes [top]."""

    row: int
    probabilities: Sequence[float]
    classes: Sequence[int]

    def named(self, paths: Sequence[Path], class_names: Sequence[str]) -> Prediction:
        """The same with names; ``paths`` are those of the index's rows."""
        names = tuple(class_names[number] for number in self.classes)
        return Prediction(paths[self.row], names, tuple(self.probabilities))


def predict(
    model: LiftModel,
    paths: Sequence[Path],
    index: ImageIndex,
    settings: InferenceSettings,
    *,
    top: int = 5,
    on_bad: Callable[[Path, str], None] | None = None,
) -> Iterator[Prediction]:
    """Predictions of the images of an index, in its order, as they are made.

    Args:
        paths: what to call the images, one for each row of ``index``.
        on_bad: called with path and reason of an image that gets no prediction.
        model, settings, top: as ``predict_rows`` takes them.

    Raises:
        OutOfMemory: a batch is too large for it.
    """

    def note(row: int, reason: str) -> None:
        if on_bad is not None:
            on_bad(paths[row], reason)

    for best in predict_rows(model, index, settings, top=top, on_bad=note):
        yield best.named(paths, model.class_names)


def predict_rows(
    model: LiftModel,
    index: ImageIndex,
    settings: InferenceSettings,
    *,
    top: int,
    on_bad: Callable[[int, str], None],
    world: World | None = None,
) -> Iterator[Best]:
    """The most probable classes of the images of an index, in its order, as they are found.

    Args:
        model: on its device.
        settings: crops of each image, and how many go through the model at once, and the loader.
        top: how many classes.
        on_bad: called with row and reason of an image that breaks only when it is decoded, from any thread, or that the model
            gives NaN or infinity for; it gets no prediction.
        world: the processes that share the work by whole batches; each gets its own.

    Raises:
        OutOfMemory: a batch is too large for it.
    """
    broken: set[int] = set()

    def note(bad: BadImage) -> None:
        broken.add(bad.index)
        on_bad(bad.index, bad.reason)

    loader = model_loader(
        model,
        index,
        settings.build(model.preprocessing),
        settings.images_at_a_time,
        settings.part(LoaderSettings),
        BadImageSettings("skip"),  # a replacement keeps the batch whole; what is predicted for it is dropped below
        shuffle=False,
        world=world,
        on_bad=note,
    )
    crops = settings.crops_per_image

    def read(indices: Tensor, arrived: Callable[[], list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        return indices, arrived()

    def queued() -> Iterator[Callable[[], tuple[Tensor, list[Tensor]]]]:
        for images, _, indices in loader.epoch(0):
            best = partial(_best, model, images, min(top, len(model.class_names)))
            arrived = _fetched(without_gradients(best, model, len(images) * crops, crops, "prediction"))
            yield partial(read, indices, arrived)

    # A GPU has the next batch to work on while the host reads one; a CPU would only tell of it later.
    ahead = 1 if next(model.parameters()).device.type == "cuda" else 0
    try:
        for indices, found in _behind(queued(), ahead):
            rows = zip(indices.tolist(), *(part.tolist() for part in found), strict=True)
            for row, is_finite, probabilities, classes in rows:
                if row in broken:
                    continue
                if not is_finite:
                    on_bad(row, "the model gives NaN or infinity for it")
                else:
                    yield Best(row, probabilities, classes)
    finally:
        loader.close()
