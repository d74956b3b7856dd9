"""A greedy soup: checkpoints in the order of their figure on a validation split, kept while their average's does not fall."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fastlift.data.datasets.dataset import DataSet
from fastlift.errors import UserError
from fastlift.evaluation.validation import ValidationSettings
from fastlift.runs.stored import read_data
from fastlift.soups.averaging import Average
from fastlift.soups.ingredients import Ingredient

_NAMED = 5  # classes in a message
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Greedy:
    """What a greedy soup has kept, by the places of the states that it was given.

    Attributes:
        kept: in the order in which they came in.
        figures: of each state alone.
        soup: of the average.
        average: of those that were kept, with equal weights.
    """

    kept: tuple[int, ...]
    figures: tuple[Figures, ...]
    soup: Figures
    average: Average


def greedy(
    states: Sequence[Callable[[], Mapping[str, Tensor]]],
    evaluate: Callable[[Mapping[str, Tensor]], Figures],
    settings: ValidationSettings,
    labels: Sequence[str],
    say: Callable[[str], None],
) -> Greedy:
    """Go through ``states`` from the best on; each stays if the figure of the average with it does not fall.

    Args:
        states: give what trains, read when it is needed.
        evaluate: the figures of a state on the validation split.
        settings: by which figure; of equal states the earlier comes first.
        labels: what the states are called.
        say: told what becomes of each.

    Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
    inference time", ICML 2022, recipe 1.
    """
    by = settings.best_by
    figures = [evaluate(state()) for state in states]
    order = sorted(range(len(states)), key=lambda place: -settings.score(figures[place]))
    kept, best = [order[0]], figures[order[0]]
    average = Average().added(states[order[0]]())
    say(f"greedy: {labels[order[0]]} is the best, with {by.replace('_', ' ')} {_shown(best, by)}")
    for place in order[1:]:
        tried = average.added(states[place]())
        found = evaluate(tried.state())
        stays = settings.score(found) >= settings.score(best)
        say(
            f"greedy: with {labels[place]} ({_shown(figures[place], by)}) the average has {_shown(found, by)}, before "
            f"{_shown(best, by)}: {'kept' if stays else 'left out'}"
        )
        if stays:
            kept, best, average = [*kept, place], found, tried
    return Greedy(tuple(kept), tuple(figures), best, average)


def _shown(figures: Figures, by: str) -> str:
    value = figures.get(by)
    return "none" if value is None else f"{value:.2f}"


def check_validation(data: DataSet, ingredients: Sequence[Ingredient], say: Callable[[str], None]) -> None:
    """Refuse ingredients that may have been trained on the images of the validation split; tell of classes without one.

    Figures are over the classes that the split has images of, as in every evaluation.

    Raises:
        UserError: a run that had another validation split, or none.
    """
    assert data.val is not None
    for one in ingredients:
        known = read_data(one.run.data).get("fingerprints", {}).get("val")
        if known != data.val.fingerprint:
            had = "no validation split" if known is None else "another validation split"
            raise UserError(
                f"--greedy: {one.run.path} had {had} than that of {ingredients[0].run.path}, so it may have been trained on these "
                "images: use runs with the same one"
            )
    missing = np.flatnonzero(data.val.class_counts() == 0)
    if len(missing):
        named = ", ".join(data.class_names[k] for k in missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        say(
            f"the validation split has no image of {len(missing):,} of {len(data.class_names):,} classes ({named}): --greedy chooses "
            "by the others"
        )
