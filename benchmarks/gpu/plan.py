"""The parts of a run: their order, time limits and files, and the folder that they write to.

No file of a run is in a folder, there are at most eight, and each is small: that is what can be carried away from a machine
that is lent for minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A part, which runs in a process of its own.

    Attributes:
        limit_s: seconds after which it is ended, at the most.
        least_s: seconds that earlier parts leave it, as far as the budget has them.
        file: its rows go to ``FILE.json``.
        about: what it finds out.
    """

    name: str
    limit_s: float
    least_s: float
    file: str
    about: str


PARTS = (
    Part("correctness", 180, 70, "correctness", "pytest -m gpu: every test that runs on a GPU, one row a test"),
    Part("ops", 120, 40, "ops", "each op against eager PyTorch and torch.compile, forward and both ways"),
    Part(
        "step",
        330,
        70,
        "step",
        "the training step: batches, compiled or not, fp8, activation checkpointing, ranks, host syncs",
    ),
    Part("attention", 120, 12, "ops", "attention, packed in and out: the library's backends against own kernels"),
    Part("mlp", 120, 10, "ops", "the frozen MLP: library products, inductor's and own ones, as a whole and one by one"),
    Part(
        "fp8", 60, 10, "ops", "quantisation in the pass that makes its input or after it; products in bf16 and in fp8"
    ),
    Part("evaluation", 60, 18, "evaluation", "images/s with one crop and with five, beside those of training"),
    Part(
        "data", 60, 20, "data", "training crops of drawn JPEGs of ImageNet's sizes, with each backend that is installed"
    ),
    Part("train", 90, 30, "train", "`fastlift train` from JPEG files to results.json"),
    Part("kernels", 60, 20, "kernels", "the longest kernels of a step, eager and compiled, from torch.profiler"),
    Part("widths", 90, 0, "step", "the training step of other backbones: ViT-L, DINOv2, DINOv3, SigLIP"),
)
NAMES = tuple(part.name for part in PARTS)
SUMMARY = "summary.json"
PROBE_LIMIT_S = 60.0  # for the process that asks the card for its name and rates
REHEARSAL_S = 600.0  # a rehearsal's budget where none is given


def part_named(name: str) -> Part:
    """The part called ``name``."""
    return next(part for part in PARTS if part.name == name)


def rows_file(folder: Path, part: Part) -> Path:
    """Where a part's rows go; two parts may share a file."""
    return folder / f"{part.file}.json"


def kept_files(folder: Path) -> list[Path]:
    """What a run has left in ``folder``."""
    names = [SUMMARY, *sorted({f"{part.file}.json" for part in PARTS})]
    return [folder / name for name in names if (folder / name).is_file()]
