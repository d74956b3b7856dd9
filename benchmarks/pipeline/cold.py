"""``cold``: images/s read from a shard that is not in the page cache, in several orders, with and without hints to the kernel."""

import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

IMAGE_BYTES = 110_000  # ImageNet's mean
BLOCK = 64  # images that lie beside each other
BATCH = 256
AHEAD = 3  # batches that are hinted at before they are read
Order = Callable[[int, random.Random], list[int]]


def _shuffled(count: int, draw: random.Random) -> list[int]:
    return draw.sample(range(count), count)


def _blocks(count: int, draw: random.Random) -> list[int]:
    first = draw.sample(range(0, count, BLOCK), -(-count // BLOCK))
    return [i for begin in first for i in range(begin, min(begin + BLOCK, count))]


def _in_place(count: int, draw: random.Random) -> list[int]:
    return list(range(count))


# Order of the images, and whether the kernel is told of them ahead (posix_fadvise WILLNEED).
WAYS: dict[str, tuple[Order, bool]] = {
    "random, as fastlift trains": (_shuffled, False),
    "random, hinted at ahead": (_shuffled, True),
    f"blocks of {BLOCK} in random order": (_blocks, False),
    "in the order of the shard": (_in_place, False),
}


def run(rounds: int, count: int, folder: Path | None = None) -> dict[str, dict[str, list[float]]]:
    """Way -> threads -> images/s of each round; ways alternate, and each begins with an empty page cache.

    What a virtual disk's own host has cached cannot be emptied from here.
    """
    found: dict[str, dict[str, list[float]]] = {way: {"2": [], "16": []} for way in WAYS}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        shard = Path(place) / "shard"
        with shard.open("wb") as file:
            for _ in range(count):
                file.write(os.urandom(IMAGE_BYTES))
        for number in range(rounds):
            draw = random.Random(number)
            for way, (order, hinted) in WAYS.items():
                images = order(count, draw)
                for threads, speeds in found[way].items():
                    speeds.append(_read(shard, images, int(threads), hinted))
    return found


def _read(shard: Path, images: list[int], threads: int, hinted: bool) -> float:
    """images/s of threads that read batch after batch, the next two begun before the first is over."""
    descriptor = os.open(shard, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(i: int) -> None:
        assert len(os.pread(descriptor, IMAGE_BYTES, i * IMAGE_BYTES)) == IMAGE_BYTES

    begun, told = time.perf_counter(), 0
    with ThreadPoolExecutor(threads) as pool:
        reading = []
        for first in range(0, len(images), BATCH):
            if hinted:
                last = min(len(images), first + AHEAD * BATCH)
                for i in images[told:last]:
                    os.posix_fadvise(descriptor, i * IMAGE_BYTES, IMAGE_BYTES, os.POSIX_FADV_WILLNEED)
                told = last
            reading.append([pool.submit(read, i) for i in images[first : first + BATCH]])
            if len(reading) > 2:
                for task in reading.pop(0):
                    task.result()
        for batch in reading:
            for task in batch:
                task.result()
    os.close(descriptor)
    return len(images) / (time.perf_counter() - begun)
