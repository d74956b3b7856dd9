"""What the classifier-with-loss ops take: checked before anything reads it, whether it comes through the public op or past it."""

import torch

from ..checks import check_activations, check_kept, check_number, check_parameter, check_positive
from .reference import IGNORE_INDEX

# B batch, C classes


def check(
    features: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    log_prior: torch.Tensor | None,
    bias: torch.Tensor | None,
    class_weight: torch.Tensor | None,
    scale: float,
    tau: float,
    label_smoothing: float,
    normalize: str,
) -> None:
    """Raise TypeError or ValueError, which name the argument, unless the arguments are those of one call."""
    check_activations("features", features)
    if features.dim() != 2 or features.shape[1] == 0:
        raise ValueError(f"features: expected [B, D], got shape {list(features.shape)}")
    batch, width = features.shape
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"weight: expected a tensor [C, {width}], got {type(weight).__name__}")
    if weight.dim() != 2 or weight.shape[0] == 0:
        raise ValueError(f"weight: expected [C, {width}] with at least one class, got shape {list(weight.shape)}")
    classes = weight.shape[0]
    check_parameter("weight", weight, (classes, width), "features", features)
    for name, tensor in (("log_prior", log_prior), ("bias", bias), ("class_weight", class_weight)):
        if tensor is not None:
            check_parameter(name, tensor, (classes,), "features", features)
    if not isinstance(labels, torch.Tensor):
        raise TypeError(f"labels: expected a tensor of int64 of shape [{batch}], got {type(labels).__name__}")
    if labels.dtype != torch.int64 or tuple(labels.shape) != (batch,):
        raise ValueError(f"labels: expected int64 of shape [{batch}], got {labels.dtype} of shape {list(labels.shape)}")
    if labels.device != features.device:
        raise ValueError(f"labels: expected device {features.device}, where features lies, got {labels.device}")
    check_positive("scale", scale)
    check_number("tau", tau)
    check_number("label_smoothing", label_smoothing)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing: expected 0 to 1, got {label_smoothing}")
    if normalize not in ("both", "weight", "none"):
        raise ValueError(f"normalize: expected 'both', 'weight' or 'none', got {normalize!r}")


def check_constants(**tensors: torch.Tensor | None) -> None:
    """Raise ValueError where one requires gradients."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(f"{name}: expected a constant, got a tensor that requires gradients")


def check_labels(labels: torch.Tensor, classes: int) -> None:
    """Raise ValueError naming the first label that is neither a class nor to be left out."""
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= classes))
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels: expected 0 to {classes - 1}, or {IGNORE_INDEX} to leave a sample out; "
            f"got {int(labels[at])} at position {at}"
        )


def check_kept_for_backward(
    d_loss: torch.Tensor, saved: list[torch.Tensor], shapes: list[tuple[int, ...]], features: torch.Tensor
) -> None:
    """The same for what forward kept, of ``shapes``, and the gradient of the loss."""
    check_kept("d_loss", d_loss, (), (torch.float32,), features)
    for i, (tensor, shape) in enumerate(zip(saved, shapes, strict=True)):
        check_kept(f"saved_{i}", tensor, shape, (torch.float32,), features)
