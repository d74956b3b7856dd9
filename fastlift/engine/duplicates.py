"""Test images that the training split holds as well: by content, by small copies and by features, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastlift.advice.near_duplicates import Threshold, mirrored, nearest, threshold
from fastlift.advice.ranking import class_weights, figure_of
from fastlift.advice.record import Duplicates, Pair, Tried, Without
from fastlift.advice.settings import AdviceSettings
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import ImageIndex
from fastlift.data.inspection.same_images import pairs_of_one_content
from fastlift.engine.advice_looks import Looking, Looks, named
from fastlift.reporting.record import RunRecord
from fastlift.system.progress import now_and_then

LISTED = 1000


@dataclass(frozen=True)
class _Description:
    """The training images by one description, and from when on two are one.

    Attributes:
        train: [N, D].
        mirror: whether an image in a mirror is a copy by this description.
    """

    train: Tensor
    mirror: bool
    limit: Threshold

    @classmethod
    def of(cls, train: Tensor, searched: int, *, mirror: bool) -> _Description:
        if len(train) < 2:
            return cls(train, mirror, Threshold(None, 0.0, 0, len(train)))
        neighbours, _ = nearest(train, train, same=True)
        if mirror:
            neighbours = np.maximum(neighbours, nearest(mirrored(train), train, same=True)[0])
        return cls(train, mirror, threshold(neighbours, searched))

    def of_queries(self, queries: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
        """Similarity to the nearest training image, its place, and whether the two are one: [M] each."""
        similarity, place = nearest(queries, self.train)
        if self.mirror:
            turned, other = nearest(mirrored(queries), self.train)
            place = np.where(turned > similarity, other, place)
            similarity = np.maximum(turned, similarity)
        limit = self.limit.similarity
        return similarity, place, np.zeros(len(place), dtype=bool) if limit is None else similarity >= limit


def duplicates_of(
    looking: Looking, data: DataSet, looks: dict[str, Looks], record: RunRecord, wanted: AdviceSettings
) -> Duplicates:
    """Search the test split for images of the training split.

    Args:
        looking: for altered copies of training images, which say how many the search finds.
        looks: at both splits.
        record: whose predictions tell the figures without them.
    """
    train, test = looks["train"], looks["test"]
    descriptions = {
        "copy": _Description.of(train.copies, len(test.rows), mirror=True),
        "features": _Description.of(train.features, len(test.rows), mirror=False),
    }
    say = now_and_then(looking.ui.say)
    by_test = {there: (row, "content", 1.0) for row, there in pairs_of_one_content(data.train, data.test, say)}
    for how, described in descriptions.items():
        queries = test.copies if how == "copy" else test.features
        similarity, place, is_one = described.of_queries(queries)
        for at in np.flatnonzero(is_one).tolist():
            by_test.setdefault(int(test.rows[at]), (int(train.rows[place[at]]), how, float(similarity[at])))
    order = ("content", *descriptions)
    found = sorted(by_test.items(), key=lambda item: (order.index(item[1][1]), -item[1][2], item[0]))
    pairs = [
        Pair(named(data.test, "test", there), named(data.train, "train", row), how, similarity)
        for there, (row, how, similarity) in found
    ]
    return Duplicates(
        pairs=tuple(pairs[:LISTED]),
        count={how: sum(pair.how == how for pair in pairs) for how in order},
        other_label=sum(pair.test.label != pair.train.label for pair in pairs),
        searched=len(test.rows),
        among=len(train.rows),
        thresholds={how: described.limit for how, described in descriptions.items()},
        tried=_tried(looking, data.train, train, descriptions, wanted.seed),
        without=_without(record, np.array(sorted(by_test), dtype=np.int64)) if by_test else (),
    )


def _tried(
    looking: Looking, index: ImageIndex, train: Looks, descriptions: dict[str, _Description], seed: int
) -> tuple[Tried, ...]:
    """How many altered copies of training images are found, as pairs with their own source."""
    told = []
    for kind, (looks, sources) in looking.altered_copies(index, train.rows, seed).items():
        found = np.zeros(len(sources), dtype=bool)
        for how, described in descriptions.items():
            _, place, is_one = described.of_queries(looks.copies if how == "copy" else looks.features)
            found |= is_one & (place == sources)
        told.append(Tried(kind, len(sources), int(found.sum())))
    return tuple(told)


def _without(record: RunRecord, copies: NDArray[np.int64]) -> tuple[Without, ...]:
    """Accuracy and mean class accuracy, with and without these rows of the test split."""
    assert record.predictions is not None
    images, classes = record.predictions.images, len(record.class_names())
    is_right, is_left = images.predicted == images.labels, ~np.isin(images.rows, copies)
    counts = []
    for mask in (np.ones(len(images), dtype=bool), is_left):
        labels = images.labels[mask]
        right = np.bincount(labels[is_right[mask]], minlength=classes)
        counts.append((right.astype(np.int64), np.bincount(labels, minlength=classes).astype(np.int64)))
    if not counts[1][1].any():
        return ()
    found = []
    for name in ("accuracy", "mean_class_accuracy"):
        (value, low, high), (left, left_low, left_high) = (
            figure_of(name, class_weights(name, of, {}), right, of) for right, of in counts
        )
        whole, rest = (int(count[1].sum()) for count in counts)
        found.append(Without(name, whole, value, low, high, rest, left, left_low, left_high))
    return tuple(found)
