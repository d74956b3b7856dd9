"""``fastlift bench data``: images/s, CPU time and memory of ways to feed training crops on a CPU, and where the time goes.

Each way runs in a process of its own that is started once; rounds alternate between the ways, so that a busy machine
slows all of them alike. Ratios of the medians say more than the numbers.
"""

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastlift.bench.data_images import files_to_read
from fastlift.bench.data_rounds import Row, alternate
from fastlift.bench.data_ways import BATCH, WAYS, missing, stages_ms
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.index import ImageIndex
from fastlift.data.sampling.crops import Interpolation, TrainCrops
from fastlift.errors import UserError
from fastlift.system.device import installed
from fastlift.system.machine import cpus, processor_name


@dataclass(frozen=True)
class BenchResult:
    """What ``run`` measured."""

    rows: tuple[Row, ...]
    stages_ms: dict[str, float]  # CPU ms an image of one thread: read, decode, resize, normalise
    bottleneck: str  # the stage with the largest share
    images: int  # a round
    image_size: int
    interpolation: Interpolation
    source: str
    machine: dict[str, Any]
    skipped: dict[str, str]  # ways that cannot run here, and why

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> Any:
        """A rich renderable: the ways as a table, the stages in a line."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"training crops of {self.image_size} px, {self.interpolation}: {self.source}")
        for column in ("way", "workers", "images/s", "CPU ms/image", "peak MiB"):
            table.add_column(column, justify="left" if column == "way" else "right")
        for row in self.rows:
            numbers = (f"{row.images_per_s:,.0f}", f"{row.cpu_ms_per_image:.2f}", f"{row.peak_mib:,.0f}")
            table.add_row(row.way, str(row.workers), *numbers)
        stages = ", ".join(f"{stage} {ms:.2f}" for stage, ms in self.stages_ms.items())
        lines = [f"CPU ms an image by stage (one thread): {stages}. Bottleneck: {self.bottleneck}."]
        lines += [f"{way}: left out, {why}" for way, why in self.skipped.items()]
        return Group(table, Text("\n".join(lines)))


def run(
    index: ImageIndex | None = None,
    *,
    image_size: int = 224,
    interpolation: Interpolation = "bilinear",
    images: int = 512,
    rounds: int = 5,
    workers: Sequence[int] = (),
    ways: Sequence[str] = tuple(WAYS),
    progress: Progress | None = None,
) -> BenchResult:
    """Measure ways to make training crops (random resized crop, flip, normalise).

    Args:
        index: images to use, from the start of the index; None draws JPEGs of ImageNet's sizes.
        interpolation: of all ways.
        images: a round, rounded up to whole batches of 64; images repeat where there are fewer.
        rounds: timed ones, after one to warm up.
        workers: threads or processes to try; default: the cores of this machine.

    Raises:
        UserError: nothing to measure.
    """
    if index is not None and (index.arrays is not None or len(index) == 0):
        raise UserError(f"{index.name} has no files to decode: nothing to measure")
    if unknown := sorted(set(ways) - WAYS.keys()):
        raise UserError(f"unknown ways to measure: {', '.join(unknown)}; known: {', '.join(WAYS)}")
    workers, crops = list(workers) or [cpus()], TrainCrops(image_size, interpolation=interpolation)
    for what, number in (("images", images), ("rounds", rounds), ("workers", min(workers))):
        if number < 1:
            raise UserError(f"{what}: at least 1, got {number}")
    with tempfile.TemporaryDirectory(prefix="fastlift-bench-") as folder:
        files, source = files_to_read(index, images, Path(folder), progress)
        whole = [files[i % len(files)] for i in range(-(-images // BATCH) * BATCH)]
        skipped = {way: why for way in ways if (why := missing(way))}
        combinations = [(way, count) for way in ways if way not in skipped for count in workers]
        rows = alternate(combinations, whole, crops, rounds, progress)
        stages = stages_ms(files[:128], crops)
    bottleneck = max(stages, key=lambda stage: stages[stage])
    return BenchResult(
        tuple(rows), stages, bottleneck, len(whole), image_size, interpolation, source, machine(), skipped
    )


def machine() -> dict[str, Any]:
    """What the figures are of: cores, processor, system, load and versions."""
    packages = ("torch", "torchvision", "pillow", "simplejpeg", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy")
    return {
        "cores": cpus(),
        "processor": processor_name(),
        "system": platform.platform(),
        "load_average": os.getloadavg()[0],
        "versions": {package: number for package in packages if (number := installed(package)) is not None},
    }
