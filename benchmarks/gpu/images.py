"""A data set of drawn JPEGs of ImageNet's sizes with its list files, made once a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, Skip
from benchmarks.gpu.rows import Row
from fastlift.data.loading.loader import without_dali
from fastlift.system.machine import cpus

CLASSES = 8
TEST_SHARE = 8  # one of so many lines is a test image's


@dataclass(frozen=True)
class ImageSet:
    """Settings of ``--dataset list``."""

    data_root: Path
    train_list: Path
    test_list: Path
    class_names: Path

    def settings(self) -> dict[str, Any]:
        """By flag name."""
        return {name: getattr(self, name) for name in ("data_root", "train_list", "test_list", "class_names")}


def image_set(bench: Bench) -> ImageSet:
    """The run's images: drawn by the first part that asks; lists repeat them up to an epoch's length."""
    from fastlift.bench.data_images import draw_image

    root = bench.scratch / "images"
    found = ImageSet(root, root / "train.txt", root / "test.txt", root / "names.txt")
    if found.class_names.is_file():  # written last
        return found
    root.mkdir(exist_ok=True)
    sizes = bench.sizes
    files = [f"{index % CLASSES}/{index}.jpg" for index in range(sizes.files)]
    for label in range(CLASSES):
        (root / str(label)).mkdir(exist_ok=True)
    with ThreadPoolExecutor(cpus()) as pool:
        list(pool.map(lambda index: draw_image(root / files[index], index), range(sizes.files)))
    lines = [f"{files[i % sizes.files]} {i % sizes.files % CLASSES}" for i in range(sizes.images)]
    found.train_list.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found.test_list.write_text("\n".join(lines[: max(CLASSES, len(lines) // TEST_SHARE)]) + "\n", encoding="utf-8")
    found.class_names.write_text(
        "\n".join(f"{label} kind {label}" for label in range(CLASSES)) + "\n", encoding="utf-8"
    )
    return found


def with_each_backend(bench: Bench, needs_s: float, rows_of: Callable[[Bench, str], Iterator[Row]]) -> None:
    """Attempt ``rows_of(bench, backend)`` with each: DALI first, which is what ImageNet is trained with."""
    for backend in ("dali", "torchvision"):
        bench.attempt(backend, needs_s, partial(_rows, bench, backend, rows_of))


def _rows(bench: Bench, backend: str, rows_of: Callable[[Bench, str], Iterator[Row]]) -> Iterator[Row]:
    if backend == "dali" and (why := without_dali(bench.device)):
        raise Skip(why)
    yield from rows_of(bench, backend)
