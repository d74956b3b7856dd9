"""The DALI executor: region-of-interest decoding, and on GPUs the rest of the view as well.

A pipeline is built once; each epoch feeds it the steps of the stream (``dali_feed``) and takes the batches out in order, in a
thread of its own (``dali_runner``). On CPUs it puts out decoded pixels, without a copy, and threads make the views of them as
for the torchvision executor. What is no plain JPEG does not reach it and is made as there. Where a batch fails, its pictures
are made one by one, which names the broken ones, and stand-ins take their place.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from fastlift.data.loading.collate import Finisher, Normalise, Pending, default_workers, labelled, moved
from fastlift.data.loading.dali.feed import Feed
from fastlift.data.loading.dali.graph import GraphSpec, build_pipeline
from fastlift.data.loading.dali.output import Handover
from fastlift.data.loading.dali.runner import Made, Runner
from fastlift.data.loading.dali.trial import device_id_of, gist, raise_if_machines_fault
from fastlift.data.loading.decode import load_picture
from fastlift.data.loading.loader import Batch
from fastlift.data.loading.looks import Looks
from fastlift.data.loading.reading import DecodeError
from fastlift.data.loading.render import render_views
from fastlift.data.sampling.crops import Windows
from fastlift.data.sampling.stream import StandIns, Step, Stream
from fastlift.errors import FastliftWarning

_PREFETCH = 3  # batches that DALI has in the making, or has made
_READING = 2  # batches that are read before DALI asks for them
_FINISHING = 2  # batches of decoded pixels whose views are in the making
_DECODED_BYTES = 2**30  # of decoded pixels at once, as far as fewer batches in the making can keep to it


def _spec_for(stream: Stream, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, gpu: bool) -> GraphSpec:
    """On GPUs DALI makes the whole view, on CPUs it decodes."""
    device: Literal["cpu", "gpu"] = "gpu" if gpu else "cpu"
    return GraphSpec(stream.views, tuple(mean), tuple(std), device, half=dtype == torch.float16, pixels_only=not gpu)


def _depths(stream: Stream, spec: GraphSpec) -> tuple[int, int, int]:
    """How many batches DALI has in the making, how many that it has made wait, and how many are in the threads' hands.

    On GPUs DALI makes whole views. On CPUs batches are decoded pixels, whose size is that of the pictures: with photographs
    straight from a camera fewer are made ahead.
    """
    made, finishing = _PREFETCH, 1
    if spec.pixels_only:
        pixels = float(np.mean(stream.index.widths.astype(np.float64) * stream.index.heights))
        share = 0.5 if spec.decodes_windows else 1.0  # of a picture that is decoded, about
        batches = int(_DECODED_BYTES / max(3 * share * pixels * stream.most_samples, 1.0))
        finishing = 1 if batches < 4 else _FINISHING
        made = max(1, min(_PREFETCH, batches - finishing))
    waiting = 1 if made > 1 else 0
    return made - waiting, waiting, finishing


class DaliLoader:
    """See ``loader.Loader``."""

    executor = "dali"

    def __init__(
        self,
        stream: Stream,
        stand_ins: StandIns,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype,
        device: torch.device,
        workers: int | None,
    ) -> None:
        self.steps_per_epoch = stream.steps_per_epoch
        self._stream, self._stand_ins = stream, stand_ins
        self._dtype, self._device = dtype, device
        self._workers = workers or default_workers()
        self._spec = _spec_for(stream, mean, std, dtype, gpu=device.type == "cuda")
        self._normalise = Normalise(mean, std, dtype, device)
        self._finisher = None
        if self._spec.pixels_only:
            self._finisher = Finisher(stream, self._normalise, self._workers, pin_memory=False)
        self._handover = Handover(dtype)
        self._looks = Looks(stream.index)
        prefetch, waiting, self._finishing = _depths(stream, self._spec)
        feed = Feed(stream, self._spec, self._looks, self._workers, ahead=min(prefetch + waiting, _READING))
        pipeline = self._build(feed, stream.most_samples, prefetch)
        self._runner = Runner(feed, pipeline, waiting, self._looks)
        self._single: Runner | None = None  # of one picture, built when a batch fails
        self._iterating = self._closed = False

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on."""
        if self._iterating:
            raise RuntimeError("an epoch of this loader is still being iterated over: finish or close that first")
        self._iterating = True
        order = self._stream.order(epoch)
        steps = range(start_step, self.steps_per_epoch)
        made_steps = (self._stream.step(order, epoch, number, self._stand_ins) for number in steps)
        self._runner.start(step for step in made_steps if len(step.samples))  # DALI knows no empty batch
        begun: deque[Batch | Pending] = deque()
        try:
            while (made := self._runner.next()) is not None:
                begun.append(self._begun(made, epoch))
                if len(begun) == self._finishing:
                    yield self._finished(begun.popleft(), epoch)
            while begun:
                yield self._finished(begun.popleft(), epoch)
            yield from self._empty(order, epoch, steps)
        finally:
            for batch in begun:
                if isinstance(batch, Pending):
                    batch.cancel()
            if not self._closed:
                self._runner.stop()
            self._iterating = False

    def _empty(self, order: np.ndarray, epoch: int, steps: range) -> Iterator[Batch]:
        """The last batch where other ranks have all of its samples."""
        if self._stream.world_size == 1 or not steps:
            return
        if not len((last := self._stream.step(order, epoch, steps[-1], self._stand_ins)).samples):
            size = self._stream.views.size
            yield labelled(self._stream, last, torch.empty((0, 3, size, size), dtype=self._dtype, device=self._device))

    def close(self) -> None:
        self._closed = True
        if self._finisher is not None:
            self._finisher.close()
        self._runner.close()
        if self._single is not None:
            self._single.close()
        self._handover.close()

    def _build(self, feed: Feed, batch_size: int, prefetch: int) -> Any:
        pipeline = build_pipeline(
            self._spec,
            feed,
            batch_size=batch_size,
            workers=self._workers,
            device_id=device_id_of(self._device),
            prefetch=prefetch,
        )
        pipeline.build()
        return pipeline

    def _begun(self, made: Made, epoch: int) -> Batch | Pending:
        """A batch of what DALI has made, or in the making; repaired where that failed."""
        if made.error is not None:
            raise_if_machines_fault(made.error)
            return self._repaired(made.fed.step, epoch)
        if self._finisher is not None:
            return self._finisher.start(made.fed.step, partial(self._draw, made))
        try:
            return labelled(self._stream, made.fed.step, self._images(made))
        except DecodeError:
            return self._repaired(made.fed.step, epoch)

    def _finished(self, made: Batch | Pending, epoch: int) -> Batch:
        if isinstance(made, Batch):
            return made
        assert self._finisher is not None
        try:
            return self._finisher.finish(made)
        except DecodeError:
            return self._repaired(made.step, epoch)

    def _images(self, made: Made) -> torch.Tensor:
        """The views that DALI has made, and in between those that it did not get: [B, 3, S, S] or [B, V, 3, S, S].

        Raises:
            DecodeError: a picture that DALI did not get is broken.
        """
        images = self._handover.own(made.output)
        if rows := list(made.fed.ours):
            views = self._normalise.all_of(np.stack([made.fed.views(row) for row in rows]))
            views = views if self._stream.views.stacked else views.squeeze(1)
            images.index_copy_(0, moved(torch.tensor(rows), images.device), views)
        return images

    def _draw(self, made: Made, row: int, out: np.ndarray) -> None:
        """The views of one picture from its decoded pixels: uint8 [V, 3, S, S].

        Raises:
            DecodeError: it is one that DALI did not get, and it is broken.
        """
        if row in made.fed.ours:
            out[...] = made.fed.views(row)
            return
        views, pixels = made.fed.step.views, np.asarray(made.output[row])
        if self._spec.decodes_windows and isinstance(views, Windows):  # the pixels are the window
            w, h, flip = (column[row : row + 1] for column in (views.w, views.h, views.flip))
            views, row = Windows(np.zeros_like(w), np.zeros_like(h), w, h, flip), 0
        render_views(pixels, views, row, self._stream.views.interpolation, out)

    def _repaired(self, step: Step, epoch: int) -> Batch:
        """Make a failed batch picture by picture; broken ones are replaced as the user asked, or end the work."""
        images = []
        for sample in step.samples.tolist():
            while True:
                single = self._stream.of(np.array([sample], dtype=np.int64), epoch, self._stand_ins)
                try:
                    images.append(self._one(single))
                    break
                except DecodeError as error:
                    self._stand_ins.replace(sample, int(single.sources[0]), str(error))
        return labelled(self._stream, step, torch.stack(images))

    def _one(self, step: Step) -> torch.Tensor:
        """The views of a step of one sample, made by the same graph: [3, S, S] or [V, 3, S, S].

        Raises:
            DecodeError: its picture is broken.
        """
        if self._single is None:
            feed = Feed(self._stream, self._spec, self._looks, workers=1, ahead=0)
            self._single = Runner(feed, self._build(feed, 1, prefetch=1), ahead=0)
        self._single.start(iter([step]))
        try:
            made = self._single.next()
        finally:
            self._single.stop()
        assert made is not None
        if made.error is not None:  # a plain JPEG that DALI cannot decode all the same
            raise_if_machines_fault(made.error)
            return self._in_place_of_dali(step, gist(str(made.error)))
        if self._finisher is not None:
            return self._finisher.finish(self._finisher.start(step, partial(self._draw, made))).images[0]
        return self._images(made)[0]

    def _in_place_of_dali(self, step: Step, reason: str) -> torch.Tensor:
        """The views of a step of one sample whose picture DALI refuses, with a warning: [3, S, S] or [V, 3, S, S].

        Raises:
            DecodeError: the picture is broken.
        """
        source, views = int(step.sources[0]), self._stream.views
        picture = load_picture(self._stream.index, source)
        name = self._stream.index.label_of(source)
        what = f"DALI cannot decode {name}, libjpeg-turbo or Pillow does it instead: {reason}"
        warnings.warn(what, FastliftWarning, stacklevel=2)
        pixels = np.empty((views.views, 3, views.size, views.size), dtype=np.uint8)
        render_views(picture, step.views, 0, views.interpolation, pixels)
        images = self._normalise.all_of(pixels)
        return images if views.stacked else images[0]
