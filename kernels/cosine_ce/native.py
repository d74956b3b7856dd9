"""The classifier-with-loss op on a CPU: matrix products by torch's BLAS on blocks of rows, the loss by the native library.

The gradients are taken in the forward pass, while a block's logits are at hand: they are never stored whole and never
computed twice.
"""

import torch

from ..native.library import CrossEntropy, call, pointer
from .arguments import check_labels
from .reference import IGNORE_INDEX, Normalize

# B batch, D width, C classes, R rows of a block

BLOCK_FLOATS = 2**21  # 8 MiB of logits: near the caches, and enough rows for the matrix products to run at full speed
NORM_FLOOR = 1e-12  # of torch.nn.functional.normalize


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
    batch, classes = features.shape[0], weight.shape[0]
    check_labels(labels, classes)
    counted = labels != IGNORE_INDEX
    f, w = features.float(), weight.float().contiguous()
    inverse_f = _inverse_norm(f) if normalize == "both" else None  # [B, 1]
    if inverse_f is not None:
        f = f * inverse_f
    inverse_w = _inverse_norm(w) if normalize != "none" else None  # [C, 1]
    column_scale = torch.full((classes,), scale) if inverse_w is None else inverse_w[:, 0] * scale
    offset = None if log_prior is None else log_prior.float() * tau
    class_weight = None if class_weight is None else class_weight.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    total = float(counted.sum() if class_weight is None else class_weight[labels[counted]].sum())
    factor = 1.0 / total if total else 0.0
    losses, predictions = f.new_empty(batch), labels.new_empty(batch)
    d_f = torch.empty_like(f) if need_features else f.new_empty(0)
    d_w = torch.zeros_like(w) if need_weight else f.new_empty(0)
    d_b = torch.zeros(classes) if need_bias else f.new_empty(0)
    gradient = need_features or need_weight or need_bias
    rows = min(batch, max(64, BLOCK_FLOATS // classes))
    logits = f.new_empty((rows, classes))
    labels = labels.contiguous()
    for start in range(0, batch, rows or 1):
        stop = min(start + rows, batch)
        part, z = f[start:stop], logits[: stop - start]
        torch.mm(part, w.T, out=z)
        block = CrossEntropy(
            stop - start, classes, torch.get_num_threads(), gradient, label_smoothing, factor,
            *[pointer(x) for x in (z, column_scale, bias, offset, class_weight)],
            *[pointer(x[start:stop]) for x in (labels, losses, predictions)],
        )  # fmt: skip
        call("fastlift_cross_entropy", block)
        if need_features:
            torch.mm(z, w, out=d_f[start:stop])
        if need_weight:
            d_w.addmm_(z.T, part)
        if need_bias:
            d_b += z.sum(0)
    loss = losses.sum() / total if total else losses.new_full((), float("nan"))
    if need_bias:
        d_b /= column_scale
    if need_features and inverse_f is not None:
        d_f *= inverse_f
        _off_direction(d_f, f, None)
    if need_weight and inverse_w is not None:
        _off_direction(d_w, w, inverse_w * inverse_w)  # the column scale has put 1 / |w| into it already
    return loss, predictions, d_f, d_w, d_b


def backward(d_loss: torch.Tensor, saved: list[torch.Tensor], *_: object) -> tuple[torch.Tensor, ...]:
    """The gradients of the forward pass times that of the loss."""
    d_features, d_weight, d_bias = saved
    return d_features * d_loss, d_weight * d_loss, d_bias * d_loss


def _inverse_norm(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(NORM_FLOOR).reciprocal_()


def _off_direction(d_x: torch.Tensor, x: torch.Tensor, inverse_square: torch.Tensor | None) -> None:
    """In place: take out of each row of ``d_x`` its part along the row of ``x``, whose 1 / |x|^2 is given (None: 1)."""
    along = torch.bmm(d_x.unsqueeze(1), x.unsqueeze(2)).squeeze(2)  # [rows, 1] without a temporary of the size of x
    if inverse_square is not None:
        along *= inverse_square
    d_x.addcmul_(x, along, value=-1.0)
