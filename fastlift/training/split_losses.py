"""The losses of a classifier that is split over the ranks by class, as one function: forward and backward with their collectives.

Legend: N ranks, C classes of which a rank has C_r, D width, b images of a rank, R the most that any rank has in this part,
L labels of an image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastlift.training.distributed import World, gather, reduced, scattered_sum
from fastlift_kernels.cosine_ce.arguments import Normalize
from fastlift_kernels.cosine_ce.shard import (
    RowGradients,
    ShardArguments,
    features_gradient,
    row_statistics,
    shard_gradients,
)

_PADDING = -1  # the label of rows that fill up a rank's share: no class


def mean_of_images(losses: Tensor) -> Tensor:
    """The mean of ``losses`` [b], and 0 of none, so that a rank without images has a backward pass too."""
    return losses.sum() / max(len(losses), 1)


class Constants(NamedTuple):
    """What no gradient flows to, of all classes: [C]."""

    log_prior: Tensor | None
    tau: float
    margins: Tensor | None = None
    even: Tensor | None = None  # what label smoothing gives each class

    def of(self, rows: slice) -> Constants:
        """Those of some classes."""
        prior, margins, even = (None if one is None else one[rows] for one in (self.log_prior, self.margins, self.even))
        return Constants(prior, self.tau, margins, even)


class Part(NamedTuple):
    """What of C ``classes`` is this rank's, and how many ``rows`` R each rank has in this part of a batch."""

    world: World
    classes: int
    mine: slice
    rows: int
    scale: float
    normalize: Normalize


class SplitLosses(torch.autograd.Function):
    """Of this rank's images over the classes of all ranks: losses [b, K], and predictions [b]; see the module.

    ``labels`` are int64 [b, L], L 1 or 2. The first columns are CE(y, label) of each; with ``even`` one more is sum_c even_c CE(y, c).
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        constants: Constants,
        own: Part,
    ) -> tuple[Tensor, Tensor]:
        world, mine = own.world, constants.of(own.mine)
        everyone = gather(_filled(features, own.rows, 0.0), world).flatten(0, 1)  # [N R, D]
        theirs = gather(_filled(labels, own.rows, _PADDING), world).flatten(0, 1)  # [N R, L]
        local, *others = (theirs - own.mine.start).unbind(
            dim=1
        )  # below 0, or too large, where the class is not among these
        a = ShardArguments(
            everyone,
            weight,
            local,
            mine.log_prior,
            bias,
            own.scale,
            mine.tau,
            own.normalize,
            mine.margins,
            mine.even,
            *others,
        )
        found = row_statistics(a)
        top, best = reduced(torch.stack([found.top, found.best]), dist.ReduceOp.MAX, world)
        # The first of the largest logits, as argmax gives it; where they are NaN, any class.
        candidate = torch.where(found.best == best, found.prediction + own.mine.start, own.classes - 1)
        predictions = reduced(candidate, dist.ReduceOp.MIN, world)
        lowest = torch.where(top == -torch.inf, 0.0, top)
        factor = (found.top - lowest).exp()
        sums = [found.total * factor, *(one for one in (found.own, found.other, found.even) if one is not None)]
        total, *of_labels = reduced(torch.stack(sums), dist.ReduceOp.SUM, world)
        even = [] if constants.even is None else [of_labels.pop()]
        # A small loss is not lost in the rounding of a large log sum exp.
        columns = [(lowest - label) + total.log() for label in of_labels]
        if constants.even is not None:
            ctx.even = constants.even.sum()
            columns.append(ctx.even * (lowest + total.log()) - even[0])
        ctx.a, ctx.own, ctx.exponentials, ctx.share = a, own, found.exponentials, factor / total
        ctx.save_for_backward(features)
        first = world.rank * own.rows
        predictions = predictions[first : first + len(labels)].clone()
        ctx.mark_non_differentiable(predictions)
        return torch.stack([column[first : first + len(labels)] for column in columns], dim=1), predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (features,), own = ctx.saved_tensors, ctx.own
        each = gather(_filled(d_losses, own.rows, 0.0), own.world).flatten(0, 1)  # [N R, K]
        of_label, *further = each.unbind(dim=1)
        even = None if ctx.a.even is None else further.pop()
        other = None if ctx.a.others is None else further.pop()
        of_all = of_label if other is None else of_label + other
        d = RowGradients(of_all if even is None else of_all + ctx.even * even, of_label, even, other)
        exponentials, ctx.exponentials = ctx.exponentials, None  # used up
        everyones, d_weight, d_bias = shard_gradients(ctx.a, exponentials, ctx.share, d, ctx.needs_input_grad[0])
        d_features = None
        if everyones is not None:
            d_features = scattered_sum(everyones, own.world)[: len(features)]
            d_features = features_gradient(d_features, features, own.normalize).to(features.dtype)
        return d_features, d_weight, d_bias, *[None] * 3


def _filled(tensor: Tensor, rows: int, value: float) -> Tensor:
    """``tensor`` [b, ...] with rows of ``value`` behind it: [rows, ...]."""
    missing = rows - len(tensor)
    return torch.cat([tensor, tensor.new_full((missing, *tensor.shape[1:]), value)]) if missing else tensor
