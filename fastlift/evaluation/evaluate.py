"""Evaluation: a model and a split -> metrics, with test-time ensembling by several crops of each image."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastlift.config import Config
from fastlift.data.datasets.inaturalist import Rank
from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.loading.loader import build_loader
from fastlift.data.sampling.crops import EvalViews
from fastlift.errors import UserError
from fastlift.evaluation.metrics import ClassificationTally, Metrics
from fastlift.models.lift import LiftModel, Preprocessing
from fastlift.models.out_of_memory import attempt, in_evaluation
from fastlift.training.distributed import World, total

Ensembling = Literal["none", "fivecrop", "tencrop", "random"]
_CROPS: dict[str, Literal["center", "five", "ten", "random"]] = {
    "none": "center",
    "fivecrop": "five",
    "tencrop": "ten",
    "random": "random",
}
PAPER_SIZE, PAPER_EXPAND = 224, 24


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of one evaluation, and how long it took in seconds."""

    metrics: Metrics
    seconds: float


def default_expand(image_size: int) -> int:
    """Pixels added to the short side before five crops: the paper's 24, less in proportion for models below 224 pixels."""
    return min(PAPER_EXPAND, round(PAPER_EXPAND * image_size / PAPER_SIZE))


def eval_views(
    preprocessing: Preprocessing, ensembling: Ensembling, expand: int | None = None, crops: int = 10
) -> EvalViews:
    """The crops that an ensembling mode looks at, for a model; ``crops`` is how many ``random`` takes."""
    size = preprocessing.image_size
    return EvalViews(
        size,
        crops=_CROPS[ensembling],
        expand=default_expand(size) if expand is None else expand,
        n_random=crops,
        interpolation=preprocessing.interpolation,
    )


def ensembling_name(config: Config) -> str:
    """What results call a config's way of testing: "center", "fivecrop", "fivecrop+40" (its own expand), "random-10"."""
    run = config.run
    if run.tte == "none":
        return "center"
    if run.tte == "random":
        return f"random-{run.tte_crops}"
    return run.tte if run.expand is None else f"{run.tte}+{run.expand}"


def crops_of(config: Config) -> int:
    """Crops of each image that a config's evaluation looks at."""
    return EvalViews(PAPER_SIZE, crops=_CROPS[config.run.tte], n_random=config.run.tte_crops).views


def images_at_a_time(config: Config) -> int:
    """Crops in a full batch of evaluation: the model sees so many images at once, whatever the ensembling."""
    crops = crops_of(config)
    return max(1, config.run.eval_batch // crops) * crops


def mean_logits(model: LiftModel, images: Tensor) -> Tensor:
    """Logits [B, C] of images [B, 3, S, S], or the mean over the crops of [B, V, 3, S, S]."""
    if images.dim() == 4:
        return model(images)
    return model(images.flatten(0, 1)).unflatten(0, images.shape[:2]).mean(dim=1)


@dataclasses.dataclass(frozen=True)
class Groups:
    """Groups of classes: ``of_class`` [C] is the group of each, ``members`` [C, G] has a 1 where a class is in a group."""

    of_class: Tensor
    members: Tensor

    @classmethod
    def of(cls, of_class: np.ndarray, groups: int, device: torch.device) -> Groups:
        numbers = torch.from_numpy(of_class).to(device)
        return cls(numbers, torch.zeros(len(numbers), groups, device=device).scatter_(1, numbers[:, None], 1.0))

    def logits(self, logits: Tensor) -> Tensor:
        """Log-probabilities [B, G] from logits [B, C].

        By a product, whose sums have the same order every time; an indexed sum on a GPU adds in the order in which threads
        come by.
        """
        sums = logits.float().softmax(dim=1) @ self.members
        return sums.clamp_min(torch.finfo(sums.dtype).tiny).log()


def _count(
    tally: ClassificationTally, model: LiftModel, images: Tensor, labels: Tensor, groups: Groups | None
) -> ClassificationTally:
    """Add a batch to a tally: of classes, or of groups of them."""
    logits = mean_logits(model, images)
    if groups is None:
        tally.update(logits, labels)
    else:
        tally.update(groups.logits(logits), groups.of_class[labels])
    return tally


@torch.inference_mode()
def evaluate(
    model: LiftModel,
    index: ImageIndex,
    group_counts: Sequence[int],
    config: Config,
    *,
    ensembling: Ensembling | None = None,
    rank: Rank | None = None,
    world: World | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_bad: Callable[[BadImage], None] | None = None,
) -> Evaluation:
    """Accuracy and its companions on one split.

    Args:
        model: on its device.
        index: the split.
        group_counts: training images of each class, which define many, medium and few at the config's boundaries.
        config: for the loader's settings and, unless given, the ensembling.
        ensembling: mean logits over one, five, ten or several random crops.
        rank: grade groups of the classes instead; a group's probability is the sum of its classes'.
        world: processes that share the work; all get the same metrics.
        on_progress: called with (images done, images in all), as if each process were as far as this one.

    Raises:
        OutOfMemory: a batch is too large for it.
        UserError: logits that are all NaN or infinite. Where some are, the metrics say how many (``non_finite``).
    """
    world = world or World()
    device = next(model.parameters()).device
    run = config.run
    views = eval_views(model.preprocessing, ensembling or run.tte, run.expand, run.tte_crops)
    loader = build_loader(
        index,
        views,
        batch_size=max(1, config.run.eval_batch // views.views),
        shuffle=False,
        mean=model.preprocessing.mean,
        std=model.preprocessing.std,
        dtype=model.vit.compute_dtype,
        device=device,
        rank=world.rank,
        world_size=world.size,
        seed=config.run.seed,
        executor=config.data.executor,
        workers=config.data.workers,
        bad_images=config.data.bad_images,
        on_bad=on_bad,
    )
    classes = len(model.class_names) if rank is None else len(rank.names)
    groups = None if rank is None else Groups.of(rank.of_class, classes, device)
    if rank is not None:
        group_counts = np.bincount(rank.of_class, weights=group_counts, minlength=classes).astype(np.int64).tolist()
    tally = ClassificationTally(classes, device)
    start, done = time.perf_counter(), 0
    try:
        for images, labels, _ in loader.epoch(0):
            if attempt(partial(_count, tally, model, images, labels, groups)) is None:
                raise in_evaluation(model, len(labels) * views.views, views.views)
            done += len(labels)
            if on_progress is not None:
                on_progress(min(done * world.size, len(index)), len(index))
    finally:
        loader.close()
    if world.size > 1:
        merged = ClassificationTally(classes, device)
        merged.merge(total({name: tensor.clone() for name, tensor in tally.state().items()}, world))
        tally = merged
    metrics = tally.compute(list(group_counts), config.data.group_boundaries)
    if metrics.non_finite == metrics.samples:
        raise UserError(
            f"the model gives NaN or infinity for all {metrics.samples:,} images in {model.vit.compute_dtype}, so there is "
            "nothing to grade: its weights are not finite, or overflow in that dtype (--amp fp32 does not)",
            exit_code=1,
        )
    return Evaluation(metrics, time.perf_counter() - start)
