"""``fastlift bench data``: images/s, CPU time and memory of ways to feed training views, and where the time goes.

Each way runs in a process of its own that is started once; rounds alternate between the ways, so that a busy machine
slows all of them alike. Ratios of the medians say more than the numbers.
"""

import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.index.index import ImageIndex
from fastlift.data.index.jpeg import plain_parts
from fastlift.data.index.scan import Progress
from fastlift.data.loading.decode import decode
from fastlift.data.loading.reading import DecodeError, read_encoded
from fastlift.data.sampling.crops import Interpolation, TrainViews
from fastlift.errors import UserError
from fastlift.system.machine import cpus, processor_name

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BATCH = 64
# Common sizes among ImageNet's pictures, by about their share: 212,000 pixels on average (100 real ones: 219,000).
_IMAGENET_SIZES = (
    [(500, 375)] * 10 + [(375, 500)] * 3 + [(500, 333)] * 3 + [(333, 500), (640, 480), (1024, 768), (250, 188)]
)

WAYS = ("torchvision-pil", "torchvision-io", "fastlift-torchvision", "fastlift-dali")


@dataclass(frozen=True)
class Row:
    """One way with one number of workers; medians over the rounds."""

    way: str
    workers: int
    images_per_s: float
    cpu_ms_per_image: float  # of all processes of the way
    peak_mib: float  # of the process and its workers together, what they share counted once; 0 where unknown
    rounds_images_per_s: tuple[float, ...]


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
        """For JSON."""
        return asdict(self)

    def render(self) -> Any:
        """A rich renderable: the ways as a table, the stages in a line."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"training views of {self.image_size} px, {self.interpolation}: {self.source}")
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
    ways: Sequence[str] = WAYS,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure ways to make training views (random resized crop, flip, normalise).

    Args:
        index: pictures to use, from the start of the index; None draws JPEGs of ImageNet's sizes.
        interpolation: of all ways.
        images: a round, rounded up to whole batches of 64; pictures repeat where there are fewer.
        rounds: timed ones, after one to warm up.
        workers: threads or processes to try; default: the cores of this machine.

    Raises:
        UserError: nothing to measure.
    """
    if index is not None and (index.arrays is not None or len(index) == 0):
        raise UserError(f"{index.name} has no files to decode: nothing to measure")
    if unknown := sorted(set(ways) - set(WAYS)):
        raise UserError(f"unknown ways to measure: {', '.join(unknown)}; known: {', '.join(WAYS)}")
    workers, views = list(workers) or [cpus()], TrainViews(image_size, interpolation=interpolation)
    for what, number in (("images", images), ("rounds", rounds), ("workers", min(workers))):
        if number < 1:
            raise UserError(f"{what}: at least 1, got {number}")
    with tempfile.TemporaryDirectory(prefix="fastlift-bench-") as folder:
        files, source = _files(index, images, Path(folder), progress)
        whole = [files[i % len(files)] for i in range(-(-images // _BATCH) * _BATCH)]
        possible, skipped = _possible(ways)
        combinations = [(way, count) for way in possible for count in workers]
        rows = _alternate(combinations, whole, views, rounds, progress)
        stages = _stages(files[:128], views)
    bottleneck = max(stages, key=lambda stage: stages[stage])
    return BenchResult(
        tuple(rows), stages, bottleneck, len(whole), image_size, interpolation, source, _machine(), skipped
    )


def _machine() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("torch", "torchvision", "pillow", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cores": cpus(),
        "processor": processor_name(),
        "system": platform.platform(),
        "load_average": os.getloadavg()[0],
        "versions": versions,
    }


def _possible(ways: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    from fastlift.data.loading.loader import without_dali

    skipped = {}
    if why := without_dali():
        skipped["fastlift-dali"] = why
    if not _torchvision_decodes():
        skipped["torchvision-io"] = "this torchvision has no JPEG decoder"
    return [way for way in ways if way not in skipped], {way: why for way, why in skipped.items() if way in ways}


def _torchvision_decodes() -> bool:
    try:
        from torchvision.io import decode_jpeg  # noqa: F401 - deprecated in 0.29, to be removed some day
    except (ImportError, RuntimeError):
        return False
    return True


def _files(index: ImageIndex | None, count: int, folder: Path, progress: Progress | None) -> tuple[list[str], str]:
    """The JPEG files to read: those of the index (shards are unpacked), or drawn ones."""
    if index is None:
        count = min(count, 200)
        for i in range(count):
            draw_picture(folder / f"{i}.jpg", i)
            if progress:
                progress("draw pictures", i + 1, count)
        return [str(folder / f"{i}.jpg") for i in range(count)], f"{count} drawn JPEGs of ImageNet's sizes"
    files = []
    for i in range(len(index)):
        try:
            encoded = read_encoded(index, i)
        except DecodeError:
            continue  # gone since the headers were read
        if plain_parts(encoded, int(index.widths[i]), int(index.heights[i])) is None:
            continue  # torchvision.io reads JPEG alone, and no way may stop the others
        files.append(folder / str(i) if index.spans is not None else index.file(i))
        if index.spans is not None:
            files[-1].write_bytes(encoded)
        if len(files) == count:
            break
    if not files:
        raise UserError(f"{index.name} has no JPEG files: nothing to compare")
    unpacked = "" if index.spans is None else ", unpacked"
    return [str(file) for file in files], f"the first {len(files)} JPEGs of {index.name}{unpacked}"


def draw_picture(file: Path, seed: int) -> None:
    """A JPEG with a photograph's share of detail: 4.4 bits a pixel, as 100 real ones have."""
    from PIL import Image

    random = np.random.default_rng(seed)
    width, height = _IMAGENET_SIZES[seed % len(_IMAGENET_SIZES)]
    pixels = np.zeros((height, width, 3), dtype=np.float32)
    for cell, strength in ((64, 100.0), (16, 50.0), (4, 26.0), (1, 17.0)):
        coarse = random.normal(0.0, strength, (height // cell + 2, width // cell + 2, 3)).clip(-127, 127)
        layer = Image.fromarray((coarse + 128).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(layer, dtype=np.float32) - 128
    Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)


# ----------------------------------------------------------------------------------- processes and rounds


def _alternate(
    combinations: list[tuple[str, int]], files: list[str], views: TrainViews, rounds: int, progress: Progress | None
) -> list[Row]:
    """Start a process for every combination, then let them work one after another, round after round."""
    context = multiprocessing.get_context("spawn")
    served: list[tuple[Connection, Any]] = []
    peaks: list[float] = []
    measured: list[list[tuple[float, float]]] = [[] for _ in combinations]
    try:
        for way, workers in combinations:
            ours, theirs = context.Pipe()
            # Not a daemon: torch's DataLoader starts processes of its own.
            process = context.Process(target=_serve, args=(theirs, way, workers, files, views))
            process.start()
            theirs.close()
            served.append((ours, process))
            peaks.append(_answer(ours, way))  # warmed up
        for number in range(rounds):
            order = range(len(served)) if number % 2 == 0 else reversed(range(len(served)))
            for k in order:
                served[k][0].send("round")
                measured[k].append(_answer(served[k][0], combinations[k][0]))
            if progress:
                progress("rounds", number + 1, rounds)
    finally:
        for connection, process in served:
            connection.close()  # the process sees the end of its orders
            process.join(10)
            if process.is_alive():
                process.kill()
    rows = []
    for (way, workers), peak, results in zip(combinations, peaks, measured, strict=True):
        speed, cpu = (statistics.median(column) for column in zip(*results, strict=True))
        rows.append(Row(way, workers, speed, cpu, peak, tuple(result[0] for result in results)))
    return rows


def _answer(connection: Connection, way: str) -> Any:
    try:
        answer = connection.recv()
    except EOFError:
        raise UserError(f"the process that measures {way} died; its message is above", exit_code=1) from None
    if isinstance(answer, str):
        raise UserError(f"{way} failed: {answer}", exit_code=1)
    return answer


def _serve(connection: Connection, way: str, workers: int, files: list[str], views: TrainViews) -> None:
    """Body of a measuring process: a round at each order, until the orders end."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        epoch = _WAYS[way](files, views, workers)
        connection.send(_peak_mib(epoch(0)))
        number = 0
        while connection.recv():
            number += 1
            connection.send(_timed(partial(epoch, number), len(files)))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _timed(epoch: Callable[[], Iterator[Any]], images: int) -> tuple[float, float]:
    """images/s and CPU ms an image."""
    cpu, start = _cpu_s(), time.perf_counter()
    for _ in epoch():
        pass
    elapsed = time.perf_counter() - start
    return images / elapsed, (_cpu_s() - cpu) / images * 1000


def _peak_mib(batches: Iterator[Any]) -> float:
    """Largest memory, looked at after every batch, of this process and its workers; 0 where /proc does not tell.

    Proportional set size: what processes share counts once. (``ru_maxrss`` would start at the parent's value.)
    """
    peak = 0.0
    for _ in batches:
        children = [Path(f"/proc/{child.pid}") for child in multiprocessing.active_children()]
        peak = max(peak, sum(_pss_mib(folder) for folder in [Path("/proc/self"), *children]))
    return peak


def _pss_mib(folder: Path) -> float:
    try:
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


# ------------------------------------------------------------------------------------------------ the ways

_Epoch = Callable[[int], Iterator[Any]]


def _torch_data_loader(decode: Any, files: list[str], views: TrainViews, workers: int) -> _Epoch:
    """What most training programs do: torchvision's transforms in the worker processes of torch's DataLoader."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        decode(files, views), batch_size=_BATCH, shuffle=True, num_workers=workers, multiprocessing_context="fork"
    )
    return lambda epoch: iter(loader)


class _PilDataset:
    """PIL and torchvision.transforms, as LIFT's and most programs have it."""

    def __init__(self, files: list[str], views: TrainViews) -> None:
        from torchvision import transforms as tv

        self._files = files
        crop = tv.RandomResizedCrop(views.size, interpolation=tv.InterpolationMode(views.interpolation))
        self._transform = tv.Compose([crop, tv.RandomHorizontalFlip(), tv.ToTensor(), tv.Normalize(_MEAN, _STD)])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image

        with Image.open(self._files[i]) as image:
            return self._transform(image.convert("RGB"))


class _IoDataset:
    """torchvision.io and the tensor transforms of torchvision.transforms.v2."""

    def __init__(self, files: list[str], views: TrainViews) -> None:
        import torch
        from torchvision.transforms import v2

        torch.set_num_threads(1)  # in this measuring process and its forked workers
        self._files = files
        kind = v2.InterpolationMode(views.interpolation)
        crop = v2.RandomResizedCrop(views.size, interpolation=kind, antialias=True)
        to_float = v2.ToDtype(torch.float32, scale=True)
        self._transform = v2.Compose([crop, v2.RandomHorizontalFlip(), to_float, v2.Normalize(_MEAN, _STD)])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Any:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        return self._transform(decode_jpeg(read_file(self._files[i]), mode=ImageReadMode.RGB))


def _fastlift(executor: str, files: list[str], views: TrainViews, workers: int) -> _Epoch:
    from fastlift.data.loading.loader import build_loader

    loader = build_loader(
        _index_of(files),
        views,
        batch_size=_BATCH,
        mean=_MEAN,
        std=_STD,
        executor=executor,
        workers=workers,
        cache_bytes=0,
    )
    return lambda epoch: loader.epoch(epoch)


def _index_of(files: list[str]) -> ImageIndex:
    """An index of absolute paths; every picture is of class 0."""
    from fastlift.data.index.index import PathTable
    from fastlift.data.index.scan import scan_files

    paths = PathTable.from_strings(file.lstrip("/") for file in map(os.path.abspath, files))
    root = Path(os.path.abspath(os.sep))
    widths, heights, reasons = scan_files(root, paths, np.arange(len(paths)))
    if reasons:
        i, reason = next(iter(reasons.items()))
        raise UserError(f"{files[i]} {reason}")
    labels = np.zeros(len(paths), dtype=np.int64)
    return ImageIndex("bench", root, paths, labels, widths, heights, ("picture",), "")


_WAYS: dict[str, Callable[[list[str], TrainViews, int], _Epoch]] = {
    "torchvision-pil": partial(_torch_data_loader, _PilDataset),
    "torchvision-io": partial(_torch_data_loader, _IoDataset),
    "fastlift-torchvision": partial(_fastlift, "torchvision"),
    "fastlift-dali": partial(_fastlift, "dali"),
}


def _stages(files: list[str], views: TrainViews) -> dict[str, float]:
    """CPU ms an image of each stage in one thread of the torchvision executor; the least of three passes."""
    from fastlift.data.loading.render import render_views

    index = _index_of(files)
    rows = np.arange(len(files))
    plan = views.windows(0, 0, rows, index.widths, index.heights)
    out = np.empty((1, 3, views.size, views.size), dtype=np.uint8)
    normalised = np.empty(out.shape, dtype=np.float32)
    best: dict[str, float] = {}
    for _ in range(3):
        spent = dict.fromkeys(("read", "decode", "resize", "normalise"), 0.0)
        for i, file in enumerate(files):
            marks = [time.thread_time()]
            data = Path(file).read_bytes()
            marks.append(time.thread_time())
            pixels = decode(data)
            marks.append(time.thread_time())
            render_views(pixels, plan, i, views.interpolation, out)
            marks.append(time.thread_time())
            np.multiply(out, np.float32(1 / 64), out=normalised)
            normalised -= np.float32(2)
            marks.append(time.thread_time())
            for stage, begin, end in zip(spent, marks, marks[1:], strict=False):
                spent[stage] += (end - begin) * 1000 / len(files)
        best = {stage: min(ms, best.get(stage, ms)) for stage, ms in spent.items()}
    return best
