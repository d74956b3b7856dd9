"""A classifier fitted on features that are there: the run's kind of head without its backbone, in a second instead of a training.

Legend: N images, D numbers a feature, C classes. Features are L2-normed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

STRENGTHS = (0.3, 0.1, 0.03)
SCALE = 25.0  # of the cosine classifier
_STEPS = 40
ROWS = 8192  # of logits at a time
_SMALL = 2e8  # multiplications of a product: below, a second thread on a CPU costs more in waiting than it saves


@dataclass(frozen=True)
class Probe:
    """A cosine classifier that is held near a start.

    Minimises the logit-adjusted cross-entropy, mean over the images, plus strength * scale * mean_c |w_c - s_c|^2 over unit rows w,
    by L-BFGS. Near class features of text, as LIFT starts and as its few epochs leave it, a class of two images keeps what its name
    tells.

    Attributes:
        start: s [C, D], unit rows; None for the mean features of each class among the images of a fit.
        strength: how strongly it holds.
        classes: C.
    """

    start: Tensor | None
    strength: float
    classes: int

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """The weight [C, D] of unit rows, from features [N, D] and labels int64 [N] on one device; a class without an image keeps its start."""
        counts = torch.bincount(labels, minlength=self.classes).to(features.dtype)
        log_prior = (counts.clamp_min(1.0) / counts.sum()).log()
        start = self._means(features, labels) if self.start is None else self.start.to(features.device)
        weight = start.clone().requires_grad_()
        solver = torch.optim.LBFGS([weight], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            rows = F.normalize(weight, dim=1)
            value = F.cross_entropy(SCALE * (features @ rows.T) + log_prior, labels)
            value = value + self.strength * SCALE * (rows - start).square().sum() / self.classes
            value.backward()
            return value

        with torch.enable_grad(), _few_threads(features, self.classes):
            solver.step(loss)
        return F.normalize(weight.detach(), dim=1)

    def _means(self, features: Tensor, labels: Tensor) -> Tensor:
        sums = torch.zeros(self.classes, features.shape[1], dtype=features.dtype, device=features.device)
        return F.normalize(sums.index_add(0, labels, features), dim=1)


@contextmanager
def _few_threads(features: Tensor, classes: int) -> Iterator[None]:
    """One thread for products that are small: where others compute as well, each hand-over may take longer than the product."""
    before = torch.get_num_threads()
    if features.numel() * classes < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def predicted(weight: Tensor, features: Tensor) -> Tensor:
    """The class of each image, int64 [N], by its plain logits."""
    return torch.cat([(rows @ weight.T).argmax(dim=1) for rows in features.split(ROWS)])


def folds_of(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold 0..folds-1 of each image, int64 [N]: each class's images spread evenly, in a random order from a random fold on."""
    generator = np.random.default_rng([seed, 1])
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = generator.integers(folds, size=len(counts))
    found = np.empty(len(labels), dtype=np.int64)
    found[by_class] = (place + np.repeat(first, counts)) % folds
    return found


def choose_strength(features: Tensor, labels: Tensor, start: Tensor | None, classes: int, seed: int) -> float:
    """The strength with the best mean class accuracy on a fifth of the images that was left out of the fit."""
    held = torch.from_numpy(folds_of(labels.cpu().numpy(), 5, seed) == 0).to(features.device)
    best, chosen = -1.0, STRENGTHS[0]
    for strength in STRENGTHS:
        weight = Probe(start, strength, classes).fit(features[~held], labels[~held])
        right = (predicted(weight, features[held]) == labels[held]).double()
        images = torch.bincount(labels[held], minlength=classes)
        hits = torch.bincount(labels[held], right, minlength=classes)
        value = float((hits / images.clamp_min(1))[images > 0].mean())
        if value > best:
            best, chosen = value, strength
    return chosen
