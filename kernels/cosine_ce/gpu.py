"""The classifier-with-loss op on a GPU: library products over chunks of rows, and a Triton kernel over each row of logits.

The gradients are taken in the forward pass, while a chunk's logits are at hand, as on a CPU: nothing is computed twice,
and no more than a chunk of logits is stored. Sums have one order, so results repeat bit by bit.
"""

from typing import Any

import torch

from ..products import product
from ..triton_launch import ceil_div, kinds, launch, next_power_of_two
from .arguments import IGNORE_INDEX, ClassifierArguments, Needed
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


def forward(a: ClassifierArguments, need: Needed) -> tuple[torch.Tensor, ...]:
    """(loss, predictions, d_features, d_weight, d_bias) of at least one sample; gradients not needed are empty."""
    (B, D), C = a.features.shape, a.weight.shape[0]
    predictions, nothing = torch.empty_like(a.labels), a.features.new_empty(0, dtype=torch.float32)
    w = a.weight.to(a.features.dtype)
    d_features: list[torch.Tensor] = []
    d_weight = d_bias = nothing
    column_scale, sums = _prepare(a)
    losses, smooth = nothing.new_empty(B), a.label_smoothing > 0.0
    normalised = a.features if a.normalize == "both" else None
    vectors = (normalised, a.labels, column_scale, a.bias, a.log_prior, a.class_weight)
    rows = max(64, CHUNK_FLOATS // C)
    for start in range(0, B, rows):
        f = a.features[start : start + rows]
        R, logits = f.shape[0], product(f, w.T)  # [R, C]
        gradient: Any = None  # frees that of the chunk before
        if need.features or need.weight:
            gradient = _gradient_of(logits, f, need.bias)
        stride = 0 if gradient is None else gradient.stride(0)
        launch(
            classifier_rows_kernel, (R, 1, 1), kinds((losses, *vectors), need.bias, f.dtype, C, D, stride, smooth),
            (logits, gradient, logits if need.bias else None, *vectors, sums, losses, predictions, start, stride, D, C,
             a.tau, a.label_smoothing),
            SMOOTH=smooth, BD=next_power_of_two(D), BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
        if need.bias:
            d_bias = logits.sum(0) if start == 0 else d_bias.add_(logits.sum(0))
        del logits
        if need.features:
            d_features.append(product(gradient, w))
        if need.weight:
            d_weight = product(gradient.T, f) if start == 0 else _added(d_weight, gradient, f)
    d_f = nothing if not need.features else d_features[0] if len(d_features) == 1 else torch.cat(d_features)
    if a.normalize == "both" and need.features:
        _finish(d_f, a.features)
    if a.normalize != "none" and need.weight:
        _finish(d_weight, a.weight)
    return losses.sum() / sums[0], predictions, d_f, d_weight, d_bias


def _prepare(a: ClassifierArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """scale / |w| of each class [C], and [2]: the weight that counts, and the sum of all class weights."""
    C, D = a.weight.shape
    weight = a.weight if a.normalize != "none" else None
    column_scale = a.weight.new_empty(C, dtype=torch.float32)
    sums, in_range = column_scale.new_empty(2), a.weight.new_empty((), dtype=torch.bool)
    launch(
        classifier_prepare_kernel, (ceil_div(C, CLASSES_A_PROGRAM), 1, 1),
        kinds((a.labels, weight, a.class_weight), D, C),
        (weight, a.labels, a.class_weight, column_scale, sums, in_range, a.labels.shape[0], D, C, a.scale, IGNORE_INDEX),
        BC=CLASSES_A_PROGRAM, BD=next_power_of_two(D), BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    if a.labels.is_cuda:
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
    C = total.shape[0]
    size = max(LEAST_PART, ceil_div(C, 512) * 64)
    for c in range(0, C, size):
        total[c : c + size] += product(gradient[:, c : c + size].T, f)
    return total


def _finish(d_x: torch.Tensor, x: torch.Tensor) -> None:
    """In place: take out of each row of ``d_x`` its part along the row of ``x``, which was normalised."""
    rows, D = x.shape
    launch(
        classifier_finish_kernel, (rows, 1, 1), kinds((d_x, x), D), (d_x, x, D), BD=next_power_of_two(D), num_warps=4
    )
