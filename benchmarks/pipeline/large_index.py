"""``python -m benchmarks.pipeline.large_index FOLDER make FILES CLASSES | load | order | train``: a set of many files.

``make`` writes a long-tailed tree of hard links to some small images, with list files and class names; ``load`` loads it
as every command does; ``train`` runs ``fastlift train`` on it to the end of its first step. Both print seconds by the
clock and of the processor (user and system, its ended processes too), the peak of resident memory, and its growth over what was
there before. ``order`` prints what a training waits for when it asks for the orders and crop boxes of two epochs.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import DataSet

TESTS_A_CLASS = 2


def make(folder: Path, files: int, classes: int) -> None:
    """A class's share falls with its number; a file has as many names as a file system allows (65,000 on ext4)."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    sources = [folder / f"source{k}.jpg" for k in range(64 + files // 30_000)]
    for source in sources:
        height, width = random.integers(32, 64, 2)
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(source, quality=80)
    shares = np.arange(1, classes + 1) ** -0.6
    counts = np.maximum(1, (shares / shares.sum() * files).astype(int))
    counts[0] += files - counts.sum()
    made = 0
    for split, per_class in (("train", counts), ("test", np.full(classes, TESTS_A_CLASS))):
        with (folder / f"{split}.txt").open("w") as listed:
            for label, count in enumerate(per_class):
                inside = f"{split}/{label // 100:03d}/n{label:08d}"
                (folder / inside).mkdir(parents=True)
                for k in range(count):
                    os.link(sources[made % len(sources)], folder / f"{inside}/n{label:08d}_{k:06d}.jpg")
                    listed.write(f"{inside}/n{label:08d}_{k:06d}.jpg {label}\n")
                    made += 1
    (folder / "names.txt").write_text("".join(f"species number {label}\n" for label in range(classes)))


def load(folder: Path) -> dict[str, Any]:
    """Seconds and memory of loading the data set; the index is cached in the folder."""
    before = _memory_mib()[0]
    clock = _Clock()
    data = _load(folder)
    now, peak = _memory_mib()
    return clock.read() | {"growth_mib": now - before, "peak_mib": peak, "lines": len(data.train)}


def _load(folder: Path) -> DataSet:
    return load_data_set(
        "list",
        data_root=folder,
        train_list=folder / "train.txt",
        test_list=folder / "test.txt",
        class_names=folder / "names.txt",
        cache_dir=folder / "cache",
    )


def order(folder: Path) -> dict[str, Any]:
    """Seconds of the orders of the first two epochs, and ms of the crop boxes of 512 samples while the second is made.

    ``longest_pause_ms`` is how long a loop in Python stood still meanwhile.
    """
    from fastlift.data.index.replacements import BadImageSettings
    from fastlift.data.sampling.crops import TrainCrops
    from fastlift.data.sampling.orders import Orders
    from fastlift.data.sampling.stream import Stream

    index = _load(folder).train
    stream, replacements = Stream(index, TrainCrops(224), 512), BadImageSettings().build(index)
    stream.of(np.arange(512), 0, replacements)  # what is loaded and compiled once
    orders, clock = Orders(stream.order), _Clock()
    first = orders.of(0)
    found = {"first_order_s": clock.read()["seconds"]}
    steps, pauses, began = [], [0.0], time.perf_counter()
    while (now := time.perf_counter()) < began + 2 * found["first_order_s"]:
        stream.step(first, 0, len(steps), replacements)
        steps.append(time.perf_counter() - now)
        before = time.perf_counter()
        for _ in range(1000):
            pauses.append((now := time.perf_counter()) - before)
            before = now
    clock = _Clock()
    orders.of(1)
    found["next_order_s"] = clock.read()["seconds"]
    boxes = {"boxes_of_512_ms": float(np.median(steps)) * 1000, "most_ms": max(steps) * 1000}
    return found | boxes | {"longest_pause_ms": max(pauses) * 1000, "peak_mib": _memory_mib()[1], "lines": len(index)}


def train(folder: Path) -> dict[str, Any]:
    """Seconds and memory of a run with the shipped CLIP from the command's start to the end of its first step."""
    os.environ["FASTLIFT_CACHE"] = str(folder / "cache")
    clock, found = _Clock(), dict[str, Any]()
    from fastlift import cli
    from fastlift.training.step import Learner

    step = Learner.step

    def first_step(*arguments: Any, **options: Any) -> None:
        step(*arguments, **options)
        found.update(clock.read() | {"peak_mib": _memory_mib()[1]})
        raise KeyboardInterrupt

    Learner.step = first_step  # type: ignore[method-assign]
    lists = [f"--{kind}-list={folder / kind}.txt" for kind in ("train", "test")]
    places = [f"--data-root={folder}", f"--class-names={folder / 'names.txt'}", f"--output={folder / 'run'}"]
    model = ["--model=shapes-clip", "--pretrained=None", "--compile=off", "--batch-size=32", "--overwrite"]
    with suppress(KeyboardInterrupt):
        cli.main(["train", "--dataset=list", *lists, *places, *model])
    return found


class _Clock:
    def __init__(self) -> None:
        self._start, self._cpu = time.perf_counter(), _cpu_s()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._start, "cpu_s": _cpu_s() - self._cpu}


def _cpu_s() -> float:
    """User and system time of this process and of those that it has started and that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _memory_mib() -> tuple[float, float]:
    """Resident memory now, and its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    now = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))
    return now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Do one of the orders that the module's text lists."""
    folder, order_given = Path(sys.argv[1]), sys.argv[2]
    if order_given == "make":
        make(folder, int(sys.argv[3]), int(sys.argv[4]))
    else:
        print(json.dumps({"load": load, "order": order, "train": train}[order_given](folder)))


if __name__ == "__main__":
    main()
