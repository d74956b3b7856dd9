"""Prediction of files and members of shards, many at a time: an index of them -> the most probable classes of each."""

from __future__ import annotations

import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastlift.data.image_sources import FoundImage
from fastlift.data.index.headers import Header, bad, header_of
from fastlift.data.index.index import BadImage, ImageIndex, PathTable, fingerprint
from fastlift.data.index.replacements import BadImageSettings, NoGoodImage
from fastlift.data.index.store_scan import scan_anywhere
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.stores.cache import CacheSettings, DataCache
from fastlift.data.stores.cached import Session
from fastlift.data.stores.random_access import Opened, opened
from fastlift.data.stores.url import Url
from fastlift.errors import UserError
from fastlift.evaluation.evaluate import mean_logits
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.lift import LiftModel
from fastlift.models.out_of_memory import without_gradients
from fastlift.models.prediction.predicting import NOT_FINITE
from fastlift.models.prediction.result import Prediction
from fastlift.system.files import cache_folder
from fastlift.training.distributed import World
from fastlift.training.inputs import model_loader

Result = TypeVar("Result")
Scan = Callable[[Path | Url, PathTable], tuple[np.ndarray, np.ndarray, dict[int, str]]]


def index_images(
    found: Sequence[FoundImage], scan: Scan = scan_anywhere
) -> tuple[ImageIndex, np.ndarray, dict[int, str]]:
    """An index of those images that can be read.

    Args:
        found: images that are all files, of this machine or of one store, or all members of shards.
        scan: reads the headers of files.

    Returns:
        the index; for each of its rows the number of the image in ``found``, int64 [N]; and what is wrong with each of the
        others, by its number.
    """
    # As they are named: to resolve links would take longer than to read the headers.
    here, spans = os.getcwd(), None
    in_store = bool(found) and bool(found[0].store)
    root: Path | Url = Url(found[0].store, Session(_copies(cache_folder()))) if in_store else Path(os.sep)
    paths = [image.path if in_store else os.path.join(here, image.path) for image in found]
    table = PathTable.from_strings(path.lstrip(os.sep) for path in paths)
    if not found or found[0].span is None:
        widths, heights, reasons = scan(root, table)
    else:
        widths, heights, reasons = _scan_members(paths, found)
        spans = np.array([image.span for image in found], dtype=np.int64)
    good = np.array([i for i in range(len(found)) if i not in reasons], dtype=np.int64)
    columns = table.take(good), np.zeros(len(good), dtype=np.int64), widths[good], heights[good], ("any",)
    spans = None if spans is None else spans[good]
    return ImageIndex("images", root, *columns, fingerprint=fingerprint(*columns), spans=spans), good, reasons


@functools.cache
def _copies(folder: Path) -> DataCache | None:
    """The cache below a folder, so that a store gives an image once for its header and its pixels; None without one."""
    try:
        return CacheSettings().build(folder)
    except UserError:
        return None


def _scan_members(shards: Sequence[str], found: Sequence[FoundImage]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """As ``scan_anywhere``, of members of shards, which come one after another."""
    headers: list[Header] = []
    for shard, pairs in itertools.groupby(zip(shards, found, strict=True), key=lambda pair: pair[0]):
        spans = [image.span for _, image in pairs if image.span]
        try:
            with opened(Path(shard)) as file:
                headers += [_member_header(file, *span) for span in spans]
        except (UserError, OSError) as error:  # gone since it was listed: no more than a list was added
            told = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{shard} ")
            headers += [bad(f"cannot be read ({told})")] * len(spans)
    widths, heights = (np.array([header[k] for header in headers], dtype=np.int32) for k in (0, 1))
    return widths, heights, {row: header.reason for row, header in enumerate(headers) if header.reason}


def _member_header(file: Opened, offset: int, size: int) -> Header:
    return header_of(size, lambda at, count: file.read(offset + at, min(count, size - at)))


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

    def named(self, image: str, class_names: Sequence[str], threshold: float) -> Prediction:
        """The same with names, for what people call the image."""
        names = tuple(class_names[number] for number in self.classes)
        return Prediction(image, names, tuple(self.probabilities), tuple(self.classes), threshold)


def predict_rows(
    model: LiftModel,
    index: ImageIndex,
    settings: InferenceSettings,
    *,
    top: int,
    on_bad: Callable[[int, str], None],
    world: World | None = None,
    batches_done: int = 0,
) -> Iterator[Best]:
    """The most probable classes of the images of an index, in its order, as they are found.

    Args:
        model: on its device.
        settings: crops of each image, and how many go through the model at once, and the loader.
        top: how many classes.
        on_bad: called with row and reason of an image that breaks only when it is decoded, from any thread, or that the model
            gives NaN or infinity for; it gets no prediction.
        world: the processes that share the work by whole batches; each gets its own.
        batches_done: so many of this process's batches are left out.

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
        once=True,
    )
    crops = settings.crops_per_image

    def read(indices: Tensor, arrived: Callable[[], list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        return indices, arrived()

    def queued() -> Iterator[Callable[[], tuple[Tensor, list[Tensor]]]]:
        for images, _, indices in loader.epoch(0, batches_done):
            best = functools.partial(_best, model, images, min(top, len(model.class_names)))
            arrived = _fetched(without_gradients(best, model, len(images) * crops, crops, "prediction"))
            yield functools.partial(read, indices, arrived)

    # A GPU has the next batch to work on while the host reads one; a CPU would only tell of it later.
    ahead = 1 if next(model.parameters()).device.type == "cuda" else 0
    try:
        for indices, found in _behind(queued(), ahead):
            rows = zip(indices.tolist(), *(part.tolist() for part in found), strict=True)
            for row, is_finite, probabilities, classes in rows:
                if row in broken:
                    continue
                if not is_finite:
                    on_bad(row, NOT_FINITE)
                else:
                    yield Best(row, probabilities, classes)
    except NoGoodImage as error:  # all of them are broken, of which threads may not have told yet
        for row, reason in error.reasons.items():
            on_bad(row, reason)
    finally:
        loader.close()
