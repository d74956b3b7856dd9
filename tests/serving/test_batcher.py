"""Images of concurrent requests go through the model together; limits of number and time hold."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fixtures import CLASS_NAMES, Files
from PIL import Image

import fastlift
from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.models.prediction.result import AnswerSettings, Prediction
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.serving.app import _body
from fastlift.serving.batcher import Batcher, Refused, warm_up
from fastlift.serving.settings import ServingSettings


@pytest.fixture
def model(tiny_clip: Files) -> LiftModel:
    return fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=3)


def image(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (colour, 90, 255 - colour)).save(file, "PNG")
    return file.getvalue()


class Held:
    """A model's features that wait until they are let go; notes how many images each batch has, and the thread."""

    def __init__(self, model: LiftModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.busy = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        self.threads: set[str] = set()
        plain = model.features

        def features(images: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(images))
            self.threads.add(threading.current_thread().name)
            self.busy.set()
            assert self.go.wait(60)
            return plain(images)

        monkeypatch.setattr(model, "features", features)


def batcher(model: LiftModel, tte: str = "none", batch_size: int = 8, waiting: int = 64) -> Batcher:
    crops = EnsemblingSettings(tte=tte)  # type: ignore[arg-type]
    return Batcher(model, crops, batch_size=batch_size, most_pixels=10_000, waiting=waiting)


@pytest.mark.parametrize(("tte", "sizes"), [("none", [1, 8, 2]), ("fivecrop", [5] * 11)])
def test_what_waits_is_one_batch(model: LiftModel, monkeypatch: pytest.MonkeyPatch, tte: str, sizes: list[int]) -> None:
    """While the first image is in the model, ten others come; all crops of an image go together."""
    files = [image(25 * number) for number in range(11)]
    wanted = model.predict(files, top=6, tte=tte)  # type: ignore[call-overload]
    held = Held(model, monkeypatch)

    async def ask(some: Batcher) -> list[Prediction]:
        tasks = [asyncio.create_task(some.predict(files[0], AnswerSettings(6), False, 60))]
        await asyncio.to_thread(held.busy.wait, 60)
        tasks += [asyncio.create_task(some.predict(file, AnswerSettings(6), False, 60)) for file in files[1:]]
        while some._queue.qsize() < 10:
            await asyncio.sleep(0.01)
        held.go.set()
        return await asyncio.gather(*tasks)

    with batcher(model, tte) as some:
        found = asyncio.run(ask(some))
    assert held.sizes == sizes
    assert held.threads == {"fastlift-model"}
    assert some.predicted == 11
    for one, other in zip(found, wanted, strict=True):
        assert one.names == other.names
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4)


def test_of_a_batch_each_request_gets_what_it_asked_for(model: LiftModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [(AnswerSettings(1), False), (AnswerSettings(6, 0.999), True), (AnswerSettings(2), False)]
    held = Held(model, monkeypatch)

    async def ask(some: Batcher) -> list[Prediction]:
        first = asyncio.create_task(some.predict(image(9), AnswerSettings(), False, 60))
        await asyncio.to_thread(held.busy.wait, 60)
        tasks = [asyncio.create_task(some.predict(image(9), *one, 60)) for one in asked]
        while some._queue.qsize() < len(asked):
            await asyncio.sleep(0.01)
        held.go.set()
        await first
        return await asyncio.gather(*tasks)

    with batcher(model) as some:
        found = asyncio.run(ask(some))
    assert held.sizes == [1, 3]
    for one, (answer, features) in zip(found, asked, strict=True):
        assert len(one.names) == len(one.probabilities) == len(one.classes) == answer.top
        assert (one.features is not None) == features
        assert (one.answer is None) == (answer.threshold is not None)


def test_more_than_may_wait_are_refused_and_places_come_free(model: LiftModel, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(model, monkeypatch)

    async def ask(some: Batcher) -> None:
        tasks = [asyncio.create_task(some.predict(image(9), AnswerSettings(), False, 60)) for _ in range(3)]
        await asyncio.to_thread(held.busy.wait, 60)
        with pytest.raises(Refused, match="too many images wait") as refused:
            await some.predict(image(9), AnswerSettings(), False, 60)
        assert refused.value.status == 503
        held.go.set()
        await asyncio.gather(*tasks)
        assert (await some.predict(image(9), AnswerSettings(), False, 60)).names
        with pytest.raises(Refused, match="is text"):
            await some.predict(b"hello", AnswerSettings(), False, 60)
        for _ in range(4):  # a refused image gives its place back
            assert (await some.predict(image(9), AnswerSettings(), False, 60)).names

    with batcher(model, waiting=3) as some:
        asyncio.run(ask(some))


def test_an_answer_that_takes_too_long_is_refused_and_keeps_its_place_until_it_is_there(
    model: LiftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(model, monkeypatch)

    async def ask(some: Batcher) -> None:
        with pytest.raises(Refused, match=r"no answer within 0\.05 seconds") as refused:
            await some.predict(image(9), AnswerSettings(), False, 0.05)
        assert refused.value.status == 503
        await asyncio.to_thread(held.busy.wait, 60)
        with pytest.raises(Refused, match="too many images wait"):
            await some.predict(image(9), AnswerSettings(), False, 60)
        held.go.set()

    with batcher(model, waiting=1) as some:
        asyncio.run(ask(some))


def test_errors_of_the_model_are_the_requests(model: LiftModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one is answered."""
    plain = model.features
    faults = [RuntimeError("broken")]

    def features(images: torch.Tensor) -> torch.Tensor:
        if faults:
            raise faults.pop()
        return plain(images)

    monkeypatch.setattr(model, "features", features)
    with batcher(model) as some:
        with pytest.raises(RuntimeError, match="broken"):
            asyncio.run(some.predict(image(9), AnswerSettings(), False, 60))
        assert asyncio.run(some.predict(image(9), AnswerSettings(), False, 60)).names


def test_a_model_that_is_not_finite_is_not_served(model: LiftModel) -> None:
    warm_up(model, EnsemblingSettings())
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="this run cannot be served: the model gives NaN"):
        warm_up(model, EnsemblingSettings())
    with batcher(model) as some, pytest.raises(Refused, match="NaN") as refused:
        asyncio.run(some.predict(image(9), AnswerSettings(), False, 60))
    assert refused.value.status == 422


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"\xff\xd8\xff"
        await asyncio.Event().wait()

    request: Any = SimpleNamespace(headers={"content-type": "image/jpeg"}, stream=stream)
    with pytest.raises(Refused, match=r"did not come within 0\.05 seconds") as refused:
        asyncio.run(_body(request, ServingSettings(seconds=0.05)))
    assert refused.value.status == 408
