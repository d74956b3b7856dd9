"""After training: how strongly the training prior counts, and a temperature, fitted to logits of images with known labels.

Legend: N images, C classes, D draws; z logits [N, C], y labels [N], l = log p of the training prior [C], w weights of the images,
which sum to 1. Calibrated logits are (z + s l) / T: s is the prior's strength, T the temperature.

The weighted log loss sum_i w_i (logsumexp_c(a z_ic + b l_c) - a z_iy - b l_y) is convex in a = 1/T and b = s/T, so Newton's
method finds its one minimum. Sources: Menon et al. 2021 (logit adjustment after training), Guo et al. 2017 (temperature).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlift.errors import UserError
from fastlift.evaluation.intervals import Interval
from fastlift.evaluation.resampling import DRAWS
from fastlift.settings import Between, Settings

Weigh = Literal["classes", "images"]
By = Literal["log_loss", "accuracy", "mean_class_accuracy", "harmonic_mean", "geometric_mean", "worst_class"]
_AT_A_TIME = 1 << 17  # logits that are computed on in fp64 at once: a megabyte, which stays in a processor's cache
_STEPS, _HALVINGS = 200, 40
_ENOUGH = 1e-13  # nats that the last step of Newton's gains; another would gain the square of it


def _one_goal(reject: float | None, selective_accuracy: float | None) -> str | None:
    if reject is None or selective_accuracy is None:
        return None
    return "reject and selective_accuracy are two ways to choose one threshold: give one of them"


@dataclass(frozen=True)
class CalibrationSettings(Settings):
    """What is fitted after training, and to what end."""

    by: By = "log_loss"
    """What the prior's strength is chosen by: the log loss, together with the temperature; or a figure of the validation split,
    on a grid from -2 to 2 (of equal ones the middle of the widest range). The temperature is always fitted by the log loss."""
    weigh: Weigh = "classes"
    """Whose log loss is made small: classes weighs all classes alike, as a balanced test set does; images all images."""
    reject: Annotated[float | None, Between(0, 1, "()")] = None
    """Also fit a threshold for "none of these": the largest that turns away at most this share of the right answers (0.05)."""
    selective_accuracy: Annotated[float | None, Between(0, 1, "()")] = None
    """Instead of --reject: the smallest threshold with which the accuracy of accepted images is this, or better (0.95)."""
    missing_classes: Literal["stop", "skip"] = "stop"
    """A class without a validation image: stop with an error, or skip it and fit on the classes that are there."""
    RULES = (_one_goal,)


@dataclass(frozen=True)
class Fit:
    """What was fitted: ``loss`` is the weighted log loss in nats that is left."""

    strength: float
    temperature: float
    loss: float


def log_prior(class_counts: Sequence[int] | NDArray[np.int64]) -> Tensor:
    """l = ln(n_c / sum n), float64 [C].

    Raises:
        UserError: a class without training images, which has no prior.
    """
    counts = torch.as_tensor(np.asarray(class_counts), dtype=torch.float64)
    if not bool((counts > 0).all()):
        raise UserError(f"{int((counts <= 0).sum())} classes have no training images, so there is no prior of them")
    return (counts / counts.sum()).log()


def weights_of(labels: Tensor, weigh: Weigh) -> Tensor:
    """w float64 [N], whose sum is 1: alike for all images, or for the classes that are there and within each."""
    if weigh == "images":
        return torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    images = labels.bincount().double()
    return 1 / (images[labels] * (images > 0).sum())


def fit(logits: Tensor, labels: Tensor, prior: Tensor, weights: Tensor, strength: float | None = None) -> Fit:
    """The strength and the temperature with the least weighted log loss.

    Args:
        logits: z [N, C], finite.
        labels: y int64 [N].
        prior: l [C]; where all classes have the same, the strength changes nothing and stays 0.
        weights: w [N].
        strength: given, so that the temperature alone is fitted.

    Raises:
        UserError: there is no such minimum: all images are right, so that a lower temperature always fits better; or the logits
            fit no better than chance.
    """
    prior = prior.double()
    if strength is None and bool((prior == prior[0]).all()):
        strength = 0.0
    # (a, b) = basis @ u, so that a given strength leaves one unknown.
    basis = (
        torch.eye(2, dtype=torch.float64)
        if strength is None
        else torch.tensor([[1.0], [strength]], dtype=torch.float64)
    )
    unknown = torch.zeros(basis.shape[1], dtype=torch.float64)
    unknown[0] = 1.0

    def at(values: Tensor) -> _Terms:
        return _terms(logits, labels, prior, basis @ values)

    terms = at(unknown)
    for _ in range(_STEPS):
        # Where all are right, logits twice as large have less loss still, and so on without an end.
        if bool(terms.right.all()):
            if float((basis @ unknown)[0]) <= 0:
                break
            raise UserError(
                f"all {len(labels):,} validation images are right, so that nothing tells how sure the model may be: a fit "
                "needs more of them, some of which it has wrong (--val-share)"
            )
        slope = basis.T @ (weights @ terms.slopes)
        curvature = basis.T @ _matrix(weights @ terms.curvatures) @ basis
        step, before = torch.linalg.pinv(curvature, hermitian=True) @ slope, float(weights @ terms.losses)
        is_last = float(slope @ step) / 2 < _ENOUGH
        for _ in range(_HALVINGS):  # no gain is a step too long: a function that is convex gains somewhere on the way
            terms = at(unknown - step)
            if is_last or float(weights @ terms.losses) < before:
                break
            step = step / 2
        unknown = unknown - step
        if is_last:
            break
    a, b = (basis @ unknown).tolist()
    if a <= 0:
        raise UserError(
            "the logits of the validation images fit their labels no better than chance: nothing to calibrate"
        )
    return Fit(b / a, 1 / a, float(weights @ terms.losses))


def log_loss(logits: Tensor, labels: Tensor, prior: Tensor, weights: Tensor, of: Fit | None = None) -> float:
    """The weighted log loss in nats: of the plain logits, or with a fit."""
    at = [1.0, 0.0] if of is None else [1 / of.temperature, of.strength / of.temperature]
    return float(weights @ _terms(logits, labels, prior.double(), torch.tensor(at, dtype=torch.float64)).losses)


def uncertainty(
    logits: Tensor, labels: Tensor, prior: Tensor, weights: Tensor, found: Fit, *, strength_given: bool
) -> tuple[Interval | None, Interval | None]:
    """95 % intervals of strength and temperature: bootstrap of the validation images.

    The images are drawn anew with replacement, each with its weight; every draw is fitted by a step of Newton's method from
    ``found``, with the draw's own slope and curvature. Images of all classes are drawn together: of a class with one image
    nothing else would tell how much that one matters.

    Returns:
        of the strength, None where it was given or the draws leave it open; of the temperature, likewise.
    """
    at = torch.tensor([1.0, found.strength], dtype=torch.float64) / found.temperature
    terms = _terms(logits, labels, prior.double(), at)
    per_image = (weights[:, None] * torch.cat([terms.slopes, terms.curvatures], dim=1)).numpy()
    generator, n = np.random.default_rng(0), len(labels)
    sums = np.array([np.bincount(generator.integers(n, size=n), minlength=n) @ per_image for _ in range(DRAWS)])
    slopes, curvatures = sums[:, :2], sums[:, [2, 3, 3, 4]].reshape(-1, 2, 2)
    if strength_given:
        ray = np.array([1.0, found.strength])
        inverse = 1 / found.temperature - (slopes @ ray) / (curvatures @ ray @ ray)
        return None, _of_inverse(inverse)
    steps = np.linalg.solve(curvatures, slopes[:, :, None])[:, :, 0]
    a, b = (at.numpy() - steps).T
    open_ = bool((a <= 0).mean() > 0.025)
    low, high = np.quantile(np.where(a > 0, b / np.where(a > 0, a, 1.0), found.strength), [0.025, 0.975])
    return (None if open_ else (float(low), float(high))), _of_inverse(a)


def _of_inverse(a: NDArray[np.float64]) -> Interval | None:
    """The middle 95 % of 1 / a; None where that has no upper end."""
    low, high = np.quantile(a, [0.025, 0.975])
    return (1 / float(high), 1 / float(low)) if low > 0 else None


@dataclass(frozen=True)
class _Terms:
    """What each image adds to the log loss and its derivatives by (a, b), and which are right; fp64 on the CPU."""

    losses: Tensor  # [N]
    slopes: Tensor  # [N, 2]
    curvatures: Tensor  # [N, 3]: by aa, ab, bb
    right: Tensor  # bool [N]


def _terms(logits: Tensor, labels: Tensor, prior: Tensor, at: Tensor) -> _Terms:
    a, b = at.tolist()
    parts = []
    for z, y in batches(logits, labels):
        x = a * z + b * prior
        top = x.amax(dim=1, keepdim=True)
        own = x.gather(1, y[:, None]).squeeze(1)
        p = (x - top).exp_()
        total = p.sum(dim=1, keepdim=True)
        p /= total
        pz = p * z
        mean_z, mean_l = pz.sum(dim=1), p @ prior
        slopes = torch.stack([mean_z - z.gather(1, y[:, None]).squeeze(1), mean_l - prior[y]], dim=1)
        of_z = torch.linalg.vecdot(pz, z) - mean_z**2
        curvatures = torch.stack([of_z, pz @ prior - mean_z * mean_l, p @ prior**2 - mean_l**2], dim=1)
        losses = (top + total.log()).squeeze(1) - own
        parts.append((losses, slopes, curvatures, own == top.squeeze(1)))
    return _Terms(*(torch.cat(column) for column in zip(*parts, strict=True)))


def batches(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(z fp64 [n, C], y [n]) of so many logits at a time that they stay in the cache."""
    rows = max(1, _AT_A_TIME // logits.shape[1])
    return ((z.double(), y) for z, y in zip(logits.split(rows), labels.split(rows), strict=True))


def _matrix(parts: Tensor) -> Tensor:
    aa, ab, bb = parts.tolist()
    return torch.tensor([[aa, ab], [ab, bb]], dtype=torch.float64)
