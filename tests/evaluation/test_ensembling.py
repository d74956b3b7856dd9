"""Ways of testing: five, ten and random crops, any expand, memory, the training split, several checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import Files, tiny_recipe

import fastlift
from fastlift.config import Config
from fastlift.data.loading.loader import build_loader
from fastlift.engine.build import load_data
from fastlift.engine.evaluate import evaluate_run
from fastlift.evaluation import evaluate as evaluation
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.models.precision import DTYPES
from fastlift.system.progress import Quiet


@pytest.fixture(scope="module")
def run(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = tiny_recipe(
        tiny_clip,
        tiny_data,
        epochs=2,
        batch_size=8,
        lr=0.02,
        eval_batch=10,
    )
    return fastlift.train(settings, output=tmp_path_factory.mktemp("ensembling") / "run").folder


def config(run: Path, **changes: object) -> Config:
    return fastlift.config.load(run / "config.json").override(**changes)


@pytest.mark.parametrize(
    ("settings", "name", "crops"),
    [
        ({"tte": "none"}, "center", 1),
        ({"tte": "fivecrop"}, "fivecrop", 5),
        ({"tte": "fivecrop", "expand": 9}, "fivecrop+9", 5),
        ({"tte": "tencrop"}, "tencrop", 10),
        ({"tte": "random", "tte_crops": 3}, "random-3", 3),
        ({"tte": "random", "tte_crops": 16}, "random-16", 16),
    ],
)
def test_crops_share_the_memory_of_a_batch(
    run: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], name: str, crops: int
) -> None:
    """The model never sees more images at a time than --eval-batch says (one image's crops, if those are more)."""
    seen: list[torch.Size] = []
    plain = evaluation.mean_logits
    monkeypatch.setattr(
        evaluation, "mean_logits", lambda model, images: (seen.append(images.shape), plain(model, images))[1]
    )
    rows = evaluate_run(run, settings=settings)
    assert list(rows) == [name]
    assert sum(shape[0] for shape in seen) == 24
    assert max(shape[:-3].numel() for shape in seen) <= max(10, crops)
    assert {1 if len(shape) == 4 else shape[1] for shape in seen} == {crops}
    assert json.loads((run / "results.json").read_text())["evaluations"][name] == rows[name]
    assert name in (run / "report.html").read_text(encoding="utf-8")


def test_random_crops_are_fixed_by_the_seed(run: Path, device: torch.device) -> None:
    data = load_data(config(run).data, Quiet())
    model = fastlift.load_run(run).to(device)

    def log_loss(**changes: object) -> float:
        settings = config(run, tte="random", tte_crops=2, **changes)
        passes = settings.part(EvaluationSettings)
        counts = data.group_counts.tolist()
        return evaluation.evaluate(model, data.test, counts, passes).metrics.to_dict()["log_loss"]

    assert log_loss() == log_loss()
    assert log_loss() == pytest.approx(log_loss(eval_batch=3), rel=1e-6)  # of the batch they do not depend
    assert log_loss() != log_loss(seed=1)


@pytest.mark.parametrize("ensembling", ["none", "fivecrop"])
@pytest.mark.parametrize("amp", ["fp32", "bf16", "fp16"])
def test_figures_are_those_of_plain_logits(run: Path, device: torch.device, ensembling: Any, amp: str) -> None:
    """On every device: of logits that NumPy takes the figures of, from the same crops on the CPU in fp32."""
    settings = config(run, tte=ensembling, device=str(device), amp=amp)
    data = load_data(settings.data, Quiet())
    model, passes = fastlift.load_run(run), settings.part(EvaluationSettings)
    model.set_compute_dtype(DTYPES[amp])
    found = evaluation.evaluate(model.to(device), data.test, data.group_counts.tolist(), passes).metrics
    plain, logits, labels = fastlift.load_run(run), [], []
    crops = passes.build(plain.preprocessing)
    size = plain.preprocessing
    loader = build_loader(data.test, crops, batch_size=5, shuffle=False, mean=size.mean, std=size.std)
    with torch.no_grad():
        for images, theirs, _ in loader.epoch(0):
            logits.append(evaluation.mean_logits(plain, images).double().numpy())
            labels.append(theirs.numpy())
    loader.close()
    z, y = np.concatenate(logits), np.concatenate(labels)
    log_probabilities = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    exact = amp == "fp32"
    assert found.log_loss == pytest.approx(-log_probabilities[np.arange(len(y)), y].mean(), rel=1e-4 if exact else 0.1)
    assert found.accuracy == pytest.approx(100 * (z.argmax(axis=1) == y).mean(), abs=1e-9 if exact else 9.0)


def test_mean_logits_are_those_of_the_crops(run: Path, device: torch.device) -> None:
    model, images = fastlift.load_run(run).to(device), torch.randn(3, 5, 3, 32, 32).to(device)
    with torch.no_grad():
        expected = sum(model(images[:, crop]) for crop in range(5)) / 5
        torch.testing.assert_close(evaluation.mean_logits(model, images), expected, rtol=1e-5, atol=1e-5)


def test_probabilities_of_groups(device: torch.device) -> None:
    """Sums over each group's classes; a row that is not finite stays so."""
    logits = torch.randn(5, 9)
    logits[3, 4] = torch.nan
    of_class = np.array([2, 0, 1, 1, 0, 2, 2, 0, 2])
    found = evaluation.Groups(of_class, 4, device).logits(logits.to(device)).cpu()
    probabilities = logits.double().softmax(dim=1)
    for group in range(3):
        expected = probabilities[:, of_class == group].sum(dim=1).log()
        torch.testing.assert_close(found[:, group].double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert (found[[0, 1, 2, 4], 3] < -80).all(), "a group without a class has no probability"
    assert found[3].isnan().all()


def test_checkpoints_and_the_training_split(run: Path) -> None:
    rows = evaluate_run(run, ["epoch-001", "epoch-002"], split="train")
    assert list(rows) == ["center@epoch-001 (train)", "center@epoch-002 (train)"]
    assert all(row["samples"] == 38 for row in rows.values())
    assert rows["center@epoch-001 (train)"] != rows["center@epoch-002 (train)"]
    with pytest.raises(fastlift.UserError, match="there are: epoch-001, epoch-002"):
        evaluate_run(run, ["epoch-009"])


def test_other_images_have_a_name_of_their_own(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    """A test list that changed since the training does not take the place of its result."""
    shorter = tmp_path / "test.txt"
    shorter.write_text("\n".join((tiny_data / "test.txt").read_text().splitlines()[2:]))
    before = evaluate_run(run)["center"]
    [name] = evaluate_run(run, settings={"test_list": shorter})
    assert name.startswith("center (images ")
    kept = json.loads((run / "results.json").read_text())["evaluations"]
    assert kept["center"] == before
    assert kept[name]["samples"] == before["samples"] - 2


def test_group_boundaries(run: Path) -> None:
    """They come from the run's config, an evaluation may move them, and both are told apart."""
    counts = json.loads((run / "data.json").read_text())["class_counts"]
    assert json.loads((run / "data.json").read_text())["group_boundaries"] == [20, 100]
    lower, upper = sorted(set(counts))[1:3]
    rows = evaluate_run(run) | evaluate_run(run, settings={"group_boundaries": (lower, upper)})
    assert list(rows) == ["center", f"center (groups at {lower}, {upper})"]
    few, many = (sum(count < lower for count in counts), sum(count > upper for count in counts))
    sizes = rows[f"center (groups at {lower}, {upper})"]["group_sizes"]
    assert sizes == {"many": many, "medium": len(counts) - few - many, "few": few}
    assert rows["center"]["group_sizes"] != sizes
    with pytest.raises(fastlift.UserError, match="do not fall"):
        config(run, group_boundaries=(50, 20))
