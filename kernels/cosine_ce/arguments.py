"""What the classifier-with-loss op takes, stated once; and the checks of it, before anything reads it."""

from typing import Any, Literal, NamedTuple

import torch

from ..checks import check_activations, check_number, check_parameter, check_positive

# B batch, D width, C classes

Normalize = Literal["both", "weight", "none"]
IGNORE_INDEX = -100


class ClassifierArguments(NamedTuple):
    """The arguments of a call. Parameters are float32 or have the dtype of ``features``."""

    features: torch.Tensor  # [B, D]
    weight: torch.Tensor  # [C, D]
    labels: torch.Tensor  # [B] int64
    log_prior: torch.Tensor | None  # [C], a constant
    bias: torch.Tensor | None  # [C]
    class_weight: torch.Tensor | None  # [C], a constant
    scale: float
    tau: float
    label_smoothing: float
    normalize: Normalize


class Needed(NamedTuple):
    """Which gradients are wanted."""

    features: bool
    weight: bool
    bias: bool


def check(arguments: tuple[Any, ...]) -> None:
    """Raise TypeError or ValueError, which name the argument, unless these :class:`ClassifierArguments` are those of one call."""
    a = ClassifierArguments(*arguments)
    check_activations("features", a.features)
    if a.features.dim() != 2 or a.features.shape[1] == 0:
        raise ValueError(f"features: expected [B, D], got shape {list(a.features.shape)}")
    batch, width = a.features.shape
    if not isinstance(a.weight, torch.Tensor):
        raise TypeError(f"weight: expected a tensor [C, {width}], got {type(a.weight).__name__}")
    if a.weight.dim() != 2 or a.weight.shape[0] == 0:
        raise ValueError(f"weight: expected [C, {width}] with at least one class, got shape {list(a.weight.shape)}")
    classes = a.weight.shape[0]
    check_parameter("weight", a.weight, (classes, width), "features", a.features)
    for name, tensor in (("log_prior", a.log_prior), ("bias", a.bias), ("class_weight", a.class_weight)):
        if tensor is not None:
            check_parameter(name, tensor, (classes,), "features", a.features)
    if not isinstance(a.labels, torch.Tensor):
        raise TypeError(f"labels: expected a tensor of int64 of shape [{batch}], got {type(a.labels).__name__}")
    if a.labels.dtype != torch.int64 or tuple(a.labels.shape) != (batch,):
        got = f"{a.labels.dtype} of shape {list(a.labels.shape)}"
        raise ValueError(f"labels: expected int64 of shape [{batch}], got {got}")
    if a.labels.device != a.features.device:
        raise ValueError(f"labels: expected device {a.features.device}, where features lies, got {a.labels.device}")
    check_positive("scale", a.scale)
    check_number("tau", a.tau)
    check_number("label_smoothing", a.label_smoothing)
    if not 0.0 <= a.label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing: expected 0 to 1, got {a.label_smoothing}")
    if a.normalize not in ("both", "weight", "none"):
        raise ValueError(f"normalize: expected 'both', 'weight' or 'none', got {a.normalize!r}")


def check_constants(a: ClassifierArguments) -> None:
    """Raise ValueError where a constant requires gradients, which is no part of what :func:`check` has seen before."""
    for name, tensor in (("log_prior", a.log_prior), ("class_weight", a.class_weight)):
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
