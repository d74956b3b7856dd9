"""A classifier split over ranks by class: losses, gradients, steps and checkpoints are those of the unsplit one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files
from safetensors.torch import load_file, save_file
from several import together
from tape import Tape
from torch import Tensor

import fastlift
from fastlift.config import Config
from fastlift.data.loading.mixed import Mixed
from fastlift.data.sampling.stream import share as share_of
from fastlift.engine.processes import company
from fastlift.errors import UserError
from fastlift.models import classifiers
from fastlift.models.classifiers import CLASSIFIERS, LinearClassifier, WeightClassifier
from fastlift.runs import checkpoints
from fastlift.runs.identity import Identity
from fastlift.runs.train_state import TrainState
from fastlift.training.averaging import AverageSettings
from fastlift.training.captured import CapturedStep
from fastlift.training.class_shards import ShardedClassifier, ShardSettings
from fastlift.training.distributed import World, open_group
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

WIDTH = 6
PLACE = TrainState(0, 3, 3, 0, 0.0, 0, 0.0, "data", "classes", "weights", {}, Identity("1", "2", "fp32"), ((0, 1),))


@dataclass(frozen=True)
class Case:
    """A batch on a classifier, in float64."""

    kind: str
    classes: int
    images: int
    prior: str = "random"
    labels: str = "random"
    weighted: bool = False
    smoothing: float = 0.0
    mixed: bool = False

    def make(self) -> tuple[WeightClassifier, Tensor, Tensor, Tensor | None, Tensor | None]:
        """(classifier, features [B, D], labels [B], log prior, class weights), the same on every rank."""
        generator = torch.Generator().manual_seed(self.images)
        classifier = CLASSIFIERS[self.kind](WIDTH, self.classes, generator=generator).double()
        features = torch.randn(self.images, WIDTH, generator=generator, dtype=torch.float64)
        labels = torch.randint(self.classes, (self.images,), generator=generator)
        if self.labels != "random":
            labels = torch.full_like(labels, int(self.labels))
        prior = torch.randn(self.classes, generator=generator, dtype=torch.float64)
        if self.prior == "first half out":
            prior[: self.classes // 2] = -torch.inf
            labels = labels.clamp_min(self.classes // 2)
        weight = torch.rand(self.classes, generator=generator, dtype=torch.float64) + 0.1
        return classifier, features, labels, None if self.prior == "none" else prior, weight if self.weighted else None


CASES = [
    *[Case(kind, 10, 7) for kind in CLASSIFIERS],
    Case("cosine", 4, 9, "none"),  # of four ranks each has one class
    Case("cosine", 10, 3),  # and one no image
    Case("cosine", 10, 1, weighted=True),
    Case("linear", 11, 8, "first half out"),
    Case("linear", 11, 8, labels="0"),
    Case("l2", 11, 8, labels="10", weighted=True),
    Case("linear", 11, 8, smoothing=0.3),
    Case("cosine", 10, 3, "none", weighted=True, smoothing=0.2),
    Case("cosine", 10, 7, mixed=True),
    Case("linear", 11, 3, mixed=True, smoothing=0.1),
    Case("l2", 11, 8, weighted=True, mixed=True, smoothing=0.2),
]


def loss_of_each(
    classifier: WeightClassifier, features: Tensor, labels: Tensor, prior: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor]:
    """The weighted loss of each image and its prediction, by the definition; ``others`` are weights and smoothing."""
    f, w = classifier.prepare(features), classifier.weight
    f = F.normalize(f, dim=1) if classifier.normalize == "both" else f
    z = classifier.scale * f @ (w if classifier.normalize == "none" else F.normalize(w, dim=1)).T
    z = z if classifier.bias is None else z + classifier.bias
    y, (weight, smoothing) = z if prior is None else z + 0.7 * prior, others
    return F.cross_entropy(y, labels, weight, label_smoothing=smoothing, reduction="none"), z.argmax(dim=1)


def compare(world: World, case: Case) -> None:
    """This rank's part against the whole: rounding in float64 alone lies between them."""
    whole, features, labels, prior, weight = case.make()
    expected = copy.deepcopy(whole)
    leaf = features.clone().requires_grad_()
    losses, predictions = loss_of_each(expected, leaf, labels, prior, weight, case.smoothing)
    each = torch.ones(case.classes).double() if weight is None else weight
    counts, mixed = each[labels], None
    if case.mixed:
        mixed = Mixed(labels.flip(0), torch.linspace(0.5, 1, case.images))
        of_others, _ = loss_of_each(expected, leaf, mixed.other, prior, weight, case.smoothing)
        share = mixed.share.double()
        losses = share * losses + (1 - share) * of_others
        counts = share * counts + (1 - share) * each[mixed.other]
    (losses.sum() / counts.sum()).backward()
    split = ShardSettings(True).build(whole, len(whole.weight), world)
    assert isinstance(split, ShardedClassifier)
    taken = share_of(case.images, world.rank, world.size)
    mine = slice(taken.start, taken.stop)
    split.rows = -(-case.images // world.size)
    own = features[mine].clone().requires_grad_()
    part, found = split.cross_entropy(
        own,
        labels[mine],
        log_prior=prior,
        tau=0.7,
        class_weight=weight,
        label_smoothing=case.smoothing,
        mixed=None if mixed is None else mixed.of(mine),
    )
    (part * counts[mine].sum() / counts.sum()).backward()

    def near(a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)

    if taken:
        near(part.detach(), losses[mine].sum().detach() / counts[mine].sum())
    else:
        assert part.item() == 0.0
    assert torch.equal(found, predictions[mine])
    assert own.grad is not None
    assert leaf.grad is not None
    near(own.grad, leaf.grad[mine])
    for name, parameter in expected.named_parameters():
        mine_of_it, gradient = getattr(split, name), parameter.grad
        assert gradient is not None
        near(mine_of_it.grad, gradient[split.mine])
        near(mine_of_it.detach(), parameter.detach()[split.mine])


def ties(world: World) -> list[int]:
    """Predictions where classes of several ranks have the largest logit, to the last bit."""
    whole = LinearClassifier(1, 8)
    whole.set_weight(torch.tensor([[1.0], [3], [3], [2], [3], [-1], [-1], [3]]))
    split = ShardSettings(True).build(whole, len(whole.weight), world)
    split.rows = 2  # type: ignore[attr-defined]
    _, found = split.cross_entropy(torch.tensor([[1.0], [-2.0]]), torch.tensor([0, 1]))
    return found.tolist()


def gathering(world: World) -> dict[str, Any]:
    """What becomes of a split classifier: cut, gathered, joined."""
    whole = LinearClassifier(3, 7, generator=torch.Generator().manual_seed(1))
    before = {name: parameter.detach().clone() for name, parameter in whole.named_parameters()}
    split = ShardSettings(True).build(whole, len(whole.weight), world)
    assert isinstance(split, ShardedClassifier)
    state = {"tuner.a": torch.ones(2)} | {f"head.{name}": p for name, p in split.named_parameters()}
    gathered = split.gathered(state)
    cut = split.cut({f"head.{name}": tensor for name, tensor in before.items()}, "it")
    with pytest.raises(UserError, match=r"it: head.weight is \[2, 3\], expected \[7, 3\]"):
        split.cut({"head.weight": torch.zeros(2, 3)}, "it")
    with pytest.raises(UserError, match=r"expected \[7, 3\], got \[2, 3\]"):
        split.set_weight(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="no logits of all classes"):
        split(torch.zeros(1, 3))
    for name, own in split.named_parameters():
        assert torch.equal(cut[f"head.{name}"], own)
    joined = split.joined()
    for name, parameter in joined.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad
    split.take_rows_of_first(3 * before["weight"] if world.is_main else None)
    again = split.joined().weight.detach()
    assert torch.equal(again, 3 * before["weight"])
    split.set_weight(before["weight"])
    assert torch.equal(split.joined().weight, before["weight"])
    assert split.is_any(world.rank == 1)
    assert not split.is_any(False)
    with pytest.raises(UserError, match="processes cannot split 1 classes"):
        ShardSettings(True).rows(1, world)
    return {name: tensor.detach() for name, tensor in gathered.items()}


STEPS = ((12, 2), (12, 3), (2, 1)) * 7  # images and micro-batch; of the last, ranks of four have one or none
MIXED = ("LA", "CB")  # of these the images of every other step are mixed
LEARNERS: dict[str, dict[str, Any]] = {
    "LA": {"classifier": "cosine"},
    "CB": {"classifier": "linear"},
    "BS": {"classifier": "layernorm", "tuner": "none"},  # no gradient is added up
    "LDAM": {"classifier": "l2"},
    "Focal": {"classifier": "linear"},
}
OPTIONS: dict[str, dict[str, float]] = {"CB": {"label_smoothing": 0.2}, "BS": {"label_smoothing": 0.1}}
OPTIMIZERS = {  # of some of them, their gradients clipped over all rows
    "CB": OptimizerSettings(lr=0.001, optimizer="adamw", eps=1e-4, clip_grad=0.5),
    "BS": OptimizerSettings(lr=0.01, clip_grad=0.5),
    "Focal": OptimizerSettings(lr=0.01, clip_grad=0.5),
}


def learner(clip: Files, world: World, loss: str, *, split: bool, dtype: torch.dtype = torch.float32) -> Learner:
    settings = {"rank": 3} | LEARNERS[loss]
    if settings.get("tuner") == "none":
        del settings["rank"]
    model = fastlift.create_model(clip[0], pretrained=clip[1], class_names=CLASS_NAMES, init="random", **settings)
    model.classifier = ShardSettings(split).build(model.classifier, len(CLASS_NAMES), world)
    model.set_compute_dtype(dtype)
    built = fastlift.losses.build(loss, CLASS_COUNTS, **OPTIONS.get(loss, {}))
    return Learner(
        model, built, OPTIMIZERS.get(loss, OptimizerSettings(lr=0.01)), world=world, average=AverageSettings(0.8)
    )


def mixed_labels_of(number: int, labels: Tensor, mine: slice) -> Mixed | None:
    """Of every other step; the partner of an image is at the place beside it, as ``Stream`` has it."""
    if number % 2:
        return None
    pairs = labels.view(-1, 2)
    share = torch.linspace(0.5, 1, len(pairs)).repeat_interleave(2)
    return Mixed(pairs.flip(1).flatten(), share).of(mine)


def train(
    some: Learner, steps: Sequence[tuple[int, int]], first: int = 0, is_mixed: bool = False
) -> list[tuple[float, float]]:
    """Mean loss and accuracy of each step, on this rank's share of batches that are made of their number."""
    figures = []
    for number, (images, some.micro_batch) in enumerate(steps, first):
        generator = torch.Generator().manual_seed(number)
        batch = torch.randn(images, 3, 32, 32, generator=generator).to(some.model.vit.compute_dtype)
        labels = torch.randint(len(CLASS_NAMES), (images,), generator=generator)
        taken = share_of(images, some.world.rank, some.world.size)
        mine = slice(taken.start, taken.stop)
        some.sums.restart()
        some.step(batch[mine], labels[mine], labels, mixed=mixed_labels_of(number, labels, mine) if is_mixed else None)
        figures.append(some.sums.read())
    return figures


def whole_of(some: Learner) -> dict[str, Tensor]:
    """What trains and its momentum, from all ranks, where this is the first."""
    trained, kept = some.state()
    tensors = trained | kept
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def trained(
    clip: Files, world: World, loss: str, *, split: bool
) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
    some = learner(clip, world, loss, split=split)
    return train(some, STEPS, is_mixed=loss in MIXED), whole_of(some)


def left_out(clip: Files, world: World, dtype: torch.dtype) -> list[tuple[float, int, Tensor]]:
    """In the second of three steps the gradient of one rank's rows is infinite, its loss is not: what each step leaves."""
    some = learner(clip, world, "LA", split=True, dtype=dtype)
    some.watch.mode = "skip"
    some.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=dtype is torch.float16)
    assert some.shard is not None
    after = []
    for number in range(3):
        infinite = number == 1 and world.rank == 1
        hook = some.shard.weight.register_hook(lambda gradient, by=torch.inf if infinite else 1.0: gradient * by)
        train(some, [(4 * world.size, 4)], number)
        hook.remove()
        parameters = torch.cat([p.detach().flatten() for p in some.parameters.values()])
        after.append((some.scaler.get_scale(), int(some.watch.skipped), parameters))
    return after


def saved(clip: Files, world: World, path: Path) -> None:
    """A checkpoint of three steps, and a fourth step behind it: what it leaves is beside it."""
    some = learner(clip, world, "CB", split=True)
    train(some, STEPS[:3])
    if world.is_main:
        checkpoints.save(path, some, PLACE)
    else:
        some.state()
    train(some, STEPS[3:4], 3)
    other = learner(clip, world, "CB", split=True)
    checkpoints.restore(path, other)  # what the first rank wrote lies there: the step is behind it
    train(other, STEPS[3:4], 3)
    for name, tensor in other.parameters.items():
        assert torch.equal(tensor, some.parameters[name])
    tensors = whole_of(some)
    if world.is_main:
        save_file(tensors, path.with_name("after.safetensors"))


def captured(clip: Files, world: World) -> list[str]:
    """What a captured step says of a split classifier; it takes the plain step."""
    told: list[str] = []
    some = learner(clip, world, "LA", split=True)
    CapturedStep(some, told.append, Tape()).step(
        torch.zeros(1, 3, 32, 32), torch.zeros(1).long(), torch.zeros(world.size).long()
    )
    assert some.watch.taken == 1
    return told


def ranks_work(clip: Files, folder: Path) -> dict[str, Any]:
    """On each rank: what the tests below look at."""
    with company() as world:
        open_group(world, torch.device("cpu"))
        for case in CASES:
            compare(world, case)
        saved(clip, world, folder / "step-00000003.safetensors")
        return {
            "ties": ties(world),
            "gathered": gathering(world),
            "captured": captured(clip, world),
            "left out": {dtype: left_out(clip, world, dtype) for dtype in (torch.float32, torch.float16)},
            "trained": {loss: trained(clip, world, loss, split=True) for loss in LEARNERS},
        }


@pytest.fixture(scope="module")
def alone(tiny_clip: Files) -> dict[str, tuple[list[tuple[float, float]], dict[str, Tensor]]]:
    """What one process makes of each training, unsplit."""
    return {loss: trained(tiny_clip, World(), loss, split=False) for loss in LEARNERS}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_split_and_unsplit_are_the_same(
    ranks: int, alone: dict[str, tuple[list[tuple[float, float]], dict[str, Tensor]]], tiny_clip: Files, tmp_path: Path
) -> None:
    found = together(tmp_path, ranks, ranks_work, tiny_clip, tmp_path)
    assert [one["ties"] for one in found] == [[1, 5]] * ranks, "the first of the largest"
    for one in found:
        (told,) = one["captured"]
        assert "a split classifier's processes exchange in the backward pass" in told
    whole = LinearClassifier(3, 7, generator=torch.Generator().manual_seed(1))
    for name, parameter in whole.named_parameters():
        assert torch.equal(found[0]["gathered"][f"head.{name}"], parameter)
    assert [one["gathered"].keys() for one in found[1:]] == [{"tuner.a"}] * (ranks - 1)

    for loss, (figures, tensors) in alone.items():
        for one in found:
            for mine, theirs in zip(one["trained"][loss][0], figures, strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5)
        assert found[0]["trained"][loss][1].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (found[0]["trained"][loss][1][name] - tensor).abs().max() <= 1e-6 + 1e-4 * tensor.abs().max(), name

    for dtype, scales in ((torch.float32, [1.0] * 3), (torch.float16, [256.0, 128.0, 128.0])):
        for one in found:
            after = one["left out"][dtype]
            assert [scale for scale, _, _ in after] == scales, "ranks differ in what they leave out"
            assert [skipped for _, skipped, _ in after] == ([0, 1, 1] if dtype is torch.float32 else [0, 0, 0])
            assert torch.equal(after[0][2], after[1][2]), "the step was not left out"
            assert not torch.equal(after[1][2], after[2][2])
            assert after[2][2].isfinite().all()

    one = learner(tiny_clip, World(), "CB", split=False)
    checkpoints.restore(tmp_path / "step-00000003.safetensors", one)
    train(one, STEPS[3:4], 3)
    for name, tensor in load_file(tmp_path / "after.safetensors").items():
        torch.testing.assert_close(whole_of(one)[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_rows_start_as_in_the_whole(kind: str) -> None:
    classes = 2 * classifiers._ROWS_DRAWN + 5
    for rows in (range(classes), range(3), range(7, classes - 1), range(classes - 2, classes)):
        one, part = (
            CLASSIFIERS[kind](3, classes, generator=torch.Generator().manual_seed(2), rows=some)
            for some in (None, rows)
        )
        for (name, whole), (_, own) in zip(one.named_parameters(), part.named_parameters(), strict=True):
            assert torch.equal(own, whole[rows.start : rows.stop]), name


@pytest.mark.parametrize("init", ["text", "random"])
def test_a_model_of_some_rows(init: str, tiny_clip: Files) -> None:
    whole, part = (
        fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, init=init, rows=rows)
        for rows in (None, range(2, 5))
    )
    assert part.class_names == whole.class_names
    torch.testing.assert_close(part.classifier.weight, whole.classifier.weight[2:5])
    for mine, theirs in zip(part.tuner_parameters.values(), whole.tuner_parameters.values(), strict=True):
        assert torch.equal(mine, theirs)


def test_with_one_process_nothing_is_split() -> None:
    whole = LinearClassifier(3, 7)
    assert ShardSettings(True).build(whole, 7, World()) is whole
    assert ShardSettings(False).build(whole, 7, World(0, 2)) is whole


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss": "LADE"}, "the loss LADE compares the logits of all images of a batch"),
        ({"classifier": "text"}, "the classifier text has no weight of its own"),
    ],
)
def test_what_cannot_be_split_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=f"^shard_classifier: {told}"):
        Config().override(shard_classifier=True, **settings)
