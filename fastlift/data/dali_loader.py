"""The DALI executor: native reading and region-of-interest decoding, and on GPUs the rest of the view as well.

A pipeline is built once; each epoch feeds it the steps of the stream and takes the batches out in order. On CPUs it puts
out decoded pixels, without a copy, and threads make the views of them as for the torchvision executor. What is no plain JPEG
does not reach it (``dali_feed``) and is decoded as there. Where a batch fails, its pictures are made one by one, which names
the broken ones, and stand-ins take their place.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from fastlift.data.dali_feed import Fed, Feed
from fastlift.data.dali_graph import GraphSpec, build_pipeline
from fastlift.data.decode import DecodeError, load_picture
from fastlift.data.finishing import Finisher, Normalise, Pending, default_workers, labelled
from fastlift.data.loader import Batch
from fastlift.data.render import render_views
from fastlift.data.stream import StandIns, Step, Stream
from fastlift.data.views import Windows
from fastlift.errors import FastliftWarning

_PREFETCH = 3  # batches that DALI has in the making
_READING = 2  # batches that are read before DALI asks for them
_FINISHING = 2  # batches of decoded pixels whose views are in the making
_DECODED_BYTES = 2**30  # of decoded pixels at once, as far as fewer batches in the making can keep to it


def _drain(feed: Feed, pipeline: Any) -> None:
    """Take out what is still in the making, so that the next epoch starts clean."""
    feed.start(iter(()))
    while True:
        try:
            pipeline.run()
        except StopIteration:
            pipeline.reset()
            break
        except RuntimeError:  # a broken picture in a batch that nobody asked for
            continue
    feed.fed.clear()


def _gist(message: str) -> str:
    """The line of a DALI error that says what happened, without the graph's traceback."""
    lines = [line.strip() for line in message.split("encountered:")[-1].splitlines()]
    return next((line for line in lines if line), message)


def _depths(stream: Stream, spec: GraphSpec) -> tuple[int, int]:
    """How many batches DALI makes ahead, and how many are then in the threads' hands.

    On GPUs DALI makes whole views. On CPUs batches are decoded pixels, whose size is that of the pictures: with photographs
    straight from a camera fewer are made ahead.
    """
    if not spec.pixels_only:
        return _PREFETCH, 1
    pixels = float(np.mean(stream.index.widths.astype(np.float64) * stream.index.heights))
    share = 0.5 if spec.decodes_windows else 1.0  # of a picture that is decoded, about
    batches = int(_DECODED_BYTES / max(3 * share * pixels * stream.most_samples, 1.0))
    finishing = 1 if batches < 4 else _FINISHING
    return max(1, min(_PREFETCH, batches - finishing)), finishing


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
        on_gpu = device.type == "cuda"
        self._spec = GraphSpec(
            views=stream.views,
            mean=tuple(mean),
            std=tuple(std),
            device="gpu" if on_gpu else "cpu",
            half=dtype == torch.float16,
            pixels_only=not on_gpu,
        )
        self._normalise = Normalise(mean, std, dtype, torch.device("cpu"))
        self._finisher = None if on_gpu else Finisher(stream, self._normalise, self._workers, pin_memory=False)
        prefetch, self._finishing = _depths(stream, self._spec)
        self._feed = Feed(stream, self._spec, self._workers, ahead=min(prefetch, _READING))
        self._pipeline = self._build(self._feed, stream.most_samples, prefetch)
        self._single: tuple[Feed, Any] | None = None  # a pipeline of one picture, built when a batch fails
        self._iterating = False

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on."""
        if self._iterating:
            raise RuntimeError("an epoch of this loader is still being iterated over: finish or close that first")
        self._iterating = True
        order = self._stream.order(epoch)
        steps = range(start_step, self.steps_per_epoch)
        made_steps = (self._stream.step(order, epoch, number, self._stand_ins) for number in steps)
        self._feed.start(step for step in made_steps if len(step.samples))  # DALI knows no empty batch
        begun: deque[Batch | Pending] = deque()
        try:
            while (made := self._next(epoch)) is not None:
                begun.append(made)
                if len(begun) == self._finishing:
                    yield self._finished(begun.popleft(), epoch)
            while begun:
                yield self._finished(begun.popleft(), epoch)
            yield from self._empty(order, epoch, steps)
        finally:
            for batch in begun:
                if isinstance(batch, Pending):
                    batch.cancel()
            if self._pipeline is not None:
                _drain(self._feed, self._pipeline)
            self._iterating = False

    def _empty(self, order: np.ndarray, epoch: int, steps: range) -> Iterator[Batch]:
        """The last batch where other ranks have all of its samples."""
        if steps and not len((last := self._stream.step(order, epoch, steps[-1], self._stand_ins)).samples):
            size = self._stream.views.size
            yield labelled(self._stream, last, torch.empty((0, 3, size, size), dtype=self._dtype, device=self._device))

    def close(self) -> None:
        if self._finisher is not None:
            self._finisher.close()
        for feed in (self._feed, *(() if self._single is None else self._single[:1])):
            feed.close()
        self._pipeline = self._single = None

    def _build(self, feed: Feed, batch_size: int, prefetch: int) -> Any:
        device_id = None
        if self._device.type == "cuda":
            device_id = torch.cuda.current_device() if self._device.index is None else self._device.index
        pipeline = build_pipeline(
            self._spec, feed, batch_size=batch_size, workers=self._workers, device_id=device_id, prefetch=prefetch
        )
        pipeline.build()
        return pipeline

    def _next(self, epoch: int) -> Batch | Pending | None:
        """What the pipeline puts out next, repaired where it failed; None at the end."""
        try:
            made = self._run(self._pipeline)
        except StopIteration:
            return None
        except RuntimeError:
            return self._repaired(self._feed.fed.popleft().step, epoch)
        fed = self._feed.fed.popleft()
        if self._finisher is not None:
            return self._finisher.start(fed.step, partial(self._draw, fed, made))
        images = torch.from_dlpack(made.as_tensor())
        try:
            for row in fed.ours:
                images[row] = self._views_of(fed.picture(self._stream, row), fed.step, row)
        except DecodeError:
            return self._repaired(fed.step, epoch)
        return labelled(self._stream, fed.step, images.to(self._dtype))

    def _finished(self, made: Batch | Pending, epoch: int) -> Batch:
        if isinstance(made, Batch):
            return made
        assert self._finisher is not None
        try:
            return self._finisher.finish(made)
        except DecodeError:
            return self._repaired(made.step, epoch)

    def _run(self, pipeline: Any) -> Any:
        """One batch: DALI's list of what it made."""
        (made,) = pipeline.run(*([torch.cuda.current_stream(self._device)] if self._device.type == "cuda" else []))
        return made

    def _draw(self, fed: Fed, decoded: Any, row: int, out: np.ndarray) -> None:
        """The views of one picture from its decoded pixels: uint8 [V, 3, S, S].

        Raises:
            DecodeError: it is one that DALI did not get, and it is broken.
        """
        views = fed.step.views
        if row in fed.ours:
            render_views(fed.picture(self._stream, row), views, row, self._stream.views.interpolation, out)
            return
        pixels = np.asarray(decoded[row])
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
            feed = Feed(self._stream, self._spec, workers=1, ahead=0)
            self._single = feed, self._build(feed, 1, prefetch=1)
        feed, pipeline = self._single
        feed.start(iter([step]))
        try:
            made = self._run(pipeline)
            fed = feed.fed[0]
        except RuntimeError as error:  # a plain JPEG that DALI cannot decode all the same
            return self._in_place_of_dali(step, _gist(str(error)))
        finally:
            _drain(feed, pipeline)
        if self._finisher is not None:
            return self._finisher.finish(self._finisher.start(step, partial(self._draw, fed, made))).images[0]
        if fed.ours:
            return self._views_of(fed.picture(self._stream, 0), step, 0)
        return torch.from_dlpack(made.as_tensor())[0].to(self._dtype)

    def _in_place_of_dali(self, step: Step, reason: str) -> torch.Tensor:
        """The views of a step of one sample whose picture DALI refuses, with a warning: [3, S, S] or [V, 3, S, S].

        Raises:
            DecodeError: the picture is broken.
        """
        source = int(step.sources[0])
        picture = load_picture(self._stream.index, source)
        name = self._stream.index.label_of(source)
        what = f"DALI cannot decode {name}, libjpeg-turbo or Pillow does it instead: {reason}"
        warnings.warn(what, FastliftWarning, stacklevel=2)
        return self._views_of(picture, step, 0)

    def _views_of(self, picture: np.ndarray, step: Step, row: int) -> torch.Tensor:
        """The views of a decoded picture, by the torchvision executor's means: [3, S, S] or [V, 3, S, S]."""
        views = self._stream.views
        pixels = np.empty((views.views, 3, views.size, views.size), dtype=np.uint8)
        render_views(picture, step.views, row, views.interpolation, pixels)
        images = torch.empty(pixels.shape)
        self._normalise.in_worker(pixels, images.numpy())
        return self._normalise.finish(images if views.stacked else images[0]).to(self._device)
