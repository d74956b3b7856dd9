"""How long training waits for its next batch: the time that a faster loader could save."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import torch

from fastlift.config import DataConfig
from fastlift.data.loading.batch import Batch, Loader
from fastlift.system.machine import cpus
from fastlift.system.machine.threads import decode_threads


class DataWait:
    """Adds up the time between two steps in which nothing but the next batch was missing.

    On a CPU: the host's clock around the loader's ``next``.

    On a GPU the host runs ahead of the device, and may wait for a batch while the device has work. So two events go into
    the stream, one behind all work of the last step, one when the next batch has been handed over. The time between them is
    the device's: that of copying and normalising the batch, and any in which it had nothing to do since the batch was not
    there. Nobody waits for these events: they are read where the loop reads the device anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._pairs: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def over(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; what it takes to get each is added up."""
        while True:
            began = self._mark()
            batch = next(batches, None)
            self._add(began, self._mark())
            if batch is None:
                return
            yield batch

    def seconds(self) -> float:
        """All so far; on a GPU, as far as the device has come, which is all of it behind an op that reads the device."""
        while self._pairs and self._pairs[0][1].query():
            began, ended = self._pairs.popleft()
            self._seconds += began.elapsed_time(ended) / 1000
        return self._seconds

    def _mark(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _add(self, began: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> None:
        if isinstance(began, float) and isinstance(ended, float):
            self._seconds += ended - began
        elif not isinstance(began, float) and not isinstance(ended, float):
            self._pairs.append((began, ended))


def advice(settings: DataConfig, loader: Loader, device: torch.device) -> str:
    """What may make batches come faster, given how they are made; a part of a sentence."""
    threads, usable = settings.workers or decode_threads()[0], cpus()
    found = []
    if threads < usable:
        found.append(f"--workers {usable} (now {threads} threads)")
    if device.type == "cuda" and loader.backend != "dali" and settings.augment == "none":
        found.append("--executor dali, which decodes on the GPU (pip install 'fastlift[dali]')")
    if loader.backend == "dali":
        shares = (
            f"--host-decode (now {settings.host_decode:g}) and --hw-decoder-load (now {settings.hw_decoder_load:g})"
        )
        found.append(f"other shares for DALI's decoders, {shares}")
    if loader.backend != "dali" and not settings.scaled_decode:
        found.append("--scaled-decode in a new run, where images are large (it changes pixels)")
    found.append("smaller images (`fastlift data pack --short-side 256`, which changes pixels)")
    found.append("a pack, where the disk or the network is slow (`fastlift data pack`)")
    return f"what may help: {'; '.join(found)}"
