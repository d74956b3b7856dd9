"""``torch.compile`` over the frozen backbone: when it pays, and how partial batches stay out of it.

The whole backbone is one graph (``fullgraph``: a graph break is an error, not a slowdown), compiled for the sizes of full
batches. Batches of another size, such as the last one of an epoch, run eagerly: the same maths, and no recompilation. What
was compiled is kept in the cache folder and serves the next run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from fastlift.files import cache_folder
from fastlift.models.lift import LiftModel

CompileChoice = Literal["auto", "off", "default", "max"]
# Steps that earn the warm-up back; see docs/results.md for what they were measured with.
STEPS_TO_EARN = {"cuda": 500, "cpu": 3000}


@dataclass(frozen=True)
class CompilePlan:
    """``mode`` of torch.compile, or None for eager; and why."""

    mode: str | None
    reason: str


def plan_compile(choice: CompileChoice, device: torch.device, steps: int) -> CompilePlan:
    """What a choice means for a run of so many steps."""
    if choice == "off":
        return CompilePlan(None, "asked for")
    if choice != "auto":
        # on GPUs, max-autotune records CUDA graphs too
        return CompilePlan("default" if choice == "default" else "max-autotune", "asked for")
    needed = STEPS_TO_EARN[device.type]
    if steps >= needed:
        return CompilePlan("default", f"{steps:,} steps earn the warm-up back ({needed:,} would)")
    return CompilePlan(None, f"{steps:,} steps would not earn the warm-up back ({needed:,} would)")


def compile_backbone(model: LiftModel, mode: str, sizes: Iterable[int]) -> None:
    """Compile ``model.vit`` in place for batches of the given sizes; the first of each kind takes the warm-up."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    model.vit.compile(fullgraph=True, dynamic=False, mode=mode)
    model.compiled_sizes = frozenset(sizes)
