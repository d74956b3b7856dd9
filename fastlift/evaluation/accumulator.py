"""Counts of one pass over a test set, added up on the device and never from stored logits.

Legend: B images in a batch, C classes, K = 15 calibration bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastlift.data.index.groups import GROUP_BOUNDARIES
from fastlift.evaluation.metrics import CALIBRATION_BINS, Counts, Metrics, metrics_of

MAX_CONFUSION_CLASSES = 1024  # 8 MiB of int64 on the device; above this only per-class counts are kept

# Sums of real numbers are kept as integers in fixed point, so that neither the order of the images nor the number of
# batches or ranks changes a bit of the result, and no float atomics run on a GPU.
_CONFIDENCE_UNIT = 2.0**32  # exact for fp32 confidences above 1/256; 2^31 images fit
_LOSS_UNIT = 2.0**24
_LOSS_CAP = 1000.0  # nats an image; keeps a class masked with -inf from overflowing the sum


class ClassificationAccumulator:
    """Counts of one pass over a test set, kept on the device and added to without a host sync.

    ``update`` adds a batch, ``compute`` reads the counts (the only sync). Ranks are joined by summing every tensor of
    ``state()`` in place, for example ``for tensor in accumulator.state().values(): dist.all_reduce(tensor)``. All sums are
    integers, so the result does not depend on order, batch size or number of ranks.

    Args:
        num_classes: C; up to 1024 of them the C x C confusion matrix is kept too.
        device: where the counts live; it must be the device of the logits.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        self.num_classes = num_classes
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
        if num_classes <= MAX_CONFUSION_CLASSES:
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
            state = self._state
            # index_add_ rather than bincount, which reads the largest label back to the host.
            state["correct"].index_add_(0, labels, hits.long())
            state["total"].index_add_(0, labels, real.long())
            state["predicted"].index_add_(0, predictions, finite.long())
            state["non_finite"] += (real & ~finite).sum()
            if "confusion" in state:
                state["confusion"].index_add_(0, labels * self.num_classes + predictions, finite.long())
            confidences = torch.where(finite, (top - log_total).exp(), 0.0).clamp(0.0, 1.0)  # [B]
            bins = torch.bucketize(confidences, self._edges, right=True)  # [B] in 0..K-1
            state["bin_count"].index_add_(0, bins, finite.long())
            state["bin_correct"].index_add_(0, bins, hits.long())
            state["bin_confidence"].index_add_(0, bins, (confidences * _CONFIDENCE_UNIT).round().long())
            losses = log_total - logits.gather(1, labels[:, None]).squeeze(1)  # [B]
            losses = torch.where(finite, losses, 0.0).clamp(0.0, _LOSS_CAP)
            state["loss_sum"] += (losses.double() * _LOSS_UNIT).round().long().sum()

    def state(self) -> dict[str, torch.Tensor]:
        """The live int64 tensors, to be summed in place across ranks or saved; the dict itself is a copy."""
        return dict(self._state)

    def counts(self) -> Counts:
        """What was counted so far: waits for the device."""
        found: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in self._state.items()}
        found["non_finite"] = int(found["non_finite"][0])
        found["loss_sum"] = float(found["loss_sum"][0]) / _LOSS_UNIT
        found["bin_confidence"] = found["bin_confidence"] / _CONFIDENCE_UNIT
        if "confusion" in found:
            found["confusion"] = found["confusion"].reshape(self.num_classes, self.num_classes)
        return Counts(**found)

    def compute(self, group_counts: Sequence[int], boundaries: tuple[int, int] = GROUP_BOUNDARIES) -> Metrics:
        """The figures of what was counted so far, as ``metrics_of`` gives them."""
        return metrics_of(self.counts(), group_counts, boundaries)
