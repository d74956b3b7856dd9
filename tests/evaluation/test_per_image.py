"""What is kept of each image agrees with the counts, and which images are chosen for the page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import CLASS_NAMES, Files, tiny_recipe
from PIL import Image

import fastlift
from fastlift.data.datasets.dataset import Rank
from fastlift.data.index.index import ImageIndex
from fastlift.engine.build import load_data
from fastlift.evaluation import per_image
from fastlift.evaluation.evaluate import evaluate
from fastlift.evaluation.per_image import PerImage, PerImageRecorder, of_rarest_classes, worst_mistakes
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.models.lift import LiftModel
from fastlift.system.progress import Quiet
from fastlift.training.distributed import World


def recorded(logits: torch.Tensor, labels: torch.Tensor, without: set[int], batch: int = 3) -> PerImage:
    recorder = PerImageRecorder(len(labels))
    for start in reversed(range(0, len(labels), batch)):  # as ranks give them: not in order
        rows = torch.arange(start, min(start + batch, len(labels)))
        recorder.add(rows, logits[rows], labels[rows])
    found = recorder.of_all(World(), torch.device("cpu"), labels.numpy(), without)
    assert found is not None
    return found


def test_columns_are_those_of_the_softmax(device: torch.device) -> None:
    logits = torch.randn(11, 5, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(11) % 5
    logits[4, 2], logits[7] = torch.nan, torch.inf
    found = recorded(logits.to(device), labels.to(device) if device.type == "cpu" else labels, without={2, 9})
    assert found.rows.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 10]
    assert found.labels.tolist() == (found.rows % 5).tolist()
    shares = logits.softmax(dim=1)
    for place, row in enumerate(found.rows.tolist()):
        if row in (4, 7):
            assert (found.predicted[place], found.confidence[place], found.label_probability[place]) == (-1, 0, 0)
        else:
            assert found.predicted[place] == int(shares[row].argmax())
            assert found.confidence[place] == pytest.approx(float(shares[row].max()), abs=1e-6)
            assert found.label_probability[place] == pytest.approx(float(shares[row, row % 5]), abs=1e-6)
    assert not found.wrong[found.predicted < 0].any()


def test_of_very_many_images_every_kth_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_image, "MOST_KEPT", 40)
    found = recorded(torch.randn(100, 4), torch.zeros(100, dtype=torch.int64), without={6})
    assert found.every == 3
    assert found.rows.tolist() == [row for row in range(0, 100, 3) if row != 6]
    assert len(recorded(torch.randn(40, 4), torch.zeros(40, dtype=torch.int64), without=set())) == 40


def made(labels: list[int], predicted: list[int], confidence: list[float]) -> PerImage:
    columns = np.array(labels, np.int32), np.array(predicted, np.int32), np.array(confidence, np.float32)
    own = np.where(columns[0] == columns[1], columns[2], 0.0).astype(np.float32)
    return PerImage(np.arange(len(labels)) * 10, *columns, own)


def test_worst_mistakes_come_first_and_no_pair_fills_the_page() -> None:
    found = made([0, 0, 0, 0, 1, 2, 2], [1, 1, 1, 0, 0, -1, 2], [0.9, 0.8, 0.7, 0.99, 0.6, 0.0, 0.5])
    assert worst_mistakes(found, 10).tolist() == [0, 1, 4]
    assert worst_mistakes(found, 2).tolist() == [0, 1]
    assert worst_mistakes(found, 10, of_a_pair=1).tolist() == [0, 4]
    assert worst_mistakes(found, 0).tolist() == []
    assert worst_mistakes(made([1], [1], [0.9]), 10).tolist() == []


def test_the_rarest_classes_that_have_test_images() -> None:
    found = made([0, 0, 0, 0, 0, 1, 3, 3, 4], [0] * 9, [0.5] * 9)
    chosen = of_rarest_classes(found, [50, 9, 1, 3, 9], classes=3, of_a_class=3)
    assert [places.tolist() for places in chosen] == [[6, 7], [5], [8]]  # class 2 has no test image; ties by number
    assert [places.tolist() for places in of_rarest_classes(found, [1, 9, 9, 9, 9], 1, 3)] == [[0, 2, 4]]
    assert of_rarest_classes(found, [1] * 5, 0, 3) == []


@pytest.fixture
def evaluated(tiny_clip: Files, tiny_data: Path) -> tuple[LiftModel, ImageIndex, list[int]]:
    data = load_data(tiny_recipe(tiny_clip, tiny_data).data, Quiet())
    model = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=2)
    return model, data.test, data.group_counts.tolist()


@pytest.mark.parametrize("ranked", [False, True])
def test_an_evaluation_agrees_with_its_own_figures(
    evaluated: tuple[LiftModel, ImageIndex, list[int]], ranked: bool
) -> None:
    model, index, counts = evaluated
    rank = Rank(("warm", "cold"), np.array([0, 1, 1, 1, 0, 0])) if ranked else None
    passes = EvaluationSettings(eval_batch=7)
    found = evaluate(model, index, counts, passes, rank=rank, per_image=True)
    said = found.per_image
    assert said is not None
    assert len(said) == len(index) == found.metrics.samples
    assert 100 * np.mean(said.predicted == said.labels) == pytest.approx(found.metrics.accuracy)
    assert set(said.labels.tolist()) == set(range(2 if ranked else 6))
    assert -np.log(said.label_probability).mean() == pytest.approx(found.metrics.log_loss, rel=1e-4)
    assert evaluate(model, index, counts, passes, rank=rank).per_image is None


def test_an_image_that_breaks_when_it_is_decoded_has_no_answer(
    evaluated: tuple[LiftModel, ImageIndex, list[int]], tmp_path: Path
) -> None:
    """What the model says there is of its replacement."""
    model, index, counts = evaluated
    for path in index.paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.open(index.root / path).save(tmp_path / path, "PNG")
    broken = tmp_path / index.paths[5]
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2] + whole[-12:])
    passes = EvaluationSettings(eval_batch=7, bad_images="skip")
    said = evaluate(model, replace(index, root=tmp_path), counts, passes, per_image=True).per_image
    assert said is not None
    assert said.rows.tolist() == [row for row in range(len(index)) if row != 5]
