"""The DALI backend: decoding, cropping and resizing on a GPU.

A pipeline is built once; each epoch feeds it the steps of the stream (``feed``) and takes the batches out in order, in a
thread of its own (``runner``). What is no plain JPEG does not reach it and is made as by the torchvision backend. Where a batch
fails, its images are made one by one, which names the broken ones, and replacements take their place.

For batches on a CPU the same graph runs with DALI's operators for CPUs. Nothing but the tests asks for that: it is how they
check feed, graph, runner and repair on machines without a GPU (``loader.without_dali`` says why it is not used).
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from fastlift.data.index.replacements import Replacements
from fastlift.data.loading.batch import Batch
from fastlift.data.loading.collate import Normalise, labelled, moved
from fastlift.data.loading.dali.feed import Feed, drawn
from fastlift.data.loading.dali.graph import DaliDecoding, GraphSpec, build_pipeline
from fastlift.data.loading.dali.output import Handover
from fastlift.data.loading.dali.runner import Made, Runner
from fastlift.data.loading.dali.trial import device_id_of, gist, raise_if_machines_fault
from fastlift.data.loading.looks import Looks
from fastlift.data.loading.reading import DecodeError
from fastlift.data.loading.shards_ahead import ShardsAhead
from fastlift.data.sampling.orders import Orders
from fastlift.data.sampling.stream import Step, Stream
from fastlift.errors import FastliftWarning
from fastlift.system.machine.threads import decode_threads

_PREFETCH = 2  # batches that DALI has in the making
_MADE = 1  # batches that it has made wait to be asked for
_READ = 2  # batches are read before DALI asks for them


class DaliLoader:
    """See ``batch.Loader``."""

    backend = "dali"

    def __init__(
        self,
        stream: Stream,
        replacements: Replacements,
        normalise: Normalise,
        workers: int | None,
        decoding: DaliDecoding | None = None,
    ) -> None:
        self.steps_per_epoch = stream.steps_per_epoch
        self._stream, self._replacements, self._normalise = stream, replacements, normalise
        self._workers = workers or decode_threads()[0]
        self._spec = GraphSpec(
            stream.crops,
            normalise.mean,
            normalise.std,
            "gpu" if normalise.device.type == "cuda" else "cpu",
            half=normalise.dtype == torch.float16,
            decoding=decoding or DaliDecoding(),
        )
        self._orders = Orders(stream.order)
        self._handover = Handover(normalise.dtype)
        self._looks = Looks(stream.index)
        self._shards = ShardsAhead(stream)
        feed = Feed(stream, self._spec, self._looks, self._workers, ahead=_READ)
        self.waited = feed.waited
        self._runner = Runner(feed, self._build(feed, stream.most_samples, _PREFETCH), _MADE, self._looks)
        self._single: Runner | None = None  # of one image, built when a batch fails
        self._iterating = self._closed = False

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on."""
        if self._iterating:
            raise RuntimeError("an epoch of this loader is still being iterated over: finish or close that first")
        self._iterating = True
        order = self._orders.of(epoch)
        steps = range(start_step, self.steps_per_epoch)
        made_steps = (self._made_step(order, epoch, number) for number in steps)
        self._shards.start(order, epoch, start_step)
        self._runner.start(step for step in made_steps if len(step.samples))  # DALI knows no empty batch
        try:
            while (made := self._runner.next()) is not None:
                yield self._batch(made)
            yield from self._empty(order, epoch, steps)
        finally:
            if not self._closed:
                self._runner.stop()
            self._iterating = False

    def _made_step(self, order: np.ndarray, epoch: int, number: int) -> Step:
        self._shards.reach(number)
        return self._stream.step(order, epoch, number, self._replacements)

    def _empty(self, order: np.ndarray, epoch: int, steps: range) -> Iterator[Batch]:
        """The last batch where other ranks have all of its samples."""
        if self._stream.world_size == 1 or not steps:
            return
        if not len((last := self._stream.step(order, epoch, steps[-1], self._replacements)).samples):
            size, normalise = self._stream.crops.size, self._normalise
            images = torch.empty((0, 3, size, size), dtype=normalise.dtype, device=normalise.device)
            yield labelled(self._stream, last, images)

    def close(self) -> None:
        """End the threads, and let go of the pipelines and of DALI's memory."""
        self._closed = True
        self._runner.close()
        self._shards.close()
        if self._single is not None:
            self._single.close()
        self._handover.close()

    def _build(self, feed: Feed, batch_size: int, prefetch: int) -> Any:
        device = device_id_of(self._normalise.device)
        pipeline = build_pipeline(
            self._spec, feed, batch_size=batch_size, workers=self._workers, device_id=device, prefetch=prefetch
        )
        pipeline.build()
        return pipeline

    def _batch(self, made: Made) -> Batch:
        """A batch of what DALI has made; repaired where that failed."""
        if made.error is not None:
            raise_if_machines_fault(made.error)
            return self._repaired(made.fed.step)
        try:
            return labelled(self._stream, made.fed.step, self._images(made))
        except DecodeError:
            return self._repaired(made.fed.step)

    def _images(self, made: Made) -> torch.Tensor:
        """The crops of DALI, and in between those of images that it did not get; raises DecodeError for broken ones of these."""
        images = self._handover.own(made.output)
        if rows := list(made.fed.ours):
            crops = self._normalise.all_of(made.fed.crops())
            crops = crops if self._stream.crops.stacked else crops.squeeze(1)
            images.index_copy_(0, moved(torch.tensor(rows), images.device), crops)
        return images

    def _repaired(self, step: Step) -> Batch:
        """Make a failed batch image by image; broken ones are replaced as the user asked, or end the work."""
        images = []
        for row, sample in enumerate(step.samples.tolist()):
            while True:
                single = self._stream.again(step, row, self._replacements)
                try:
                    images.append(self._one(single))
                    break
                except DecodeError as error:
                    self._replacements.replace(sample, int(single.sources[0]), str(error))
        return labelled(self._stream, step, torch.stack(images))

    def _one(self, step: Step) -> torch.Tensor:
        """The crops of a step of one sample: [3, S, S] or [V, 3, S, S]; raises DecodeError where its image is broken."""
        if self._single is None:
            feed = Feed(self._stream, self._spec, self._looks, workers=1, ahead=0)
            self._single = Runner(feed, self._build(feed, 1, prefetch=1), ahead=0)
        self._single.start(iter([step]))
        try:
            made = self._single.next()
        finally:
            self._single.stop()
        assert made is not None
        if made.error is None:
            return self._images(made)[0]
        raise_if_machines_fault(made.error)
        # A plain JPEG that DALI cannot decode all the same.
        images = self._normalise.all_of(drawn(self._stream, step, 0))
        name, reason = self._stream.index.label_of(int(step.sources[0])), gist(str(made.error))
        what = f"DALI cannot decode {name}, libjpeg-turbo or Pillow does it instead: {reason}"
        warnings.warn(what, FastliftWarning, stacklevel=2)
        return images if self._stream.crops.stacked else images[0]
