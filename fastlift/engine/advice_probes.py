"""What classifiers tell that are fitted on a run's features: doubtful labels, and what more images would bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastlift.advice.gains import Predictor
from fastlift.advice.label_doubts import FOLDS, Judged, PlantedLabels, judge, judge_across, plant, planted_found
from fastlift.advice.learning_curves import LEVELS, Counts, fits, measure
from fastlift.advice.probe import Probe, choose_strength, predicted
from fastlift.advice.ranking import class_weights
from fastlift.advice.record import ClassGrowth, Doubt, Growth, LabelDoubts, Measured, Planned
from fastlift.advice.settings import AdviceSettings
from fastlift.data.datasets.dataset import DataSet
from fastlift.engine.advice_looks import Looks, named
from fastlift.engine.model import build_model
from fastlift.errors import UserError
from fastlift.models.create import CreateSettings
from fastlift.reporting.record import RunRecord
from fastlift.system.progress import Ui

LISTED = 300
_LAW_POINTS = 40


def start_of(settings: CreateSettings, names: tuple[str, ...], ui: Ui) -> tuple[Tensor | None, str]:
    """Unit rows [C, D] that the run's classifier started from, where that was text, and what they are called."""
    if settings.init != "text":
        return None, "class means"
    try:
        plain = build_model(
            settings, names, ui, tuner=("none",), text_tuner=("none",), classifier="cosine", init="text"
        )
    except UserError:  # no text tower, or weights that are gone
        return None, "class means"
    return F.normalize(plain.classifier.weight.detach().float(), dim=1), "text"


@dataclass(frozen=True)
class Probing:
    """Features and labels on the device, and the classifier that is fitted on them."""

    features: Tensor
    labels: Tensor
    test_features: Tensor
    test_labels: Tensor
    probe: Probe
    start: str
    seed: int

    @classmethod
    def of(
        cls, train: Looks, test: Looks, start: Tensor | None, name: str, classes: int, device: torch.device, seed: int
    ) -> Probing:
        """With the strength that serves held-out training images best."""
        features, labels = train.features.to(device), torch.from_numpy(train.labels).to(device)
        start = None if start is None else start.to(device)
        strength = choose_strength(features, labels, start, classes, seed)
        test_features, test_labels = test.features.to(device), torch.from_numpy(test.labels).to(device)
        return cls(features, labels, test_features, test_labels, Probe(start, strength, classes), name, seed)


@contextmanager
def _counted(ui: Ui, what: str, total: int) -> Iterator[Callable[[], None]]:
    done = 0
    with ui.bar(what, total) as bar:

        def one() -> None:
            nonlocal done
            done += 1
            bar.update(done)

        yield one


def doubts_of(probing: Probing, data: DataSet, looks: dict[str, Looks], ui: Ui) -> tuple[LabelDoubts, ...]:
    """Doubtful labels of the training and of the test split, each with how well planted ones are found."""
    probe, seed = probing.probe, probing.seed
    with _counted(ui, "labels: classifiers", 2 * FOLDS + 1) as on_fit:
        given = judge_across(probe, probing.features, probing.labels, seed, on_fit)

        def judge_training(labels: NDArray[np.int64]) -> Judged:
            return judge_across(
                probe, probing.features, torch.from_numpy(labels).to(probing.labels.device), seed, on_fit
            )

        found = [
            _doubts("train", data, looks["train"], given, _planted(looks["train"], given, judge_training, probe, seed))
        ]
        weight = probe.fit(probing.features, probing.labels)
        on_fit()
    counts = torch.bincount(probing.labels, minlength=probe.classes)
    even = torch.zeros(probe.classes, device=weight.device).masked_fill(counts == 0, -torch.inf)

    def judge_tests(labels: NDArray[np.int64]) -> Judged:
        return judge(weight, probing.test_features, torch.from_numpy(labels).to(weight.device), even)

    given = judge_tests(looks["test"].labels)
    found.append(_doubts("test", data, looks["test"], given, _planted(looks["test"], given, judge_tests, probe, seed)))
    return tuple(found)


def _planted(
    look: Looks, given: Judged, again: Callable[[NDArray[np.int64]], Judged], probe: Probe, seed: int
) -> PlantedLabels:
    changed, to_any, to_alike = plant(look.labels, given.suggested, probe.classes, seed)
    return planted_found(again(changed), to_any, to_alike)


def _doubts(split: str, data: DataSet, look: Looks, judged: Judged, planted: PlantedLabels) -> LabelDoubts:
    index, order = data.splits[split], judged.order()
    order = order[judged.score[order] > 0.5]
    doubts = [
        Doubt(named(index, split, int(look.rows[at])), data.class_names[judged.suggested[at]], float(judged.score[at]))
        for at in order[:LISTED].tolist()
    ]
    known = int((~np.isnan(judged.score)).sum())
    return LabelDoubts(split, tuple(doubts), len(order), known, len(judged.score) - known, planted)


def growth_of(probing: Probing, val: Looks | None, record: RunRecord, wanted: AdviceSettings, ui: Ui) -> Growth:
    """Learning curves of the classes, what they promise, and with which error."""
    held_out, device = None, probing.features.device
    if val is not None:
        held_out = val.features.to(device), torch.from_numpy(val.labels).to(device)
    with _counted(ui, "learning curves: classifiers", fits()) as on_fit:
        counts = measure(probing.probe, probing.features, probing.labels, held_out, probing.seed, on_fit)
    assert record.confusions is not None
    names, groups = record.class_names(), record.groups()
    # All images of a class count, also those that were not looked at.
    now = np.array(
        record.data.get("class_counts") or np.bincount(probing.labels.cpu(), minlength=len(names)), dtype=np.int64
    )
    predictor = Predictor(counts, now, class_weights(wanted.figure, record.confusions.images, groups))
    plan, total = predictor.plan(wanted.more), float(wanted.more)
    classes = [
        ClassGrowth(
            name=names[c],
            train_images=int(now[c]),
            held_out=int(counts.held[c]),
            accuracy=100 * float(predictor.curve.accuracy(now.astype(np.float64))[c]),
            twice=predictor.of_class(c, float(now[c])),
            more=predictor.of_class(c, total),
        )
        for c in np.flatnonzero(predictor.weights > 0).tolist()
    ]
    planned = []
    for c in np.argsort(-plan, kind="stable")[: int((plan > 0).sum())].tolist():
        gain = predictor.of_class(c, float(plan[c]))
        assert gain is not None
        planned.append(Planned(names[c], int(now[c]), int(plan[c]), gain))
    at = np.geomspace(1, max(2.0, 8.0 * now.max()), _LAW_POINTS)
    seen = _class_mean(counts.right[:, 0], counts.held)
    return Growth(
        checks=predictor.checks,
        law=tuple((float(n), 100 * float(y)) for n, y in zip(at, predictor.curve.common(at), strict=True)),
        measured=_measured(counts, groups),
        classes=tuple(classes),
        budget=wanted.more,
        plan=tuple(planned),
        planned=predictor.of_figure(plan.astype(np.float64)),
        proportional=predictor.of_figure(total * now / now.sum()),
        even=predictor.of_figure(np.full(len(now), total / len(now))),
        doubled=predictor.of_figure(now.astype(np.float64)),
        untold=int((~predictor.known & (predictor.weights > 0)).sum()),
        start=probing.start,
        strength=probing.probe.strength,
        apart=counts.apart,
        seen=seen,
        unseen=_unseen(probing),
    )


def _class_mean(right: NDArray[np.int64], images: NDArray[np.int64]) -> float:
    tested = images > 0
    return 100 * float((right[tested] / images[tested]).mean())


def _unseen(probing: Probing) -> float:
    weight = probing.probe.fit(probing.features, probing.labels)
    labels, classes = probing.test_labels, probing.probe.classes
    right = (predicted(weight, probing.test_features) == labels).cpu().numpy()
    of_class = labels.cpu().numpy()
    return _class_mean(np.bincount(of_class[right], minlength=classes), np.bincount(of_class, minlength=classes))


def _measured(counts: Counts, groups: dict[str, NDArray[np.bool_]]) -> tuple[Measured, ...]:
    found = []
    for name, mask in (groups or {"all": np.ones(len(counts.held), dtype=bool)}).items():
        of_it = mask & (counts.held > 0)
        if of_it.any():
            images = counts.images[of_it].mean(axis=0)
            accuracy = [_class_mean(counts.right[of_it, level], counts.held[of_it]) for level in range(LEVELS)]
            found.append(Measured(name, int(of_it.sum()), tuple(map(float, images)), tuple(accuracy)))
    return tuple(found)
