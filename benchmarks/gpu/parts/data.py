"""The data path alone: training crops of drawn JPEGs of ImageNet's sizes on the device, with each backend that is installed.

DALI also with other shares for the hardware decoder and for the host's threads: which is best depends on the card and its host.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from benchmarks.gpu.bench import Bench, Skip
from benchmarks.gpu.images import image_set, with_each_backend
from benchmarks.gpu.rows import Row
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.loading.batch import Loader
from fastlift.data.loading.dali.feed import Waited
from fastlift.data.loading.loader import build_loader, without_dali
from fastlift.data.sampling.crops import TrainCrops

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NEEDS_S = 12.0
EPOCHS = 3  # the first one warms up
# Of DALI's images, the shares of the host's threads and, of the rest, of the hardware decoder; the default is the first.
SHARES = ((0.0, 0.65), (0.0, 1.0), (0.0, 0.0), (0.25, 0.65), (0.25, 1.0), (0.5, 1.0))


def run(bench: Bench) -> None:
    """With each backend."""
    with_each_backend(bench, NEEDS_S, rows_of)
    for shares in SHARES[1:]:
        bench.attempt(_named("dali", shares), NEEDS_S, partial(_with_dali, bench, shares))


def _with_dali(bench: Bench, shares: tuple[float, float]) -> Iterator[Row]:
    if why := without_dali(bench.device):
        raise Skip(why)
    yield from rows_of(bench, "dali", shares)


def _named(backend: str, shares: tuple[float, float]) -> str:
    host, hardware = shares
    return (
        backend if shares == SHARES[0] else f"{backend}, host {host:.0%}, hardware decoder {hardware:.0%} of the rest"
    )


def rows_of(bench: Bench, backend: str, shares: tuple[float, float] = SHARES[0]) -> Iterator[Row]:
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
        host_decode=shares[0],
        hw_decoder_load=shares[1],
    )
    name = _named(backend, shares)
    try:
        for epoch in range(EPOCHS):
            before = _waited(loader)
            row = _epoch(bench, loader.epoch(epoch), len(data.train))
            waited = {side: round(now - before[side], 3) for side, now in _waited(loader).items()}
            if epoch:
                yield {"name": f"{name}, epoch {epoch + 1} of {EPOCHS}", "backend": loader.backend, **row, **waited}
    finally:
        loader.close()


def _waited(loader: Loader) -> dict[str, float]:
    """Seconds that DALI's thread waited for the host's threads and for DALI: more share to the one that is waited for less."""
    waited: Waited | None = getattr(loader, "waited", None)
    return {} if waited is None else {"waited_for_threads_s": waited.threads_s, "waited_for_dali_s": waited.dali_s}


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
