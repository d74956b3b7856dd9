"""Losses for long-tailed labels, a file for each formula: (logits [B, C], labels [B]) -> scalar.

A loss is an ``nn.Module``. Whatever it needs of the class counts is a buffer: it follows ``.to(device)`` and the state dict.
``on_features`` goes from features to the loss through a classifier, fused into one op where the loss is a (weighted, shifted)
softmax cross-entropy. ``_BUILDERS`` is the one list of losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fastlift.errors import UserError
from fastlift.settings import Acts, Between, Settings, one_of
from fastlift.settings.validate import Rule
from fastlift.training.losses.base import Counts as Counts
from fastlift.training.losses.base import Loss as Loss
from fastlift.training.losses.base import class_counts_tensor as class_counts_tensor
from fastlift.training.losses.focal import FocalLoss as FocalLoss
from fastlift.training.losses.lade import LADELoss as LADELoss
from fastlift.training.losses.ldam import LDAMLoss as LDAMLoss
from fastlift.training.losses.softmax import SoftmaxLoss as SoftmaxLoss
from fastlift.training.losses.softmax import adjusted, class_balanced, weighted

# How each loss is made of the class counts, float64 [C], and its own options, by keyword.
_BUILDERS: dict[str, Callable[..., Loss]] = {
    "CE": lambda counts, label_smoothing=0.0: SoftmaxLoss(label_smoothing=label_smoothing),
    "Focal": lambda counts, gamma=2.0: FocalLoss(gamma),
    "LDAM": LDAMLoss,
    "CB": class_balanced,
    "GRW": lambda counts, label_smoothing=0.0: weighted(counts.sum() / counts, label_smoothing),
    "BS": lambda counts, label_smoothing=0.0: adjusted(counts, label_smoothing=label_smoothing),
    "LA": adjusted,
    "LADE": LADELoss,
}
# Why a loss has no soft labels: those of the softmax cross-entropies, which are linear in the label, have them.
_OF_ONE_LABEL = {
    "Focal": "it weighs an image by the probability of its one label",
    "LDAM": "its margin is that of the one true class",
    "LADE": "it estimates each class from the images that have this label alone",
}


def build(name: str, class_counts: Counts, **options: Any) -> Loss:
    """A loss by name: (logits [B, C], labels int64 [B]) -> scalar of the logits' dtype.

    Args:
        name: as in ``fastlift train --loss``.
        class_counts: training images of each class, [C], positive numbers.
        options: the loss's own: ``tau`` (LA), ``gamma`` (Focal), ``margin`` and ``scale`` (LDAM), ``label_smoothing`` (CE, CB,
            GRW, BS, LA) ...

    Raises:
        UserError: an unknown name or option, an option out of range, or class counts that are not positive.
    """
    one_of("loss", name, _BUILDERS)
    counts = class_counts_tensor(class_counts)
    if why := _without_soft_labels(name, "label_smoothing" in options, "label_smoothing"):
        raise UserError(why)
    for option in options:
        one_of(f"option of the loss {name}", option, _options(name))
    return _BUILDERS[name](counts, **options)


def _options(loss: str) -> list[str]:
    return list(signature(_BUILDERS[loss]).parameters)[1:]


def _without_soft_labels(loss: str, is_asked: bool, setting: str) -> str | None:
    """Why ``setting``, which makes labels soft, cannot be with a loss where it ``is_asked`` for; None where it can."""
    if not is_asked or "label_smoothing" in _options(loss):
        return None
    reason = _OF_ONE_LABEL.get(loss, "it is made for one label an image")
    others = ", ".join(name for name in _BUILDERS if "label_smoothing" in _options(name))
    return f"{setting}: the loss {loss} has no soft labels ({reason}); use one of {others}"


if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(_BUILDERS)]
    """The choices of the flag: the names above, which a type checker cannot read."""


def _tau_is_of_logit_adjustment(loss: str, tau: float) -> str | None:
    if "tau" in _options(loss) or tau == 1.0:
        return None
    return f"tau is the strength of logit adjustment: the loss {loss} has none (use loss LA)"


def _smoothing_is_of_cross_entropies(loss: str, label_smoothing: float) -> str | None:
    return _without_soft_labels(loss, label_smoothing > 0, "label_smoothing")


def _mixing_is_of_cross_entropies(loss: str, mixup: float, cutmix: float) -> str | None:
    return _without_soft_labels(loss, mixup > 0 or cutmix > 0, "mixup" if mixup else "cutmix")


@dataclass(frozen=True)
class LossSettings(Settings):
    """Which loss a training minimises; errors as ``Settings``."""

    loss: LossName = "LA"
    """LA: cross-entropy of logits + tau * log prior (logit adjustment)."""
    tau: float = 1.0
    """Strength of the logit adjustment (LA only)."""
    label_smoothing: Annotated[
        float, Between(0, 1, "[)"), Acts("what training makes of labels (epochs 1 or more)", lambda epochs: epochs > 0)
    ] = 0.0
    """Give this share of every label to all classes alike (CE, CB, GRW, BS, LA); the prior's adjustment stays as it is."""
    RULES: ClassVar[tuple[Rule, ...]] = (
        _tau_is_of_logit_adjustment,
        _smoothing_is_of_cross_entropies,
        _mixing_is_of_cross_entropies,
    )

    def build(self, class_counts: Counts, scale: float = 25.0) -> Loss:
        """The loss of a training set with ``class_counts`` images of each class, [C], of any dtype; errors as ``build``.

        ``scale``, of LDAM's margins, is the model's setting of that name, whatever its classifier, as in the authors' programs.
        """
        known = self.values() | {"scale": scale}
        return build(self.loss, class_counts, **{name: known[name] for name in _options(self.loss) if name in known})
