"""``augmented``: what ``--augment`` costs the threads that make training crops, by the size of crops."""

import statistics
import time
from typing import Any

from fastlift.bench.data_images import index_of
from fastlift.data.loading.loader import build_loader
from fastlift.data.sampling.augmentations import Augment
from fastlift.data.sampling.crops import TrainCrops

WAYS: tuple[Augment, ...] = ("none", "randaugment", "trivialaugment")
SIZES = (224, 48)  # of crops in pixels


def run(images: list[str], rounds: int, files: int) -> dict[str, Any]:
    """Images/s and CPU time of each way with one thread, in alternated rounds, and the ratios to ``none`` within a round."""
    index, found = index_of([images[i % len(images)] for i in range(files)]), {}
    for size in SIZES:
        loaders = {
            way: build_loader(
                index,
                TrainCrops(size, augment=way),
                batch_size=32,
                mean=(0.5,) * 3,
                std=(0.25,) * 3,
                workers=1,
                cache_bytes=0,
            )
            for way in WAYS
        }
        rows: dict[str, dict[str, list[float]]] = {way: {"images_per_s": [], "cpu_ms_per_image": []} for way in WAYS}
        for number in range(rounds + 1):
            for way, loader in loaders.items():
                began, cpu = time.perf_counter(), time.process_time()
                count = sum(len(batch.labels) for batch in loader.epoch(number))
                spent, cpu_s = time.perf_counter() - began, time.process_time() - cpu
                if number:  # the first loads and warms
                    rows[way]["images_per_s"].append(count / spent)
                    rows[way]["cpu_ms_per_image"].append(1000 * cpu_s / count)
        for loader in loaders.values():
            loader.close()
        ratios = {
            f"{what}_ratio": {
                way: statistics.median(
                    mine / plain for mine, plain in zip(rows[way][what], rows["none"][what], strict=True)
                )
                for way in WAYS[1:]
            }
            for what in ("images_per_s", "cpu_ms_per_image")
        }
        medians = {way: {what: statistics.median(values) for what, values in of.items()} for way, of in rows.items()}
        found[f"crops of {size} px"] = {"medians": medians, **ratios, "rounds": rows}
    return found
