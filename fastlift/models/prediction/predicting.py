"""Images through a model: decoded by threads, cropped as in evaluation, in batches, their results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from fastlift.data.loading.collate import Normalise
from fastlift.data.loading.decode import jpeg_decoder
from fastlift.data.loading.reading import DecodeError
from fastlift.errors import OutOfMemory, UserError, is_out_of_memory
from fastlift.models.calibrated import Calibration
from fastlift.models.prediction.inputs import OneImage, Unit, is_single, units
from fastlift.models.prediction.preparation import Preparation
from fastlift.models.prediction.result import AnswerSettings, Prediction, Predictions
from fastlift.models.preprocessing import Ensembling, EnsemblingSettings, Preprocessing
from fastlift.system.device import using_device
from fastlift.system.machine.threads import decode_threads

if TYPE_CHECKING:
    from PIL.Image import Image

NOT_FINITE = "the model gives NaN or infinity for it"
_AHEAD = 3  # batches whose images are read and cropped before the model comes to them


class PredictOptions(TypedDict, total=False):
    """The keywords of ``predict``; ``predict_each`` says what they do."""

    top: int
    threshold: float | None
    features: bool
    batch_size: int
    tte: Ensembling
    tte_crops: int
    expand: int | None
    workers: int | None
    bad_images: Literal["stop", "skip"]


class Prepared(NamedTuple):
    """An image as the model takes it, or why there is none."""

    name: str
    crops: np.ndarray | None  # [V, 3, S, S]
    problem: str = ""


@dataclass(frozen=True)
class _Asked:
    """How images are predicted."""

    answer: AnswerSettings
    crops: EnsemblingSettings
    features: bool
    batch_size: int
    workers: int
    stop: bool

    @property
    def images_at_a_time(self) -> int:
        return max(1, self.batch_size // self.crops.crops_per_image)


class Predicts(nn.Module):
    """A model that says what is on images; see ``predict``."""

    vit: Any
    classifier: Any
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    calibration: Calibration | None = None

    @overload
    def predict(self, images: Image, **options: Unpack[PredictOptions]) -> Prediction: ...

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...], **options: Unpack[PredictOptions]) -> Predictions: ...

    # What a path, an array or a tensor holds, no type tells: Any lets both be used.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, images: str | os.PathLike[str] | bytes | np.ndarray | Tensor, **options: Unpack[PredictOptions]
    ) -> Prediction | Predictions | Any: ...

    @overload
    def predict(self, images: Iterable[Any], **options: Unpack[PredictOptions]) -> Predictions: ...

    def predict(self, images: Any, **options: Unpack[PredictOptions]) -> Any:
        """What the model says of images: of one image a ``Prediction``, of several a list, in their order.

        Args:
            images: one of: a PIL image; the path of a file; its encoded bytes; an array [H, W, 3] or [H, W], uint8 or floats
                from 0 to 1; a tensor [3, H, W] of the same. Or several: a list of these; an array [N, H, W, 3] or a tensor
                [N, 3, H, W]; a folder, searched to any depth; a pattern (``photos/*.jpg``); a tar file of images; a data
                set of (image, label); a loader, whose float batches [B, 3, S, S] are taken as they are, normalised and
                of the model's size, as those of ``fastlift.data.build_loader`` and of training are.
            options: as in ``predict_each``.

        Raises:
            UserError: as in ``predict_each``.
        """
        single = is_single(images)
        found = Predictions(self.predict_each(images, **options))
        return found[0] if single else found

    def predict_each(
        self,
        images: Any,
        *,
        top: int = 5,
        threshold: float | None = None,
        features: bool = False,
        batch_size: int = 64,
        tte: Ensembling = "none",
        tte_crops: int = 10,
        expand: int | None = None,
        workers: int | None = None,
        bad_images: Literal["stop", "skip"] = "stop",
    ) -> Iterator[Prediction]:
        """As ``predict``, one after another, with no more than a few batches in memory: for folders of any size.

        The model stays where it is and computes in its own dtype: ``load_run(..., device="auto", amp="auto")`` gives one on
        the GPU, if there is one, in the dtype of its training.

        Args:
            images: as in ``predict``.
            top: how many classes of each image, the most probable first.
            threshold: an image whose most probable class has a probability below it has no ``answer``: "none of these".
                Default: that of the calibration (``load_run(..., calibrated=True)``) if it has one, else 0.
            features: also the backbone's features of each image, float32 [D], the mean over its crops.
            batch_size: crops that go through the model at a time.
            tte, tte_crops, expand: test-time ensembling, as in ``fastlift evaluate``: the mean logits of several crops.
            workers: threads that read, decode and crop; default: the CPUs of this process, at most 16.
            bad_images: "stop" raises at an image that cannot be used; "skip" gives a ``Prediction`` with the ``problem``.

        Raises:
            UserError: settings out of range; other crops than a calibrated model was calibrated with; a place that does not
                exist; while iterating, what is no image.
            OutOfMemory: a batch is too large for the memory.
        """
        if batch_size < 1 or (workers is not None and workers < 1):
            raise UserError(f"batch_size and workers: expected 1 or more, got {batch_size} and {workers}")
        if bad_images not in ("stop", "skip"):
            raise UserError(f"bad_images: expected stop or skip, got {bad_images!r}")
        crops = EnsemblingSettings(tte, tte_crops, expand)
        if self.calibration is not None:
            self.calibration.check_crops(crops)
        asked = _Asked(
            AnswerSettings(top, threshold),
            crops,
            features,
            batch_size,
            workers or decode_threads()[0],
            bad_images == "stop",
        )
        found = units(images)  # what is named and does not exist is told now, not at the first result
        return self._predicted(found, asked, is_single(images))

    def threshold_or(self, asked: float | None) -> float:
        """The threshold that was asked for, else that of the calibration, else 0."""
        if asked is not None:
            return asked
        return 0.0 if self.calibration is None else self.calibration.threshold or 0.0

    def preparation(self, crops: EnsemblingSettings) -> Preparation:
        """What makes this model's input of decoded images, where the model lies now and in the dtype it computes in."""
        given, device = self.preprocessing, next(self.parameters()).device
        normalise = Normalise(given.mean, given.std, self.vit.compute_dtype, device)
        return Preparation(crops.build(given), normalise)

    def predicted(
        self, names: list[str], images: Tensor, answer: AnswerSettings, features: bool = False
    ) -> list[Prediction]:
        """The predictions of a batch.

        Args:
            names: what the images are called.
            images: as the model takes them, float [B, 3, S, S] or [B, V, 3, S, S], on its device.
            answer: how many classes are named, and the threshold.
            features: also give the features.
        """
        with torch.inference_mode(), using_device(images.device):
            crops = images.flatten(0, 1) if images.ndim == 5 else images
            vectors = self.features(crops)
            logits = self.classifier(vectors)
            if images.ndim == 5:
                logits, vectors = (part.unflatten(0, images.shape[:2]).mean(dim=1) for part in (logits, vectors))
            best = logits.softmax(dim=1).topk(min(answer.top, len(self.class_names)), dim=1)
            finite = logits.isfinite().all(dim=1).tolist()
            rows = zip(names, finite, best.values.tolist(), best.indices.tolist(), strict=True)
            kept = vectors.float().cpu().numpy() if features else None
        return [
            Prediction(
                name,
                tuple(self.class_names[number] for number in classes),
                tuple(probabilities),
                tuple(classes),
                self.threshold_or(answer.threshold),
                None if kept is None else kept[row],
            )
            if is_finite
            else Prediction(name, problem=NOT_FINITE)
            for row, (name, is_finite, probabilities, classes) in enumerate(rows)
        ]

    def features(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, 3, S, S], in the compute dtype."""
        raise NotImplementedError

    def _predicted(self, found: Iterator[Unit], asked: _Asked, single: bool) -> Iterator[Prediction]:
        preparation, number = self.preparation(asked.crops), 0
        for group in _groups(found, preparation, asked, 1 if single else asked.workers):
            if isinstance(group, Tensor):
                images = self._checked(group)
                for part in images.split(max(1, asked.batch_size // (images.shape[1] if images.ndim == 5 else 1))):
                    names = [f"image {number + row}" for row in range(len(part))]
                    yield from self._attempted(names, part, asked)
                    number += len(part)
                continue
            crops = [one.crops for one in group if one.crops is not None]
            good = [one.name for one in group if one.crops is not None]
            answers = iter(self._attempted(good, preparation.batch(crops), asked) if crops else [])
            for one in group:
                result = Prediction(one.name, problem=one.problem) if one.crops is None else next(answers)
                if result.problem and asked.stop:
                    raise UserError(f"{one.name}: {result.problem} (bad_images='skip' goes on)", exit_code=1)
                yield result
            number += len(group)

    def _attempted(self, names: list[str], images: Tensor, asked: _Asked) -> list[Prediction]:
        try:
            return self.predicted(names, images, asked.answer, asked.features)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        smaller = asked.batch_size // 2
        cure = f"try batch_size={smaller}" if smaller else "try the CPU, or a smaller model"
        raise OutOfMemory(f"out of memory in prediction with {len(names)} images at a time: {cure}")

    def _checked(self, images: Tensor) -> Tensor:
        """A loader's batch on the model's device, if it is of the model's size."""
        size = self.preprocessing.image_size
        if images.ndim > 5 or images.shape[-3:] != (3, size, size):
            raise UserError(
                f"a loader's batch of floats is taken as normalised and cropped: expected [B, 3, {size}, {size}], got "
                f"{list(images.shape)}; give images of other sizes as uint8"
            )
        return images.to(next(self.parameters()).device, self.vit.compute_dtype)


def _groups(
    found: Iterator[Unit], preparation: Preparation, asked: _Asked, workers: int
) -> Iterator[list[Prepared] | Tensor]:
    """Images in groups for a batch each, and loaders' batches, in order."""
    group: list[Prepared] = []
    for one in _prepared(found, preparation, workers, _AHEAD * asked.images_at_a_time):
        if isinstance(one, Tensor):
            if group:
                yield group
            group = []
            yield one
            continue
        group.append(one)
        if len(group) == asked.images_at_a_time:
            yield group
            group = []
    if group:
        yield group


def _prepared(found: Iterator[Unit], preparation: Preparation, workers: int, ahead: int) -> Iterator[Prepared | Tensor]:
    """Each image when it is read and cropped, in order; so many are worked on at a time."""
    if workers == 1:
        yield from (_prepare(unit, number, preparation) for number, unit in enumerate(found))
        return
    jpeg_decoder()  # here rather than in several threads: whether it is missing is said once
    pool = ThreadPoolExecutor(workers, "fastlift-predict")
    waiting: deque[tuple[int, Future[Prepared | Tensor]]] = deque()  # each with how many images it is
    try:
        for number, unit in enumerate(found):
            images = 1 if isinstance(unit, OneImage) else len(unit.images)
            waiting.append((images, pool.submit(_prepare, unit, number, preparation)))
            while sum(count for count, _ in waiting) >= ahead:
                yield waiting.popleft()[1].result()
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare(unit: Unit, number: int, preparation: Preparation) -> Prepared | Tensor:
    if not isinstance(unit, OneImage):
        return unit.images
    try:
        return Prepared(unit.name, preparation.crops_of(unit.load(), number))
    except DecodeError as error:
        return Prepared(unit.name, None, str(error))
