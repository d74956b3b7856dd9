"""The bottleneck width that AdaptFormer, Adapter and LoRA share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from fastlift.models.tuners.base import Tuner, TunerContext, has_tuner
from fastlift.settings import MOST_SIZE, Acts, Between

_RANKED = Acts(
    "the bottleneck of tuners that have one (adaptformer, adapter, lora, lora_mlp)",
    lambda tuner: has_tuner(RankSettings, tuner),
)


@dataclass(frozen=True)
class RankSettings(Tuner):
    """Of tuners with a bottleneck."""

    rank: Annotated[int | None, Between(1, MOST_SIZE), _RANKED] = None
    """Bottleneck width (default: 2 ** max(0, floor(log2(C / (2 L)))) for C classes and L blocks)."""

    def bottleneck(self, context: TunerContext) -> int:
        """r."""
        return self.rank or adaptive_rank(context.classes, context.counted)

    def resolved(self, context: TunerContext) -> dict[str, Any]:
        return {"rank": self.bottleneck(context)}


def power_of_two(share: float) -> int:
    """The largest power of two that is not above ``share``, at least 1."""
    return 2 ** max(0, math.floor(math.log2(share)))


def adaptive_rank(classes: int, layers: int) -> int:
    """r = 2 ** max(0, floor(log2(C / (2 L)))) for C classes and L blocks (LIFT, section 4)."""
    return power_of_two(classes / (2 * layers))
