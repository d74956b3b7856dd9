"""Predictions come in the order of the images, each image's own, however batches are queued."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from fixtures import CLASS_NAMES, Files

import fastlift
from fastlift.data.image_sources import ImageSources
from fastlift.evaluation import predict as module
from fastlift.evaluation.evaluate import mean_logits
from fastlift.evaluation.predict import Best, index_images, predict_rows
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.lift import LiftModel


@pytest.fixture
def model(tiny_clip: Files, device: torch.device) -> LiftModel:
    return fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=3).to(device)


def predictions(model: LiftModel, folder: Path, size: int, **settings: object) -> list[Best]:
    index, _, bad = index_images(list(ImageSources([folder / "test"])))
    assert not bad
    passes = InferenceSettings(eval_batch=size, **settings)  # type: ignore[arg-type]
    return list(predict_rows(model, index, passes, top=5, on_bad=lambda row, reason: None))


@pytest.mark.parametrize("ensembling", ["none", "fivecrop"])
@pytest.mark.parametrize("behind", [0, 1, 3])
def test_batches_read_late_are_the_same(
    model: LiftModel, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, behind: int, ensembling: str
) -> None:
    whole = predictions(model, tiny_data, 1000, tte=ensembling)
    monkeypatch.setattr(module, "_behind", lambda results, _: _behind(results, behind))
    late = predictions(model, tiny_data, 20, tte=ensembling)
    assert len({tuple(prediction.probabilities) for prediction in whole}) > 5, "images that differ"
    assert [(p.row, p.classes) for p in late] == [(p.row, p.classes) for p in whole]
    for one, other in zip(late, whole, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4)


_behind = module._behind


@pytest.mark.parametrize(
    ("behind", "order"), [(0, "q0 r0 q1 r1 q2 r2"), (1, "q0 q1 r0 q2 r1 r2"), (5, "q0 q1 q2 r0 r1 r2")]
)
def test_a_batch_is_read_after_the_next_is_queued(behind: int, order: str) -> None:
    done: list[str] = []

    def queued() -> Iterator[Callable[[], int]]:
        for number in range(3):
            done.append(f"q{number}")
            yield partial(read, number)

    def read(number: int) -> int:
        done.append(f"r{number}")
        return number

    assert list(_behind(queued(), behind)) == [0, 1, 2]
    assert " ".join(done) == order


def test_all_crops_of_a_batch_go_through_the_model_at_once(model: LiftModel, device: torch.device) -> None:
    """Five crops of three images are fifteen images; the mean is over an image's own."""
    sizes: list[int] = []
    model.vit.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    images = torch.randn(3, 5, 3, 32, 32).to(device)
    with torch.inference_mode():
        together = mean_logits(model, images)
        each = torch.stack([model(crops).mean(dim=0) for crops in images])
    assert sizes == [15, 5, 5, 5]
    torch.testing.assert_close(together, each, rtol=1e-4, atol=1e-5)
