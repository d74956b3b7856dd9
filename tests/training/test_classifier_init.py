"""Classifier inits from training images: what they compute, and that a run uses and keeps them."""

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices import on_gpu
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files, tiny_recipe
from PIL import Image
from several import together
from torch import Tensor

import fastlift
from fastlift.config import Config
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.engine import agreement
from fastlift.engine import build as building
from fastlift.engine import model as models
from fastlift.interop import lift_checkpoints as compat
from fastlift.interop.lift_checkpoints import LiftState
from fastlift.models.classifier_init import IMAGE_INITS
from fastlift.models.create import CreateSettings
from fastlift.models.lift import LiftModel
from fastlift.runs import folder as runs
from fastlift.system import launcher
from fastlift.system.progress import Quiet
from fastlift.training import classifier_init


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(tiny_clip, tiny_data, epochs=0, batch_size=8, eval_batch=16)


def test_shots_are_drawn_by_class_and_seed() -> None:
    labels = np.array([0, 1, 0, 2, 1, 0, 0, 1])
    rows = classifier_init.choose_shots(labels, 2, seed=1)
    assert np.bincount(labels[rows]).tolist() == [2, 2, 1]
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(rows, classifier_init.choose_shots(labels, 2, seed=1))
    drawn = {tuple(classifier_init.choose_shots(labels, 1, seed=seed)) for seed in range(40)}
    assert len(drawn) == 4 * 3  # every pair of samples of the first two classes comes up
    assert np.array_equal(classifier_init.choose_shots(labels, None, seed=0), np.arange(8))
    assert len(classifier_init.choose_shots(labels, 1, seed=-1)) == 3  # torch takes negative seeds too


def test_class_means() -> None:
    features, labels = torch.randn(9, 5), torch.tensor([0, 1, 2, 0, 0, 2, 1, 1, 1])
    expected = torch.stack([F.normalize(features[labels == c].mean(dim=0), dim=0) for c in range(3)])
    torch.testing.assert_close(classifier_init.class_means(features, labels, 3), expected)
    with pytest.raises(fastlift.UserError, match=r"1 of 4 classes .*\[3\]"):
        classifier_init.class_means(features, labels, 4)


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_probe_separates(classes: int) -> None:
    """Unit rows whose directions tell rare classes as well as frequent ones."""
    centres = torch.randn(classes, 6) * 4
    labels = torch.cat([torch.full((40 // (c + 1),), c) for c in range(classes)])
    features = centres[labels] + torch.randn(len(labels), 6) * 0.3
    weight = classifier_init.linear_probe(features, labels, classes)
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(classes))
    centred = features - features.mean(dim=0)
    assert ((centred @ weight.T).argmax(dim=1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_seen_whole(settings: Config, tiny_data: Path, interpolation: Any) -> None:
    """Short side to the model's size and the centre: torchvision's Resize and CenterCrop, to a rounding of pixels."""
    from torchvision.transforms import v2

    settings = settings.override(interpolation=interpolation)
    data = building.load_data(settings.data, Quiet())
    model = models.build_model(settings.part(CreateSettings), data.class_names, tuner="none")
    features = classifier_init.frozen_features(model, data.train, LoaderSettings(), BadImageSettings())
    assert len(features) == len(data.train)
    transform = v2.Compose(
        [
            v2.Resize(32, interpolation=v2.InterpolationMode(interpolation)),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(model.preprocessing.mean, model.preprocessing.std),
        ]
    )
    images = torch.stack([transform(Image.open(data.train.file(i)).convert("RGB")) for i in range(8)])
    with torch.no_grad():
        assert F.cosine_similarity(model.features(images), features[:8]).min() > 0.995


@pytest.mark.parametrize(
    ("init", "place"),
    [*((init, "cpu") for init in IMAGE_INITS), pytest.param("class_mean_10", "cuda", marks=on_gpu())],
)
def test_a_run_starts_from_images_and_keeps_it(settings: Config, tmp_path: Path, init: Any, place: str) -> None:
    """Without an epoch, evaluation sees the init itself: colours are told by it; and the run can be loaded again."""
    settings = settings.override(device=place)
    run = fastlift.train(settings.override(init=init), output=tmp_path / "run")
    assert run.metrics.accuracy > 50  # chance is 17
    weight = run.model.trained()["head.weight"].detach().cpu()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(CLASS_NAMES)))
    again = fastlift.load_run(run.folder).trained()["head.weight"]
    assert torch.equal(again, weight)
    other = fastlift.train(settings.override(init=init, seed=5), output=tmp_path / "other")
    is_drawn = init in ("class_mean_1", "class_mean_10")  # other classes have fewer than 100 images
    assert torch.equal(other.model.trained()["head.weight"].cpu(), weight) != is_drawn
    if init == "class_mean_1":
        assert min(CLASS_COUNTS) > 1


def test_training_goes_on_from_it(settings: Config, tmp_path: Path) -> None:
    begun = settings.override(init="class_mean", epochs=1, lr=0.0)
    run = fastlift.train(begun, output=tmp_path / "run")
    initial = fastlift.train(settings.override(init="class_mean"), output=tmp_path / "init")
    assert torch.equal(run.model.trained()["head.weight"], initial.model.trained()["head.weight"])


class Cut(BaseException):
    """Stands for a kill."""


def cut_short_at(monkeypatch: pytest.MonkeyPatch, where: str, *arguments: Any, **options: Any) -> None:
    """Train until ``where`` is called."""

    def cut(*_: object, **__: object) -> Any:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(where, cut)
        with pytest.raises(Cut):
            fastlift.train(*arguments, **options)


@pytest.fixture
def given(tiny_clip: Files) -> LiftState:
    """What a checkpoint of the authors' holds: values that no setting of a run tells."""
    model = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=4, init="random")
    state = compat.lift_state(model)
    return {part: {name: torch.randn_like(tensor) for name, tensor in own.items()} for part, own in state.items()}


def same(model: LiftModel, given: LiftState) -> bool:
    held = compat.lift_state(model)
    return all(torch.equal(held[part][name], tensor) for part, own in given.items() for name, tensor in own.items())


@pytest.mark.parametrize("init", ["random", "class_mean"])
def test_a_run_that_is_only_graded_goes_on_with_what_it_kept(
    init: Any, settings: Config, given: LiftState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short while it is evaluated, an import has the checkpoint's values still, and a classifier init from images its own."""
    settings, start = settings.override(init=init, rank=4), given if init == "random" else None
    whole = fastlift.train(settings, output=tmp_path / "whole", start=start)
    cut_short_at(monkeypatch, "fastlift.engine.train.evaluate", settings, output=tmp_path / "run", start=start)
    kept = (tmp_path / "run" / "checkpoints" / "epoch-000.safetensors").read_bytes()
    resumed = fastlift.train(settings, output=tmp_path / "run", resume=True)
    assert resumed.metrics == whole.metrics
    assert compat.lift_state(resumed.model)["head"]["weight"].equal(compat.lift_state(whole.model)["head"]["weight"])
    assert (tmp_path / "run" / "checkpoints" / "epoch-000.safetensors").read_bytes() == kept
    assert start is None or same(fastlift.load_run(tmp_path / "run"), given)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_given_start_that_was_not_kept_is_asked_for_again(
    epochs: int, settings: Config, given: LiftState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short before its first checkpoint, a run does not go on from another start without a word."""
    settings = settings.override(init="random", rank=4, epochs=epochs, lr=0.0)
    run = tmp_path / "run"
    cut_short_at(monkeypatch, "fastlift.runs.checkpoints.write", settings, output=run, start=given)
    assert runs.state(run) is runs.State.UNKEPT
    with pytest.raises(fastlift.UserError, match=r"cut short before it kept that.*--overwrite"):
        fastlift.train(settings, output=run, resume=True)
    with pytest.raises(fastlift.UserError, match="no checkpoint"):
        fastlift.load_run(run)
    assert same(fastlift.train(settings, output=run, resume=True, start=given).model, given)
    assert runs.state(run) is runs.State.ENDED
    assert not list(run.glob(".given*"))


def test_a_given_start_is_kept_before_the_first_step(
    settings: Config, given: LiftState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.override(init="random", rank=4, epochs=1)
    whole = fastlift.train(settings, output=tmp_path / "whole", start=given)
    cut_short_at(monkeypatch, "fastlift.training.step.Learner.step", settings, output=tmp_path / "run", start=given)
    resumed = fastlift.train(settings, output=tmp_path / "run", resume=True)
    ours, theirs = (compat.lift_state(run.model) for run in (resumed, whole))
    assert all(torch.equal(ours[part][name], tensor) for part, own in theirs.items() for name, tensor in own.items())
    assert not same(whole.model, given)


def init_among_others(settings: Config, output: Path) -> tuple[int, int, Tensor]:
    """How many images this rank looks at, how often it makes the weight of them all, and the weight it has then.

    Each look at the clock of a rank that waits for the first one is an hour.
    """
    look, make, does, hours = models.frozen_features, models.init_from_features, models.first_does, itertools.count()
    looked, made = [0], [0]

    def counted(*given: Any, **named: Any) -> Tensor:
        features = look(*given, **named)
        looked[0] += len(features)
        return features

    def slowly(*given: Any) -> Tensor:
        made[0] += 1
        time.sleep(0.3)  # until the others wait
        return make(*given)

    def for_hours(*given: Any) -> None:
        if launcher.rank() > 0:
            agreement.time = SimpleNamespace(sleep=time.sleep, monotonic=lambda: 3600.0 * next(hours))  # type: ignore[assignment]
        does(*given)
        agreement.time = time

    models.frozen_features, models.init_from_features, models.first_does = counted, slowly, for_hours  # type: ignore[attr-defined]
    run = fastlift.train(settings, output=output)
    return looked[0], made[0], run.model.trained()["head.weight"].detach()


@pytest.mark.parametrize(
    ("init", "processes", "shares"),
    [("class_mean", 2, [16, 22]), ("class_mean_10", 4, [0, 16, 16, 2]), ("linear_probe", 3, [16, 16, 6])],
)
def test_processes_share_the_images_of_an_init(
    settings: Config, tmp_path: Path, init: Any, processes: int, shares: list[int]
) -> None:
    """By whole batches of 16, so that the weight has the same bits for any number of them; the first one makes it for all."""
    settings = settings.override(init=init, amp="fp32", threads=1)
    ranks = together(tmp_path / "said", processes, init_among_others, settings, tmp_path / "several")
    assert [looked for looked, _, _ in ranks] == shares
    assert [made for _, made, _ in ranks] == [1] + [0] * (processes - 1)
    alone = fastlift.train(settings, output=tmp_path / "one").model.trained()["head.weight"]
    for _, _, weight in ranks:
        assert torch.equal(weight, alone)


def test_inits_without_meaning_are_refused(settings: Config, tiny_clip: Files) -> None:
    with pytest.raises(fastlift.UserError, match="no weight of its own"):
        settings.override(init="class_mean", classifier="text")
    with pytest.raises(fastlift.UserError, match="needs training images"):
        fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, init="class_mean")  # type: ignore[arg-type]


def test_a_weight_as_init(tiny_clip: Files) -> None:
    weight = torch.randn(6, 48)
    model = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, init=weight)
    assert torch.equal(model.trained()["head.weight"], weight)
    with pytest.raises(fastlift.UserError, match=r"expected \[6, 48\], got \[5, 48\]"):
        fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, init=weight[:5])
