"""The definition of the classifier-with-loss op in plain PyTorch: oracle of the tests, fallback, baseline of the benchmarks."""

from typing import Literal

import torch
import torch.nn.functional as F

# B batch, D width, C classes

Normalize = Literal["both", "weight", "none"]
IGNORE_INDEX = -100


def logits_reference(
    features: torch.Tensor,  # [B, D]
    weight: torch.Tensor,  # [C, D]
    bias: torch.Tensor | None,  # [C]
    scale: float,
    normalize: Normalize,
) -> torch.Tensor:
    """scale * <f, w> + bias, with f and w (or w alone) divided by their length; [B, C] in the dtype of ``features``."""
    weight = weight.to(features.dtype)
    if normalize != "none":
        weight = F.normalize(weight, dim=-1)
    if normalize == "both":
        features = F.normalize(features, dim=-1)
    logits = scale * F.linear(features, weight)  # [B, C]
    return logits if bias is None else logits + bias.to(features.dtype)


def cosine_cross_entropy_reference(
    features: torch.Tensor,  # [B, D]
    weight: torch.Tensor,  # [C, D]
    labels: torch.Tensor,  # [B] int64
    log_prior: torch.Tensor | None,  # [C]
    bias: torch.Tensor | None,  # [C]
    class_weight: torch.Tensor | None,  # [C]
    scale: float,
    tau: float,
    label_smoothing: float,
    normalize: Normalize,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean cross-entropy of logits + tau log_prior in float32, argmax of the plain logits)."""
    with torch.autocast(features.device.type, enabled=False):
        logits = logits_reference(features, weight, bias, scale, normalize)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        predictions = exact.detach().argmax(dim=1)  # [B]
        adjusted = exact if log_prior is None else exact + tau * log_prior.to(exact.dtype)
        loss = F.cross_entropy(
            adjusted,
            labels,
            weight=None if class_weight is None else class_weight.to(exact.dtype),
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
        )
        return loss, predictions
