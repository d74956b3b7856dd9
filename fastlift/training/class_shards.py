"""The classifier and its loss split over the ranks by class: each rank holds, and trains, some rows of the weight.

In a step the ranks' features and labels are gathered, each computes the logits of its own classes for all of them, and the
softmax over all classes follows from three small all-reduces: the largest logits, the prediction, and the sums of
exponentials with the label's logit. Backward gathers the gradients of the losses, and adds up those of the features; a
rank's rows of the weight have all of their gradient at once, so nothing of the weight travels.

Legend: N ranks, C classes of which a rank has C_r, D width, b images of a rank, R the most that any rank has in this part.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.data.loading.mixed import Mixed
from fastlift.data.sampling.stream import share
from fastlift.errors import UserError
from fastlift.models.classifiers import CLASSIFIERS, Classifier, WeightClassifier
from fastlift.settings import Acts, May, Settings
from fastlift.settings.validate import Rule
from fastlift.training.distributed import (
    World,
    reduced,
    rows_from_first,
    sent_to_all,
    sent_to_first,
)
from fastlift.training.kept import parameter_of
from fastlift.training.split_losses import Constants, Part, SplitLosses, mean_of_images


def _has_a_weight(shard_classifier: bool, classifier: str) -> str | None:
    if not shard_classifier or classifier in CLASSIFIERS:
        return None
    return f"shard_classifier: the classifier {classifier} has no weight of its own to split over processes"


def _is_of_each_image(shard_classifier: bool, loss: str) -> str | None:
    if not shard_classifier or loss != "LADE":
        return None
    return (
        "shard_classifier: the loss LADE compares the logits of all images of a batch: choose another loss, such as LA"
    )


@dataclass(frozen=True)
class ShardSettings(Settings):
    """Whether the classifier is split over the processes of a run."""

    shard_classifier: Annotated[
        bool, Acts("what training splits over its processes (epochs 1 or more)", lambda epochs: epochs > 0), May.CHANGE
    ] = False
    """Split the classifier's weight, its gradient and momentum and the logits over the processes by class, for 100,000
    classes and more; nothing changes with one process, and checkpoints are the same."""
    RULES: ClassVar[tuple[Rule, ...]] = (_has_a_weight, _is_of_each_image)

    def rows(self, classes: int, world: World) -> range | None:
        """Of C ``classes``, those of this rank; None where nothing is split.

        Raises:
            UserError: fewer classes than ranks.
        """
        if not self.shard_classifier or world.size == 1:
            return None
        if classes < world.size:
            raise UserError(
                f"shard_classifier: {world.size} processes cannot split {classes} classes; start fewer processes"
            )
        return share(classes, world.rank, world.size)

    def build(self, classifier: Classifier, classes: int, world: World) -> Classifier:
        """The classifier as this rank trains it, of C ``classes``; errors as ``rows``.

        ``classifier`` is whole, or has this rank's rows alone.
        """
        if (mine := self.rows(classes, world)) is None:
            return classifier
        assert isinstance(classifier, WeightClassifier)
        if len(classifier.weight) == classes:
            for name, parameter in list(classifier.named_parameters()):
                own = parameter.detach()[mine.start : mine.stop].clone()
                classifier.register_parameter(name, nn.Parameter(own))
        return ShardedClassifier(classifier, classes, world)


class ShardedClassifier(Classifier):
    """A rank's rows [C_r, D] of the weight of C ``classes``, and of its bias: those of ``mine``, which gives them away.

    It gives losses and predictions over all classes, on all ranks at the same time; logits of all classes it has none.

    Attributes:
        rows: R of the next part of a batch, set before it on all ranks: they gather shares of one length.
    """

    def __init__(self, mine: WeightClassifier, classes: int, world: World) -> None:
        super().__init__()
        self.classes, self.world, self.rows = classes, world, 0
        self.normalize, self.scale = mine.normalize, mine.scale
        self.mine = self._rows(world.rank)
        self.first = self.mine.start
        for name, parameter in list(mine.named_parameters()):
            self.register_parameter(name, parameter)
            mine.register_parameter(name, None)
        self._flags: list[nn.Parameter] = []  # in a list it is none of this module's parameters
        self._kind = (mine,)  # what else it is, and what it becomes; in a tuple it is no submodule

    def _rows(self, rank: int) -> slice:
        mine = share(self.classes, rank, self.world.size)
        return slice(mine.start, mine.stop)

    @property
    def numbers(self) -> int:
        """How many train, over all ranks."""
        return sum(self.classes * own[0].numel() for own in self.parameters())

    def prepare(self, features: Tensor) -> Tensor:
        return self._kind[0].prepare(features)

    def set_weight(self, weight: Tensor) -> None:
        """Start from the rows of ``weight`` [C, D] that are this rank's. Raises: UserError, a weight of another shape."""
        expected = [self.classes, self.weight.shape[1]]
        if list(weight.shape) != expected:
            raise UserError(f"classifier weight: expected {expected}, got {list(weight.shape)}")
        super().set_weight(weight[self.mine])

    def take_rows_of_first(self, weight: Tensor | None) -> None:
        """Start from the rows of the first rank's ``weight`` [C, D]; other ranks have none. All ranks take part."""
        with torch.no_grad():
            rows_from_first(weight, self.weight, self._rows, self.world)

    def cut(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Of an unsplit model's state, or its optimiser's, what is this rank's; all else of it as it is.

        Raises:
            UserError: what belongs to a weight or bias, in another shape, in ``source``.
        """
        found = dict(state)
        for key in filter(self.holds_part_of, state):
            expected = [self.classes, *self.get_parameter(parameter_of(key).removeprefix("head.")).shape[1:]]
            if list(found[key].shape) != expected:
                raise UserError(f"{source}: {key} is {list(found[key].shape)}, expected {expected}")
            found[key] = found[key][self.mine]
        return found

    def holds_part_of(self, key: str) -> bool:
        """Whether what a state names ``key`` is split: weight or bias, or what is kept of each number of them."""
        mine = {f"head.{name}" for name, _ in self.named_parameters()}
        return not key.startswith("step.") and parameter_of(key) in mine

    def gathered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of ``cut``, on the first rank's CPU; what other ranks get has no rows of theirs. All ranks take part."""
        found: dict[str, Tensor | None] = dict(state)
        for name in filter(self.holds_part_of, state):
            found[name] = sent_to_first(state[name].detach(), self._rows, self.classes, self.world)
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def joined(self) -> WeightClassifier:
        """The unsplit classifier, on every rank. All ranks take part."""
        whole = copy.copy(self._kind[0])
        whole._parameters = dict(whole._parameters)
        for name, own in self.named_parameters():
            full = sent_to_all(own.detach(), self._rows, self.classes, self.world)
            whole.register_parameter(name, nn.Parameter(full))
        return whole

    def is_any(self, mine: bool) -> bool:
        """Whether it is so on any rank. All ranks take part."""
        return bool(reduced(torch.tensor(float(mine), device=self.weight.device), dist.ReduceOp.MAX, self.world))

    def summed(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those of ``parameters`` whose gradients are added up over the ranks, behind a number that travels with them."""
        own = {id(parameter) for parameter in self.parameters()}
        self._flags = [nn.Parameter(self.weight.new_zeros(1))]
        return [*self._flags, *(parameter for parameter in parameters if id(parameter) not in own)]

    def flag(self) -> None:
        """Before gradients are added up: where this rank's rows have one that is not finite, so will be a sum of all."""
        assert self._flags[0].grad is not None
        gradients = [own.grad for own in self.parameters() if own.grad is not None]
        finite = torch.nn.utils.get_total_norm(gradients, norm_type=torch.inf).isfinite()
        self._flags[0].grad.fill_(0.0).masked_fill_(~finite, torch.nan)

    def spoil(self) -> None:
        """Behind it: where any rank's was not finite, neither is this rank's gradient: all of them leave the step out."""
        assert self._flags[0].grad is not None
        for own in self.parameters():
            if own.grad is not None:
                own.grad.view(-1)[:1] += self._flags[0].grad

    def norm_with(self, norm: Tensor) -> Tensor:
        """Of a gradient of which ``norm`` is the norm of what all ranks have alike: with the rows of all. All ranks take part."""
        gradients = [own.grad for own in self.parameters() if own.grad is not None]
        mine = torch.nn.utils.get_total_norm(gradients).double().square()
        return (norm.double().square() + reduced(mine, dist.ReduceOp.SUM, self.world)).sqrt().to(norm.dtype)

    def forward(self, features: Tensor) -> Tensor:
        raise TypeError("a split classifier has no logits of all classes: join it first")

    def cross_entropies(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        log_prior: Tensor | None = None,
        tau: float = 1.0,
        margins: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """CE(z + tau log_prior - [c = label] margin, label) of this rank's images, and the argmax of z: [b] and int64 [b].

        Called by all ranks at once, as is the backward pass. ``features`` are [b, D] with b from 0 to ``rows``,
        ``labels`` int64 [b], ``log_prior`` and ``margins`` [C].
        """
        losses, predictions = self._losses(features, labels[:, None], Constants(log_prior, tau, margins))
        return losses[:, 0], predictions

    def _losses(self, features: Tensor, labels: Tensor, constants: Constants) -> tuple[Tensor, Tensor]:
        part = Part(self.world, self.classes, self.mine, self.rows, self.scale, self.normalize)
        losses, predictions = SplitLosses.apply(self.prepare(features), self.weight, self.bias, labels, constants, part)
        return losses, predictions

    def cross_entropy(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        log_prior: Tensor | None = None,
        tau: float = 1.0,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        mixed: Mixed | None = None,
        impl: kernels.Impl | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(weighted mean of this rank's losses, predictions): 0 where it has no image. With ``mixed`` the labels are those."""
        both = labels[:, None] if mixed is None else torch.stack([labels, mixed.other], dim=1)
        even = None
        if label_smoothing:
            even = features.new_ones(self.classes, dtype=self.weight.dtype) if class_weight is None else class_weight
            even = even / self.classes
        losses, predictions = self._losses(features, both, Constants(log_prior, tau, even=even))
        weight = None if class_weight is None else class_weight[both].to(losses.dtype)  # [b, L]
        of_labels = losses[:, : both.shape[1]] if weight is None else weight * losses[:, : both.shape[1]]
        each = of_labels[:, 0] if mixed is None else mixed.mean(*of_labels.unbind(dim=1))
        if even is not None:
            each = (1 - label_smoothing) * each + label_smoothing * losses[:, -1]
        if weight is None or not len(labels):
            return mean_of_images(each), predictions
        return each.sum() / (weight[:, 0] if mixed is None else mixed.mean(*weight.unbind(dim=1))).sum(), predictions
