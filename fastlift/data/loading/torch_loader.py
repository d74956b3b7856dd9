"""The torchvision executor: threads read, decode, crop and resize.

Pictures of sets that are small when decoded are decoded once and kept.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from fastlift.data.loading.collate import Finisher, Normalise, Pending, default_workers
from fastlift.data.loading.decode import jpeg_decoder, load_picture
from fastlift.data.loading.loader import Batch
from fastlift.data.loading.reading import DecodeError
from fastlift.data.loading.render import render_views
from fastlift.data.sampling.stream import StandIns, Step, Stream

_PREFETCH = 3  # batches in the making


class TorchLoader:
    """See ``loader.Loader``."""

    executor = "torchvision"

    def __init__(
        self,
        stream: Stream,
        stand_ins: StandIns,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype,
        device: torch.device,
        workers: int | None,
        keep: bool,
    ) -> None:
        """``keep`` decoded pictures in memory; arrays are there anyway."""
        self.steps_per_epoch = stream.steps_per_epoch
        self._stream, self._stand_ins = stream, stand_ins
        normalise = Normalise(mean, std, dtype, device)
        self._finisher = Finisher(stream, normalise, workers or default_workers(), device.type == "cuda")
        if stream.index.arrays is None:
            jpeg_decoder()  # here rather than in several threads: whether it is missing is said once
        self._keep = keep and stream.index.arrays is None
        self._kept: dict[int, np.ndarray] = {}

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on."""
        order = self._stream.order(epoch)
        pending: deque[Pending] = deque()
        try:
            for number in range(start_step, self.steps_per_epoch):
                step = self._stream.step(order, epoch, number, self._stand_ins)
                pending.append(self._finisher.start(step, partial(self._draw, step, epoch)))
                if len(pending) == _PREFETCH:
                    yield self._finisher.finish(pending.popleft())
            while pending:
                yield self._finisher.finish(pending.popleft())
        finally:
            for batch in pending:
                batch.cancel()

    def close(self) -> None:
        self._finisher.close()
        self._kept.clear()

    def _draw(self, step: Step, epoch: int, row: int, out: np.ndarray) -> None:
        """The views of one picture, or of its stand-in."""
        try:
            pixels = self._picture(int(step.sources[row]))
        except DecodeError as error:
            self._draw_stand_in(step, epoch, row, str(error), out)
        else:
            render_views(pixels, step.views, row, self._stream.views.interpolation, out)

    def _draw_stand_in(self, step: Step, epoch: int, row: int, reason: str, out: np.ndarray) -> None:
        sample, source = int(step.samples[row]), int(step.sources[row])
        while True:
            source = self._stand_ins.replace(sample, source, reason)
            try:
                pixels = self._picture(source)
            except DecodeError as error:
                reason = str(error)
            else:
                views = self._stream.of(step.samples[row : row + 1], epoch, self._stand_ins).views
                render_views(pixels, views, 0, self._stream.views.interpolation, out)
                return

    def _picture(self, source: int) -> np.ndarray:
        arrays = self._stream.index.arrays
        if arrays is not None:
            return arrays[source]
        kept = self._kept.get(source)
        if kept is None:
            kept = load_picture(self._stream.index, source)
            if self._keep:
                self._kept[source] = kept
        return kept
