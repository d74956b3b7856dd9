"""Evaluation: a model and a split -> metrics, with test-time ensembling by several crops of each image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastlift.data.datasets.dataset import Rank
from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.errors import UserError
from fastlift.evaluation.accumulator import ClassificationAccumulator
from fastlift.evaluation.metrics import Metrics
from fastlift.evaluation.per_image import PerImage, PerImageRecorder
from fastlift.evaluation.resampling import Answers, intervals
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.models.lift import LiftModel
from fastlift.models.out_of_memory import without_gradients
from fastlift.training.distributed import World, total
from fastlift.training.inputs import model_loader


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one evaluation, how long it took in seconds, and what the model said of each image."""

    metrics: Metrics
    seconds: float
    per_image: PerImage | None = None  # on the first process, where it was asked for


def mean_logits(model: LiftModel, images: Tensor) -> Tensor:
    """Logits [B, C] of images [B, 3, S, S], or the mean over the crops of [B, V, 3, S, S]."""
    if images.dim() == 4:
        return model(images)
    return model(images.flatten(0, 1)).unflatten(0, images.shape[:2]).mean(dim=1)


class Groups:
    """Groups of classes: ``of_class`` int64 [C] is the group of each, of ``groups`` G in all."""

    def __init__(self, of_class: np.ndarray, groups: int, device: torch.device) -> None:
        self.of_class = torch.from_numpy(of_class).to(device)
        zeros = torch.zeros(len(of_class), groups, device=device)
        self.members = zeros.scatter_(1, self.of_class[:, None], 1.0)  # [C, G], 1 where a class is in a group

    def logits(self, logits: Tensor) -> Tensor:
        """Log-probabilities [B, G] from logits [B, C]."""
        # An indexed sum on a GPU would add in the order in which threads come by; a product's is the same every time.
        sums = logits.float().softmax(dim=1) @ self.members
        return sums.clamp_min(torch.finfo(sums.dtype).tiny).log()


def rank_counts(class_counts: np.ndarray, rank: Rank | None) -> np.ndarray:
    """Training images of each class, int64 [C], or of each group of them, int64 [G]."""
    if rank is None:
        return class_counts
    return np.bincount(rank.of_class, weights=class_counts, minlength=len(rank.names)).astype(np.int64)


def add_batch(
    accumulator: ClassificationAccumulator,
    recorder: PerImageRecorder | None,
    model: LiftModel,
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    groups: Groups | None,
) -> ClassificationAccumulator:
    """Count a batch, of classes or of groups of them, and keep what is said of its images where that is recorded."""
    logits = mean_logits(model, images)
    if groups is not None:
        logits, labels = groups.logits(logits), groups.of_class[labels]
    accumulator.update(logits, labels)
    if recorder is not None:
        recorder.add(indices, logits, labels)
    return accumulator


@torch.inference_mode()
def evaluate(
    model: LiftModel,
    index: ImageIndex,
    group_counts: Sequence[int],
    settings: EvaluationSettings,
    *,
    rank: Rank | None = None,
    per_image: bool = False,
    world: World | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_bad: Callable[[BadImage], None] | None = None,
) -> Evaluation:
    """Accuracy and its companions on one split.

    Args:
        model: on its device.
        index: the split.
        group_counts: training images of each class, which define many, medium and few.
        settings: crops of each image, whose logits are averaged, how many go through the model at once, the boundaries of
            the groups, and the loader's.
        rank: evaluate groups of the classes instead; a group's probability is the sum of its classes'.
        per_image: give what the model says of each image too, on the first process, and with it the intervals of macro F1,
            calibration error and log loss.
        world: processes that share the work; all get the same metrics.
        on_progress: called with (images done, images in all), as if each process were as far as this one.
        on_bad: called with each image that is replaced, from any thread.

    Raises:
        OutOfMemory: a batch is too large for it.
        UserError: logits that are all NaN or infinite. Where some are, the metrics say how many (``non_finite``).
    """
    world = world or World()
    device = next(model.parameters()).device
    replaced = {bad.index for bad in index.bad}

    def note(bad: BadImage) -> None:
        replaced.add(bad.index)
        if on_bad is not None:
            on_bad(bad)

    loader = model_loader(
        model,
        index,
        settings.build(model.preprocessing),
        settings.images_at_a_time,
        settings.part(LoaderSettings),
        settings.part(BadImageSettings),
        shuffle=False,
        seed=settings.seed,
        world=world,
        on_bad=note,
    )
    classes = len(model.class_names) if rank is None else len(rank.names)
    groups = None if rank is None else Groups(rank.of_class, classes, device)
    group_counts = rank_counts(np.asarray(group_counts, dtype=np.int64), rank).tolist()
    accumulator = ClassificationAccumulator(classes, device)
    recorder = PerImageRecorder(len(index)) if per_image else None
    start, done = time.perf_counter(), 0
    try:
        for images, labels, indices in loader.epoch(0):
            add = partial(add_batch, accumulator, recorder, model, images, labels, indices, groups)
            without_gradients(add, model, len(labels) * settings.crops_per_image, settings.crops_per_image)
            done += len(labels)
            if on_progress is not None:
                on_progress(min(done * world.size, len(index)), len(index))
    finally:
        loader.close()
    total(accumulator.state(), world)  # in place
    metrics = accumulator.compute(group_counts, settings.group_boundaries)
    if metrics.non_finite == metrics.samples:
        raise UserError(
            f"the model gives NaN or infinity for all {metrics.samples:,} images in {model.vit.compute_dtype}, so there is "
            "nothing to evaluate: its weights are not finite, or overflow in that dtype (--amp fp32 does not)",
            exit_code=1,
        )
    found = None
    if recorder is not None:
        own_labels = index.labels if rank is None else rank.of_class[index.labels]
        found = recorder.of_all(world, device, own_labels, replaced)
    seconds = time.perf_counter() - start
    if found is not None and found.every == 1 and len(found):
        answers = Answers(found.labels, found.predicted, found.confidence, found.label_probability)
        metrics = replace(metrics, intervals=metrics.intervals | intervals(answers, classes, metrics))
    return Evaluation(metrics, seconds, found)
