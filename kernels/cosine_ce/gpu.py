"""The classifier-with-loss op on a GPU: library products over chunks of rows, and a Triton kernel over each row of logits.

The gradients are taken in the forward pass, while a chunk's logits are at hand, as on a CPU: nothing is computed twice,
and no more than a chunk of logits is stored. Sums have one order, so results repeat bit by bit.
"""

from typing import Any

import torch

from ..products import product
from ..triton_launch import ceil_div, device_of, kinds, launch, next_power_of_two
from .reference import IGNORE_INDEX, Normalize
from .rows import (
    BLOCK,
    CLASSES_A_PROGRAM,
    WARPS,
    classifier_finish_kernel,
    classifier_prepare_kernel,
    classifier_rows_kernel,
)

# B batch, D width, C classes, R rows of a chunk

CHUNK_FLOATS = 2**22  # of logits, 16 MiB: a batch of 512 and 8142 classes in one
LEAST_PART = 2048  # classes whose gradient is added to at a time


def forward(
    features: torch.Tensor,  # [B, D]
    weight: torch.Tensor,  # [C, D]
    labels: torch.Tensor,  # [B]
    log_prior: torch.Tensor | None,  # [C]
    bias: torch.Tensor | None,  # [C]
    class_weight: torch.Tensor | None,  # [C]
    scale: float,
    tau: float,
    label_smoothing: float,
    normalize: Normalize,
    need_features: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[torch.Tensor, ...]:
    """(loss, predictions, d_features, d_weight, d_bias) for a loss gradient of 1; those not needed are empty."""
    (B, D), C = features.shape, weight.shape[0]
    predictions, nothing = torch.empty_like(labels), features.new_empty(0, dtype=torch.float32)
    if not B:
        wanted = ((features, need_features), (weight, need_weight), (weight[:, 0], need_bias))
        zeros = [torch.zeros_like(x, dtype=torch.float32) if need else nothing for x, need in wanted]
        return nothing.new_full((), float("nan")), predictions, *zeros
    w = weight.to(features.dtype)
    d_features: list[torch.Tensor] = []
    d_weight = d_bias = nothing
    with device_of(features):
        column_scale, sums = _prepare(weight if normalize != "none" else None, labels, class_weight, D, C, scale)
        losses = nothing.new_empty(B)
        normalised = features if normalize == "both" else None
        key = kinds((labels, normalised, column_scale, bias, log_prior, class_weight), need_bias, features.dtype, C, D)
        rows = max(64, CHUNK_FLOATS // C)
        for start in range(0, B, rows):
            f = features[start : start + rows]
            logits = product(f, w.T)  # [R, C]
            gradient: Any = None
            if need_features or need_weight:
                gradient = _gradient_of(logits, f, need_bias)
            stride = 0 if gradient is None else gradient.stride(0)
            launch(
                classifier_rows_kernel, (len(f), 1, 1), key and (*key, stride, label_smoothing > 0.0),
                (logits, gradient, logits if need_bias else None, normalised, labels, column_scale, bias, log_prior,
                 class_weight, sums, losses, predictions, start, stride, D, C, tau, label_smoothing),
                SMOOTH=label_smoothing > 0.0, BD=next_power_of_two(D), BLOCK=BLOCK, num_warps=WARPS,
            )  # fmt: skip
            if need_bias:
                d_bias = logits.sum(0) if start == 0 else d_bias.add_(logits.sum(0))
            del logits
            if need_features:
                d_features.append(product(gradient, w))
            if need_weight:
                d_weight = product(gradient.T, f) if start == 0 else _added(d_weight, gradient, f)
        d_f = nothing if not need_features else d_features[0] if len(d_features) == 1 else torch.cat(d_features)
        if normalize == "both" and need_features:
            _finish(d_f, features)
        if normalize != "none" and need_weight:
            _finish(d_weight, weight)
    return losses.sum() / sums[0], predictions, d_f, d_weight, d_bias


def backward(d_loss: torch.Tensor, saved: list[torch.Tensor], *_: object) -> tuple[torch.Tensor, ...]:
    """The gradients of the forward pass times that of the loss."""
    d_features, d_weight, d_bias = saved
    return d_features * d_loss, d_weight * d_loss, d_bias * d_loss


def _prepare(
    weight: torch.Tensor | None, labels: torch.Tensor, class_weight: torch.Tensor | None, D: int, C: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """scale / |w| of each class [C], and [2]: the weight that counts, and the sum of all class weights."""
    column_scale = torch.empty(C, device=labels.device, dtype=torch.float32)
    sums, in_range = column_scale.new_empty(2), torch.empty((), device=labels.device, dtype=torch.bool)
    launch(
        classifier_prepare_kernel, (ceil_div(C, CLASSES_A_PROGRAM), 1, 1), kinds((labels, weight, class_weight), D, C),
        (weight, labels, class_weight, column_scale, sums, in_range, len(labels), D, C, scale, IGNORE_INDEX),
        BC=CLASSES_A_PROGRAM, BD=next_power_of_two(D), BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    if labels.is_cuda:
        torch._assert_async(in_range)  # as in PyTorch's own cross-entropy; no host sync
    return column_scale, sums


def _gradient_of(logits: torch.Tensor, f: torch.Tensor, need_bias: bool) -> torch.Tensor:
    """Where the gradient of the products goes, in the dtype in which it is multiplied: over the logits where it can."""
    if f.dtype == torch.float32 and not need_bias:
        return logits
    (R, C), aligned = logits.shape, ceil_div(logits.shape[1], 64) * 64  # rows start where the fast products want them
    return f.new_empty((R, aligned))[:, :C]


def _added(total: torch.Tensor, gradient: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """``total`` [C, D] plus gradient^T [C, R] f [R, D], by parts of the classes: no second tensor of its size."""
    size = max(LEAST_PART, ceil_div(len(total), 512) * 64)
    for c in range(0, len(total), size):
        total[c : c + size] += product(gradient[:, c : c + size].T, f)
    return total


def _finish(d_x: torch.Tensor, x: torch.Tensor) -> None:
    """In place: take out of each row of ``d_x`` its part along the row of ``x``, which was normalised."""
    D = x.shape[1]
    launch(
        classifier_finish_kernel, (len(x), 1, 1), kinds((d_x, x), D), (d_x, x, D), BD=next_power_of_two(D), num_warps=4
    )
