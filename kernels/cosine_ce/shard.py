"""Classifier and cross-entropy where each process holds some of the classes: what one of them computes.

``row_statistics`` gives what the processes must tell each other of every row; ``shard_gradients`` takes what they found:

    z = scale <f', w'> + bias, y = z + tau log_prior - [c = label] margin
    d_y = d_lse exp(y - lse) - d_own [c = label] - d_other [c = other] - d_even even_c

with lse = log sum exp(y) over the classes of all processes, and the d the gradients of a row's loss by lse and, negated, by y
of the label, of the other label and the sum of even_c y_c over all classes. Library products on every device, and a few of PyTorch's passes over [B, C] beside them: ``exp(y - top)`` lies where the logits were, and becomes their
gradient there.
"""

from typing import NamedTuple

import torch

from ..products import product
from .arguments import Normalize
from .directions import inverse_norm, off_direction

# B batch over all processes, D width, C classes of this process

BLOCK_FLOATS = 2**18  # 1 MiB: on a CPU the passes over a block of rows stay in the caches


class ShardArguments(NamedTuple):
    """The rows of all processes and the classes of this one; parameters in float32 (float64 with float64 features)."""

    features: torch.Tensor  # [B, D]
    weight: torch.Tensor  # [C, D]
    labels: torch.Tensor  # [B] int64, counted from the first of these classes; below 0 or from C on: another process's
    log_prior: torch.Tensor | None  # [C], a constant
    bias: torch.Tensor | None  # [C]
    scale: float
    tau: float
    normalize: Normalize
    margins: torch.Tensor | None = None  # [C], a constant
    even: torch.Tensor | None = None  # [C], constants: what label smoothing gives each class
    others: torch.Tensor | None = None  # [B] int64, second labels, counted as the first; they have no margin


class RowStatistics(NamedTuple):
    """Of each row over these classes, in the dtype of the weight."""

    best: torch.Tensor  # [B] the largest z
    prediction: torch.Tensor  # [B] int64, the first class that has it
    top: torch.Tensor  # [B] the largest y
    total: torch.Tensor  # [B] sum of exp(y - top), 0 where all y are -inf
    own: torch.Tensor  # [B] y of the label, 0 where it is another process's
    exponentials: torch.Tensor  # [B, C] exp(y - top)
    even: torch.Tensor | None  # [B] sum of even_c y_c, where the arguments have such numbers
    other: torch.Tensor | None  # [B] y of the second label, as ``own``, where there are such


class RowGradients(NamedTuple):
    """The gradient d of each row's loss a lse - b y_label - e (sum of even_c y_c) - o y_other, [B] each."""

    lse: torch.Tensor  # d a
    own: torch.Tensor  # d b
    even: torch.Tensor | None = None  # d e
    other: torch.Tensor | None = None  # d o

    def of(self, rows: slice) -> "RowGradients":
        """Those of some rows."""
        return RowGradients(*[None if one is None else one[rows] for one in self])  # type: ignore[arg-type]


def row_statistics(a: ShardArguments) -> RowStatistics:
    """What the softmax over all classes must know of these."""
    f, w = _operands(a)
    z = _product(f, w.T)  # [B, C]
    rows_scale, columns = _row_scale(a, f), _column_scale(a)
    offset = None if a.log_prior is None else a.log_prior.to(z.dtype) * a.tau
    labels, inside = _columns(a.labels, z)
    y_is_z = offset is None and a.margins is None
    best, top, total, own = z.new_empty(4, len(z))
    even, other = (None if one is None else z.new_empty(len(z)) for one in (a.even, a.others))
    prediction = torch.empty_like(a.labels)
    for part in _blocks(z):
        y = z[part].mul_(columns)
        if rows_scale is not None:
            y.mul_(rows_scale[part])
        if a.bias is not None:
            y.add_(a.bias)
        torch.max(y, dim=1, out=(best[part], prediction[part]))
        if offset is not None:
            y.add_(offset)
        if a.margins is not None:
            _subtract(y, labels[part], torch.where(inside[part], a.margins[labels[part]].to(y.dtype), 0.0))
        if y_is_z:
            top[part] = best[part]
        else:
            torch.amax(y, dim=1, out=top[part])
        own[part] = _at(y, labels[part], inside[part])
        if a.others is not None and other is not None:
            other[part] = _at(y, *_columns(a.others[part], y))
        if a.even is not None and even is not None:
            even[part] = y @ a.even.to(y.dtype)
        lowest = torch.where(top[part] == -torch.inf, 0.0, top[part])
        torch.sum(y.sub_(lowest[:, None]).exp_(), dim=1, out=total[part])
    return RowStatistics(best, prediction, top, total, own, z, even, other)


def shard_gradients(
    a: ShardArguments, exponentials: torch.Tensor, share: torch.Tensor, d: RowGradients, need_features: bool
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """(d_features [B, D] where it is needed, d_weight [C, D], d_bias [C] or None); ``exponentials`` are used up.

    d_features is this process's part of the sum over all, and holds what ``features_gradient`` takes out of that sum.

    Args:
        a: as ``row_statistics`` had them.
        exponentials: its [B, C].
        share: exp(top - lse), [B]: what makes a probability of an exponential.
        d: the gradients of the rows' losses.
    """
    f, w = _operands(a)
    columns, rows_scale = _column_scale(a), _row_scale(a, f)
    labels, inside = _columns(a.labels, exponentials)
    unit = d.lse.abs().amax().clamp_min(torch.finfo(d.lse.dtype).tiny) if f.dtype == torch.float16 else None
    if unit is not None:  # whatever multiplies the loss, the gradient of the logits fits into fp16
        d = RowGradients(*[None if one is None else one / unit for one in d])  # type: ignore[arg-type]
    q, d_bias = exponentials, None if a.bias is None else torch.zeros_like(a.bias)
    for part in _blocks(q):
        some = d.of(part)
        d_y = q[part].mul_((share[part] * some.lse)[:, None])
        _subtract(d_y, labels[part], torch.where(inside[part], some.own, 0.0))
        if a.others is not None and some.other is not None:
            others, are_inside = _columns(a.others[part], d_y)
            _subtract(d_y, others, torch.where(are_inside, some.other, 0.0))
        if a.even is not None and some.even is not None:
            d_y.sub_(some.even[:, None] * a.even.to(d_y.dtype))
        if d_bias is not None:
            d_bias += d_y.sum(0)
        d_y.mul_(columns)
        if rows_scale is not None:
            d_y.mul_(rows_scale[part])
    q = q.to(f.dtype)
    d_features, d_weight = _product(q, w) if need_features else None, _product(q.T, f)
    if d_features is not None and a.normalize == "both" and rows_scale is None:
        d_features *= inverse_norm(a.features.to(f.dtype))
    if a.normalize != "none":
        off_direction(d_weight, a.weight, inverse_norm(a.weight).square_())
    if unit is not None:
        for gradient in (d_features, d_weight, d_bias):
            if gradient is not None:
                gradient *= unit
    return d_features, d_weight, d_bias


def features_gradient(d_features: torch.Tensor, features: torch.Tensor, normalize: Normalize) -> torch.Tensor:
    """The gradient of some rows of features [b, D] from the sum of all processes' ``d_features`` [b, D]; in place."""
    if normalize == "both":
        f = features.to(d_features.dtype)
        off_direction(d_features, f, inverse_norm(f).square_())
    return d_features


def _is_low(a: ShardArguments) -> bool:
    """Whether products take 16 bits: as the unshared op, on GPUs alone."""
    return a.features.is_cuda and a.features.itemsize == 2


def _operands(a: ShardArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """What is multiplied: f' and the weight as it is, in the weight's dtype, or both as they are in 16 bits."""
    if _is_low(a):
        return a.features, a.weight.to(a.features.dtype)
    f = a.features.to(a.weight.dtype)
    return f * inverse_norm(f) if a.normalize == "both" else f, a.weight


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b if a.dtype == torch.float64 else product(a, b)


def _row_scale(a: ShardArguments, f: torch.Tensor) -> torch.Tensor | None:
    """What the products lack of the features' length [B, 1]."""
    return inverse_norm(f.float()) if _is_low(a) and a.normalize == "both" else None


def _column_scale(a: ShardArguments) -> torch.Tensor:
    """scale / |w| [C], or the scale."""
    if a.normalize == "none":
        return a.weight.new_full((), a.scale)
    return inverse_norm(a.weight)[:, 0].mul_(a.scale)


def _columns(labels: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels as columns of ``y`` [B, C], and which of them are such."""
    last = y.shape[1] - 1
    return labels.clamp(0, last), (labels >= 0) & (labels <= last)


def _at(y: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """One of the ``columns`` of each row of ``y``, and 0 where the column is another process's."""
    return torch.where(inside, y.gather(1, columns[:, None])[:, 0], 0.0)


def _subtract(y: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> None:
    """In place: ``values`` [R] out of one of the ``columns`` (int64 [R]) of each row of ``y``."""
    columns = columns[:, None]
    y.scatter_(1, columns, y.gather(1, columns) - values[:, None])


def _blocks(z: torch.Tensor) -> list[slice]:
    """Rows that are passed over together: on a GPU all."""
    rows = len(z) if z.is_cuda else max(1, BLOCK_FLOATS // z.shape[1])
    return [slice(start, start + rows) for start in range(0, len(z), max(rows, 1))]
