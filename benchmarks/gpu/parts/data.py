"""The data path alone: training crops of drawn JPEGs of ImageNet's sizes on the device, with each backend that is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.images import image_set, with_each_backend
from benchmarks.gpu.rows import Row
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.loading.loader import build_loader
from fastlift.data.sampling.crops import TrainCrops

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NEEDS_S = 12.0
EPOCHS = 3  # the first one warms up


def run(bench: Bench) -> None:
    """With each backend."""
    with_each_backend(bench, NEEDS_S, rows_of)


def rows_of(bench: Bench, backend: str) -> Iterator[Row]:
    """Epochs without a model behind them: what the path gives at most, and how long the training's thread is held."""
    data = load_data_set("list", **image_set(bench).settings(), cache_dir=bench.scratch / "cache")
    loader = build_loader(
        data.train,
        TrainCrops(bench.sizes.image_size or 224),
        batch_size=bench.sizes.batches[1],
        mean=MEAN,
        std=STD,
        dtype=bench.dtype,
        device=bench.device,
        executor=backend,
        cache_bytes=0,
    )
    try:
        for epoch in range(EPOCHS):
            row = _epoch(bench, loader.epoch(epoch), len(data.train))
            if epoch:
                yield {"name": f"{backend}, epoch {epoch + 1} of {EPOCHS}", "backend": loader.backend, **row}
    finally:
        loader.close()


def _epoch(bench: Bench, batches: Iterator[object], images: int) -> Row:
    """images/s to the last batch on the device; processor time an image of all threads, and of the one that asks."""
    wall, cpu, thread = time.perf_counter(), time.process_time(), time.thread_time()
    for _ in batches:
        pass
    bench.clock.wait()
    seconds = time.perf_counter() - wall
    cpu_ms = 1e3 * (time.process_time() - cpu) / images
    thread_ms = 1e3 * (time.thread_time() - thread) / images
    return {
        "images_per_s": round(images / seconds, 1),
        "cpu_ms_per_image": round(cpu_ms, 4),
        "launching_thread_ms_per_image": round(thread_ms, 5),
        "note": f"processor {cpu_ms:.2f} ms an image, {1e3 * thread_ms:.0f} us of them on the thread that launches steps",
    }
