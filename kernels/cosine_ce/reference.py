"""The definition of the classifier-with-loss op in plain PyTorch: oracle of the tests, fallback, baseline of the benchmarks."""

import torch
import torch.nn.functional as F

from .arguments import IGNORE_INDEX, ClassifierArguments

# B batch, D width, C classes


def cosine_cross_entropy_reference(a: ClassifierArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean cross-entropy of logits + tau log_prior in float32, argmax [B] of the plain logits).

    logits = scale * <f, w> + bias, in the dtype of the features, with f and w (or w alone) divided by their length.
    """
    with torch.autocast(a.features.device.type, enabled=False):
        features, weight = a.features, a.weight.to(a.features.dtype)
        if a.normalize != "none":
            weight = F.normalize(weight, dim=-1)
        if a.normalize == "both":
            features = F.normalize(features, dim=-1)
        logits = a.scale * F.linear(features, weight)  # [B, C]
        if a.bias is not None:
            logits = logits + a.bias.to(logits.dtype)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        predictions = exact.detach().argmax(dim=1)  # [B]
        adjusted = exact if a.log_prior is None else exact + a.tau * a.log_prior.to(exact.dtype)
        class_weight = None if a.class_weight is None else a.class_weight.to(exact.dtype)
        smoothing = a.label_smoothing
        loss = F.cross_entropy(adjusted, a.labels, class_weight, ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
        return loss, predictions
