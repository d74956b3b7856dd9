"""How much memory a run needs: at least, by its settings, before anything is made; and by one measured forward pass.

What does not fit is refused, since the kernel's way out is to kill the process without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fastlift.config import RunConfig, TrainingConfig
from fastlift.data.sampling.stream import largest_share
from fastlift.errors import UserError
from fastlift.evaluation.settings import CropBatchSettings
from fastlift.models.backbones import Outline, outline
from fastlift.models.create import ModelSettings
from fastlift.models.footprint import NUMBER, forward_bytes, kept_bytes, pixel_bytes
from fastlift.models.lift import LiftModel
from fastlift.models.resnet import ResNet
from fastlift.models.tuners import TunerSettings
from fastlift.models.tuners.base import has_tuner
from fastlift.models.tuners.prompts import PromptSettings
from fastlift.models.vit import VisionTransformer
from fastlift.settings import Settings
from fastlift.system.memory import GIB, check_room, free_memory, smaller_parts
from fastlift.training.averaging import AverageSettings
from fastlift.training.optimizers import OptimizerSettings

PROBE_IMAGES = 2
_OVERRULE = "; --memory ignore tries it"  # of the commands that train; others have no such flag


def saved_bytes(forward: Callable[[], Tensor], exclude: set[int]) -> int:
    """Bytes that a forward pass keeps for backward, each storage once, apart from ``exclude`` (weights' storages)."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in exclude:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(seen.values())


def storages(model: LiftModel) -> set[int]:
    """Where the model's weights lie: what refers to them costs nothing more."""
    return {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training needs beyond what is there already, at a micro-batch size, and bytes that are free.

    Attributes:
        trained: gradients, and what the optimiser keeps.
        activations_per_image: kept for backward.
        batch: images at a time.
        free: None where nobody knows.
        whole: images of a batch that micro-batches must divide; None: ``batch`` itself.
    """

    trained: int
    activations_per_image: int
    batch: int
    free: int | None
    whole: int | None = None

    @property
    def needed(self) -> int:
        return self.needed_at(self.batch)

    def needed_at(self, images: int) -> int:
        """Gradients and the optimiser's state, and activations with an eighth more for what is alive only within an op."""
        return self.trained + images * self.activations_per_image * 9 // 8

    @property
    def fits(self) -> bool | None:
        return None if self.free is None else self.needed <= self.free

    @property
    def fitting(self) -> int | None:
        """The largest micro-batch below ``batch`` that divides the batch and fits, where there is one."""
        free = self.free
        sizes = smaller_parts(self.whole or self.batch, self.batch)
        return next((size for size in sizes if free is not None and self.needed_at(size) <= free), None)

    def __str__(self) -> str:
        text = f"needs about {self.needed / GIB:.1f} GiB more at batch {self.batch}"
        if self.free is None:
            return text
        if self.fits:
            return f"{text}; fits ({self.free / GIB:.1f} GiB free)"
        micro_batch = f"--micro-batch {self.fitting} fits" if self.fitting else "not even a --micro-batch of 1 fits"
        return f"{text}, but {self.free / GIB:.1f} GiB are free: {micro_batch}, and --recompute mlp or block needs less"

    def check(self) -> None:
        """Refuse what does not fit, as far as anybody can tell."""
        if self.fits is False:
            raise UserError(f"training {self} (--memory ignore tries it anyway)")


def estimate(model: LiftModel, batch: int, whole: int | None = None, copies: int = 3) -> MemoryEstimate:
    """Measure one forward pass of two images and scale it to ``batch`` images; the model is left as it was.

    ``copies`` as ``copies_of`` gives them.
    """
    device, side = next(model.parameters()).device, model.preprocessing.image_size
    images = torch.zeros(PROBE_IMAGES, 3, side, side, device=device, dtype=model.vit.compute_dtype)
    kept = saved_bytes(lambda: model.vit.forward(images), storages(model))
    trained = (copies - 1) * NUMBER * sum(parameter.numel() for parameter in model.trained().values())
    return MemoryEstimate(trained, kept // PROBE_IMAGES, batch, free_memory(device), whole)


def copies_of(settings: Settings) -> int:
    """How many numbers a training holds for one that trains: itself, its gradient, the optimiser's state, its average."""
    return settings.part(OptimizerSettings).copies + settings.part(AverageSettings).more_copies


@dataclass(frozen=True)
class Work:
    """What a run does with images: how many train at once and are prepared at once, and how many are evaluated at once.

    ``copies`` as ``copies_of`` gives them; 1 without training.
    """

    micro_batch: int
    batch: int
    evaluated: int
    batch_size: int = 0  # of all processes; the others are of one
    copies: int = 1

    @classmethod
    def of(
        cls, training: TrainingConfig, crops: CropBatchSettings, train_images: int, test_images: int, processes: int = 1
    ) -> Work:
        """No batch is larger than its split."""
        most = largest_share(training.batch_size, processes, training.stay_together)
        batch = min(most, train_images) if training.epochs else 0
        evaluated = cls.of_evaluation(crops, test_images).evaluated
        copies = copies_of(training) if training.epochs else 1
        return cls(
            min(training.micro_batch or batch, batch),
            batch,
            evaluated,
            training.batch_size,
            copies,
        )

    @classmethod
    def of_evaluation(cls, crops: CropBatchSettings, images: int) -> Work:
        """Without training."""
        return cls(0, 0, min(crops.crops_at_a_time, images * crops.crops_per_image))


def check_memory(model: ModelSettings, run: RunConfig, classes: int, work: Work, device: torch.device) -> None:
    """Refuse settings that have no chance to fit, before the model is made; the message names the one that needs most.

    It is quick, and nothing large is allocated.
    """
    shape = outline(model.model, model.image_size)
    if shape is None or run.memory == "ignore":
        return
    values = model.values()
    needs = {"model" if model.image_size is None else "image_size": _weights(shape, run, device)}
    prompts, first = 0, shape.vit.depth
    if isinstance(shape.vit, VisionTransformer) and not set(model.tuner) <= {"none"}:
        settings = model.part(TunerSettings)
        context = settings.context(shape.vit, classes)
        sizes = settings.resolve(context).values()
        values |= sizes
        needs |= {name: work.copies * size for name, size in settings.trained_bytes(shape.vit, context).items()}
        prompts = sizes["prompt_length"] if has_tuner(PromptSettings, model.tuner) else 0
        first = min(context.layers)
    check_images(shape.vit, run, work, needs, values, device, prompts=prompts, first=first, hint=_OVERRULE)


def _weights(shape: Outline, run: RunConfig, device: torch.device) -> int:
    """Bytes of the frozen weights: as they are loaded, or on a GPU as they lie there, of the image tower alone.

    In fp8 they are kept twice, with a byte each.
    """
    if device.type == "cpu":
        return shape.weights
    is_wide = run.amp == "fp32" or isinstance(shape.vit, ResNet)  # whose weights stay as they are
    return (4 if is_wide else 2) * sum(parameter.numel() for parameter in shape.vit.parameters())


def check_images(
    vit: VisionTransformer | ResNet,
    run: RunConfig,
    work: Work,
    needs: dict[str, int],
    values: dict[str, Any],
    device: torch.device,
    *,
    prompts: int = 0,
    first: int = 0,
    hint: str = "",
) -> None:
    """Training and evaluation at their batch sizes, each with ``needs`` of other settings beside it.

    Args:
        values: of those settings, for the message.
        hint: what else may be done, for the message.

    Raises:
        UserError: one of them cannot fit.
    """
    pixels, itemsize = vit.image_size[0], 4 if run.amp == "fp32" else 2
    free, where = free_memory(device), "this machine" if device.type == "cpu" else f"the GPU ({device})"
    sizes = run.values() | values | {"batch_size": work.batch_size, "image_size": pixels}
    patches = 0 if isinstance(vit, ResNet) else vit.sequence_length
    of_one = "prompt_length" if prompts > patches else "image_size"

    def training(batch: int, micro_batch: int) -> int:
        kept = kept_bytes(vit, micro_batch, prompts, itemsize, first, run.recompute)
        return kept + pixel_bytes(pixels, batch)

    def evaluation(images: int) -> int:
        return forward_bytes(vit, images, prompts, itemsize) + pixel_bytes(pixels, images)

    one = max(training(min(work.batch, 1), min(work.micro_batch, 1)), evaluation(min(work.evaluated, 1)))
    check_room(needs | {of_one: needs.get(of_one, 0) + one}, sizes, free, hint, where)
    room = (free or 0) - sum(needs.values())
    parts = smaller_parts(work.batch_size, work.micro_batch)
    fitting = next((size for size in parts if training(work.batch, size) <= room), None)
    part = "" if fitting is None else f", or --micro-batch {fitting}, which may fit"
    check_room(needs | {"batch_size": training(work.batch, work.micro_batch)}, sizes, free, f"{part}{hint}", where)
    # All crops of an image go together.
    many = "tte_crops" if run.crops_per_image > run.eval_batch else "eval_batch"
    check_room(needs | {many: evaluation(work.evaluated)}, sizes, free, hint, where)
