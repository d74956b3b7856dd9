"""The embedded data set ``shapes_lt``: 64 kinds of drawn images, long-tailed, written once to a cache.

It takes 64 of the kinds of ``shapes.py`` and shows them in another light and in harder scenes than the shipped CLIP learned
from, so that there is something to learn.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.list_files import load_lists, read_class_names
from fastlift.data.datasets.long_tail import DRAWN, TailSettings, head_tail_counts, refusal
from fastlift.data.datasets.shapes import KIND_NAMES, Scene, draw, kind_name
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError

VERSION = 3  # of the images and lists: part of the folder's name, so that a change of the program makes a new set
SEED = 2026
TEST_PER_CLASS = 24
NUM_CLASSES = 64
SCENE = Scene(strength=(0.5, 1.1), light=(0.86, 0.57, 0.38))  # crowded, noisy and at dusk
_USUAL = TailSettings()
# Classes near each other: fewer colours, which dusk brings closer, and fewer shapes, so that classes share their parts.
_NEAR_COLOURS = ("red", "orange", "pink", "brown", "purple")
_NEAR_SHAPES = ("circle", "square", "triangle", "star", "heart", "drop", "flower", "gear")


def _choose_kinds() -> tuple[int, ...]:
    """The kinds of ``shapes_lt``, in label order: a seeded draw from the near ones."""
    names = (name.split() for name in KIND_NAMES)
    near = [k for k, (_, colour, shape) in enumerate(names) if colour in _NEAR_COLOURS and shape in _NEAR_SHAPES]
    order = np.argsort(np.random.Philox(key=[SEED, 0]).random_raw(len(near)))
    return tuple(near[i] for i in order[:NUM_CLASSES])


def class_counts(tail: TailSettings = _USUAL) -> tuple[int, ...]:
    """Training images of each class, in label order, which does not tell a class's size.

    Without a head of its own size they fall from the largest to the smallest class in equal ratios. Raises UserError where
    no classes can have such numbers.
    """
    largest, ratio = tail.largest_class, tail.imbalance_ratio
    if tail.head_share is not None:
        falling = head_tail_counts(NUM_CLASSES, largest, ratio, tail.head_share).tolist()
    elif why := refusal(largest, ratio, None):
        raise UserError(why)
    else:
        falling = [int(largest * (1 / ratio) ** (rank / (NUM_CLASSES - 1)) + 1e-9) for rank in range(NUM_CLASSES)]
    ranks = np.argsort(np.random.Philox(key=[SEED, 1]).random_raw(NUM_CLASSES))
    return tuple(falling[rank] for rank in ranks)


SHAPES_KINDS = _choose_kinds()
SHAPES_CLASS_NAMES = tuple(kind_name(kind) for kind in SHAPES_KINDS)


def draw_image(split: str, label: int, number: int) -> NDArray[np.uint8]:
    """Image ``number`` of a class of ``shapes_lt``, as RGB bytes [S, S, 3]; ``split`` is "train" or "test"."""
    return draw(SEED, split, SHAPES_KINDS[label], number, SCENE)


class ShapesLT(Source):
    """Drawn where it is not there yet; a data root may hold a copy of it."""

    name = DRAWN
    takes_urls = False
    last_step = "images drawn, index"

    def counts(self, tail: TailSettings) -> np.ndarray:
        return np.array(class_counts(tail))

    def load(self, request: Request) -> DataSet:
        try:
            root = request.local_root or prepare(request.cache_dir, request.tail)
        except OSError as error:
            raise UserError(
                f"the images of {self.name} cannot be written to {request.cache_dir}: {error}. "
                "Name another folder in the environment variable FASTLIFT_CACHE",
                exit_code=1,
            ) from error
        train, test, names = files = [root / name for name in ("train.txt", "test.txt", "class_names.txt")]
        if missing := [file.name for file in files if not file.is_file()]:
            raise UserError(
                f"{root} does not hold {self.name}: {missing[0]} is not there. To train on other images name their data set "
                f"too (--dataset folder, --dataset list ...); {self.name} itself needs no --data-root"
            )
        request = replace(request, data_root=root)
        lists = {"train": train, "test": test}
        return load_lists(request, lists, read_class_names(train, names), Problems(request.name))


def prepare(cache_dir: Path, tail: TailSettings = _USUAL, *, progress: Progress | None = None) -> Path:
    """Writes ``shapes_lt`` under ``cache_dir`` unless it is there, and returns its folder, one for each ``tail``.

    Image n of a class is the same in all of them, so sets with other numbers of images share those that both have, and all
    have the same test split.

    The folder holds ``train.txt`` and ``test.txt`` (lines of ``relative/path label``), ``class_names.txt`` (lines of
    ``folder name``, in label order) and the JPEG files. It is made under another name and renamed when it is whole, so
    neither a second process nor a kill in the middle leaves a half-made set.

    ``progress`` is called with (what, images written, images in all); without it a bar is shown on a terminal.
    Raises ``OSError`` where the cache cannot be written, UserError where no classes can have such numbers of images.
    """
    folder = cache_dir / f"shapes_lt_v{VERSION}{tail.name()}"
    counts = class_counts(tail)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with _bar() if progress is None else nullcontext(progress) as report:
            _write(draft, counts, report)
        os.sync()  # so that a power cut cannot leave a whole folder of empty files
        draft.chmod(0o755)  # mkdtemp makes private folders; a cache may be shared
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, and its images are the same
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _sweep(folder: Path) -> None:
    """Removes what killed processes left behind; younger drafts may belong to a process that is still drawing."""
    for draft in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - draft.stat().st_mtime > 3600:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _write(folder: Path, class_counts: tuple[int, ...], report: Progress) -> None:
    from PIL import Image

    numbers = {"train": class_counts, "test": (TEST_PER_CLASS,) * NUM_CLASSES}
    done, total = 0, sum(map(sum, numbers.values()))
    folders = [name.replace(" ", "_") for name in SHAPES_CLASS_NAMES]
    for split, counts in numbers.items():
        lines = []
        for label, count in enumerate(counts):
            (folder / split / folders[label]).mkdir(parents=True)
            for number in range(count):
                path = f"{split}/{folders[label]}/{number:04}.jpg"
                image = Image.fromarray(draw_image(split, label, number))
                image.save(folder / path, quality=92, subsampling=0)  # full colour: the images are small
                lines.append(f"{path} {label}\n")
                done += 1
                report("drawing shapes_lt (once)", done, total)
        (folder / f"{split}.txt").write_text("".join(lines))
    names = [f"{folder_name} {name}\n" for folder_name, name in zip(folders, SHAPES_CLASS_NAMES, strict=True)]
    (folder / "class_names.txt").write_text("".join(names))


SHAPES_LT = ShapesLT()
