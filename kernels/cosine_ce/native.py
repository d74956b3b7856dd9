"""The classifier-with-loss op on a CPU: matrix products by torch's BLAS on blocks of rows, the loss by the native library.

The gradients are taken in the forward pass, while a block's logits are at hand: they are never stored whole and never
computed twice.
"""

import torch

from ..native.library import CrossEntropy, call, pointer
from .arguments import IGNORE_INDEX, ClassifierArguments, Needed, check_labels
from .directions import inverse_norm, off_direction

# B batch, D width, C classes, R rows of a block

BLOCK_FLOATS = 2**21  # 8 MiB of logits: near the caches, and enough rows for the matrix products to run at full speed


def forward(a: ClassifierArguments, need: Needed) -> tuple[torch.Tensor, ...]:
    """(loss, predictions, d_features, d_weight, d_bias) of at least one sample; gradients not needed are empty."""
    batch, classes = a.features.shape[0], a.weight.shape[0]
    check_labels(a.labels, classes)
    counted = a.labels != IGNORE_INDEX
    f, w = a.features.float(), a.weight.float()
    inverse_f = inverse_norm(f) if a.normalize == "both" else None  # [B, 1]
    if inverse_f is not None:
        f = f * inverse_f
    inverse_w = inverse_norm(w) if a.normalize != "none" else None  # [C, 1]
    column_scale = torch.full((classes,), a.scale) if inverse_w is None else inverse_w[:, 0] * a.scale
    offset = None if a.log_prior is None else a.log_prior.float() * a.tau
    class_weight = None if a.class_weight is None else a.class_weight.float()
    bias = None if a.bias is None else a.bias.float()
    total = float(counted.sum() if class_weight is None else class_weight[a.labels[counted]].sum())
    factor = 1.0 / total if total else 0.0
    losses, predictions = f.new_empty(batch), a.labels.new_empty(batch)
    d_f = torch.empty_like(f) if need.features else f.new_empty(0)
    d_w = torch.zeros_like(w) if need.weight else f.new_empty(0)
    d_b = torch.zeros(classes) if need.bias else f.new_empty(0)
    rows = min(batch, max(64, BLOCK_FLOATS // classes))
    logits = f.new_empty((rows, classes))
    for start in range(0, batch, rows):
        stop = min(start + rows, batch)
        part, z = f[start:stop], logits[: stop - start]
        torch.mm(part, w.T, out=z)
        block = CrossEntropy(
            stop - start, classes, torch.get_num_threads(), any(need), a.label_smoothing, factor,
            *[pointer(x) for x in (z, column_scale, bias, offset, class_weight)],
            *[pointer(x[start:stop]) for x in (a.labels, losses, predictions)],
        )  # fmt: skip
        call("fastlift_cross_entropy", block)
        if need.features:
            torch.mm(z, w, out=d_f[start:stop])
        if need.weight:
            d_w.addmm_(z.T, part)
        if need.bias:
            d_b += z.sum(0)
    loss = losses.sum() / total if total else losses.new_full((), float("nan"))
    if need.bias:
        d_b /= column_scale
    if need.features and inverse_f is not None:
        d_f *= inverse_f
        off_direction(d_f, f, None)
    if need.weight and inverse_w is not None:
        off_direction(d_w, w, inverse_w * inverse_w)  # the column scale has put 1 / |w| into it already
    return loss, predictions, d_f, d_w, d_b
