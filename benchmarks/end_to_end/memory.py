"""Memory of a training step, tensor by tensor: what is alive at its peak, and how much of it grows with the images.

Tensors are fake: they have shapes and sizes, but no numbers, so a step of any batch takes seconds.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastlift.models.create import create_model
from fastlift.models.lift import LiftModel
from fastlift.models.vit import ActivationCheckpointingSettings
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

SIZES = (64, 512)  # images of a step; the slope between them is what an image takes


class Peak(TorchDispatchMode):
    """Follows the memory of all tensors that ops make meanwhile; scratch memory inside an op is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        results = op(*args, **(kwargs or {}))
        for x in tree_leaves(results):
            if isinstance(x, Tensor):
                self._follow(x.untyped_storage(), before)
        return results

    def _follow(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in before or key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def of_a_step(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Bytes alive at the peak of steps of ``SIZES`` images beside weights, momentum and the batch, for each recomputation."""
    names = [f"class {i}" for i in range(1000)]
    model = create_model(name, class_names=names, rank=32, pretrained="random", init="random")
    model.set_compute_dtype(dtype)
    found: dict[str, Any] = {"images": SIZES}
    for recompute in ("none", "mlp", "block"):
        ActivationCheckpointingSettings(recompute).build(model.vit)
        peaks = [_peak(model, images, dtype) for images in SIZES]
        found[recompute] = {"peak_bytes": peaks, "an_image": (peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0])}
    return found


def _peak(model: LiftModel, images: int, dtype: torch.dtype) -> int:
    learner = Learner(model, losses.build("LA", torch.arange(1000, 0, -1)), OptimizerSettings(lr=0.01))
    side = model.preprocessing.image_size
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = torch.empty(images, 3, side, side, dtype=dtype), torch.zeros(images, dtype=torch.int64)
        with Peak() as peak:
            learner.step(*batch)
        learner.optimizer.zero_grad(set_to_none=True)
    return peak.most
