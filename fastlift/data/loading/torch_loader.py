"""The torchvision backend: threads read, decode, crop and resize.

Images of sets that are small when decoded are decoded once and kept.
"""

from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np

from fastlift.data.index.replacements import Replacements
from fastlift.data.loading.batch import Batch
from fastlift.data.loading.collate import Collator, Normalise, Pending
from fastlift.data.loading.decode import jpeg_decoder, load_image
from fastlift.data.loading.reading import DecodeError
from fastlift.data.loading.render import render_crops
from fastlift.data.sampling.stream import Step, Stream
from fastlift.system.machine.threads import decode_threads

_PREFETCH = 3  # batches in the making


class TorchLoader:
    """See ``batch.Loader``."""

    backend = "torchvision"

    def __init__(
        self, stream: Stream, replacements: Replacements, normalise: Normalise, workers: int | None, keep: bool
    ) -> None:
        """``keep`` decoded images in memory; arrays are there anyway."""
        self.steps_per_epoch = stream.steps_per_epoch
        self._stream, self._replacements = stream, replacements
        self._collator = Collator(stream, normalise, workers or decode_threads()[0])
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
                step = self._stream.step(order, epoch, number, self._replacements)
                pending.append(self._collator.start(step, partial(self._draw, step, epoch)))
                if len(pending) == _PREFETCH:
                    yield self._collator.finish(pending.popleft())
            while pending:
                yield self._collator.finish(pending.popleft())
        finally:
            for batch in pending:
                batch.cancel()

    def close(self) -> None:
        """End the threads, and let go of what was kept."""
        self._collator.close()
        self._kept.clear()

    def _draw(self, step: Step, epoch: int, row: int, out: np.ndarray) -> None:
        """The crops of one image, or of its replacement."""
        while True:
            try:
                pixels = self._image(int(step.sources[row]))
                break
            except DecodeError as error:
                self._replacements.replace(int(step.samples[row]), int(step.sources[row]), str(error))
                step, row = self._stream.of(step.samples[row : row + 1], epoch, self._replacements), 0
        render_crops(pixels, step.boxes, row, self._stream.crops.interpolation, out)

    def _image(self, source: int) -> np.ndarray:
        arrays = self._stream.index.arrays
        if arrays is not None:
            return arrays[source]
        if (kept := self._kept.get(source)) is not None:
            return kept
        pixels = load_image(self._stream.index, source)
        if self._keep:
            self._kept[source] = pixels
        return pixels
