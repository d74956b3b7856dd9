"""Labels that look wrong: images that a classifier which has not seen them takes for another class.

Legend: N images, D numbers a feature, C classes.

Each image is judged by a classifier fitted on the other folds, as in confident learning (Northcutt, Jiang and Chuang, "Confident
Learning", JAIR 2021): one that has seen an image with its wrong label would have learned it. How many errors the list holds is
measured, by planting some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlift.advice.probe import ROWS, SCALE, Probe, folds_of

PLANTED_SHARE = 0.05
FOLDS = 5
KINDS = ("any class", "the most alike class")


@dataclass(frozen=True)
class Judged:
    """What is said of the labels of N images.

    Attributes:
        score: [N] p(suggested) / (p(suggested) + p(label)): above 0.5 another class is more probable than the label's. NaN where
            nothing can be said: the class had no image in the fit.
        suggested: [N] the most probable other class.
    """

    score: NDArray[np.float64]
    suggested: NDArray[np.int64]

    def order(self) -> NDArray[np.int64]:
        """Places of the judged images, the most doubtful first."""
        judged = np.flatnonzero(~np.isnan(self.score))
        return judged[np.argsort(-self.score[judged], kind="stable")]


@dataclass(frozen=True)
class PlantedLabels:
    """How well wrong labels are found that were planted among the given ones.

    Attributes:
        planted: so many labels were changed, half to any other class, half to the one that the image was most probably else.
        found: of them among the ``planted`` most doubtful images: found / planted is precision and recall there. True errors among the
            given labels count as false, so the precision is at least this.
        found_in_twice: among twice as many.
        of_any, of_alike: (found, planted) by kind, among the ``planted`` most doubtful.
    """

    planted: int
    found: int
    found_in_twice: int
    of_any: tuple[int, int]
    of_alike: tuple[int, int]


def judge(weight: Tensor, features: Tensor, labels: Tensor, log_prior: Tensor) -> Judged:
    """Scores of labels by a classifier that has not seen the images.

    Args:
        weight: [C, D], unit rows.
        features, labels: [N, D] and int64 [N].
        log_prior: [C] added to the logits: classes that are frequent where the labels come from are more probable there; -inf for
            classes that cannot be judged.
    """
    scores, suggested = [], []
    for rows, own in zip(features.split(ROWS), labels.split(ROWS), strict=True):
        logits = SCALE * (rows @ weight.T) + log_prior
        of_label = logits.gather(1, own[:, None]).squeeze(1)
        other = logits.scatter(1, own[:, None], -torch.inf).max(dim=1)
        score = torch.sigmoid((other.values - of_label).double())
        scores.append(torch.where(of_label.isinf(), torch.nan, score))
        suggested.append(other.indices)
    return Judged(torch.cat(scores).cpu().numpy(), torch.cat(suggested).cpu().numpy())


def judge_across(
    probe: Probe, features: Tensor, labels: Tensor, seed: int, on_fit: Callable[[], None] = lambda: None
) -> Judged:
    """Scores of the labels that a classifier is fitted on: of each fold by a fit on the others, with their class frequencies as the prior."""
    fold = torch.from_numpy(folds_of(labels.cpu().numpy(), FOLDS, seed)).to(labels.device)
    score, suggested = np.full(len(labels), np.nan), np.zeros(len(labels), dtype=np.int64)
    for held in range(FOLDS):
        out = fold == held
        if not bool(out.any()):
            continue
        weight = probe.fit(features[~out], labels[~out])
        log_prior = torch.bincount(labels[~out], minlength=probe.classes).to(features.dtype).log()
        found, rows = judge(weight, features[out], labels[out], log_prior), out.cpu().numpy()
        score[rows], suggested[rows] = found.score, found.suggested
        on_fit()
    return Judged(score, suggested)


def plant(
    labels: NDArray[np.int64], alike: NDArray[np.int64], classes: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Labels of which 5 % are wrong, and where: (labels [N], places of any other class, places of the most alike class ``alike`` [N])."""
    generator = np.random.default_rng([seed, 2])
    places = generator.permutation(len(labels))[: max(2, round(PLANTED_SHARE * len(labels)))]
    to_any, to_alike = np.sort(places[0::2]), np.sort(places[1::2])
    changed = labels.copy()
    changed[to_any] = (labels[to_any] + generator.integers(1, classes, len(to_any))) % classes
    changed[to_alike] = alike[to_alike]
    return changed, to_any, to_alike


def planted_found(judged: Judged, to_any: NDArray[np.int64], to_alike: NDArray[np.int64]) -> PlantedLabels:
    """How many of the planted places are among the most doubtful."""
    order, count = judged.order(), len(to_any) + len(to_alike)
    both, first = np.concatenate([to_any, to_alike]), order[:count]
    return PlantedLabels(
        planted=count,
        found=int(np.isin(both, first).sum()),
        found_in_twice=int(np.isin(both, order[: 2 * count]).sum()),
        of_any=(int(np.isin(to_any, first).sum()), len(to_any)),
        of_alike=(int(np.isin(to_alike, first).sum()), len(to_alike)),
    )
