"""Losses for long-tailed labels. Each is an ``nn.Module``: (logits [B, C], labels [B]) -> scalar.

Legend: n_c training images of class c, p = n / sum n, z logits, y label. Whatever a loss needs of the class counts is a
buffer: it follows ``.to(device)`` and the state dict. ``on_features`` goes from features to the loss through a
classifier, fused into one op where the loss is a (weighted, shifted) softmax cross-entropy.

Sources: focal (Lin et al. 2017), LDAM (Cao et al. 2019), class-balanced (Cui et al. 2019), GRW (Zhang et al. 2021),
balanced softmax (Ren et al. 2020), logit adjustment (Menon et al. 2021), LADE (Hong et al. 2021), as LIFT uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlift.errors import UserError
from fastlift.models.classifiers import Classifier
from fastlift.settings import Settings, one_of
from fastlift.training.distributed import World, gather
from fastlift_kernels import Impl

Counts = Sequence[int] | np.ndarray | Tensor


class Loss(nn.Module):
    """(logits [B, C], labels int64 [B]) -> scalar: a mean over the images.

    A batch may be made in parts, in one process after another and in several at once: its loss is the sum of those of the
    parts, each times its ``share``.
    """

    def on_features(
        self, classifier: Classifier, features: Tensor, labels: Tensor, impl: Impl | None = None
    ) -> tuple[Tensor, Tensor]:
        """features [B, D] -> (loss, predictions [B]); predictions are the argmax of the plain logits."""
        logits = classifier(features)
        return self(logits, labels), logits.detach().argmax(dim=1)

    def share(self, labels: Tensor, whole: Tensor) -> float | Tensor:
        """What a part with ``labels`` [B] counts in the mean over its whole batch, whose labels are ``whole`` [W]."""
        return len(labels) / len(whole)

    def join(self, world: World) -> None:
        """Learn which processes make parts of each batch at the same time; means over images need not know."""

    def without_images(self) -> None:
        """Take part where the other processes make a part of a batch and this one has none of it."""


class SoftmaxLoss(Loss):
    """Mean CE(z + tau log p, y), weighted by class: cross-entropy, CB, GRW, balanced softmax and logit adjustment.

    Args:
        log_prior: log p, [C], or None.
        tau: strength of the adjustment.
        class_weight: weight of each class, [C], or None; the mean is the weighted one.
    """

    log_prior: Tensor | None
    class_weight: Tensor | None

    def __init__(self, log_prior: Tensor | None = None, tau: float = 1.0, class_weight: Tensor | None = None) -> None:
        super().__init__()
        if not math.isfinite(tau):
            raise UserError(f"tau: expected a number, got {tau}")
        self.tau = tau
        self.register_buffer("log_prior", log_prior)
        self.register_buffer("class_weight", class_weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.log_prior is not None:
            logits = logits + self.tau * self.log_prior.to(logits.dtype)
        weight = None if self.class_weight is None else self.class_weight.to(logits.dtype)
        return F.cross_entropy(logits, labels, weight=weight)

    def on_features(
        self, classifier: Classifier, features: Tensor, labels: Tensor, impl: Impl | None = None
    ) -> tuple[Tensor, Tensor]:
        return classifier.cross_entropy(
            features, labels, log_prior=self.log_prior, tau=self.tau, class_weight=self.class_weight, impl=impl
        )

    def share(self, labels: Tensor, whole: Tensor) -> float | Tensor:
        if self.class_weight is None:
            return super().share(labels, whole)
        return self.class_weight[labels].sum() / self.class_weight[whole].sum()


class FocalLoss(Loss):
    """Mean (1 - q)^gamma * (-log q) with q = softmax(z)_y."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        _not_negative(gamma=gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - torch.exp(-cross_entropy)) ** self.gamma * cross_entropy).mean()


class LDAMLoss(Loss):
    """CE with the true logit lowered by scale * margin * (n_y / n_min)^(-1/4)."""

    margins: Tensor

    def __init__(self, class_counts: Tensor, margin: float = 0.5, scale: float = 25.0) -> None:
        super().__init__()
        _not_negative(margin=margin, scale=scale)
        self.scale, counts = scale, class_counts.float()
        self.register_buffer("margins", margin * (counts / counts.min()) ** -0.25)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        margins = self.scale * self.margins[labels][:, None].to(logits)
        return F.cross_entropy(logits - torch.zeros_like(logits).scatter(1, labels[:, None], margins), labels)


class LADELoss(Loss):
    """CE(z + log p, y) plus a Donsker-Varadhan estimate that pulls each class's logits towards a balanced posterior.

    With s = z - log p + log(1/C), for each class c: e_c = mean_{y=c} z_c - d_c - lambda d_c^2, d_c = log mean_i exp(s_ic);
    loss = CE - weight * sum_c p_c e_c.

    The means of e_c and d_c are over the images of all processes; for that each tells the others three numbers a class.
    """

    prior: Tensor

    def __init__(self, class_counts: Tensor, weight: float = 0.1, regularisation: float = 0.1) -> None:
        super().__init__()
        _not_negative(weight=weight, regularisation=regularisation)
        self.weight, self.regularisation = weight, regularisation
        counts = class_counts.float()
        self.register_buffer("prior", counts / counts.sum())
        self._world = World()

    def join(self, world: World) -> None:
        self._world = world

    def without_images(self) -> None:
        nothing = self.prior.new_zeros(3, len(self.prior))
        nothing[0] = -math.inf
        gather(nothing, self._world)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[1]
        prior = self.prior.to(logits)
        cross_entropy = F.cross_entropy(logits + prior.log(), labels)
        # Not by indexed sums, which on a GPU add in the order in which threads come by.
        is_own = labels[:, None] == torch.arange(classes, device=labels.device)  # [B, C]
        totals = torch.where(is_own, logits, 0.0).sum(dim=0)
        counts = is_own.sum(dim=0).to(logits)
        spread = logits - torch.log(prior + 1e-9) + math.log(1 / classes + 1e-9)
        spreads, totals, counts = self._of_all(torch.stack([torch.logsumexp(spread, dim=0), totals, counts]))
        divergence = spreads - counts.sum().log()
        estimate = totals / (counts + 1e-8) - divergence - self.regularisation * divergence**2
        return cross_entropy - self.weight * (prior * estimate).sum()

    def _of_all(self, mine: Tensor) -> Tensor:
        """log sum exp, sum and number of the own logits [3, C] over all processes, from this one's.

        Gradients flow to this process's logits alone. Its loss will be multiplied by its share of the images; what all share
        is not divided by the processes, so it enters with the inverse.
        """
        if self._world.size == 1:
            return mine
        each = gather(mine.detach(), self._world)  # [N, 3, C]
        inverse = each[:, 2].sum() / mine[2].detach().sum()
        each[self._world.rank] = mine.detach() + (mine - mine.detach()) * inverse
        return torch.stack([torch.logsumexp(each[:, 0], dim=0), each[:, 1].sum(dim=0), each[:, 2].sum(dim=0)])


def class_counts_tensor(class_counts: Counts) -> Tensor:
    """Class counts as a float64 tensor [C].

    Raises:
        UserError: what is not numbers, no class, more than one dimension, or a class without an image.
    """
    try:
        counts = torch.as_tensor(class_counts).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"class counts: expected one number a class, got {class_counts!r}") from error
    if counts.dim() != 1 or not len(counts):
        raise UserError(f"class counts: expected one number a class, got shape {list(counts.shape)}")
    if not counts.isfinite().all():
        raise UserError(f"class counts: expected finite numbers, got {counts[~counts.isfinite()][0].item()}")
    empty = (counts <= 0).nonzero()[:, 0].tolist()
    if empty:
        shown = ", ".join(map(str, empty[:10]))
        raise UserError(f"class counts: {len(empty)} of {len(counts)} classes have no image (first: {shown})")
    return counts


def _not_negative(**options: float) -> None:
    for name, value in options.items():
        if not value >= 0:
            raise UserError(f"{name}: expected 0 or more, got {value}")


def _log_prior(counts: Tensor) -> Tensor:
    return (counts / counts.sum()).log().float()


def _weighted(weight: Tensor) -> SoftmaxLoss:
    return SoftmaxLoss(class_weight=(weight / weight.mean()).float())


def _class_balanced(counts: Tensor, beta: float = 0.9999) -> SoftmaxLoss:
    if not 0 <= beta < 1:
        raise UserError(f"beta: expected a number in [0, 1), got {beta}")
    return _weighted((1 - beta) / (1 - beta**counts))


# How each loss is made of the class counts and its own options, by keyword: the one list of losses.
_BUILDERS: dict[str, Callable[..., Loss]] = {
    "CE": lambda counts: SoftmaxLoss(),
    "Focal": lambda counts, gamma=2.0: FocalLoss(gamma),
    "LDAM": LDAMLoss,
    "CB": _class_balanced,
    "GRW": lambda counts: _weighted(counts.sum() / counts),
    "BS": lambda counts: SoftmaxLoss(_log_prior(counts)),
    "LA": lambda counts, tau=1.0: SoftmaxLoss(_log_prior(counts), tau),
    "LADE": LADELoss,
}


def build(name: str, class_counts: Counts, **options: Any) -> Loss:
    """A loss by name, for training sets with ``class_counts`` images of each class.

    Options: ``tau`` (LA), ``gamma`` (Focal), ``beta`` (CB), ``margin`` and ``scale`` (LDAM), ``weight`` and
    ``regularisation`` (LADE).

    Raises:
        UserError: an unknown name or option, an option out of range, or class counts that are not positive.
    """
    builder = _BUILDERS[one_of("loss", name, _BUILDERS)]
    counts = class_counts_tensor(class_counts)
    accepted = list(signature(builder).parameters)[1:]
    for option in options:
        one_of(f"option of the loss {name}", option, accepted)
    return builder(counts, **options)


if TYPE_CHECKING:
    LossName = str
else:  # the choices of the flag are the names above, which a type checker cannot read
    LossName = Literal[tuple(_BUILDERS)]


def _tau_is_of_logit_adjustment(loss: str, tau: float) -> str | None:
    if loss == "LA" or tau == 1.0:
        return None
    return f"tau is the strength of logit adjustment: the loss {loss} has none (use loss LA)"


@dataclass(frozen=True)
class LossSettings(Settings):
    """Which loss."""

    loss: LossName = "LA"
    """LA: cross-entropy of logits + tau * log prior (logit adjustment)."""
    tau: float = 1.0
    """Strength of the logit adjustment (LA only)."""
    RULES: ClassVar = (_tau_is_of_logit_adjustment,)

    def build(self, class_counts: Counts, scale: float = 25.0) -> Loss:
        """The loss of a training set.

        Args:
            class_counts: training images of each class, [C].
            scale: of LDAM's margins: the model's setting of that name, whatever its classifier, as in the authors' programs.
        """
        options = {"tau": self.tau, "scale": scale}
        accepted = signature(_BUILDERS[self.loss]).parameters
        return build(self.loss, class_counts, **{name: options[name] for name in options if name in accepted})
