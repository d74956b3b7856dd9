"""Images of concurrent requests in batches: threads decode them, one thread has the model.

A batch is whatever waits when the model is free, so a lone image never waits for others.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastlift.data.index.headers import refusal
from fastlift.data.index.pillow import open_image, plain_words
from fastlift.data.loading.decode import decode
from fastlift.data.loading.reading import DecodeError
from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.models.prediction.result import AnswerSettings, Prediction
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.system.machine.threads import decode_threads


class Refused(Exception):
    """An image is not taken; ``status`` is HTTP's number for the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Waiting(NamedTuple):
    """An image that waits for the model."""

    crops: np.ndarray  # [V, 3, S, S]
    answer: AnswerSettings
    features: bool
    result: Future[Prediction]


class Batcher:
    """Predicts the images of many requests; use it in a ``with`` statement."""

    def __init__(
        self, model: LiftModel, crops: EnsemblingSettings, *, batch_size: int, most_pixels: int, waiting: int
    ) -> None:
        """For a model on its device.

        Args:
            crops: of each image, whose logits are averaged.
            batch_size: crops that go through the model at a time.
            most_pixels: of an image.
            waiting: images in work at once; others are refused.
        """
        self._model, self._preparation = model, model.preparation(crops)
        self._images = max(1, batch_size // crops.crops_per_image)
        self._most_pixels, self._room = most_pixels, threading.BoundedSemaphore(waiting)
        self._queue: queue.Queue[_Waiting | None] = queue.Queue()
        self._pool = ThreadPoolExecutor(decode_threads()[0], "fastlift-serve")
        self._thread = threading.Thread(target=self._run, name="fastlift-model", daemon=True)
        self.predicted = 0

    def __enter__(self) -> Batcher:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the threads; what waits is answered first."""
        self._pool.shutdown(wait=True)
        self._queue.put(None)
        self._thread.join()

    async def predict(self, data: bytes, answer: AnswerSettings, features: bool, seconds: float) -> Prediction:
        """The prediction of an encoded image.

        Raises:
            Refused: too many wait, it is no image that is taken, or ``seconds`` are over.
        """
        if not self._room.acquire(blocking=False):
            raise Refused(503, "too many images wait; try again in a moment")
        result: Future[Prediction] = Future()
        # Its place is free again when its work has ended, not when nobody waits for it any more.
        result.add_done_callback(lambda _: self._room.release())
        self._pool.submit(self._prepare, data, answer, features, result)
        try:
            found = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(result)), seconds)
        except asyncio.TimeoutError:
            raise Refused(503, f"no answer within {seconds:g} seconds; try again later") from None
        if found.problem:
            raise Refused(422, found.problem)
        return found

    def _prepare(self, data: bytes, answer: AnswerSettings, features: bool, result: Future[Prediction]) -> None:
        """In a thread of the pool: from bytes to crops."""
        try:
            self._check(data)
            crops = self._preparation.crops_of(decode(data), 0)
            self._queue.put(_Waiting(crops, answer, features, result))
        except DecodeError as error:
            result.set_exception(Refused(422, f"the file {error}"))
        except Exception as error:  # the request is answered whatever it is
            result.set_exception(error)

    def _check(self, data: bytes) -> None:
        """Look at the type and the size before anything is decoded."""
        if reason := refusal(data):
            raise Refused(415, f"the file {reason}")
        try:
            with open_image(data) as image:
                pixels = image.width * image.height
        except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
            raise Refused(422, f"the file cannot be decoded ({plain_words(error)})") from error
        if pixels > self._most_pixels:
            raise Refused(
                413, f"the file has {pixels / 1e6:,.1f} million pixels; at most {self._most_pixels / 1e6:g} are taken"
            )

    def _run(self) -> None:
        """In the model's thread: whatever waits, batch by batch."""
        while (first := self._queue.get()) is not None:
            batch, ended = [first], False
            with suppress(queue.Empty):
                while len(batch) < self._images:
                    if (one := self._queue.get_nowait()) is None:
                        ended = True
                        break
                    batch.append(one)
            self._answer(batch)
            if ended:
                return

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            images = self._preparation.batch([one.crops for one in batch])
            most = AnswerSettings(top=max(one.answer.top for one in batch))
            features = any(one.features for one in batch)
            found = self._model.predicted(["image"] * len(batch), images, most, features)
        except Exception as error:
            for one in batch:
                one.result.set_exception(error)
            return
        self.predicted += len(batch)
        for one, prediction in zip(batch, found, strict=True):
            threshold = self._model.threshold_or(one.answer.threshold)
            one.result.set_result(_cut(prediction, one.answer.top, threshold, one.features))


def _cut(prediction: Prediction, top: int, threshold: float, features: bool) -> Prediction:
    """What one request asked for, of what its batch has."""
    return replace(
        prediction,
        names=prediction.names[:top],
        probabilities=prediction.probabilities[:top],
        classes=prediction.classes[:top],
        threshold=threshold,
        features=prediction.features if features else None,
    )


def warm_up(model: LiftModel, crops: EnsemblingSettings) -> None:
    """Let the model see a batch, so that the first request finds all that is made on the way; raises what it raises."""
    preparation = model.preparation(crops)
    grey = preparation.crops_of(np.full((64, 64, 3), 127, dtype=np.uint8), 0)
    (found,) = model.predicted(["image"], preparation.batch([grey]), AnswerSettings(top=1))
    if found.problem:
        raise UserError(f"this run cannot be served: {found.problem}", exit_code=1)
