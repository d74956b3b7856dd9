"""Prediction by a run of any number of images, shared over processes: the first one has all predictions, in their order."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastlift.config import Config, RunConfig
from fastlift.data.image_sources import FoundImage
from fastlift.data.index.index import ImageIndex, PathTable
from fastlift.data.index.store_scan import scan_anywhere
from fastlift.data.sampling.stream import share
from fastlift.data.stores.url import Url
from fastlift.engine.agreement import agree, each_says, first_amp, first_says, join
from fastlift.engine.memory import Work, check_images
from fastlift.engine.model import load_run
from fastlift.engine.processes import company
from fastlift.evaluation.predict import Best, Scan, index_images, predict_rows
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.lift import LiftModel
from fastlift.models.precision import shape_of
from fastlift.models.prediction.result import AnswerSettings, Prediction
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.models.weights import weights_fingerprint
from fastlift.runs.folder import amp_of
from fastlift.system.device import using_device
from fastlift.system.progress import Quiet, Ui
from fastlift.system.settings import ThreadSettings
from fastlift.training.averaging import Weights
from fastlift.training.distributed import World, gather, rows_of_all

FIRST_IMAGES, MOST_IMAGES = 1024, 131_072  # that are indexed at a time: few at first, so that one soon sees results


@dataclass(frozen=True)
class Wanted:
    """What is predicted: by which run, at which checkpoint (None for the last), of which images, and what is told of each."""

    run: Path
    checkpoint: str | None
    images: Iterable[FoundImage]
    answer: AnswerSettings
    calibrated: bool = False  # by what was fitted to the run
    weights: Weights | None = None  # of a run with an average of them; None for the average
    done: int = 0  # so many of the images are left out, since they were predicted before; the first process knows


def predict_images(wanted: Wanted, config: Config, ui: Ui | None = None) -> Iterator[Prediction]:
    """A prediction of each image, in their order, on the first process; none on the others.

    What cannot be used has one that tells its ``problem``. Images are taken from ``wanted.images`` as they are needed, some
    thousand at a time, so there may be any number of them.

    Args:
        config: whose settings of inference, loading, precision, device and threads are used.
        ui: told of checkpoints that were passed over; by the first process.

    Raises:
        UserError: no such run or checkpoint, or settings that cannot be used. Processes that differ.
        OutOfMemory: a batch is too large for it.
    """
    with company() as world:
        device = join(
            world,
            config,
            checkpoint=wanted.checkpoint,
            calibrated=wanted.calibrated,
            weights=wanted.weights,
            **wanted.answer.values(),
        )
        done = int(first_says(world, lambda: str(wanted.done)))
        scan, model = partial(_scan_together, world, device), None
        parts = _parts(wanted.images, done)
        with config.part(ThreadSettings).use(), using_device(device):
            for part in _indexed(parts, scan, world):
                if len(part.index) and model is None:
                    model = _model(wanted, config.run, world, device, ui or Quiet())
                predicted: Iterable[Best] = ()
                if model is not None and len(part.index):
                    predicted = _in_order(model, part, config.part(InferenceSettings), wanted.answer.top, world)
                if world.is_main:
                    if model is None:
                        yield from _merged(part, predicted, (), 0.0)
                    else:
                        least = model.threshold_or(wanted.answer.threshold)
                        yield from _merged(part, predicted, model.class_names, least)
                else:
                    collections.deque(predicted, maxlen=0)


@dataclass
class _Part:
    """Some of the images, indexed."""

    found: list[FoundImage]
    first: int  # the number in ``found`` of the first that is wanted
    index: ImageIndex
    rows: np.ndarray  # int64 [N], the number in ``found`` of each row of the index
    problems: dict[int, str]  # by the number in ``found``


class _Found(NamedTuple):
    """Some of the images, and the number of the first that is wanted."""

    images: list[FoundImage]
    first: int


def _parts(images: Iterable[FoundImage], done: int) -> Iterator[_Found]:
    """Images in parts of growing size, each of one kind: files, of one store or none, or members of shards, or what cannot be read.

    Parts that are done are left out, and the next one is whole: so its images are in the batches, and get the bits, that they
    have without an interruption.
    """
    most, start = FIRST_IMAGES, 0
    for _, same in itertools.groupby(images, key=lambda image: (bool(image.problem), image.span is None, image.store)):
        while part := list(itertools.islice(same, most)):
            if start + len(part) > done:
                yield _Found(part, max(0, done - start))
            start += len(part)
            most = min(4 * most, MOST_IMAGES)


def _indexed(parts: Iterator[_Found], scan: Scan, world: World) -> Iterator[_Part]:
    """The parts with their indices; one process alone makes the next one's while the last one is predicted."""
    if world.size > 1:
        while True:
            part = next(parts, _Found([], 0))
            named = (f"{image.name}\0{image.span}" for image in part.images)
            digest = hashlib.blake2b(b"\0".join(map(os.fsencode, named))).hexdigest()
            agree(world, {"the list of images": digest})
            if not part.images:
                return
            yield _index(part, scan)
    with ThreadPoolExecutor(1, "fastlift-index") as pool:
        coming = [pool.submit(_next_indexed, parts, scan)]
        while (part_indexed := coming.pop().result()) is not None:
            coming.append(pool.submit(_next_indexed, parts, scan))
            yield part_indexed


def _next_indexed(parts: Iterator[_Found], scan: Scan) -> _Part | None:
    part = next(parts, None)
    return None if part is None else _index(part, scan)


def _index(part: _Found, scan: Scan) -> _Part:
    found, first = part
    if found[0].problem:
        empty, rows, _ = index_images([], scan)
        return _Part(found, first, empty, rows, {number: image.problem for number, image in enumerate(found)})
    return _Part(found, first, *index_images(found, scan))


def _merged(part: _Part, predicted: Iterable[Best], names: Sequence[str], threshold: float) -> Iterator[Prediction]:
    """A prediction of each image of a part: as they come, and what has none where its place is."""
    at = part.first

    def without(until: int) -> Iterator[Prediction]:
        return (Prediction(part.found[i].name, problem=part.problems[i]) for i in range(at, until))

    for best in predicted:
        number = int(part.rows[best.row])
        if number < part.first:  # of the batch that the first wanted one is in
            continue
        yield from without(number)
        yield best.named(part.found[number].name, names, threshold)
        at = number + 1
    yield from without(len(part.found))


def _scan_together(
    world: World, device: torch.device, root: Path | Url, table: PathTable
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """As ``scan_anywhere``: each process reads the headers of its part of the files."""
    if world.size == 1:
        return scan_anywhere(root, table)
    parts = [share(len(table), rank, world.size) for rank in range(world.size)]
    widths, heights, reasons = scan_anywhere(root, table.take(np.array(parts[world.rank], dtype=np.int64)))
    each = each_says(world, json.dumps(reasons), math.inf)
    mine = torch.zeros(max(map(len, parts)), 2, dtype=torch.int32)
    mine[: len(widths)] = torch.from_numpy(np.stack([widths, heights], axis=1))
    sizes = gather(mine.to(device), world).cpu().numpy()
    whole = np.concatenate([of[: len(part)] for of, part in zip(sizes, parts, strict=True)])
    found = {part[int(i)]: why for text, part in zip(each, parts, strict=True) for i, why in json.loads(text).items()}
    return whole[:, 0], whole[:, 1], found


def _model(wanted: Wanted, run: RunConfig, world: World, device: torch.device, ui: Ui) -> LiftModel:
    """The run's model on the device, in the dtype of the training unless another is asked for; the same on all ranks."""
    told = ui if world.is_main else None
    model = load_run(wanted.run, wanted.checkpoint, told, calibrated=wanted.calibrated, weights=wanted.weights)
    if model.calibration is not None:
        model.calibration.check_crops(run.part(EnsemblingSettings))
    check_images(model.vit, run, Work.of_evaluation(run, run.images_at_a_time), {}, {}, device)
    with run.part(ThreadSettings).use():
        asked = amp_of(wanted.run, run.amp)
        model.set_compute_dtype(first_amp(world, asked, device, lambda: shape_of(model.vit, run.eval_batch)).dtype)
    agree(
        world,
        {
            "the backbone's weights": model.backbone_fingerprint,
            "the checkpoint": "" if world.size == 1 else weights_fingerprint(model.state().items()),
        },
    )
    return model.to(device)


def _in_order(model: LiftModel, part: _Part, settings: InferenceSettings, top: int, world: World) -> Iterator[Best]:
    """On the first process all predictions of a part: its own, which come first, as they are made, then those of the others.

    What has none is added to the part's problems, before the predictions behind it come.
    """
    bad: dict[int, str] = {}

    def note(row: int, reason: str) -> None:
        bad[row] = part.problems[int(part.rows[row])] = reason

    found: list[Best] = []
    # Several processes have each their share of a part, and begin it anew.
    done = int(np.searchsorted(part.rows, part.first)) // settings.images_at_a_time if world.size == 1 else 0
    for best in predict_rows(model, part.index, settings, top=top, on_bad=note, world=world, batches_done=done):
        if world.is_main:
            yield best
        else:
            found.append(best)
    if world.size == 1:
        return
    # Not in a collective, which would give up on a slower one after minutes.
    each = each_says(world, json.dumps(bad), math.inf)
    others = rows_of_all(_table(found), world, next(model.parameters()).device)
    if others is None:
        return
    for text in each[1:]:
        for row, reason in json.loads(text).items():
            part.problems.setdefault(int(part.rows[int(row)]), reason)
    for values in others.tolist():
        middle = 1 + (len(values) - 1) // 2
        yield Best(int(values[0]), values[1:middle], [int(number) for number in values[middle:]])


def _table(found: Sequence[Best]) -> Tensor:
    """Rows, probabilities and classes as numbers, float64 [n, 1 + 2 top], which holds all of them exactly."""
    rows = [[best.row, *best.probabilities, *best.classes] for best in found]
    return torch.tensor(rows, dtype=torch.float64) if rows else torch.empty(0, 0, dtype=torch.float64)
