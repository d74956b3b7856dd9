"""Prediction by a run, shared over processes: the first one has all predictions, in the order of the files."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastlift.config import Config, RunConfig
from fastlift.data.index.header_scan import scan_files
from fastlift.data.index.index import ImageIndex, PathTable
from fastlift.data.sampling.stream import share
from fastlift.engine.agreement import agree, each_says, first_amp, join
from fastlift.engine.memory import Work, check_images
from fastlift.engine.model import load_run
from fastlift.engine.processes import company
from fastlift.evaluation.predict import Best, Prediction, index_images, predict_rows
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.lift import LiftModel
from fastlift.models.precision import shape_of
from fastlift.models.weights import weights_fingerprint
from fastlift.runs.folder import amp_of
from fastlift.system.device import using_device
from fastlift.system.progress import Quiet, Ui
from fastlift.system.settings import ThreadSettings
from fastlift.training.distributed import World, gather, rows_of_all


@dataclass(frozen=True)
class Wanted:
    """What is predicted: by which run, at which checkpoint (None for the last), of which files, with how many classes."""

    run: Path
    checkpoint: str | None
    paths: Sequence[Path]
    top: int


def predict_files(
    wanted: Wanted, config: Config, on_bad: Callable[[Path, str], None], ui: Ui | None = None
) -> Iterator[Prediction]:
    """Predictions of image files in their order, on the first process; none on the others.

    Args:
        config: whose settings of inference, loading, precision, device and threads are used.
        on_bad: called with path and reason of each file without a prediction, on the first process.
        ui: told of checkpoints that were passed over; by the first process.

    Raises:
        UserError: no such run or checkpoint, or settings that cannot be used. Processes that differ.
        OutOfMemory: a batch is too large for it.
    """
    with company() as world:

        def tell(path: Path, reason: str) -> None:
            if world.is_main:
                on_bad(path, reason)

        digest = hashlib.blake2b(b"\0".join(map(os.fsencode, wanted.paths))).hexdigest()
        device = join(world, config, top=wanted.top, checkpoint=wanted.checkpoint, **{"the list of images": digest})
        index, unreadable = index_images(wanted.paths, partial(_scan_together, world, device))
        for path, reason in unreadable.items():
            tell(path, reason)
        if len(index):
            model = _model(wanted, config.run, world, device, len(index), ui or Quiet())
            readable = [path for path in wanted.paths if path not in unreadable]
            with config.part(ThreadSettings).use(), using_device(device):
                settings = config.part(InferenceSettings)
                found = _in_order(model, index, settings, wanted.top, world, lambda i, why: tell(readable[i], why))
                for best in found:
                    yield best.named(readable, model.class_names)


def _scan_together(
    world: World, device: torch.device, root: Path, table: PathTable
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """As ``scan_files``: each process reads the headers of its part of the files."""
    if world.size == 1:
        return scan_files(root, table)
    parts = [share(len(table), rank, world.size) for rank in range(world.size)]
    widths, heights, reasons = scan_files(root, table.take(np.array(parts[world.rank], dtype=np.int64)))
    each = each_says(world, json.dumps(reasons), math.inf)
    mine = torch.zeros(max(map(len, parts)), 2, dtype=torch.int32)
    mine[: len(widths)] = torch.from_numpy(np.stack([widths, heights], axis=1))
    sizes = gather(mine.to(device), world).cpu().numpy()
    whole = np.concatenate([of[: len(part)] for of, part in zip(sizes, parts, strict=True)])
    found = {part[int(i)]: why for text, part in zip(each, parts, strict=True) for i, why in json.loads(text).items()}
    return whole[:, 0], whole[:, 1], found


def _model(wanted: Wanted, run: RunConfig, world: World, device: torch.device, images: int, ui: Ui) -> LiftModel:
    """The run's model on the device, in the dtype of the training unless another is asked for; the same on all ranks."""
    model = load_run(wanted.run, wanted.checkpoint, ui if world.is_main else None)
    check_images(model.vit, run, Work.of_evaluation(run, images), {}, {}, device)
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


def _in_order(
    model: LiftModel,
    index: ImageIndex,
    settings: InferenceSettings,
    top: int,
    world: World,
    on_bad: Callable[[int, str], None],
) -> Iterator[Best]:
    """On the first process all predictions: its own, which come first, as they are made, then those of the others."""
    bad: dict[int, str] = {}

    def note(row: int, reason: str) -> None:
        bad[row] = reason
        on_bad(row, reason)

    found: list[Best] = []
    for best in predict_rows(model, index, settings, top=top, on_bad=note, world=world):
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
        for row, reason in sorted((int(row), reason) for row, reason in json.loads(text).items()):
            on_bad(row, reason)
    for values in others.tolist():
        middle = 1 + (len(values) - 1) // 2
        yield Best(int(values[0]), values[1:middle], [int(number) for number in values[middle:]])


def _table(found: Sequence[Best]) -> Tensor:
    """Rows, probabilities and classes as numbers, float64 [n, 1 + 2 top], which holds all of them exactly."""
    rows = [[best.row, *best.probabilities, *best.classes] for best in found]
    return torch.tensor(rows, dtype=torch.float64) if rows else torch.empty(0, 0, dtype=torch.float64)
