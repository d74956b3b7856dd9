"""The logits of a split's images, batch by batch: for what is computed from them afterwards, not on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.evaluation.evaluate import mean_logits
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.models.lift import LiftModel
from fastlift.models.out_of_memory import without_gradients
from fastlift.training.inputs import model_loader


def split_logits(
    model: LiftModel,
    index: ImageIndex,
    settings: EvaluationSettings,
    *,
    on_progress: Callable[[int], None] | None = None,
    on_bad: Callable[[BadImage], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits fp32 [B, C], labels int64 [B]) of an index's images in its order, on the CPU.

    Images that another one was shown in place of are left out: what the model says of that one is counted already.

    Args:
        model: on its device.
        settings: crops of each image, whose logits are averaged, how many go through the model at once, and the loader's.
        on_progress: called with the images done.
        on_bad: called with each image that is replaced, from any thread.

    Raises:
        OutOfMemory: a batch is too large for it.
    """
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
        on_bad=note,
        once=True,
    )
    crops, done = settings.crops_per_image, 0

    @torch.inference_mode()
    def said(images: Tensor) -> Tensor:
        return mean_logits(model, images).float().cpu()

    try:
        for images, labels, indices in loader.epoch(0):
            logits = without_gradients(partial(said, images), model, len(labels) * crops, crops)
            own = torch.tensor([row not in replaced for row in indices.tolist()])
            done += len(labels)
            if on_progress is not None:
                on_progress(done)
            yield logits[own], labels.cpu()[own]
    finally:
        loader.close()
