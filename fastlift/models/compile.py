"""``torch.compile`` over the frozen backbone: when it pays, and how partial batches stay out of it.

The whole backbone is one graph (``fullgraph``: a graph break is an error, not a slowdown), compiled for the sizes of full
batches. Batches of another size, such as the last one of an epoch, run eagerly: the same maths, and no recompilation. What
was compiled is kept in the cache folder and serves the next run.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

import fastlift_kernels as kernels
from fastlift.models.lift import LiftModel
from fastlift.settings import Settings
from fastlift.system.files import cache_folder

# Work whose savings earn the warm-up back on a CPU: for a ViT-B/16 it took 22 s, and saved 7 % of a step at 220 GFLOP/s
# (docs/results.md). On GPUs nothing could be measured; so many steps are an assumption.
CPU_TFLOP_TO_EARN = 100.0
GPU_STEPS_TO_EARN = 500
# Whole training steps are captured instead (fastlift.training.captured), of which the backbone is a part.
LONGEST = "max-autotune-no-cudagraphs"


@dataclass(frozen=True)
class CompilePlan:
    """``mode`` of torch.compile, or None for eager; and why."""

    mode: str | None
    reason: str


@dataclass(frozen=True)
class CompileSettings(Settings):
    """Whether the backbone is compiled."""

    compile: Literal["auto", "off", "default", "max"] = "auto"
    """torch.compile of the backbone. 'auto': when the run is long enough to earn the warm-up back; 'max' tunes longer, and
    on a GPU replays the whole training step as one CUDA graph."""

    @property
    def captures(self) -> bool:
        """Whether training steps are to be captured in a CUDA graph."""
        return self.compile == "max"

    def plan(self, device: torch.device, steps: int, step_tflop: float, sizes: int = 1) -> CompilePlan:
        """What the choice means for a run of ``steps`` steps of ``step_tflop`` TFLOP, with images of so many ``sizes``.

        Each size is a graph of its own, with a warm-up.
        """
        if self.compile != "auto":
            return CompilePlan({"off": None, "default": "default", "max": LONGEST}[self.compile], "asked for")
        if device.type == "cpu" and not has_cpp_compiler():
            return CompilePlan(None, "torch.compile needs a C++ compiler on CPUs, and there is none")
        needed = GPU_STEPS_TO_EARN * sizes
        if device.type != "cuda":
            needed = math.ceil(CPU_TFLOP_TO_EARN * sizes / max(step_tflop, 1e-9))
        warm_up = "the warm-up" if sizes == 1 else f"the warm-ups of {sizes} image sizes"
        if steps >= needed:
            return CompilePlan("default", f"{steps:,} steps earn {warm_up} back ({needed:,} would)")
        return CompilePlan(None, f"{steps:,} steps would not earn {warm_up} back ({needed:,} would)")


def has_cpp_compiler() -> bool:
    """Whether there is a compiler that torch.compile would call for CPU code."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def training_tflop(model: LiftModel, batch: int) -> float:
    """TFLOP of a step: forward, counted on one image, and as much again for the gradients of the tokens."""
    side, parameter = model.vit.image_size[0], next(model.parameters())
    image = torch.zeros(1, 3, side, side, device=parameter.device, dtype=model.vit.compute_dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.vit.forward(image)
    return 2 * batch * counter.get_total_flops() / 1e12


def compile_backbone(model: LiftModel, mode: str, sizes: Iterable[int], image_sizes: int = 1) -> None:
    """Compile ``model.vit`` in place for batches of the given sizes; the first of each kind takes the warm-up.

    A kind is a size of the batch and one of the images, of which there will be ``image_sizes``, in training or evaluation.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor" / kernels.code_digest()))
    model.vit.compile(fullgraph=True, dynamic=False, mode=mode)
    model.compiled_sizes = frozenset(sizes)
    kinds = 2 * len(model.compiled_sizes) * image_sizes
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, kinds)  # beyond it torch raises an error
