"""How much memory training needs, from one measured forward pass, told before it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fastlift.models.lift import LiftModel

PROBE_IMAGES = 2


def saved_bytes(forward: Callable[[], Tensor], exclude: set[int]) -> int:
    """Bytes that a forward pass keeps for backward, each storage once, apart from ``exclude`` (weights' storages)."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in exclude:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = sum(seen.values())
    del output
    return total


def storages(model: LiftModel) -> set[int]:
    """Where the model's weights lie: what refers to them costs nothing more."""
    return {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training needs at a micro-batch size, and bytes that are free."""

    weights: int
    activations_per_image: int
    batch: int
    free: int | None

    @property
    def needed(self) -> int:
        """Weights, and activations with an eighth more for what is alive only within an op."""
        return self.weights + self.batch * self.activations_per_image * 9 // 8

    @property
    def fits(self) -> bool | None:
        return None if self.free is None else self.needed <= self.free

    def __str__(self) -> str:
        text = f"needs about {self.needed / 2**30:.1f} GiB at batch {self.batch}"
        if self.free is None:
            return text
        if self.fits:
            return f"{text}; fits ({self.free / 2**30:.1f} GiB free)"
        return (
            f"{text}, but {self.free / 2**30:.1f} GiB are free: "
            "a --micro-batch that divides the batch, or --recompute mlp or block, needs less"
        )


def estimate(model: LiftModel, batch: int) -> MemoryEstimate:
    """Measure one forward pass of two images and scale it to ``batch`` images; the model is left as it was."""
    parameters = list(model.parameters())
    device, side = parameters[0].device, model.preprocessing.image_size
    images = torch.zeros(PROBE_IMAGES, 3, side, side, device=device, dtype=model.vit.compute_dtype)
    kept = saved_bytes(lambda: model.vit.forward(images), storages(model))
    trained = sum(parameter.numel() * 4 for parameter in model.trained().values())
    weights = sum(tensor.numel() * tensor.element_size() for tensor in parameters) + 2 * trained  # gradients, momentum
    return MemoryEstimate(weights, kept // PROBE_IMAGES, batch, free_bytes(device))


def free_bytes(device: torch.device) -> int | None:
    """Memory that could be used now, on the device or in the machine; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
