"""The DALI executor: native reading and region-of-interest decoding, and on GPUs the rest of the view as well.

A pipeline is built once; each epoch feeds it the steps of the stream and takes the batches out in order. On CPUs it puts
out decoded pixels, without a copy, and threads make the views of them as for the torchvision executor. Pictures that DALI
decodes unlike Pillow are decoded by Pillow. Where a batch fails, its pictures are made one by one, which names the broken
ones, and stand-ins take their place.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from fastlift.data.dali_graph import GraphSpec, build_pipeline
from fastlift.data.decode import DecodeError, dali_agrees, decode_with_pillow, load_picture, read_encoded
from fastlift.data.finishing import Finisher, Normalise, Pending, default_workers, labelled
from fastlift.data.loader import Batch
from fastlift.data.render import MAX_RESIZED_PIXELS, render_views
from fastlift.data.stream import StandIns, Step, Stream
from fastlift.data.views import ResizedCrops, Windows
from fastlift.errors import FastliftWarning

_PREFETCH = 3  # batches that DALI has in the making
_FINISHING = 2  # batches of decoded pixels whose views are in the making
_DECODED_BYTES = 2**30  # of decoded pixels at once, as far as fewer batches in the making can keep to it


class Feed:
    """DALI's source: hands out the steps that it was given as arrays, and remembers them in order."""

    def __init__(self, stream: Stream, spec: GraphSpec) -> None:
        self._stream, self._spec = stream, spec
        self._steps: Iterator[Step] = iter(())
        self.fed: deque[Step] = deque()

    def start(self, steps: Iterator[Step]) -> None:
        """Hand out these from now on."""
        self._steps = steps

    def __call__(self, info: Any) -> tuple[list[np.ndarray], ...]:
        step = next(self._steps)  # its StopIteration tells DALI that the epoch is over
        self.fed.append(step)
        pictures = [np.frombuffer(self._picture(int(i)), dtype=np.uint8) for i in step.sources]
        columns = self._columns(step.views)[: self._spec.columns]
        return pictures, *(list(column.astype(np.int32)) for column in columns)

    def _columns(self, views: Windows | ResizedCrops) -> list[np.ndarray]:
        if isinstance(views, Windows):
            return [_pairs(views.x, views.y), _pairs(views.w, views.h), views.flip]
        size, corners = np.stack([views.height, views.width], axis=1), _pairs(views.x, views.y)
        long = _too_long(views)  # made without DALI: it gets the smallest size that the crops fit in
        size[long], corners[long] = self._stream.views.size, 0
        return [size, corners, views.flip]

    def _picture(self, source: int) -> bytes:
        index = self._stream.index
        if index.spans is None:
            return bytes(index.file(source))
        try:
            return read_encoded(index, source)
        except DecodeError:
            return b"\0"  # fails in its own batch, where it is named


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two [B, V] columns to [B, 2 V], alternating."""
    return np.stack([first, second], axis=2).reshape(len(first), -1)


def _too_long(views: Windows | ResizedCrops) -> np.ndarray:
    """Rows whose resized picture would take gigabytes: bool [B]."""
    if isinstance(views, Windows):
        return np.zeros(len(views.x), dtype=bool)
    return views.width * views.height > MAX_RESIZED_PIXELS


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
    batches = int(_DECODED_BYTES / max(3 * share * pixels * stream.batch_size, 1.0))
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
            from_bytes=stream.index.spans is not None,
            pixels_only=not on_gpu,
        )
        self._normalise = Normalise(mean, std, dtype, torch.device("cpu"))
        self._finisher = None if on_gpu else Finisher(stream, self._normalise, self._workers, pin_memory=False)
        self._feed = Feed(stream, self._spec)
        prefetch, self._finishing = _depths(stream, self._spec)
        self._pipeline = self._build(self._feed, stream.batch_size, prefetch)
        self._single: tuple[Feed, Any] | None = None  # a pipeline of one picture, built when a batch fails
        self._iterating = False

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on."""
        if self._iterating:
            raise RuntimeError("an epoch of this loader is still being iterated over: finish or close that first")
        self._iterating = True
        order = self._stream.order(epoch)
        self._feed.start(
            self._stream.step(order, epoch, number, self._stand_ins)
            for number in range(start_step, self.steps_per_epoch)
        )
        begun: deque[Batch | Pending] = deque()
        try:
            while (made := self._next(epoch)) is not None:
                begun.append(made)
                if len(begun) == self._finishing:
                    yield self._finished(begun.popleft(), epoch)
            while begun:
                yield self._finished(begun.popleft(), epoch)
        finally:
            for batch in begun:
                if isinstance(batch, Pending):
                    batch.cancel()
            if self._pipeline is not None:
                _drain(self._feed, self._pipeline)
            self._iterating = False

    def close(self) -> None:
        if self._finisher is not None:
            self._finisher.close()
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
            made, shapes, encoded = self._run(self._pipeline)
        except StopIteration:
            return None
        except RuntimeError:
            return self._repaired(self._feed.fed.popleft(), epoch)
        step = self._feed.fed.popleft()
        if not self._sizes_agree(step.sources, shapes):
            return self._repaired(step, epoch)
        if self._finisher is not None:
            return self._finisher.start(step, partial(self._draw, step, made, encoded))
        images = torch.from_dlpack(made.as_tensor())
        try:
            alike = np.array([dali_agrees(np.asarray(picture)) for picture in encoded])
            for row in np.flatnonzero(_too_long(step.views) | ~alike).tolist():
                images[row] = self._without_dali(step, row)
        except DecodeError:
            return self._repaired(step, epoch)
        return labelled(self._stream, step, images.to(self._dtype))

    def _finished(self, made: Batch | Pending, epoch: int) -> Batch:
        if isinstance(made, Batch):
            return made
        assert self._finisher is not None
        try:
            return self._finisher.finish(made)
        except DecodeError:
            return self._repaired(made.step, epoch)

    def _run(self, pipeline: Any) -> tuple[Any, np.ndarray, Any]:
        """One batch: DALI's list of what it made; the (height, width) that the files' headers tell, [B, 2]; and its list of
        the encoded bytes."""
        if self._device.type == "cuda":
            made, shapes, encoded = pipeline.run(torch.cuda.current_stream(self._device))
        else:
            made, shapes, encoded = pipeline.run()
        return made, np.asarray(shapes.as_tensor())[:, :2], encoded

    def _draw(self, step: Step, decoded: Any, encoded: Any, row: int, out: np.ndarray) -> None:
        """The views of one picture from its decoded pixels: uint8 [V, 3, S, S].

        Raises:
            DecodeError: it is broken, though DALI may not have noticed.
        """
        if not dali_agrees(np.asarray(encoded[row])):
            picture = load_picture(self._stream.index, int(step.sources[row]), decode_with_pillow)
            render_views(picture, step.views, row, out)
            return
        pixels, views = np.asarray(decoded[row]), step.views
        if self._spec.decodes_windows and isinstance(views, Windows):  # the pixels are the window
            w, h, flip = (column[row : row + 1] for column in (views.w, views.h, views.flip))
            views, row = Windows(np.zeros_like(w), np.zeros_like(h), w, h, flip), 0
        render_views(pixels, views, row, out)

    def _sizes_agree(self, sources: np.ndarray, shapes: np.ndarray) -> bool:
        index = self._stream.index
        return np.array_equal(shapes, np.stack([index.heights[sources], index.widths[sources]], axis=1))

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
        if self._finisher is None and _too_long(step.views)[0]:
            return self._without_dali(step, 0)
        if self._single is None:
            feed = Feed(self._stream, self._spec)
            self._single = feed, self._build(feed, 1, prefetch=1)
        feed, pipeline = self._single
        feed.start(iter([step]))
        failure = "its size changed"
        try:
            made, shapes, encoded = self._run(pipeline)
        except RuntimeError as error:
            made, shapes, encoded, failure = None, np.zeros((1, 2)), None, _gist(str(error))
        finally:
            _drain(feed, pipeline)
        if not self._sizes_agree(step.sources, shapes):
            return self._without_dali(step, 0, warn_of=failure)
        if self._finisher is not None:
            return self._finisher.finish(self._finisher.start(step, partial(self._draw, step, made, encoded))).images[0]
        if not dali_agrees(np.asarray(encoded[0])):
            return self._without_dali(step, 0)
        return torch.from_dlpack(made.as_tensor())[0].to(self._dtype)

    def _without_dali(self, step: Step, row: int, warn_of: str = "") -> torch.Tensor:
        """The views of one picture by the torchvision executor's means: [3, S, S] or [V, 3, S, S].

        For what only Pillow can decode (with a warning), and for extremely long pictures on GPUs.

        Raises:
            DecodeError: the picture is broken.
        """
        views, source = self._stream.views, int(step.sources[row])
        picture = load_picture(self._stream.index, source, decode_with_pillow)
        if warn_of:
            warnings.warn(
                f"DALI cannot decode {self._stream.index.label_of(source)}, Pillow does it instead: {warn_of}",
                FastliftWarning,
                stacklevel=2,
            )
        pixels = np.empty((views.views, 3, views.size, views.size), dtype=np.uint8)
        render_views(picture, step.views, row, pixels)
        images = torch.empty(pixels.shape)
        self._normalise.in_worker(pixels, images.numpy())
        return self._normalise.finish(images if views.stacked else images[0]).to(self._device)
