"""Figures of a classifier on a long-tailed task, from counts that add up on the device and never from stored logits.

Legend: B images in a batch, C classes, K = 15 calibration bins. Rates are in percent unless a name says otherwise.

Only classes with at least one test image count in any figure over classes: a class without one has no accuracy.
The definitions follow the evaluator of the LIFT authors (macro-F1, worst class, harmonic and geometric mean, groups by
training count); `docs/reading_a_run.md` has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastlift.errors import UserError

if TYPE_CHECKING:
    import torch

CALIBRATION_BINS = 15
GROUP_NAMES = ("many", "medium", "few")
GROUP_BOUNDARIES = (20, 100)
HARMONIC_FLOOR = 0.001  # percent; the authors' stand-in for a class at 0, whose reciprocal would be infinite
MAX_CONFUSION_CLASSES = 1024  # 8 MiB of int64 on the device; above this only per-class counts are kept
LISTED_CONFUSIONS = 50

# Sums of real numbers are kept as integers in fixed point, so that neither the order of the images nor the number of
# batches or ranks changes a bit of the result, and no float atomics run on a GPU.
_CONFIDENCE_UNIT = 2.0**32  # exact for fp32 confidences above 1/256; 2^31 images fit
_LOSS_UNIT = 2.0**24
_LOSS_CAP = 1000.0  # nats an image; keeps a class masked with -inf from overflowing the sum


@dataclass(frozen=True)
class CalibrationBin:
    """Images whose top-1 confidence lies in [lower, upper); the last bin includes 1.

    confidence and accuracy are the bin's means in percent, None for an empty bin; lower and upper are fractions.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Confusion:
    """``count`` test images of class ``label`` were predicted as class ``predicted``."""

    label: int
    predicted: int
    count: int


@dataclass(frozen=True)
class Metrics:
    """What one evaluation found. Percent, unless said otherwise; None where there is nothing to average.

    accuracy: correct images / images. many, medium, few: means of the class accuracies within a group of classes by
    *training* count. mean_class_accuracy: mean of all class accuracies. macro_f1: mean of F1 = 2 TP / (images of the
    class + predictions of it). worst_class: least class accuracy. harmonic_mean: of class accuracies, a class at 0
    counting as 0.001 %. geometric_mean: of class accuracies; one class at 0 makes it 0, as in the authors' evaluator.
    expected_calibration_error: sum over bins of (share of images) * |accuracy - confidence|. log_loss: mean of
    -ln p(label), in nats. non_finite: images whose logits were NaN or infinite; they count as wrong and are left out
    of calibration and log loss.

    group_boundaries: few < lower <= medium <= upper < many. per_class: accuracy of each class, None without a test
    image. group_sizes: classes with test images in each group.
    calibration: K bins. confusions: the largest off-diagonal counts, most frequent first; empty where the tally kept
    no confusion matrix.
    """

    samples: int
    accuracy: float
    many: float | None
    medium: float | None
    few: float | None
    mean_class_accuracy: float
    macro_f1: float
    worst_class: float
    harmonic_mean: float
    geometric_mean: float
    expected_calibration_error: float | None
    log_loss: float | None
    non_finite: int
    group_boundaries: tuple[int, int]
    group_sizes: dict[str, int]
    per_class: tuple[float | None, ...]
    calibration: tuple[CalibrationBin, ...]
    confusions: tuple[Confusion, ...]

    def summary(self) -> dict[str, float | int | None]:
        """The single figures, without lists: what one line of ``metrics.jsonl`` holds."""
        return {name: value for name, value in asdict(self).items() if not isinstance(value, dict | list | tuple)}

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for ``json.dumps(..., allow_nan=False)``."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Metrics:
        """The way back from `to_dict`; keys of later versions are ignored.

        Raises:
            UserError: a key is missing.
        """
        missing = [field.name for field in fields(cls) if field.name not in values]
        if missing:
            raise UserError(f"these figures are missing from the stored metrics: {', '.join(missing)}")
        known = {field.name: values[field.name] for field in fields(cls)}
        known["group_sizes"] = dict(known["group_sizes"])
        known["group_boundaries"] = tuple(known["group_boundaries"])
        known["per_class"] = tuple(known["per_class"])
        known["calibration"] = tuple(CalibrationBin(**entry) for entry in known["calibration"])
        known["confusions"] = tuple(Confusion(**entry) for entry in known["confusions"])
        return cls(**known)


class ClassificationTally:
    """Counts of one pass over a test set, kept on the device and added to without a host sync.

    ``update`` adds a batch, ``compute`` reads the counts (the only sync). Ranks are joined by summing every tensor of
    ``state()`` in place, for example ``for tensor in tally.state().values(): dist.all_reduce(tensor)``, or with
    ``merge``. All sums are integers, so the result does not depend on order, batch size or number of ranks.

    Args:
        num_classes: C.
        device: where the counts live; it must be the device of the logits.
        confusion: keep the C x C confusion matrix; None: where C <= 1024 (8 MiB).
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu", *, confusion: bool | None = None) -> None:
        import torch

        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        self.num_classes = num_classes
        keep_confusion = num_classes <= MAX_CONFUSION_CLASSES if confusion is None else confusion
        lengths = {
            "correct": num_classes,
            "total": num_classes,
            "predicted": num_classes,
            "bin_count": CALIBRATION_BINS,
            "bin_correct": CALIBRATION_BINS,
            "bin_confidence": CALIBRATION_BINS,  # units of 2^-32
            "loss_sum": 1,  # units of 2^-24 nats
            "non_finite": 1,
        }
        if keep_confusion:
            lengths["confusion"] = num_classes * num_classes  # row = label, column = prediction
        # Tensors born in inference mode could not be all-reduced in place outside of it.
        with torch.inference_mode(False):
            self._state = {name: torch.zeros(n, dtype=torch.int64, device=device) for name, n in lengths.items()}
            self._edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, device=device)[1:-1].contiguous()

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add one batch.

        Args:
            logits: [B, C], plain logits (no prior added), any float dtype; computed on in fp32.
            labels: [B] int64 in 0..C-1; negative labels mark padding and are skipped.

        Raises:
            ValueError: the shapes do not fit.
        """
        import torch

        if logits.ndim != 2 or logits.shape[1] != self.num_classes or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"expected logits [B, {self.num_classes}] and labels [B], "
                f"not {list(logits.shape)} and {list(labels.shape)}"
            )
        with torch.no_grad():
            logits = logits.detach().float()  # [B, C]
            real = labels >= 0  # [B]
            labels = labels.long().clamp_min(0)
            top, predictions = logits.max(dim=1)  # [B]
            log_total = logits.logsumexp(dim=1)  # [B]
            finite = log_total.isfinite() & real
            hits = (predictions == labels) & finite
            self._add_classes(labels, predictions, real, finite, hits)
            self._add_confidences((top - log_total).exp(), finite, hits)
            losses = log_total - logits.gather(1, labels[:, None]).squeeze(1)  # [B]
            losses = torch.where(finite, losses, 0.0).clamp(0.0, _LOSS_CAP)
            self._state["loss_sum"] += (losses.double() * _LOSS_UNIT).round().long().sum()

    def _add_classes(
        self,
        labels: torch.Tensor,
        predictions: torch.Tensor,
        real: torch.Tensor,
        finite: torch.Tensor,
        hits: torch.Tensor,
    ) -> None:
        """Count per class; index_add_ rather than bincount, which reads the largest label back to the host."""
        state = self._state
        state["correct"].index_add_(0, labels, hits.long())
        state["total"].index_add_(0, labels, real.long())
        state["predicted"].index_add_(0, predictions, finite.long())
        state["non_finite"] += (real & ~finite).sum()
        if "confusion" in state:
            state["confusion"].index_add_(0, labels * self.num_classes + predictions, finite.long())

    def _add_confidences(self, confidences: torch.Tensor, finite: torch.Tensor, hits: torch.Tensor) -> None:
        import torch

        confidences = torch.where(finite, confidences, 0.0).clamp(0.0, 1.0)  # [B]
        bins = torch.bucketize(confidences, self._edges, right=True)  # [B] in 0..K-1
        self._state["bin_count"].index_add_(0, bins, finite.long())
        self._state["bin_correct"].index_add_(0, bins, hits.long())
        self._state["bin_confidence"].index_add_(0, bins, (confidences * _CONFIDENCE_UNIT).round().long())

    def state(self) -> dict[str, torch.Tensor]:
        """The live int64 tensors, to be summed in place across ranks or saved; the dict itself is a copy."""
        return dict(self._state)

    def merge(self, other: Mapping[str, torch.Tensor]) -> None:
        """Add the `state` of another tally over the same classes.

        Raises:
            ValueError: the other state has other names or shapes.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self._state.items()}
        other_shapes = {name: tuple(tensor.shape) for name, tensor in other.items()}
        if shapes != other_shapes:
            raise ValueError(f"cannot merge tallies of different make: {shapes} and {other_shapes}")
        for name, tensor in other.items():
            self._state[name] += tensor.to(self._state[name].device)

    def compute(self, group_counts: Sequence[int], boundaries: tuple[int, int] = GROUP_BOUNDARIES) -> Metrics:
        """The figures of everything added so far.

        Args:
            group_counts: C training counts that place the classes in groups (for CIFAR-100-LT with ratio 10 or 50,
                those of ratio 100).
            boundaries: (lower, upper): few < lower <= medium <= upper < many.

        Raises:
            UserError: no image was added, or the counts do not fit the classes.
        """
        counts = {name: tensor.cpu().numpy() for name, tensor in self._state.items()}
        samples = int(counts["total"].sum())
        if samples == 0:
            raise UserError("nothing to evaluate: not one labelled test image was seen", exit_code=1)
        if len(group_counts) != self.num_classes:
            raise UserError(f"{len(group_counts)} training counts were given for {self.num_classes} classes")
        tested = counts["total"] > 0  # [C]
        accuracies = np.full(self.num_classes, np.nan)  # [C] percent
        accuracies[tested] = 100.0 * counts["correct"][tested] / counts["total"][tested]
        groups = {name: mask & tested for name, mask in group_masks(group_counts, boundaries).items()}
        bins = _calibration(counts)
        scored = int(counts["bin_count"].sum())
        return Metrics(
            samples=samples,
            accuracy=100.0 * float(counts["correct"].sum()) / samples,
            many=_mean(accuracies[groups["many"]]),
            medium=_mean(accuracies[groups["medium"]]),
            few=_mean(accuracies[groups["few"]]),
            mean_class_accuracy=float(accuracies[tested].mean()),
            macro_f1=_macro_f1(counts, tested),
            worst_class=float(accuracies[tested].min()),
            harmonic_mean=harmonic_mean(accuracies[tested]),
            geometric_mean=geometric_mean(accuracies[tested]),
            expected_calibration_error=_expected_calibration_error(bins) if scored else None,
            log_loss=float(counts["loss_sum"][0]) / _LOSS_UNIT / scored if scored else None,
            non_finite=int(counts["non_finite"][0]),
            group_boundaries=boundaries,
            group_sizes={name: int(mask.sum()) for name, mask in groups.items()},
            per_class=tuple(None if np.isnan(value) else float(value) for value in accuracies),
            calibration=bins,
            confusions=_largest_confusions(counts.get("confusion"), self.num_classes),
        )


def group_masks(
    group_counts: Sequence[int], boundaries: tuple[int, int] = GROUP_BOUNDARIES
) -> dict[str, NDArray[np.bool_]]:
    """Which classes are many (> upper), medium (lower..upper, both included) and few (< lower): three masks [C]."""
    lower, upper = boundaries
    if lower > upper:
        raise UserError(f"group boundaries must rise, not ({lower}, {upper})")
    counts = np.asarray(group_counts)
    return {"many": counts > upper, "medium": (counts >= lower) & (counts <= upper), "few": counts < lower}


def harmonic_mean(accuracies: NDArray[np.float64]) -> float:
    """Harmonic mean of class accuracies in percent; a class below 0.001 % counts as 0.001 %."""
    return float(1.0 / np.mean(1.0 / np.maximum(accuracies, HARMONIC_FLOOR)))


def geometric_mean(accuracies: NDArray[np.float64]) -> float:
    """Geometric mean of class accuracies in percent, 0 where one class is at 0.

    By logarithms: the product of some thousand class accuracies, which the authors take, underflows to 0.
    """
    if np.any(accuracies <= 0):
        return 0.0
    return float(np.exp(np.mean(np.log(accuracies))))


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _macro_f1(counts: Mapping[str, NDArray[np.int64]], tested: NDArray[np.bool_]) -> float:
    f1 = 2.0 * counts["correct"][tested] / (counts["total"][tested] + counts["predicted"][tested])
    return 100.0 * float(f1.mean())


def _calibration(counts: Mapping[str, NDArray[np.int64]]) -> tuple[CalibrationBin, ...]:
    bins = []
    for index in range(CALIBRATION_BINS):
        count = int(counts["bin_count"][index])
        confidence = float(counts["bin_confidence"][index]) / _CONFIDENCE_UNIT
        bins.append(
            CalibrationBin(
                lower=index / CALIBRATION_BINS,
                upper=(index + 1) / CALIBRATION_BINS,
                count=count,
                confidence=100.0 * confidence / count if count else None,
                accuracy=100.0 * int(counts["bin_correct"][index]) / count if count else None,
            )
        )
    return tuple(bins)


def _expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    total = sum(entry.count for entry in bins)
    gaps = (
        entry.count * abs(entry.accuracy - entry.confidence)
        for entry in bins
        if entry.accuracy is not None and entry.confidence is not None
    )
    return sum(gaps) / total


def _largest_confusions(confusion: NDArray[np.int64] | None, num_classes: int) -> tuple[Confusion, ...]:
    if confusion is None:
        return ()
    errors = confusion.reshape(num_classes, num_classes).copy()
    np.fill_diagonal(errors, 0)
    flat = errors.ravel()
    # Stable, so that ties come in class order on every machine.
    largest = np.argsort(-flat, kind="stable")[:LISTED_CONFUSIONS]
    return tuple(
        Confusion(int(index) // num_classes, int(index) % num_classes, int(flat[index]))
        for index in largest
        if flat[index] > 0
    )
