"""Where memory runs out in the work itself: what was tried is freed, and told is which size to try."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from fastlift.errors import OutOfMemory, is_out_of_memory
from fastlift.models.lift import LiftModel
from fastlift.models.vit import VisionTransformer
from fastlift.system.memory import GIB, free_memory, smaller_parts

Result = TypeVar("Result")


def attempt(work: Callable[[], Result]) -> Result | None:
    """The result of ``work``; None where memory ran out. What it held is free again then: an error would keep its frames."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def in_training(
    model: LiftModel, batch: int, at_a_time: int, needed_at: Callable[[int], int] | None, step: int, can_cut: bool
) -> OutOfMemory:
    """The error for a training step.

    Args:
        batch, at_a_time: images of a batch, which a micro-batch must divide, and those that were in memory at once.
        needed_at: bytes of a step with so many images at a time, by an estimate; None where there is none.
        step: its number, from 1.
        can_cut: whether a run may go on with another micro-batch.
    """
    free = free_memory(next(model.parameters()).device)
    # The estimate has just been too low, if nobody else took the memory: at most half as many images then.
    sizes = [size for size in smaller_parts(batch, at_a_time) if 2 * size <= at_a_time]
    fitting = (size for size in sizes if needed_at is None or free is None or needed_at(size) <= free)
    size = next(fitting, sizes[-1] if sizes else None)
    advice = ["--recompute mlp or block"] if isinstance(model.vit, VisionTransformer) else []
    if size is not None:
        advice.insert(0 if can_cut else len(advice), f"--micro-batch {size}{'' if can_cut else ' in a new run'}")
    return OutOfMemory(
        f"out of memory in step {step} with {at_a_time} images at a time{_room(model)}: "
        f"try {', or '.join(advice) or 'a smaller model'}"
    )


def without_gradients(
    work: Callable[[], Result], model: LiftModel, crops: int, per_image: int = 1, what: str = "evaluation"
) -> Result:
    """The result of ``work``, which is not None, on a batch of ``crops``, of which those of an image go together.

    Raises:
        OutOfMemory: memory ran out.
    """
    found = attempt(work)
    if found is not None:
        return found
    smaller = crops // per_image // 2 * per_image
    fewer = "fewer crops with --tte" if per_image > 1 else "--device cpu, or a smaller model"
    raise OutOfMemory(
        f"out of memory in {what} with {crops} crops at a time{_room(model)}: "
        f"try {f'--eval-batch {smaller}' if smaller else fewer}"
    )


def _room(model: LiftModel) -> str:
    """What is free, now that the work has let go."""
    device = next(model.parameters()).device
    free = free_memory(device)
    where = f" on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return "" if free is None else f", {free / GIB:.1f} GiB free for them{where}"
