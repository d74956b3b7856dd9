"""Losses for long-tailed labels, a file for each formula: (logits [B, C], labels [B]) -> scalar.

A loss is an ``nn.Module``. Whatever it needs of the class counts is a buffer: it follows ``.to(device)`` and the state dict.
``on_features`` goes from features to the loss through a classifier, fused into one op where the loss is a (weighted, shifted)
softmax cross-entropy. ``_BUILDERS`` is the one list of losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fastlift.settings import Settings, one_of
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
    "CE": lambda counts: SoftmaxLoss(),
    "Focal": lambda counts, gamma=2.0: FocalLoss(gamma),
    "LDAM": LDAMLoss,
    "CB": class_balanced,
    "GRW": lambda counts: weighted(counts.sum() / counts),
    "BS": lambda counts: adjusted(counts),
    "LA": adjusted,
    "LADE": LADELoss,
}


def build(name: str, class_counts: Counts, **options: Any) -> Loss:
    """A loss by name: (logits [B, C], labels int64 [B]) -> scalar of the logits' dtype.

    Args:
        name: as in ``fastlift train --loss``.
        class_counts: training images of each class, [C], positive numbers.
        options: the loss's own: ``tau`` (LA), ``gamma`` (Focal), ``margin`` and ``scale`` (LDAM) ...

    Raises:
        UserError: an unknown name or option, an option out of range, or class counts that are not positive.
    """
    one_of("loss", name, _BUILDERS)
    counts = class_counts_tensor(class_counts)
    for option in options:
        one_of(f"option of the loss {name}", option, _options(name))
    return _BUILDERS[name](counts, **options)


def _options(loss: str) -> list[str]:
    return list(signature(_BUILDERS[loss]).parameters)[1:]


if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(_BUILDERS)]
    """The choices of the flag: the names above, which a type checker cannot read."""


def _tau_is_of_logit_adjustment(loss: str, tau: float) -> str | None:
    if "tau" in _options(loss) or tau == 1.0:
        return None
    return f"tau is the strength of logit adjustment: the loss {loss} has none (use loss LA)"


@dataclass(frozen=True)
class LossSettings(Settings):
    """Which loss a training minimises; errors as ``Settings``."""

    loss: LossName = "LA"
    """LA: cross-entropy of logits + tau * log prior (logit adjustment)."""
    tau: float = 1.0
    """Strength of the logit adjustment (LA only)."""
    RULES: ClassVar[tuple[Rule, ...]] = (_tau_is_of_logit_adjustment,)

    def build(self, class_counts: Counts, scale: float = 25.0) -> Loss:
        """The loss of a training set with ``class_counts`` images of each class, [C], of any dtype.

        ``scale``, of LDAM's margins, is the model's setting of that name, whatever its classifier, as in the authors' programs.
        """
        known = self.values() | {"scale": scale}
        return build(self.loss, class_counts, **{name: known[name] for name in _options(self.loss) if name in known})
