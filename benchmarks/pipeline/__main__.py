"""``python -m benchmarks.pipeline [loaders|scaled|augmented|cold|scan|index|memory|pack ...] --images FOLDER --output results.json``.

``loaders`` is ``fastlift bench data``, ``scaled`` what ``--scaled-decode`` saves and changes, ``augmented``
what ``--augment`` costs, ``cold`` reads from an empty page cache; the others measure the header scan, the reading of what DALI is given, the loading of a
large index from its cache, the growth of memory over epochs, and packs. Needs a folder of JPEGs (any depth); without one,
images are drawn.
"""

import argparse
import ctypes
import gc
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastlift.bench import data as bench
from fastlift.bench.data_images import draw_image, index_of
from fastlift.bench.rounds import alternate
from fastlift.data.datasets.folder import images_in
from fastlift.data.index.index import ImageIndex
from fastlift.data.loading.loader import build_loader
from fastlift.data.sampling.crops import TrainCrops

INATURALIST_LINES = 437_513
LARGEST_SET = (2_000_000, 20_000)  # files and classes


def loaders(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """Training crops of 224 px by every way, alternated rounds."""
    from rich.console import Console

    found = bench.run(_index(folder, files), images=files, rounds=rounds)
    Console().print(found.render())
    return found.to_dict()


def scaled(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """Training crops with and without ``--scaled-decode``: see ``benchmarks.pipeline.scaled``."""
    from benchmarks.pipeline.scaled import run

    return run(list(images_in(folder)), rounds, files)


def augmented(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """Training crops with and without ``--augment``: see ``benchmarks.pipeline.augmented``."""
    from benchmarks.pipeline.augmented import run

    return run(list(images_in(folder)), rounds, files)


def cold(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """Reading from a shard that is not in the page cache: see ``benchmarks.pipeline.cold``."""
    from benchmarks.pipeline.cold import run

    return {"images_per_s": run(rounds, files)}


def scan(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """Header scan of 20,000 files (copies of the images), warm: files/s of each round, by the clock and by CPU time."""
    from fastlift.data.index.header_scan import scan_files
    from fastlift.data.index.index import PathTable

    sources = list(images_in(folder))
    with tempfile.TemporaryDirectory() as copies:
        names = [f"{i}.jpg" for i in range(20_000)]
        for i, name in enumerate(names):
            _link_or_copy(sources[i % len(sources)], Path(copies) / name)
        paths = PathTable.from_strings(names)
        rounds_s = []
        for _ in range(rounds + 1):
            start, cpu = time.perf_counter(), time.process_time()
            scan_files(Path(copies), paths)
            rounds_s.append((time.perf_counter() - start, time.process_time() - cpu))
    return {
        "files_per_s": [len(names) / elapsed for elapsed, _ in rounds_s[1:]],
        "files_per_cpu_s": [len(names) / cpu for _, cpu in rounds_s[1:]],
    }


def feed(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """What it costs to give DALI ``files`` images from the page cache, by two threads, in alternated rounds.

    CPU time an image where every file is looked at, and where all are known; and CPU time a batch of the thread that takes
    DALI's batches.
    """
    from fastlift.data.index.replacements import Replacements
    from fastlift.data.loading.dali.feed import Feed
    from fastlift.data.loading.dali.graph import GraphSpec
    from fastlift.data.loading.dali.trial import trouble
    from fastlift.data.loading.looks import SETTLED_NS, Looks
    from fastlift.data.sampling.stream import Step, Stream

    images = _index(folder, files)
    time.sleep(SETTLED_NS / 1e9)  # drawn images are of this moment, and would not be noted
    stream, replacements = Stream(images, TrainCrops(224), 512, seed=1), Replacements(images, "stop", None)
    spec = GraphSpec(stream.crops, (0.5,) * 3, (0.2,) * 3, "cpu", half=False)

    def steps(epoch: int) -> Iterator[Step]:
        order = stream.order(epoch)
        return (stream.step(order, epoch, number, replacements) for number in range(stream.steps_per_epoch))

    def read(source: Feed, epoch: int) -> float:
        begun = time.process_time()
        source.start(steps(epoch))
        while (step := source.take()) is not None:
            source.fed.append(step)
            source.done()
        return (time.process_time() - begun) / files * 1e6

    known = Feed(stream, spec, Looks(images), workers=2, ahead=2)
    found: dict[str, Any] = {"looked_at_cpu_us": [], "known_cpu_us": []}
    for number in range(rounds + 1):
        looked_at = Feed(stream, spec, Looks(images), workers=2, ahead=2)
        for name, source in (("looked_at_cpu_us", looked_at), ("known_cpu_us", known)):
            taken = read(source, number)
            if number:
                found[name].append(taken)
        looked_at.close()
    if not trouble(None):
        found["taking_a_batch_of_512_cpu_ms"] = _taking(known, spec, steps, stream.most_samples, rounds)
    known.close()
    return found


def _taking(source: Any, spec: Any, steps: Callable[[int], Iterator[Any]], batch_size: int, rounds: int) -> list[float]:
    """CPU ms of the thread that takes a batch, each batch of so many epochs."""
    from fastlift.data.loading.dali.graph import build_pipeline
    from fastlift.data.loading.dali.runner import Runner

    pipeline = build_pipeline(spec, source, batch_size=batch_size, workers=2, device_id=None, prefetch=2)
    pipeline.build()
    runner, taken = Runner(source, pipeline, ahead=1), []
    for number in range(rounds):
        runner.start(steps(number))
        begun = time.thread_time()
        while runner.next() is not None:
            taken.append((time.thread_time() - begun) * 1000)
            begun = time.thread_time()
        runner.stop()
    runner.close()
    return taken


def index(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """Load an index of iNaturalist's size from its cache, in a fresh process: seconds and growth of memory."""
    with tempfile.TemporaryDirectory() as work:
        _large(work, "make", INATURALIST_LINES, 8142)
        _large(work, "load")
        return {"lines": INATURALIST_LINES, "rounds": [_large(work, "load") for _ in range(rounds)]}


def starts(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """Two million files in 20,000 classes: the first start of a data set and of a training, and those after it."""
    lines, classes = LARGEST_SET
    with tempfile.TemporaryDirectory() as work:
        _large(work, "make", lines, classes)
        found: dict[str, Any] = {"lines": lines, "classes": classes}
        for order in ("load", "train"):  # where the training's features of class names are made, the index is there
            found[f"first {order}"] = _large(work, order)
            found[f"later {order}"] = [_large(work, order) for _ in range(min(rounds, 3))]
    return found


def _large(work: str, *order: object) -> Any:
    """One order of ``large_index`` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.pipeline.large_index", work, *map(str, order)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1]) if printed else None


def memory(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """Memory after each of 20 epochs of ``files`` images: resident, and held after unused is given back.

    (glibc keeps freed batch buffers, more or fewer of them from epoch to epoch; what is held shows whether anything leaks.)
    """
    give_back = ctypes.CDLL("libc.so.6").malloc_trim
    images = _index(folder, files)
    loader = build_loader(images, TrainCrops(224), batch_size=50, mean=(0, 0, 0), std=(1, 1, 1), cache_bytes=0)
    resident, held = [], []
    for epoch in range(20):
        for _ in loader.epoch(epoch):
            pass
        gc.collect()
        resident.append(_resident_mib())
        give_back(0)
        held.append(_resident_mib())
    loader.close()
    return {"torchvision": {"resident_mib": resident, "held_mib": held, "growth_mib_from_epoch_5": held[-1] - held[4]}}


def pack(folder: Path, rounds: int, files: int) -> dict[str, Any]:
    """The images as files, as a pack, and as a pack of short side 256: bytes, and images/s."""
    from fastlift.data import pack as packing
    from fastlift.data.datasets.catalogue import load_data_set

    paths = [os.path.relpath(path, folder) for path in images_in(folder)]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        lists = Path(work) / "list.txt"
        lists.write_text("".join(f"{path} 0\n" for path in paths))
        (Path(work) / "names.txt").write_text("image\n")
        options: dict[str, Any] = {
            "train_list": lists,
            "test_list": lists,
            "class_names": Path(work) / "names.txt",
            "cache_dir": work,
        }
        indices = {"files": load_data_set("list", data_root=folder, **options).train}
        for name, short_side in (("pack", None), ("pack of short side 256", 256)):
            written = packing.run("list", Path(work) / name, short_side=short_side, data_root=folder, **options)
            indices[name] = load_data_set("list", data_root=Path(work) / name, cache_dir=work).train
            found[name] = {"bytes_of_files": written.bytes / written.source_bytes, "shrunk": written.shrunk // 2}
        _alternate(indices, rounds, found)
    return found


def _alternate(indices: dict[str, ImageIndex], rounds: int, found: dict[str, Any]) -> None:
    """images/s of each index in alternated rounds, after one to warm up."""

    def epochs(index: ImageIndex) -> Callable[[], object]:
        loader = build_loader(index, TrainCrops(224), batch_size=50, mean=(0, 0, 0), std=(1, 1, 1), cache_bytes=0)
        numbers = itertools.count()
        return lambda: deque(loader.epoch(next(numbers)), maxlen=0)

    timings = alternate({name: epochs(index) for name, index in indices.items()}, rounds)
    for name, timing in timings.items():
        speeds = [len(indices[name]) / seconds for seconds in timing.seconds]
        found.setdefault(name, {})["torchvision_images_per_s"] = speeds


def _index(folder: Path, count: int) -> ImageIndex:
    """``count`` rows of the folder's images, repeated where there are fewer."""
    paths = list(images_in(folder))
    return index_of([paths[i % len(paths)] for i in range(count)])


def _link_or_copy(source: str, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASUREMENTS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "loaders": loaders,
    "scaled": scaled,
    "augmented": augmented,
    "cold": cold,
    "scan": scan,
    "feed": feed,
    "index": index,
    "starts": starts,
    "memory": memory,
    "pack": pack,
}


def main() -> None:
    """Measure what is asked for, and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("measurements", nargs="*", default=list(MEASUREMENTS), metavar="MEASUREMENT")
    parser.add_argument("--images", type=Path, help="folder of JPEGs; drawn ones without it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=1000, help="images a round (loaders) or an epoch (memory)")
    parser.add_argument("--output", type=Path, help="JSON file to add the results to")
    flags = parser.parse_args()
    if unknown := set(flags.measurements) - set(MEASUREMENTS):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(MEASUREMENTS)}")
    if flags.images is not None and not any(images_in(flags.images)):
        parser.error(f"--images {flags.images}: no images there; name a folder of JPEGs, or none to have some drawn")
    with tempfile.TemporaryDirectory() as drawn:
        folder = flags.images or Path(drawn)
        if flags.images is None:
            for i in range(200):
                draw_image(folder / f"{i}.jpg", i)
        for name in flags.measurements:
            begun = os.getloadavg()[0]
            result = MEASUREMENTS[name](folder, flags.rounds, flags.files)
            result["load_average_before"] = begun
            print(name, json.dumps(result))
            if flags.output:
                _add(flags.output, name, result)


def _add(file: Path, name: str, result: dict[str, Any]) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    known[name] = {"machine": bench.machine(), **result}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
