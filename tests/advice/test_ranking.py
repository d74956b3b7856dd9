"""What classes cost the figure that is to rise."""

from __future__ import annotations

import numpy as np
import pytest

from fastlift.advice.ranking import class_costs, class_weights, figure_of
from fastlift.errors import UserError
from fastlift.evaluation.confusion import Confusions
from fastlift.evaluation.intervals import mean_of_classes, wilson

NAMES = ["ant", "bee", "cat", "dog"]
TRAIN = [300, 50, 4, 9]
GROUPS = {
    "many": np.array([True, False, False, False]),
    "medium": np.array([False, True, False, False]),
    "few": np.array([False, False, True, True]),
}
# ant: 8 of 10 right, one taken for a bee, one for a dog; bee: 2 of 4, both wrong ones taken for ants; cat: 0 of 2, taken for dogs.
LABELS = np.array([0] * 10 + [1] * 4 + [2] * 2, dtype=np.int32)
PREDICTED = np.array([0] * 8 + [1, 3] + [1, 1, 0, 0] + [3, 3], dtype=np.int32)


@pytest.fixture
def confusions() -> Confusions:
    return Confusions.of(LABELS, PREDICTED, 4)


def costs(confusions: Confusions, figure: str = "mean_class_accuracy") -> dict[str, float]:
    weights = class_weights(figure, confusions.images, GROUPS)
    return {one.name: one.lost for one in class_costs(confusions, weights, NAMES, TRAIN, GROUPS)}


def test_lost_points_of_the_class_mean(confusions: Confusions) -> None:
    """(100 - accuracy) / C over the classes with test images, the dearest first; the dog has none and is left out."""
    found = costs(confusions)
    assert list(found) == ["cat", "bee", "ant"]
    assert found == pytest.approx({"cat": 100 / 3, "bee": 50 / 3, "ant": 20 / 3})


@pytest.mark.parametrize("figure", ["mean_class_accuracy", "accuracy", "many", "medium", "few"])
def test_all_lost_points_are_what_the_figure_lacks(confusions: Confusions, figure: str) -> None:
    weights = class_weights(figure, confusions.images, GROUPS)
    value, low, high = figure_of(figure, weights, confusions.right, confusions.images)
    assert sum(costs(confusions, figure).values()) == pytest.approx(100 - value)
    assert low <= value <= high


def test_figures_are_those_of_an_evaluation(confusions: Confusions) -> None:
    images, right = confusions.images, confusions.right
    overall = figure_of("accuracy", class_weights("accuracy", images, GROUPS), right, images)
    assert overall == pytest.approx((62.5, *(100 * end for end in wilson(10, 16))))
    mean = figure_of("mean_class_accuracy", class_weights("mean_class_accuracy", images, GROUPS), right, images)
    assert mean == pytest.approx((130 / 3, *(100 * end for end in mean_of_classes(right[:3], images[:3]))))


def test_confusions_go_both_ways(confusions: Confusions) -> None:
    weights = class_weights("mean_class_accuracy", confusions.images, GROUPS)
    by_name = {one.name: one for one in class_costs(confusions, weights, NAMES, TRAIN, GROUPS)}
    ant = by_name["ant"]
    assert [(other.name, other.count, other.share) for other in ant.taken_for] == [("bee", 1, 10), ("dog", 1, 10)]
    assert [(other.name, other.count, other.share) for other in ant.takes] == [("bee", 2, 50)]
    assert by_name["cat"].group == "few"
    assert by_name["cat"].train_images == 4
    assert (ant.low, ant.high) == pytest.approx(tuple(100 * end for end in wilson(8, 10)))
    assert (ant.lost_low, ant.lost_high) == pytest.approx(((100 - ant.high) / 3, (100 - ant.low) / 3))


def test_of_classes_that_cost_the_same_the_rarer_comes_first() -> None:
    confusions = Confusions.of(np.array([0, 1, 2], dtype=np.int32), np.array([1, 2, 0], dtype=np.int32), 3)
    weights = class_weights("mean_class_accuracy", confusions.images, {})
    assert [one.label for one in class_costs(confusions, weights, NAMES[:3], [9, 2, 5], {})] == [1, 2, 0]


def test_a_group_without_a_tested_class_is_refused() -> None:
    with pytest.raises(UserError, match="figure few: this run has no class of that group with a test image"):
        class_weights("few", np.array([3, 4, 0, 0]), GROUPS)
